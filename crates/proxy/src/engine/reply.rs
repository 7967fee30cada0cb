//! What the client is sent: our own answers, and what we add to or take from those of upstreams.

use super::{Encoder, egress, headers::ResponseSink, shape::apply_edit, view::View};
use crate::stage::{Exchange, Limited};
use bytes::Bytes;
use http::{HeaderName, header};
use pingora::{
    Error, ErrorType, Result,
    http::{RequestHeader, ResponseHeader},
    proxy::Session,
};
use portcullis_auth::AuthzDenial;
use portcullis_limit::{write_policy, write_retry_after, write_state};
use portcullis_policy::{Compressible, HeaderSink, Plan, Reason, RequestView, Respond, is_hop_by_hop};

pub(super) async fn redirect(session: &mut Session, mut response: ResponseHeader) -> Result<bool> {
    response.insert_header(header::CONTENT_LENGTH, 0)?;
    close_if_unread(session);
    session.write_response_header(Box::new(response), true).await?;
    Ok(true)
}

pub(super) async fn respond(session: &mut Session, mut response: ResponseHeader, action: &Respond) -> Result<bool> {
    for (name, value) in &action.headers {
        ResponseSink(&mut response).set(name, value.as_bytes());
    }
    if !action.body.is_empty() && !response.headers.contains_key(header::CONTENT_TYPE) {
        response.insert_header(header::CONTENT_TYPE, "text/plain; charset=utf-8")?;
    }
    response.insert_header(header::CONTENT_LENGTH, action.body.len())?;
    close_if_unread(session);
    let bodyless = action.body.is_empty() || session.req_header().method == http::Method::HEAD;
    session.write_response_header(Box::new(response), bodyless).await?;
    if !bodyless {
        session.write_response_body(Some(Bytes::from(action.body.clone())), true).await?;
    }
    Ok(true)
}

/// Answered before its body was read: the connection ends, so that the body cannot be taken for the next request.
pub(super) fn close_if_unread(session: &mut Session) {
    if !session.is_body_done() {
        session.set_keepalive(None);
    }
}

pub(super) async fn error_page(session: &mut Session, reason: Reason, exchange: Option<&Exchange>) -> Result<()> {
    if let Some(exchange) = exchange.filter(|exchange| exchange.is_outgoing()) {
        return egress::error_page(session, reason, exchange).await;
    }
    let text = reason.text();
    let mut response = ResponseHeader::build(reason.status(), Some(4))?;
    response.insert_header(header::CONTENT_TYPE, "text/plain")?;
    response.insert_header(header::CONTENT_LENGTH, text.len())?;
    response.insert_header(header::CACHE_CONTROL, "no-store")?;
    if let Some(exchange) = exchange {
        dress(&mut response, session.req_header(), exchange)?;
    }
    if let Some(location) = exchange.and_then(|exchange| exchange.location.as_deref()) {
        response.insert_header(header::LOCATION, location)?;
    }
    if let (405, Some(allow)) = (reason.status(), exchange.and_then(|exchange| exchange.allow.as_deref())) {
        response.insert_header(header::ALLOW, allow)?;
    }
    for challenge in exchange.map_or(&[][..], |exchange| &exchange.challenges) {
        response.append_header(header::WWW_AUTHENTICATE, challenge.as_str())?;
    }
    match (reason, exchange.and_then(|exchange| exchange.limited.last())) {
        (Reason::RateLimited, Some(refusing)) => {
            let mut value = String::new();
            write_retry_after(&mut value, &refusing.verdict);
            response.insert_header(header::RETRY_AFTER, value)?;
        }
        (reason, _) if reason.is_passing() => response.insert_header(header::RETRY_AFTER, 1)?,
        _ => {}
    }
    let bodyless = session.req_header().method == http::Method::HEAD;
    session.write_response_header(Box::new(response), bodyless).await?;
    if !bodyless {
        session.write_response_body(Some(Bytes::from_static(text.as_bytes())), true).await?;
    }
    Ok(())
}
/// RFC 9110 §7.6.1: what belongs to the upstream's connection ends here. Transfer-Encoding is left: the engine frames by it.
pub(super) fn strip_hop_by_hop(response: &mut ResponseHeader) {
    let nominated: Vec<String> = response
        .headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(',').map(|name| name.trim().to_ascii_lowercase()))
        .filter(|name| {
            !matches!(
                name.as_str(),
                "" | "close" | "keep-alive" | "content-length" | "transfer-encoding" | "set-cookie"
            )
        })
        .collect();
    for name in nominated {
        response.remove_header(name.as_str());
    }
    let own: Vec<HeaderName> = response
        .headers
        .keys()
        .filter(|name| is_hop_by_hop(name.as_str()) && *name != header::TRANSFER_ENCODING)
        .cloned()
        .collect();
    for name in own {
        response.remove_header(&name);
    }
}

