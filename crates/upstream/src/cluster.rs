//! A compiled upstream, and the choice of an endpoint in it.

use crate::{
    Endpoint, EndpointState, HttpProtocol, Policy, ProxyProtocolVersion, UpstreamSpec,
    balance::{least_loaded, smooth_round},
};
use portcullis_config::{Context, Path};
use portcullis_health::HealthCheck;
use portcullis_names::{ObjectName, Percent, TimeSpan};
use portcullis_tls::{Certificates, Trusts, UpstreamTls};
use std::{
    collections::{BTreeMap, HashMap},
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// Index of an upstream in its snapshot.
pub type ClusterId = usize;

/// One upstream, compiled.
#[derive(Debug)]
pub struct Cluster {
    pub name: ObjectName,
    pub endpoints: Vec<Endpoint>,
    pub protocol: HttpProtocol,
    pub tls: Option<UpstreamTls>,
    pub policy: Policy,
    pub connect_timeout: Duration,
    pub read_timeout: Duration,
    pub write_timeout: Duration,
    pub idle_timeout: Duration,
    pub streams: u32,
    pub proxy_protocol: Option<ProxyProtocolVersion>,
    pub health_check: Option<HealthCheck>,
    panic_threshold: Percent,
    round: Vec<u32>,
    turn: Arc<AtomicUsize>,
}

/// All upstreams of a snapshot.
#[derive(Debug, Default)]
pub struct Clusters {
    clusters: Vec<Arc<Cluster>>,
    by_name: BTreeMap<String, ClusterId>,
}

/// What the names in an upstream can refer to.
#[derive(Debug, Clone, Copy)]
pub struct Registries<'r> {
    pub certificates: &'r Certificates,
    pub trusts: &'r Trusts,
}

/// Endpoints that one request has used up; a bit each, further ones share the last.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tried(u64);

/// No endpoint is left for this request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoEndpoint;

/// A chosen endpoint; counts as active until dropped.
#[derive(Debug)]
pub struct Pick {
    pub index: usize,
    pub state: Arc<EndpointState>,
}

const ENDPOINTS_MAX: usize = 10_000;

impl Clusters {
    pub fn compile(
        specs: &BTreeMap<ObjectName, UpstreamSpec>,
        registries: Registries<'_>,
        default_connect_timeout: Duration,
        previous: Option<&Self>,
        now: Instant,
        cx: &mut Context,
    ) -> Self {
        let mut clusters = Self::default();
        for (name, spec) in specs {
            let at = Path::root().key("upstream").key(name);
            let before = previous.and_then(|previous| previous.find(name.as_str())).map(|(_, cluster)| cluster);
            // A cluster that cannot be compiled still lends its name, so that routes to it are not wrong as well.
            clusters.by_name.insert(name.to_string(), clusters.clusters.len());
            let cluster = Cluster::compile(name, spec, registries, default_connect_timeout, before, now, &at, cx);
            clusters.clusters.push(Arc::new(cluster));
        }
        clusters
    }

    pub fn get(&self, id: ClusterId) -> Option<&Arc<Cluster>> {
        self.clusters.get(id)
    }

    pub fn find(&self, name: &str) -> Option<(ClusterId, &Arc<Cluster>)> {
        let id = *self.by_name.get(name)?;
        Some((id, self.clusters.get(id)?))
    }

