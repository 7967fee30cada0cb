//! The adapter between pingora's phases and our stages. It holds no policy: each phase asks a stage and does what it says.

use super::{
    ahead,
    arrival::{arrival, hold_h2, hold_underscores, hold_upgrade, join_cookies},
    attempt::Attempt,
    bridge::Bridges,
    egress, fate,
    guard::Passed,
    head_gate::HeadGate,
    lane::Pool,
    mirror::MirrorTap,
    peers::Reach,
    reply::{
        begin_encoding, deny, dress, encode, error_page, preflight, redirect, respond, set_sticky_cookie,
        strip_hop_by_hop, tell_id,
    },
    screen,
    setback::{broken_off, held, not_connected},
    shape::{say_scheme, shape},
    stores::Stores,
    stream_watch,
    told::protocol,
    view::View,
};
use crate::{
    conn::ConnFacts,
    mesh::{When, judge_request},
    release::LiveRollout,
    snapshot::Edge,
    stage::{self, Ending, Exchange},
};
use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderName, header, uri::Scheme};
use pingora::{
    BError, Error, ErrorType, Result,
    http::{RequestHeader, ResponseHeader},
    modules::http::HttpModules,
    protocols::Digest,
    proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session},
    upstreams::peer::HttpPeer,
};
use portcullis_auth::AuthzClient;
use portcullis_health::TryOutcome;
use portcullis_limit::Outcome;
use portcullis_ops::metrics::RouteMetrics;
use portcullis_policy::{Action, Failed, Lookup, Reason, Redirect};
use portcullis_upstream::{Tried, Wish};
use std::{
    any::Any,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

pub(super) struct App {
    pub(super) edge: Arc<Edge>,
    pub(super) stores: Stores,
    bridges: Bridges,
    /// The lane's connections.
    pub(super) pool: Pool,
    /// This core's connections to external authorities; made when first needed.
    pub(super) authorities: OnceLock<AuthzClient>,
}

/// Made in the first phase that sees the connection, present in all later ones, and taken by the record.
#[derive(Default)]
pub(super) struct Ctx(Option<Box<Exchange>>);

impl Drop for Ctx {
    fn drop(&mut self) {
        if let Some(exchange) = self.0.take() {
            stream_watch::abandon(exchange);
        }
    }
}

/// A WebSocket or stream may rest this long: what peers call a tunnel timeout (haproxy's usual `timeout tunnel`).
const STREAM_IDLE: Duration = Duration::from_secs(3600);

impl App {
    pub(super) fn new(edge: Arc<Edge>) -> Self {
        Self {
            edge,
            stores: Stores::default(),
            bridges: Bridges::default(),
            pool: Pool::default(),
            authorities: OnceLock::new(),
        }
    }

    /// Puts the request on its way; what the way before it left is gone.
    fn set_out(&self, reach: Reach, exchange: &mut Exchange) -> Box<HttpPeer> {
        exchange.ride = None;
        exchange.upstream_scheme = reach.is_h2_in_tls().then_some(Scheme::HTTPS);
        reach.peer(&self.bridges)
    }

    pub(super) fn refuse(exchange: &mut Exchange, reason: Reason, stage: &'static str) -> BError {
        let reason = exchange.fail(reason, stage);
        Error::explain(ErrorType::HTTPStatus(reason.status()), reason.as_str())
    }
}

pub(super) fn exchange(ctx: &mut Ctx) -> Result<&mut Exchange> {
    match &mut ctx.0 {
        Some(exchange) => Ok(exchange),
        None => Error::e_explain(ErrorType::InternalError, "a phase ran before admission"),
    }
}

fn facts(session: &Session) -> Option<Arc<ConnFacts>> {
    let data: &(dyn Any + Send + Sync) = session.digest()?.proxy_digest.as_ref()?.user_data.as_deref()?;
    data.downcast_ref::<Arc<ConnFacts>>().cloned()
}

#[async_trait]
impl ProxyHttp for App {
    type CTX = Ctx;

    fn new_ctx(&self) -> Ctx {
        Ctx::default()
    }

    /// No modules: compression and the like cost each request even when unused.
    fn init_downstream_modules(&self, _: &mut HttpModules) {}

    async fn early_request_filter(&self, session: &mut Session, ctx: &mut Ctx) -> Result<()> {
        let Some(facts) = facts(session) else {
            return Error::e_explain(ErrorType::InternalError, "a connection without facts");
        };
        let header = session.as_mut().req_header_mut();
        let form = hold_h2(header);
        join_cookies(header)?;
        hold_upgrade(header);
        let fields = form.and_then(|()| hold_underscores(header, facts.listener.plan().underscores));
        let header = session.req_header();
        let arrival = arrival(header, facts.listener.plan().client_ip.header_name());
        let made = stage::admit(self.edge.snapshot(), facts, &arrival, Instant::now());
        let exchange = ctx.0.insert(Box::new(made));
        // What is no path to us may be one to the destination, and goes there as it came.
        if exchange.is_outgoing() && matches!(exchange.fate, Some((Reason::BadPath, _))) {
            exchange.fate = None;
            exchange.path = header.uri.path().to_owned();
        }
        // Over h1 the strict reader has counted; over h2 the codec only sums octets.
        if header.headers.len() > exchange.facts.listener.plan().limits.headers {
            let refusal = portcullis_wire::Refusal::TooManyFields;
            exchange.fail(Reason::Malformed { label: refusal.as_str(), status: refusal.status() }, "admit");
        }
        if let Err(reason) = fields {
            exchange.fail(reason, "admit");
        }
        if exchange.fate.is_none() && self.edge.shedding.sheds(fastrand::u64(..)) {
            exchange.fail(Reason::Overloaded, "admit");
        }
        match exchange.fate {
            Some((reason, stage)) => Err(Self::refuse(exchange, reason, stage)),
            None => Ok(()),
        }
    }

    async fn request_filter(&self, session: &mut Session, ctx: &mut Ctx) -> Result<bool> {
        let exchange = exchange(ctx)?;
        let snapshot = exchange.snapshot.clone();
        let header = session.req_header();
        if exchange.facts.listener.plan().redirects_to_https {
            let mut response = ResponseHeader::build(308, Some(2))?;
            response.insert_header(header::LOCATION, Redirect::to_https().location(&View { header, exchange }))?;
            return redirect(session, response).await;
        }
        if exchange.is_outgoing() {
            if egress::filter(&self.edge, session, exchange).await? {
                return Ok(true);
            }
            if let Some(index) = exchange.plan {
                exchange.active = snapshot.route_metrics.get(index).map(RouteMetrics::began);
                screen::request_head(session, exchange, index)?;
            }
            if is_grpc(session.req_header()) {
                stream_watch::complete();
            }
            return Ok(false);
        }
        let plan = match snapshot.routes.find(&View { header, exchange }) {
            Lookup::Found(plan) => plan,
            Lookup::NoRule => return Err(Self::refuse(exchange, Reason::NoRoute, "route")),
            Lookup::NoHost => {
                let sni = exchange.facts.tls.as_ref().and_then(|tls| tls.sni.as_deref());
                let misdirected = sni.is_some_and(|sni| sni != exchange.host);
                return Err(Self::refuse(
                    exchange,
                    if misdirected { Reason::Misdirected } else { Reason::UnknownHost },
                    "route",
                ));
            }
        };
        exchange.plan = Some(plan.index);
        if let Some(metrics) = snapshot.route_metrics.get(plan.index) {
            exchange.active = Some(metrics.began());
        }
        authorise(&self.edge, session, exchange, When::BeforeGuards)?;
        match self.guard(session, exchange, plan).await {
            Ok(Passed::Cleared(cleared)) => exchange.cleared = Some(cleared),
            Ok(Passed::Denied(denial)) => return deny(session, exchange, denial).await,
            Ok(Passed::Preflight) => return preflight(session, exchange, plan).await,
            Err(reason) => return Err(Self::refuse(exchange, reason, "guard")),
        }
        authorise(&self.edge, session, exchange, When::AfterGuards)?;
        screen::request_head(session, exchange, plan.index)?;
        if let Some(delay) = plan.fault.delay(fastrand::u64(..)) {
            tokio::time::sleep(delay).await;
        }
        if let Some(status) = plan.fault.abort(fastrand::u64(..)) {
            return Err(Self::refuse(exchange, Reason::Injected { status }, "fault"));
        }
        let header = session.req_header();
        match &plan.action {
            Action::Forward(_) => {
                if let Some(mirror) = plan.mirror.filter(|mirror| mirror.percent.takes(fastrand::u64(..))) {
                    exchange.mirror = mirror_tap(exchange, mirror.upstream.0 as usize, None);
                }
                if exchange.mirror.is_none()
                    && let Some(step) = exchange.releases().and_then(|releases| releases.mirror(fastrand::u64(..)))
                {
                    let (to, live) = (step.to, step.live.clone());
                    exchange.mirror = mirror_tap(exchange, to, Some(live));
                }
                if is_grpc(session.req_header()) {
                    // Messages of a call may be far apart: only an end of it is an end.
                    stream_watch::complete();
                }
                Ok(false)
            }
            Action::Redirect(action) => {
                let mut response = ResponseHeader::build(action.status, Some(4))?;
                response.insert_header(header::LOCATION, action.location(&View { header, exchange }))?;
                dress(&mut response, header, exchange)?;
                redirect(session, response).await
            }
            // No search finds it.
            Action::Outward => Err(Self::refuse(exchange, Reason::Internal, "route")),
            Action::Respond(action) => {
                let mut response = ResponseHeader::build(action.status, Some(4))?;
                dress(&mut response, header, exchange)?;
                exchange.body_out = action.body.len() as u64;
                respond(session, response, action).await
            }
        }
    }

    /// Most requests are answered here, and the engine has nothing left to carry.
    async fn proxy_upstream_filter(&self, session: &mut Session, ctx: &mut Ctx) -> Result<bool> {
        Ok(!self.by_lane(session, ctx).await?)
    }

    async fn upstream_peer(&self, session: &mut Session, ctx: &mut Ctx) -> Result<Box<HttpPeer>> {
        let exchange = exchange(ctx)?;
        exchange.wait_for_attempt().await;
        if exchange.outgoing.is_some() {
            let reach = egress::reach(session, exchange);
            let mut reach = reach.map_err(|reason| Self::refuse(exchange, reason, "pick"))?;
            if is_websocket(session.req_header()) || is_grpc(session.req_header()) {
                reach.peer.options.read_timeout = Some(STREAM_IDLE);
            }
            return Ok(self.set_out(reach, exchange));
        }
        let attempt = match exchange.attempt.take() {
            Some(picked) => picked,
            None => Attempt::pick(session, exchange)?,
        };
        let mut reach =
            attempt.reach(session, exchange).ok_or_else(|| Self::refuse(exchange, Reason::Internal, "pick"))?;
        let streaming = is_websocket(session.req_header()) || is_grpc(session.req_header());
        reach.peer.options.read_timeout = Some(if streaming { STREAM_IDLE } else { attempt.read_timeout() });
        Ok(self.set_out(reach, exchange))
    }

    fn fail_to_connect(&self, session: &mut Session, _: &HttpPeer, ctx: &mut Ctx, error: BError) -> BError {
        not_connected(session, ctx, error)
    }

    fn error_while_proxy(
        &self,
        _: &HttpPeer,
        session: &mut Session,
        error: BError,
        ctx: &mut Ctx,
        reused: bool,
    ) -> BError {
        broken_off(session, error, ctx, reused)
    }

    async fn connected_to_upstream(
        &self,
        session: &mut Session,
        _: bool,
        peer: &HttpPeer,
        fd: std::os::fd::RawFd,
        digest: Option<&Digest>,
        ctx: &mut Ctx,
    ) -> Result<()> {
        let exchange = exchange(ctx)?;
        // A later try got through: the earlier one's reason is history.
        exchange.fate = None;
        // Nothing else is connected by a hook of ours.
        exchange.ride = peer.options.custom_l4.as_ref().and_then(|_| self.bridges.ride(fd));
        screen::reached(session, exchange, HeadGate::of(digest)).await
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        ctx: &mut Ctx,
    ) -> Result<()> {
        let exchange = exchange(ctx)?;
        match exchange.outgoing {
            Some(_) => egress::shape(session.req_header(), request, exchange)?,
            None => shape(session.req_header(), request, exchange)?,
        }
        screen::shape_request(request, exchange);
        if let Some(tap) = &mut exchange.mirror {
            tap.head(request);
        }
        if let Some(scheme) = exchange.upstream_scheme.clone() {
            say_scheme(request, scheme);
        }
        Ok(())
    }

    async fn request_body_filter(
        &self,
        _: &mut Session,
        body: &mut Option<Bytes>,
        end: bool,
        ctx: &mut Ctx,
    ) -> Result<()> {
        let exchange = exchange(ctx)?;
        if exchange.ahead.is_none() {
            stream_watch::progress(body.as_ref().map_or(0, Bytes::len));
        }
        if end {
            stream_watch::complete();
        }
        if exchange.facts.is_tunnel() {
            if let Some(chunk) = body {
                exchange.body_in.pass(chunk);
            }
            return Ok(());
        }
        if !ahead::replace(exchange, body) {
            // Of an upstream of HTTP/2 the engine takes any other error for the upstream's, and waits for what that will answer.
            ahead::take_in(exchange, body, end).map_err(Error::into_down)?;
        }
        if let (Some(tap), Some(chunk)) = (&mut exchange.mirror, body.as_ref()) {
            tap.body(chunk);
        }
        // The engine writes an empty piece as the last chunk, and then the last chunk: octets behind the request, which an
        // origin takes for the next one (RFC 9112 §7.1). Over h2 a body often ends with empty DATA.
        if end && body.as_ref().is_some_and(Bytes::is_empty) {
            *body = None;
        }
        Ok(())
    }

    /// The head as the upstream sent it: the last moment at which an attempt can be given up for another.
    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Ctx,
    ) -> Result<()> {
        let exchange = exchange(ctx)?;
        let status = response.status.as_u16();
        if response.status.is_informational() && status != 101 {
            return Ok(());
        }
        let now = Instant::now();
        let took = exchange.upstream_began.map(|began| now.saturating_duration_since(began));
        exchange.upstream_took = took;
        let micros = took.map_or(0, |took| u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        stage::judge_trial(exchange, TryOutcome::Answered { status, micros }, now);
        // A good head may still be followed by half a body; that is known at the end. A tunnel's end tells nothing.
        if status >= 500 || status == 101 {
            stage::judge(exchange, TryOutcome::Answered { status, micros }, now);
        }
        let wanted = exchange.plan().is_some_and(|plan| plan.retry.wants(status));
        let method = session.req_header().method.as_str();
        if wanted && stage::try_again(exchange, Failed::Status(status), method, held(session), now) {
            exchange.retry_status = Some(status);
            return Err(Error::explain(ErrorType::HTTPStatus(status), "tried again").into_up());
        }
        Ok(())
    }

    async fn response_filter(&self, session: &mut Session, response: &mut ResponseHeader, ctx: &mut Ctx) -> Result<()> {
        let exchange = exchange(ctx)?;
        if response.status == http::StatusCode::SWITCHING_PROTOCOLS {
            session.set_read_timeout(Some(STREAM_IDLE));
            session.set_write_timeout(Some(STREAM_IDLE));
            exchange.facts.open_tunnel();
            tell_id(response, exchange)?;
        } else {
            strip_hop_by_hop(response);
        }
        if !response.status.is_informational() {
            if exchange.facts.is_ending() {
                session.set_keepalive(None);
            }
            exchange.answered = response.status.as_u16();
            // Those that say "too much" are the sign that a limit is too high.
            let refused = matches!(response.status.as_u16(), 429 | 503);
            exchange.sample(if refused { Outcome::Dropped } else { Outcome::Answered }, Instant::now());
            screen::response_head(session, exchange, response)?;
            set_sticky_cookie(response, exchange)?;
            let request = session.req_header();
            exchange.encoder = exchange.plan().and_then(|plan| begin_encoding(response, request, plan));
            dress(response, request, exchange)?;
        }
        Ok(())
    }

    fn response_body_filter(
        &self,
        _: &mut Session,
        body: &mut Option<Bytes>,
        end: bool,
        ctx: &mut Ctx,
    ) -> Result<Option<Duration>> {
        let exchange = exchange(ctx)?;
        screen::response_chunk(exchange, body, end)?;
        if exchange.encoder.is_some() {
            encode(&mut exchange.encoder, body, end)?;
        }
        exchange.body_out += body.as_ref().map_or(0, |chunk| chunk.len() as u64);
        Ok(None)
    }

    /// Trailers end a body without its last chunk having been told as such.
    async fn response_trailer_filter(
        &self,
        _: &mut Session,
        _: &mut http::HeaderMap,
        ctx: &mut Ctx,
    ) -> Result<Option<Bytes>> {
        let exchange = exchange(ctx)?;
        let mut rest = None;
        screen::response_chunk(exchange, &mut rest, true)?;
        if exchange.encoder.is_some() {
            encode(&mut exchange.encoder, &mut rest, true)?;
        }
        Ok(rest)
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, ctx: &mut Ctx) -> FailToProxy {
        let reason = match &mut ctx.0 {
            Some(exchange) => {
                let found = fate::reason(error, &exchange.facts);
                let stage = if session.response_written().is_some() { "reply" } else { "proxy" };
                exchange.fail(found, stage)
            }
            None => Reason::Internal,
        };
        let gone = matches!(reason, Reason::ClientGone | Reason::H2Abuse);
        if gone || session.response_written().is_some_and(|written| !written.status.is_informational()) {
            return FailToProxy { error_code: 0, can_reuse_downstream: false };
        }
        // A body that nobody will read ends the connection; what is left of it must not be taken for a request.
        // After an upstream was involved pingora closes in any case; then the client must be told.
        let attempted = ctx.0.as_ref().is_some_and(|exchange| exchange.attempts > 0);
        // One that is shed goes: its memory is what is short, and it may find another gateway.
        let goes = matches!(reason, Reason::Malformed { .. } | Reason::Overloaded);
        let can_reuse_downstream = !attempted && session.is_body_done() && !goes;
        if !can_reuse_downstream {
            session.set_keepalive(None);
        }
        match error_page(session, reason, ctx.0.as_deref()).await {
            Ok(()) => FailToProxy { error_code: reason.status(), can_reuse_downstream },
            Err(_) => FailToProxy { error_code: 0, can_reuse_downstream: false },
        }
    }

    async fn logging(&self, session: &mut Session, _: Option<&Error>, ctx: &mut Ctx) {
        let Some(mut exchange) = ctx.0.take() else { return };
        let exchange = &mut *exchange;
        let answered = session.response_written().map(|response| response.status.as_u16());
        let header = session.req_header();
        let value = |name: HeaderName| header.headers.get(name).map(header::HeaderValue::as_bytes);
        let ending = Ending {
            protocol: protocol(header.version),
            method: header.method.as_str(),
            query: header.uri.query(),
            status: answered.or(exchange.fate.map(|(reason, _)| reason.status())).unwrap_or(0),
            user_agent: value(header::USER_AGENT),
            referer: value(header::REFERER),
        };
        let now = Instant::now();
        if let (Some(took), None) = (exchange.upstream_took, exchange.fate) {
            let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
            stage::judge(exchange, TryOutcome::Answered { status: ending.status, micros }, now);
        }
        stage::record(&self.edge, exchange, &ending, now);
        // Half a request is another request: it is not copied.
        if let Some(tap) = exchange.mirror.take().filter(|_| session.is_body_done()) {
            tap.send(self.edge.metrics.clone());
        }
    }

    /// The access log has it, with its reason; a client that aborts must not be able to write our log.
    fn suppress_error_log(&self, _: &Session, _: &Ctx, _: &Error) -> bool {
        true
    }

    fn suppress_proxy_warn_log(&self, _: &Session, _: &Ctx, _: &Error, _: ProxyWarnLogContext) -> bool {
        true
    }
}

/// Whether the caller of a sidecar's application may call this.
fn authorise(edge: &Edge, session: &Session, exchange: &mut Exchange, when: When) -> Result<()> {
    let header = session.req_header();
    judge_request(edge, exchange, header.method.as_str(), header.uri.path(), when)
        .map_err(|(reason, stage)| App::refuse(exchange, reason, stage))
}

/// The one upgrade that is passed on.
fn is_websocket(header: &RequestHeader) -> bool {
    header.headers.get(header::UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

fn mirror_tap(exchange: &Exchange, cluster: usize, judged: Option<Arc<LiveRollout>>) -> Option<MirrorTap> {
    let pick = exchange
        .snapshot
        .clusters
        .get(cluster)?
        .pick(Wish::plain(fastrand::u64(..), Instant::now()), &mut Tried::default())
        .ok()?;
    let endpoint = exchange.snapshot.peers.cluster(cluster)?.endpoints.get(pick.index)?;
    Some(MirrorTap::new(endpoint.dialer.clone(), judged))
}

pub(super) fn is_grpc(header: &RequestHeader) -> bool {
    header.headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}
