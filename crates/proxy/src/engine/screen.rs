//! Everything that looks into messages, each in its turn: the WAF sees a message as the client or the upstream sent it; what it lets
//! pass is held against the documents of the API; and that is searched for personal data.

use super::{
    ahead,
    app::App,
    contract::Contract,
    head_gate::HeadGate,
    inspect::{self, Inspector},
    redact::Redactor,
};
use crate::stage::Exchange;
use bytes::Bytes;
use pingora::{
    BError, Result,
    http::{RequestHeader, ResponseHeader},
    proxy::Session,
};
use portcullis_api::Presence;
use portcullis_waf::Intervention;

/// Before anything is done about the request; `index` is its plan's.
pub(super) fn request_head(session: &mut Session, exchange: &mut Exchange, index: usize) -> Result<()> {
    let snapshot = exchange.snapshot.clone();
    let guard = snapshot.wafs.get(index).cloned().flatten();
    if let Some(guard) = guard.filter(|guard| guard.sample.takes(fastrand::u64(..))) {
        let (inspector, verdict) = Inspector::begin(guard, session, exchange, fastrand::u64(..));
        exchange.inspector = Some(Box::new(inspector));
        verdict.map_err(|intervention| intervene(exchange, &intervention))?;
    }
    if let Some(guard) = snapshot.apis.get(index).cloned().flatten() {
        let presence = if has_body(session) { Presence::Present } else { Presence::Absent };
        let (contract, verdict) = Contract::begin(guard, session.req_header(), exchange, presence);
        exchange.contract = Some(Box::new(contract));
        verdict.map_err(|reason| App::refuse(exchange, reason, "inspect"))?;
    }
    if let Some(guard) = snapshot.privacy.get(index).cloned().flatten() {
        let body = has_body(session).then_some(exchange.body_limit);
        let (redactor, verdict) = Redactor::begin(guard, session.req_header(), body);
        exchange.redactor = Some(Box::new(redactor));
        verdict.map_err(|reason| App::refuse(exchange, reason, "inspect"))?;
    }
    Ok(())
}

/// Whether a body is to come, or was read already and waits to be sent on.
pub(super) fn has_body(session: &mut Session) -> bool {
    !session.is_body_done() || session.as_ref().get_retry_buffer().is_some()
}

/// An upstream was reached. As long as the body is held back from it, so is the head; then the upstream cannot tell the client
/// that it wants the body (RFC 9110 §10.1.1), and we do.
pub(super) async fn reached(session: &mut Session, exchange: &mut Exchange, gate: Option<HeadGate>) -> Result<()> {
    exchange.head_gate = None;
    let holds = exchange.inspector.as_ref().is_some_and(|inspector| inspector.holds_request())
        || exchange.contract.as_ref().is_some_and(|contract| contract.holds_request())
        || exchange.redactor.as_ref().is_some_and(|redactor| redactor.holds_request());
    if !holds {
        if let Some(gate) = gate {
            gate.open();
        }
        return Ok(());
    }
    let header = session.req_header();
    let waits = header.headers.contains_key(http::header::EXPECT) && header.version != http::Version::HTTP_10;
    if waits && !session.is_body_done() && !std::mem::replace(&mut exchange.said_continue, true) {
        session.write_continue_response().await?;
    }
    match gate {
        Some(gate) => {
            gate.close();
            exchange.head_gate = Some(gate);
            Ok(())
        }
        None => ahead::look(session, exchange).await,
    }
}

/// The head that the upstream is sent, after all else was done to it.
pub(super) fn shape_request(request: &mut RequestHeader, exchange: &Exchange) {
    if exchange.said_continue {
        request.remove_header(&http::header::EXPECT);
    }
    if let Some(redactor) = &exchange.redactor {
        redactor.shape_request(request);
    }
}

/// A chunk on its way upstream; `fresh`: what of it no attempt before has sent. Gives in `body` what may pass.
pub(super) fn request_chunk(exchange: &mut Exchange, body: &mut Option<Bytes>, fresh: &[u8], end: bool) -> Result<()> {
    if let Some(inspector) = &mut exchange.inspector {
        let verdict = inspector.request_chunk(body, fresh, end);
        verdict.map_err(|intervention| intervene(exchange, &intervention))?;
    }
    if let Some(contract) = &mut exchange.contract {
        let verdict = contract.request_chunk(body, end);
        verdict.map_err(|reason| App::refuse(exchange, reason, "inspect"))?;
    }
    if let Some(redactor) = &mut exchange.redactor {
        let verdict = redactor.request_chunk(body, end);
        verdict.map_err(|reason| App::refuse(exchange, reason, "inspect"))?;
    }
    if let Some(gate) = &exchange.head_gate
        && (end || body.as_ref().is_some_and(|body| !body.is_empty()))
    {
        gate.open();
    }
    Ok(())
}

/// The head of a final response.
pub(super) fn response_head(
    session: &mut Session,
    exchange: &mut Exchange,
    response: &mut ResponseHeader,
) -> Result<()> {
    if let Some(inspector) = &mut exchange.inspector {
        let verdict = inspector.response_head(response);
        verdict.map_err(|intervention| intervene(exchange, &intervention))?;
    }
    if let Some(contract) = &mut exchange.contract {
        let verdict = contract.response_head(response, session.req_header());
        verdict.map_err(|reason| App::refuse(exchange, reason, "inspect"))?;
    }
    if let Some(redactor) = &mut exchange.redactor {
        let had_length = response.headers.contains_key(http::header::CONTENT_LENGTH);
        let verdict = redactor.response_head(response, session.req_header());
        verdict.map_err(|reason| App::refuse(exchange, reason, "inspect"))?;
        // To a client of HTTP/1.0 a body without a length ends with the connection.
        if had_length
            && session.req_header().version == http::Version::HTTP_10
            && !response.headers.contains_key(http::header::CONTENT_LENGTH)
        {
            session.set_keepalive(None);
        }
    }
    Ok(())
}

/// A chunk on its way to the client. Gives in `body` what may pass.
pub(super) fn response_chunk(exchange: &mut Exchange, body: &mut Option<Bytes>, end: bool) -> Result<()> {
    if let Some(inspector) = &mut exchange.inspector {
        let verdict = inspector.response_chunk(body, end);
        verdict.map_err(|intervention| intervene(exchange, &intervention))?;
    }
    if let Some(contract) = &mut exchange.contract {
        let verdict = contract.response_chunk(body, end);
        verdict.map_err(|reason| App::refuse(exchange, reason, "inspect"))?;
    }
    if let Some(redactor) = &mut exchange.redactor {
        let verdict = redactor.response_chunk(body, end);
        verdict.map_err(|reason| App::refuse(exchange, reason, "inspect"))?;
    }
    Ok(())
}

/// What the WAF decided.
fn intervene(exchange: &mut Exchange, intervention: &Intervention) -> BError {
    if let portcullis_waf::Response::Redirect { location, .. } = &intervention.response {
        exchange.location = Some(location.clone());
    }
    App::refuse(exchange, inspect::reason(intervention), "inspect")
}
