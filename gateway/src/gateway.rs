//! The running gateway: starts cores, applies configurations, drains, hands over.

mod probes;
mod republish;
mod snapshot;
mod status;
mod tasks;

use self::{
    probes::targets,
    snapshot::split,
    tasks::{follow_discovery, judge_endpoints, move_releases},
};
use crate::{
    Compiled, admin,
    compile::{self, Refused},
    dns_board,
    dns_listeners::{DnsSide, OpenedDns},
    dns_orders::OrderFile,
    dns_signals, egress,
    listeners::{Inherited, LiveListeners, Opened},
    mesh,
    release_board::ReleaseBoard,
    sidecar::{Around, OpenedAround},
};
use portcullis_config::{Colour, Diff, Report, Watched};
use portcullis_discover::{Discovery, FIRST_ANSWERS};
use portcullis_gslb::{Clocks, GatewayReport, Presence, Republish};
use portcullis_health::{Override, Prober};
use portcullis_ops::{
    OverloadSampler, OverloadSources, Shedding,
    access_log::AccessLog,
    give_back_memory,
    handover::{self, NamedSocket},
    metrics::Metrics,
    systemd,
};

use portcullis_mesh::PeerRefused;
use portcullis_proxy::{CoreThread, Edge, LiveEgress, LiveMesh};
use portcullis_rollout::{Command, CommandRefused, RolloutStatus};
use portcullis_store::StoreConfig;
use portcullis_upstream::Clusters;
use std::{
    collections::HashSet,
    os::fd::AsFd,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
    time::{Duration, Instant, SystemTime},
};

use tokio::task::JoinSet;

/// A gateway that serves. Cheap to clone; all clones are the same one.
#[derive(Clone)]
pub struct Gateway(Arc<Inner>);

struct Inner {
    files: Vec<PathBuf>,
    pub(crate) edge: Arc<Edge>,
    /// One change of the configuration at a time. Taken before `state`, never while that is held.
    reloading: Mutex<()>,
    /// Held for moments only: the control runtime's few threads take it as well, and whatever waits for an answer from
    /// the net needs them.
    state: Mutex<State>,
}

pub(crate) struct State {
    pub(crate) compiled: Arc<Compiled>,
    generation: u64,
    listeners: LiveListeners,
    cores: Vec<CoreThread>,
    prober: Prober,
    releases: ReleaseBoard,
    pub(crate) dns: DnsSide,
    pub(crate) around: Around,
    /// Ends with the gateway.
    _sampler: JoinSet<()>,
    discovery: Discovery,
    last_reload: LastReload,
    endpoints: HashSet<(String, String)>,
    /// Files whose change is a reason to read again; after a refusal, also those of what was refused.
    watched: Watched,
    draining: bool,
    gathered: dns_signals::Gathered,
}

/// What a configuration needs that could not be had, and is there before it is published.
struct Prepared {
    opened: Opened,
    dns: OpenedDns,
    discovery: Discovery,
    egress: Option<Arc<LiveEgress>>,
    around: OpenedAround,
}

/// How the last attempt to change the configuration went.
#[derive(Debug, Clone, serde::Serialize)]
pub(crate) struct LastReload {
    outcome: &'static str,
    /// Seconds since 1970.
    at: u64,
    trigger: String,
    report: Option<serde_json::Value>,
}

/// Why it does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the configuration has errors")]
    Config(Report),
    #[error("{0}")]
    Listen(String),
    #[error("a thread cannot be started: {0}")]
    Thread(std::io::Error),
}

/// What becomes of the sockets when a gateway ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Nobody serves after us: stop accepting at once.
    Close,
    /// A successor accepts on the same sockets.
    HandedOver,
}

