//! From a document to everything the data path needs, with all mistakes found in one run. Opens no socket.

use crate::{
    api_sets::compile_apis,
    compile_guards::{self, GuardObjects},
    compile_listeners::Listeners,
    dns::Dns,
    egress, mesh,
    privacy_sets::compile_privacy,
    sidecar::{self, SidecarPlan},
    spec::{RESERVED, Spec},
    waf_sets::WafSets,
};
use portcullis_auth::Identity;
use portcullis_config::{Context, Document, Path, Report};
use portcullis_discover::Resolvers;
use portcullis_names::{HostPattern, ListenAddress, ObjectName, TimeSpan};
use portcullis_ops::{AccessLogTarget, Overload, Threads, Tracer, access_log::LogPlan};
use portcullis_policy::{
    Action, CarriedGuards, Geo, Known, KnownGuards, Level, ListenerId, RouteDefaults, RouteTable, SecurityHeaders,
    UpstreamId,
};
use portcullis_proxy::{
    ApiGuard, Drain, EgressPlan, MeshPlan, PrivacyGuard, WafGuard,
    listen::{ListenerPlan, ListenerSpec, PlanProtocol, Protocol},
};
use portcullis_rollout::{RolloutPlan, Slo, compile_rollouts, compile_slos};
use portcullis_store::StoreConfig;
use portcullis_tls::{Certificates, Trusts};
use portcullis_upstream::{Cluster, Clusters, HttpProtocol, Surroundings};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

/// A document that is fit to run.
#[derive(Debug, Clone)]
pub struct Compiled {
    pub document: Arc<Document>,
    pub spec: Arc<Spec>,
    pub routes: Arc<RouteTable>,
    pub clusters: Arc<Clusters>,
    pub(crate) waf_sets: WafSets,
    pub wafs: Arc<[Option<Arc<WafGuard>>]>,
    pub apis: Arc<[Option<Arc<ApiGuard>>]>,
    pub privacy: Arc<[Option<Arc<PrivacyGuard>>]>,
    pub audit_log: AccessLogTarget,
    pub geo: Option<Arc<Geo>>,
    pub slos: BTreeMap<ObjectName, Arc<Slo>>,
    pub rollouts: BTreeMap<ObjectName, Arc<RolloutPlan>>,
    pub stores: BTreeMap<ObjectName, StoreConfig>,
    pub identities: BTreeMap<ObjectName, Arc<Identity>>,
    pub listeners: Vec<CompiledListener>,
    pub egress: Option<Arc<EgressPlan>>,
    /// `None`: the document is no sidecar's.
    pub mesh: Option<Arc<MeshPlan>>,
    pub sidecar: SidecarPlan,
    pub tracer: Option<Arc<Tracer>>,
    pub certificates: Certificates,
    /// `None`: nothing in the document is about DNS.
    pub dns: Option<Dns>,
    pub log: LogPlan,
    pub drain: Drain,
    pub max_connections: u32,
    pub overload: Overload,
    pub fixed: Fixed,
    /// Files whose change can change all this.
    pub watched: Vec<PathBuf>,
    /// Warnings only.
    pub report: Report,
}

/// What a reload cannot change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fixed {
    pub threads: usize,
    pub admin: PathBuf,
    pub upgrade: PathBuf,
    pub metrics: Option<ListenAddress>,
}

#[derive(Debug, Clone)]
pub struct CompiledListener {
    pub plan: Arc<ListenerPlan>,
}

impl Compiled {
    /// The document with every default filled in, as plain data.
    pub fn effective(&self) -> serde_json::Value {
        crate::effective::effective(self)
    }
}

/// A configuration that cannot serve, and the files whose change might mend it.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) report: Report,
    pub(crate) watched: Vec<PathBuf>,
}

/// Reads and compiles files.
pub fn check(files: &[PathBuf]) -> Result<Compiled, Report> {
    load(files, None).map_err(|refused| refused.report)
}

