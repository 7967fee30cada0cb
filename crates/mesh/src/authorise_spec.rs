//! `[access.X]` of a sidecar, as the operator writes it.

use portcullis_names::Method;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Who may call what. Judged where the call arrives.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub struct MeshAccessSpec {
    /// `"service:cart"` (own namespace), `"service:cart.acme.lab"`, `"namespace:acme.lab"`, SPIFFE ids, or `"*"`.
    #[schemars(length(min = 1))]
    pub from: Vec<String>,
    /// `"service:payments"` or `"*"`; what names another service is not this sidecar's.
    #[schemars(length(min = 1))]
    pub to: Vec<String>,
    /// Only these calls (default all).
    #[serde(rename = "match", skip_serializing_if = "Option::is_none")]
    pub matches: Option<MeshAccessMatchSpec>,
    /// Only peers with these attributes: `{ version = "v7*", cvss = ">=7.0", owner = "absent" }`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attributes: Option<BTreeMap<String, String>>,
    pub action: MeshAction,
    /// `true`: only count what the rule would do (default `false`). An allow rule then lets through and counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub report: Option<bool>,
}

/// Which calls a rule is about.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub struct MeshAccessMatchSpec {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub methods: Option<Vec<Method>>,
    /// A prefix of whole segments: `/charge` takes `/charge` and `/charge/7`, not `/charges`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Ports of the workload.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports: Option<Vec<u16>>,
    /// Claims of the caller's verified token: text, or one of a list of texts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claims: Option<BTreeMap<String, String>>,
}

/// Quarantine beats deny, deny beats allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MeshAction {
    Allow,
    Deny,
    /// The peer is cut off altogether, whatever it calls.
    Quarantine,
}
