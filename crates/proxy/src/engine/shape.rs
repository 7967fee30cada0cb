//! What the upstream is sent: the client's head, normalised, rewritten and told where it comes from.

use super::{headers::RequestSink, view::View};
use crate::{conn::ConnFacts, stage::Exchange};
use http::{
    header,
    uri::{Authority, Scheme},
};
use pingora::{Error, ErrorType, Result, http::RequestHeader};
use portcullis_auth::{AuthzEdit, AuthzEdits, EditHow};
use portcullis_policy::{Forwarding, HeaderSink, RequestView, write_forwarded};
use portcullis_upstream::ProxyProtocolVersion;
use portcullis_wire::proxy_protocol;

/// What the upstream is sent: the normalised path, rewrites, forwarding fields, trace context, configured edits.
pub(super) fn shape(original: &RequestHeader, request: &mut RequestHeader, exchange: &Exchange) -> Result<()> {
    let Some(plan) = exchange.plan() else { return Ok(()) };
    let rewritten = plan.rewrite.as_ref().and_then(|rewrite| rewrite.path(&exchange.path));
    let path = rewritten.as_deref().unwrap_or(&exchange.path);
    let absolute = !original.raw_path().starts_with(b"/");
    if (path != original.uri.path() || absolute) && !(original.uri.path() == "*" || original.raw_path() == b"*") {
        let target = match original.uri.query() {
            Some(query) => format!("{path}?{query}"),
            None => path.to_owned(),
        };
        match retargeted(&original.uri, target, original.version) {
            Some(uri) => request.set_uri(uri),
            None => return Error::e_explain(ErrorType::HTTPStatus(400), "the path cannot be forwarded"),
        }
    }
    let host = plan.rewrite.as_ref().and_then(|rewrite| rewrite.host.as_deref());
    if let Some(host) = host {
        request.insert_header(header::HOST, host)?;
    }
    forward(original, request, exchange);
    if let Some(trace) = &exchange.trace {
        RequestSink(request).set("traceparent", trace.to_string().as_bytes());
    }
    for edits in &exchange.authz {
        apply_authz(edits, request);
    }
    // Edits see the request as the client sent it.
    plan.request_headers.apply(&View { header: original, exchange }, &mut RequestSink(request));
    Ok(())
}

fn forward(original: &RequestHeader, request: &mut RequestHeader, exchange: &Exchange) {
    let value = |name: &str| original.headers.get(name).map(header::HeaderValue::as_bytes);
    let joined = |name: &str| {
        let values: Vec<&[u8]> = original.headers.get_all(name).iter().map(header::HeaderValue::as_bytes).collect();
        (!values.is_empty()).then(|| values.join(&b", "[..]))
    };
    let (had_for, had_forwarded) =
        if exchange.peer_is_trusted { (joined("x-forwarded-for"), joined("forwarded")) } else { (None, None) };
    let peer = exchange.facts.source.map_or(exchange.client_ip, |source| source.ip());
    let view = View { header: original, exchange };
    let forwarding = Forwarding {
        peer,
        peer_is_trusted: exchange.peer_is_trusted,
        scheme: view.scheme(),
        host: &exchange.host,
        port: exchange.facts.local.map(|local| local.port()),
        request_id: &exchange.request_id,
        had_for: had_for.as_deref(),
        had_forwarded: had_forwarded.as_deref(),
        had_proto: value("x-forwarded-proto").is_some(),
        had_host: value("x-forwarded-host").is_some(),
    };
    write_forwarded(&forwarding, &mut RequestSink(request));
}

/// The same request for another target. Over h2 the authority is part of it, and stays.
fn retargeted(uri: &http::Uri, target: String, version: http::Version) -> Option<http::Uri> {
    if version != http::Version::HTTP_2 {
        return target.try_into().ok();
    }
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(target.try_into().ok()?);
    http::Uri::from_parts(parts).ok()
}

/// Says of a request over h2 by which scheme it goes (RFC 9113 §8.3.1), for the engine says `http` of all whose TLS it did not
/// make, and servers may refuse what does not fit their connection (RFC 9110 §7.4). The authority stands in the target then, and
/// not in Host, or the engine would write its own.
pub(super) fn say_scheme(request: &mut RequestHeader, scheme: Scheme) {
    // A path that is not text cannot be part of a target: the engine refuses it.
    if std::str::from_utf8(request.raw_path()).is_err() {
        return;
    }
    let named = request.headers.get(header::HOST).and_then(|host| Authority::try_from(host.as_bytes()).ok());
    let mut parts = request.uri.clone().into_parts();
    let Some(authority) = named.or(parts.authority.take()) else { return };
    (parts.scheme, parts.authority) = (Some(scheme), Some(authority));
    if let Ok(uri) = http::Uri::from_parts(parts) {
        request.set_uri(uri);
        request.remove_header(&header::HOST);
    }
}

/// What an external authority wants the upstream to be told.
fn apply_authz(edits: &AuthzEdits, request: &mut RequestHeader) {
    for name in &edits.remove {
        request.remove_header(name);
    }
    for edit in &edits.request {
        let present = request.headers.contains_key(&edit.name);
        apply_edit(edit, present, &mut RequestSink(request));
    }
}

/// One field that an external authority wants changed; `present`: the message has it already.
pub(super) fn apply_edit(edit: &AuthzEdit, present: bool, sink: &mut impl HeaderSink) {
    let (name, value) = (edit.name.as_str(), edit.value.as_bytes());
    match (edit.how, present) {
        (EditHow::Set, _) | (EditHow::AddIfAbsent, false) | (EditHow::SetIfPresent, true) => sink.set(name, value),
        (EditHow::Append, _) => sink.add(name, value),
        (EditHow::AddIfAbsent, true) | (EditHow::SetIfPresent, false) => {}
    }
}

/// What a connection begins with when the upstream wants to be told whose it is.
pub(super) fn proxy_header(version: ProxyProtocolVersion, facts: &ConnFacts) -> Vec<u8> {
    let addresses = facts.source.zip(facts.local);
    match version {
        ProxyProtocolVersion::V1 => proxy_protocol::write_v1(addresses),
        ProxyProtocolVersion::V2 => proxy_protocol::write_v2(addresses),
    }
}