/// Reads and compiles files. `previous` lends what survives a reload.
pub(crate) fn load(files: &[PathBuf], previous: Option<&Compiled>) -> Result<Compiled, Refused> {
    let (document, report) = Document::load(files);
    compile(document, report, previous)
}

pub(crate) fn compile(
    document: impl Into<Arc<Document>>,
    report: Report,
    previous: Option<&Compiled>,
) -> Result<Compiled, Refused> {
    let document = document.into();
    let (spec, mut cx) = document.read::<Spec>(report, RESERVED);
    let Some(mut spec) = spec else {
        let (report, watched) = cx.finish();
        return Err(Refused { report, watched });
    };
    let cx = &mut cx;
    mesh::weave(&mut spec);
    let mesh = mesh::compile(&spec, previous, cx);
    let sidecar = sidecar::compile(&spec, cx);
    let tracer = tracer(&spec, previous, cx);
    let mesh_tls = mesh.as_ref().map(|mesh| mesh.upstream_tls()).unwrap_or_default();

    let certificates = Certificates::compile(&spec.certificate, cx);
    let trusts = Trusts::compile(&spec.trust, cx);
    let defaults = spec.defaults.clone().unwrap_or_default();
    let connect_timeout = defaults.connect_timeout.map_or(Duration::from_secs(2), TimeSpan::get);
    let resolvers = Resolvers::compile(&spec.discovery, cx);
    let around = Surroundings {
        certificates: &certificates,
        trusts: &trusts,
        resolvers: &resolvers,
        connect_timeout,
        zone: spec.site.as_ref().and_then(|site| site.zone.as_deref()),
        previous: previous.map(|previous| &*previous.clusters),
        made_tls: &mesh_tls,
        now: Instant::now(),
    };
    let clusters = Clusters::compile(&spec.upstream, around, cx);
    let geo = spec.geo.as_ref().and_then(|geo| geo.compile(&Path::root().key("geo"), cx)).map(Arc::new);
    compile_guards::check_country_keys(&spec, cx);
    let nothing = CarriedGuards::default();
    let carried = compile_guards::carried(previous).unwrap_or(&nothing);
    let now = Instant::now();
    let objects = GuardObjects::compile(&spec, &certificates, &trusts, carried, now, cx);
    let known = objects.known(carried, now);
    let to_listen = Listeners {
        spec: &spec,
        certificates: &certificates,
        trusts: &trusts,
        clusters: &clusters,
        names: known.names,
        previous,
    };
    let listeners = to_listen.compile(cx);
    let dns = to_listen.dns(cx);
    let egress = egress::compile(&spec, around, previous, cx);
    let demanded = compile_guards::demanded(&spec, known, cx);
    let routes = compile_routes(&spec, &listeners, &clusters, known, &demanded, cx);
    let routes = egress::with_outward(routes, &spec, known, cx);
    let (slos, rollouts) = compile_releases(&spec, &routes, &clusters, cx);
    let waf_sets = WafSets::compile(&spec.waf, &routes, previous, cx);
    let wafs = waf_sets.guards(&spec.waf, &routes, cx);
    let apis = compile_apis(&spec.api, &routes, cx);
    let privacy = compile_privacy(&spec.privacy, &routes, cx);
    check_mirrors(&routes, &clusters, cx);
    check_certificates(&routes, &listeners, cx);
    check_used(&spec, &routes, cx);
    let fixed = compile_fixed(&spec, cx);
    check_fixed(&fixed, previous, cx);
    let process = spec.process.clone().unwrap_or_default();
    let overload_at = Path::root().key("process").key("overload");
    let overload = process.overload.as_ref().map(|overload| overload.compile(&overload_at, cx)).unwrap_or_default();
    let exchanges = process.drain.map_or(Duration::from_secs(30), TimeSpan::get);
    let drain = Drain {
        exchanges,
        streams: process.stream_drain.map_or(Duration::from_secs(3600), TimeSpan::get).max(exchanges),
    };
    let telemetry = spec.telemetry.clone().unwrap_or_default();
    let log = LogPlan::compile(telemetry.access_log.as_ref(), &Path::root().key("telemetry").key("access_log"), cx);

    let (report, watched) = std::mem::take(cx).finish();
    if report.has_errors() {
        return Err(Refused { report, watched });
    }
    Ok(Compiled {
        document,
        routes: Arc::new(routes),
        clusters: Arc::new(clusters),
        waf_sets,
        wafs: wafs.into(),
        apis: apis.into(),
        privacy: privacy.into(),
        audit_log: telemetry.audit_log.as_ref().and_then(|audit| audit.to.clone()).unwrap_or(AccessLogTarget::Stdout),
        geo,
        slos,
        rollouts,
        stores: objects.stores,
        identities: objects.identities,
        listeners: listeners.into_iter().map(|plan| CompiledListener { plan: Arc::new(plan) }).collect(),
        egress,
        mesh,
        sidecar,
        tracer,
        certificates,
        dns,
        log,
        drain,
        overload,
        max_connections: process.max_connections.map_or(100_000, std::num::NonZeroU32::get),
        fixed,
        watched,
        report,
        spec: Arc::new(spec),
    })
}

