//! `[egress]` as the operator writes it: what holds for everything that goes out.

use portcullis_egress::ParentSpec;
use portcullis_names::{ObjectName, TimeSpan};
use portcullis_tls::InspectionSpec;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How the way out works. Who may go where is in `[destination.X]` and `[access.X]`.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub struct EgressSpec {
    /// The `[discovery.X]` whose DNS servers are asked for destinations (default: the system's).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resolver: Option<String>,
    /// How long a tunnel or a request may go on that a new policy, or the end of its grant, no longer allows (default 10s).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain: Option<TimeSpan>,
    /// The authority that signs for destinations with tls = "inspect"; applications must trust it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inspect: Option<InspectionSpec>,
    /// Longest silence in a tunnel (default 1h).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<TimeSpan>,
    /// The parent by which destinations are reached that do not say `via` (default none: directly).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub via: Option<String>,
    /// Proxies between this gateway and the internet.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parent: BTreeMap<ObjectName, ParentSpec>,
}
