//! What pingora's errors mean in our words.

use super::dial;
use crate::conn::{ConnFacts, Fault};
use pingora::{Error, ErrorSource, ErrorType};
use portcullis_policy::{Failed, Reason};
use std::io;

/// The reason behind an error that ended an exchange.
pub(super) fn reason(error: &Error, facts: &ConnFacts) -> Reason {
    match error.esource() {
        ErrorSource::Upstream => upstream(error),
        ErrorSource::Downstream => downstream(error, facts),
        ErrorSource::Internal | ErrorSource::Unset => match facts.fault() {
            Some(fault) => from_fault(fault),
            None => Reason::Internal,
        },
    }
}

/// How an attempt failed, as far as retrying goes.
pub(super) fn failed(error: &Error) -> Failed {
    match error.etype() {
        ErrorType::ReadTimedout | ErrorType::WriteTimedout => Failed::Timeout,
        _ if io_kind(error) == Some(io::ErrorKind::TimedOut) => Failed::Timeout,
        _ if is_unprocessed(error) => Failed::RefusedStream,
        _ => Failed::Reset,
    }
}

/// The endpoint says that it has not begun with the request: by its stream (RFC 9113 §8.7), or by a GOAWAY (§6.8), which the codec
/// reports of no streams but those beyond the last that it names.
fn is_unprocessed(error: &Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error.root_cause());
    while let Some(inner) = cause {
        if let Some(h2) = inner.downcast_ref::<h2::Error>() {
            return h2.reason() == Some(h2::Reason::REFUSED_STREAM) || (h2.is_go_away() && h2.is_remote());
        }
        cause = inner.source();
    }
    false
}

fn from_fault(fault: Fault) -> Reason {
    match fault {
        Fault::Malformed(refusal) => Reason::Malformed { label: refusal.as_str(), status: refusal.status() },
        Fault::SlowBody => Reason::BodyTimeout,
        Fault::H2Abuse(_) => Reason::H2Abuse,
    }
}

fn downstream(error: &Error, facts: &ConnFacts) -> Reason {
    if let Some(fault) = facts.fault() {
        return from_fault(fault);
    }
    match error.etype() {
        ErrorType::ReadTimedout => Reason::BodyTimeout,
        ErrorType::InvalidHTTPHeader => Reason::ClientProtocol,
        _ => Reason::ClientGone,
    }
}

fn upstream(error: &Error) -> Reason {
    match error.etype() {
        ErrorType::Custom(dial::OVERFLOW) => Reason::CircuitOpen,
        ErrorType::ConnectRefused => Reason::ConnectRefused,
        ErrorType::ConnectTimedout => Reason::ConnectTimeout,
        ErrorType::TLSHandshakeFailure | ErrorType::TLSHandshakeTimedout | ErrorType::InvalidCert => {
            Reason::UpstreamTls
        }
        ErrorType::ConnectError
        | ErrorType::ConnectNoRoute
        | ErrorType::ConnectProxyFailure
        | ErrorType::SocketError => Reason::ConnectFailed,
        ErrorType::ReadTimedout | ErrorType::WriteTimedout => Reason::UpstreamTimeout,
        ErrorType::InvalidHTTPHeader | ErrorType::H1Error | ErrorType::H2Error | ErrorType::InvalidH2 => {
            Reason::UpstreamProtocol
        }
        // Our reader of responses says `InvalidData` for what breaks the grammar.
        _ if io_kind(error) == Some(io::ErrorKind::InvalidData) => Reason::UpstreamProtocol,
        _ if io_kind(error) == Some(io::ErrorKind::TimedOut) => Reason::UpstreamTimeout,
        _ => Reason::UpstreamReset,
    }
}

/// What the IO under pingora said, if it was that.
fn io_kind(error: &Error) -> Option<io::ErrorKind> {
    let mut cause: &(dyn std::error::Error + 'static) = error.root_cause();
    loop {
        if let Some(io) = cause.downcast_ref::<io::Error>() {
            return Some(io.kind());
        }
        cause = cause.source()?;
    }
}
