//! What a client of the explicit proxy is told over HTTP/1, outside any engine.

use super::admission::Refused;
use portcullis_egress::PROBLEM_JSON;
use std::fmt::Write;

pub(crate) const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

/// Whether another request may follow a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    Request,
    Close,
}

/// The reason stands in the status line as well: it is all that urllib and pip print of a refused CONNECT.
pub(crate) fn refusal(refused: &Refused, request_id: &str, challenges: &[String], next: Next) -> String {
    let told = refused.told(request_id);
    let body = told.body();
    let mut head = format!(
        "HTTP/1.1 {} refused: {}\r\nContent-Type: {PROBLEM_JSON}\r\nContent-Length: {}\r\nCache-Control: no-store\r\n\
         Proxy-Status: {}\r\n",
        told.status(),
        refused.reason.as_str(),
        body.len(),
        told.proxy_status(),
    );
    for challenge in challenges {
        let _ = write!(head, "Proxy-Authenticate: {challenge}\r\n");
    }
    if let Some(after) = told.retry_after() {
        let _ = write!(head, "Retry-After: {after}\r\n");
    }
    head.push_str(match next {
        Next::Request => "Connection: keep-alive\r\nProxy-Connection: keep-alive\r\n\r\n",
        Next::Close => "Connection: close\r\nProxy-Connection: close\r\n\r\n",
    });
    head + &body
}
