//! Dials upstreams for pingora's HTTP/1 client with our own hands: TCP or unix, PROXY header, TLS from our own rustls
//! configuration (roots, SAN patterns, CRLs, client certificate, resumption), and a strict reader of what comes back.
//!
//! pingora's stock rustls connector rebuilds its configuration on every handshake, cannot check a SAN, and keeps its
//! CA out of the pool key; this goes in through its custom-connector seam and leaves it only the pooling.

use super::upstream_io::{UpstreamIo, Waits};
use crate::{
    conn::{Secured, Socket},
    egress::{LiveEgress, parents::Chained},
    listen::Direction,
    mesh::{self, How, LiveMesh, MeshState, PeerEntry, Towards, is_not_tls, sighting},
};
use async_trait::async_trait;
use bytes::Bytes;
use pingora::{
    BError, ErrorType, OkOrErr, OrErr, Result,
    connectors::http::custom,
    protocols::{ALPN, tls::CustomALPN},
    upstreams::peer::{Peer, ProxyDigestUserDataHook},
};
use portcullis_names::{EndpointAddress, ObjectName};
use portcullis_ops::metrics::Metrics;
use portcullis_upstream::{CircuitBreaker, ClusterLoad, Seat};
use rustls::pki_types::ServerName;
use std::{
    any::Any,
    fmt,
    future::poll_fn,
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};
use tokio::{net::UnixStream, time::timeout};

/// How to reach one endpoint: made once per endpoint at compile time, carried to the connector inside the peer.
#[derive(Clone)]
pub(crate) struct Dialer {
    pub(crate) address: EndpointAddress,
    pub(crate) tls: Option<DialTls>,
    pub(crate) connect_timeout: Duration,
    /// Longest wait for the answer to an upgrade.
    pub(crate) head_timeout: Duration,
    /// Longest time in which it takes nothing of a request.
    pub(crate) write_timeout: Duration,
    pub(crate) load: Arc<ClusterLoad>,
    pub(crate) breaker: CircuitBreaker,
    /// Egress: the parent proxy that leads there.
    pub(crate) through: Option<Through>,
    /// What the socket is marked with, so that a sidecar's own connections are not captured.
    pub(crate) mark: Option<u32>,
}

/// A tunnel through a parent proxy.
#[derive(Clone)]
pub(crate) struct Through {
    pub(crate) parent: Arc<Chained>,
    pub(crate) egress: Arc<LiveEgress>,
    /// What the parent is asked for.
    pub(crate) authority: String,
}

/// The error of a dial that the circuit breaker forbids.
pub(super) const OVERFLOW: &str = "circuit breaker";
pub(super) const FULL: ErrorType = ErrorType::Custom(OVERFLOW);

#[derive(Clone, Debug)]
pub(crate) struct DialTls {
    pub(crate) config: Arc<rustls::ClientConfig>,
    pub(crate) server_name: ServerName<'static>,
    /// The endpoint is a service's sidecar.
    pub(crate) mesh: Option<Arc<MeshDial>>,
}

/// What a handshake with a service's sidecar is told to.
#[derive(Debug)]
pub(crate) struct MeshDial {
    towards: Arc<Towards>,
    state: Arc<MeshState>,
    metrics: Arc<Metrics>,
}

impl MeshDial {
    /// `None`: the upstream is no service.
    pub(super) fn new(live: &LiveMesh, upstream: &ObjectName, metrics: &Arc<Metrics>) -> Option<Arc<Self>> {
        let towards = live.plan.towards(upstream)?.clone();
        Some(Arc::new(Self { towards, state: live.state.clone(), metrics: metrics.clone() }))
    }

    fn entry(&self) -> Arc<PeerEntry> {
        self.state.board.entry(Direction::Outbound, &self.towards.name().to_string())
    }

    fn sighted(&self, session: &rustls::ClientConnection) {
        let protocol = match session.alpn_protocol() {
            Some(portcullis_mesh::ALPN_H2) => "h2",
            Some(_) | None => "h1",
        };
        self.entry().sighted(sighting(session, &self.towards, protocol));
    }

