//! Requests that leave by an explicit proxy: decided about one by one, dialled at addresses that we resolved ourselves, and
//! sent with the destination's credential in place of what the application sent.

use super::{
    bridge::SPOKE_H1,
    dial::{DialTls, Dialer, Through},
    headers::RequestSink,
    payload::payload,
    peers::{self, By, Reach},
    reply::{close_if_unread, dress},
    stream_watch::{self, Departure},
    told::Told,
    view::View,
};
use crate::{
    egress::{CallerFacts, LiveEgress, Pinned, Refused, Showing, TRIES_MAX, admit, connect, parents::Chained, resolve},
    snapshot::Edge,
    stage::{self, Exchange},
};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, header};
use pingora::{
    BError, Error, ErrorType, Result,
    http::{RequestHeader, ResponseHeader},
    proxy::Session,
};
use portcullis_egress::{
    Application, Asks, Binding, Bound, Checked, Decision, FirstOctets, HeaderChanges, HostVerdict, LiveFlow,
    PROBLEM_JSON, Payload, Reason, Request, Resolved, SignedParts, Target, TlsMode, UnsignedPayload, bind, in_turns,
};
use portcullis_names::{EndpointAddress, ObjectName};
use portcullis_policy::{Reason as Fate, Side};
use portcullis_upstream::{CircuitBreaker, Cluster};
use rustls::pki_types::ServerName;
use std::{
    collections::hash_map::DefaultHasher,
    hash::{Hash, Hasher},
    net::SocketAddr,
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
    /// Empty where only a parent knows them.
    addresses: Vec<Checked>,
    /// The same addresses, balanced; `None` where no destination speaks for them.
    pool: Option<Arc<Cluster>>,
    parent: Option<Arc<Chained>>,
    /// Host and port that are dialled.
    dialled: Target,
    changes: HeaderChanges,
    showing: Showing,
    connect_timeout: Duration,
    silence: Duration,
    /// The address that was dialled for h2 and chose HTTP/1.1: to be asked again, by that.
    by_h1: Option<usize>,
}

/// Of what no destination speaks for.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const SILENCE: Duration = Duration::from_secs(60);
/// Of an idle pooled connection to a destination.
const POOLED_IDLE: Duration = Duration::from_secs(30);
/// The most there is: destinations are limited by their own quotas.
const BREAKER: CircuitBreaker =
    CircuitBreaker { connections: u32::MAX, pending: u32::MAX, requests: u32::MAX, retries: u32::MAX };
