//! What a client is told that never got as far as an engine.

use super::{Conn, EdgeIo};
use portcullis_ops::access_log::Record;
use portcullis_policy::Reason;
use portcullis_wire::Refusal;

/// The head cannot be trusted: answer, count, log, close.
pub(crate) async fn malformed(io: Box<EdgeIo>, conn: &Conn, refusal: Refusal) {
    let reason = Reason::Malformed { label: refusal.as_str(), status: refusal.status() };
    answer(io, conn, reason).await;
}

/// A method that is not served at all.
pub(crate) async fn not_allowed(io: Box<EdgeIo>, conn: &Conn) {
    answer(io, conn, Reason::Connect).await;
}

/// The head did not come in time. A connection that said nothing is just closed.
pub(crate) async fn timed_out(io: Box<EdgeIo>, conn: &Conn) {
    if io.ahead().is_empty() {
        return io.close().await;
    }
    answer(io, conn, Reason::HeaderTimeout).await;
}

async fn answer(mut io: Box<EdgeIo>, conn: &Conn, reason: Reason) {
    let (status, text) = (reason.status(), reason.text());
    let id = format!("{:032x}", fastrand::u128(..));
    record(&io, conn, reason, &id);
    let phrase = text.trim_end();
    let response = format!(
        "HTTP/1.1 {status} {phrase}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nX-Request-Id: {id}\r\nConnection: close\r\n\r\n{text}",
        text.len()
    );
    if io.send(response.as_bytes()).await.is_ok() {
        io.close().await;
    }
}

fn record(io: &EdgeIo, conn: &Conn, reason: Reason, request_id: &str) {
    let edge = conn.core.edge();
    edge.metrics.refused(reason.as_str());
    let snapshot = edge.snapshot();
    if !snapshot.log.takes(true, 0) {
        return;
    }
    let facts = io.facts();
    let record = Record {
        request_id,
        listener: facts.listener.name.as_str(),
        client: facts.source.map(|source| source.ip()),
        peer: facts.peer,
        protocol: "HTTP/1",
        tls_version: facts.tls.as_ref().map(|tls| tls.version),
        sni: facts.tls.as_ref().and_then(|tls| tls.sni.as_deref()),
        status: reason.status(),
        reason: Some(reason.as_str()),
        ended_by: Some(reason.side().as_str()),
        stage: Some("admit"),
        bytes_in: io.ahead().len() as u64,
        ..Record::default()
    };
    edge.access_log.write(&snapshot.log, &record);
}
