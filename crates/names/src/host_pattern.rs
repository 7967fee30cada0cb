//! Which host names an object serves: exact, `*.suffix`, or any.

use crate::text::{ParseError, text_type};
use std::{fmt, str::FromStr};

/// A host in lower case without a port or trailing dot.
///
/// `*.example.com` stands for one or more labels in front of `example.com` (Gateway API `Hostname`); it does not match
/// `example.com` itself. `*` alone is any host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostPattern {
    Exact(String),
    /// The suffix without `*.`: `example.com`.
    Wildcard(String),
    Any,
}

text_type!(
    HostPattern,
    format = "host-pattern",
    expects = "a host name, an IP address or a wildcard, like \"shop.example.com\" or \"*.example.com\""
);

impl HostPattern {
    /// `host` must be normalised: see [`normalise_host`].
    pub fn matches(&self, host: &str) -> bool {
        match self {
            Self::Exact(name) => name == host,
            Self::Wildcard(suffix) => {
                host.strip_suffix(suffix.as_str()).is_some_and(|front| front.len() > 1 && front.ends_with('.'))
            }
            Self::Any => true,
        }
    }

    /// Whether every host that `other` matches is matched by this pattern too.
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, _) => true,
            (Self::Wildcard(_), Self::Exact(host)) => self.matches(host),
            (Self::Wildcard(outer), Self::Wildcard(inner)) => outer == inner || self.matches(inner),
            (Self::Exact(a), Self::Exact(b)) => a == b,
            (Self::Exact(_) | Self::Wildcard(_), _) => false,
        }
    }
}

/// A host as it is compared: ASCII lower case, no port, no trailing dot; an IPv6 literal keeps its brackets.
/// `None` for what is not a host name or address (RFC 3986 §3.2.2, less percent-encoding, which no DNS name needs).
pub fn normalise_host(authority: &str) -> Option<String> {
    let host = strip_port(authority)?;
    if let Some(literal) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        let address: std::net::Ipv6Addr = literal.parse().ok()?;
        return Some(format!("[{address}]"));
    }
    let host = host.strip_suffix('.').unwrap_or(host);
    name_is_valid(host).then(|| host.to_ascii_lowercase())
}

fn strip_port(authority: &str) -> Option<&str> {
    if authority.starts_with('[') {
        let end = authority.find(']')? + 1;
        let (host, rest) = authority.split_at(end);
        return port_is_valid(rest).then_some(host);
    }
    match authority.find(':') {
        None => Some(authority),
        Some(colon) => {
            let (host, rest) = authority.split_at(colon);
            port_is_valid(rest).then_some(host)
        }
    }
}

/// `""`, `":"` or `":port"` (RFC 3986 §3.2.3 allows the empty port).
fn port_is_valid(rest: &str) -> bool {
    match rest.strip_prefix(':') {
        None => rest.is_empty(),
        Some(port) => {
            port.is_empty()
                || (port.len() <= 5 && port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok())
        }
    }
}

/// RFC 1123 §2.1 with `_`, which real internal names carry; 253 octets in all, 63 a label (RFC 1035 §2.3.4).
fn name_is_valid(name: &str) -> bool {
    let label_is_valid = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(label_is_valid)
}

impl FromStr for HostPattern {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong = || ParseError::new(Self::EXPECTS, text);
        if text == "*" {
            return Ok(Self::Any);
        }
        if !text.is_ascii() {
            return Err(wrong().because("write internationalised names in their `xn--` form"));
        }
        let (wildcard, name) = match text.strip_prefix("*.") {
            Some(suffix) => (true, suffix),
            None => (false, text),
        };
        if name.contains('*') {
            return Err(wrong().because("a `*` stands only for the whole first label"));
        }
        if !name.starts_with('[') && name.contains(':') {
            return Err(wrong().because("a host has no port here"));
        }
        let name = normalise_host(name).ok_or_else(wrong)?;
        Ok(if wildcard { Self::Wildcard(name) } else { Self::Exact(name) })
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Wildcard(suffix) => write!(f, "*.{suffix}"),
            Self::Any => f.write_str("*"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_the_gateway_api_says() {
        for (pattern, host, matches) in [
            ("shop.example.com", "shop.example.com", true),
            ("Shop.Example.COM.", "shop.example.com", true),
            ("shop.example.com", "x.shop.example.com", false),
            ("*.example.com", "shop.example.com", true),
            ("*.example.com", "a.b.example.com", true),
            ("*.example.com", "example.com", false),
            ("*.example.com", ".example.com", false),
            ("*.example.com", "badexample.com", false),
            ("*", "anything", true),
            ("10.0.0.1", "10.0.0.1", true),
            ("[::1]", "[::1]", true),
        ] {
            assert_eq!(pattern.parse::<HostPattern>().unwrap().matches(host), matches, "{pattern} {host}");
        }
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for bad in [
            "",
            ".",
            "a..b",
            "*a.com",
            "a.*.com",
            "**.com",
            "a b",
            "a/b",
            "exämple.com",
            "a.com:443",
            "-a.com",
            "[::zz]",
            "*.",
        ] {
            assert!(bad.parse::<HostPattern>().is_err(), "{bad}");
        }
    }

    #[test]
    fn authorities_lose_port_case_and_trailing_dot() {
        for (authority, host) in [
            ("Example.com:8443", Some("example.com")),
            ("example.com.", Some("example.com")),
            ("example.com:", Some("example.com")),
            ("[2001:DB8::1]:443", Some("[2001:db8::1]")),
            ("a_b.local", Some("a_b.local")),
            ("example.com:99999", None),
            ("example.com:80:80", None),
            ("user@example.com", None),
            ("[::1", None),
            ("[::1]x", None),
            ("a b", None),
            ("", None),
        ] {
            assert_eq!(normalise_host(authority).as_deref(), host, "{authority}");
        }
    }

    #[test]
    fn a_pattern_covers_what_it_contains() {
        let pattern = |text: &str| text.parse::<HostPattern>().unwrap();
        for (outer, inner, covers) in [
            ("*", "*.a.com", true),
            ("*.a.com", "x.a.com", true),
            ("*.a.com", "*.b.a.com", true),
            ("*.a.com", "a.com", false),
            ("x.a.com", "*.a.com", false),
            ("*.b.a.com", "*.a.com", false),
        ] {
            assert_eq!(pattern(outer).covers(&pattern(inner)), covers, "{outer} {inner}");
        }
    }
}
