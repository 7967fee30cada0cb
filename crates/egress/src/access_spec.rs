//! `[access.X]` as the operator writes it.

use portcullis_names::Method;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Who may reach what. Without a rule that allows it, nothing is reached.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub struct AccessSpec {
    /// SPIFFE ids, `certificate:NAME`, address ranges, `user:NAME`, `uid:NUMBER`, `cgroup:/PATH`, or `"*"`.
    #[schemars(length(min = 1))]
    pub from: Vec<String>,
    /// `"destination:NAME"`; with action deny or report also `"*"`; with action deny and from `"*"` also address ranges.
    #[schemars(length(min = 1))]
    pub to: Vec<String>,
    /// Only these requests (default all).
    #[serde(rename = "match", skip_serializing_if = "Option::is_none")]
    pub matches: Option<AccessMatchSpec>,
    pub action: AccessAction,
    /// End of the grant, RFC 3339: `"2027-01-31T00:00:00Z"` (default none).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// Why there is this rule; shown by `explain` and in refusals.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Which requests a rule is about. Of a tunnel that is not opened no request is seen.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub struct AccessMatchSpec {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub methods: Option<Vec<Method>>,
    /// A prefix of whole segments: `/charge` takes `/charge` and `/charge/7`, not `/charges`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// Deny beats allow, allow beats report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AccessAction {
    Allow,
    Deny,
    /// Lets through what nothing else allows, and counts it as what would be denied.
    Report,
}
