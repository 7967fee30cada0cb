//! The HTTP form: the request is asked about by itself, and the answer's status decides.

use super::{
    ANSWER_MAX_BYTES, AuthorityFields, Authz, AuthzDenial, AuthzEdit, AuthzFacts, AuthzFailure, AuthzVerdict, EditHow,
    is_framing,
};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, Request, header};

/// Fields of a denial that say what the client can do about it; passed on without being listed.
const OF_A_DENIAL: [HeaderName; 5] =
    [header::WWW_AUTHENTICATE, header::LOCATION, header::CONTENT_TYPE, header::CONTENT_ENCODING, header::RETRY_AFTER];
/// Envoy's way to have fields taken away by an HTTP authority.
const TO_REMOVE: &str = "x-envoy-auth-headers-to-remove";

pub(super) fn question(authz: &Authz, facts: &AuthzFacts<'_>) -> Result<Request<Bytes>, AuthzFailure> {
    let prefix = authz.url.target().trim_end_matches('/');
    // `OPTIONS *` has no path that could follow a prefix.
    let target = if facts.target.starts_with('/') { facts.target } else { "/" };
    let mut question = Request::builder()
        .method(facts.method)
        .uri(format!("{prefix}{target}"))
        .body(Bytes::copy_from_slice(facts.body))
        .map_err(|_| AuthzFailure::Unaskable)?;
    // A fragment would be dropped in silence, and another path judged than the one asked for.
    if !question.uri().path_and_query().is_some_and(|asked| asked.as_str().ends_with(target)) {
        return Err(AuthzFailure::Unaskable);
    }
    let headers = question.headers_mut();
    for name in &authz.request_headers {
        for value in facts.headers.get_all(name) {
            headers.append(name.clone(), value.clone());
        }
    }
    // Ours, whatever the list says: the authority judges the host and address that the gateway saw.
    let host = facts.host.parse().map_err(|_| AuthzFailure::Unaskable)?;
    headers.insert(header::HOST, host);
    headers.insert(header::CONTENT_LENGTH, facts.body.len().into());
    for (name, value) in [
        ("x-forwarded-for", facts.source.ip().to_canonical().to_string()),
        ("x-forwarded-proto", facts.scheme.to_owned()),
        ("x-request-id", facts.id.to_owned()),
    ] {
        headers.insert(HeaderName::from_static(name), value.parse().map_err(|_| AuthzFailure::Unaskable)?);
    }
    Ok(question)
}

pub(super) fn verdict(authz: &Authz, status: u16, headers: &HeaderMap, body: &Bytes) -> AuthzVerdict {
    match status {
        200 => allowed(authz, headers),
        // Its own fault, and no word about the request.
        0..=199 | 500.. => AuthzVerdict::Failed(AuthzFailure::Error),
        201..=499 => AuthzVerdict::Deny(AuthzDenial {
            status: denial_status(status),
            headers: told(authz, headers),
            body: if body.len() > ANSWER_MAX_BYTES { Bytes::new() } else { body.clone() },
        }),
    }
}

/// 2xx other than 200 let nothing pass, and must not look like success to the client.
fn denial_status(status: u16) -> u16 {
    if status < 300 { 403 } else { status }
}

fn allowed(authz: &Authz, headers: &HeaderMap) -> AuthzVerdict {
    let mut edits = authz.no_edits();
    for list in headers.get_all(TO_REMOVE) {
        let Ok(list) = list.to_str() else { return AuthzVerdict::Failed(AuthzFailure::BadEdit) };
        for name in list.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            match HeaderName::from_bytes(name.as_bytes()) {
                Ok(name) if !is_framing(&name) => edits.remove.push(name),
                _ => return AuthzVerdict::Failed(AuthzFailure::BadEdit),
            }
        }
    }
    for name in listed(authz) {
        for value in headers.get_all(name) {
            edits.request.push(AuthzEdit { name: name.clone(), value: value.clone(), how: EditHow::Append });
        }
    }
    AuthzVerdict::Allow(edits)
}

/// An HTTP answer has fields of its own, so that all of them are never meant.
fn listed(authz: &Authz) -> &[HeaderName] {
    match &authz.response_headers {
        AuthorityFields::All => &[],
        AuthorityFields::These(names) => names,
    }
}

fn told(authz: &Authz, headers: &HeaderMap) -> HeaderMap {
    let mut told = HeaderMap::new();
    for name in OF_A_DENIAL.iter().chain(listed(authz)) {
        if told.contains_key(name) {
            continue;
        }
        for value in headers.get_all(name) {
            told.append(name.clone(), value.clone());
        }
    }
    told
}
