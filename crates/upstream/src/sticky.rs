//! `sticky = { … }`: one client stays with one endpoint, by a cookie.

use portcullis_names::{EndpointAddress, TimeSpan};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

/// A cookie that keeps a client with its endpoint as long as that one serves, or is drained.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StickySpec {
    /// The cookie's name.
    #[schemars(length(min = 1, max = 64))]
    pub cookie: String,
    /// How long the client keeps it (default: until it ends its session).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<TimeSpan>,
}

/// What the cookie says: an endpoint, without naming it. Equal on every gateway, and after every restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StickyToken(u64);

impl StickyToken {
    pub(crate) fn of(upstream: &str, address: &EndpointAddress) -> Self {
        Self(xxh3_64(format!("{upstream}\0{address}").as_bytes()))
    }

    /// From a cookie's value; anything else is a client without an endpoint.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let plain = text.len() == 16 && text.bytes().all(|octet| matches!(octet, b'0'..=b'9' | b'a'..=b'f'));
        plain.then(|| u64::from_str_radix(text, 16).ok()).flatten().map(Self)
    }
}

impl std::fmt::Display for StickyToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_its_cookie_and_tells_nothing_else() {
        let address: EndpointAddress = "10.0.0.1:80".parse().unwrap();
        let token = StickyToken::of("shop", &address);
        assert_eq!(StickyToken::parse(token.to_string().as_bytes()), Some(token));
        assert_ne!(StickyToken::of("other", &address), token);
        assert_eq!(token.to_string(), "53d5a5175c921ec9", "clients hold these over upgrades");
        for bad in ["", "x", "00000000000000000", "+000000000000000", "ABCDEFABCDEFABCD", "10.0.0.1:80"] {
            assert_eq!(StickyToken::parse(bad.as_bytes()), None, "{bad}");
        }
    }
}
