//! `[identity.NAME]`.

use crate::Algorithm;
use portcullis_names::TimeSpan;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Who issues tokens, and which of them are accepted.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub struct IdentitySpec {
    /// `iss` must be exactly this. Without `jwks.file` or `jwks.url`, the keys are found through it (OpenID Connect Discovery).
    pub issuer: String,
    /// `aud` must name one of these.
    #[schemars(length(min = 1))]
    pub audiences: Vec<String>,
    /// Where the keys are (default: where the issuer's metadata says).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwks: Option<JwksSpec>,
    /// Only these (default: what each key's type and `alg` allow).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub algorithms: Option<Vec<Algorithm>>,
    /// How far the issuer's clock may differ (default 30s, at most 10m).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leeway: Option<TimeSpan>,
    /// Claims that every token must have, besides `exp`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub require: Option<Vec<String>>,
}

/// Where the issuer's keys are.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub struct JwksSpec {
    /// A JSON Web Key Set on this machine; the only place from which shared secrets (HS256 …) are taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// A JSON Web Key Set; https, or http to a loopback address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// How long fetched keys are used before they are fetched again (default 1h, at least 1m).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<TimeSpan>,
    /// How long they are used beyond that while fetching fails (default 24h).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stale: Option<TimeSpan>,
}
