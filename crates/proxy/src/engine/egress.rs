//! Requests that leave by an explicit proxy: decided about one by one, dialled at addresses that we resolved ourselves, and
//! sent with the destination's credential in place of what the application sent.

use super::{
    dial::{DialTls, Dialer},
    peers,
    reply::close_if_unread,
};
use crate::{
    egress::{CallerFacts, LiveEgress, Pinned, Refused, Showing, admit, connect, resolve},
    listen::PlanProtocol,
    snapshot::Edge,
    stage::Exchange,
};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, header};
use pingora::{
    Error, ErrorType, Result,
    http::{RequestHeader, ResponseHeader},
    proxy::Session,
    upstreams::peer::HttpPeer,
};
use portcullis_egress::{
    Application, Binding, Bound, Checked, Decision, FirstOctets, HeaderChanges, HostVerdict, PROBLEM_JSON, Payload,
    Reason, Request, SignedParts, Target, TlsMode, bind, in_turns,
};
use portcullis_names::{EndpointAddress, ObjectName};
use portcullis_policy::Reason as Fate;
use portcullis_upstream::CircuitBreaker;
use rustls::pki_types::ServerName;
use std::{
    collections::hash_map::DefaultHasher,
    hash::{Hash, Hasher},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

/// What is known of a request on its way out.
#[derive(Debug)]
pub(crate) struct Outgoing {
    egress: Arc<LiveEgress>,
    pub(crate) caller: CallerFacts,
    pub(crate) target: Target,
    pub(crate) decision: Option<Decision>,
    /// Let through although it would be denied.
    pub(crate) reported: Option<Reason>,
    way: Option<Way>,
}

/// Where a request goes that was let through.
#[derive(Debug)]
struct Way {
    tls: TlsMode,
    destination: Option<ObjectName>,
    addresses: Vec<Checked>,
    changes: HeaderChanges,
    showing: Showing,
    connect_timeout: Duration,
    silence: Duration,
}

/// Of what no destination speaks for.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const SILENCE: Duration = Duration::from_secs(60);
/// Addresses of one name that are tried.
const TRIES_MAX: usize = 4;
/// Of an idle pooled connection to a destination.
const POOLED_IDLE: Duration = Duration::from_secs(30);
/// The most there is: destinations are limited by their own quotas.
const BREAKER: CircuitBreaker =
    CircuitBreaker { connections: u32::MAX, pending: u32::MAX, requests: u32::MAX, retries: u32::MAX };
/// SHA-256 of nothing: what AWS wants signed for a request without a body.
const NO_BODY: [u8; 32] = [
    0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24, 0x27, 0xae, 0x41,
    0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55,
];

impl Exchange {
    /// Whether it came by the way out.
    pub(crate) fn is_outgoing(&self) -> bool {
        match self.facts.listener.plan().protocol {
            PlanProtocol::Proxy(_) | PlanProtocol::Intercept(_) => true,
            PlanProtocol::Http
            | PlanProtocol::Https(_)
            | PlanProtocol::Tcp(_)
            | PlanProtocol::Tls(_)
            | PlanProtocol::Mesh(_) => false,
        }
    }
}

impl Outgoing {
    pub(crate) fn destination(&self) -> Option<&ObjectName> {
        Some(self.decision.as_ref()?.destination.as_ref()?.name())
    }

    pub(crate) fn rule(&self) -> Option<&ObjectName> {
        self.decision.as_ref()?.rule.as_ref()
    }

    /// Counts a request's octets against its destination's budget. The request that used it up is over; the next is refused.
    pub(crate) fn spend(&self, octets: u64) {
        let Some(destination) = self.decision.as_ref().and_then(|decision| decision.destination.as_ref()) else {
            return;
        };
        let (quotas, now) = (&self.egress.state.quotas, Instant::now());
        let _: std::result::Result<(), Reason> =
            quotas.spend(destination, &self.caller.name(), octets, now, SystemTime::now());
    }

    pub(super) fn has_more_addresses(&self, tried: u32) -> bool {
        let most = self.way.as_ref().map_or(0, |way| way.addresses.len().min(TRIES_MAX));
        (tried as usize) < most
    }
}

/// Lets a request out, or answers it. `true`: it was answered.
pub(super) async fn filter(edge: &Edge, session: &mut Session, exchange: &mut Exchange) -> Result<bool> {
    match decide(edge, session, exchange).await {
        Ok(()) => Ok(false),
        Err((refused, challenges)) => refuse(session, exchange, &refused, &challenges).await,
    }
}

type Refusal = (Refused, Vec<String>);

fn plain(refused: impl Into<Refused>) -> Refusal {
    (refused.into(), Vec::new())
}

async fn decide(edge: &Edge, session: &Session, exchange: &mut Exchange) -> std::result::Result<(), Refusal> {
    let head = session.req_header();
    let facts = exchange.facts.clone();
    let pinned = facts.pinned().cloned();
    let user = match &pinned {
        Some(Pinned::Target { user, .. }) => user.clone(),
        Some(Pinned::Port(_)) => None,
        None => {
            let mut values = head.headers.get_all(header::PROXY_AUTHORIZATION).iter();
            let (first, second) = (values.next(), values.next());
            // Which of two would be believed?
            if second.is_some() {
                return Err(plain(Reason::ProxyAuthRequired));
            }
            connect::user_of(&facts.listener.plan(), &facts, first.map(HeaderValue::as_bytes)).await?
        }
    };
    connect::learn_process(edge, &facts).await;
    let caller = CallerFacts::new(&facts, user);
    let authority = authority(head).ok_or_else(|| plain(Reason::BadTarget))?.to_owned();
    let target = match pinned {
        Some(Pinned::Target { target, .. }) => target,
        Some(Pinned::Port(port)) => {
            let named = Target::parse_with_default(&authority, port).map_err(plain)?;
            Target::new(named.host().clone(), port)
        }
        None => Target::parse_with_default(&authority, 80).map_err(plain)?,
    };
    let Some(egress) = exchange.snapshot.egress.clone() else { return Err(plain(Reason::NoDestination)) };
    let outgoing = exchange.outgoing.insert(Box::new(Outgoing {
        egress: egress.clone(),
        caller,
        target: target.clone(),
        decision: None,
        reported: None,
        way: None,
    }));
    let path = head.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let request = Request::Seen { method: head.method.as_str(), path };
    let permit = match admit(&egress, &outgoing.caller, &target, request) {
        Ok(admitted) => admitted.permit,
        Err(refused) => {
            outgoing.decision = refused.decision.as_deref().cloned();
            return Err(plain(refused));
        }
    };
    let decision = permit.decision().clone();
    outgoing.decision = Some(decision.clone());
    let refused = |reason| plain(Refused::by(&decision, reason));
    let (resolved, addresses) = resolve(&egress, &permit).await.map_err(plain)?;
    let (bound, reported) = match bind(permit, &FirstOctets::Http, &resolved) {
        Binding::Bound(bound) => (bound, decision.reason()),
        Binding::Reported(bound, reason) => (bound, Some(reason)),
        Binding::Refused(reason) => return Err(refused(reason)),
    };
    let reported = match bound.check_host(&authority) {
        HostVerdict::Same => reported,
        HostVerdict::Report(reason) => Some(reason),
        HostVerdict::Refuse(reason) => return Err(refused(reason)),
    };
    if reported.is_some() {
        egress.state.lock_learned().observe(&outgoing.caller.borrow(), &target, &FirstOctets::Http);
    }
    outgoing.reported = reported;
    let parts = SignedParts {
        method: head.method.as_str(),
        authority: &authority,
        target: path,
        payload: if has_body(head) { Payload::Unsigned } else { Payload::Sha256(NO_BODY) },
    };
    let (changes, showing) = credential(&egress, &bound, &outgoing.caller, &parts).await.map_err(refused)?;
    let permit = bound.permit();
    outgoing.way = Some(Way {
        tls: permit.tls(),
        destination: permit.destination().map(|destination| destination.name().clone()),
        addresses: in_turns(&addresses),
        changes,
        showing,
        connect_timeout: permit.destination().map_or(CONNECT_TIMEOUT, |destination| destination.connect_timeout()),
        silence: permit.destination().map_or(SILENCE, |destination| destination.timeout()),
    });
    Ok(())
}

/// What the request is for, as its sender wrote it. Over HTTP/1 the strict reader has seen to it that an absolute target and
/// Host say the same.
fn authority(head: &RequestHeader) -> Option<&str> {
    match head.uri.authority() {
        Some(authority) => Some(authority.as_str()),
        None => head.headers.get(header::HOST)?.to_str().ok(),
    }
}

fn has_body(head: &RequestHeader) -> bool {
    let length = head.headers.get(header::CONTENT_LENGTH).map(HeaderValue::as_bytes);
    head.headers.contains_key(header::TRANSFER_ENCODING) || length.is_some_and(|length| length != b"0")
}

/// What the destination's credential does to this request.
async fn credential(
    egress: &LiveEgress,
    bound: &Bound,
    caller: &CallerFacts,
    parts: &SignedParts<'_>,
) -> std::result::Result<(HeaderChanges, Showing), Reason> {
    let Some(credential) = egress.plan.credentials.of(bound) else {
        return Ok((HeaderChanges::default(), Showing::Nothing));
    };
    let (now, wall) = (Instant::now(), SystemTime::now());
    match credential.apply(bound, &caller.borrow(), parts, wall) {
        Application::OutOfScope => Ok((HeaderChanges::default(), Showing::Nothing)),
        Application::Changes(changes) => Ok((changes, Showing::Nothing)),
        Application::NeedsCertificate(_, changes) => Ok((changes, Showing::Certificate)),
        Application::NeedsToken(source) => {
            let token = egress.state.tokens.bearer(&source, &egress.token_client, now, wall, fastrand::u128(..)).await;
            match token {
                Ok(token) => Ok((credential.with_token(&token), Showing::Nothing)),
                Err(error) => {
                    tracing::warn!(credential = %credential.name(), %error, "a token could not be had");
                    Err(Reason::Credential)
                }
            }
        }
    }
}

/// Where the next try goes.
pub(super) fn peer(exchange: &mut Exchange) -> Option<Box<HttpPeer>> {
    let tried = exchange.attempts as usize;
    exchange.attempts += 1;
    let outgoing = exchange.outgoing.as_ref()?;
    let way = outgoing.way.as_ref()?;
    let address = way.addresses.get(tried % way.addresses.len().max(1))?.socket_address();
    let tls = match way.tls {
        TlsMode::Passthrough => None,
        TlsMode::Originate | TlsMode::Inspect => {
            let origin = outgoing.egress.plan.origin(way.destination.as_ref()?, way.showing)?;
            let host = outgoing.target.host().to_string();
            let host = host.trim_matches(['[', ']']).to_owned();
            let server_name = ServerName::try_from(host).ok()?;
            Some((origin.group_key(), DialTls { config: origin.config(b"http/1.1"), server_name, mesh: None }))
        }
    };
    // Not of another destination, nor verified by other rules, nor opened with another certificate.
    let mut group = DefaultHasher::new();
    let (settings, tls) = tls.unzip();
    let name = tls.as_ref().map(|tls| format!("{:?}", tls.server_name));
    (&way.destination, settings, name, way.showing == Showing::Certificate).hash(&mut group);
    exchange.endpoint = Some(address);
    exchange.upstream_began = Some(Instant::now());
    let dialer = Arc::new(Dialer {
        address: EndpointAddress::Ip(address),
        tls,
        connect_timeout: way.connect_timeout,
        head_timeout: way.silence,
        load: outgoing.egress.state.load.clone(),
        breaker: BREAKER,
        mark: None,
    });
    Some(peers::outgoing(dialer, address, group.finish(), POOLED_IDLE, way.silence))
}

/// What the destination is sent: the request as it came, in origin form, without what is between caller and proxy, and with
/// the credential. Nothing of our inside is told: no forwarding fields.
pub(super) fn shape(original: &RequestHeader, request: &mut RequestHeader, exchange: &Exchange) -> Result<()> {
    let Some(outgoing) = &exchange.outgoing else { return Ok(()) };
    // Octet for octet: `/./` and the like mean something to some origins.
    let target = original.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    match target.parse() {
        Ok(uri) => request.set_uri(uri),
        Err(_) => return Error::e_explain(ErrorType::HTTPStatus(400), "the path cannot be forwarded"),
    }
    if let Some(authority) = authority(original) {
        request.insert_header(header::HOST, authority)?;
    }
    for name in BETWEEN_US {
        request.remove_header(*name);
    }
    if let Some(way) = &outgoing.way {
        for name in way.changes.removals() {
            request.remove_header(name);
        }
        for (name, secret) in way.changes.additions() {
            let (Ok(name), Ok(mut value)) = (HeaderName::try_from(name), HeaderValue::from_bytes(secret.expose()))
            else {
                return Error::e_explain(ErrorType::InternalError, "a credential is no field value");
            };
            value.set_sensitive(true);
            request.insert_header(name, value)?;
        }
    }
    Ok(())
}

/// RFC 9110 §7.6.1; the engine keeps what frames the body and the upgrade.
const BETWEEN_US: &[&str] =
    &["proxy-authorization", "proxy-authenticate", "proxy-connection", "keep-alive", "te", "trailer"];

/// Answers a request that may not go out.
async fn refuse(
    session: &mut Session,
    exchange: &mut Exchange,
    refused: &Refused,
    challenges: &[String],
) -> Result<bool> {
    let told = refused.told(&exchange.request_id);
    exchange.fail(Fate::Denied { label: refused.reason.as_str(), status: told.status() }, "access");
    let body = told.body();
    let mut response = ResponseHeader::build(told.status(), Some(8))?;
    response.insert_header(header::CONTENT_TYPE, PROBLEM_JSON)?;
    response.insert_header(header::CONTENT_LENGTH, body.len())?;
    response.insert_header(header::CACHE_CONTROL, "no-store")?;
    response.insert_header("proxy-status", told.proxy_status())?;
    for challenge in challenges {
        response.append_header(header::PROXY_AUTHENTICATE, challenge.as_str())?;
    }
    if let Some(after) = told.retry_after() {
        response.insert_header(header::RETRY_AFTER, after)?;
    }
    close_if_unread(session);
    let bodyless = session.req_header().method == http::Method::HEAD;
    session.write_response_header(Box::new(response), bodyless).await?;
    if !bodyless {
        exchange.body_out = body.len() as u64;
        session.write_response_body(Some(Bytes::from(body)), true).await?;
    }
    Ok(true)
}

/// What a caller is told when the destination, or the way to it, failed.
pub(super) async fn error_page(session: &mut Session, fate: Fate, exchange: &Exchange) -> Result<()> {
    let problem = serde_json::json!({
        "type": "about:blank",
        "title": "the egress gateway has no answer from the destination",
        "status": fate.status(),
        "detail": fate.doc(),
        "reason": fate.as_str(),
        "request_id": exchange.request_id,
        "rule": exchange.outgoing.as_ref().and_then(|outgoing| outgoing.rule()).map(|rule| rule.as_str()),
        "destination": exchange.outgoing.as_ref().and_then(|outgoing| outgoing.destination()).map(|name| name.as_str()),
    });
    let body = format!("{problem}\n");
    let mut response = ResponseHeader::build(fate.status(), Some(5))?;
    response.insert_header(header::CONTENT_TYPE, PROBLEM_JSON)?;
    response.insert_header(header::CONTENT_LENGTH, body.len())?;
    response.insert_header(header::CACHE_CONTROL, "no-store")?;
    let details = format!("reason={} request_id={}", fate.as_str(), exchange.request_id);
    let status = format!("portcullis; error={}; details=\"{details}\"", proxy_error(fate));
    response.insert_header("proxy-status", status)?;
    let bodyless = session.req_header().method == http::Method::HEAD;
    session.write_response_header(Box::new(response), bodyless).await?;
    if !bodyless {
        session.write_response_body(Some(Bytes::from(body)), true).await?;
    }
    Ok(())
}

/// RFC 9209 §2.3.
fn proxy_error(fate: Fate) -> &'static str {
    match fate {
        Fate::ConnectRefused => "connection_refused",
        Fate::ConnectTimeout => "connection_timeout",
        Fate::ConnectFailed => "destination_ip_unroutable",
        Fate::UpstreamTls => "tls_certificate_error",
        Fate::UpstreamTimeout => "http_response_timeout",
        Fate::UpstreamProtocol => "http_protocol_error",
        Fate::UpstreamReset => "connection_terminated",
        Fate::Malformed { .. } => "http_request_error",
        _ => "proxy_internal_error",
    }
}
