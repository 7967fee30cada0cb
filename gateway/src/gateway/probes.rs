//! What is probed: each endpoint of an upstream with a health check, and whom its outcomes are told.

use portcullis_health::{HealthState, Probe, ProbeKind, Target};
use portcullis_ops::metrics::Metrics;
use portcullis_upstream::Cluster;
use std::{sync::Arc, time::Instant};

pub(super) fn targets(cluster: &Arc<Cluster>, metrics: &Arc<Metrics>) -> Vec<Target> {
    let Some(check) = &cluster.health_check else { return Vec::new() };
    let kind = match &cluster.tls {
        None => ProbeKind::Clear,
        Some(tls) => ProbeKind::Tls { config: tls.config(b"http/1.1"), server_name: tls.server_name.clone() },
    };
    let each = cluster.endpoints.iter().map(|endpoint| {
        let handles = metrics.endpoint(cluster.name.as_str(), &endpoint.address.to_string());
        let (state, upstream, address) = (endpoint.state.clone(), cluster.name.clone(), endpoint.address.clone());
        let (healthy, unhealthy) = (check.healthy, check.unhealthy);
        Target {
            key: format!(
                "{} {} {check:?} {:?}",
                cluster.name,
                endpoint.address,
                cluster.tls.as_ref().map(portcullis_tls::UpstreamTls::group_key)
            ),
            probe: Probe { address: endpoint.address.clone(), kind: kind.clone(), check: check.clone() },
            tell: Arc::new(move |outcome| {
                if let Some(now) = state.observe(outcome, healthy, unhealthy, Instant::now()) {
                    handles.up(now.is_usable());
                    let failure = outcome.err().map(|failure| failure.to_string());
                    match now {
                        HealthState::Down => {
                            tracing::warn!(%upstream, endpoint = %address, failure, "endpoint is down")
                        }
                        state => tracing::info!(%upstream, endpoint = %address, ?state, "endpoint answers probes"),
                    }
                }
            }),
        }
    });
    each.collect()
}