impl Gateway {
    /// Compiles `files` and serves them. `sockets` are listeners that somebody else opened, by name. Needs a tokio runtime.
    pub fn start(files: Vec<PathBuf>, sockets: Vec<NamedSocket>) -> Result<Self, StartError> {
        let read = SystemTime::now();
        let compiled = compile::check(&files).map_err(StartError::Config)?;
        for line in compiled.report.lines() {
            tracing::warn!("{line}");
        }
        let metrics = Arc::new(Metrics::new());
        let access_log = AccessLog::start(compiled.log.target.clone(), metrics.clone()).map_err(StartError::Thread)?;
        let audit_log = AccessLog::start(compiled.audit_log.clone(), metrics.clone()).map_err(StartError::Thread)?;
        let generation = 1;
        let mut inherited = Inherited::new(sockets);
        let mut listeners = LiveListeners::default();
        let opened =
            listeners.open(&compiled.listeners, &mut inherited, compiled.fixed.threads).map_err(StartError::Listen)?;
        let home: Arc<OnceLock<Weak<Inner>>> = Arc::default();
        let mut dns = DnsSide::new(OrderFile::open(compiled.fixed.admin.with_file_name("gslb.json")), {
            let home = home.clone();
            // What is fetched before all is in place waits for it.
            Republish::new(move || _ = home.wait().upgrade().map(|inner| Gateway(inner).republish_dns()))
        });
        let opened_dns = dns.open(compiled.dns.as_ref(), &mut inherited, compiled.fixed.threads);
        let opened_dns = opened_dns.map_err(StartError::Listen)?;
        for name in inherited.leftovers() {
            tracing::warn!(name, "a socket was given for a listener that is not configured");
        }
        let state_file = compiled.fixed.admin.with_file_name("releases.json");
        let releases = ReleaseBoard::open(state_file, &compiled);
        let discovery = Discovery::start(compiled.clusters.sources().cloned(), None);
        settle(&discovery);
        let compiled = with_found(compiled, &discovery, None);
        let live = egress::live(&compiled, opened.bound().collect(), None).map_err(StartError::Listen)?;
        let mesh = mesh::live(&compiled, None);
        let mut around = Around::default();
        let opened_around = around.open(&compiled).map_err(StartError::Listen)?;
        let (compiled, snapshot) = split(compiled, generation, &releases, (live, mesh), &metrics);
        let shedding = Shedding::new(compiled.overload);
        let sources = OverloadSources::system(compiled.fixed.threads);
        let mut sampler = JoinSet::new();
        sampler.spawn(OverloadSampler::new(sources, shedding.clone()).run());
        sampler.spawn(give_back_memory());
        sampler.spawn(portcullis_proxy::footprint::give_back_now_and_then());
        let edge = Arc::new(Edge::new(snapshot, metrics.clone(), access_log, audit_log, shedding));
        let cores = (0..compiled.fixed.threads)
            .map(|index| CoreThread::start(edge.clone(), index))
            .collect::<Result<Vec<_>, _>>();
        let cores = cores.map_err(StartError::Thread)?;
        listeners.apply(&compiled.listeners, opened, &cores, &metrics).map_err(StartError::Thread)?;
        let hash = compiled.document.hash();
        dns.apply(compiled.dns.as_ref(), hash, opened_dns, &metrics).map_err(StartError::Thread)?;
        around.apply(&compiled, opened_around);
        metrics.reloaded("started", generation);
        let state = State {
            generation,
            listeners,
            cores,
            prober: Prober::default(),
            releases,
            dns,
            around,
            _sampler: sampler,
            discovery,
            last_reload: LastReload { outcome: "started", at: unix_now(), trigger: "start".to_owned(), report: None },
            endpoints: HashSet::new(),
            watched: Watched { files: compiled.watched.clone(), read },
            draining: false,
            gathered: dns_signals::Gathered::default(),
            compiled,
        };
        let gateway = Self(Arc::new(Inner { files, edge, reloading: Mutex::default(), state: Mutex::new(state) }));
        let _ = home.set(Arc::downgrade(&gateway.0));
        gateway.follow(&mut gateway.state());
        let news = gateway.state().discovery.changes();
        tokio::spawn(follow_discovery(Arc::downgrade(&gateway.0), news));
        tokio::spawn(judge_endpoints(Arc::downgrade(&gateway.0)));
        tokio::spawn(move_releases(Arc::downgrade(&gateway.0)));
        let own = Arc::downgrade(&gateway.0);
        tokio::spawn(dns_board::run(move || own.upgrade().map(Gateway)));
        gateway.republish_found();
        systemd::ready(generation);
        Ok(gateway)
    }

    /// Reads the files again and serves what they say. Whatever is wrong, the old configuration goes on. Waits for files and
    /// for first answers of discovery: not for a runtime's thread.
    pub fn reload(&self, trigger: &str) -> Result<Diff, Report> {
        let outcome = self.reload_alone(trigger);
        if outcome.is_ok() {
            self.republish_found();
        }
        portcullis_proxy::footprint::give_back();
        outcome
    }

