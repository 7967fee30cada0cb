//! Which subject alternative names a peer's certificate may carry: `"spiffe://corp/ns/pay/*"`, `"*.partner.example"`.

use crate::text::{ParseError, text_type};
use std::{fmt, str::FromStr};

/// One accepted name. A URI pattern ends in `/*` to take every path below it; a DNS pattern is a host pattern.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SanPattern {
    UriExact(String),
    /// The prefix with its final `/`.
    UriBelow(String),
    Dns(crate::HostPattern),
}

text_type!(
    SanPattern,
    format = "san-pattern",
    expects = "a certificate name, like \"spiffe://corp/ns/pay/*\", \"client.example.com\" or \"*.example.com\""
);

impl SanPattern {
    pub fn matches_uri(&self, uri: &str) -> bool {
        match self {
            Self::UriExact(exact) => exact == uri,
            Self::UriBelow(prefix) => uri.strip_prefix(prefix.as_str()).is_some_and(|rest| !rest.is_empty()),
            Self::Dns(_) => false,
        }
    }

    /// `name` in lower case.
    pub fn matches_dns(&self, name: &str) -> bool {
        matches!(self, Self::Dns(pattern) if pattern.matches(name))
    }
}

impl FromStr for SanPattern {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong = || ParseError::new(Self::EXPECTS, text);
        let Some((scheme, rest)) = text.split_once("://") else {
            return match text.parse() {
                // `*` would turn the check off without saying so.
                Ok(crate::HostPattern::Any) | Err(_) => Err(wrong()),
                Ok(host) => Ok(Self::Dns(host)),
            };
        };
        let plain = !scheme.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
        let (body, below) = match rest.strip_suffix("/*") {
            Some(body) => (body, true),
            None => (rest, false),
        };
        if !plain || body.is_empty() || body.contains('*') {
            return Err(wrong());
        }
        Ok(if below { Self::UriBelow(format!("{scheme}://{body}/")) } else { Self::UriExact(text.to_owned()) })
    }
}

impl fmt::Display for SanPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UriExact(exact) => f.write_str(exact),
            Self::UriBelow(prefix) => write!(f, "{prefix}*"),
            Self::Dns(host) => write!(f, "{host}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_match_exactly_or_below_a_path() {
        let below: SanPattern = "spiffe://corp/ns/pay/*".parse().unwrap();
        assert!(below.matches_uri("spiffe://corp/ns/pay/sa/x"));
        for other in ["spiffe://corp/ns/pay/", "spiffe://corp/ns/payx", "spiffe://corp2/ns/pay/sa", "x"] {
            assert!(!below.matches_uri(other), "{other}");
        }
        let dns: SanPattern = "*.partner.example".parse().unwrap();
        assert!(dns.matches_dns("a.partner.example") && !dns.matches_uri("a.partner.example"));
        for bad in ["", "*", "spiffe://", "spiffe://*", "spiffe://a*b", "://x", "a b"] {
            assert!(bad.parse::<SanPattern>().is_err(), "{bad}");
        }
    }
}
