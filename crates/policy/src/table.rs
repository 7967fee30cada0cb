//! The compiled routes and the search through them.
//!
//! Precedence, whatever the order in the files (Gateway API `HTTPRoute`): the most specific host that has a matching rule;
//! then an exact path, the longest segment prefix, a regex, and last what takes every path (`/`, or no path at all);
//! then a method, more headers, more query parameters, more cookies, a source, an identity, a country, more claims; then the higher `priority`.
//! What is still equal is an error when the table is compiled.

use crate::{
    CarriedGuards, GeoSpec, KnownGuards, Level, ListenerId, Outward, Plan, RequestView, RouteSpec, SecurityHeaders,
    UpstreamId,
    matcher::{Conditions, MatchSpec, PathMatch},
    rule_builder::compile_route,
};
use portcullis_config::{Context, Path};
use portcullis_names::{HostPattern, ObjectName};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    time::Duration,
};

/// All rules of a snapshot.
#[derive(Debug, Default)]
pub struct RouteTable {
    rules: Vec<Rule>,
    /// Of external destinations; their indices follow those of the rules.
    outward: Vec<Plan>,
    by_destination: HashMap<ObjectName, usize>,
    exact: HashMap<String, HostRules>,
    /// By suffix without `*.`.
    wildcard: HashMap<String, HostRules>,
    any: HostRules,
    carried: CarriedGuards,
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
    pub(crate) path: Option<PathMatch>,
    pub(crate) conditions: Conditions,
    pub(crate) listeners: Option<Vec<ListenerId>>,
    pub(crate) priority: i32,
    pub(crate) matches: MatchSpec,
    pub(crate) at: Path,
}

/// What the names in routes stand for.
#[derive(Debug)]
pub struct Known<'k> {
    /// Listeners that speak HTTP.
    pub listeners: &'k BTreeMap<String, ListenerId>,
    pub upstreams: &'k BTreeMap<String, UpstreamId>,
    /// What conditions on places stand on; whether it can be read is its own error.
    pub geo: Option<&'k GeoSpec>,
    pub guards: KnownGuards<'k>,
    /// What `[defaults]` demands of every request.
    pub demanded: &'k Level,
}

/// What routes take when they say nothing.
#[derive(Debug, Clone, Copy)]
pub struct RouteDefaults {
    pub timeout: Duration,
    pub security_headers: SecurityHeaders,
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
            table.carried.keep(&rule.plan.guards);
        }
        table.index();
        table.check_conflicts(cx);
        table
    }

    /// With plans for requests that go out to these destinations.
    pub fn with_outward(mut self, destinations: &[Outward<'_>], known: KnownGuards<'_>, cx: &mut Context) -> Self {
        for outward in destinations {
            let index = self.rules.len() + self.outward.len();
            self.outward.push(outward.compile(known, index, cx));
            self.by_destination.insert(outward.destination.clone(), index);
        }
        self
    }

    /// The plan of an external destination whose requests are seen.
    pub fn outward(&self, destination: &ObjectName) -> Option<&Plan> {
        self.plan(*self.by_destination.get(destination)?)
    }

    /// The rule that takes the request.
    pub fn find(&self, request: &impl RequestView) -> Lookup<'_> {
        self.search(request, &mut |_, _| {})
    }

    pub fn plans(&self) -> impl Iterator<Item = &Plan> {
        self.rules.iter().map(|rule| &rule.plan).chain(&self.outward)
    }

    /// What the next table goes on from.
    pub fn carried(&self) -> &CarriedGuards {
        &self.carried
    }

    pub fn plan(&self, index: usize) -> Option<&Plan> {
        match index.checked_sub(self.rules.len()) {
            None => self.rules.get(index).map(|rule| &rule.plan),
            Some(index) => self.outward.get(index),
        }
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

    fn rank(&self) -> ([usize; 8], i32) {
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
        let claims = a.claims.iter().any(|(name, value)| b.claims.get(name).is_some_and(|other| differ(value, other)));
        methods || headers || query || cookies || claims
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
