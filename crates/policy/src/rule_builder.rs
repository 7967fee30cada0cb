//! From `[route.X]` and its rules to what the table searches.

use crate::{
    Coding, Guard, Level, ListenerId, Plan, RouteSpec, UpstreamId,
    matcher::{MatchSpec, PathMatch, PathSpec},
    plan::{Action, Mirror, PathRewrite, Rewrite, Split},
    spec::{RewriteSpec, RuleSpec},
    table::{Known, RouteDefaults, Rule},
};
use portcullis_config::{Context, Path};
use portcullis_names::{HostPattern, ObjectName, TimeSpan};
use std::collections::BTreeMap;

pub(crate) fn compile_route(
    name: &ObjectName,
    route: &RouteSpec,
    at: &Path,
    known: &Known<'_>,
    defaults: RouteDefaults,
    cx: &mut Context,
    rules: &mut Vec<Rule>,
) {
    let listeners = compile_listeners(route, at, known, cx);
    let own = RuleSpec {
        matches: route.matches.clone(),
        path: route.path.clone(),
        priority: route.priority,
        upstream: route.upstream.clone(),
        split: route.split.clone(),
        redirect: route.redirect.clone(),
        respond: route.respond.clone(),
        rewrite: route.rewrite.clone(),
        request_headers: route.request_headers.clone(),
        response_headers: route.response_headers.clone(),
        mirror: route.mirror.clone(),
        timeout: route.timeout,
        retry: route.retry.clone(),
        fault: route.fault.clone(),
        cors: route.cors.clone(),
        compress: route.compress.clone(),
        security_headers: route.security_headers,
        ..RuleSpec::default()
    };
    let level = route.guards().compile(name.as_str(), known.demanded, known.guards, at, cx);
    let mut builder = RuleBuilder { route: name, hosts: &route.hosts, listeners, known, defaults, level, cx };
    if own.has_action() {
        rules.extend(builder.build(None, &own, None, at, at));
    } else if route.rule.is_empty() {
        builder
            .cx
            .error_at_key(at, format!("route \"{name}\" does nothing"))
            .help("give it `upstream`, `split`, `redirect` or `respond`, or rules");
    }
    for (rule_name, rule) in &route.rule {
        let here = at.key("rule").key(rule_name);
        rules.extend(builder.build(Some(rule_name), rule, Some(&own), &here, at));
    }
}

fn compile_listeners(route: &RouteSpec, at: &Path, known: &Known<'_>, cx: &mut Context) -> Option<Vec<ListenerId>> {
    let names = route.listeners.as_ref()?;
    let mut ids = Vec::new();
    for (index, name) in names.iter().enumerate() {
        match known.listeners.get(name) {
            Some(id) => ids.push(*id),
            None => cx.undefined(
                &at.key("listeners").index(index),
                "http listener",
                name,
                known.listeners.keys().map(String::as_str),
            ),
        }
    }
    Some(ids)
}

impl RuleSpec {
    fn has_action(&self) -> bool {
        self.upstream.is_some() || self.split.is_some() || self.redirect.is_some() || self.respond.is_some()
    }
}

struct RuleBuilder<'b, 'c> {
    route: &'b ObjectName,
    hosts: &'b [HostPattern],
    listeners: Option<Vec<ListenerId>>,
    known: &'b Known<'b>,
    defaults: RouteDefaults,
    /// What the route demands of all its rules.
    level: Level,
    cx: &'c mut Context,
}

