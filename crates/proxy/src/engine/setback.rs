//! An attempt that failed: what is learnt of it, and whether there is another.

use super::{
    app::{Ctx, exchange},
    fate,
    head_gate::HeadGate,
};
use crate::stage;
use pingora::{BError, ErrorSource, ErrorType, proxy::Session};
use portcullis_health::TryOutcome;
use portcullis_policy::{Body, Failed, Reason};
use std::time::Instant;

/// Tries for a request that met dead pooled connections, beside those that its rule allows.
const STALE_TRIES: u32 = 3;

/// An attempt that reached nobody; says in the error whether there is another.
pub(super) fn not_connected(session: &Session, ctx: &mut Ctx, mut error: BError) -> BError {
    let Ok(exchange) = exchange(ctx) else { return error };
    let now = Instant::now();
    error.as_up();
    let index = exchange.pick.as_ref().map(|pick| pick.index);
    if exchange.outgoing.as_mut().is_some_and(|outgoing| outgoing.chose_h1(&error, index, now)) {
        error.set_retry(true);
        return error;
    }
    let reason = fate::reason(&error, &exchange.facts);
    if reason != Reason::CircuitOpen {
        stage::judge(exchange, TryOutcome::NotConnected, now);
    }
    let method = session.req_header().method.as_str();
    if let Some(outgoing) = &exchange.outgoing {
        error.set_retry(reason != Reason::CircuitOpen && outgoing.has_more_addresses(exchange.attempts));
        exchange.fate = Some((reason, "connect"));
        return error;
    }
    let again =
        reason != Reason::CircuitOpen && stage::try_again(exchange, Failed::Connect, method, held(session), now);
    error.set_retry(again);
    exchange.fate = Some((reason, "connect"));
    error
}

/// An attempt that ended in the middle, on a connection that was `reused` or not; says in the error whether there is another.
pub(super) fn broken_off(session: &mut Session, mut error: BError, ctx: &mut Ctx, reused: bool) -> BError {
    let Ok(exchange) = exchange(ctx) else { return error };
    let now = Instant::now();
    let method = session.req_header().method.clone();
    let answered = session.response_written().is_some();
    let from_upstream = error.esource() == &ErrorSource::Upstream;
    if let Some(status) = exchange.retry_status.take() {
        error.set_retry(true);
        tracing::debug!(status, "tried again for its status");
        return error;
    }
    let failed = fate::failed(&error);
    // A pooled connection may die just as a request is put on it. That is not the endpoint's fault, and costs no retry
    // when nothing of a body was sent and nothing was answered; a body is never sent twice unless the operator says so.
    let stale = reused && failed == Failed::Reset && from_upstream && !answered;
    let unsent = exchange.head_gate.as_ref().is_some_and(HeadGate::is_closed) && held(session) == Body::Replayable;
    let harmless = unsent || (exchange.body_in.received() == 0 && method.is_idempotent());
    if stale && harmless && exchange.stale_tries < STALE_TRIES {
        exchange.stale_tries += 1;
        exchange.attempts = exchange.attempts.saturating_sub(1);
        error.set_retry(true);
        return error;
    }
    // A timeout while the client has not sent its body is the client's: no endpoint is ejected by slow uploads. Unless it
    // is the endpoint that takes nothing of it.
    let takes_nothing = error.etype() == &ErrorType::WriteTimedout;
    if from_upstream && failed == Failed::Timeout && !takes_nothing && !session.is_body_done() {
        exchange.fate = Some((Reason::BodyTimeout, "proxy"));
        error.set_retry(false);
        return error;
    }
    if from_upstream {
        stage::judge(exchange, TryOutcome::Broken, now);
    }
    let again = from_upstream && !answered && stage::try_again(exchange, failed, method.as_str(), held(session), now);
    error.set_retry(again);
    if again {
        exchange.fate = None;
    }
    error
}

/// Whether what was read of the request's body is held for another attempt.
pub(super) fn held(session: &Session) -> Body {
    if session.as_ref().retry_buffer_truncated() { Body::Gone } else { Body::Replayable }
}