    fn reload_alone(&self, trigger: &str) -> Result<Diff, Report> {
        let _alone = self.0.reloading.lock().unwrap_or_else(PoisonError::into_inner);
        let read = SystemTime::now();
        let outcome = self.try_reload();
        let mut state = self.state();
        state.watched = Watched { files: state.compiled.watched.clone(), read };
        let outcome = outcome.map_err(|refused| {
            // The file that mends it may be one that nobody asked for so far.
            state.watched.files.extend(refused.watched);
            refused.report
        });
        let (name, report) = match &outcome {
            Ok(diff) => {
                tracing::info!(
                    generation = state.generation,
                    trigger,
                    changes = diff.changes.len(),
                    "configuration published"
                );
                ("published", None)
            }
            Err(report) => {
                tracing::error!(
                    trigger,
                    generation = state.generation,
                    "configuration refused, the old one keeps serving:\n{}",
                    report.render(Colour::Plain)
                );
                ("refused", Some(report.to_json()))
            }
        };
        self.0.edge.metrics.reloaded(name, state.generation);
        state.last_reload = LastReload { outcome: name, at: unix_now(), trigger: trigger.to_owned(), report };
        outcome
    }

    fn try_reload(&self) -> Result<Diff, Refused> {
        let running = self.compiled();
        let compiled = compile::load(&self.0.files, Some(&running))?;
        let watched = compiled.watched.clone();
        let refused = |report| Refused { report, watched };
        let prepared = self.prepare(&compiled);
        let outcome = prepared.and_then(|prepared| {
            settle(&prepared.discovery);
            self.publish(compiled, prepared)
        });
        outcome.map_err(refused)
    }

    /// Opens the sockets and starts the sources that are new. Waits for nothing.
    fn prepare(&self, compiled: &Compiled) -> Result<Prepared, Report> {
        let state = self.state();
        refuse_if_draining(&state, compiled)?;
        let (mut nobodys, cores) = (Inherited::new(Vec::new()), compiled.fixed.threads);
        let opened = state.listeners.open(&compiled.listeners, &mut nobodys, cores);
        let opened = opened.map_err(|message| refusal(compiled, "listener", message))?;
        let dns = state.dns.open(compiled.dns.as_ref(), &mut nobodys, cores);
        let dns = dns.map_err(|message| refusal(compiled, "listener", message))?;
        let bound = state.listeners.bound().chain(opened.bound()).collect();
        let before = self.0.edge.snapshot().egress.clone();
        let egress = egress::live(compiled, bound, before.as_deref());
        let egress = egress.map_err(|message| refusal(compiled, "egress", message))?;
        let discovery = Discovery::start(compiled.clusters.sources().cloned(), Some(&state.discovery));
        let around = state.around.open(compiled).map_err(|message| refusal(compiled, "sidecar", message))?;
        Ok(Prepared { opened, dns, discovery, egress, around })
    }

    fn publish(&self, compiled: Compiled, prepared: Prepared) -> Result<Diff, Report> {
        let Prepared { opened, dns: opened_dns, discovery, egress, around } = prepared;
        let state = &mut *self.state();
        // Since we looked last, it may have been told to end.
        refuse_if_draining(state, &compiled)?;
        let diff = Diff::between(&state.compiled.document.to_json(), &compiled.document.to_json());
        // Keys of the same issuer go on: nobody waits for a fetch because of a reload.
        for (name, identity) in &compiled.identities {
            if let Some(before) = state.compiled.identities.get(name) {
                identity.adopt(before);
            }
        }
        // Endpoints may have come and gone while we compiled and waited: what is found now counts, and those that serve now
        // go on with their state.
        let compiled = with_found(compiled, &discovery, Some(&state.compiled.clusters));
        state.discovery = discovery;
        state.releases.update(&compiled);
        let before = self.0.edge.snapshot();
        let mesh = mesh::live(&compiled, before.mesh.as_deref());
        let live = (egress, mesh);
        let (compiled, snapshot) = split(compiled, state.generation + 1, &state.releases, live, &self.0.edge.metrics);
        // From here on nothing can fail: everything is compiled and every socket is open.
        self.0.edge.publish(snapshot);
        // Open tunnels are asked about anew, also when the way out is gone altogether.
        if let Some(egress) = &before.egress {
            egress.state.changed();
        }
        if let Some(mesh) = &before.mesh {
            mesh.state.changed();
        }
        self.0.edge.shedding.adopt(compiled.overload);
        state.generation += 1;
        if let Err(error) = state.listeners.apply(&compiled.listeners, opened, &state.cores, &self.0.edge.metrics) {
            tracing::error!(%error, "a listening socket cannot be duplicated; it will be missing in an upgrade");
        }
        let (dns, hash) = (compiled.dns.as_ref(), compiled.document.hash());
        if let Err(error) = state.dns.apply(dns, hash, opened_dns, &self.0.edge.metrics) {
            tracing::error!(%error, "a part of DNS cannot be started");
        }
        state.around.apply(&compiled, around);
        state.compiled = compiled;
        self.follow(state);
        Ok(diff)
    }