    fn failed(&self, error: &std::io::Error) {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        let reason = inner.and_then(portcullis_mesh::peer_refused).map_or("handshake", |why| why.as_str());
        self.entry().denied(reason, None);
        self.metrics.mesh.refused("outbound", reason);
    }
}

/// A dial on behalf of one client connection: its PROXY header goes first, and the connection is nobody else's.
#[derive(Clone)]
pub(crate) struct Dial {
    pub(crate) dialer: Arc<Dialer>,
    pub(crate) proxy_header: Bytes,
}

/// pingora asks this for connections of peers whose ALPN is [`marker`].
#[derive(Debug, Default)]
pub(crate) struct DialConnector;

/// The ALPN value that sends a peer through [`DialConnector`]; never on the wire.
pub(crate) fn marker() -> ALPN {
    static MARKER: LazyLock<CustomALPN> = LazyLock::new(|| CustomALPN::new(b"portcullis/h1".to_vec()));
    ALPN::Custom(MARKER.clone())
}

/// The one field of a peer that carries a value of our own type: a hook that pingora itself calls only for its CONNECT
/// proxies, which we never configure.
pub(crate) fn carry(dial: Dial) -> ProxyDigestUserDataHook {
    Arc::new(move |_, _| Some(Box::new(dial.clone()) as Box<dyn Any + Send + Sync>))
}

fn carried<P: Peer>(peer: &P) -> Option<Dial> {
    static NOBODY: LazyLock<(http::request::Parts, pingora::http::ResponseHeader)> = LazyLock::new(|| {
        let header = pingora::http::ResponseHeader::build(200, Some(0)).expect("200 is a status code");
        (http::Request::new(()).into_parts().0, header)
    });
    let any = peer.proxy_digest_user_data_hook()?(&NOBODY.0, &NOBODY.1)?;
    any.downcast::<Dial>().ok().map(|dial| *dial)
}

#[async_trait]
impl custom::Connector for DialConnector {
    type Session = ();

    async fn get_http_session<P: Peer + Send + Sync + 'static>(
        &self,
        peer: &P,
    ) -> Result<(custom::Connection<()>, bool)> {
        let dial = carried(peer).or_err(ErrorType::InternalError, "peer without a dialer")?;
        let io = dial.connect().await?;
        Ok((custom::Connection::Stream(Box::new(io)), false))
    }

    async fn reused_http_session<P: Peer + Send + Sync + 'static>(&self, _: &P) -> Option<()> {
        None
    }

    async fn release_http_session<P: Peer + Send + Sync + 'static>(&self, (): (), _: &P, _: Option<Duration>) {}
}

impl Dial {
    pub(super) async fn connect(&self) -> Result<UpstreamIo> {
        let dialer = &self.dialer;
        let _pending = dialer.load.pending.enter(dialer.breaker.pending).or_err(FULL, "pending")?;
        let seat = dialer.seat().await?;
        let mut socket = dialer.connect().await?;
        if !self.proxy_header.is_empty() {
            let written = tokio::io::AsyncWriteExt::write_all(&mut socket, &self.proxy_header).await;
            written.or_err_with(ErrorType::ConnectError, || format!("{}: PROXY header", dialer.address))?;
        }
        Ok(UpstreamIo::new(dialer.secure(socket).await?, dialer.waits(), seat))
    }
}

impl Dialer {
    /// A place among the connections that the upstream may have; an idle one of another core goes for it.
    pub(super) async fn seat(&self) -> Result<Seat> {
        let entered = poll_fn(|cx| self.load.connections.poll_enter(self.breaker.connections, cx));
        timeout(self.connect_timeout, entered).await.ok().flatten().or_err(FULL, "connections")
    }

    fn waits(&self) -> Waits {
        Waits { head: self.head_timeout, write: self.write_timeout }
    }

    /// A connected socket, in time.
    pub(super) async fn connect(&self) -> Result<Socket> {
        if let Some(through) = &self.through {
            return self.open_through(through).await;
        }
        match timeout(self.connect_timeout, self.open()).await {
            Ok(opened) => opened,
            Err(_) => Err(failure(ErrorType::ConnectTimedout, self)),
        }
    }

