//! The compiled routes and the search through them.
//!
//! Precedence, whatever the order in the files (Gateway API `HTTPRoute`): the most specific host that has a matching rule;
//! then an exact path, the longest segment prefix, a regex, and last what takes every path (`/`, or no path at all);
//! then a method, more headers, more query parameters, more cookies, a source, an identity; then the higher `priority`.
//! What is still equal is an error when the table is compiled.

use crate::{
    ListenerId, Plan, RequestView, RouteSpec, UpstreamId,
    matcher::{Conditions, MatchSpec, PathMatch, PathSpec},
    plan::{Action, Mirror, PathRewrite, Rewrite, Split},
    spec::{RewriteSpec, RuleSpec},
};
use portcullis_config::{Context, Path};
use portcullis_names::{HostPattern, ObjectName, TimeSpan};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    time::Duration,
};

/// All rules of a snapshot.
#[derive(Debug, Default)]
pub struct RouteTable {
    rules: Vec<Rule>,
    exact: HashMap<String, HostRules>,
    /// By suffix without `*.`.
    wildcard: HashMap<String, HostRules>,
    any: HostRules,
}

/// Rules of one host pattern by the kind of their path, each list in precedence.
#[derive(Debug, Default)]
struct HostRules {
    exact: HashMap<String, Vec<usize>>,
    prefix: HashMap<String, Vec<usize>>,
    regex: Vec<usize>,
    every: Vec<usize>,
}

#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) plan: Plan,
    pub(crate) hosts: Vec<HostPattern>,
    path: Option<PathMatch>,
    conditions: Conditions,
    listeners: Option<Vec<ListenerId>>,
    priority: i32,
    matches: MatchSpec,
    at: Path,
}

/// What the names in routes stand for.
#[derive(Debug)]
pub struct Known<'k> {
    /// Listeners that speak HTTP.
    pub listeners: &'k BTreeMap<String, ListenerId>,
    pub upstreams: &'k BTreeMap<String, UpstreamId>,
}

/// What routes take when they say nothing.
#[derive(Debug, Clone, Copy)]
pub struct RouteDefaults {
    pub timeout: Duration,
}

/// What came of a search.
#[derive(Debug)]
pub enum Lookup<'t> {
    Found(&'t Plan),
    /// Routes serve the host, but no rule takes the request.
    NoRule,
    NoHost,
}

impl RouteTable {
    /// Compiles all routes. Every problem goes to the report.
    pub fn compile(
        routes: &BTreeMap<ObjectName, RouteSpec>,
        known: &Known<'_>,
        defaults: RouteDefaults,
        cx: &mut Context,
    ) -> Self {
        let mut table = Self::default();
        for (name, route) in routes {
            let at = Path::root().key("route").key(name);
            compile_route(name, route, &at, known, defaults, cx, &mut table.rules);
        }
        for (index, rule) in table.rules.iter_mut().enumerate() {
            rule.plan.index = index;
        }
        table.index();
        table.check_conflicts(cx);
        table
    }

