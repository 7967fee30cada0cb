//! A name to ask DNS for.

use std::{fmt, str::FromStr};

/// Lower-case labels, `shop.internal` or `_http._tcp.shop.internal`; with a dot at its end the name is complete, without one
/// the system's search list may complete it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DnsName(String);

// RFC 1035 §2.3.4, less the octets of the length and of the root.
const NAME_MAX: usize = 253;
const LABEL_MAX: usize = 63;

impl DnsName {
    /// As written, with its dot at the end if it has one.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Without a dot at its end: as SNI and Host fields want it (RFC 6066 §3).
    pub fn host(&self) -> &str {
        self.0.strip_suffix('.').unwrap_or(&self.0)
    }

    pub fn is_complete(&self) -> bool {
        self.0.ends_with('.')
    }

    /// This name followed by `suffix`, complete; `None` when that is too long.
    pub(crate) fn within(&self, suffix: &str) -> Option<Self> {
        let suffix = suffix.trim_matches('.');
        let joined = if suffix.is_empty() { format!("{}.", self.host()) } else { format!("{}.{suffix}.", self.host()) };
        joined.parse().ok()
    }

    pub(crate) fn dots(&self) -> usize {
        self.host().matches('.').count()
    }
}

/// Why a text is not a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAName {
    #[error("a DNS name has 1 to 253 characters")]
    Length,
    #[error("each part of a DNS name has 1 to 63 characters")]
    Label,
    #[error("a DNS name has only letters, digits, `-`, `_` and dots")]
    Character,
    #[error("it is an address: there is nothing to ask DNS for")]
    Address,
}

impl FromStr for DnsName {
    type Err = NotAName;

    fn from_str(text: &str) -> Result<Self, NotAName> {
        let host = text.strip_suffix('.').unwrap_or(text);
        if host.is_empty() || host.len() > NAME_MAX {
            return Err(NotAName::Length);
        }
        if host.parse::<std::net::Ipv4Addr>().is_ok() {
            return Err(NotAName::Address);
        }
        for label in host.split('.') {
            if label.is_empty() || label.len() > LABEL_MAX {
                return Err(NotAName::Label);
            }
            if !label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')) {
                return Err(NotAName::Character);
            }
        }
        Ok(Self(text.to_ascii_lowercase()))
    }
}

impl fmt::Display for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_labels_and_have_one_spelling() {
        for (text, host, complete) in [
            ("shop", "shop", false),
            ("Shop.Internal", "shop.internal", false),
            ("_http._tcp.shop.internal.", "_http._tcp.shop.internal", true),
            ("10.in-addr", "10.in-addr", false),
        ] {
            let name: DnsName = text.parse().unwrap();
            assert_eq!((name.host(), name.is_complete()), (host, complete), "{text}");
        }
        let long = "a".repeat(64);
        let longer = "abcdefg.".repeat(32);
        for (text, why) in [
            ("", NotAName::Length),
            (".", NotAName::Length),
            (longer.as_str(), NotAName::Length),
            ("a..b", NotAName::Label),
            (long.as_str(), NotAName::Label),
            ("a b", NotAName::Character),
            ("ü.de", NotAName::Character),
            ("10.0.0.1", NotAName::Address),
        ] {
            assert_eq!(text.parse::<DnsName>().unwrap_err(), why, "{text}");
        }
    }

    #[test]
    fn a_search_list_completes_names() {
        let name: DnsName = "shop".parse().unwrap();
        assert_eq!(name.within("svc.cluster.local.").unwrap().as_str(), "shop.svc.cluster.local.");
        assert_eq!(name.within("").unwrap().as_str(), "shop.");
        assert!(name.within(&"abcdefg.".repeat(32)).is_none());
    }
}