    /// The store through which the nodes of a fleet talk, if they do.
    pub(crate) fn board(&self) -> Option<(Arc<portcullis_gslb::Snapshot>, StoreConfig)> {
        let state = self.state();
        let snapshot = state.dns.snapshot()?;
        let config = state.compiled.stores.get(&snapshot.pace()?.store?)?;
        Some((snapshot, config.clone()))
    }

    /// What goes along with a published configuration: probes, expiry metrics, the log's target, forgotten series.
    fn follow(&self, state: &mut State) {
        let metrics = &self.0.edge.metrics;
        self.0.edge.access_log.open(state.compiled.log.target.clone());
        self.0.edge.audit_log.open(state.compiled.audit_log.clone());
        for certificate in state.compiled.certificates.iter() {
            metrics.certificate(certificate.name.as_str(), certificate.not_after);
        }
        let endpoints: HashSet<(String, String)> = (state.compiled.clusters.iter())
            .flat_map(|cluster| {
                cluster.endpoints.iter().map(|endpoint| (cluster.name.to_string(), endpoint.address.to_string()))
            })
            .collect();
        for (upstream, address) in state.endpoints.difference(&endpoints) {
            metrics.forget_endpoint(upstream, address);
        }
        state.endpoints = endpoints;
        let targets = state.compiled.clusters.iter().flat_map(|cluster| targets(cluster, metrics)).collect();
        state.prober.sync(targets);
        state.around.follow(&state.compiled, metrics);
        state.compiled.clusters.forget_old_probes(Instant::now());
    }

    /// A sidecar takes nothing more for its application, which is ending as well, but what that still has to say goes out: until
    /// the last process that told of itself has ended; where none did, until nothing has gone out for a moment. At the latest
    /// when the time to drain is over, and at once when it was told to quit.
    async fn let_the_application_end(&self) {
        let (applications, mut quits, patience) = {
            let mut state = self.state();
            if state.compiled.mesh.is_none() || *state.around.quits().borrow() {
                return;
            }
            state.draining = true;
            state.listeners.drain_but_outbound();
            (state.around.applications.clone(), state.around.quits(), state.compiled.drain.exchanges)
        };
        let ended = async {
            if applications.running() > 0 {
                return applications.ended().await;
            }
            let mut quiet_since = Instant::now();
            while quiet_since.elapsed() < OUTBOUND_QUIET {
                tokio::time::sleep(Duration::from_millis(20)).await;
                if self.state().listeners.open_outbound() > 0 {
                    quiet_since = Instant::now();
                }
            }
        };
        tokio::select! {
            () = ended => {}
            _ = quits.wait_for(|quit| *quit) => {}
            () = tokio::time::sleep(patience) => tracing::warn!("the application outlives its sidecar"),
        }
    }

    /// Ends as SIGTERM would, without waiting for the application.
    pub(crate) fn quit(&self) {
        self.state().around.quit();
    }

    /// Returns when it was told to quit, or a job that it served has ended.
    pub async fn quits(&self) {
        let (mut quits, applications) = {
            let state = self.state();
            (state.around.quits(), state.around.applications.clone())
        };
        tokio::select! {
            _ = quits.wait_for(|quit| *quit) => {}
            () = applications.take_along() => self.quit(),
        }
    }

