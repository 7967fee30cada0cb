//! Looks at a request's body before its head goes out, where the head cannot be kept back on the connection.
//!
//! Over HTTP/2 an upstream connection is shared, and heads leave it in the order in which they were packed (RFC 7541 §2.2): none can wait.
//! So the body is read before the head is packed, as far as the engine's buffer for retries holds it; from there it is sent. What is
//! longer than that, or might be, is held as ever, with its head gone ahead.

use super::{app::App, screen, stream_watch};
use crate::stage::Exchange;
use bytes::{Bytes, BytesMut};
use http::header;
use pingora::{Result, proxy::Session};
use portcullis_policy::Reason;

/// What pingora keeps of a body for another try (its `BODY_BUF_LIMIT`). A body that ends beyond it could not be sent any more.
const KEPT_MAX: usize = 64 << 10;

/// The most that one read of a body over HTTP/2 gives: a DATA frame, of which we accept the size that RFC 9113 §6.5.2 begins with.
const FRAME_MAX: usize = 16 << 10;

/// How far a body was looked at before anything was sent.
#[derive(Debug)]
pub(crate) struct Ahead {
    /// What may pass of it, in the place of what the engine kept.
    passed: Bytes,
}

/// Reads as much of the body as is safe, and shows it to all who look into requests.
pub(super) async fn look(session: &mut Session, exchange: &mut Exchange) -> Result<()> {
    exchange.ahead = None;
    let mut looked = Looked { read: 0, passed: BytesMut::new() };
    session.enable_retry_buffering();
    if let Some(kept) = session.as_ref().get_retry_buffer() {
        looked.take(exchange, Some(kept), session.is_body_done())?;
    }
    while !session.is_body_done() && fits(session, looked.read) {
        let chunk = session.read_request_body().await.map_err(pingora::Error::into_down)?;
        stream_watch::progress(chunk.as_ref().map_or(0, Bytes::len));
        let end = chunk.is_none() || session.is_body_done();
        looked.take(exchange, chunk, end)?;
        if end {
            break;
        }
    }
    // Of nothing the engine keeps nothing, and asks nobody what may pass of it.
    if looked.read > 0 {
        exchange.ahead = Some(Ahead { passed: looked.passed.freeze() });
    }
    Ok(())
}

/// Puts what was let through in the place of what the engine kept; `false` when that is not what it sends.
pub(super) fn replace(exchange: &mut Exchange, body: &mut Option<Bytes>) -> bool {
    let Some(ahead) = exchange.ahead.take() else { return false };
    *body = Some(ahead.passed);
    true
}

struct Looked {
    read: usize,
    passed: BytesMut,
}

impl Looked {
    fn take(&mut self, exchange: &mut Exchange, mut chunk: Option<Bytes>, end: bool) -> Result<()> {
        self.read += chunk.as_ref().map_or(0, Bytes::len);
        take_in(exchange, &mut chunk, end)?;
        self.passed.extend_from_slice(chunk.as_deref().unwrap_or_default());
        Ok(())
    }
}

/// Counts a chunk, and shows it to all who look into requests. Gives in `body` what may pass.
pub(super) fn take_in(exchange: &mut Exchange, body: &mut Option<Bytes>, end: bool) -> Result<()> {
    let fresh = body.as_ref().map_or_else(Bytes::new, |chunk| exchange.body_in.pass(chunk));
    if exchange.body_in.received() > exchange.body_limit {
        return Err(App::refuse(exchange, Reason::BodyTooLarge, "inspect"));
    }
    screen::request_chunk(exchange, body, &fresh, end)
}

/// Whether another read cannot go beyond what is kept.
fn fits(session: &Session, read: usize) -> bool {
    let header = session.req_header();
    match header.headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok()) {
        Some(length) => length <= KEPT_MAX,
        None => header.version == http::Version::HTTP_2 && read + FRAME_MAX <= KEPT_MAX,
    }
}