fn compile_routes(
    spec: &Spec,
    listeners: &[ListenerPlan],
    clusters: &Clusters,
    guards: KnownGuards<'_>,
    demanded: &Level,
    cx: &mut Context,
) -> RouteTable {
    let timeout = spec.defaults.as_ref().and_then(|defaults| defaults.timeout);
    let is_http =
        |spec: &ListenerSpec| matches!(spec.effective_protocol(), Protocol::Http | Protocol::Https | Protocol::Mesh);
    // A listener that could not be compiled still lends its name, so that routes on it are not wrong as well.
    let names: BTreeMap<String, ListenerId> = spec
        .listener
        .iter()
        .filter(|(_, spec)| is_http(spec))
        .map(|(name, _)| {
            let id = listeners.iter().find(|plan| plan.name == *name).map_or(ListenerId(u16::MAX), |plan| plan.id);
            (name.to_string(), id)
        })
        .collect();
    let upstreams: BTreeMap<String, UpstreamId> = clusters
        .ids()
        .iter()
        .map(|(name, id)| (name.clone(), UpstreamId(u32::try_from(*id).unwrap_or(u32::MAX))))
        .collect();
    let defaults = RouteDefaults {
        timeout: timeout.map_or(Duration::from_secs(60), TimeSpan::get),
        security_headers: spec
            .defaults
            .as_ref()
            .and_then(|defaults| defaults.security_headers)
            .unwrap_or(SecurityHeaders::Off),
    };
    RouteTable::compile(
        &spec.route,
        &Known { listeners: &names, upstreams: &upstreams, geo: spec.geo.as_ref(), guards, demanded },
        defaults,
        cx,
    )
}

/// Copies are sent as HTTP/1 and without a PROXY header.
fn check_mirrors(routes: &RouteTable, clusters: &Clusters, cx: &mut Context) {
    for plan in routes.plans() {
        let Some(cluster) = plan.mirror.and_then(|mirror| clusters.get(mirror.upstream.0 as usize)) else { continue };
        let route = Path::root().key("route").key(&plan.route);
        let own = plan.rule.as_ref().map(|rule| route.key("rule").key(rule));
        let at = own.filter(|own| cx.document().has(&own.key("mirror"))).unwrap_or(route);
        check_mirrored(cluster, &at.key("mirror").key("upstream"), cx);
    }
}

fn check_mirrored(cluster: &Cluster, at: &Path, cx: &mut Context) {
    if cluster.protocol != HttpProtocol::H1 || cluster.proxy_protocol.is_some() {
        cx.error(at, format!("upstream \"{}\" cannot be mirrored to", cluster.name))
            .help("copies are sent as plain HTTP/1: give it an upstream with protocol h1 and without `proxy_protocol`");
    }
}

type ReleasePlans = (BTreeMap<ObjectName, Arc<Slo>>, BTreeMap<ObjectName, Arc<RolloutPlan>>);