    /// The same inside TLS, where it is to be.
    pub(super) async fn secured(&self) -> Result<Secured> {
        let socket = self.connect().await?;
        self.secure(socket).await
    }

    async fn secure(&self, socket: Socket) -> Result<Secured> {
        let Some(tls) = &self.tls else { return Ok(Secured::Plain(socket)) };
        let downgradable = tls.mesh.as_ref().filter(|mesh| mesh.towards.how == How::MeshOrPlain);
        let address = match &self.address {
            EndpointAddress::Ip(address) => Some(*address),
            EndpointAddress::Unix(_) => None,
        };
        if let (Some(mesh), Some(address)) = (downgradable, address)
            && mesh.state.is_plain(address, Instant::now())
        {
            return Ok(Secured::Plain(socket));
        }
        let connector = tokio_rustls::TlsConnector::from(tls.config.clone());
        match timeout(self.connect_timeout, connector.connect(tls.server_name.clone(), socket)).await {
            Ok(Ok(stream)) => {
                if let Some(mesh) = &tls.mesh {
                    mesh.sighted(stream.get_ref().1);
                }
                Ok(Secured::Tls(Box::new(stream)))
            }
            Ok(Err(error)) if is_not_tls(&error) && downgradable.is_some() => self.in_clear(downgradable).await,
            // Whoever waits for the end of a request line never answers a hello.
            Err(_) if downgradable.is_some() => self.in_clear(downgradable).await,
            Ok(Err(error)) => {
                if let Some(mesh) = &tls.mesh {
                    mesh.failed(&error);
                }
                Err(pingora::Error::because(ErrorType::TLSHandshakeFailure, format!("{}", self.address), error))
            }
            Err(_) => Err(failure(ErrorType::TLSHandshakeTimedout, self)),
        }
    }

    /// The endpoint of a permissive service has no sidecar, and the hello has spoilt the connection: another one.
    async fn in_clear(&self, mesh: Option<&Arc<MeshDial>>) -> Result<Secured> {
        if let (Some(mesh), EndpointAddress::Ip(address)) = (mesh, &self.address) {
            mesh.state.found_plain(*address, Instant::now());
            mesh.metrics.mesh.plain_fallback();
        }
        Ok(Secured::Plain(self.connect().await?))
    }

    async fn open(&self) -> Result<Socket> {
        match &self.address {
            EndpointAddress::Ip(address) => {
                let tcp = mesh::connect(*address, self.mark, self.connect_timeout).await;
                Ok(Socket::Tcp(tcp.map_err(|error| self.refused(error))?))
            }
            EndpointAddress::Unix(path) => {
                Ok(Socket::Unix(UnixStream::connect(path).await.map_err(|error| self.refused(error))?))
            }
        }
    }

    /// Each step to the parent and with it has a timeout of its own.
    async fn open_through(&self, through: &Through) -> Result<Socket> {
        let failed = |words: &str| {
            let words = format!("{} through \"{}\": {words}", through.authority, through.parent.parent.name());
            pingora::Error::explain(ErrorType::ConnectProxyFailure, words)
        };
        let opened = through.parent.open(&through.egress, &through.authority).await;
        let opened = opened.map_err(|reason| failed(reason.doc()))?;
        if !opened.front.is_empty() {
            return Err(failed("it spoke before it was asked"));
        }
        Ok(opened.socket)
    }

    fn refused(&self, error: std::io::Error) -> BError {
        let kind = match error.kind() {
            std::io::ErrorKind::ConnectionRefused => ErrorType::ConnectRefused,
            std::io::ErrorKind::HostUnreachable | std::io::ErrorKind::NetworkUnreachable => ErrorType::ConnectNoRoute,
            _ => ErrorType::ConnectError,
        };
        pingora::Error::because(kind, format!("{}", self.address), error)
    }
}

fn failure(kind: ErrorType, dialer: &Dialer) -> BError {
    pingora::Error::explain(kind, format!("{} within {:?}", dialer.address, dialer.connect_timeout))
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialer").field("address", &self.address).field("tls", &self.tls.is_some()).finish()
    }
}
