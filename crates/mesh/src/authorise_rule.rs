//! One `[access.X]`, compiled, and what it says about a call.

use crate::{
    authorise::Peer,
    namespace::{GlobalName, is_name},
};
use portcullis_config::{Context, Path};
use portcullis_names::{ObjectName, SanPattern};
use portcullis_policy::{AccessAction, AccessMatchSpec, AccessSpec, AccessTarget, normalise_path};
use std::collections::{BTreeMap, BTreeSet};

/// What is known of a workload beside its identity: labels, scores. From a registry, never from the peer itself.
pub type Attributes = BTreeMap<String, String>;

/// What arrives.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// The workload's port.
    pub port: u16,
    pub request: Request<'a>,
}

/// What is seen of it.
#[derive(Debug, Clone, Copy)]
pub enum Request<'a> {
    /// A connection that is not looked into.
    Unseen,
    Seen {
        method: &'a str,
        /// As it came, with or without a query.
        path: &'a str,
        /// Of a token that was verified.
        claims: Option<&'a serde_json::Map<String, serde_json::Value>>,
    },
}

/// What a rule says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuleOutcome {
    Applies,
    OtherPeer,
    OtherAttributes,
    OtherCall,
    /// The rule is about requests, and this one cannot be seen or has no safe spelling.
    CannotTell,
}

#[derive(Debug, Clone)]
pub(crate) struct Rule {
    pub(crate) name: ObjectName,
    pub(crate) action: AccessAction,
    pub(crate) mode: RuleMode,
    from: Vec<From>,
    attributes: Vec<(String, Condition)>,
    methods: Vec<String>,
    path: Option<String>,
    ports: BTreeSet<u16>,
    claims: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RuleMode {
    Enforce,
    Report,
}

#[derive(Debug, Clone)]
enum From {
    Anybody,
    Service(GlobalName),
    Namespace(String),
    Id(SanPattern),
}

#[derive(Debug, Clone)]
enum Condition {
    Absent,
    Exactly(String),
    Prefix(String),
    /// From the lower to the upper bound; an end that is not in it is `excluded`.
    AtLeast(f64),
    MoreThan(f64),
    AtMost(f64),
    LessThan(f64),
}

impl Rule {
    /// `None`: it is about another service. `own` is this workload's.
    pub(crate) fn compile(
        name: &ObjectName,
        spec: &AccessSpec,
        own: &GlobalName,
        at: &Path,
        cx: &mut Context,
    ) -> Option<Self> {
        for key in spec.keys_of_destinations() {
            cx.error_at_key(
                &at.key(key),
                format!("`{key}` has an effect only on rules that are about destinations alone"),
            );
        }
        if spec.report == Some(true) && matches!(spec.action, AccessAction::Allow | AccessAction::Report) {
            cx.error(&at.key("report"), "what would be allowed is let through by action = \"report\" and counted")
                .help("`report` is for deny and quarantine");
        }
        let mut from = Vec::with_capacity(spec.from.len());
        for (index, text) in spec.from.iter().enumerate() {
            match From::parse(text, own) {
                Some(parsed) => from.push(parsed),
                None => {
                    cx.error(&at.key("from").index(index), format!("`{text}` is nobody")).help(
                        "\"service:cart\", \"namespace:acme.lab\", \"spiffe://corp/ns/pay/*\", or \"*\" for everybody",
                    );
                }
            }
        }
        for (key, list) in [("from", &spec.from), ("to", &spec.to)] {
            if list.is_empty() {
                cx.error(&at.key(key), "an empty list is about nobody").help("write \"*\" for all");
            }
        }
        let mut is_own = false;
        for (index, text) in spec.to.iter().enumerate() {
            let named = match AccessTarget::parse(text) {
                AccessTarget::Everything => Some(true),
                AccessTarget::Service(name) => service(name, own).map(|service| service == *own),
                // The way out's.
                AccessTarget::Destination(_) | AccessTarget::Addresses(_) => Some(false),
                AccessTarget::Unknown => None,
            };
            is_own |= named.unwrap_or(false);
            if named.is_none() {
                cx.error(&at.key("to").index(index), format!("`{text}` is no service"))
                    .help("\"service:payments\", \"service:payments.acme.lab\" or \"*\"");
            }
        }
        if spec.action == AccessAction::Quarantine && spec.matches.is_some() {
            cx.error(&at.key("match"), "quarantine is about a peer, whatever it calls")
                .help("use deny, or leave `match` out");
        }
        let attributes = spec.attributes.iter().flatten().filter_map(|(key, text)| {
            let condition = Condition::parse(text);
            if condition.is_none() {
                cx.error(&at.key("attributes").key(key), format!("`{text}` is no condition"))
                    .help("a text, a text with `*` at its end, \">=7.0\", \"<7\", or \"absent\"");
            }
            Some((key.clone(), condition?))
        });
        let attributes = attributes.collect();
        let none = AccessMatchSpec::default();
        let matches = spec.matches.as_ref().unwrap_or(&none);
        let path = matches.path.as_ref().and_then(|text| prefix(text, &at.key("match").key("path"), cx));
        Some(Self {
            name: name.clone(),
            action: spec.action,
            mode: if spec.report == Some(true) { RuleMode::Report } else { RuleMode::Enforce },
            from,
            attributes,
            methods: matches.methods.iter().flatten().map(|method| method.as_str().to_owned()).collect(),
            path,
            ports: matches.ports.iter().flatten().copied().collect(),
            claims: matches.claims.clone().unwrap_or_default(),
        })
        .filter(|_| is_own)
    }

