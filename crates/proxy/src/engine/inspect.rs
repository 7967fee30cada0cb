//! Shows the WAF what passes, and holds bodies back until it has seen them.
//!
//! Held is what could do harm before the verdict: a request body towards the upstream, a response body towards the client, each up to
//! the rule set's limit. Never held are upgraded connections, event streams and gRPC, whose messages must not wait for the
//! next ones; gRPC is looked at as it passes.

use super::{
    screen,
    shadow::{RequestBody, Shadow, ShadowReport},
};
use crate::{
    stage::Exchange,
    waf_guard::{WafGuard, show_head},
};
use bytes::Bytes;
use http::header;
use pingora::{
    http::{RequestHeader, ResponseHeader},
    proxy::Session,
};
use portcullis_policy::Reason;
use portcullis_waf::{Audit, Connection, Intervention, Response, Transaction};
use std::{
    borrow::Cow,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

/// The WAF's side of one exchange.
pub(crate) struct Inspector {
    guard: Arc<WafGuard>,
    transaction: Transaction<'static>,
    shadow: Option<Shadow>,
    /// Octets of the request body that were shown.
    shown: usize,
    request: Body,
    response: Body,
}

impl std::fmt::Debug for Inspector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inspector").field("guard", &self.guard).finish_non_exhaustive()
    }
}

/// How far one body is.
#[derive(Debug)]
enum Body {
    /// Shown, and held until all of it was shown.
    Held(Vec<u8>),
    /// Shown as it passes.
    Passing,
    /// The verdict is there, or nobody asks for one.
    Done,
}

/// A response that is longer passes on after so much of it was looked at.
const RESPONSE_HELD_MAX: usize = 512 << 10;

impl Inspector {
    /// Shows the head, and when there is no body that too is said: phases 1 and 2. `draw` decides whether the shadow looks on.
    pub(super) fn begin(
        guard: Arc<WafGuard>,
        session: &mut Session,
        exchange: &Exchange,
        draw: u64,
    ) -> (Self, Result<(), Intervention>) {
        let bodyless = !screen::has_body(session);
        let header = session.req_header();
        let grpc = is_grpc(&header.headers);
        let connection = connection(exchange);
        let shadow = guard.shadow.as_ref().filter(|(_, share)| share.takes(draw)).map(|(guard, _)| {
            let body = if bodyless { RequestBody::Absent } else { RequestBody::Present };
            Shadow::new(guard.clone(), guard.begin(connection.clone()), body)
        });
        let transaction = guard.begin(connection);
        let mut inspector = Self { transaction, guard, shadow, shown: 0, request: Body::Done, response: Body::Done };
        let verdict = inspector.head(header, &exchange.path);
        let wanted = inspector.transaction.wants_request_body();
        let verdict = match verdict {
            Ok(()) if bodyless || !wanted => inspector.request_done(),
            Ok(()) => Ok(()),
            Err(intervention) => {
                // Of a request without a body the shadow can see everything all the same.
                if let Some(shadow) = inspector.shadow.as_mut().filter(|_| bodyless) {
                    shadow.transaction.request_body_done();
                }
                Err(intervention)
            }
        };
        if verdict.is_ok() && !bodyless && wanted {
            inspector.request = if grpc { Body::Passing } else { Body::Held(Vec::new()) };
        }
        (inspector, verdict)
    }

