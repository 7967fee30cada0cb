//! Where a client wants to go: a host in its one plain spelling, and a port.
//!
//! Readers differ about `0x7f.1`, `2130706433`, `127.1`, full-width digits, `%31` and zone ids; a gateway that checks one
//! reading and connects by another is no gateway. Anything that could be an address and is not spelled as one is refused.

use crate::Reason;
use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// A DNS name in lower case without a trailing dot, of at least one label that is not a number.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DnsName(String);

impl DnsName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A name, or an address that needs no resolving.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    Name(DnsName),
    Address(IpAddr),
}

/// Longest text form of a name (RFC 1035 §2.3.4).
const NAME_MAX: usize = 253;
const LABEL_MAX: usize = 63;

impl Host {
    /// A host as it stands in an authority: an IPv6 address in brackets.
    pub fn parse(text: &str) -> Result<Self, Reason> {
        if let Some(literal) = text.strip_prefix('[') {
            // Zone ids (RFC 6874) name an interface of this machine: nobody else's business.
            let literal = literal.strip_suffix(']').ok_or(Reason::BadTarget)?;
            return literal.parse::<Ipv6Addr>().map(|v6| Self::Address(v6.into())).map_err(|_| Reason::BadTarget);
        }
        Self::parse_bare(text)
    }

    /// A host as it stands in a SOCKS request or an SNI: without brackets, and therefore no IPv6 address.
    pub fn parse_bare(text: &str) -> Result<Self, Reason> {
        if text.bytes().all(|b| b.is_ascii_digit() || b == b'.') && !text.is_empty() {
            // The standard parser takes four decimal octets without leading zeros and nothing else.
            return text.parse::<Ipv4Addr>().map(|v4| Self::Address(v4.into())).map_err(|_| Reason::NumericHost);
        }
        let text = text.strip_suffix('.').unwrap_or(text);
        if text.len() > NAME_MAX || !text.split('.').all(is_label) {
            return Err(Reason::BadTarget);
        }
        // WHATWG URL §3.5 "ends in a number": such a host is an address to a browser and inet_aton, or nothing.
        if text.rsplit('.').next().is_some_and(is_number) {
            return Err(Reason::NumericHost);
        }
        Ok(Self::Name(DnsName(text.to_ascii_lowercase())))
    }

    pub fn name(&self) -> Option<&DnsName> {
        match self {
            Self::Name(name) => Some(name),
            Self::Address(_) => None,
        }
    }
}

/// RFC 1123 §2.1 with `_`, which real names carry. ASCII: internationalised names come in their `xn--` form.
fn is_label(label: &str) -> bool {
    (1..=LABEL_MAX).contains(&label.len())
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        && !label.starts_with('-')
        && !label.ends_with('-')
}

fn is_number(label: &str) -> bool {
    let hexadecimal = label.strip_prefix("0x").or_else(|| label.strip_prefix("0X"));
    hexadecimal.is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))
        || label.bytes().all(|b| b.is_ascii_digit())
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(&name.0),
            Self::Address(IpAddr::V4(v4)) => write!(f, "{v4}"),
            Self::Address(IpAddr::V6(v6)) => write!(f, "[{v6}]"),
        }
    }
}

/// `host:port`, parsed once.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    host: Host,
    port: u16,
}

impl Target {
    pub fn new(host: Host, port: u16) -> Self {
        Self { host, port }
    }

    /// The authority of a CONNECT (RFC 9110 §9.3.6): the port must be there.
    pub fn parse(authority: &str) -> Result<Self, Reason> {
        let (host, port) = split(authority);
        Ok(Self { host: Host::parse(host)?, port: parse_port(port.ok_or(Reason::BadTarget)?)? })
    }

    /// The authority of an absolute-form target or a Host field: the scheme's port when none is said.
    pub fn parse_with_default(authority: &str, default_port: u16) -> Result<Self, Reason> {
        let (host, port) = split(authority);
        let port = match port {
            None | Some("") => default_port,
            Some(port) => parse_port(port)?,
        };
        Ok(Self { host: Host::parse(host)?, port })
    }

    pub fn host(&self) -> &Host {
        &self.host
    }

    pub fn port(&self) -> u16 {
        self.port
    }
}

fn split(authority: &str) -> (&str, Option<&str>) {
    let after_host = authority.rfind(']').map_or(0, |end| end + 1);
    match authority.get(after_host..).and_then(|rest| rest.find(':')) {
        Some(colon) => {
            let (host, port) = authority.split_at(after_host + colon);
            (host, port.get(1..))
        }
        None => (authority, None),
    }
}

