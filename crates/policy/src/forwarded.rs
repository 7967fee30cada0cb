//! What the upstream is told of the client: X-Forwarded-*, Forwarded, X-Request-Id.

use crate::{HeaderSink, Scheme};
use std::net::IpAddr;

/// What is known of the hop in front of us.
#[derive(Debug, Clone, Copy)]
pub struct Forwarding<'a> {
    /// The peer that the request came from (after the PROXY protocol).
    pub peer: IpAddr,
    /// The peer's own forwarding fields are to be believed.
    pub peer_is_trusted: bool,
    pub scheme: Scheme,
    /// The authority that the client asked for.
    pub host: &'a str,
    pub port: Option<u16>,
    pub request_id: &'a str,
    /// What the peer sent of each, when it is trusted.
    pub had_for: Option<&'a [u8]>,
    pub had_forwarded: Option<&'a [u8]>,
    pub had_proto: bool,
    pub had_host: bool,
}

/// Writes the fields anew. From a trusted peer the chains are continued; from anybody else they are replaced, because a
/// client could write any history it likes.
pub fn write_forwarded(forwarding: &Forwarding<'_>, sink: &mut impl HeaderSink) {
    let peer = forwarding.peer.to_string();
    let trusted = forwarding.peer_is_trusted;
    let chain = |had: Option<&[u8]>, own: &str| match had.filter(|had| trusted && !had.is_empty()) {
        Some(had) => [had, b", ", own.as_bytes()].concat(),
        None => own.as_bytes().to_vec(),
    };
    sink.set("x-forwarded-for", &chain(forwarding.had_for, &peer));
    if !(trusted && forwarding.had_proto) {
        sink.set("x-forwarded-proto", forwarding.scheme.as_str().as_bytes());
    }
    if !(trusted && forwarding.had_host) {
        sink.set("x-forwarded-host", forwarding.host.as_bytes());
        if let Some(port) = forwarding.port {
            sink.set("x-forwarded-port", port.to_string().as_bytes());
        }
    }
    // RFC 7239 §6: an IPv6 address is quoted and bracketed.
    let node = match forwarding.peer {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("\"[{v6}]\""),
    };
    let host = if forwarding.host.starts_with('[') || forwarding.host.contains(':') {
        format!("\"{}\"", forwarding.host)
    } else {
        forwarding.host.to_owned()
    };
    let element = format!("for={node};host={host};proto={}", forwarding.scheme.as_str());
    sink.set("forwarded", &chain(forwarding.had_forwarded, &element));
    if !trusted {
        sink.remove("x-real-ip");
    }
    sink.set("x-request-id", forwarding.request_id.as_bytes());
}
