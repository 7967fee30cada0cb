//! pingora as the HTTP engine: everything that touches its types is below here.

mod app;
mod bridge;
mod dial;
mod encode;
mod extract;
mod fate;
mod guard;
mod headers;
mod inspect;
mod mirror;
mod peers;
mod reply;
mod shadow;
mod shape;
mod stores;
mod stream_watch;
mod upstream_io;
mod view;

use crate::{conn::EdgeIo, listen::ListenerPlan, snapshot::Edge};
use app::App;
use dial::DialConnector;
pub(crate) use encode::Encoder;
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
pub(crate) use shadow::{Difference, ShadowReport};
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;

/// One core's engine with its own pool of upstream connections.
#[derive(Clone)]
pub(crate) struct Engine {
    proxy: Arc<HttpProxy<App, DialConnector>>,
    /// pingora wants to be told of a shutdown; our drivers drain by themselves, so this never changes.
    shutdown: watch::Receiver<bool>,
    _keep: Arc<watch::Sender<bool>>,
}

/// Idle upstream connections kept per core.
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
        let builder = ProxyServiceBuilder::new(&Arc::new(conf), App::new(edge));
        let service = builder.custom(DialConnector, Arc::new(|_, _, _| Box::pin(async { None }))).build();
        let (keep, shutdown) = watch::channel(false);
        Self { proxy: Arc::new(extract::http_proxy(service)), shutdown, _keep: Arc::new(keep) }
    }

    /// Serves one message. Gives the connection back when another can follow.
    pub(crate) async fn serve_h1(&self, io: Box<EdgeIo>, plan: &ListenerPlan, last: bool) -> Option<Box<EdgeIo>> {
        let stream: Stream = io;
        let mut session = ServerSession::new_http1(stream);
        if last {
            // `set_keepalive` would be overruled by the request's own Connection field.
            session.set_keepalive_reuses_remaining(Some(0));
        }
        session.set_read_timeout(Some(plan.limits.body_timeout));
        session.set_write_timeout(Some(plan.limits.body_timeout));
        session.set_total_drain_timeout(Some(DRAIN_BODY));
        let (stream, _) = self.proxy.process_new_http(session, &self.shutdown).await?.consume();
        stream.into_any().downcast::<EdgeIo>().ok()
    }

    pub(crate) async fn serve_h2(&self, session: H2Session, plan: &ListenerPlan) {
        let mut session = ServerSession::new_http2(session);
        session.set_write_timeout(Some(plan.limits.body_timeout));
        session.set_total_drain_timeout(Some(DRAIN_BODY));
        let complete = session.is_body_done();
        let serving = self.proxy.process_new_http(session, &self.shutdown);
        // Dropping the future resets the stream.
        stream_watch::guard(serving, complete, plan.limits.body_timeout).await;
    }
}
