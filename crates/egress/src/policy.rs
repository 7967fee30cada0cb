//! Who may reach what: `[destination]` and `[access]` compiled into one decision.
//!
//! Denied is what no rule allows. A deny rule beats every allow rule, however much more specific that one is; among
//! destinations that have a host, the most specific one that allows gives the settings. Order in the document never matters.

use crate::{
    Caller, Decision, Destination, HostRule, Reason, RuleCounts, RuleOutcome, Target, Verdict,
    access_rule::AccessRule,
    destination_spec::DestinationSpec,
    host_index::{DestinationIndex, HostIndex},
    request_match::Request,
};
use portcullis_config::{Context, Path};
use portcullis_names::{CidrSet, ObjectName};
use portcullis_policy::{AccessAction, AccessSpec, AccessTarget};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::SystemTime,
};

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    pub caller: Caller<'a>,
    pub target: &'a Target,
    pub request: Request<'a>,
}

/// The compiled policy. Immutable; a reload makes a new one.
#[derive(Debug, Default)]
pub struct EgressPolicy {
    pub(crate) destinations: Vec<Arc<Destination>>,
    pub(crate) rules: Vec<AccessRule>,
    index: HostIndex,
    /// Of each destination, by its place.
    by_destination: Vec<RuleSet>,
    /// With `to = ["*"]`.
    everywhere: RuleSet,
    destination_places: HashMap<ObjectName, DestinationIndex>,
    rule_places: HashMap<ObjectName, usize>,
    denied: CidrSet,
}

/// Places in the list of rules, by action.
#[derive(Debug, Default, Clone)]
struct RuleSet {
    deny: Vec<usize>,
    allow: Vec<usize>,
    report: Vec<usize>,
}

impl RuleSet {
    fn of(&self, action: AccessAction) -> &[usize] {
        match action {
            // Refused when it is compiled; were it not, it would fail closed.
            AccessAction::Deny | AccessAction::Quarantine => &self.deny,
            AccessAction::Allow => &self.allow,
            AccessAction::Report => &self.report,
        }
    }

    fn insert(&mut self, rule: usize, action: AccessAction) {
        match action {
            AccessAction::Deny | AccessAction::Quarantine => self.deny.push(rule),
            AccessAction::Allow => self.allow.push(rule),
            AccessAction::Report => self.report.push(rule),
        }
    }
}

impl EgressPolicy {
    /// `credentials`: the names that `destination.*.credential` may say. `now` tells grants that are over already.
    pub fn compile(
        destinations: &BTreeMap<ObjectName, DestinationSpec>,
        access: &BTreeMap<ObjectName, AccessSpec>,
        credentials: &[&ObjectName],
        now: SystemTime,
        cx: &mut Context,
    ) -> Self {
        let mut policy = Self::default();
        let mut owners: HashMap<(HostRule, u16), &ObjectName> = HashMap::new();
        for (name, spec) in destinations {
            let at = Path::root().key("destination").key(name);
            let (destination, hosts) = Destination::compile(name, spec, &at, cx);
            if let Some(credential) = destination.credential.as_ref().filter(|name| !credentials.contains(name)) {
                let defined = credentials.iter().map(|name| name.as_str());
                cx.undefined(&at.key("credential"), "credential", credential.as_str(), defined);
            }
            let place = policy.destinations.len();
            for rule in hosts {
                for port in &destination.ports {
                    if let Some(other) = owners.insert((rule.clone(), *port), name).filter(|other| *other != name) {
                        let message = format!("{rule} with port {port} belongs to destination \"{other}\" already");
                        cx.error(&at.key("hosts"), message).help("a host and port have one destination");
                    }
                }
                policy.index.insert(&rule, place);
            }
            policy.destination_places.insert(name.clone(), place);
            policy.destinations.push(Arc::new(destination));
            policy.by_destination.push(RuleSet::default());
        }
        let mut denied = Vec::new();
        for (name, spec) in access {
            let at = Path::root().key("access").key(name);
            let rule = AccessRule::compile(name, spec, now, &at, cx);
            policy.attach(rule, spec, &mut denied, &at, cx);
        }
        policy.denied = CidrSet::new(&denied);
        policy
    }

