//! Pulls the verdict documents of all peers: one task and one connection a peer, a question that is held back until there is
//! news. Decides nothing; what is heard goes to the services.

use super::{
    Document, Fleet, PeerPlan,
    document::OCTETS_MAX,
    serve::{CLOCK, PATH, WAIT},
};
use crate::{metrics::DnsMetrics, snapshot::Snapshot, steer::Clocks};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{
    Request, Response, StatusCode, Uri,
    body::Incoming,
    client::conn::http2::{self, SendRequest},
    header::IF_NONE_MATCH,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use portcullis_config::Live;
use portcullis_names::ObjectName;
use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::Duration,
};
use tokio::{net::TcpStream, task::JoinHandle, time::timeout};
use tokio_rustls::TlsConnector;

const CONNECT: Duration = Duration::from_secs(2);
/// Beyond what the peer may hold a question back: for the answer to come, however large.
const ANSWER: Duration = Duration::from_secs(2);
/// Between tries with a peer that does not answer.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
const HEAD_MAX: u32 = 8 * 1024;

/// Until the runtime ends: follows reloads.
pub(crate) async fn pull(live: Live<Snapshot>, metrics: Arc<DnsMetrics>) {
    let mut reloads = live.subscribe();
    let mut tasks: HashMap<ObjectName, (String, JoinHandle<()>)> = HashMap::new();
    loop {
        let snapshot = live.load().snapshot.clone();
        let peers = snapshot.services.fleet.as_ref().map(|fleet| fleet.plan.peers.clone()).unwrap_or_default();
        tasks.retain(|name, (key, task)| {
            let stays = peers.get(name).is_some_and(|peer| peer.key() == *key);
            if !stays {
                task.abort();
            }
            stays
        });
        for (name, peer) in peers.into_iter().filter(|(_, peer)| peer.address.is_some()) {
            tasks
                .entry(name.clone())
                .or_insert_with(|| (peer.key(), tokio::spawn(follow(name, peer, live.clone(), metrics.clone()))));
        }
        if reloads.changed().await.is_err() {
            return;
        }
    }
}

impl PeerPlan {
    /// Equal for what one task can go on with after a reload.
    fn key(&self) -> String {
        let tls = self.tls.as_ref().map(portcullis_tls::UpstreamTls::group_key);
        format!("{:?} {} {} {tls:?}", self.address, self.name, self.site)
    }
}

/// One peer, for as long as it is one.
async fn follow(name: ObjectName, peer: PeerPlan, live: Live<Snapshot>, metrics: Arc<DnsMetrics>) {
    let mut pause = PAUSE.0;
    loop {
        let outcome = converse(&name, &peer, &live, &metrics, &mut pause).await;
        metrics.pulled(&name, "failed");
        if let Err(error) = outcome {
            tracing::info!(peer = %name, address = ?peer.address, error, "a peer of the fleet is not heard");
        }
        // Not all nodes at once come back to one that was restarted.
        let draw = RandomState::new().hash_one(&name) % 1_000;
        tokio::time::sleep(pause.mul_f64(0.75 + draw as f64 / 2_000.0)).await;
        pause = (pause * 2).min(PAUSE.1);
    }
}

/// One connection, until it fails.
async fn converse(
    name: &ObjectName,
    peer: &PeerPlan,
    live: &Live<Snapshot>,
    metrics: &DnsMetrics,
    pause: &mut Duration,
) -> Result<(), String> {
    let mut sender = timeout(CONNECT, connect(peer)).await.map_err(|_| "no connection in time")??;
    loop {
        let snapshot = live.load().snapshot.clone();
        let Some(fleet) = snapshot.services.fleet.clone() else { return Ok(()) };
        let request = question(name, peer, &fleet)?;
        let answered = timeout(fleet.plan.poll + ANSWER, async {
            let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
            read(response).await
        });
        let (clock, body) = answered.await.map_err(|_| "no answer in time")??;
        // To whatever serves by now.
        let snapshot = live.load().snapshot.clone();
        let clocks = Clocks::read();
        match body {
            None => {
                if let Some(fleet) = &snapshot.services.fleet {
                    fleet.confirm(name, clock, clocks);
                }
                metrics.pulled(name, "unchanged");
            }
            Some(octets) => {
                let heard = Document::parse(&octets);
                let heard = heard.and_then(|document| snapshot.services.hear(name, document, clock, clocks));
                if let Err(error) = heard {
                    metrics.pulled(name, "refused");
                    tracing::warn!(peer = %name, %error, "the document of a peer is not taken");
                    return Err(error.to_string());
                }
                metrics.pulled(name, "heard");
            }
        }
        *pause = PAUSE.0;
    }
}

async fn connect(peer: &PeerPlan) -> Result<SendRequest<Empty<Bytes>>, String> {
    let tls = peer.tls.as_ref().ok_or("its TLS is not configured")?;
    let address = peer.address.ok_or("it has no address")?;
    let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    stream.set_nodelay(true).ok();
    // A resumed session would show the certificate of the day it began, and the author is bound to the certificate.
    let mut config = rustls::ClientConfig::clone(&tls.config(b"h2"));
    config.resumption = rustls::client::Resumption::disabled();
    let connector = TlsConnector::from(Arc::new(config));
    let stream = connector.connect(tls.server_name.clone(), stream).await.map_err(|error| error.to_string())?;
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.timer(TokioTimer::new()).max_header_list_size(HEAD_MAX);
    let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    // It ends with the last handle.
    tokio::spawn(connection);
    Ok(sender)
}

fn question(name: &ObjectName, peer: &PeerPlan, fleet: &Fleet) -> Result<Request<Empty<Bytes>>, String> {
    let uri = Uri::builder().scheme("https").authority(peer.name.as_str()).path_and_query(PATH).build();
    let wait = fleet.plan.poll.as_millis().to_string();
    let mut request = Request::get(uri.map_err(|error| error.to_string())?).header(WAIT, wait);
    if let Some(tag) = fleet.tag_of(name) {
        request = request.header(IF_NONE_MATCH, tag);
    }
    request.body(Empty::new()).map_err(|error| error.to_string())
}

/// The author's clock, and the document unless it is the one that we have.
async fn read(response: Response<Incoming>) -> Result<(u64, Option<Bytes>), String> {
    let clock = response.headers().get(CLOCK).and_then(|clock| clock.to_str().ok()?.parse().ok());
    let clock = clock.ok_or("the answer does not say the time")?;
    match response.status() {
        StatusCode::NOT_MODIFIED => Ok((clock, None)),
        StatusCode::OK => {
            let body = Limited::new(response.into_body(), OCTETS_MAX).collect().await;
            Ok((clock, Some(body.map_err(|error| error.to_string())?.to_bytes())))
        }
        other => Err(format!("it answers {other}")),
    }
}
