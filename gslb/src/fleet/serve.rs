//! Gives our verdict document to the peers: `GET /verdicts` over h2 and mutual TLS, on a listener of its own. A question may be
//! held back until there is news (RFC 6202 §2). Serves nothing else and nobody else.

use super::{Fleet, Published};
use crate::{
    server::{Republished, TlsSwitch},
    steer::Clocks,
};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{CONTENT_TYPE, ETAG, HeaderName, HeaderValue, IF_NONE_MATCH},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use portcullis_tls::PeerIdentity;
use std::{convert::Infallible, net::SocketAddr, pin::pin, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

pub(super) const PATH: &str = "/verdicts";
/// The author's clock in seconds since 1970, in every answer.
pub(super) const CLOCK: HeaderName = HeaderName::from_static("portcullis-clock");
/// Milliseconds that the question may be held back.
pub(super) const WAIT: HeaderName = HeaderName::from_static("portcullis-wait");

/// Peers are few, and each has one connection; there is room for those that come back before the old one is gone.
const CONNECTIONS_MAX: usize = 256;
const STREAMS_MAX: u32 = 8;
const HEAD_MAX: u32 = 8 * 1024;
const HANDSHAKE: Duration = Duration::from_secs(3);
/// A question that would be held for longer is answered by then.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// A peer that does not answer a ping is gone.
const PING: Duration = Duration::from_secs(20);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// By then what is under way has ended, or is cut.
const LAST: Duration = Duration::from_millis(500);

/// Accepts until told to stop. `fleet` says which fleet serves now.
pub(crate) async fn serve(
    listeners: Vec<(std::net::TcpListener, TlsSwitch)>,
    fleet: Republished,
    mut stop: watch::Receiver<()>,
) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    for (listener, switch) in listeners {
        match TcpListener::from_std(listener) {
            Ok(listener) => {
                tokio::spawn(accept(listener, switch, fleet.clone(), permits.clone(), stop.clone()));
            }
            Err(error) => tracing::error!(%error, "a listener of verdicts cannot be used"),
        }
    }
    stop.changed().await.ok();
    // Each connection holds a permit: when all are back, all have ended.
    timeout(LAST, permits.acquire_many(CONNECTIONS_MAX as u32)).await.ok();
}

async fn accept(
    listener: TcpListener,
    switch: TlsSwitch,
    fleet: Republished,
    permits: Arc<Semaphore>,
    mut stop: watch::Receiver<()>,
) {
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.changed() => return,
        };
        let Ok((stream, client)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let (acceptor, fleet, stop) = (TlsAcceptor::from(switch.load()), fleet.clone(), stop.clone());
        tokio::spawn(async move {
            let _permit = permit;
            connection(stream, client, acceptor, fleet, stop).await;
        });
    }
}

async fn connection(
    stream: TcpStream,
    client: SocketAddr,
    acceptor: TlsAcceptor,
    fleet: Republished,
    mut stop: watch::Receiver<()>,
) {
    stream.set_nodelay(true).ok();
    let Ok(Ok(stream)) = timeout(HANDSHAKE, acceptor.accept(stream)).await else {
        tracing::debug!(%client, "a handshake on the listener of verdicts failed");
        return;
    };
    let identity = stream.get_ref().1.peer_certificates().and_then(PeerIdentity::from_chain).map(Arc::new);
    let served = stop.clone();
    let service = service_fn(move |request| {
        let (fleet, identity, stop) = (fleet.clone(), identity.clone(), served.clone());
        async move { Ok::<_, Infallible>(answer(&request, &fleet, identity.as_deref(), client, stop).await) }
    });
    let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    builder.timer(TokioTimer::new()).keep_alive_interval(PING).keep_alive_timeout(PING);
    builder.max_concurrent_streams(STREAMS_MAX).max_header_list_size(HEAD_MAX);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        // What went wrong is the peer's affair: it comes again.
        _ = connection.as_mut() => {}
        _ = stop.changed() => {
            connection.as_mut().graceful_shutdown();
            timeout(LAST, connection).await.ok();
        }
    }
}

async fn answer(
    request: &Request<Incoming>,
    fleet: &Republished,
    identity: Option<&PeerIdentity>,
    client: SocketAddr,
    mut stop: watch::Receiver<()>,
) -> Response<Full<Bytes>> {
    // A reload may have taken a peer away: each question is looked at anew.
    let Some(fleet) = fleet.now() else { return refusal(StatusCode::NOT_FOUND) };
    // Fails closed: the document names addresses and what is wrong with them.
    if !identity.is_some_and(|identity| is_peer(&fleet, identity)) {
        tracing::warn!(%client, subject = identity.map(|own| &own.subject), "no peer of the fleet, and not answered");
        return refusal(StatusCode::FORBIDDEN);
    }
    if request.uri().path() != PATH {
        return refusal(StatusCode::NOT_FOUND);
    }
    if request.method() != Method::GET {
        return refusal(StatusCode::METHOD_NOT_ALLOWED);
    }
    let text = |name: HeaderName| request.headers().get(name).and_then(|value| value.to_str().ok());
    let (known, wait) = (text(IF_NONE_MATCH), text(WAIT).and_then(|wait| wait.parse().ok()).unwrap_or(0));
    let mut news = fleet.published();
    let mut published = news.borrow_and_update().clone();
    if known == Some(&published.tag) {
        let wait = Duration::from_millis(wait).min(WAIT_MAX);
        tokio::select! {
            _ = timeout(wait, news.changed()) => {}
            // What is said last must be heard before we go.
            _ = stop.changed() => {}
        }
        published = news.borrow_and_update().clone();
    }
    reply(&published, known)
}

fn is_peer(fleet: &Fleet, identity: &PeerIdentity) -> bool {
    fleet.plan.peers.values().any(|peer| identity.dns.contains(&peer.name))
}

fn reply(published: &Published, known: Option<&str>) -> Response<Full<Bytes>> {
    let is_known = known == Some(&published.tag);
    let body = if is_known { Bytes::new() } else { published.octets.clone() };
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = if is_known { StatusCode::NOT_MODIFIED } else { StatusCode::OK };
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CLOCK, HeaderValue::from(Clocks::read().unix));
    HeaderValue::from_str(&published.tag).map(|tag| headers.insert(ETAG, tag)).ok();
    response
}

fn refusal(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(Bytes::new()));
    *response.status_mut() = status;
    response
}
