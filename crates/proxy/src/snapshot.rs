//! What one published configuration is to the data path: compiled tables, pinned by each request for its whole life.

use crate::{
    api_guard::ApiGuard, core::Counter, egress::LiveEgress, engine::Peers, mesh::LiveMesh, privacy_guard::PrivacyGuard,
    release::Releases, waf_guard::WafGuard,
};
use arc_swap::ArcSwap;
use portcullis_auth::KeyHandle;
use portcullis_names::ObjectName;
use portcullis_ops::{
    Shedding,
    access_log::{AccessLog, LogPlan},
    metrics::{Metrics, RouteMetrics},
};
use portcullis_policy::{Geo, RouteTable};
use portcullis_store::StoreConfig;
use portcullis_upstream::Clusters;
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// Immutable once published.
#[derive(Debug)]
pub struct Snapshot {
    /// Sends spans of what is sampled.
    pub tracer: Option<Arc<portcullis_ops::Tracer>>,
    pub generation: u64,
    pub routes: Arc<RouteTable>,
    pub clusters: Arc<Clusters>,
    /// Per cluster and endpoint, what pingora needs to reach it.
    pub peers: Peers,
    /// Metric handles of every rule, by plan index.
    pub route_metrics: Arc<[RouteMetrics]>,
    /// Objectives and rollouts of every rule, by plan index.
    pub releases: Arc<[Releases]>,
    /// What looks at the requests of every rule, by plan index.
    pub wafs: Arc<[Option<Arc<WafGuard>>]>,
    /// The documents that every rule's messages are held against, by plan index.
    pub apis: Arc<[Option<Arc<ApiGuard>>]>,
    /// What personal data is looked for in the messages of every rule, by plan index.
    pub privacy: Arc<[Option<Arc<PrivacyGuard>>]>,
    pub geo: Option<Arc<Geo>>,
    /// Where rate limits count together with other processes.
    pub stores: BTreeMap<ObjectName, StoreConfig>,
    /// Of each identity whose keys are fetched; the fetching ends with the last of them.
    pub keys: BTreeMap<ObjectName, KeyHandle>,
    /// The way out, where the document has one.
    pub egress: Option<Arc<LiveEgress>>,
    /// The sidecar, where the document is one.
    pub mesh: Option<Arc<LiveMesh>>,
    pub log: LogPlan,
    pub drain: Drain,
    pub max_connections: u32,
}

impl Snapshot {
    /// The same configuration with other endpoints. `clusters` has the same upstreams in the same order.
    pub fn with_clusters(&self, clusters: Arc<Clusters>, peers: Peers) -> Self {
        Self {
            generation: self.generation,
            routes: self.routes.clone(),
            clusters,
            peers,
            route_metrics: self.route_metrics.clone(),
            releases: self.releases.clone(),
            wafs: self.wafs.clone(),
            apis: self.apis.clone(),
            privacy: self.privacy.clone(),
            geo: self.geo.clone(),
            stores: self.stores.clone(),
            keys: self.keys.clone(),
            egress: self.egress.clone(),
            mesh: self.mesh.clone(),
            tracer: self.tracer.clone(),
            log: self.log.clone(),
            drain: self.drain,
            max_connections: self.max_connections,
        }
    }
}

/// How long ending takes at most.
#[derive(Debug, Clone, Copy)]
pub struct Drain {
    /// `process.drain`: requests in flight.
    pub exchanges: Duration,
    /// `process.stream_drain`: WebSockets, tunnels, h2 connections with open streams.
    pub streams: Duration,
}

/// What all cores share for the life of the process.
#[derive(Debug)]
pub struct Edge {
    snapshot: ArcSwap<Snapshot>,
    pub metrics: Arc<Metrics>,
    pub access_log: AccessLog,
    /// A line for each transaction that the WAF has something to say about.
    pub audit_log: AccessLog,
    pub shedding: Shedding,
    pub(crate) connections: Counter,
    pub(crate) accepting: Counter,
}

impl Edge {
    pub fn new(
        snapshot: Arc<Snapshot>,
        metrics: Arc<Metrics>,
        access_log: AccessLog,
        audit_log: AccessLog,
        shedding: Shedding,
    ) -> Self {
        Self {
            snapshot: ArcSwap::new(snapshot),
            metrics,
            access_log,
            audit_log,
            shedding,
            connections: Counter::default(),
            accepting: Counter::default(),
        }
    }

    /// Pins the configuration of the moment.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    pub fn publish(&self, snapshot: Arc<Snapshot>) {
        self.snapshot.store(snapshot);
    }

    pub fn open_connections(&self) -> u32 {
        self.connections.get()
    }

    /// Nothing is accepted any more and nothing is open.
    pub fn is_quiet(&self) -> bool {
        self.accepting.get() == 0 && self.connections.get() == 0
    }
}