    pub fn ids(&self) -> &BTreeMap<String, ClusterId> {
        &self.by_name
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Cluster>> {
        self.clusters.iter()
    }
}

impl Cluster {
    #[expect(clippy::too_many_arguments, reason = "each is one independent input of the compilation")]
    fn compile(
        name: &ObjectName,
        spec: &UpstreamSpec,
        registries: Registries<'_>,
        default_connect_timeout: Duration,
        previous: Option<&Arc<Self>>,
        now: Instant,
        at: &Path,
        cx: &mut Context,
    ) -> Self {
        let endpoints = endpoints(spec, previous, now, at, cx);
        let tls = spec.tls.as_ref().and_then(|tls| {
            UpstreamTls::compile(tls, registries.certificates, registries.trusts, &at.key("tls"), cx).ok().flatten()
        });
        let protocol = spec.protocol.unwrap_or(HttpProtocol::H1);
        check_protocol(spec, protocol, tls.is_some(), at, cx);
        let mut time = |key: &str, value: Option<TimeSpan>, default: Duration| {
            if value.is_some_and(TimeSpan::is_zero) {
                cx.error(&at.key(key), format!("{key} cannot be zero"))
                    .help("there is no way to switch it off: give a long time");
            }
            value.map_or(default, TimeSpan::get)
        };
        let minute = Duration::from_secs(60);
        let (connect_timeout, read_timeout) = (
            time("connect_timeout", spec.connect_timeout, default_connect_timeout),
            time("read_timeout", spec.read_timeout, minute),
        );
        let (write_timeout, idle_timeout) =
            (time("write_timeout", spec.write_timeout, minute), time("idle_timeout", spec.idle_timeout, minute));
        let health_check = spec.health_check.as_ref().map(|check| check.compile(&at.key("health_check"), cx));
        if health_check.is_none() {
            for endpoint in &endpoints {
                endpoint.state.forget_health(now);
            }
        }
        let weights: Vec<u32> = endpoints.iter().map(|endpoint| endpoint.weight).collect();
        Self {
            name: name.clone(),
            endpoints,
            protocol,
            tls,
            policy: spec.balance.as_ref().map_or(Policy::RoundRobin, |balance| balance.policy),
            connect_timeout,
            read_timeout,
            write_timeout,
            idle_timeout,
            streams: spec.streams.map_or(100, NonZeroU32::get),
            proxy_protocol: spec.proxy_protocol,
            health_check,
            panic_threshold: spec.panic_threshold.unwrap_or(Percent::from_whole(50)),
            round: smooth_round(&weights),
            turn: previous.map_or_else(Arc::default, |previous| previous.turn.clone()),
        }
    }

    /// Chooses an endpoint that this request has not tried. Down and drained ones are passed over; when too few are up,
    /// health is not believed (availability fails open: a probe that lies must not stop all traffic).
    pub fn pick(&self, draw: u64, tried: &mut Tried) -> Result<Pick, NoEndpoint> {
        let believed = self.health_is_believed();
        let usable = |index: usize, endpoint: &Endpoint| {
            endpoint.weight > 0
                && !endpoint.state.is_drained()
                && !tried.has(index)
                && (!believed || endpoint.state.is_up())
        };
        let chosen = match self.policy {
            Policy::RoundRobin => self.next_in_turn(usable),
            Policy::LeastRequest => {
                let candidates = self.endpoints.iter().enumerate().filter(|(index, endpoint)| usable(*index, endpoint));
                least_loaded(
                    candidates.map(|(index, endpoint)| (index, endpoint.weight, endpoint.state.active())),
                    draw,
                )
            }
        };
        let index = chosen.ok_or(NoEndpoint)?;
        let state = self.endpoints.get(index).ok_or(NoEndpoint)?.state.clone();
        tried.add(index);
        state.active.fetch_add(1, Relaxed);
        state.requests.fetch_add(1, Relaxed);
        Ok(Pick { index, state })
    }

    fn next_in_turn(&self, usable: impl Fn(usize, &Endpoint) -> bool) -> Option<usize> {
        if self.round.is_empty() {
            return None;
        }
        let start = self.turn.fetch_add(1, Relaxed);
        (0..self.round.len()).find_map(|step| {
            let index = *self.round.get(start.wrapping_add(step) % self.round.len())? as usize;
            let endpoint = self.endpoints.get(index)?;
            usable(index, endpoint).then_some(index)
        })
    }