    /// Shows something to both; the shadow's word counts for nothing.
    fn show(&mut self, step: impl Fn(&mut Transaction<'static>) -> Option<Intervention>) -> Result<(), Intervention> {
        if let Some(shadow) = &mut self.shadow {
            step(&mut shadow.transaction);
        }
        refused(step(&mut self.transaction))
    }

    fn head(&mut self, header: &RequestHeader, path: &str) -> Result<(), Intervention> {
        // As the client wrote it: rules look for what normalisation would hide.
        let target = match header.raw_path() {
            raw if raw.starts_with(b"/") || raw == b"*" => Cow::Borrowed(raw),
            raw => origin_form(raw).unwrap_or(Cow::Borrowed(path.as_bytes())),
        };
        self.show(|transaction| show_head(transaction, header, &target))
    }

    fn request_done(&mut self) -> Result<(), Intervention> {
        self.request = Body::Done;
        self.show(Transaction::request_body_done)
    }

    /// Whether nothing of the request's body may pass yet.
    pub(super) fn holds_request(&self) -> bool {
        matches!(self.request, Body::Held(_))
    }

    /// A new attempt sends the body from its first octet: what was held for the one before goes with it.
    pub(crate) fn begin_attempt(&mut self) {
        if let Body::Held(held) = &mut self.request {
            held.clear();
        }
    }

    /// Takes in a chunk of the request body (`fresh`: what of it was not shown before), and gives what may pass on.
    pub(super) fn request_chunk(
        &mut self,
        body: &mut Option<Bytes>,
        fresh: &[u8],
        end: bool,
    ) -> Result<(), Intervention> {
        if matches!(self.request, Body::Done) {
            return Ok(());
        }
        self.shown += fresh.len();
        self.show(|transaction| transaction.request_body_chunk(fresh))?;
        if let Body::Held(held) = &mut self.request {
            held.extend_from_slice(body.as_deref().unwrap_or_default());
            // Before the end, no chunk at all would end the body upstream.
            *body = Some(Bytes::new());
        }
        if end || self.shown > self.guard.body_limit {
            let held = match std::mem::replace(&mut self.request, Body::Done) {
                Body::Held(held) => Some(held),
                Body::Passing | Body::Done => None,
            };
            self.request_done()?;
            if let Some(held) = held {
                *body = Some(held.into());
            }
        }
        Ok(())
    }

    /// Shows the response's head: phase 3.
    pub(super) fn response_head(&mut self, response: &ResponseHeader) -> Result<(), Intervention> {
        let verdict = self.show(|transaction| {
            transaction.response_line(response.status.as_u16(), b"HTTP/1.1");
            for (name, value) in &response.headers {
                transaction.response_header(name.as_str().as_bytes(), value.as_bytes());
            }
            transaction.response_headers_done()
        });
        let wanted = self.transaction.wants_response_body();
        let streams = is_grpc(&response.headers) || is_event_stream(&response.headers);
        if wanted && !streams && response.status != http::StatusCode::SWITCHING_PROTOCOLS {
            self.response = Body::Held(Vec::new());
        }
        verdict
    }

    /// Takes in a chunk of the response body, and gives what may pass on. The head is with the client by then: what is refused here
    /// is withheld, and the connection ends.
    pub(super) fn response_chunk(&mut self, body: &mut Option<Bytes>, end: bool) -> Result<(), Intervention> {
        let Body::Held(held) = &mut self.response else { return Ok(()) };
        let chunk = body.take().unwrap_or_default();
        held.extend_from_slice(&chunk);
        let done = end || held.len() > RESPONSE_HELD_MAX;
        self.show(|transaction| transaction.response_body_chunk(&chunk))?;
        if done {
            self.show(Transaction::response_body_done)?;
            if let Body::Held(held) = std::mem::replace(&mut self.response, Body::Done) {
                *body = Some(held.into());
            }
        }
        Ok(())
    }

    /// The end, phase 5: the rule set's name and everything there is to tell.
    pub(crate) fn finish(self) -> (Arc<WafGuard>, Audit, Option<ShadowReport>) {
        let audit = self.transaction.finish();
        let shadow = self.shadow.map(|shadow| shadow.finish(&audit));
        (self.guard, audit, shadow)
    }
}

fn refused(intervention: Option<Intervention>) -> Result<(), Intervention> {
    intervention.map_or(Ok(()), Err)
}

/// Why, in our own terms.
pub(super) fn reason(intervention: &Intervention) -> Reason {
    let status = match intervention.response {
        Response::Deny { status } | Response::Redirect { status, .. } => status,
        Response::Drop => 403,
    };
    Reason::Denied { label: "waf", status }
}

fn connection(exchange: &Exchange) -> Connection {
    let nowhere = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let facts = &exchange.facts;
    Connection {
        client: exchange.client_ip,
        client_port: facts.source.map_or(0, |source| source.port()),
        server: facts.local.map_or(nowhere, |local| local.ip()),
        server_port: facts.local.map_or(0, |local| local.port()),
        unique_id: exchange.request_id.clone(),
        now: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
    }
}

fn is_grpc(headers: &http::HeaderMap) -> bool {
    begins(headers, b"application/grpc")
}

fn is_event_stream(headers: &http::HeaderMap) -> bool {
    begins(headers, b"text/event-stream")
}

fn begins(headers: &http::HeaderMap, kind: &[u8]) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(kind))
}

/// What an absolute target (RFC 9112 §3.2.2) asks for behind its authority, octet for octet: its query is as hostile as any.
fn origin_form(target: &[u8]) -> Option<Cow<'_, [u8]>> {
    let scheme = target.windows(3).position(|octets| octets == b"://")?;
    let behind = target.get(scheme.checked_add(3)?..)?;
    let start = behind.iter().position(|octet| matches!(octet, b'/' | b'?' | b'#'));
    match start.and_then(|start| behind.get(start..)) {
        None => Some(Cow::Borrowed(b"/")),
        Some(rest) if rest.starts_with(b"/") => Some(Cow::Borrowed(rest)),
        Some(rest) => Some(Cow::Owned([b"/", rest].concat())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absolute_target_keeps_its_query() {
        for (target, expected) in [
            ("http://a.test/x?id=1", Some("/x?id=1")),
            ("http://a.test:8080/", Some("/")),
            ("https://a.test?id=%27/y://z", Some("/?id=%27/y://z")),
            ("http://a.test", Some("/")),
            ("a.test:443", None),
        ] {
            let found = origin_form(target.as_bytes());
            assert_eq!(found.as_deref(), expected.map(str::as_bytes), "{target}");
        }
    }
}