impl RuleBuilder<'_, '_> {
    fn build(
        &mut self,
        name: Option<&ObjectName>,
        rule: &RuleSpec,
        route: Option<&RuleSpec>,
        at: &Path,
        route_at: &Path,
    ) -> Option<Rule> {
        let inherited = MatchSpec::default();
        let base = route.and_then(|route| route.matches.as_ref()).unwrap_or(&inherited);
        let matches = merge(rule.matches.as_ref(), base);
        let path_spec =
            self.path(rule, at).or_else(|| route.and_then(|route| route.path.clone().or(base.path.clone())));
        let path_at = if rule.path.is_some() { at.key("path") } else { at.key("match").key("path") };
        let path = match &path_spec {
            Some(spec) => Some(spec.compile(&path_at, self.cx)?),
            None => None,
        };
        let mut conditions = matches.compile(&at.key("match"), self.cx);
        let (actor, actor_at) = match route {
            Some(route) if !rule.has_action() => (route, route_at),
            _ => (rule, at),
        };
        let action = self.action(actor, actor_at)?;
        let pick = |own: bool| if own || route.is_none() { (rule, at) } else { (route.unwrap_or(rule), route_at) };
        let (edits, edits_at) = pick(rule.request_headers.is_some());
        let request_headers = edits
            .request_headers
            .as_ref()
            .map(|edits| edits.compile(&edits_at.key("request_headers"), self.cx))
            .unwrap_or_default();
        let (edits, edits_at) = pick(rule.response_headers.is_some());
        let response_headers = edits
            .response_headers
            .as_ref()
            .map(|edits| edits.compile(&edits_at.key("response_headers"), self.cx))
            .unwrap_or_default();
        let (rewriter, rewrite_at) = pick(rule.rewrite.is_some());
        let rewrite = match &rewriter.rewrite {
            Some(rewrite) => Some(self.rewrite(rewrite, path.as_ref(), &rewrite_at.key("rewrite"))?),
            None => None,
        };
        let (mirrorer, mirror_at) = pick(rule.mirror.is_some());
        let mirror = match &mirrorer.mirror {
            Some(mirror) => Some(Mirror {
                upstream: self.upstream(&mirror.upstream, &mirror_at.key("mirror").key("upstream"))?,
                percent: mirror.percent.unwrap_or(portcullis_names::Percent::ALL),
            }),
            None => None,
        };
        let timeout =
            rule.timeout.or(route.and_then(|route| route.timeout)).map_or(self.defaults.timeout, TimeSpan::get);
        if timeout.is_zero() {
            self.cx
                .error(&at.key("timeout"), "a timeout cannot be zero")
                .help("there is no way to switch it off: give a long time");
        }
        let (retrier, retry_at) = pick(rule.retry.is_some());
        let retry = retrier
            .retry
            .as_ref()
            .map(|retry| retry.compile(timeout, &retry_at.key("retry"), self.cx))
            .unwrap_or_default();
        let (faulty, fault_at) = pick(rule.fault.is_some());
        let fault = faulty.fault.as_ref().map(|fault| fault.compile(&fault_at.key("fault"), self.cx));
        let (shared, cors_at) = pick(rule.cors.is_some());
        let cors = shared.cors.as_ref().map(|cors| cors.compile(&cors_at.key("cors"), self.cx));
        let (compressed, compress_at) = pick(rule.compress.is_some());
        let compress = compressed.compress.clone().unwrap_or_default();
        check_codings(&compress, &compress_at.key("compress"), self.cx);
        let security_headers = rule
            .security_headers
            .or(route.and_then(|route| route.security_headers))
            .unwrap_or(self.defaults.security_headers);
        let preflight = cors.is_some().then_some(Guard::Preflight);
        let level = match name {
            None => self.level.clone(),
            Some(name) => {
                let owner = format!("{}/{name}", self.route);
                rule.guards().compile(&owner, &self.level, self.known.guards, at, self.cx)
            }
        };
        if !matches.country.is_empty() && self.known.geo.is_none() {
            self.cx
                .error(&at.key("match").key("country"), "nothing says where an address is")
                .help("add [geo] with `file`, a database in MaxMind's format");
        }
        matches.compile_claims(level.token_rule(), &mut conditions, &at.key("match"), self.cx);
        let guards = level.guards(preflight);
        let plan = Plan {
            index: 0,
            route: self.route.clone(),
            rule: name.cloned(),
            place: self.cx.place(at),
            guards,
            waf: level.waf().cloned(),
            privacy: level.privacy().clone(),
            api: level.api().clone(),
            action,
            rewrite,
            request_headers,
            response_headers,
            mirror,
            timeout,
            retry,
            fault: fault.unwrap_or_default(),
            cors,
            compress,
            security_headers,
        };
        Some(Rule {
            plan,
            hosts: self.hosts.to_vec(),
            path,
            conditions,
            listeners: self.listeners.clone(),
            priority: rule.priority.or(route.and_then(|route| route.priority)).unwrap_or(0),
            matches,
            at: at.clone(),
        })
    }

    fn path(&mut self, rule: &RuleSpec, at: &Path) -> Option<PathSpec> {
        let inner = rule.matches.as_ref().and_then(|matches| matches.path.clone());
        if rule.path.is_some() && inner.is_some() {
            self.cx.error(&at.key("path"), "the path is given twice").also(&at.key("match").key("path"), "and here");
        }
        rule.path.clone().or(inner)
    }

