//! pingora as the HTTP engine: everything that touches its types is below here.

mod ahead;
mod app;
mod arrival;
mod attempt;
mod bridge;
mod contract;
mod decode;
mod dial;
mod egress;
mod encode;
mod extract;
mod fate;
mod guard;
mod head_gate;
mod headers;
mod inspect;
mod lane;
mod mirror;
mod payload;
mod peers;
mod redact;
mod reply;
mod screen;
mod setback;
mod shadow;
mod shape;
mod stores;
mod stream_watch;
mod told;
mod upstream_io;
mod view;

use crate::{
    conn::{EdgeIo, of_stream},
    listen::ListenerPlan,
    snapshot::Edge,
    stage::{self, Exchange},
};
pub(crate) use ahead::Ahead;
use app::App;
pub(crate) use attempt::Attempt;
pub(crate) use bridge::Ride;
pub(crate) use contract::{Breach, Contract};
use dial::DialConnector;
pub(crate) use egress::Outgoing;
pub(crate) use encode::Encoder;
pub(crate) use head_gate::HeadGate;
pub(crate) use inspect::Inspector;
pub(crate) use mirror::MirrorTap;
pub use peers::Peers;
use pingora::{
    apps::HttpServerApp,
    protocols::{
        Stream,
        http::{ServerSession, v2::server::HttpSession as H2Session},
    },
    proxy::{HttpProxy, ProxyServiceBuilder},
    server::configuration::ServerConf,
};
use portcullis_policy::Reason;
pub(crate) use redact::{Finding, Redactor};
pub(crate) use shadow::{Difference, ShadowReport};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use stream_watch::{Cut, Guarded, Patience};
use tokio::sync::watch;
use told::Told;

/// One core's engine with its own pool of upstream connections.
#[derive(Clone)]
pub(crate) struct Engine {
    proxy: Arc<HttpProxy<App, DialConnector>>,
    edge: Arc<Edge>,
    /// pingora wants to be told of a shutdown; our drivers drain by themselves, so this never changes.
    shutdown: watch::Receiver<bool>,
    _keep: Arc<watch::Sender<bool>>,
}

/// Idle upstream connections kept per core, beside those of the lane.
const POOL: usize = 1024;
/// pingora's own loop around our decisions; more tries than any plan allows.
const TRIES_MAX: usize = 8;
/// How long an unread request body is drained for the sake of keep-alive.
const DRAIN_BODY: Duration = Duration::from_secs(2);

impl Engine {
    pub(crate) fn new(edge: Arc<Edge>) -> Self {
        let conf = ServerConf {
            threads: 1,
            upstream_keepalive_pool_size: POOL,
            max_retries: TRIES_MAX,
            ..ServerConf::default()
        };
        let builder = ProxyServiceBuilder::new(&Arc::new(conf), App::new(edge.clone()));
        let service = builder.custom(DialConnector, Arc::new(|_, _, _| Box::pin(async { None }))).build();
        let (keep, shutdown) = watch::channel(false);
        Self { proxy: Arc::new(extract::http_proxy(service)), edge, shutdown, _keep: Arc::new(keep) }
    }

    /// Serves one message. Gives the connection back when another can follow.
    ///
    /// The session is moved into pingora's own box before the first await: it is no part of the caller's future, which
    /// an idle connection keeps.
    pub(crate) fn serve_h1<'a>(
        &'a self,
        io: Box<EdgeIo>,
        plan: &ListenerPlan,
        last: bool,
    ) -> impl Future<Output = Option<Box<EdgeIo>>> + use<'a> {
        let stream: Stream = io;
        let mut session = ServerSession::new_http1(stream);
        if last {
            // `set_keepalive` would be overruled by the request's own Connection field.
            session.set_keepalive_reuses_remaining(Some(0));
        }
        session.set_read_timeout(Some(plan.limits.body_timeout));
        session.set_write_timeout(Some(plan.limits.body_timeout));
        session.set_total_drain_timeout(Some(DRAIN_BODY));
        let served = self.proxy.process_new_http(session, &self.shutdown);
        async move {
            let (stream, _) = served.await?.consume();
            stream.into_any().downcast::<EdgeIo>().ok()
        }
    }

    /// The same on the way out, for as long as the policy allows the request.
    pub(crate) async fn serve_h1_out(&self, io: Box<EdgeIo>, plan: &ListenerPlan, last: bool) -> Option<Box<EdgeIo>> {
        let serving = self.serve_h1(io, plan, last);
        match stream_watch::guard(serving, None, &self.edge).await {
            Guarded::Served(reusable) => reusable,
            Guarded::Cut(cut, exchange) => {
                self.record_cut(cut, exchange, None);
                None
            }
        }
    }

    pub(crate) async fn serve_h2(&self, session: H2Session, plan: &ListenerPlan) {
        let mut session = ServerSession::new_http2(session);
        session.set_write_timeout(Some(plan.limits.body_timeout));
        session.set_total_drain_timeout(Some(DRAIN_BODY));
        let limits = &plan.limits;
        let body_to_come = !session.is_body_done();
        if !body_to_come && !plan.goes_out() {
            of_stream(self.proxy.process_new_http(session, &self.shutdown)).await;
            return;
        }
        let told = Told::of(session.req_header());
        let patience = body_to_come.then_some(Patience { silence: limits.body_timeout, rate: limits.min_rate });
        let serving = of_stream(self.proxy.process_new_http(session, &self.shutdown));
        if let Guarded::Cut(cut, exchange) = stream_watch::guard(serving, patience, &self.edge).await {
            self.record_cut(cut, exchange, Some(told));
        }
    }

    fn record_cut(&self, cut: Cut, exchange: Option<Box<Exchange>>, told: Option<Told>) {
        let Some(mut exchange) = exchange else { return };
        let told = match cut {
            Cut::TooSlow => {
                exchange.fail(Reason::BodyTimeout, "proxy");
                told
            }
            Cut::Revoked(reason, told) => {
                exchange.fail(Reason::Denied { label: reason.as_str(), status: reason.status() }, "access");
                Some(*told)
            }
        };
        let Some(told) = told else { return };
        let ending = told.ending(exchange.answered);
        stage::record(&self.edge, &mut exchange, &ending, Instant::now());
    }
}
