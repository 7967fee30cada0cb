//! A compiled upstream, and the choice of an endpoint in it.

use crate::{
    Balance, CircuitBreaker, Connections, Endpoint, EndpointState, Gauge, HttpProtocol, NotPicked, Permit, Pick,
    Policy, ProxyProtocolVersion, StickySpec, Surroundings, Tried, UpstreamSpec, Volunteer, Wish,
    pick::VOLUNTEERS_COME,
    retry_budget::{RetryBudget, RetryLedger},
    sticky::StickyTokens,
    view::{Group, Sight, View},
};
use arc_swap::ArcSwap;
use portcullis_config::{Context, Path};
use portcullis_discover::{DnsSource, Found, Seek, Source};
use portcullis_health::{EjectReason, HealthCheck, HealthState, Outlier, TryOutcome};
use portcullis_names::{EndpointAddress, ObjectName, Percent, TimeSpan};
use portcullis_tls::{UpstreamTls, UpstreamTlsMode, UpstreamTlsSpec};
use std::{
    collections::{HashMap, HashSet},
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// Index of an upstream in its snapshot.
pub type ClusterId = usize;

/// One upstream, compiled.
#[derive(Debug)]
pub struct Cluster {
    pub name: ObjectName,
    /// Those that were listed, then those that were found.
    pub endpoints: Vec<Endpoint>,
    /// How many were listed.
    listed: usize,
    pub source: Option<Source>,
    pub protocol: HttpProtocol,
    pub tls: Option<UpstreamTls>,
    pub balance: Balance,
    pub sticky: Option<StickySpec>,
    tokens: StickyTokens,
    pub connect_timeout: Duration,
    pub read_timeout: Duration,
    pub write_timeout: Duration,
    pub idle_timeout: Duration,
    pub streams: u32,
    pub proxy_protocol: Option<ProxyProtocolVersion>,
    pub health_check: Option<HealthCheck>,
    pub outlier: Outlier,
    pub circuit_breaker: CircuitBreaker,
    pub retry_budget: RetryBudget,
    /// Whom to ask when nobody here can be.
    pub fallback: Option<ClusterId>,
    /// What is counted over all endpoints; survives reloads.
    pub load: Arc<ClusterLoad>,
    panic_threshold: Percent,
    zone: Option<String>,
    view: ArcSwap<View>,
}

/// What is under way towards one upstream, over all cores and snapshots.
#[derive(Debug)]
pub struct ClusterLoad {
    pub requests: Gauge,
    pub retries: Gauge,
    pub connections: Connections,
    pub pending: Gauge,
    ledger: RetryLedger,
    turn: AtomicUsize,
    /// Changes of any endpoint's health.
    epoch: Arc<AtomicU64>,
}

const ENDPOINTS_MAX: usize = 10_000;

impl Cluster {
    pub(crate) fn compile(
        name: &ObjectName,
        spec: &UpstreamSpec,
        around: Surroundings<'_>,
        at: &Path,
        cx: &mut Context,
    ) -> Self {
        let previous = around.previous.and_then(|previous| previous.find(name.as_str())).map(|(_, cluster)| cluster);
        let load = previous.map_or_else(|| Arc::new(ClusterLoad::new(around.now)), |previous| previous.load.clone());
        let tokens = StickyTokens::compile(name, spec.sticky.as_ref(), &at.key("sticky"), cx);
        let endpoints = endpoints(spec, &tokens, previous, &load, around.now, at, cx);
        let source =
            spec.discover.as_ref().and_then(|discover| discover.compile(around.resolvers, &at.key("discover"), cx));
        let tls = named_by_discovery(spec.tls.as_ref(), source.as_ref()).and_then(|tls| {
            UpstreamTls::compile(&tls, around.certificates, around.trusts, &at.key("tls"), cx).ok().flatten()
        });
        let protocol = spec.protocol.unwrap_or(HttpProtocol::H1);
        check_protocol(spec, protocol, tls.is_some(), at, cx);
        let made = around.made_tls.get(name);
        if made.is_some() && spec.tls.is_some() {
            cx.error_at_key(&at.key("tls"), "the mesh opens TLS to the upstream of a service")
                .help("leave `tls` out, or call the upstream without a [service.X]");
        }
        let tls = made.cloned().or(tls);
        let mut time = |key: &str, value: Option<TimeSpan>, default: Duration| {
            if value.is_some_and(TimeSpan::is_zero) {
                cx.error(&at.key(key), format!("{key} cannot be zero"))
                    .help("there is no way to switch it off: give a long time");
            }
            value.map_or(default, TimeSpan::get)
        };
        let minute = Duration::from_secs(60);
        let (connect_timeout, read_timeout) = (
            time("connect_timeout", spec.connect_timeout, around.connect_timeout),
            time("read_timeout", spec.read_timeout, minute),
        );
        let (write_timeout, idle_timeout) =
            (time("write_timeout", spec.write_timeout, minute), time("idle_timeout", spec.idle_timeout, minute));
        let check_at = at.key("health_check");
        let health_check = spec.health_check.as_ref().map(|check| {
            if spec.tls.is_none() {
                check.refuse_tls_keys(&check_at, cx);
            }
            check.compile(&check_at, cx)
        });
        let balance = spec.balance.clone().unwrap_or_default().compile(&endpoints, &at.key("balance"), cx);
        check_zones(spec, &balance, around.zone, at, cx);
        let mut outlier = spec.outlier.clone().unwrap_or_default().compile(&at.key("outlier"), cx);
        if spec.fallback.is_some() && spec.outlier.as_ref().is_none_or(|outlier| outlier.max_ejected.is_none()) {
            // An upstream that nobody is left in has somebody to take its place.
            outlier.max_ejected = Percent::ALL;
        }
        let breaker = spec.circuit_breaker.clone().unwrap_or_default();
        let circuit_breaker = breaker.compile(protocol, &at.key("circuit_breaker"), cx);
        let retry_budget = spec.retry_budget.clone().unwrap_or_default().compile(&at.key("retry_budget"), cx);
        Self {
            name: name.clone(),
            listed: endpoints.len(),
            endpoints,
            source,
            protocol,
            tls,
            balance,
            sticky: spec.sticky.clone(),
            tokens,
            connect_timeout,
            read_timeout,
            write_timeout,
            idle_timeout,
            streams: spec.streams.map_or(100, NonZeroU32::get),
            proxy_protocol: spec.proxy_protocol,
            health_check,
            outlier,
            circuit_breaker,
            retry_budget,
            fallback: None,
            load,
            panic_threshold: spec.panic_threshold.unwrap_or(Percent::from_whole(50)),
            zone: around.zone.map(str::to_owned),
            view: ArcSwap::from_pointee(View::unmade()),
        }
    }

    /// The same upstream with what discovery found just now. Endpoints that were there before, in `self` or in `previous`, go on
    /// with all that is known of them; a found address that is listed as well is the listed one.
    pub(crate) fn with_found(&self, found: &[Found], previous: Option<&Self>, now: Instant) -> Self {
        let before: HashMap<_, _> = (previous.into_iter().flat_map(|previous| &previous.endpoints))
            .chain(&self.endpoints)
            .map(|endpoint| (&endpoint.address, &endpoint.state))
            .collect();
        let mut endpoints: Vec<Endpoint> = self.endpoints.iter().take(self.listed).cloned().collect();
        let listed: HashSet<_> = self.endpoints.iter().take(self.listed).map(|endpoint| &endpoint.address).collect();
        for one in found.iter().filter(|one| !listed.contains(&one.address)) {
            let known = before.get(&one.address).map(|state| (*state).clone());
            endpoints.push(Endpoint {
                address: one.address.clone(),
                weight: one.weight,
                priority: one.priority,
                zone: one.zone.clone(),
                token: self.tokens.of(&one.address),
                state: known.unwrap_or_else(|| Arc::new(EndpointState::new(self.load.epoch.clone(), now))),
            });
        }
        Self {
            name: self.name.clone(),
            balance: self.balance.over(&endpoints),
            endpoints,
            listed: self.listed,
            source: self.source.clone(),
            protocol: self.protocol,
            tls: self.tls.clone(),
            sticky: self.sticky.clone(),
            tokens: self.tokens.clone(),
            connect_timeout: self.connect_timeout,
            read_timeout: self.read_timeout,
            write_timeout: self.write_timeout,
            idle_timeout: self.idle_timeout,
            streams: self.streams,
            proxy_protocol: self.proxy_protocol,
            health_check: self.health_check.clone(),
            outlier: self.outlier.clone(),
            circuit_breaker: self.circuit_breaker,
            retry_budget: self.retry_budget,
            fallback: self.fallback,
            load: self.load.clone(),
            panic_threshold: self.panic_threshold,
            zone: self.zone.clone(),
            view: ArcSwap::from_pointee(View::unmade()),
        }
    }

    pub(crate) fn has_found(&self, found: &[Found]) -> bool {
        let listed =
            |address: &EndpointAddress| self.endpoints.iter().take(self.listed).any(|own| own.address == *address);
        let expected = found.iter().filter(|one| !listed(&one.address));
        let own = self.endpoints.iter().skip(self.listed);
        own.map(|own| (&own.address, own.weight, own.priority, &own.zone))
            .eq(expected.map(|one| (&one.address, one.weight, one.priority, &one.zone)))
    }

    /// Chooses an endpoint that this request has not tried.
    pub fn pick(&self, wish: Wish, tried: &mut Tried) -> Result<Pick, NotPicked> {
        let permit = self.load.requests.enter(self.circuit_breaker.requests).ok_or(NotPicked::Overflow)?;
        let kept = self.kept(wish, tried);
        let view = self.view(wish.now);
        let mut busy = Tried::default();
        loop {
            let index = match kept {
                Some(index) => index,
                None => {
                    let chosen = self.choose(&view, wish, *tried, busy).ok_or(NotPicked::NoEndpoint)?;
                    self.steady(chosen, &view, wish, *tried)
                }
            };
            let state = self.endpoints.get(index).ok_or(NotPicked::NoEndpoint)?.state.clone();
            let trial = view.is_trial(index) && wish.may_try(&state) && state.begin_trial();
            // Somebody else finds out whether it is well again.
            let in_doubt = view.is_trial(index) && !trial;
            if in_doubt && kept.is_none() && !busy.has(index) && !busy.is_full() {
                busy.add(index);
                continue;
            }
            tried.add(index);
            state.active.fetch_add(1, Relaxed);
            state.requests.fetch_add(1, Relaxed);
            let set_cookie = (self.sticky.is_some() && kept.is_none())
                .then(|| self.endpoints.get(index).map(|endpoint| endpoint.token))
                .flatten();
            return Ok(Pick { index, state, set_cookie, trial: AtomicBool::new(trial), _permit: permit });
        }
    }

    /// Instead of an endpoint whose last try failed, one of the same level that is not in doubt, for a request that cannot
    /// be sent again. Keys of a consistent hash stay where they are: their endpoint knows them.
    fn steady(&self, chosen: usize, view: &View, wish: Wish, tried: Tried) -> usize {
        let doubted = |index: usize| {
            let endpoint = self.endpoints.get(index);
            endpoint.is_some_and(|endpoint| endpoint.state.failed_within(VOLUNTEERS_COME, wish.now))
        };
        if wish.volunteer == Volunteer::Yes || self.balance.policy == Policy::ConsistentHash || !doubted(chosen) {
            return chosen;
        }
        let mut draw = wish.draw;
        let takes = |index: usize| !tried.has(index) && !view.is_trial(index) && !doubted(index);
        let level = view.group(&mut draw).filter(|group| group.contains(chosen));
        level.and_then(|group| self.choose_in(group, wish, &mut draw, takes)).unwrap_or(chosen)
    }

    /// A first try: what retries are measured by.
    pub fn note_request(&self, now: Instant) {
        self.load.ledger.deposit(now);
    }

    /// Whether a request may be tried again; the permit is held as long as the retry runs.
    pub fn allow_retry(&self, now: Instant) -> Option<Permit> {
        let permit = self.load.retries.enter(self.circuit_breaker.retries)?;
        self.load.ledger.withdraw(self.retry_budget, now).then_some(permit)
    }

    /// Takes in how a try ended; says so when the endpoint is ejected for it.
    pub fn record(&self, pick: &Pick, outcome: TryOutcome, now: Instant) -> Option<EjectReason> {
        let broken = pick.state.record(outcome, &self.outlier, now);
        if pick.is_trial() {
            return self.judge_trial(pick, outcome, now);
        }
        let reason = broken?;
        self.eject(pick.index, reason, now).then_some(reason)
    }

    /// Ends the trial of an endpoint with what is known by now, and counts nothing: [`Cluster::record`] still follows. To be
    /// called when the head of an answer is there, because its end may be hours away: a stream, a download, a WebSocket.
    /// Nothing happens to a pick that is not on trial.
    pub fn judge_trial(&self, pick: &Pick, outcome: TryOutcome, now: Instant) -> Option<EjectReason> {
        if !pick.trial.swap(false, Relaxed) {
            return None;
        }
        let ejected = if outcome.is_good() {
            pick.state.readmit(now);
            None
        } else {
            pick.state.eject(EjectReason::Trial, &self.outlier, now).map(|_| EjectReason::Trial)
        };
        // After the verdict, so that nobody begins another trial before it.
        pick.state.end_trial();
        ejected
    }

    /// Ends an interval of outlier detection: compares the endpoints, and gives those that are ejected for it.
    pub fn judge_interval(&self, now: Instant) -> Vec<(usize, EjectReason)> {
        let sums: Vec<_> = self.endpoints.iter().map(|endpoint| endpoint.state.take_interval()).collect();
        let mut found = self.outlier.judge(&sums);
        found.retain(|(index, reason)| self.eject(*index, *reason, now));
        found
    }

    fn eject(&self, index: usize, reason: EjectReason, now: Instant) -> bool {
        let out = |endpoint: &&Endpoint| matches!(endpoint.state.state(now), HealthState::Ejected | HealthState::Trial);
        let known = self.endpoints.len() + usize::from(self.fallback.is_some());
        if self.endpoints.iter().filter(out).count() >= self.outlier.ejectable(known) {
            return false;
        }
        self.endpoints.get(index).is_some_and(|endpoint| endpoint.state.eject(reason, &self.outlier, now).is_some())
    }

    /// Whether anybody here may take a request, panic aside.
    pub fn is_serving(&self, now: Instant) -> bool {
        self.endpoints.iter().any(|endpoint| endpoint.weight > 0 && endpoint.state.state(now).is_usable())
    }

    /// The endpoint that the client's cookie names, if it may go on with it.
    fn kept(&self, wish: Wish, tried: &Tried) -> Option<usize> {
        let token = wish.sticky.filter(|_| self.sticky.is_some())?;
        let index = self.endpoints.iter().position(|endpoint| endpoint.token == token)?;
        let state = self.endpoints.get(index)?.state.state(wish.now);
        ((state.is_usable() || state == HealthState::Drained) && !tried.has(index)).then_some(index)
    }

    fn choose(&self, view: &View, wish: Wish, tried: Tried, busy: Tried) -> Option<usize> {
        let mut draw = wish.draw;
        let own = view.group(&mut draw)?;
        let takes = |index: usize| !tried.has(index) && !busy.has(index);
        self.choose_in(own, wish, &mut draw, takes)
            .or_else(|| view.all_groups().find_map(|group| self.choose_in(group, wish, &mut draw, takes)))
            // Rather a second request for one on trial than none at all.
            .or_else(|| {
                view.all_groups().find_map(|group| self.choose_in(group, wish, &mut draw, |index| !tried.has(index)))
            })
    }

    fn choose_in(&self, group: &Group, wish: Wish, draw: &mut u64, takes: impl Fn(usize) -> bool) -> Option<usize> {
        let active =
            |index: usize| self.endpoints.get(index).map_or(f64::MAX, |endpoint| f64::from(endpoint.state.active()));
        let weight = |index: usize| self.endpoints.get(index).map_or(1.0, |endpoint| f64::from(endpoint.weight.max(1)));
        match self.balance.policy {
            Policy::RoundRobin => group.in_turn(self.load.turn.fetch_add(1, Relaxed), takes),
            Policy::Random => group.drawn(draw, takes),
            Policy::LeastRequest => group.better_of_two(draw, takes, |index| active(index) / weight(index)),
            Policy::PeakEwma => group.better_of_two(draw, takes, |index| {
                let latency =
                    self.endpoints.get(index).map_or(0.0, |endpoint| f64::from(endpoint.state.latency.get(wish.now)));
                // Nothing known: the first request finds out, the next ones wait for what it finds.
                let latency = if latency == 0.0 && active(index) > 0.0 { UNKNOWN_MICROS } else { latency };
                latency * (active(index) + 1.0) / weight(index)
            }),
            Policy::ConsistentHash => {
                let hashed = wish.hash.zip(self.balance.table.as_ref()).and_then(|(hash, table)| {
                    let fits = |index: &usize| group.contains(*index) && takes(*index);
                    table.candidates(hash).filter(fits).find(|index| !self.is_overloaded(*index))
                });
                hashed.or_else(|| group.drawn(draw, takes))
            }
        }
    }

    /// Consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam 2016).
    fn is_overloaded(&self, index: usize) -> bool {
        let (Some(factor), Some(endpoint)) = (self.balance.load_factor, self.endpoints.get(index)) else {
            return false;
        };
        let total: f64 = self.endpoints.iter().map(|endpoint| f64::from(endpoint.weight)).sum();
        // This request is already counted in the upstream's load.
        let bound = (f64::from(self.load.requests.get()) * factor * f64::from(endpoint.weight) / total.max(1.0)).ceil();
        f64::from(endpoint.state.active()) + 1.0 > bound
    }

    fn view(&self, now: Instant) -> Arc<View> {
        let epoch = self.load.epoch.load(Relaxed);
        let view = self.view.load();
        if view.epoch == epoch && view.until.is_none_or(|until| now < until) {
            return view.clone();
        }
        let fresh = Arc::new(View::new(Sight {
            endpoints: &self.endpoints,
            balance: &self.balance,
            panic_threshold: self.panic_threshold.fraction(),
            zone: self.zone.as_deref(),
            epoch,
            now,
        }));
        self.view.store(fresh.clone());
        fresh
    }
}

/// What an endpoint's latency is taken for while its first answer is awaited.
const UNKNOWN_MICROS: f64 = 1_000_000.0;

impl ClusterLoad {
    /// Nothing under way; `now` becomes the origin of its time.
    pub fn new(now: Instant) -> Self {
        Self {
            requests: Gauge::default(),
            retries: Gauge::default(),
            connections: Connections::default(),
            pending: Gauge::default(),
            ledger: RetryLedger::new(now),
            turn: AtomicUsize::new(0),
            epoch: Arc::default(),
        }
    }
}

fn endpoints(
    spec: &UpstreamSpec,
    tokens: &StickyTokens,
    previous: Option<&Arc<Cluster>>,
    load: &ClusterLoad,
    now: Instant,
    at: &Path,
    cx: &mut Context,
) -> Vec<Endpoint> {
    let at = at.key("endpoints");
    if spec.endpoints.len() > ENDPOINTS_MAX {
        cx.error(&at, format!("more than {ENDPOINTS_MAX} endpoints"));
    }
    if !spec.endpoints.is_empty() && spec.endpoints.iter().all(|endpoint| endpoint.weight == 0) {
        cx.error(&at, "the weights sum to zero: nobody would get a request");
    }
    let before: HashMap<_, _> = previous
        .iter()
        .flat_map(|previous| &previous.endpoints)
        .map(|endpoint| (&endpoint.address, &endpoint.state))
        .collect();
    let mut seen = HashMap::new();
    let mut endpoints = Vec::with_capacity(spec.endpoints.len());
    for (index, endpoint) in spec.endpoints.iter().enumerate() {
        let here = at.index(index);
        if let Some(first) = seen.insert(&endpoint.address, here.clone()) {
            cx.error(&here, format!("{} is listed twice", endpoint.address))
                .also(&first, "first here")
                .help("use `weight` to give it a larger share");
        }
        let state = match before.get(&endpoint.address) {
            Some(state) => (*state).clone(),
            None => Arc::new(EndpointState::new(load.epoch.clone(), now)),
        };
        endpoints.push(Endpoint {
            address: endpoint.address.clone(),
            weight: endpoint.weight,
            priority: endpoint.priority,
            zone: endpoint.zone.clone(),
            token: tokens.of(&endpoint.address),
            state,
        });
    }
    endpoints
}

/// Endpoints of a name are verified by that name, unless another is given.
fn named_by_discovery(tls: Option<&UpstreamTlsSpec>, source: Option<&Source>) -> Option<UpstreamTlsSpec> {
    let mut tls = tls?.clone();
    if let Some(Source::Dns(DnsSource { seek: Seek::Addresses { name, .. }, .. })) = source
        && tls.mode != Some(UpstreamTlsMode::Off)
    {
        tls.sni.get_or_insert_with(|| name.to_string().trim_end_matches('.').to_owned());
    }
    Some(tls)
}

fn check_zones(spec: &UpstreamSpec, balance: &Balance, zone: Option<&str>, at: &Path, cx: &mut Context) {
    if balance.locality == crate::balance::Locality::Prefer {
        let here = at.key("balance").key("locality");
        if zone.is_none() {
            cx.error(&here, "this process does not know its own zone").help("set `site.zone`");
        } else if spec.discover.is_none() && spec.endpoints.iter().all(|endpoint| endpoint.zone.is_none()) {
            cx.error(&here, "no endpoint says its `zone`");
        }
    }
}

fn check_protocol(spec: &UpstreamSpec, protocol: HttpProtocol, tls: bool, at: &Path, cx: &mut Context) {
    let here = at.key("protocol");
    match protocol {
        HttpProtocol::H2 if !tls && spec.tls.is_none() => {
            cx.error(&here, "h2 to an upstream needs `tls`").help("use `h2c` for h2 in clear");
        }
        HttpProtocol::H2c if tls => {
            cx.error(&here, "h2c is h2 in clear").help("use `h2` with `tls`");
        }
        HttpProtocol::H2 | HttpProtocol::H2c if spec.proxy_protocol.is_some() => {
            cx.error(
                &at.key("proxy_protocol"),
                "an h2 connection carries many clients: a PROXY header can name only one",
            )
            .help("use h1, or forwarding headers");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Clusters;
    use portcullis_discover::Resolvers;
    use portcullis_health::{Failure, Override};
    use portcullis_tls::{Certificates, Trusts};
    use std::collections::BTreeMap;

    fn cluster(json: &str, previous: Option<&Clusters>) -> Clusters {
        let specs = serde_json::from_str(&format!(r#"{{"u":{json}}}"#)).unwrap();
        let mut cx = Context::default();
        let clusters = compile(&specs, previous, &mut cx);
        assert!(!cx.report().has_errors(), "{:?}", cx.report().lines());
        clusters
    }

    fn compile(specs: &BTreeMap<ObjectName, UpstreamSpec>, previous: Option<&Clusters>, cx: &mut Context) -> Clusters {
        let (certificates, trusts) = (Certificates::default(), Trusts::default());
        let resolvers = Resolvers::default();
        let around = Surroundings {
            resolvers: &resolvers,
            certificates: &certificates,
            trusts: &trusts,
            connect_timeout: Duration::from_secs(2),
            zone: Some("a"),
            previous,
            made_tls: &Default::default(),
            now: Instant::now(),
        };
        Clusters::compile(specs, around, cx)
    }

    fn pick(cluster: &Cluster, draw: u64, tried: &mut Tried) -> Result<Pick, NotPicked> {
        cluster.pick(Wish::plain(draw, Instant::now()), tried)
    }

    fn shares(cluster: &Cluster, picks: usize) -> Vec<usize> {
        let mut shares = vec![0; cluster.endpoints.len()];
        for draw in 0..picks {
            shares[pick(cluster, draw as u64 * 7919, &mut Tried::default()).unwrap().index] += 1;
        }
        shares
    }

    #[test]
    fn weights_are_exact_over_a_round() {
        let clusters = cluster(
            r#"{"endpoints":[{"address":"10.0.0.1:1","weight":90},{"address":"10.0.0.2:1","weight":10},{"address":"10.0.0.3:1","weight":0}],"balance":{"policy":"round_robin"}}"#,
            None,
        );
        assert_eq!(shares(clusters.get(0).unwrap(), 1000), [900, 100, 0]);
    }

    #[test]
    fn the_sick_the_drained_and_the_tried_are_passed_over() {
        let clusters = cluster(r#"{"endpoints":["10.0.0.1:1","10.0.0.2:1","10.0.0.3:1"],"health_check":{}}"#, None);
        let cluster = clusters.get(0).unwrap();
        cluster.endpoints[0].state.observe(Err(Failure::Refused), 2, 3, Instant::now());
        assert_eq!(shares(cluster, 100)[0], 0);
        cluster.endpoints[1].state.force(Some(Override::Drained), Instant::now());
        assert_eq!(shares(cluster, 100), [0, 0, 100]);
        let mut tried = Tried::default();
        assert_eq!(pick(cluster, 0, &mut tried).unwrap().index, 2);
        assert_eq!(pick(cluster, 0, &mut tried).unwrap_err(), NotPicked::NoEndpoint);
    }

    #[test]
    fn when_too_few_are_up_health_is_not_believed() {
        let clusters = cluster(
            r#"{"endpoints":["10.0.0.1:1","10.0.0.2:1","10.0.0.3:1"],"health_check":{},"balance":{"policy":"round_robin"}}"#,
            None,
        );
        let cluster = clusters.get(0).unwrap();
        for endpoint in &cluster.endpoints[..2] {
            endpoint.state.observe(Err(Failure::Refused), 2, 3, Instant::now());
        }
        assert!(shares(cluster, 99).iter().all(|share| *share == 33));
    }

    #[test]
    fn state_survives_a_reload_by_address_and_activity_ends_with_the_pick() {
        let first = cluster(r#"{"endpoints":["10.0.0.1:1","10.0.0.2:1"]}"#, None);
        first.get(0).unwrap().endpoints[1].state.force(Some(Override::Drained), Instant::now());
        let pick = pick(first.get(0).unwrap(), 0, &mut Tried::default()).unwrap();
        let second =
            cluster(r#"{"endpoints":["10.0.0.2:1","10.0.0.1:1"],"balance":{"policy":"least_request"}}"#, Some(&first));
        let endpoints = &second.get(0).unwrap().endpoints;
        assert!(endpoints[0].state.state(Instant::now()) == HealthState::Drained);
        assert_eq!(endpoints[1].state.active(), 1);
        drop(pick);
        assert_eq!(endpoints[1].state.active(), 0);
    }

    #[test]
    fn who_cannot_be_sent_again_keeps_away_from_a_fresh_failure() {
        for policy in ["round_robin", "least_request", "random"] {
            let clusters = cluster(
                &format!(r#"{{"endpoints":["10.0.0.1:1","10.0.0.2:1"],"balance":{{"policy":"{policy}"}}}}"#),
                None,
            );
            let (cluster, start) = (clusters.get(0).unwrap(), Instant::now());
            let (good, bad) =
                (TryOutcome::Answered { status: 200, micros: 1 }, TryOutcome::Answered { status: 500, micros: 1 });
            let share = |volunteer, at: Duration| {
                let picked = (0..40).map(|draw| {
                    let wish = Wish { volunteer, ..Wish::plain((draw << 56) | (12_345 * draw), start + at) };
                    cluster.pick(wish, &mut Tried::default()).unwrap().index
                });
                picked.filter(|index| *index == 0).count()
            };
            let ended = |outcome| {
                let mut picked =
                    (0..).map(|draw| cluster.pick(Wish::plain(draw << 56, start), &mut Tried::default()).unwrap());
                let pick = picked.find(|pick| pick.index == 0).unwrap();
                cluster.record(&pick, outcome, start);
            };
            ended(bad);
            let soon = Duration::from_millis(1_900);
            assert_eq!(share(Volunteer::No, soon), 0, "{policy}");
            assert!(share(Volunteer::Yes, soon) > 0, "{policy}");
            assert!(share(Volunteer::No, Duration::from_secs(3)) > 0, "{policy}: nobody came");
            ended(good);
            assert!(share(Volunteer::No, soon) > 0, "{policy}: it is well");
        }
    }

    #[test]
    fn a_trial_is_over_when_the_head_of_its_answer_is_there() {
        let clusters = cluster(
            r#"{"endpoints":["10.0.0.1:1",{"address":"10.0.0.2:1","weight":0}],"outlier":{"consecutive_5xx":1,"eject":"1s","max_ejected":"100%"}}"#,
            None,
        );
        let (cluster, start) = (clusters.get(0).unwrap(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let pick_at = |seconds| cluster.pick(Wish::plain(0, at(seconds)), &mut Tried::default()).unwrap();
        let state = |seconds| cluster.endpoints[0].state.state(at(seconds));
        let (good, bad) =
            (TryOutcome::Answered { status: 200, micros: 1 }, TryOutcome::Answered { status: 500, micros: 1 });
        assert!(!pick_at(0).is_trial());
        assert!(cluster.record(&pick_at(0), bad, start).is_some());
        assert_eq!(state(0), HealthState::Ejected);
        let streaming = pick_at(100);
        assert!(streaming.is_trial() && !pick_at(100).is_trial(), "one at a time");
        assert_eq!(cluster.judge_trial(&streaming, good, at(100)), None);
        assert_eq!((streaming.is_trial(), state(100)), (false, HealthState::Unknown));
        // The stream goes on, and breaks after the endpoint was ejected and tried again: that is no verdict on the new trial.
        assert!(cluster.record(&pick_at(101), bad, at(101)).is_some());
        let second = pick_at(200);
        assert!(second.is_trial());
        drop(streaming);
        assert!(!pick_at(200).is_trial(), "the second one is still under way");
        assert_eq!(cluster.judge_trial(&second, bad, at(200)), Some(EjectReason::Trial));
        assert_eq!(cluster.judge_trial(&second, bad, at(200)), None, "judged once");
        drop(second);
        let third = pick_at(300);
        assert!(third.is_trial());
        cluster.record(&third, good, at(300));
        assert_eq!((third.is_trial(), state(300)), (false, HealthState::Unknown));
    }

    #[test]
    fn a_compilation_that_is_not_served_changes_no_health() {
        let now = Instant::now();
        let endpoints = r#""endpoints":["10.0.0.1:1","10.0.0.2:1"]"#;
        let first = cluster(&format!(r#"{{{endpoints},"health_check":{{}}}}"#), None);
        let state = &first.get(0).unwrap().endpoints[0].state;
        state.observe(Err(Failure::Refused), 2, 3, now);
        let second = cluster(&format!("{{{endpoints}}}"), Some(&first));
        assert_eq!(state.state(now), HealthState::Down, "only compiled");
        first.forget_old_probes(now);
        assert_eq!(state.state(now), HealthState::Down, "it is still probed");
        second.forget_old_probes(now);
        assert_eq!(state.state(now), HealthState::Unknown);
        assert!(shares(second.get(0).unwrap(), 100).iter().all(|share| *share > 0));
    }

    #[test]
    fn least_request_goes_where_least_is_done() {
        let clusters =
            cluster(r#"{"endpoints":["10.0.0.1:1","10.0.0.2:1"],"balance":{"policy":"least_request"}}"#, None);
        let cluster = clusters.get(0).unwrap();
        let held: Vec<_> = (0..10).map(|draw| pick(cluster, draw, &mut Tried::default()).unwrap()).collect();
        assert_eq!(held.iter().filter(|pick| pick.index == 0).count(), 5);
    }
}
