//! What an operator is shown of upstreams.

use crate::{Cluster, Policy};
use portcullis_health::HealthState;
use serde::Serialize;
use std::time::Instant;

#[derive(Debug, Clone, Serialize)]
pub struct UpstreamStatus {
    pub name: String,
    pub policy: Policy,
    pub endpoints: Vec<EndpointStatus>,
}

#[derive(Debug, Clone, Serialize)]
pub struct EndpointStatus {
    pub address: String,
    pub weight: u32,
    pub health: HealthState,
    pub drained: bool,
    pub since_seconds: u64,
    /// Why the last failed probe failed.
    pub last_failure: Option<String>,
    pub active: u32,
    pub requests: u64,
    pub failures: u64,
}

impl Cluster {
    pub fn status(&self, now: Instant) -> UpstreamStatus {
        let endpoints = self.endpoints.iter().map(|endpoint| {
            let health = endpoint.state.health();
            EndpointStatus {
                address: endpoint.address.to_string(),
                weight: endpoint.weight,
                health: health.state(),
                drained: endpoint.state.is_drained(),
                since_seconds: now.saturating_duration_since(health.since()).as_secs(),
                last_failure: health.last_failure().map(|failure| failure.to_string()),
                active: endpoint.state.active(),
                requests: endpoint.state.requests(),
                failures: endpoint.state.failures(),
            }
        });
        UpstreamStatus { name: self.name.to_string(), policy: self.policy, endpoints: endpoints.collect() }
    }
}