    /// Why it is not ready, if it is not.
    pub(crate) fn unready(&self) -> Option<&'static str> {
        if self.is_draining() {
            return Some("draining");
        }
        // An application that starts now could reach nobody.
        match self.sidecar()?.plan.identity.at(SystemTime::now()) {
            Ok(_) => None,
            Err(PeerRefused::Expired) => Some("the identity is over"),
            Err(_) => Some("no identity yet"),
        }
    }

    /// Stops accepting, lets what is in flight end, and ends. Returns how many connections were cut.
    pub async fn stop(&self, stop: Stop) -> u32 {
        systemd::stopping();
        let began = Instant::now();
        if stop == Stop::Close {
            self.let_the_application_end().await;
        }
        let (drain, servers) = {
            let mut state = self.state();
            state.draining = true;
            if let (Stop::Close, Some(snapshot)) = (stop, state.dns.snapshot()) {
                // The peers leave this site before it is gone. Published here: nobody may come round to it any more.
                snapshot.report(GatewayReport { presence: Presence::Draining, ..GatewayReport::default() });
                snapshot.publish(Clocks::read());
            }
            match stop {
                Stop::Close => state.listeners.drain_all(),
                Stop::HandedOver => state.listeners.leave_all(),
            }
            (state.compiled.drain, state.dns.take_servers())
        };
        // They wait for their threads; successor or not, what was sent to us is answered by us.
        let dns = tokio::task::spawn_blocking(move || servers.into_iter().for_each(portcullis_gslb::Server::stop));
        // A successor leaves us all the time that streams may have.
        let patience = if stop == Stop::HandedOver { drain.streams } else { drain.exchanges };
        let deadline = began + patience;
        while !self.0.edge.is_quiet() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let _ = dns.await;
        let cut = self.0.edge.open_connections();
        self.state().releases.save();
        self.state().dns.flush_log();
        let cores = std::mem::take(&mut self.state().cores);
        for core in cores {
            core.stop();
        }
        self.0.edge.access_log.flush();
        self.0.edge.audit_log.flush();
        cut
    }

    /// Gives the listening sockets to a successor at the other end, and returns when it serves. Until then we serve on under
    /// the configuration that we have; the releases rest, because the successor goes on with them.
    pub fn hand_over(&self, stream: &mut std::os::unix::net::UnixStream) -> std::io::Result<()> {
        let _alone = self.0.reloading.lock().unwrap_or_else(PoisonError::into_inner);
        // Handles of our own: a successor may take a minute, and the state cannot be locked as long.
        let sockets = {
            let mut state = self.state();
            let each = state.listeners.sockets().into_iter().chain(state.dns.sockets());
            let each = each.map(|(name, socket)| Ok((name, socket.try_clone_to_owned()?)));
            let sockets: Vec<NamedSocket> = each.collect::<std::io::Result<_>>()?;
            state.releases.rest();
            state.dns.orders.rest();
            sockets
        };
        let borrowed: Vec<_> = sockets.iter().map(|(name, socket)| (name.clone(), socket.as_fd())).collect();
        let given = handover::give(stream, &borrowed);
        let mut state = self.state();
        match given {
            // Nothing that changes from now on would reach the successor.
            Ok(()) => state.draining = true,
            Err(_) => {
                state.releases.go_on();
                state.dns.orders.go_on();
            }
        }
        given
    }

    pub fn drain_listener(&self, name: &str) -> bool {
        let state = &mut *self.state();
        state.listeners.drain(name) || state.dns.drain(name)
    }

    /// The operator's word over an endpoint's health, or `None` to take it back. `false`: there is no such endpoint.
    pub fn force_endpoint(&self, upstream: &str, address: &str, forced: Option<Override>) -> bool {
        let state = self.state();
        let cluster = state.compiled.clusters.find(upstream).map(|(_, cluster)| cluster);
        let endpoint = cluster
            .and_then(|cluster| cluster.endpoints.iter().find(|endpoint| endpoint.address.to_string() == address));
        if let Some(endpoint) = endpoint {
            endpoint.state.force(forced, Instant::now());
            tracing::info!(upstream, endpoint = address, ?forced, "endpoint set by the operator");
        }
        endpoint.is_some()
    }

    /// An operator's word on a rollout; `None`: there is no such rollout.
    pub fn rollout(
        &self,
        name: &str,
        command: Command,
        why: Option<&str>,
    ) -> Option<Result<RolloutStatus, CommandRefused>> {
        self.state().releases.command(name, command, why)
    }

    /// Why the state of releases is not kept beyond this process, if so.
    pub(crate) fn releases_forget(&self) -> Option<String> {
        self.state().releases.forgets()
    }

    /// What was let through on report so far, as configuration; and how much more there was than is kept. `None`: there is no
    /// way out.
    pub fn learned(&self) -> Option<(String, u64)> {
        Some(self.0.edge.snapshot().egress.as_ref()?.state.learned())
    }

    /// The sidecar that runs. `None`: the document is none's.
    pub(crate) fn sidecar(&self) -> Option<Arc<LiveMesh>> {
        self.0.edge.snapshot().mesh.clone()
    }

    pub fn reopen_logs(&self) {
        self.0.edge.access_log.reopen();
        self.0.edge.audit_log.reopen();
        self.state().dns.reopen_log();
    }

    pub fn compiled(&self) -> Arc<Compiled> {
        self.state().compiled.clone()
    }

    /// Files whose change is a reason to reload.
    pub fn watched(&self) -> Watched {
        self.state().watched.clone()
    }

    pub fn metrics(&self) -> String {
        let snapshot = self.0.edge.snapshot();
        snapshot.peers.sync_metrics(&snapshot.clusters, Instant::now());
        self.0.edge.metrics.overload.sync(&self.0.edge.shedding);
        for limit in snapshot.routes.carried().limits.values() {
            let counts = limit.counts();
            let told = [("refused", counts.refused), ("shadowed", counts.shadowed), ("evicted", counts.evicted)];
            self.0.edge.metrics.rate_limit(limit.name(), told, counts.keys);
        }
        for (rule, counts) in snapshot.egress.iter().flat_map(|egress| egress.plan.policy.counts()) {
            self.0.edge.metrics.egress.rule(rule.as_str(), counts.applied, counts.would_deny);
        }
        if let Some(egress) = &snapshot.egress {
            let ejected = egress.state.ejected(Instant::now());
            let ejected = ejected.iter().map(|(destination, addresses)| (destination.as_str(), *addresses));
            self.0.edge.metrics.egress.ejected(ejected);
        }
        if let Some(svid) = snapshot.mesh.as_ref().and_then(|mesh| mesh.plan.identity.current()) {
            self.0.edge.metrics.mesh.identity(svid.seconds_to_expiry(SystemTime::now()));
        }
        self.0.edge.metrics.render()
    }

    /// Which route leaks what.
    pub fn leaks(&self) -> Vec<portcullis_ops::Leak> {
        self.0.edge.metrics.privacy.leaks()
    }

    /// Names and bound addresses of the listeners that accept now.
    pub fn listeners(&self) -> Vec<(String, Option<std::net::SocketAddr>)> {
        let state = self.state();
        let dns = state.dns.bound().map(|(name, _, bound, _)| (name.to_string(), Some(bound)));
        state.listeners.iter().map(|live| (live.plan.name.to_string(), live.bound)).chain(dns).collect()
    }

    /// The admin interface of this gateway.
    pub fn router(&self) -> axum::Router {
        admin::router(self.clone())
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.state().draining
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long nothing goes out of an application that is taken to have ended.
const OUTBOUND_QUIET: Duration = Duration::from_secs(2);

/// Waits a little for first answers. The runtime must be free to fetch them: no lock may be held.
fn settle(discovery: &Discovery) {
    let runtime = tokio::runtime::Handle::current();
    // A thread of its own may block, whatever kind of thread this is.
    std::thread::scope(|scope| {
        scope.spawn(|| runtime.block_on(discovery.settled(FIRST_ANSWERS)));
    });
}

/// Fills in what discovery knows by now; endpoints go on with their state in `before`.
fn with_found(compiled: Compiled, discovery: &Discovery, before: Option<&Clusters>) -> Compiled {
    match compiled.clusters.with_found(|source| discovery.snapshot(source), before, Instant::now()) {
        Some(clusters) => Compiled { clusters: Arc::new(clusters), ..compiled },
        None => compiled,
    }
}

fn refuse_if_draining(state: &State, compiled: &Compiled) -> Result<(), Report> {
    if state.draining {
        return Err(refusal(compiled, "process", "this process is ending: it takes no new configuration".to_owned()));
    }
    Ok(())
}

/// What only shows when a configuration is to be run.
fn refusal(compiled: &Compiled, kind: &str, message: String) -> Report {
    let mut cx = portcullis_config::Context::new(compiled.document.clone(), Report::default());
    cx.error(&portcullis_config::Path::root().key(kind), message);
    cx.finish().0
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