fn compile_releases(spec: &Spec, routes: &RouteTable, clusters: &Clusters, cx: &mut Context) -> ReleasePlans {
    // A route that could not be compiled still lends its name, so that what speaks of it is not wrong as well.
    let mut sends: BTreeMap<ObjectName, BTreeSet<ObjectName>> =
        spec.route.keys().map(|name| (name.clone(), BTreeSet::new())).collect();
    for plan in routes.plans() {
        let Action::Forward(split) = &plan.action else { continue };
        let names = split.upstreams().filter_map(|id| clusters.get(id.0 as usize)).map(|cluster| cluster.name.clone());
        sends.entry(plan.route.clone()).or_default().extend(names);
    }
    let slos = compile_slos(&spec.slo, &spec.route.keys().cloned().collect(), cx);
    let upstreams = spec.upstream.keys().cloned().collect();
    let known = portcullis_rollout::Known { routes: &sends, upstreams: &upstreams, slos: &slos };
    let rollouts = compile_rollouts(&spec.rollout, &known, cx);
    for (name, plan) in rollouts.iter().filter(|(_, plan)| plan.mirror_first.is_some()) {
        if let Some((_, to)) = clusters.find(plan.to.as_str()) {
            check_mirrored(to, &Path::root().key("rollout").key(name.as_str()).key("mirror_first"), cx);
        }
    }
    (slos, rollouts)
}

/// A browser that is sent to a host must be shown a certificate for it.
fn check_certificates(routes: &RouteTable, listeners: &[ListenerPlan], cx: &mut Context) {
    let mut told = std::collections::HashSet::new();
    for (plan, hosts, on) in routes.served_hosts() {
        for listener in listeners {
            let PlanProtocol::Https(tls) = &listener.protocol else { continue };
            if on.is_some_and(|on| !on.contains(&listener.id)) {
                continue;
            }
            // Without an explicit list a route is on every listener; one of them having the certificate is enough.
            let covered = |host: &HostPattern| tls.certificates().iter().any(|certificate| certificate.covers(host));
            for (index, host) in
                hosts.iter().enumerate().filter(|(_, host)| !covered(host) && **host != HostPattern::Any)
            {
                if on.is_none() && listeners.iter().any(|other| serves(other, host)) {
                    continue;
                }
                let at = Path::root().key("route").key(&plan.route).key("hosts").index(index);
                if told.insert((plan.route.clone(), index)) {
                    let names: Vec<_> =
                        tls.certificates().iter().map(|certificate| certificate.name.to_string()).collect();
                    cx.error(
                        &at,
                        format!(
                            "no certificate of listener \"{}\" covers {host} (it has: {})",
                            listener.name,
                            names.join(", ")
                        ),
                    )
                    .help("add a certificate for it, or name the `listeners` that serve this route");
                }
            }
        }
    }
}

fn serves(listener: &ListenerPlan, host: &HostPattern) -> bool {
    match &listener.protocol {
        PlanProtocol::Https(tls) => tls.certificates().iter().any(|certificate| certificate.covers(host)),
        PlanProtocol::Http => !listener.redirects_to_https,
        PlanProtocol::Mesh(_) => true,
        PlanProtocol::Tcp(_) | PlanProtocol::Tls(_) | PlanProtocol::Proxy(_) | PlanProtocol::Intercept(_) => false,
    }
}

