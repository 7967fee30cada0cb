//! What an operator is shown of upstreams.

use crate::{Cluster, Policy};
use portcullis_health::{EjectReason, HealthState};
use serde::Serialize;
use std::time::Instant;

#[derive(Debug, Clone, Serialize)]
pub struct UpstreamStatus {
    pub name: String,
    pub policy: Policy,
    pub requests: u32,
    pub retries: u32,
    pub connections: u32,
    pub endpoints: Vec<EndpointStatus>,
}

#[derive(Debug, Clone, Serialize)]
pub struct EndpointStatus {
    pub address: String,
    pub weight: u32,
    pub health: HealthState,
    pub since_seconds: u64,
    /// Why the last failed probe failed.
    pub last_failure: Option<String>,
    /// Why its answers took it out, while they do.
    pub ejected_for: Option<EjectReason>,
    pub zone: Option<String>,
    pub priority: u32,
    /// Microseconds that it takes to answer, its latest peaks included.
    pub latency_us: u64,
    pub active: u32,
    pub requests: u64,
    pub failures: u64,
}

impl Cluster {
    /// Requests under way, in thousandths of what the circuit breaker allows.
    pub fn fullness(&self) -> u16 {
        let (now, most) = (u64::from(self.load.requests.get()), u64::from(self.circuit_breaker.requests.max(1)));
        u16::try_from(now.saturating_mul(1_000) / most).unwrap_or(u16::MAX)
    }

    pub fn status(&self, now: Instant) -> UpstreamStatus {
        let endpoints = self.endpoints.iter().map(|endpoint| {
            let health = endpoint.state.health();
            EndpointStatus {
                address: endpoint.address.to_string(),
                weight: endpoint.weight,
                health: health.state(now),
                since_seconds: now.saturating_duration_since(health.since()).as_secs(),
                last_failure: health.last_failure().map(|failure| failure.to_string()),
                ejected_for: health.ejection().map(|(reason, _)| reason),
                zone: endpoint.zone.clone(),
                priority: endpoint.priority,
                latency_us: endpoint.state.latency.get(now) as u64,
                active: endpoint.state.active(),
                requests: endpoint.state.requests(),
                failures: endpoint.state.failures(),
            }
        });
        UpstreamStatus {
            name: self.name.to_string(),
            policy: self.balance.policy,
            requests: self.load.requests.get(),
            retries: self.load.retries.get(),
            connections: self.load.connections.get(),
            endpoints: endpoints.collect(),
        }
    }
}
