//! Which requests the lane takes, and what it writes of them.

use crate::{
    engine::{app::is_grpc, screen},
    stage::Exchange,
};
use bytes::BytesMut;
use http::{HeaderName, HeaderValue, Method, Version, header, uri::PathAndQuery};
use pingora::{
    Error, ErrorType, OkOrErr, OrErr, Result,
    http::RequestHeader,
    protocols::http::{authority::validate_request_authority, v1::client::http_req_header_to_wire},
    proxy::Session,
};

/// Fields of the client's connection, which end here (RFC 9110 §7.6.1).
const HOP_BY_HOP: [HeaderName; 7] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];
const HOP_BY_HOP_UNREGISTERED: [&str; 3] = ["keep-alive", "proxy-connection", "http2-settings"];

/// Those that ask for nothing beyond themselves: no body, no other protocol, no field that Connection names.
pub(super) fn takes(session: &mut Session, exchange: &Exchange) -> bool {
    !exchange.is_outgoing() && is_plain(session.req_header()) && !screen::has_body(session)
}

fn is_plain(request: &RequestHeader) -> bool {
    let has = |name| request.headers.contains_key(name);
    let has_host = match request.version {
        Version::HTTP_2 => request.uri.authority().is_some_and(|authority| !authority.as_str().contains('@')),
        _ => has(header::HOST) && request.uri.authority().is_none(),
    };
    let is_simple = |value: &HeaderValue| {
        value.as_bytes().eq_ignore_ascii_case(b"keep-alive") || value.as_bytes().eq_ignore_ascii_case(b"close")
    };
    has_host
        && request.raw_path().starts_with(b"/")
        && request.method != Method::CONNECT
        && !has(header::UPGRADE)
        && !has(header::EXPECT)
        && !has(header::TRANSFER_ENCODING)
        // Its messages may be far apart, for which the engine has a patience of its own.
        && !is_grpc(request)
        && request.headers.get_all(header::CONNECTION).iter().all(is_simple)
}

/// The request without what is the client's connection's, as HTTP/1.1.
pub(super) fn begin(request: &RequestHeader) -> Result<RequestHeader> {
    let mut made = request.clone();
    made.set_version(Version::HTTP_11);
    if let Some(authority) = request.uri.authority() {
        made.insert_header(header::HOST, authority.as_str())?;
    }
    for name in &HOP_BY_HOP {
        made.remove_header(name);
    }
    for name in HOP_BY_HOP_UNREGISTERED {
        made.remove_header(name);
    }
    Ok(made)
}

/// On the wire; what edits have made of it must still be a request.
pub(super) fn write(mut request: RequestHeader) -> Result<BytesMut> {
    // Of a request over h2, whose Host says the same by now, or what an edit wants in its place.
    if request.uri.authority().is_some() {
        let path = request.uri.path_and_query().map_or("/", PathAndQuery::as_str).to_owned();
        request.set_uri(path.try_into().or_err(ErrorType::InvalidHTTPHeader, "target")?);
    }
    validate_request_authority(&request).map_err(Error::into_in)?;
    http_req_header_to_wire(&request).or_err(ErrorType::InvalidHTTPHeader, "a target that cannot be written")
}
