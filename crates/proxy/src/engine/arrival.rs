//! A request's head as it arrives, before any stage: what admission reads of it, and what is put right in it first.

use crate::{listen::Underscores, stage::Arrival};
use http::{HeaderName, HeaderValue, header};
use pingora::{Result, http::RequestHeader};
use portcullis_policy::{Reason, TraceHeaders};
use portcullis_wire::{Refusal, is_h2_target};

fn trace_headers(header: &RequestHeader) -> TraceHeaders<'_> {
    let value = |name: &str| header.headers.get(name).map(header::HeaderValue::as_bytes);
    TraceHeaders {
        traceparent: value("traceparent"),
        b3: value("b3"),
        x_b3: ["x-b3-traceid", "x-b3-spanid", "x-b3-sampled"].map(value),
    }
}

pub(super) fn arrival<'a>(header: &'a RequestHeader, client_ip_header: Option<&'static str>) -> Arrival<'a> {
    let value = |name: HeaderName| header.headers.get(name).map(header::HeaderValue::as_bytes);
    let authority = match header.uri.authority() {
        Some(authority) => authority.as_str(),
        None => value(header::HOST).and_then(|host| std::str::from_utf8(host).ok()).unwrap_or_default(),
    };
    Arrival {
        authority,
        path: header.uri.path(),
        trace: trace_headers(header),
        request_id: header.headers.get("x-request-id").map(header::HeaderValue::as_bytes),
        forwarded: client_ip_header.map_or_else(Vec::new, |name| {
            header.headers.get_all(name).iter().map(header::HeaderValue::as_bytes).collect()
        }),
    }
}

/// A client of h2 may send its cookies in several fields; everybody behind us knows one (RFC 9113 §8.2.3).
pub(super) fn join_cookies(header: &mut RequestHeader) -> Result<()> {
    let fields = header.headers.get_all(header::COOKIE);
    if header.version != http::Version::HTTP_2 || fields.iter().nth(1).is_none() {
        return Ok(());
    }
    let fields: Vec<&[u8]> = fields.iter().map(header::HeaderValue::as_bytes).collect();
    let joined = fields.join(&b"; "[..]);
    header.insert_header(header::COOKIE, joined)
}

/// What makes a request of h2 malformed and the codec lets pass.
pub(super) fn hold_h2(header: &RequestHeader) -> std::result::Result<(), Reason> {
    if header.version != http::Version::HTTP_2 {
        return Ok(());
    }
    // RFC 9113 §8.2.1: a value neither begins nor ends with white space. HTTP/1.1 has such space between value and framing.
    let spaced = |value: &HeaderValue| matches!(value.as_bytes(), [b' ' | b'\t', ..] | [.., b' ' | b'\t']);
    if header.headers.values().any(spaced) {
        return Err(malformed(Refusal::BadFieldValue));
    }
    if !is_h2_target(header.method.as_str().as_bytes(), header.raw_path()) {
        return Err(malformed(Refusal::BadTarget));
    }
    // RFC 9113 §8.3.1, RFC 9110 §4.2.1: neither scheme nor host is empty.
    let host = header.headers.get(header::HOST).map(HeaderValue::as_bytes);
    if header.uri.scheme_str() == Some("") || (header.uri.authority().is_none() && host.is_none_or(<[u8]>::is_empty)) {
        return Err(malformed(Refusal::BadHost));
    }
    Ok(())
}

fn malformed(refusal: Refusal) -> Reason {
    Reason::Malformed { label: refusal.as_str(), status: refusal.status() }
}

/// Leaves no Upgrade but one that may be granted: to WebSocket, which is all that is passed on, over HTTP/1.1, and named by
/// Connection (RFC 9110 §7.8). The engine takes any such field for the wish to upgrade, and one that Connection does not name would
/// become a good one on the way to the upstream.
pub(super) fn hold_upgrade(header: &mut RequestHeader) {
    let mut wishes = header.headers.get_all(header::UPGRADE).iter();
    let Some(first) = wishes.next() else { return };
    let is_websocket = wishes.next().is_none() && first.as_bytes().eq_ignore_ascii_case(b"websocket");
    let options = header
        .headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|octet| *octet == b','));
    let is_named = options.into_iter().any(|option| option.trim_ascii().eq_ignore_ascii_case(b"upgrade"));
    if !(is_websocket && is_named && header.version == http::Version::HTTP_11) {
        header.remove_header(&header::UPGRADE);
    }
}

/// Field names with underscores, as the listener wants them.
pub(super) fn hold_underscores(header: &mut RequestHeader, wanted: Underscores) -> std::result::Result<(), Reason> {
    let has = |name: &HeaderName| name.as_str().contains('_');
    if wanted == Underscores::Pass || !header.headers.keys().any(has) {
        return Ok(());
    }
    if wanted == Underscores::Refuse {
        return Err(Reason::Malformed { label: "underscore_in_name", status: 400 });
    }
    let names: Vec<HeaderName> = header.headers.keys().filter(|name| has(name)).cloned().collect();
    for name in &names {
        header.remove_header(name);
    }
    Ok(())
}
