//! What `relax` and `may_relax` name.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A kind of check that a level above demands and one below may be let off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Relaxable {
    Ip,
    Auth,
    Authz,
    RateLimit,
    Concurrency,
    Waf,
    Privacy,
    Api,
}

impl fmt::Display for Relaxable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ip => "ip",
            Self::Auth => "auth",
            Self::Authz => "authz",
            Self::RateLimit => "rate_limit",
            Self::Concurrency => "concurrency",
            Self::Waf => "waf",
            Self::Privacy => "privacy",
            Self::Api => "api",
        })
    }
}
