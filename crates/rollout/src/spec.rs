//! `[rollout.NAME]` as the operator writes it.

use portcullis_names::{Percent, TimeSpan};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::num::NonZeroU64;

/// A release of a new version, step by step.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub struct RolloutSpec {
    /// The route whose requests move.
    pub route: String,
    /// The upstream of the old version: one that the route sends to.
    pub from: String,
    /// The upstream of the new version.
    pub to: String,
    /// Shares of `from`'s requests that go to `to`, each more than the one before (default 1%, 5%, 25%, 50%, 100%). The
    /// last one stays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<Vec<Percent>>,
    /// How long each step is watched at the least (default 10m).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold: Option<TimeSpan>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gate: Option<GateSpec>,
    /// Default rollback.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_fail: Option<OnFail>,
    /// Copies of requests go to `to` before any request does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mirror_first: Option<MirrorFirstSpec>,
    /// Judge and tell, but move nothing (default false). With `mirror_first`, copies are judged at every step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dry_run: Option<bool>,
}

/// What the new version must hold to.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub struct GateSpec {
    /// An objective of the same route. While its budget burns fast enough to page somebody, nothing is
    /// promoted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slo: Option<String>,
    /// Requests of the new version before any verdict (default 100). What plainly fails is cut off earlier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_requests: Option<NonZeroU64>,
    /// How many times faster than `slo` allows the new version may spend the error budget (default 2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_burn: Option<f64>,
    /// Error ratio of the new version over that of the old (default 2). A baseline below 0.1% counts as 0.1%.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_error_ratio_over_baseline: Option<f64>,
    /// 99th percentile of the new version's latency over that of the old (default 1.5). A baseline
    /// below 2ms counts as 2ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_latency_ratio: Option<f64>,
}

/// What happens to a release that fails its gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnFail {
    /// Everything goes back to the old version.
    Rollback,
    /// The share stays where it is until an operator decides.
    Pause,
}

/// A dark launch: the new version answers copies, and nobody sees the answers.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub struct MirrorFirstSpec {
    /// Share of requests that are copied (default 100%).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percent: Option<Percent>,
    /// Default: the rollout's `hold`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold: Option<TimeSpan>,
}
