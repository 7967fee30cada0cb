//! The accept loop of one socket on one core, and what happens to a connection until its protocol is known.

use super::{
    BoundSocket, ListenerPlan, ListenerRuntime, PlanProtocol,
    runtime::{ConnPermit, TurnedAway},
};
use crate::{
    conn::{self, ConnFacts, EdgeIo, Prefixed, Socket, TlsFacts, Transport, canonical},
    core::Core,
    egress::intercept::{self, Intercepted, Ready},
    listen::Direction,
    mesh, tunnel,
};
use bytes::{Bytes, BytesMut};
use portcullis_wire::{Parse, proxy_protocol};
use std::{
    io,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, UnixListener},
    sync::watch,
    time::{Instant, timeout_at},
};

/// Accepts until the listener drains; then takes what the kernel had already queued, so that nobody who was let in by
/// TCP is turned away by the close.
pub(crate) async fn run(socket: BoundSocket, listener: Arc<ListenerRuntime>, core: Rc<Core>) {
    let _accepting = core.count_accepting();
    let socket = match Listening::register(socket) {
        Ok(socket) => socket,
        Err(error) => {
            tracing::error!(listener = %listener.name, %error, "listening socket cannot be registered");
            return;
        }
    };
    let mut drain = listener.drain_watch();
    loop {
        let accepted = tokio::select! {
            biased;
            _ = drain.wait_for(|draining| *draining) => break,
            accepted = socket.accept() => accepted,
        };
        match accepted {
            Ok(accepted) => begin(accepted, &listener, &core),
            Err(error) => {
                // EMFILE, ENFILE, ENOBUFS, ENOMEM: without a pause this loop would spin on a full table.
                listener.metrics.connection_refused("accept_failed");
                tracing::warn!(listener = %listener.name, %error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    // New arrivals under load would keep this going for ever: the whole sweep has a limit too.
    let _ = tokio::time::timeout(SWEEP, async {
        while let Ok(Ok(accepted)) = tokio::time::timeout(QUEUE_QUIET, socket.accept()).await {
            begin(accepted, &listener, &core);
        }
    })
    .await;
}

const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const QUEUE_QUIET: Duration = Duration::from_millis(10);
const SWEEP: Duration = Duration::from_millis(100);

enum Listening {
    Tcp {
        listener: TcpListener,
        /// The address of every connection's near end, where it is one and the same: a system call less for each.
        local: Option<SocketAddr>,
    },
    Unix(UnixListener),
}

/// What a connection comes as, with the address of its far end, and that of its near end where it is known.
type Accepted = (Socket, Option<SocketAddr>, Option<SocketAddr>);

impl Listening {
    fn register(socket: BoundSocket) -> io::Result<Self> {
        Ok(match socket {
            BoundSocket::Tcp(tcp) => {
                // Responses are written whole; waiting to fill a segment only adds delay. Accepted sockets inherit it: one
                // call of the kernel less for each connection.
                let _ = socket2::SockRef::from(&tcp).set_tcp_nodelay(true);
                let local = tcp.local_addr().ok().filter(|local| local.is_ipv4() && !local.ip().is_unspecified());
                Self::Tcp { listener: TcpListener::from_std(tcp)?, local }
            }
            BoundSocket::Unix(unix) => Self::Unix(UnixListener::from_std(unix)?),
        })
    }

    async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp { listener, local } => {
                let (tcp, peer) = listener.accept().await?;
                Ok((Socket::Tcp(tcp), Some(canonical(peer)), *local))
            }
            Self::Unix(listener) => Ok((Socket::Unix(listener.accept().await?.0), None, None)),
        }
    }
}

fn begin((stream, peer, local): Accepted, listener: &Arc<ListenerRuntime>, core: &Rc<Core>) {
    if core.is_full() {
        listener.metrics.connection_refused("process_full");
        return;
    }
    if core.is_short_of_memory() {
        listener.metrics.connection_refused("overloaded");
        return;
    }
    let plan = listener.plan();
    // Behind a balancer the peer is the balancer: its share is not a client's.
    let counted = peer.map(|peer| peer.ip()).filter(|peer| !plan.is_relay(*peer));
    let permit = match listener.admit(counted) {
        Ok(permit) => permit,
        Err(turned_away) => {
            listener.metrics.connection_refused(match turned_away {
                TurnedAway::ListenerFull => "listener_full",
                TurnedAway::AddressFull => "address_full",
            });
            return;
        }
    };
    let mut facts = listener.facts();
    facts.peer = peer;
    facts.source = peer;
    // Connections that the packet filter hands over were for somebody else.
    facts.local = local.filter(|_| !plan.is_tproxy()).or_else(|| stream.local_addr());
    // Boxed: what a future was made of stays in it to its end, and the connection is idle for most of its life.
    let connection =
        Box::new(Connection { stream, facts, permit, plan, listener: listener.clone(), core: core.clone() });
    let drain = listener.drain_watch();
    let held = core.count_connection();
    tokio::task::spawn_local(async move {
        let _held = held;
        connection.serve(drain).await;
    });
}

struct Connection {
    stream: Socket,
    facts: ConnFacts,
    permit: ConnPermit,
    plan: Arc<ListenerPlan>,
    listener: Arc<ListenerRuntime>,
    core: Rc<Core>,
}

/// A connection whose protocol is known and whose handshakes are over.
struct Established {
    io: Box<EdgeIo>,
    speaks: conn::Speaks,
}

/// What an intercepted connection turned out to be.
enum Found {
    Http(Established),
    Tunnel(Box<Ready>, ConnPermit),
}

impl Connection {
    /// The parts of a connection's life that are over soon, or rare, are boxed: what is left of an idle connection is the
    /// driver's own state and no more.
    async fn serve(self: Box<Self>, drain: watch::Receiver<bool>) {
        let (listener, core) = (self.listener.clone(), self.core.clone());
        let established = match &self.plan.protocol {
            PlanProtocol::Http | PlanProtocol::Https(_) | PlanProtocol::Proxy(_) => Box::pin(self.establish()).await,
            PlanProtocol::Tcp(_) | PlanProtocol::Tls(_) => return Box::pin(self.tunnel(drain)).await,
            PlanProtocol::Intercept(_) | PlanProtocol::Mesh(_) => match Box::pin(self.intercept(drain.clone())).await {
                Some(Found::Http(established)) => Some(established),
                Some(Found::Tunnel(tunnel, permit)) => {
                    Box::pin(tunnel.carry(&core, drain)).await;
                    drop(permit);
                    return;
                }
                None => None,
            },
        };
        if let Some(Established { io, speaks }) = established {
            conn::serve(io, speaks, listener, core, drain).await;
        }
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.plan.limits.header_timeout
    }

    async fn establish(self: Box<Self>) -> Option<Established> {
        let deadline = self.deadline();
        let (connection, front) = self.read_proxy_header(deadline).await?;
        match connection.plan.protocol.server_tls() {
            Some(_) => connection.handshake(front, deadline).await,
            None => Some(connection.clear(front)),
        }
    }

    async fn tunnel(self: Box<Self>, drain: watch::Receiver<bool>) {
        let deadline = self.deadline();
        let Some((connection, front)) = self.read_proxy_header(deadline).await else { return };
        let Self { stream, facts, permit, plan, core, .. } = *connection;
        match &plan.protocol {
            PlanProtocol::Tcp(route) => {
                tunnel::serve_tcp(Prefixed::new(front.freeze(), stream), facts, route, &core, drain).await;
            }
            PlanProtocol::Tls(routes) => tunnel::serve_tls(front, stream, facts, routes, &core, drain, deadline).await,
            PlanProtocol::Http
            | PlanProtocol::Https(_)
            | PlanProtocol::Proxy(_)
            | PlanProtocol::Intercept(_)
            | PlanProtocol::Mesh(_) => {}
        }
        drop(permit);
    }

    /// A tunnel is to be carried; http goes on as on any listener, each request for the port that was meant.
    async fn intercept(self: Box<Self>, drain: watch::Receiver<bool>) -> Option<Found> {
        let deadline = self.deadline();
        let (connection, front) = self.read_proxy_header(deadline).await?;
        let Self { stream, facts, permit, plan, core, .. } = *connection;
        let caught = match &plan.protocol {
            PlanProtocol::Intercept(how) => match intercept::serve(stream, front, facts, how, &core, deadline).await? {
                Intercepted::Http(caught) => caught,
                Intercepted::Tunnel(ready) => return Some(Found::Tunnel(ready, permit)),
            },
            PlanProtocol::Mesh(how) => match how.direction() {
                Direction::Inbound => {
                    Box::pin(mesh::serve_inbound(stream, front, facts, how, &core, drain, deadline)).await?
                }
                Direction::Outbound => {
                    Box::pin(mesh::serve_outbound(stream, front, facts, how, &core, drain, deadline)).await?
                }
            },
            PlanProtocol::Http
            | PlanProtocol::Https(_)
            | PlanProtocol::Tcp(_)
            | PlanProtocol::Tls(_)
            | PlanProtocol::Proxy(_) => return None,
        };
        let io = EdgeIo::new(caught.transport, caught.front, caught.facts, Box::new(permit));
        Some(Found::Http(Established { io: Box::new(io), speaks: caught.speaks }))
    }

    /// From a trusted relay the PROXY header is obligatory, from anybody else it is not looked for: a client cannot
    /// choose its own address (proxy-protocol.txt §2, "must not guess").
    async fn read_proxy_header(mut self: Box<Self>, deadline: Instant) -> Option<(Box<Self>, BytesMut)> {
        let mut front = BytesMut::new();
        if !self.facts.peer.is_none_or(|peer| self.plan.is_relay(peer.ip())) || self.plan.proxy_protocol.is_none() {
            return Some((self, front));
        }
        loop {
            match timeout_at(deadline, self.stream.read_buf(&mut front)).await {
                Ok(Ok(1..)) => {}
                _ => {
                    self.facts.metrics.connection_refused("proxy_protocol");
                    return None;
                }
            }
            match proxy_protocol::parse(&front) {
                Ok(Parse::Incomplete) => {}
                Ok(Parse::Complete { head, len }) => {
                    let _ = front.split_to(len);
                    if let Some(source) = head.source() {
                        self.facts.source = Some(canonical(source));
                    }
                    return Some((self, front));
                }
                Err(error) => {
                    self.facts.metrics.connection_refused("proxy_protocol");
                    tracing::debug!(listener = %self.facts.listener.name, peer = ?self.facts.peer, %error, "PROXY header refused");
                    return None;
                }
            }
        }
    }

    fn clear(self: Box<Self>, front: BytesMut) -> Established {
        let Self { stream, facts, permit, .. } = *self;
        let transport = Transport::Clear(Prefixed::new(Bytes::new(), stream));
        let io = EdgeIo::new(transport, front, Arc::new(facts), Box::new(permit));
        Established { io: Box::new(io), speaks: conn::Speaks::ByPreface }
    }

    async fn handshake(self: Box<Self>, front: BytesMut, deadline: Instant) -> Option<Established> {
        let Self { stream, mut facts, permit, plan, .. } = *self;
        let server_tls = plan.protocol.server_tls()?;
        let acceptor = tokio_rustls::TlsAcceptor::from(server_tls.config().clone());
        let handshake = acceptor.accept(Prefixed::new(front.freeze(), stream));
        let tls = match timeout_at(deadline, handshake).await {
            Ok(Ok(tls)) => tls,
            Ok(Err(error)) => {
                let reason = handshake_failure(&error);
                facts.metrics.handshake_failed(reason);
                tracing::debug!(listener = %facts.listener.name, peer = ?facts.source, %error, reason, "TLS handshake failed");
                return None;
            }
            Err(_) => {
                facts.metrics.handshake_failed("timeout");
                return None;
            }
        };
        let session = tls.get_ref().1;
        let speaks = match session.alpn_protocol() {
            Some(b"h2") => conn::Speaks::H2,
            Some(_) | None => conn::Speaks::H1,
        };
        let found = TlsFacts::of(session);
        // A resumed session is not verified anew: it must not outlive the certificate it was made with.
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        if found.identity.as_ref().is_some_and(|identity| identity.not_after < i64::try_from(now).unwrap_or(i64::MAX)) {
            facts.metrics.handshake_failed("client_certificate");
            return None;
        }
        facts.metrics.handshake_done(found.version, found.resumed);
        facts.tls = Some(Box::new(found));
        let io = EdgeIo::new(Transport::Tls(Box::new(tls)), BytesMut::new(), Arc::new(facts), Box::new(permit));
        Some(Established { io: Box::new(io), speaks })
    }
}

/// A closed set of metric labels for what goes wrong in handshakes.
pub(crate) fn handshake_failure(error: &io::Error) -> &'static str {
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        return match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => "client_gone",
            _ => "io",
        };
    };
    match tls {
        rustls::Error::NoCertificatesPresented => "no_client_certificate",
        rustls::Error::InvalidCertificate(_) => "client_certificate",
        rustls::Error::AlertReceived(_) => "alert",
        rustls::Error::NoApplicationProtocol => "alpn",
        rustls::Error::PeerIncompatible(_) => "incompatible",
        rustls::Error::InvalidMessage(_) | rustls::Error::InappropriateMessage { .. } => "not_tls",
        rustls::Error::PeerMisbehaved(_) => "misbehaved",
        _ => "other",
    }
}