    /// The rule that takes the request.
    pub fn find(&self, request: &impl RequestView) -> Lookup<'_> {
        self.search(request, &mut |_, _| {})
    }

    pub fn plans(&self) -> impl Iterator<Item = &Plan> {
        self.rules.iter().map(|rule| &rule.plan)
    }

    pub fn plan(&self, index: usize) -> Option<&Plan> {
        self.rules.get(index).map(|rule| &rule.plan)
    }

    /// Hosts and listeners of every rule, for checks that need more than routes (certificates).
    pub fn served_hosts(&self) -> impl Iterator<Item = (&Plan, &[HostPattern], Option<&[ListenerId]>)> {
        self.rules.iter().map(|rule| (&rule.plan, rule.hosts.as_slice(), rule.listeners.as_deref()))
    }

    /// The search itself. `seen` is told of every rule that was considered, with the condition that failed, if any.
    pub(crate) fn search<'t>(
        &'t self,
        request: &impl RequestView,
        seen: &mut impl FnMut(&'t Rule, Option<&'static str>),
    ) -> Lookup<'t> {
        let host = request.host();
        let mut served = false;
        let mut levels =
            self.exact.get(host).into_iter().chain(suffixes(host).filter_map(|suffix| self.wildcard.get(suffix)));
        loop {
            let (level, last) = match levels.next() {
                Some(level) => (level, false),
                None => (&self.any, true),
            };
            served |= !last || !level.is_empty();
            if let Some(rule) = self.search_level(level, request, seen) {
                return Lookup::Found(&rule.plan);
            }
            if last {
                return if served { Lookup::NoRule } else { Lookup::NoHost };
            }
        }
    }

    fn search_level<'t>(
        &'t self,
        level: &'t HostRules,
        request: &impl RequestView,
        seen: &mut impl FnMut(&'t Rule, Option<&'static str>),
    ) -> Option<&'t Rule> {
        let path = request.path();
        if let Some(list) = level.exact.get(path)
            && let Some(rule) = self.first(list, request, seen)
        {
            return Some(rule);
        }
        if !level.prefix.is_empty() {
            for prefix in segment_prefixes(path) {
                if let Some(list) = level.prefix.get(prefix)
                    && let Some(rule) = self.first(list, request, seen)
                {
                    return Some(rule);
                }
            }
        }
        self.first(&level.regex, request, seen).or_else(|| self.first(&level.every, request, seen))
    }

    fn first<'t>(
        &'t self,
        list: &[usize],
        request: &impl RequestView,
        seen: &mut impl FnMut(&'t Rule, Option<&'static str>),
    ) -> Option<&'t Rule> {
        for index in list {
            let rule = self.rules.get(*index)?;
            let failing = rule.failing(request);
            seen(rule, failing);
            if failing.is_none() {
                return Some(rule);
            }
        }
        None
    }

    fn index(&mut self) {
        for (index, rule) in self.rules.iter().enumerate() {
            let any = [HostPattern::Any];
            let hosts: &[HostPattern] = if rule.hosts.is_empty() { &any } else { &rule.hosts };
            for host in hosts {
                let level = match host {
                    HostPattern::Exact(name) => self.exact.entry(name.clone()).or_default(),
                    HostPattern::Wildcard(suffix) => self.wildcard.entry(suffix.clone()).or_default(),
                    HostPattern::Any => &mut self.any,
                };
                level.add(index, rule);
            }
        }
        let rules = &self.rules;
        let levels = self.exact.values_mut().chain(self.wildcard.values_mut()).chain([&mut self.any]);
        for level in levels {
            for list in level.lists() {
                list.sort_by_key(|index| rules.get(*index).map(|rule| Reverse(rule.rank())));
            }
        }
    }

    /// Ties, and rules that another one always beats. Only rules with one and the same host and path can be either.
    fn check_conflicts(&mut self, cx: &mut Context) {
        let mut told = std::collections::HashSet::new();
        let levels = self.exact.values_mut().chain(self.wildcard.values_mut()).chain([&mut self.any]);
        for level in levels {
            for list in level.lists() {
                for (position, first) in list.iter().enumerate() {
                    for second in list.iter().skip(position + 1) {
                        let (Some(a), Some(b)) = (self.rules.get(*first), self.rules.get(*second)) else { continue };
                        let (a, b) = if a.at <= b.at { (a, b) } else { (b, a) };
                        if a.same_path(b) && a.shares_listener(b) && told.insert((a.at.clone(), b.at.clone())) {
                            conflict(a, b, cx);
                        }
                    }
                }
            }
        }
    }
}

fn conflict(a: &Rule, b: &Rule, cx: &mut Context) {
    let same_match = MatchSpec { path: None, ..a.matches.clone() } == MatchSpec { path: None, ..b.matches.clone() };
    if a.rank() == b.rank() && !a.disjoint(b) {
        cx.error_at_key(
            &b.at,
            format!("`{}` and `{}` are equally specific and can both take one request", a.plan.name(), b.plan.name()),
        )
        .also(&a.at, "the other one")
        .help("make one of them more specific, or give one a higher `priority`");
    } else if same_match && a.rank() != b.rank() {
        let (winner, loser) = if a.rank() > b.rank() { (a, b) } else { (b, a) };
        cx.error_at_key(
            &loser.at,
            format!("`{}` is unreachable: `{}` takes every request it could", loser.plan.name(), winner.plan.name()),
        )
        .also(&winner.at, "takes them by its higher `priority`");
    }
}

