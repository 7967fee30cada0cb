//! `security_headers = "basic" | "strict"`: response fields that make browsers careful, where the origin says nothing itself.

use crate::Scheme;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which fields. An origin that sends one of them knows better and keeps its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SecurityHeaders {
    /// What breaks hardly any site: no sniffing, no framing by others, short referrers, and https for a year.
    Basic,
    /// Also: nothing from elsewhere, no framing at all, no camera or the like, subdomains on https too.
    Strict,
    /// None, below a level that has some.
    Off,
}

type Fields = &'static [(&'static str, &'static str)];

/// OWASP Secure Headers Project; RFC 6797 for the first.
const HSTS: &str = "strict-transport-security";
const BASIC: Fields = &[
    (HSTS, "max-age=31536000"),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "SAMEORIGIN"),
    ("referrer-policy", "strict-origin-when-cross-origin"),
];
const STRICT: Fields = &[
    (HSTS, "max-age=31536000; includeSubDomains"),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("content-security-policy", "default-src 'self'; object-src 'none'; base-uri 'self'; frame-ancestors 'none'"),
    ("permissions-policy", "camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
];

impl SecurityHeaders {
    /// The fields for a response over `scheme`. RFC 6797 §7.2: the first is not sent over plain http.
    pub fn fields(self, scheme: Scheme) -> impl Iterator<Item = (&'static str, &'static str)> {
        let fields: Fields = match self {
            Self::Basic => BASIC,
            Self::Strict => STRICT,
            Self::Off => &[],
        };
        fields.iter().copied().filter(move |(name, _)| scheme == Scheme::Https || *name != HSTS)
    }
}
