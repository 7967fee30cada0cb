//! From what was compiled to what the data path pins.

use crate::{Compiled, release_board::ReleaseBoard};
use portcullis_auth::{Identity, KeyClient, KeyHandle, KeyRefresher, SystemClock};
use portcullis_names::ObjectName;
use portcullis_ops::metrics::Metrics;
use portcullis_proxy::{LiveEgress, LiveMesh, Peers, Snapshot};
use portcullis_tls::system_client;
use std::{collections::BTreeMap, sync::Arc};

/// Divides a compiled configuration into what the data path pins and what the control side keeps. Both share the tables.
pub(super) fn split(
    compiled: Compiled,
    generation: u64,
    releases: &ReleaseBoard,
    (egress, mesh): (Option<Arc<LiveEgress>>, Option<Arc<LiveMesh>>),
    metrics: &Arc<Metrics>,
) -> (Arc<Compiled>, Arc<Snapshot>) {
    let peers = Peers::new(&compiled.clusters, metrics, mesh.as_deref());
    let route_metrics = compiled.routes.plans().map(|plan| metrics.route(&plan.name())).collect();
    let compiled = Arc::new(compiled);
    let snapshot = Snapshot {
        tracer: compiled.tracer.clone(),
        generation,
        routes: compiled.routes.clone(),
        clusters: compiled.clusters.clone(),
        peers,
        route_metrics,
        releases: releases.releases(&compiled).into(),
        wafs: compiled.wafs.clone(),
        apis: compiled.apis.clone(),
        privacy: compiled.privacy.clone(),
        geo: compiled.geo.clone(),
        stores: compiled.stores.clone(),
        keys: fetch_keys(&compiled.identities),
        egress,
        mesh,
        log: compiled.log.clone(),
        drain: compiled.drain,
        max_connections: compiled.max_connections,
    };
    (compiled, Arc::new(snapshot))
}

/// Starts the fetching of keys for identities whose issuers publish them. It ends with the snapshot that holds the handles.
fn fetch_keys(identities: &BTreeMap<ObjectName, Arc<Identity>>) -> BTreeMap<ObjectName, KeyHandle> {
    let each = identities.iter().filter_map(|(name, identity)| {
        let client = KeyClient::new(system_client());
        let (refresher, handle) = KeyRefresher::new(identity.clone(), client, Arc::new(SystemClock))?;
        tokio::spawn(refresher.run(fastrand::f64));
        Some((name.clone(), handle))
    });
    each.collect()
}