/// Names that lead nowhere, and objects that nothing leads to.
fn check_used(spec: &Spec, routes: &RouteTable, cx: &mut Context) {
    let listener_of = |wanted: Protocol| {
        spec.listener.iter().filter(move |(_, spec)| spec.effective_protocol() == wanted).map(|(name, _)| name.as_str())
    };
    let tcp: Vec<_> = listener_of(Protocol::Tcp).collect();
    let tls: Vec<_> = listener_of(Protocol::Tls).collect();
    let named = spec.tcp_route.iter().map(|(name, route)| ("tcp_route", "tcp listener", name, &route.listeners, &tcp));
    let named = named
        .chain(spec.tls_route.iter().map(|(name, route)| ("tls_route", "tls listener", name, &route.listeners, &tls)));
    for (kind, noun, name, listeners, known) in named {
        for (index, listener) in
            listeners.iter().enumerate().filter(|(_, listener)| !known.contains(&listener.as_str()))
        {
            cx.undefined(
                &Path::root().key(kind).key(name).key("listeners").index(index),
                noun,
                listener,
                known.iter().copied(),
            );
        }
    }
    let http = spec.listener.values().any(|spec| matches!(spec.effective_protocol(), Protocol::Http | Protocol::Https));
    if http && routes.plans().next().is_none() && spec.route.is_empty() {
        cx.warning(&Path::root().key("listener"), "there is no route: every request is answered 404");
    }
}

/// Beside the admin socket is the state that outlives the process.
pub(crate) fn admin_path(spec: &Spec) -> PathBuf {
    match spec.admin.as_ref().and_then(|admin| admin.address.as_ref()) {
        Some(ListenAddress::Unix(path)) => path.clone(),
        _ => PathBuf::from(ADMIN),
    }
}

const ADMIN: &str = "run/admin.sock";

fn compile_fixed(spec: &Spec, cx: &mut Context) -> Fixed {
    let process = spec.process.clone().unwrap_or_default();
    let available = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    let threads = match process.threads.unwrap_or(Threads::Auto) {
        Threads::Auto => available,
        Threads::Count(count) => count.get() as usize,
    };
    let mut unix = |kind: &str, key: &str, address: Option<&ListenAddress>, default: &str| match address {
        None => PathBuf::from(default),
        Some(ListenAddress::Unix(path)) => path.clone(),
        Some(_) => {
            let at = Path::root().key(kind).key(key);
            cx.error(&at, format!("{kind}.{key} is a unix socket in this version"))
                .help(format!("use \"unix:{default}\""));
            PathBuf::from(default)
        }
    };
    let admin = unix("admin", "address", spec.admin.as_ref().and_then(|admin| admin.address.as_ref()), ADMIN);
    let upgrade = unix("process", "upgrade", process.upgrade.as_ref(), "run/upgrade.sock");
    let metrics = spec.telemetry.as_ref().and_then(|telemetry| telemetry.metrics.as_ref()?.address.clone());
    Fixed { threads, admin, upgrade, metrics }
}

fn check_fixed(fixed: &Fixed, previous: Option<&Compiled>, cx: &mut Context) {
    let Some(before) = previous.map(|previous| &previous.fixed) else { return };
    let fields = [
        ("process", "threads", fixed.threads != before.threads),
        ("admin", "address", fixed.admin != before.admin),
        ("process", "upgrade", fixed.upgrade != before.upgrade),
        ("telemetry", "metrics", fixed.metrics != before.metrics),
    ];
    for (kind, key, changed) in fields {
        if changed {
            cx.error(&Path::root().key(kind).key(key), format!("`{kind}.{key}` cannot change while running"))
                .help("use `portcullis upgrade` to start a new process without losing a connection");
        }
    }
}

/// One that is as before goes on, with what it has yet to send.
fn tracer(spec: &Spec, previous: Option<&Compiled>, cx: &mut Context) -> Option<Arc<Tracer>> {
    let tracing = spec.telemetry.as_ref()?.tracing.as_ref()?;
    let service = spec.workload.as_ref().map_or("portcullis", |workload| workload.service.as_str());
    match Tracer::new(tracing, service) {
        Ok(tracer) => {
            let before = previous.and_then(|previous| previous.tracer.clone());
            Some(before.filter(|before| before.is_like(&tracer)).unwrap_or_else(|| Arc::new(tracer)))
        }
        Err(error) => {
            cx.error(&Path::root().key("telemetry").key("tracing").key("otlp"), error.to_string())
                .help("OTLP over HTTP, in the clear, to a collector's agent");
            None
        }
    }
}
