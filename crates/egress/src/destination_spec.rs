//! `[destination.X]` as the operator writes it.

use crate::{binding::Bind, binding::EchPolicy, protocol::Protocol};
use portcullis_config::Path;
use portcullis_health::OutlierSpec;
use portcullis_names::{ByteSize, Cidr, ObjectName, Rate, TimeSpan};
use portcullis_policy::{HeaderEditsSpec, Outward, RetrySpec, RouteWafSpec};
use portcullis_upstream::{BalanceSpec, CircuitBreakerSpec, RetryBudgetSpec, UpstreamSpec};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{
    num::{NonZeroU32, NonZeroU64},
    time::Duration,
};

/// A party outside: its hosts, and how it is talked to. Nobody reaches it without an `[access.X]`.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub struct DestinationSpec {
    /// Names, `*.x` (one label), `**.x` (any depth), or address ranges.
    #[schemars(length(min = 1))]
    pub hosts: Vec<String>,
    /// Default 443, or 80 with protocol = "http".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports: Option<Vec<u16>>,
    /// What must be spoken; the first octets are looked at (default tls).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// Default passthrough.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsMode>,
    /// With tls = "originate" or "inspect": the `[trust.X]` whose authorities may certify the destination (default the system's).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trust: Option<String>,
    /// For one address of the destination, at most four of which are tried (default 3s).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_timeout: Option<TimeSpan>,
    /// Longest silence of the destination within a request (default 60s). Of tunnels, see `egress.idle_timeout`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<TimeSpan>,
    /// Whether the names of policy, tunnel, ClientHello, Host and resolver must be one (default strict).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bind: Option<Bind>,
    /// What becomes of a ClientHello that hides its server's name (default deny).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ech: Option<EchPolicy>,
    /// Ranges outside the public internet that the hosts may resolve to (default none).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub private_addresses: Option<Vec<Cidr>>,
    /// A `[credential.X]` that is added to requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credential: Option<ObjectName>,
    /// Accepts wildcards below suffixes under which everybody can register names (default false).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_public_suffix: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<DestinationRateSpec>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<BudgetSpec>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tunnels: Option<TunnelsSpec>,
    /// Among the addresses of a host, as among the endpoints of an upstream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub balance: Option<BalanceSpec>,
    /// Which addresses of a host are left alone for a while.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outlier: Option<OutlierSpec>,
    /// What the destination is given at one time, over all of its hosts; a tunnel counts as a request and as a connection
    /// (default no limit).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub circuit_breaker: Option<CircuitBreakerSpec>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_budget: Option<RetryBudgetSpec>,
    /// Of requests that the gateway sees. Another address is tried in any case when one does not take a connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetrySpec>,
    /// Of requests that the gateway sees, before its own `credential` is added.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_headers: Option<HeaderEditsSpec>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_headers: Option<HeaderEditsSpec>,
    /// How requests that the gateway sees are looked at, and their answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waf: Option<RouteWafSpec>,
    /// A `[privacy.NAME]`: personal data that leaves, or comes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub privacy: Option<String>,
    /// An `[api.NAME]` that requests and answers fit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api: Option<String>,
    /// A proxy of `[egress.parent.NAME]` that leads there, or "direct" (default `egress.via`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub via: Option<String>,
}

impl DestinationSpec {
    /// The policy towards its addresses, in an upstream's words; times are the destination's own.
    pub fn traffic(&self) -> UpstreamSpec {
        let no_limit = CircuitBreakerSpec {
            connections: Some(NonZeroU32::MAX),
            pending: Some(NonZeroU32::MAX),
            requests: Some(NonZeroU32::MAX),
            retries: Some(NonZeroU32::MAX),
        };
        UpstreamSpec {
            balance: self.balance.clone(),
            outlier: self.outlier.clone(),
            circuit_breaker: Some(self.circuit_breaker.clone().unwrap_or(no_limit)),
            retry_budget: self.retry_budget.clone(),
            ..UpstreamSpec::default()
        }
    }

    /// What happens to its requests; `None` where none are seen.
    pub fn outward<'s>(&'s self, destination: &'s ObjectName) -> Option<Outward<'s>> {
        self.sees_requests().then(|| Outward {
            destination,
            at: Path::root().key("destination").key(destination),
            timeout: self.timeout.map_or(TIMEOUT, TimeSpan::get),
            retry: self.retry.as_ref(),
            request_headers: self.request_headers.as_ref(),
            response_headers: self.response_headers.as_ref(),
            waf: self.waf.as_ref(),
            privacy: self.privacy.as_deref(),
            api: self.api.as_deref(),
        })
    }

    pub(crate) fn sees_requests(&self) -> bool {
        self.tls.unwrap_or_default() != TlsMode::Passthrough || self.protocol == Some(Protocol::Http)
    }
}

/// Longest silence of a destination that says nothing else.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);

/// Who opens the TLS towards the destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TlsMode {
    /// The client; its octets pass unopened.
    #[default]
    Passthrough,
    /// The gateway: the client speaks http to it, and it https to the destination.
    Originate,
    /// Both: the gateway answers as the destination, with a certificate of `[egress] inspect`, and opens a TLS of its own to it.
    Inspect,
}

/// Who shares a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SharedBy {
    /// Each caller counts for itself.
    #[default]
    Workload,
    /// All callers together.
    Destination,
}

/// `rate_limit = { rate = "50/s", key = "workload" }`: requests and tunnels begun.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub struct DestinationRateSpec {
    pub rate: Rate,
    /// How many at once (default: what the rate gives in one of its units of time).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst: Option<NonZeroU32>,
    /// Default workload.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<SharedBy>,
}

/// `budget = { requests = 2000000, bytes = "10GiB", per = "30d" }`, in windows that follow each other from 1970.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub struct BudgetSpec {
    /// Requests and tunnels begun.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests: Option<NonZeroU64>,
    /// Octets in both directions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<ByteSize>,
    /// From one second to 366 days.
    pub per: TimeSpan,
    /// Default workload.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<SharedBy>,
}

/// `tunnels = { max = 500 }`: open at the same time, whether or not the gateway reads what is inside.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub struct TunnelsSpec {
    pub max: NonZeroU32,
    /// Default workload.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<SharedBy>,
}