    pub(crate) fn needs_claims(&self) -> bool {
        !self.claims.is_empty()
    }

    pub(crate) fn judge(&self, peer: &Peer<'_>, call: Call<'_>) -> RuleOutcome {
        if !self.from.iter().any(|from| from.takes(peer)) {
            return RuleOutcome::OtherPeer;
        }
        if !self.attributes.iter().all(|(key, condition)| condition.holds(peer.attributes.get(key))) {
            return RuleOutcome::OtherAttributes;
        }
        if !self.ports.is_empty() && !self.ports.contains(&call.port) {
            return RuleOutcome::OtherCall;
        }
        if self.methods.is_empty() && self.path.is_none() && self.claims.is_empty() {
            return RuleOutcome::Applies;
        }
        let Request::Seen { method, path, claims } = call.request else { return RuleOutcome::CannotTell };
        if !self.methods.is_empty() && !self.methods.iter().any(|have| have == method) {
            return RuleOutcome::OtherCall;
        }
        let holds = |(name, wanted): (&String, &String)| match claims.and_then(|claims| claims.get(name)) {
            Some(serde_json::Value::String(have)) => have == wanted,
            Some(serde_json::Value::Array(all)) => all.iter().any(|one| one.as_str() == Some(wanted)),
            Some(_) | None => false,
        };
        if !self.claims.iter().all(holds) {
            return RuleOutcome::OtherCall;
        }
        let Some(prefix) = &self.path else { return RuleOutcome::Applies };
        // The rule is about the place, whatever its spelling: `/./charge` and `/%63harge` are `/charge`.
        match normalise_path(path.split(['?', '#']).next().unwrap_or_default()) {
            Ok(path) => match path.strip_prefix(prefix.as_str()) {
                Some(rest) if rest.is_empty() || rest.starts_with('/') => RuleOutcome::Applies,
                Some(_) | None => RuleOutcome::OtherCall,
            },
            Err(_) => RuleOutcome::CannotTell,
        }
    }
}

impl From {
    fn parse(text: &str, own: &GlobalName) -> Option<Self> {
        if text == "*" {
            return Some(Self::Anybody);
        }
        if text.starts_with("spiffe://") {
            return text.parse().ok().map(Self::Id);
        }
        match text.split_once(':')? {
            ("service", name) => service(name, own).map(Self::Service),
            ("namespace", name) => is_name(name).then(|| Self::Namespace(name.to_owned())),
            _ => None,
        }
    }

    fn takes(&self, peer: &Peer<'_>) -> bool {
        let is_of = |namespace: &str| peer.namespace == Some(namespace);
        match self {
            Self::Anybody => true,
            Self::Namespace(namespace) => peer.id.is_some() && is_of(namespace),
            Self::Service(name) => {
                peer.id.and_then(|id| id.service()) == Some(name.service.as_str()) && is_of(&name.namespace)
            }
            Self::Id(pattern) => peer.id.is_some_and(|id| pattern.matches_uri(id.as_str())),
        }
    }
}

impl Condition {
    fn parse(text: &str) -> Option<Self> {
        let bound = |rest: &str| rest.trim().parse::<f64>().ok().filter(|bound| bound.is_finite());
        Some(match text {
            "" => return None,
            "absent" => Self::Absent,
            _ if text.starts_with(">=") => Self::AtLeast(bound(&text[2..])?),
            _ if text.starts_with("<=") => Self::AtMost(bound(&text[2..])?),
            _ if text.starts_with('>') => Self::MoreThan(bound(&text[1..])?),
            _ if text.starts_with('<') => Self::LessThan(bound(&text[1..])?),
            _ => match text.strip_suffix('*') {
                Some(start) if !start.contains('*') => Self::Prefix(start.to_owned()),
                None if !text.contains('*') => Self::Exactly(text.to_owned()),
                Some(_) | None => return None,
            },
        })
    }

    /// What is not known meets no condition but `absent`; what is no number, none of numbers.
    fn holds(&self, have: Option<&String>) -> bool {
        let number = || have.and_then(|text| text.parse::<f64>().ok());
        match self {
            Self::Absent => have.is_none(),
            Self::Exactly(wanted) => have == Some(wanted),
            Self::Prefix(start) => have.is_some_and(|have| have.starts_with(start.as_str())),
            Self::AtLeast(bound) => number().is_some_and(|have| have >= *bound),
            Self::MoreThan(bound) => number().is_some_and(|have| have > *bound),
            Self::AtMost(bound) => number().is_some_and(|have| have <= *bound),
            Self::LessThan(bound) => number().is_some_and(|have| have < *bound),
        }
    }
}

/// `cart` is of the own namespace.
fn service(name: &str, own: &GlobalName) -> Option<GlobalName> {
    let full = if name.contains('.') { name.to_owned() } else { format!("{name}.{}", own.namespace) };
    GlobalName::parse(&full).ok()
}

fn prefix(text: &str, at: &Path, cx: &mut Context) -> Option<String> {
    match normalise_path(text) {
        Ok(path) if path == text && !text.contains(['?', '*']) => Some(text.trim_end_matches('/').to_owned()),
        Ok(_) | Err(_) => {
            cx.error(at, format!("`{text}` is not a path prefix in its plain spelling"))
                .help("write whole segments, like \"/v1/charges\"");
            None
        }
    }
}