impl HostRules {
    fn add(&mut self, index: usize, rule: &Rule) {
        match &rule.path {
            Some(PathMatch::Exact(path)) => self.exact.entry(path.clone()).or_default().push(index),
            Some(PathMatch::Prefix(prefix)) if !prefix.is_empty() => {
                self.prefix.entry(prefix.clone()).or_default().push(index)
            }
            Some(PathMatch::Regex(_)) => self.regex.push(index),
            Some(PathMatch::Prefix(_)) | None => self.every.push(index),
        }
    }

    fn lists(&mut self) -> impl Iterator<Item = &mut Vec<usize>> {
        self.exact.values_mut().chain(self.prefix.values_mut()).chain([&mut self.regex, &mut self.every])
    }

    fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.prefix.is_empty() && self.regex.is_empty() && self.every.is_empty()
    }
}

impl Rule {
    fn failing(&self, request: &impl RequestView) -> Option<&'static str> {
        // Exact paths and prefixes were found by their text; a regex has to be run.
        if let Some(path @ PathMatch::Regex(_)) = &self.path
            && !path.matches(request.path())
        {
            return Some("path");
        }
        if self.listeners.as_ref().is_some_and(|listeners| !listeners.contains(&request.listener())) {
            return Some("listener");
        }
        self.conditions.failing(request)
    }

    fn rank(&self) -> ([usize; 6], i32) {
        (self.conditions.specificity(), self.priority)
    }

    fn same_path(&self, other: &Self) -> bool {
        match (&self.path, &other.path) {
            // Two different expressions may overlap; only equal ones surely do.
            (Some(PathMatch::Regex(a)), Some(PathMatch::Regex(b))) => a.as_str() == b.as_str(),
            _ => true,
        }
    }

    fn shares_listener(&self, other: &Self) -> bool {
        match (&self.listeners, &other.listeners) {
            (Some(a), Some(b)) => a.iter().any(|listener| b.contains(listener)),
            _ => true,
        }
    }

    /// No request can satisfy both.
    fn disjoint(&self, other: &Self) -> bool {
        let (a, b) = (&self.matches, &other.matches);
        let methods = !a.methods.is_empty()
            && !b.methods.is_empty()
            && !a.methods.iter().any(|method| b.methods.contains(method));
        let exact = |value: &crate::ValueSpec| match value {
            crate::ValueSpec::Exact(text) => Some(text.clone()),
            crate::ValueSpec::Regex(_) | crate::ValueSpec::Present(_) => None,
        };
        let differ =
            |x: &crate::ValueSpec, y: &crate::ValueSpec| matches!((exact(x), exact(y)), (Some(x), Some(y)) if x != y);
        let headers =
            a.headers.iter().any(|(name, value)| b.headers.get(name).is_some_and(|other| differ(value, other)));
        let query = a.query.iter().any(|(name, value)| b.query.get(name).is_some_and(|other| differ(value, other)));
        let cookies =
            a.cookies.iter().any(|(name, value)| b.cookies.get(name).is_some_and(|other| differ(value, other)));
        methods || headers || query || cookies
    }
}

/// `a.b.c` → `b.c`, `c`: longest first.
fn suffixes(host: &str) -> impl Iterator<Item = &str> {
    host.match_indices('.').filter_map(move |(at, _)| host.get(at + 1..))
}

/// `/a/b/c` → `/a/b/c`, `/a/b`, `/a`: longest first, whole segments.
fn segment_prefixes(path: &str) -> impl Iterator<Item = &str> {
    let whole = path.strip_suffix('/').unwrap_or(path);
    std::iter::successors((!whole.is_empty()).then_some(whole), |prefix| {
        let cut = prefix.rfind('/')?;
        prefix.get(..cut).filter(|shorter| !shorter.is_empty())
    })
}

fn compile_route(
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
    };
    let mut builder = RuleBuilder { route: name, hosts: &route.hosts, listeners, known, defaults, cx };
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
        let conditions = matches.compile(&at.key("match"), self.cx);
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
        let plan = Plan {
            index: 0,
            route: self.route.clone(),
            rule: name.cloned(),
            place: self.cx.place(at),
            action,
            rewrite,
            request_headers,
            response_headers,
            mirror,
            timeout,
            retry,
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
        identity: if rule.identity.is_empty() { route.identity.clone() } else { rule.identity.clone() },
    }
}