    fn attach(
        &mut self,
        rule: AccessRule,
        spec: &AccessSpec,
        denied: &mut Vec<portcullis_names::Cidr>,
        at: &Path,
        cx: &mut Context,
    ) {
        let place = self.rules.len();
        if spec.to.is_empty() {
            cx.error(&at.key("to"), "an empty list is nowhere").help("write \"destination:NAME\"");
        }
        for (index, to) in spec.to.iter().enumerate() {
            let at = at.key("to").index(index);
            match AccessTarget::parse(to) {
                AccessTarget::Everything => {
                    if rule.action == AccessAction::Allow {
                        cx.error(&at, "everywhere cannot be allowed, only denied or reported")
                            .help("name the hosts in a [destination.NAME] and allow that");
                    }
                    self.everywhere.insert(place, rule.action);
                }
                AccessTarget::Destination(name) => match self.find(name) {
                    Some(destination) => self.attach_to(destination, place, &rule, &at, cx),
                    None => {
                        let defined = self.destinations.iter().map(|destination| destination.name.as_str());
                        cx.undefined(&at, "destination", name, defined);
                    }
                },
                AccessTarget::Addresses(range) => {
                    if rule.action != AccessAction::Deny
                        || spec.from != ["*"]
                        || spec.matches.is_some()
                        || spec.until.is_some()
                    {
                        cx.error(&at, "an address range is denied to everybody, always, or not at all").help(
                            "with action = \"deny\", from = [\"*\"] and nothing else; to allow one, name it in a destination's `hosts`",
                        );
                    }
                    denied.push(range);
                }
                // The sidecar's.
                AccessTarget::Service(_) => {}
                AccessTarget::Unknown => {
                    let message =
                        format!("`{to}` is nowhere: expected \"destination:NAME\", \"*\" or an address range");
                    cx.error(&at, message);
                }
            }
        }
        self.rule_places.insert(rule.name.clone(), place);
        self.rules.push(rule);
    }

    fn attach_to(&mut self, to: DestinationIndex, place: usize, rule: &AccessRule, at: &Path, cx: &mut Context) {
        let Some(destination) = self.destinations.get(to) else { return };
        if rule.is_about_requests() && !destination.sees_requests() {
            let message = format!("`match` needs requests, and those to \"{}\" pass unopened", destination.name);
            cx.error(at, message).help("say tls = \"originate\" there, or leave `match` out");
        }
        if let Some(set) = self.by_destination.get_mut(to) {
            set.insert(place, rule.action);
        }
    }

    fn find(&self, name: &str) -> Option<DestinationIndex> {
        self.destination_places.get(name).copied()
    }

    /// Keeps the counts of rules that had the same name before a reload.
    pub fn carry_over(&mut self, previous: &Self) {
        let before: HashMap<&ObjectName, &AccessRule> = previous.rules.iter().map(|rule| (&rule.name, rule)).collect();
        for rule in &mut self.rules {
            if let Some(previous) = before.get(&rule.name) {
                rule.carry_over(previous);
            }
        }
    }

    /// The ranges under a denying rule, for [`crate::AddressPolicy::new`].
    pub fn denied_addresses(&self) -> &CidrSet {
        &self.denied
    }

    pub fn destination(&self, name: &str) -> Option<&Arc<Destination>> {
        self.destinations.get(self.find(name)?)
    }

    /// Whether any rule asks which process of this machine calls: finding out costs more than a decision.
    pub fn asks_for_processes(&self) -> bool {
        self.rules.iter().any(AccessRule::is_about_processes)
    }

    /// Decides about one flow or request. Counts nothing; see [`Self::count`].
    pub fn decide(&self, facts: &Facts<'_>, now: SystemTime) -> Decision {
        self.decide_with(facts, now, &mut |_, _, _| {})
    }

    /// Counts a decision that was acted upon, under its rule.
    pub fn count(&self, decision: &Decision) {
        let place = decision.rule.as_ref().and_then(|name| self.rule_places.get(name));
        if let Some(rule) = place.and_then(|place| self.rules.get(*place)) {
            rule.count();
        }
    }

    /// Rules with what they decided so far.
    pub fn counts(&self) -> impl Iterator<Item = (&ObjectName, RuleCounts)> {
        self.rules.iter().map(|rule| (&rule.name, rule.counts()))
    }

