//! The gRPC form: `envoy.service.auth.v3.Authorization/Check`, framed as gRPC over HTTP/2 frames its messages.

use super::{
    ANSWER_MAX_BYTES, AuthorityFields, Authz, AuthzDenial, AuthzEdit, AuthzEdits, AuthzFacts, AuthzFailure,
    AuthzVerdict, EDITS_MAX, EditHow, is_framing,
    message::{
        Address, AttributeContext, CheckRequest, CheckResponse, DeniedHttpResponse, HeaderValueOption, HttpRequest,
        HttpResponse, OkHttpResponse, Peer, Request as RequestFacts, SocketAddress as ProtoAddress, Timestamp,
        TlsSession,
    },
};
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Request, header};
use prost::Message;
use std::{collections::HashMap, net::SocketAddr};

const METHOD_PATH: &str = "/envoy.service.auth.v3.Authorization/Check";
/// A flag and a length before each message.
const FRAME_HEAD_BYTES: usize = 5;

pub(super) fn question(authz: &Authz, facts: &AuthzFacts<'_>) -> Result<Request<Bytes>, AuthzFailure> {
    let message = check_request(authz, facts);
    let length = u32::try_from(message.encoded_len()).map_err(|_| AuthzFailure::Unaskable)?;
    let mut frame = BytesMut::with_capacity(FRAME_HEAD_BYTES.saturating_add(message.encoded_len()));
    frame.put_u8(0);
    frame.put_u32(length);
    message.encode(&mut frame).map_err(|_| AuthzFailure::Unaskable)?;
    let uri = format!("{}{METHOD_PATH}", authz.url.to_string().trim_end_matches('/'));
    Request::post(uri)
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        // Milliseconds: the configuration has no shorter ones, and at most 60,000.
        .header("grpc-timeout", format!("{}m", authz.timeout.as_millis()))
        .body(frame.freeze())
        .map_err(|_| AuthzFailure::Unaskable)
}

fn check_request(authz: &Authz, facts: &AuthzFacts<'_>) -> CheckRequest {
    let (body, raw_body) = match std::str::from_utf8(facts.body) {
        Ok(text) => (text.to_owned(), Vec::new()),
        Err(_) => (String::new(), facts.body.to_vec()),
    };
    let http = HttpRequest {
        id: facts.id.to_owned(),
        method: facts.method.to_owned(),
        headers: shown(authz, facts.headers),
        path: facts.target.to_owned(),
        host: facts.host.to_owned(),
        scheme: facts.scheme.to_owned(),
        size: facts.body_size.and_then(|size| i64::try_from(size).ok()).unwrap_or(-1),
        protocol: facts.protocol.to_owned(),
        body,
        raw_body,
    };
    let time = Timestamp {
        seconds: i64::try_from(facts.time.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(facts.time.subsec_nanos()).unwrap_or(0),
    };
    let attributes = AttributeContext {
        source: Some(peer(facts.source, facts.principal)),
        destination: Some(peer(facts.destination, None)),
        request: Some(RequestFacts { time: Some(time), http: Some(http) }),
        tls_session: facts.sni.map(|sni| TlsSession { sni: sni.to_owned() }),
    };
    CheckRequest { attributes: Some(attributes) }
}

/// Repeated fields as one (RFC 9110 §5.3); what is not UTF-8 with replacement characters, as protobuf's strings must be.
fn shown(authz: &Authz, headers: &HeaderMap) -> HashMap<String, String> {
    let mut shown = HashMap::new();
    for name in &authz.request_headers {
        let values: Vec<_> =
            headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
        if !values.is_empty() {
            let separator = if *name == header::COOKIE { "; " } else { "," };
            shown.insert(name.as_str().to_owned(), values.join(separator));
        }
    }
    shown
}

fn peer(address: SocketAddr, principal: Option<&str>) -> Peer {
    let socket = ProtoAddress { address: address.ip().to_canonical().to_string(), port_value: address.port().into() };
    Peer {
        address: Some(Address { socket_address: Some(socket) }),
        principal: principal.unwrap_or_default().to_owned(),
    }
}

pub(super) fn verdict(
    authz: &Authz,
    status: u16,
    headers: &HeaderMap,
    body: &Bytes,
    trailers: Option<&HeaderMap>,
) -> AuthzVerdict {
    read(status, headers, body, trailers).and_then(|answer| judge(authz, answer)).unwrap_or_else(AuthzVerdict::Failed)
}

fn read(
    status: u16,
    headers: &HeaderMap,
    body: &Bytes,
    trailers: Option<&HeaderMap>,
) -> Result<CheckResponse, AuthzFailure> {
    if status != 200 {
        return Err(AuthzFailure::Error);
    }
    if body.len() > ANSWER_MAX_BYTES {
        return Err(AuthzFailure::Malformed);
    }
    // An answer without messages has its status in the head ("Trailers-Only").
    let outcome = trailers.and_then(|trailers| trailers.get("grpc-status")).or_else(|| headers.get("grpc-status"));
    match outcome.map(HeaderValue::as_bytes) {
        Some(b"0") => {}
        // DEADLINE_EXCEEDED
        Some(b"4") => return Err(AuthzFailure::Timeout),
        Some(_) => return Err(AuthzFailure::Error),
        // Cut off: what came may be less than what was said.
        None => return Err(AuthzFailure::Malformed),
    }
    let (head, message) = body.split_at_checked(FRAME_HEAD_BYTES).ok_or(AuthzFailure::Malformed)?;
    let [flag, length @ ..] = head else { return Err(AuthzFailure::Malformed) };
    let length = <[u8; 4]>::try_from(length).map(u32::from_be_bytes).map_err(|_| AuthzFailure::Malformed)?;
    // Compression was not offered, and a unary call has one message.
    if *flag != 0 || usize::try_from(length) != Ok(message.len()) {
        return Err(AuthzFailure::Malformed);
    }
    CheckResponse::decode(message).map_err(|_| AuthzFailure::Malformed)
}

fn judge(authz: &Authz, answer: CheckResponse) -> Result<AuthzVerdict, AuthzFailure> {
    let code = answer.status.map(|status| status.code);
    match (code, answer.http_response) {
        // Whatever else it says, and however badly: a denial that was called a failure would pass where failures do.
        (_, Some(HttpResponse::Denied(denied))) => Ok(AuthzVerdict::Deny(denied_by(authz, denied))),
        (Some(0), Some(HttpResponse::Ok(ok))) => allowed(authz, ok).map(AuthzVerdict::Allow),
        (Some(0), None) => allowed(authz, OkHttpResponse::default()).map(AuthzVerdict::Allow),
        (Some(_), None | Some(HttpResponse::Ok(_))) => {
            Ok(AuthzVerdict::Deny(AuthzDenial { status: 403, headers: HeaderMap::new(), body: Bytes::new() }))
        }
        // No status at all says OK by protobuf's defaults, and would make an empty message a permission: fail closed.
        (None, None | Some(HttpResponse::Ok(_))) => Err(AuthzFailure::Malformed),
    }
}

fn allowed(authz: &Authz, ok: OkHttpResponse) -> Result<AuthzEdits, AuthzFailure> {
    // Queries are matched and normalised by now; a change of them would be judged by nobody.
    if !ok.query_parameters_to_set.is_empty() || !ok.query_parameters_to_remove.is_empty() {
        return Err(AuthzFailure::BadEdit);
    }
    let mut remove = authz.no_edits().remove;
    for name in &ok.headers_to_remove {
        // The protocol wants these ignored.
        if name.starts_with(':') || name.eq_ignore_ascii_case("host") {
            continue;
        }
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| AuthzFailure::BadEdit)?;
        if is_framing(&name) {
            return Err(AuthzFailure::BadEdit);
        }
        remove.push(name);
    }
    let request = edits(authz, ok.headers)?;
    let response = edits(authz, ok.response_headers_to_add)?;
    Ok(AuthzEdits { remove, request, response })
}