impl Exchange {
    /// Whether it came by the way out.
    pub(crate) fn is_outgoing(&self) -> bool {
        self.facts.listener.plan().goes_out()
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

    /// Whether the connection failed only because the destination chose HTTP/1.1. Then the same address is to be asked again.
    pub(super) fn chose_h1(&mut self, error: &Error, index: Option<usize>, now: Instant) -> bool {
        let (ErrorType::Custom(SPOKE_H1), Some(way)) = (error.etype(), &mut self.way) else { return false };
        way.by_h1 = Some(index.unwrap_or_default());
        if let Some(address) = way.addresses.get(index.unwrap_or_default()) {
            self.egress.state.spoken.chose_h1(self.target.clone(), address.socket_address(), now);
        }
        true
    }

    pub(super) fn has_more_addresses(&self, tried: u32) -> bool {
        let most = self.way.as_ref().map_or(0, |way| way.addresses.len().min(TRIES_MAX));
        (tried as usize) < most
    }

    /// The addresses of the host, balanced as its destination says.
    pub(crate) fn pool(&self) -> Option<&Arc<Cluster>> {
        self.way.as_ref()?.pool.as_ref()
    }
}

/// Lets a request out, or answers it. `true`: it was answered.
pub(super) async fn filter(edge: &Edge, session: &mut Session, exchange: &mut Exchange) -> Result<bool> {
    match decide(edge, session, exchange).await {
        Ok(()) => Ok(false),
        Err(Stop::Refused(refused, challenges)) => refuse(session, exchange, &refused, &challenges).await,
        Err(Stop::Broken(error)) => Err(error),
    }
}

/// Why a request does not go out.
pub(super) enum Stop {
    /// With the ways to say who one is.
    Refused(Refused, Vec<String>),
    /// Its client is gone.
    Broken(BError),
}

pub(super) fn plain(refused: impl Into<Refused>) -> Stop {
    Stop::Refused(refused.into(), Vec::new())
}

async fn decide(edge: &Edge, session: &mut Session, exchange: &mut Exchange) -> std::result::Result<(), Stop> {
    let head = session.req_header();
    let facts = exchange.facts.clone();
    let pinned = facts.pinned();
    let user = match pinned {
        Some(Pinned::Tunnel(tunnel)) => tunnel.user.clone(),
        Some(Pinned::Port(_)) => None,
        None => {
            let mut values = head.headers.get_all(header::PROXY_AUTHORIZATION).iter();
            let (first, second) = (values.next(), values.next());
            // Which of two would be believed?
            if second.is_some() {
                return Err(plain(Reason::ProxyAuthRequired));
            }
            let user = connect::user_of(&facts.listener.plan(), &facts, first.map(HeaderValue::as_bytes)).await;
            user.map_err(|(refused, challenges)| Stop::Refused(refused, challenges))?
        }
    };
    connect::learn_process(edge, &facts).await;
    let caller = CallerFacts::new(&facts, user);
    let authority = authority(head).ok_or_else(|| plain(Reason::BadTarget))?.to_owned();
    let target = match pinned {
        Some(Pinned::Tunnel(tunnel)) => tunnel.target.clone(),
        Some(Pinned::Port(port)) => {
            let named = Target::parse_with_default(&authority, *port).map_err(plain)?;
            Target::new(named.host().clone(), *port)
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
    let request = Request::Seen { method: head.method.as_str(), path: target_of(head) };
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
    let parent = egress.plan.parents.of(permit.destination().map(|destination| destination.name())).cloned();
    let (resolved, addresses) = match &parent {
        Some(chained) if chained.parent.asks() == Asks::Name => {
            (Resolved::left_to_a_parent(target.host().clone()), Vec::new())
        }
        Some(_) | None => resolve(&egress, &permit).await.map_err(plain)?,
    };
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
    let destination = bound.permit().destination().map(|destination| destination.name().clone());
    let plan = destination.as_ref().and_then(|name| exchange.snapshot.routes.outward(name));
    exchange.plan = plan.map(|plan| plan.index);
    stream_watch::departed(Departure {
        flow: LiveFlow::new(&outgoing.caller.borrow(), bound.permit(), request),
        grant_end: bound.permit().grant_end(),
        egress: egress.clone(),
        told: Told::of(head),
    });
    // What may still be covered on its way cannot be signed ahead.
    let changes_body = plan.is_some_and(|plan| !plan.privacy.is_empty());
    let wish = signed_payload(&egress, &bound, &outgoing.caller, &parts(head, &authority, Payload::Unsigned));
    let payload = match wish {
        Some(UnsignedPayload::Allowed) if changes_body => Payload::Unsigned,
        wish => payload(session, wish).await?,
    };
    let parts = parts(session.req_header(), &authority, payload);
    let (changes, showing) = credential(&egress, &bound, &outgoing.caller, &parts).await.map_err(refused)?;
    let permit = bound.permit();
    let dialled = Target::new(target.host().clone(), permit.dial_port());
    let addresses = in_turns(&addresses);
    let policy = destination.as_ref().and_then(|name| egress.plan.traffic(name)).filter(|_| !addresses.is_empty());
    let pool = policy.map(|policy| egress.state.pools.of(policy, &dialled, &addresses, Instant::now()));
    outgoing.way = Some(Way {
        tls: permit.tls(),
        destination,
        addresses,
        pool,
        parent,
        dialled,
        changes,
        showing,
        connect_timeout: permit.destination().map_or(CONNECT_TIMEOUT, |destination| destination.connect_timeout()),
        silence: permit.destination().map_or(SILENCE, |destination| destination.timeout()),
        by_h1: None,
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

/// Path and query as they go out: octet for octet, because `/./` and the like mean something to some origins.
fn target_of(head: &RequestHeader) -> &str {
    head.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str)
}

fn parts<'a>(head: &'a RequestHeader, authority: &'a str, payload: Payload) -> SignedParts<'a> {
    SignedParts { method: head.method.as_str(), authority, target: target_of(head), payload }
}

/// Whether the destination's credential signs this request's body.
fn signed_payload(
    egress: &LiveEgress,
    bound: &Bound,
    caller: &CallerFacts,
    parts: &SignedParts<'_>,
) -> Option<UnsignedPayload> {
    egress.plan.credentials.of(bound)?.signs_payload(bound, &caller.borrow(), parts)
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
            // Boxed: a fetch is large and rare, and every request would make room for it.
            let token =
                Box::pin(egress.state.tokens.bearer(&source, &egress.token_client, now, wall, fastrand::u128(..)))
                    .await;
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
pub(super) fn reach(session: &Session, exchange: &mut Exchange) -> std::result::Result<Reach, Fate> {
    let now = Instant::now();
    let asked_again = exchange.outgoing.as_ref().and_then(|outgoing| outgoing.way.as_ref()?.by_h1);
    let index = match (asked_again, exchange.serving()) {
        (Some(index), _) => index,
        (None, Some(pool)) => {
            let wish = match exchange.wish {
                Some(wish) => wish.again(now),
                None => stage::wish(&pool, &View { header: session.req_header(), exchange }, fastrand::u64(..), now),
            };
            exchange.wish = Some(wish);
            stage::pick_address(exchange, &pool, wish)?
        }
        (None, None) => {
            let tried = exchange.attempts as usize;
            exchange.attempts += 1;
            exchange.body_in.begin_attempt();
            tried
        }
    };
    let silence = exchange.plan().map(|plan| {
        let left = exchange.time_left(plan, now);
        plan.retry.per_try_timeout.map_or(left, |one| one.min(left))
    });
    let by = by(session, exchange, index, now);
    let found = reach_at(exchange, index, silence, by);
    exchange.upstream_began = Some(now);
    found.ok_or(Fate::Internal)
}

/// A client of h2 is for a destination of h2, where that one agrees: gRPC knows nothing else. Inside TLS ALPN tells, and what it told
/// is remembered; in the clear the client's knowledge is all there is, and it is of the destination only inside a tunnel.
fn by(session: &Session, exchange: &Exchange, index: usize, now: Instant) -> By {
    let head = session.req_header();
    if head.version != http::Version::HTTP_2 || head.method == http::Method::CONNECT {
        return By::H1;
    }
    let Some(outgoing) = &exchange.outgoing else { return By::H1 };
    let Some(way) = outgoing.way.as_ref().filter(|way| way.by_h1.is_none()) else { return By::H1 };
    match way.tls {
        TlsMode::Passthrough if exchange.facts.pinned().is_none() => By::H1,
        TlsMode::Passthrough => By::H2,
        TlsMode::Originate | TlsMode::Inspect => {
            let address = way.addresses.get(index).map(|address| address.socket_address());
            let spoken = &outgoing.egress.state.spoken;
            match address {
                Some(address) if spoken.is_h1(&outgoing.target, address, now) => By::H1,
                Some(_) | None => By::H2,
            }
        }
    }
}

fn reach_at(exchange: &mut Exchange, index: usize, silence: Option<Duration>, by: By) -> Option<Reach> {
    let outgoing = exchange.outgoing.as_ref()?;
    let way = outgoing.way.as_ref()?;
    let nobody = SocketAddr::from(([0, 0, 0, 0], 1));
    let (address, asked) = match (way.addresses.len(), &way.parent) {
        // Only the parent knows; pooled connections are told apart by the group.
        (0, Some(_)) => (nobody, way.dialled.to_string()),
        (count, _) => {
            let address = way.addresses.get(index.checked_rem(count)?)?.socket_address();
            (address, address.to_string())
        }
    };
    let through = way.parent.as_ref().map(|parent| Through {
        parent: parent.clone(),
        egress: outgoing.egress.clone(),
        authority: asked.clone(),
    });
    let tls = match way.tls {
        TlsMode::Passthrough => None,
        TlsMode::Originate | TlsMode::Inspect => {
            let origin = outgoing.egress.plan.origin(way.destination.as_ref()?, way.showing)?;
            let host = outgoing.target.host().to_string();
            let host = host.trim_matches(['[', ']']).to_owned();
            let server_name = ServerName::try_from(host).ok()?;
            let config = match by {
                By::H1 => origin.h1(),
                By::H2 => origin.any_http(),
            };
            Some((origin.group_key(), DialTls { config, server_name, mesh: None }))
        }
    };
    // Not of another destination, nor verified by other rules, nor opened with another certificate.
    let mut group = DefaultHasher::new();
    let (settings, tls) = tls.unzip();
    let name = tls.as_ref().map(|tls| format!("{:?}", tls.server_name));
    let parent = way.parent.as_ref().map(|parent| (parent.parent.name(), &asked));
    (&way.destination, settings, name, way.showing == Showing::Certificate, parent).hash(&mut group);
    (by, (by == By::H2).then_some(address)).hash(&mut group);
    let (load, breaker) = match &way.pool {
        Some(pool) => (pool.load.clone(), pool.circuit_breaker),
        None => (outgoing.egress.state.load.clone(), BREAKER),
    };
    let silence = silence.map_or(way.silence, |silence| silence.min(way.silence));
    let dialer = Arc::new(Dialer {
        address: EndpointAddress::Ip(address),
        tls,
        connect_timeout: way.connect_timeout,
        head_timeout: way.silence,
        write_timeout: way.silence,
        load,
        breaker,
        through,
        mark: None,
    });
    let idle = way.pool.as_ref().map_or(POOLED_IDLE, |pool| pool.idle_timeout.min(POOLED_IDLE));
    let reach = peers::outgoing(dialer, address, group.finish(), idle, silence, by);
    exchange.endpoint = (address != nobody).then_some(address);
    Some(reach)
}

/// What the destination is sent: the request as it came, in origin form, without what is between caller and proxy, and with
/// the credential. Nothing of our inside is told: no forwarding fields.
pub(super) fn shape(original: &RequestHeader, request: &mut RequestHeader, exchange: &Exchange) -> Result<()> {
    let Some(outgoing) = &exchange.outgoing else { return Ok(()) };
    match target_of(original).parse() {
        Ok(uri) => request.set_uri(uri),
        Err(_) => return Error::e_explain(ErrorType::HTTPStatus(400), "the path cannot be forwarded"),
    }
    if let Some(authority) = authority(original) {
        request.insert_header(header::HOST, authority)?;
    }
    // RFC 9113 §8.2.2: the one value that h2 has; servers of gRPC ask for it.
    let trailers = original.version == http::Version::HTTP_2
        && original.headers.get(header::TE).is_some_and(|te| te.as_bytes().eq_ignore_ascii_case(b"trailers"));
    for name in BETWEEN_US {
        request.remove_header(*name);
    }
    if trailers {
        request.insert_header(header::TE, "trailers")?;
    }
    if let Some(plan) = exchange.plan() {
        plan.request_headers.apply(&View { header: original, exchange }, &mut RequestSink(request));
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
    let title = match fate.side() {
        Side::Upstream => "the egress gateway has no answer from the destination",
        Side::Client | Side::Gateway => "the egress gateway does not pass this on",
    };
    let problem = serde_json::json!({
        "type": "about:blank",
        "title": title,
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
    if let Some(location) = &exchange.location {
        response.insert_header(header::LOCATION, location)?;
    }
    if let (405, Some(allow)) = (fate.status(), &exchange.allow) {
        response.insert_header(header::ALLOW, allow)?;
    }
    dress(&mut response, session.req_header(), exchange)?;
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