    fn action(&mut self, rule: &RuleSpec, at: &Path) -> Option<Action> {
        let given = [
            ("upstream", rule.upstream.is_some()),
            ("split", rule.split.is_some()),
            ("redirect", rule.redirect.is_some()),
            ("respond", rule.respond.is_some()),
        ];
        let mut named = given.iter().filter(|(_, given)| *given).map(|(key, _)| *key);
        let (first, second) = (named.next(), named.next());
        if let (Some(first), Some(second)) = (first, second) {
            self.cx
                .error(&at.key(second), format!("`{first}` and `{second}` exclude one another"))
                .also(&at.key(first), "the other one");
            return None;
        }
        if let Some(name) = &rule.upstream {
            let upstream = self.upstream(name, &at.key("upstream"))?;
            return Split::new(&[(upstream, 1)]).map(Action::Forward);
        }
        if let Some(split) = &rule.split {
            let here = at.key("split");
            let mut weights = Vec::new();
            let mut whole = true;
            for (name, weight) in split {
                match self.upstream(name.as_str(), &here.key(name)) {
                    Some(upstream) => weights.push((upstream, *weight)),
                    None => whole = false,
                }
            }
            let compiled = Split::new(&weights);
            if whole && compiled.is_none() {
                self.cx.error(&here, "the weights sum to zero: nobody would get a request");
            }
            return compiled.map(Action::Forward);
        }
        if let Some(redirect) = &rule.redirect {
            return redirect.compile(&at.key("redirect"), self.cx).map(Action::Redirect);
        }
        match &rule.respond {
            Some(respond) => respond.compile(&at.key("respond"), self.cx).map(Action::Respond),
            None => {
                self.cx
                    .error_at_key(at, "this rule does nothing")
                    .help("give it `upstream`, `split`, `redirect` or `respond`, here or on the route");
                None
            }
        }
    }

    fn upstream(&mut self, name: &str, at: &Path) -> Option<UpstreamId> {
        let found = self.known.upstreams.get(name).copied();
        if found.is_none() {
            self.cx.undefined(at, "upstream", name, self.known.upstreams.keys().map(String::as_str));
        }
        found
    }

    fn rewrite(&mut self, rewrite: &RewriteSpec, path: Option<&PathMatch>, at: &Path) -> Option<Rewrite> {
        for (key, text) in [("prefix", &rewrite.prefix), ("path", &rewrite.path)] {
            if text.as_ref().is_some_and(|text| crate::normalise_path(text).ok().as_deref() != Some(text)) {
                self.cx
                    .error(&at.key(key), "this is not a normalised path")
                    .help("a path begins with `/` and has no `..`, `//` or needless escapes");
                return None;
            }
        }
        let path = match (&rewrite.prefix, &rewrite.path, path) {
            (Some(_), Some(_), _) => {
                self.cx.error(&at.key("prefix"), "`prefix` and `path` exclude one another");
                return None;
            }
            (None, Some(whole), _) => Some(PathRewrite::Whole(whole.clone())),
            (Some(new), None, Some(PathMatch::Prefix(old) | PathMatch::Exact(old))) => {
                Some(PathRewrite::Prefix { old: old.clone(), new: new.clone() })
            }
            (Some(new), None, None) => Some(PathRewrite::Prefix { old: String::new(), new: new.clone() }),
            (Some(_), None, Some(PathMatch::Regex(_))) => {
                self.cx.error(&at.key("prefix"), "a prefix can only be replaced where a prefix is matched");
                return None;
            }
            (None, None, _) => None,
        };
        if matches!(rewrite.host, Some(HostPattern::Wildcard(_) | HostPattern::Any)) {
            self.cx.error(&at.key("host"), "a rewrite gives one host, not a pattern");
        }
        Some(Rewrite { path, host: rewrite.host.as_ref().map(ToString::to_string) })
    }
}

fn check_codings(codings: &[Coding], at: &Path, cx: &mut Context) {
    for (index, coding) in codings.iter().enumerate() {
        if codings.iter().take(index).any(|before| before == coding) {
            cx.error(&at.index(index), format!("`{}` is listed twice", coding.as_str()));
        }
    }
}

/// What a rule says itself wins, condition by condition; lists of the route are added to, never dropped.
fn merge(rule: Option<&MatchSpec>, route: &MatchSpec) -> MatchSpec {
    let Some(rule) = rule else { return MatchSpec { path: None, ..route.clone() } };
    let maps = |own: &BTreeMap<String, crate::ValueSpec>, base: &BTreeMap<String, crate::ValueSpec>| {
        let mut merged = base.clone();
        merged.extend(own.clone());
        merged
    };
    let mut headers = route.headers.clone();
    headers.extend(rule.headers.clone());
    MatchSpec {
        path: None,
        methods: if rule.methods.is_empty() { route.methods.clone() } else { rule.methods.clone() },
        headers,
        query: maps(&rule.query, &route.query),
        cookies: maps(&rule.cookies, &route.cookies),
        source: if rule.source.is_empty() { route.source.clone() } else { rule.source.clone() },
        country: if rule.country.is_empty() { route.country.clone() } else { rule.country.clone() },
        claims: maps(&rule.claims, &route.claims),
        identity: if rule.identity.is_empty() { route.identity.clone() } else { rule.identity.clone() },
    }
}