/// What is wrong in it is left out; it stays a denial.
fn denied_by(authz: &Authz, denied: DeniedHttpResponse) -> AuthzDenial {
    let code = denied.status.map_or(403, |status| status.code);
    let status = u16::try_from(code).ok().filter(|code| (200..600).contains(code)).unwrap_or(403);
    let mut headers = HeaderMap::new();
    for option in denied.headers.into_iter().take(EDITS_MAX) {
        let Ok(Some(edit)) = edit(authz, option) else { continue };
        match edit.how {
            EditHow::Append => drop(headers.append(edit.name, edit.value)),
            EditHow::Set | EditHow::AddIfAbsent | EditHow::SetIfPresent => drop(headers.insert(edit.name, edit.value)),
        }
    }
    AuthzDenial { status, headers, body: denied.body.into() }
}

fn edits(authz: &Authz, options: Vec<HeaderValueOption>) -> Result<Vec<AuthzEdit>, AuthzFailure> {
    if options.len() > EDITS_MAX {
        return Err(AuthzFailure::BadEdit);
    }
    options.into_iter().filter_map(|option| edit(authz, option).transpose()).collect()
}

/// `None` for a field that is not to be passed on.
fn edit(authz: &Authz, option: HeaderValueOption) -> Result<Option<AuthzEdit>, AuthzFailure> {
    let Some(header) = option.header else { return Ok(None) };
    let name = HeaderName::from_bytes(header.key.as_bytes()).map_err(|_| AuthzFailure::BadEdit)?;
    if is_framing(&name) {
        return Err(AuthzFailure::BadEdit);
    }
    match &authz.response_headers {
        AuthorityFields::These(names) if !names.contains(&name) => return Ok(None),
        AuthorityFields::These(_) | AuthorityFields::All => {}
    }
    let text = if header.value.is_empty() { header.raw_value } else { header.value.into_bytes() };
    let value = HeaderValue::from_bytes(&text).map_err(|_| AuthzFailure::BadEdit)?;
    Ok(Some(AuthzEdit { name, value, how: how(option.append, option.append_action)? }))
}

/// `append` is false unless said in these messages, unlike elsewhere in Envoy; the newer `append_action` counts when `append`
/// is not there. Its 0 is both "append" and "not said", and taken for the latter.
fn how(append: Option<bool>, action: i32) -> Result<EditHow, AuthzFailure> {
    match (append, action) {
        (Some(true), _) => Ok(EditHow::Append),
        (Some(false), _) | (None, 0 | 2) => Ok(EditHow::Set),
        (None, 1) => Ok(EditHow::AddIfAbsent),
        (None, 3) => Ok(EditHow::SetIfPresent),
        (None, _) => Err(AuthzFailure::BadEdit),
    }
}