pub(super) fn set_sticky_cookie(response: &mut ResponseHeader, exchange: &Exchange) -> Result<()> {
    let (Some(token), Some(id)) = (exchange.set_cookie, exchange.cluster) else { return Ok(()) };
    let Some(sticky) = exchange.snapshot.clusters.get(id).and_then(|cluster| cluster.sticky.as_ref()) else {
        return Ok(());
    };
    let age = sticky.ttl.map_or_else(String::new, |ttl| format!("; Max-Age={}", ttl.get().as_secs()));
    let secure = if exchange.facts.tls.is_some() { "; Secure" } else { "" };
    let cookie = format!("{}={token}; Path=/; HttpOnly; SameSite=Lax{age}{secure}", sticky.cookie);
    response.append_header(header::SET_COOKIE, cookie)?;
    Ok(())
}

/// What the rate limits that counted the request leave the client (draft-ietf-httpapi-ratelimit-headers).
pub(super) fn write_limit_fields(response: &mut ResponseHeader, limited: &[Limited]) -> Result<()> {
    if limited.is_empty() {
        return Ok(());
    }
    let (mut policy, mut state) = (String::with_capacity(32), String::with_capacity(32));
    for Limited { limit, verdict } in limited {
        write_policy(&mut policy, limit);
        write_state(&mut state, limit, verdict);
    }
    response.insert_header("ratelimit-policy", policy)?;
    response.insert_header("ratelimit", state)
}

/// By which name the log, the audit and the upstream know this request, so that its client can tell it too. A destination beyond
/// the way out has a name of its own for it, by which its people find it.
pub(super) fn tell_id(response: &mut ResponseHeader, exchange: &Exchange) -> Result<()> {
    if exchange.is_outgoing() && response.headers.contains_key("x-request-id") {
        return Ok(());
    }
    response.insert_header("x-request-id", exchange.request_id.as_str())
}

/// What is added to any response: the request's id, and what its rule wants: limits, CORS, careful browsers, and last the
/// configured edits.
pub(super) fn dress(response: &mut ResponseHeader, header: &RequestHeader, exchange: &Exchange) -> Result<()> {
    tell_id(response, exchange)?;
    let Some(plan) = exchange.plan() else { return Ok(()) };
    let view = View { header, exchange };
    write_limit_fields(response, &exchange.limited)?;
    if let Some(cors) = &plan.cors {
        cors.apply(&view, &mut ResponseSink(response));
    }
    for (name, value) in plan.security_headers.fields(view.scheme()) {
        if !response.headers.contains_key(name) {
            response.insert_header(name, value)?;
        }
    }
    for edit in exchange.authz.iter().flat_map(|edits| &edits.response) {
        let present = response.headers.contains_key(&edit.name);
        apply_edit(edit, present, &mut ResponseSink(response));
    }
    plan.response_headers.apply(&view, &mut ResponseSink(response));
    Ok(())
}

/// An external authority's own words to somebody it does not let pass.
pub(super) async fn deny(session: &mut Session, exchange: &mut Exchange, denial: AuthzDenial) -> Result<bool> {
    exchange.fail(Reason::Denied { label: "authz_denied", status: denial.status }, "guard");
    let mut response = ResponseHeader::build(denial.status, Some(denial.headers.len() + 4))?;
    for (name, value) in &denial.headers {
        response.append_header(name.clone(), value.clone())?;
    }
    let bodyless = matches!(denial.status, 204 | 304);
    if !bodyless {
        response.insert_header(header::CONTENT_LENGTH, denial.body.len())?;
    }
    dress(&mut response, session.req_header(), exchange)?;
    close_if_unread(session);
    let ends = bodyless || denial.body.is_empty() || session.req_header().method == http::Method::HEAD;
    session.write_response_header(Box::new(response), ends).await?;
    if !ends {
        exchange.body_out = denial.body.len() as u64;
        session.write_response_body(Some(denial.body), true).await?;
    }
    Ok(true)
}