    fn health_is_believed(&self) -> bool {
        if self.health_check.is_none() {
            return false;
        }
        let serving = self.endpoints.iter().filter(|endpoint| endpoint.weight > 0 && !endpoint.state.is_drained());
        let (all, up) =
            serving.fold((0_u32, 0_u32), |(all, up), endpoint| (all + 1, up + u32::from(endpoint.state.is_up())));
        f64::from(up) >= f64::from(all) * self.panic_threshold.fraction() && up > 0
    }
}

fn endpoints(
    spec: &UpstreamSpec,
    previous: Option<&Arc<Cluster>>,
    now: Instant,
    at: &Path,
    cx: &mut Context,
) -> Vec<Endpoint> {
    let at = at.key("endpoints");
    if spec.endpoints.len() > ENDPOINTS_MAX {
        cx.error(&at, format!("more than {ENDPOINTS_MAX} endpoints"));
    }
    if spec.endpoints.iter().all(|endpoint| endpoint.weight == 0) {
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
        let state =
            before.get(&endpoint.address).map_or_else(|| Arc::new(EndpointState::new(now)), |state| (*state).clone());
        endpoints.push(Endpoint { address: endpoint.address.clone(), weight: endpoint.weight, state });
    }
    endpoints
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

impl Tried {
    fn has(self, index: usize) -> bool {
        self.0 & 1 << index.min(63) != 0
    }

    fn add(&mut self, index: usize) {
        self.0 |= 1 << index.min(63);
    }
}

impl Drop for Pick {
    fn drop(&mut self) {
        self.state.active.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(json: &str, previous: Option<&Clusters>) -> Clusters {
        let specs = serde_json::from_str(&format!(r#"{{"u":{json}}}"#)).unwrap();
        let (certificates, trusts) = (Certificates::default(), Trusts::default());
        let registries = Registries { certificates: &certificates, trusts: &trusts };
        let mut cx = Context::default();
        let clusters = Clusters::compile(&specs, registries, Duration::from_secs(2), previous, Instant::now(), &mut cx);
        assert!(!cx.report().has_errors(), "{:?}", cx.report().lines());
        clusters
    }

    fn shares(cluster: &Cluster, picks: usize) -> Vec<usize> {
        let mut shares = vec![0; cluster.endpoints.len()];
        for draw in 0..picks {
            shares[cluster.pick(draw as u64 * 7919, &mut Tried::default()).unwrap().index] += 1;
        }
        shares
    }

    #[test]
    fn weights_are_exact_over_a_round() {
        let clusters = cluster(
            r#"{"endpoints":[{"address":"10.0.0.1:1","weight":90},{"address":"10.0.0.2:1","weight":10},{"address":"10.0.0.3:1","weight":0}]}"#,
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
        cluster.endpoints[1].state.set_drained(true);
        assert_eq!(shares(cluster, 100), [0, 0, 100]);
        let mut tried = Tried::default();
        assert_eq!(cluster.pick(0, &mut tried).unwrap().index, 2);
        assert_eq!(cluster.pick(0, &mut tried).unwrap_err(), NoEndpoint);
    }

    #[test]
    fn when_too_few_are_up_health_is_not_believed() {
        let clusters = cluster(r#"{"endpoints":["10.0.0.1:1","10.0.0.2:1","10.0.0.3:1"],"health_check":{}}"#, None);
        let cluster = clusters.get(0).unwrap();
        for endpoint in &cluster.endpoints[..2] {
            endpoint.state.observe(Err(Failure::Refused), 2, 3, Instant::now());
        }
        assert!(shares(cluster, 99).iter().all(|share| *share == 33));
    }

    #[test]
    fn state_survives_a_reload_by_address_and_activity_ends_with_the_pick() {
        let first = cluster(r#"{"endpoints":["10.0.0.1:1","10.0.0.2:1"]}"#, None);
        first.get(0).unwrap().endpoints[1].state.set_drained(true);
        let pick = first.get(0).unwrap().pick(0, &mut Tried::default()).unwrap();
        let second =
            cluster(r#"{"endpoints":["10.0.0.2:1","10.0.0.1:1"],"balance":{"policy":"least_request"}}"#, Some(&first));
        let endpoints = &second.get(0).unwrap().endpoints;
        assert!(endpoints[0].state.is_drained());
        assert_eq!(endpoints[1].state.active(), 1);
        drop(pick);
        assert_eq!(endpoints[1].state.active(), 0);
    }

    #[test]
    fn least_request_goes_where_least_is_done() {
        let clusters =
            cluster(r#"{"endpoints":["10.0.0.1:1","10.0.0.2:1"],"balance":{"policy":"least_request"}}"#, None);
        let cluster = clusters.get(0).unwrap();
        let held: Vec<_> = (0..10).map(|draw| cluster.pick(draw, &mut Tried::default()).unwrap()).collect();
        assert_eq!(held.iter().filter(|pick| pick.index == 0).count(), 5);
    }

    use portcullis_health::Failure;
}
