//! The hash of a request's body, where a credential signs it and the head must say it before the body goes out.
//!
//! Bodies that fit into the engine's own buffer for retries are held there and sent from it. What is larger, or of a length
//! that nobody knows ahead, goes out unsigned or not at all.

use super::egress::{Stop, plain};
use http::header;
use pingora::{http::RequestHeader, proxy::Session};
use portcullis_egress::{Payload, Reason, UnsignedPayload};
use sha2::{Digest, Sha256};

/// What pingora keeps of a body for another try (its `BODY_BUF_LIMIT`).
const HELD_MAX_BYTES: u64 = 64 << 10;

/// Reads and hashes the body. `wish`: what the credential wants; without one nothing is held.
pub(super) async fn payload(session: &mut Session, wish: Option<UnsignedPayload>) -> Result<Payload, Stop> {
    let Some(unsigned) = wish else { return Ok(Payload::Unsigned) };
    if session.as_mut().is_body_empty() {
        return Ok(Payload::Sha256(Sha256::digest(b"").into()));
    }
    if announced(session.req_header()).is_none_or(|length| length > HELD_MAX_BYTES) {
        return match unsigned {
            UnsignedPayload::Allowed => Ok(Payload::Unsigned),
            UnsignedPayload::Refused => Err(plain(Reason::UnsignedPayload)),
        };
    }
    let session = session.as_mut();
    session.enable_retry_buffering();
    // RFC 9110 §10.1.1: the body is wanted here, before anybody behind us can say so.
    let expects = session.req_header_mut().remove_header(&header::EXPECT).is_some();
    if expects {
        session.write_continue_response().await.map_err(Stop::Broken)?;
    }
    let mut hash = Sha256::new();
    while let Some(chunk) = session.read_request_body().await.map_err(Stop::Broken)? {
        hash.update(&chunk);
    }
    Ok(Payload::Sha256(hash.finalize().into()))
}

fn announced(head: &RequestHeader) -> Option<u64> {
    head.headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
