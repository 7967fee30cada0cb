//! The one client address, decided once: from the peer, the PROXY protocol and the trusted part of a forwarding header.

use portcullis_names::{Cidr, CidrSet};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};

/// `client_ip = { trust = […], header = "x-forwarded-for" }`.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClientIpSpec {
    /// Proxies whose word is taken.
    pub trust: Vec<Cidr>,
    /// Default: x-forwarded-for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<ClientIpHeader>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum ClientIpHeader {
    #[serde(rename = "x-forwarded-for")]
    XForwardedFor,
    #[serde(rename = "forwarded")]
    Forwarded,
}

/// Compiled: whose word counts.
#[derive(Debug, Clone, Default)]
pub struct ClientIp {
    trust: CidrSet,
    header: Option<ClientIpHeader>,
}

impl ClientIp {
    pub fn new(spec: &ClientIpSpec) -> Self {
        Self { trust: CidrSet::new(&spec.trust), header: Some(spec.header.unwrap_or(ClientIpHeader::XForwardedFor)) }
    }

    pub fn trusts(&self, peer: IpAddr) -> bool {
        self.trust.contains(peer)
    }

    /// The header to read, in lower case, if any.
    pub fn header_name(&self) -> Option<&'static str> {
        self.header.map(|header| match header {
            ClientIpHeader::XForwardedFor => "x-forwarded-for",
            ClientIpHeader::Forwarded => "forwarded",
        })
    }

    /// Walks the hops from the nearest: each trusted one vouches for the one before it. What is not an address ends the
    /// walk at the last hop that was vouched for; fail closed, because everything left of it is the client's own text.
    pub fn decide(&self, peer: IpAddr, values: &[&[u8]]) -> IpAddr {
        let mut client = peer;
        let Some(header) = self.header else { return client };
        let hops = values.iter().rev().flat_map(|value| value.rsplit(|octet| *octet == b','));
        for hop in hops.take(HOPS_MAX) {
            if !self.trust.contains(client) {
                break;
            }
            let address = match header {
                ClientIpHeader::XForwardedFor => plain(hop.trim_ascii()),
                ClientIpHeader::Forwarded => forwarded_for(hop),
            };
            match address {
                Some(address) => client = address.to_canonical(),
                None => break,
            }
        }
        client
    }
}

/// No real chain is longer.
const HOPS_MAX: usize = 32;

fn plain(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?;
    let unbracketed = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    unbracketed.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|socket| socket.ip()))
}

/// The `for` parameter of one RFC 7239 element.
fn forwarded_for(element: &[u8]) -> Option<IpAddr> {
    element.split(|octet| *octet == b';').find_map(|pair| {
        let pair = pair.trim_ascii();
        let (name, value) = pair.split_at_checked(4)?;
        name.eq_ignore_ascii_case(b"for=").then(|| {
            plain(value.trim_ascii().strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(value))
        })?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_hop_that_nobody_trusted_vouches_for_is_the_client() {
        let client_ip = |header| {
            ClientIp::new(&ClientIpSpec {
                trust: vec!["10.0.0.0/8".parse().unwrap(), "::1".parse().unwrap()],
                header: Some(header),
            })
        };
        use ClientIpHeader::*;
        for (header, peer, values, expected) in [
            (XForwardedFor, "203.0.113.9", &["1.2.3.4"][..], "203.0.113.9"),
            (XForwardedFor, "10.0.0.1", &["1.2.3.4"], "1.2.3.4"),
            (XForwardedFor, "10.0.0.1", &["6.6.6.6, 1.2.3.4, 10.0.0.2"], "1.2.3.4"),
            (XForwardedFor, "10.0.0.1", &["6.6.6.6", "1.2.3.4"], "1.2.3.4"),
            (XForwardedFor, "10.0.0.1", &["evil"], "10.0.0.1"),
            (XForwardedFor, "10.0.0.1", &["1.2.3.4, evil, 10.0.0.2"], "10.0.0.2"),
            (XForwardedFor, "10.0.0.1", &["1.2.3.4:5678"], "1.2.3.4"),
            (XForwardedFor, "::1", &["[2001:db8::7]:80"], "2001:db8::7"),
            (XForwardedFor, "10.0.0.1", &[], "10.0.0.1"),
            (XForwardedFor, "10.0.0.1", &["::ffff:1.2.3.4"], "1.2.3.4"),
            (Forwarded, "10.0.0.1", &["for=6.6.6.6, for=1.2.3.4;proto=https"], "1.2.3.4"),
            (Forwarded, "10.0.0.1", &["proto=http; For=\"[2001:db8::7]:4711\""], "2001:db8::7"),
            (Forwarded, "10.0.0.1", &["for=_hidden"], "10.0.0.1"),
        ] {
            let values: Vec<&[u8]> = values.iter().map(|value| value.as_bytes()).collect();
            let decided = client_ip(header).decide(peer.parse().unwrap(), &values);
            assert_eq!(decided, expected.parse::<IpAddr>().unwrap(), "{peer} {values:?}");
        }
        assert_eq!(
            ClientIp::default().decide("10.0.0.1".parse().unwrap(), &[b"1.2.3.4"]),
            "10.0.0.1".parse::<IpAddr>().unwrap()
        );
    }
}