/// Port 0 cannot be connected to.
fn parse_port(text: &str) -> Result<u16, Reason> {
    let plain = (1..=5).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
    if plain { text.parse().map_err(|_| Reason::BadTarget) } else { Err(Reason::BadTarget) }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Reason::{BadTarget, NumericHost};

    #[test]
    fn targets_have_one_spelling() {
        for (text, expected) in [
            ("API.Example.com:443", Ok("api.example.com:443")),
            ("api.example.com.:443", Ok("api.example.com:443")),
            ("a_b.example:1", Ok("a_b.example:1")),
            ("192.0.2.1:80", Ok("192.0.2.1:80")),
            ("[2001:DB8::1]:443", Ok("[2001:db8::1]:443")),
            ("[::ffff:10.0.0.1]:443", Ok("[::ffff:10.0.0.1]:443")),
            ("localhost:80", Ok("localhost:80")),
            ("0x7f.example:80", Ok("0x7f.example:80")),
            ("1.2.3.com:80", Ok("1.2.3.com:80")),
            ("api.example.com", Err(BadTarget)),
            ("api.example.com:", Err(BadTarget)),
            ("api.example.com:0", Err(BadTarget)),
            ("api.example.com:0443", Err(BadTarget)),
            ("api.example.com:65536", Err(BadTarget)),
            ("api.example.com:+80", Err(BadTarget)),
            ("api.example.com:80:80", Err(BadTarget)),
            ("user@api.example.com:80", Err(BadTarget)),
            (":443", Err(BadTarget)),
            ("..:443", Err(NumericHost)),
            (".a:443", Err(BadTarget)),
            ("a..b:443", Err(BadTarget)),
            ("a b:443", Err(BadTarget)),
            ("*.a.com:443", Err(BadTarget)),
            ("a/b:443", Err(BadTarget)),
            ("a\0.com:443", Err(BadTarget)),
        ] {
            let found = Target::parse(text).map(|target| target.to_string());
            assert_eq!(found.as_deref().map_err(|reason| *reason), expected, "{text}");
        }
    }

    #[test]
    fn addresses_in_disguise_are_refused() {
        for (host, reason) in [
            ("2130706433", NumericHost),
            ("127.1", NumericHost),
            ("127.0.1", NumericHost),
            ("0177.0.0.1", NumericHost),
            ("127.0.0.01", NumericHost),
            ("127.0.0.1.", NumericHost),
            ("127.0.0.256", NumericHost),
            ("1.2.3.4.5", NumericHost),
            ("0x7f.1", NumericHost),
            ("0x7f000001", NumericHost),
            ("0X7F000001", NumericHost),
            ("0x7f.0.0.0x1", NumericHost),
            ("0x", NumericHost),
            ("a.0x7f", NumericHost),
            ("example.1", NumericHost),
            ("example.1.", NumericHost),
            ("\u{ff11}27.0.0.1", BadTarget),
            ("127\u{3002}0.0.1", BadTarget),
            ("%31%32%37.0.0.1", BadTarget),
            ("[127.0.0.1]", BadTarget),
            ("[example.com]", BadTarget),
            ("[fe80::1%eth0]", BadTarget),
            ("[fe80::1%25eth0]", BadTarget),
            ("fe80::1", BadTarget),
            ("::1", BadTarget),
            ("[::1", BadTarget),
            ("[]", BadTarget),
            ("", BadTarget),
            (".", NumericHost),
            ("-a.com", BadTarget),
            ("ex\u{e4}mple.com", BadTarget),
        ] {
            assert_eq!(Host::parse(host), Err(reason), "{host}");
        }
        assert_eq!(Host::parse(&format!("{}.com", "a".repeat(64))), Err(BadTarget));
        assert_eq!(Host::parse(&["a".repeat(63).as_str(); 4].join(".")), Err(BadTarget));
    }

    #[test]
    fn a_missing_port_is_the_schemes() {
        for (text, expected) in [
            ("a.com", Ok("a.com:80")),
            ("a.com:", Ok("a.com:80")),
            ("a.com:8080", Ok("a.com:8080")),
            ("[::1]", Ok("[::1]:80")),
            ("[::1]:81", Ok("[::1]:81")),
            ("[::1]x", Err(BadTarget)),
            ("[::1]x:80", Err(BadTarget)),
        ] {
            let found = Target::parse_with_default(text, 80).map(|target| target.to_string());
            assert_eq!(found.as_deref().map_err(|reason| *reason), expected, "{text}");
        }
    }
}
