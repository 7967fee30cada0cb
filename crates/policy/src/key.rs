//! The octets that a request is counted or spread by.

use crate::{RequestView, matcher};
use portcullis_names::{KeyPart, RequestKey};

/// Writes the key of `request` into `out`; false when the request lacks a part of it. Parts are length-prefixed, so that no two
/// different tuples write the same octets.
pub fn write_key(key: &RequestKey, request: &impl RequestView, out: &mut Vec<u8>) -> bool {
    key.parts().iter().all(|part| {
        let from = out.len();
        out.extend_from_slice(&[0; 4]);
        let found = write_part(part, request, out);
        let length = u32::try_from(out.len() - from - 4).unwrap_or(u32::MAX);
        if let Some(slot) = out.get_mut(from..from + 4) {
            slot.copy_from_slice(&length.to_le_bytes());
        }
        found
    })
}

fn write_part(part: &KeyPart, request: &impl RequestView, out: &mut Vec<u8>) -> bool {
    let mut put = |value: Option<&[u8]>| value.map(|value| out.extend_from_slice(value)).is_some();
    match part {
        KeyPart::ClientIp => match request.client_ip() {
            std::net::IpAddr::V4(v4) => put(Some(&v4.octets())),
            // One customer has at least a /64 (RFC 6177 §2): its addresses are one client.
            std::net::IpAddr::V6(v6) => put(v6.octets().get(..8)),
        },
        KeyPart::Host => put(Some(request.host().as_bytes())),
        KeyPart::Path => put(Some(request.path().as_bytes())),
        KeyPart::Method => put(Some(request.method().as_bytes())),
        KeyPart::Identity => put(request.identity().and_then(|identity| identity.name()).map(str::as_bytes)),
        KeyPart::Header(name) => put(request.header(name.as_str())),
        KeyPart::Cookie(name) => put(matcher::cookie_value(request.header("cookie"), name)),
        KeyPart::Query(name) => put(matcher::query_value(request.query(), name).map(str::as_bytes)),
        // Facts that this request does not have: nobody told them.
        KeyPart::Consumer | KeyPart::Country | KeyPart::Claim(_) => false,
    }
}