/// The answer to a preflight request that is allowed what it asks for.
pub(super) async fn preflight(session: &mut Session, exchange: &Exchange, plan: &Plan) -> Result<bool> {
    let mut response = ResponseHeader::build(204, Some(7))?;
    tell_id(&mut response, exchange)?;
    let origin = session.req_header().headers.get(header::ORIGIN).map(header::HeaderValue::as_bytes);
    if let Some(cors) = &plan.cors {
        cors.answer(origin.unwrap_or_default(), &mut ResponseSink(&mut response));
    }
    response.append_header(header::VARY, "Origin")?;
    close_if_unread(session);
    session.write_response_header(Box::new(response), true).await?;
    Ok(true)
}

/// Decides whether this response is compressed, and changes its head accordingly.
pub(super) fn begin_encoding(response: &mut ResponseHeader, request: &RequestHeader, plan: &Plan) -> Option<Encoder> {
    if plan.compress.is_empty() || request.version == http::Version::HTTP_10 {
        return None;
    }
    let value = |name: HeaderName| response.headers.get(name).map(header::HeaderValue::as_bytes);
    let lines: Vec<&[u8]> =
        response.headers.get_all(header::CACHE_CONTROL).iter().map(header::HeaderValue::as_bytes).collect();
    let cache_control = lines.join(&b","[..]);
    let compressible = Compressible {
        method: request.method.as_str(),
        status: response.status.as_u16(),
        content_type: value(header::CONTENT_TYPE),
        content_encoding: value(header::CONTENT_ENCODING),
        cache_control: (!cache_control.is_empty()).then_some(&cache_control[..]),
        content_range: value(header::CONTENT_RANGE),
        content_length: value(header::CONTENT_LENGTH)
            .and_then(|length| std::str::from_utf8(length).ok()?.trim().parse().ok()),
        accept_encoding: request.headers.get(header::ACCEPT_ENCODING).map(header::HeaderValue::as_bytes),
    };
    if !compressible.varies() {
        return None;
    }
    let coding = compressible.choose(&plan.compress);
    response.append_header(header::VARY, "Accept-Encoding").ok()?;
    let coding = coding?;
    // Availability: without an encoder the response goes as it is.
    let encoder = Encoder::new(coding).ok()?;
    response.insert_header(header::CONTENT_ENCODING, coding.as_str()).ok()?;
    response.remove_header(&header::CONTENT_LENGTH);
    // A range of the encoded form means nothing, and two forms do not share a strong validator (RFC 9110 §8.8.1).
    response.remove_header(&header::ACCEPT_RANGES);
    let etag = response.headers.get(header::ETAG).map(|etag| etag.as_bytes().to_vec());
    if let Some(etag) = etag.filter(|etag| !etag.starts_with(b"W/")) {
        ResponseSink(response).set("etag", &[b"W/", &etag[..]].concat());
    }
    if request.version == http::Version::HTTP_11 {
        response.insert_header(header::TRANSFER_ENCODING, "chunked").ok()?;
    }
    Some(encoder)
}

/// Puts the encoded form of a chunk in its place, and at the end what ends the body.
pub(super) fn encode(encoder: &mut Option<Encoder>, body: &mut Option<Bytes>, end: bool) -> Result<()> {
    let failed = |error: std::io::Error| Error::because(ErrorType::InternalError, "compression", error);
    let mut encoded = match (encoder.as_mut(), body.as_ref()) {
        (Some(encoder), Some(chunk)) => encoder.chunk(chunk).map_err(failed)?,
        _ => Bytes::new(),
    };
    if end && let Some(encoder) = encoder.take() {
        let last = encoder.finish().map_err(failed)?;
        encoded = if encoded.is_empty() { last } else { [encoded, last].concat().into() };
    }
    *body = (!encoded.is_empty()).then_some(encoded);
    Ok(())
}
