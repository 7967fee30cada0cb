//! `[upstream.X]` as the operator writes it.

use crate::{BalanceSpec, CircuitBreakerSpec, RetryBudgetSpec, StickySpec};
use portcullis_discover::{DiscoverSpec, EndpointSpec};
use portcullis_health::{HealthCheckSpec, OutlierSpec};
use portcullis_names::{Percent, TimeSpan};
use portcullis_tls::UpstreamTlsSpec;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::num::NonZeroU32;

/// A pool of endpoints and all policy towards it.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UpstreamSpec {
    /// Those that are known by address; `discover` may find more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<EndpointSpec>,
    /// Where endpoints are found while this runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub discover: Option<DiscoverSpec>,
    /// Default h1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<HttpProtocol>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<UpstreamTlsSpec>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub balance: Option<BalanceSpec>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sticky: Option<StickySpec>,
    /// TCP connection and, after it, TLS handshake (default 2s each).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_timeout: Option<TimeSpan>,
    /// Longest silence of the endpoint (default 60s).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_timeout: Option<TimeSpan>,
    /// Longest time in which the endpoint takes nothing (default 60s).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write_timeout: Option<TimeSpan>,
    /// How long an unused connection is kept (default 60s).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<TimeSpan>,
    /// Concurrent streams on one h2 connection (default 100).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub streams: Option<NonZeroU32>,
    /// Begin each connection with a PROXY header that names the client. Such connections are not shared or kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<ProxyProtocolVersion>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheckSpec>,
    /// With fewer endpoints up than this, health is not believed (default 50%).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub panic_threshold: Option<Percent>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outlier: Option<OutlierSpec>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub circuit_breaker: Option<CircuitBreakerSpec>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_budget: Option<RetryBudgetSpec>,
    /// The upstream that is asked when none of these endpoints may be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fallback: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum HttpProtocol {
    H1,
    /// Over TLS.
    H2,
    /// In clear, with prior knowledge.
    H2c,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ProxyProtocolVersion {
    V1,
    V2,
}