    /// `see` is shown every rule that was judged, with the destination it was judged for.
    pub(crate) fn decide_with(
        &self,
        facts: &Facts<'_>,
        now: SystemTime,
        see: &mut dyn FnMut(&AccessRule, Option<&Destination>, RuleOutcome),
    ) -> Decision {
        let having = self.index.find(facts.target.host());
        let asked = facts.target.port();
        let ported = having
            .iter()
            .copied()
            .filter(|at| self.destinations.get(*at).is_some_and(|destination| destination.port_for(asked).is_some()));
        let places: Vec<DestinationIndex> = ported.collect();
        let mut judge = |at: Option<DestinationIndex>, action: AccessAction| {
            let set = at.map_or(Some(&self.everywhere), |at| self.by_destination.get(at));
            let destination = at.and_then(|at| self.destinations.get(at));
            let rules = set.into_iter().flat_map(move |set| set.of(action)).filter_map(|at| self.rules.get(*at));
            let judged: Vec<_> = rules.map(|rule| (rule, rule.judge(&facts.caller, facts.request, now))).collect();
            judged.iter().for_each(|(rule, outcome)| see(rule, destination.map(AsRef::as_ref), *outcome));
            judged
        };
        let everywhere = std::iter::once(None);
        let all = || places.iter().copied().map(Some).chain(everywhere.clone());

        for at in all() {
            // What cannot be judged is denied: a rule that denies one path must not be passed by hiding the path.
            let denied = judge(at, AccessAction::Deny).into_iter().find_map(|(rule, outcome)| match outcome {
                RuleOutcome::Applies => Some((rule, Reason::DeniedByRule)),
                RuleOutcome::RequestUnseen => Some((rule, Reason::RequestUnseen)),
                RuleOutcome::OtherCaller | RuleOutcome::Expired | RuleOutcome::OtherRequest => None,
            });
            if let Some((rule, reason)) = denied {
                let at = at.or(places.first().copied());
                return self.decision(Verdict::Deny(reason), Some(rule), at, facts);
            }
        }
        let mut refusal = match (having.is_empty(), places.is_empty()) {
            (true, _) => Reason::NoDestination,
            (false, true) => Reason::Port,
            (false, false) => Reason::Identity,
        };
        let mut refused_by = None;
        for at in places.iter().copied() {
            let judged = judge(Some(at), AccessAction::Allow);
            let applying = judged.iter().filter(|(_, outcome)| *outcome == RuleOutcome::Applies).map(|(rule, _)| *rule);
            // Without an end, or with the latest one.
            if let Some(rule) = applying.max_by_key(|rule| (rule.until.is_none(), rule.until)) {
                return self.decision(Verdict::Allow, Some(rule), Some(at), facts);
            }
            for (rule, outcome) in judged {
                if let Some(nearer) = nearer(refusal, outcome) {
                    (refusal, refused_by) = (nearer, Some(rule));
                }
            }
        }
        for at in all() {
            let judged = judge(at, AccessAction::Report);
            if let Some((rule, _)) = judged.into_iter().find(|(_, outcome)| *outcome == RuleOutcome::Applies) {
                let at = at.or(places.first().copied());
                return self.decision(Verdict::Report(refusal), Some(rule), at, facts);
            }
        }
        self.decision(Verdict::Deny(refusal), refused_by, places.first().copied(), facts)
    }

    fn decision(
        &self,
        verdict: Verdict,
        rule: Option<&AccessRule>,
        destination: Option<DestinationIndex>,
        facts: &Facts<'_>,
    ) -> Decision {
        Decision {
            verdict,
            rule: rule.map(|rule| rule.name.clone()),
            why: rule.and_then(|rule| rule.why.clone()),
            destination: destination.and_then(|at| self.destinations.get(at)).cloned(),
            grant_end: rule.filter(|_| !matches!(verdict, Verdict::Deny(_))).and_then(|rule| rule.until),
            target: facts.target.clone(),
        }
    }
}

/// The reason that tells a caller most, of the one so far and what one more rule says: how near it came to being allowed.
fn nearer(so_far: Reason, outcome: RuleOutcome) -> Option<Reason> {
    let rank = |reason| match reason {
        Reason::Expired => 3,
        Reason::RequestNotAllowed => 2,
        Reason::RequestUnseen => 1,
        _ => 0,
    };
    let reason = match outcome {
        RuleOutcome::Expired => Reason::Expired,
        RuleOutcome::OtherRequest => Reason::RequestNotAllowed,
        RuleOutcome::RequestUnseen => Reason::RequestUnseen,
        RuleOutcome::OtherCaller | RuleOutcome::Applies => return None,
    };
    (rank(reason) > rank(so_far)).then_some(reason)
}

#[cfg(test)]
mod tests;
