//! Carries a tunnel: dial, PROXY header if asked for, then bytes both ways until both sides are done or nothing moves.

use super::{SniRoutes, TcpRoute};
use crate::{
    conn::{ConnFacts, Prefixed, Socket},
    core::Core,
};
use bytes::BytesMut;
use portcullis_health::TryOutcome;
use portcullis_names::EndpointAddress;
use portcullis_ops::access_log::Record;
use portcullis_policy::Reason;
use portcullis_upstream::{Cluster, NotPicked, ProxyProtocolVersion, Tried, Wish};
use portcullis_wire::{Parse, client_hello, proxy_protocol};
use std::{
    io,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    sync::watch,
    time::timeout_at,
};

/// A hello is at most 20 KiB of handshake; records add a few octets each.
const HELLO_BYTES: usize = 24 << 10;
/// Tries at endpoints before giving up.
const TRIES: u32 = 3;

pub(crate) async fn serve_tls(
    front: BytesMut,
    mut stream: Socket,
    facts: ConnFacts,
    routes: &SniRoutes,
    core: &Rc<Core>,
    drain: watch::Receiver<bool>,
    deadline: tokio::time::Instant,
) {
    let mut front = front;
    let sni = loop {
        match client_hello::peek(&front) {
            Ok(Parse::Complete { head, .. }) => break head.sni,
            Ok(Parse::Incomplete) if front.len() < HELLO_BYTES => {}
            Ok(Parse::Incomplete) | Err(_) => return facts.metrics.handshake_failed("not_tls"),
        }
        match timeout_at(deadline, stream.read_buf(&mut front)).await {
            Ok(Ok(1..)) => {}
            Ok(_) => return facts.metrics.handshake_failed("client_gone"),
            Err(_) => return facts.metrics.handshake_failed("timeout"),
        }
    };
    let Some(route) = routes.find(sni.as_deref()) else {
        // unrecognized_name (RFC 6066 §3): a fatal alert in a TLS 1.2 record, which every client understands.
        let _ = stream.write_all(&[21, 3, 3, 0, 2, 2, 112]).await;
        return facts.metrics.handshake_failed("unknown_name");
    };
    carry(Prefixed::new(front.freeze(), stream), &facts, sni.as_deref(), route, core, drain).await;
}

pub(crate) async fn serve_tcp(
    stream: Prefixed,
    facts: ConnFacts,
    route: &TcpRoute,
    core: &Rc<Core>,
    drain: watch::Receiver<bool>,
) {
    carry(stream, &facts, None, route, core, drain).await;
}

async fn carry(
    mut client: Prefixed,
    facts: &ConnFacts,
    sni: Option<&str>,
    route: &TcpRoute,
    core: &Rc<Core>,
    drain: watch::Receiver<bool>,
) {
    let began = Instant::now();
    let snapshot = core.edge().snapshot();
    let mut outcome = Outcome::default();
    if let Some((_, cluster)) = snapshot.clusters.find(route.upstream.as_str()) {
        outcome = tunnel(&mut client, facts, cluster, core, drain).await;
    }
    if let Some(reason) = outcome.reason {
        core.edge().metrics.refused(reason.as_str());
    }
    if snapshot.log.takes(outcome.reason.is_some(), fastrand::u64(..)) {
        let record = Record {
            request_id: "-",
            listener: facts.listener.name.as_str(),
            client: facts.source.map(|source| source.ip()),
            peer: facts.peer,
            protocol: if sni.is_some() { "tls" } else { "tcp" },
            sni,
            route: Some(route.name.as_str()),
            upstream: Some(route.upstream.as_str()),
            endpoint: outcome.endpoint,
            attempts: outcome.attempts,
            reason: outcome.reason.map(Reason::as_str),
            ended_by: outcome.reason.map(|reason| reason.side().as_str()),
            bytes_in: outcome.bytes_in,
            bytes_out: outcome.bytes_out,
            duration_us: u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX),
            ..Record::default()
        };
        core.edge().access_log.write(&snapshot.log, &record);
    }
}

#[derive(Default)]
struct Outcome {
    endpoint: Option<String>,
    attempts: u32,
    bytes_in: u64,
    bytes_out: u64,
    reason: Option<Reason>,
}

async fn tunnel(
    client: &mut Prefixed,
    facts: &ConnFacts,
    cluster: &Arc<Cluster>,
    core: &Rc<Core>,
    mut drain: watch::Receiver<bool>,
) -> Outcome {
    let mut outcome = Outcome::default();
    let mut tried = Tried::default();
    let (mut upstream, _pick) = loop {
        let now = Instant::now();
        let pick = match cluster.pick(Wish::plain(fastrand::u64(..), now), &mut tried) {
            Ok(pick) => pick,
            Err(refused) => {
                outcome.reason = outcome.reason.or(Some(match refused {
                    NotPicked::NoEndpoint => Reason::NoEndpoint,
                    NotPicked::Overflow => Reason::CircuitOpen,
                }));
                return outcome;
            }
        };
        outcome.attempts += 1;
        let Some(endpoint) = cluster.endpoints.get(pick.index) else { return outcome };
        outcome.endpoint = Some(endpoint.address.to_string());
        match open(&endpoint.address, cluster.connect_timeout).await {
            Ok(socket) => {
                let micros = u64::try_from(now.elapsed().as_micros()).unwrap_or(u64::MAX);
                cluster.record(&pick, TryOutcome::Answered { status: 200, micros }, Instant::now());
                break (socket, pick);
            }
            Err(error) => {
                cluster.record(&pick, TryOutcome::NotConnected, Instant::now());
                outcome.reason = Some(match error.kind() {
                    io::ErrorKind::ConnectionRefused => Reason::ConnectRefused,
                    io::ErrorKind::TimedOut => Reason::ConnectTimeout,
                    _ => Reason::ConnectFailed,
                });
                if outcome.attempts >= TRIES {
                    return outcome;
                }
            }
        }
    };
    outcome.reason = None;
    let addresses = facts.source.zip(facts.local);
    let header = match cluster.proxy_protocol {
        None => Vec::new(),
        Some(ProxyProtocolVersion::V1) => proxy_protocol::write_v1(addresses),
        Some(ProxyProtocolVersion::V2) => proxy_protocol::write_v2(addresses),
    };
    if upstream.write_all(&header).await.is_err() {
        outcome.reason = Some(Reason::UpstreamReset);
        return outcome;
    }
    let patience = core.drain().streams;
    tokio::select! {
        copied = tokio::io::copy_bidirectional(client, &mut upstream) => match copied {
            Ok((inward, outward)) => (outcome.bytes_in, outcome.bytes_out) = (inward, outward),
            Err(_) => outcome.reason = Some(Reason::UpstreamReset),
        },
        () = async {
            let _ = drain.wait_for(|draining| *draining).await;
            tokio::time::sleep(patience).await;
        } => {}
    }
    outcome
}

async fn open(address: &EndpointAddress, within: Duration) -> io::Result<Socket> {
    let connect = async {
        Ok(match address {
            EndpointAddress::Ip(address) => {
                let tcp = TcpStream::connect(address).await?;
                let _ = tcp.set_nodelay(true);
                Socket::Tcp(tcp)
            }
            EndpointAddress::Unix(path) => Socket::Unix(UnixStream::connect(path).await?),
        })
    };
    tokio::time::timeout(within, connect).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}
