//! The octets that a request is counted or spread by.

use crate::{RequestView, matcher};
use portcullis_names::{KeyPart, RequestKey};
use std::net::IpAddr;

/// Writes the key of `request` into `out`; false when the request lacks a part of it. Parts are length-prefixed, so that no two
/// different tuples write the same octets.
pub fn write_key(key: &RequestKey, request: &impl RequestView, out: &mut Vec<u8>) -> bool {
    key.parts().iter().all(|part| {
        write_part(part, request, |value| {
            let Some(value) = value else { return false };
            out.extend_from_slice(&u32::try_from(value.len()).unwrap_or(u32::MAX).to_le_bytes());
            out.extend_from_slice(value);
            true
        })
    })
}

/// Gives `write` the value of one part, `None` if the request has none.
pub(crate) fn write_part<R>(part: &KeyPart, request: &impl RequestView, write: impl FnOnce(Option<&[u8]>) -> R) -> R {
    match part {
        KeyPart::ClientIp => match request.client_ip() {
            IpAddr::V4(v4) => write(Some(&v4.octets())),
            // One customer has at least a /64 (RFC 6177 §2): its addresses are one client.
            IpAddr::V6(v6) => write(v6.octets().get(..8)),
        },
        KeyPart::Host => write(Some(request.host().as_bytes())),
        KeyPart::Path => write(Some(request.path().as_bytes())),
        KeyPart::Method => write(Some(request.method().as_bytes())),
        KeyPart::Identity => write(request.identity().and_then(|identity| identity.name()).map(str::as_bytes)),
        KeyPart::Header(name) => write(request.header(name.as_str())),
        KeyPart::Cookie(name) => write(matcher::cookie_value(request.header("cookie"), name)),
        KeyPart::Query(name) => write(matcher::query_value(request.query(), name).map(str::as_bytes)),
        KeyPart::Consumer => write(request.consumer().map(str::as_bytes)),
        KeyPart::Claim(name) => write(request.claim(name).as_deref().map(str::as_bytes)),
        KeyPart::Country => write(request.country().map(str::as_bytes)),
    }
}
