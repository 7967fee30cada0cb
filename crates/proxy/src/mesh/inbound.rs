//! What comes in for the application: found out what it is, opened where a sidecar sent it, refused where the mode says so.

use super::{
    InboundTarget, LiveMesh, MeshFacts, MeshListener, Security,
    board::Sighting,
    dialling::connect,
    facts::peer_label,
    first::{First, Patience, first, whose},
    lifetime::{Lifetime, at},
    record::{Ended, TunnelRecord},
    tunnels::{self, CONNECT},
};
use crate::{
    conn::{ConnFacts, Prefixed, Socket, Speaks, TlsFacts, Transport},
    core::Core,
    egress::intercept::{Caught, original_destination},
    listen::{Direction, accept::handshake_failure},
};
use bytes::{Bytes, BytesMut};
use portcullis_mesh::{
    ALPN_H2, ALPN_TUNNEL, Hello, Inbound, Mode, OpaquePorts, Protocol, Request, SERVER_FIRST_AFTER, Wire, peer_refused,
    svid_id,
};
use std::{
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::{
    io::AsyncReadExt,
    net::TcpStream,
    sync::watch,
    time::{Instant, timeout_at},
};

/// A silent client may be a sidecar whose hello is still on its way: even where servers are known to speak first, it is given
/// this long.
const HELLO_COMES: Duration = Duration::from_millis(30);

/// What a connection turned out to be.
struct Found {
    wire: Wire,
    protocol: Protocol,
    /// Opened while it was found out who speaks first.
    application: Option<TcpStream>,
}

impl Found {
    fn new(wire: Wire, protocol: Protocol) -> Self {
        Self { wire, protocol, application: None }
    }
}

/// What is served: the application and how it is protected.
struct Arrival {
    live: Arc<LiveMesh>,
    mode: Mode,
    deadline: Instant,
    carries: Carries,
}

/// What peers speak inside their TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Carries {
    /// Sidecars of ours: by ALPN.
    Mesh,
    Hbone,
}

/// Carries streams of octets to their end, or gives an http connection back.
pub(crate) async fn serve(
    mut stream: Socket,
    mut front: BytesMut,
    mut facts: ConnFacts,
    listener: &MeshListener,
    core: &Rc<Core>,
    drain: watch::Receiver<bool>,
    deadline: Instant,
) -> Option<Caught> {
    let live = core.edge().snapshot().mesh.clone()?;
    let (to, opaque, application) = match listener {
        MeshListener::Inbound { to, opaque, application } => (to, opaque, application),
        MeshListener::Hbone { to, application } => {
            let port = to.or(facts.local).map_or(0, |address| address.port());
            let mode = live.plan.modes.of(&live.plan.own.namespace, &live.plan.own.service, port);
            let mut mesh = MeshFacts::new(Direction::Inbound, Security::Mtls, port);
            (mesh.target, mesh.application) = (*to, Some(application.clone()));
            mesh.decided_by = Arc::downgrade(&live.plan);
            let arrival = Arrival { live, mode, deadline, carries: Carries::Hbone };
            return arrival.terminate(stream, front, facts, mesh, core, drain).await;
        }
        MeshListener::Outbound { .. } => return None,
    };
    let target = match to {
        InboundTarget::At(address) => *address,
        InboundTarget::Captured(capture) => match original_destination(&stream, *capture) {
            Some(original) => original,
            None => {
                facts.metrics.connection_refused("no_original_destination");
                return None;
            }
        },
    };
    let plan = &live.plan;
    let mode = plan.modes.of(&plan.own.namespace, &plan.own.service, target.port());
    let mut mesh = MeshFacts::new(Direction::Inbound, Security::Plain, target.port());
    (mesh.target, mesh.application) = (Some(target), Some(application.clone()));
    mesh.address = facts.source.map(|source| source.ip());
    mesh.decided_by = Arc::downgrade(plan);
    let arrival = Arrival { live, mode, deadline, carries: Carries::Mesh };
    let found = arrival.find_out(target, &mesh, &mut stream, &mut front, opaque).await;
    let Found { wire, protocol, application: opened } = match found {
        Some(found) => found,
        None => {
            facts.metrics.connection_refused("client_gone");
            return None;
        }
    };
    match mode.inbound(wire, mesh.relation(&arrival.live)) {
        Inbound::Terminate => return arrival.terminate(stream, front, facts, mesh, core, drain).await,
        Inbound::Refuse(why) => {
            let mut record = arrival.record(&mesh, "inbound");
            record.verdict = "denied";
            record.security = if wire == Wire::AppTls { Security::AppTls } else { Security::Plain };
            facts.set_mesh(mesh);
            record.tell(core.edge(), &facts, Ended::Refused(why.as_str()), (0, 0));
            return None;
        }
        Inbound::PassThrough => mesh.security = Security::AppTls,
        Inbound::Plain => {}
    }
    arrival.sighted(&mut mesh, None, protocol_name(protocol));
    if matches!(protocol, Protocol::Http1 | Protocol::Http2) {
        facts.set_mesh(mesh);
        let transport = Transport::Clear(Prefixed::new(Bytes::new(), stream));
        return Some(Caught { transport, front, facts: Arc::new(facts), speaks: Speaks::ByPreface });
    }
    let record = arrival.record(&mesh, "inbound");
    facts.set_mesh(mesh);
    let clear = tunnels::Clear { stream, front, opened };
    tunnels::carry_clear(clear, &facts, &arrival.live, record, core, drain).await;
    None
}

fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tls => "tls",
        Protocol::Http1 => "h1",
        Protocol::Http2 => "h2",
        Protocol::Opaque => "opaque",
    }
}

impl Arrival {
    /// `None`: the client is gone, or has said nothing where only a hello would do.
    async fn find_out(
        &self,
        target: SocketAddr,
        mesh: &MeshFacts,
        stream: &mut Socket,
        front: &mut BytesMut,
        opaque: &OpaquePorts,
    ) -> Option<Found> {
        let (port, now) = (target.port(), Instant::now());
        let known = self.live.state.inbound_ports(|ports| ports.patience(port, SERVER_FIRST_AFTER, now.into_std()));
        // In strict mode nobody but a sidecar is let in, and sidecars speak first.
        let patience = if self.mode == Mode::Strict { self.deadline } else { now + known.max(HELLO_COMES) };
        match first(stream, front, Patience { first: patience.min(self.deadline), whole: self.deadline }).await {
            First::Gone => None,
            First::Silence if self.mode == Mode::Strict => Some(Found::new(Wire::Clear, Protocol::Opaque)),
            First::Silence => self.who_speaks(target, mesh, stream, front, opaque).await,
            First::Is(protocol) => Some(self.found(port, protocol, stream, front, opaque).await),
        }
    }

    async fn found(
        &self,
        port: u16,
        protocol: Protocol,
        stream: &mut Socket,
        front: &mut BytesMut,
        opaque: &OpaquePorts,
    ) -> Found {
        if protocol == Protocol::Tls && whose(stream, front, self.deadline).await == Hello::Mesh {
            return Found::new(Wire::MeshTls, Protocol::Tls);
        }
        self.live.state.inbound_ports(|ports| ports.client_spoke_first(port));
        match protocol {
            Protocol::Tls => Found::new(Wire::AppTls, Protocol::Tls),
            other => Found::new(Wire::Clear, if opaque.contains(port) { Protocol::Opaque } else { other }),
        }
    }

    /// The client was silent for long. Either the server speaks now, or the client was only slow: its hello may have been lost
    /// on the way once, and must not be taken for the application's.
    async fn who_speaks(
        &self,
        target: SocketAddr,
        mesh: &MeshFacts,
        stream: &mut Socket,
        front: &mut BytesMut,
        opaque: &OpaquePorts,
    ) -> Option<Found> {
        let silent = Found::new(Wire::Clear, Protocol::Opaque);
        let port = target.port();
        if !mesh.decide(&self.live, Request::Unseen).verdict.lets_through() {
            // The server will not speak, because octets would not be let through to it unread: as in strict mode, only what the
            // client says can be let in.
            let patience = Patience { first: self.deadline, whole: self.deadline };
            return match first(stream, front, patience).await {
                First::Is(protocol) => Some(self.found(port, protocol, stream, front, opaque).await),
                First::Silence => Some(silent),
                First::Gone => None,
            };
        }
        let Ok(application) = connect(target, self.live.plan.mark, CONNECT).await else { return Some(silent) };
        tokio::select! {
            biased;
            read = timeout_at(self.deadline, stream.read_buf(front)) => match read {
                Ok(Ok(1..)) => {
                    let patience = Patience { first: self.deadline, whole: self.deadline };
                    match first(stream, front, patience).await {
                        First::Is(protocol) => Some(self.found(port, protocol, stream, front, opaque).await),
                        First::Gone | First::Silence => None,
                    }
                }
                Ok(_) => None,
                Err(_) => Some(Found { application: Some(application), ..silent }),
            },
            _ = application.readable() => {
                self.live.state.inbound_ports(|ports| ports.server_spoke_first(port, Instant::now().into_std()));
                Some(Found { application: Some(application), ..silent })
            }
        }
    }

    async fn terminate(
        self,
        stream: Socket,
        front: BytesMut,
        mut facts: ConnFacts,
        mut mesh: MeshFacts,
        core: &Rc<Core>,
        drain: watch::Receiver<bool>,
    ) -> Option<Caught> {
        let now = SystemTime::now();
        // Without one to show the handshake fails by an alert: a closed connection would look like a peer without TLS, to which
        // permissive callers speak in the clear.
        let own = self.live.plan.identity.at(now);
        let config = match self.carries {
            Carries::Mesh => &self.live.plan.server,
            Carries::Hbone => &self.live.plan.hbone,
        };
        let acceptor = tokio_rustls::TlsAcceptor::from(config.clone());
        let handshake = acceptor.accept(Prefixed::new(front.freeze(), stream));
        let (tls, own) = match (timeout_at(self.deadline, handshake).await, own) {
            (Ok(Ok(tls)), Ok(own)) => (tls, own),
            (failed, own) => {
                let reason = match (failed, own) {
                    (_, Err(why)) => why.as_str(),
                    (Ok(Err(error)), Ok(_)) => {
                        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
                        tracing::debug!(listener = %facts.listener.name, peer = ?facts.source, %error, "mesh handshake failed");
                        inner.and_then(peer_refused).map_or(handshake_failure(&error), |why| why.as_str())
                    }
                    (Ok(Ok(_)) | Err(_), Ok(_)) => "timeout",
                };
                facts.metrics.handshake_failed(reason);
                core.edge().metrics.mesh.refused("inbound", reason);
                return None;
            }
        };
        let session = tls.get_ref().1;
        let found = TlsFacts::of(session);
        facts.metrics.handshake_done(found.version, found.resumed);
        let leaf = session.peer_certificates().and_then(|chain| chain.first());
        let workload = &self.live.plan.workload;
        // The handshake has judged it already; without an id there is nobody.
        mesh.peer = leaf.and_then(|leaf| svid_id(leaf, &[workload.spiffe.trust_domain()]).ok());
        mesh.namespace = mesh.peer.as_ref().and_then(|peer| workload.namespace_of(peer));
        let over = found.identity.as_ref().map_or(own.not_after(), |peer| at(peer.not_after).min(own.not_after()));
        mesh.lifetime = Some(Lifetime::until(over, now, Instant::now()));
        mesh.security = Security::Mtls;
        let alpn = session.alpn_protocol().map(<[u8]>::to_vec);
        let (protocol, speaks) = match (self.carries, alpn.as_deref()) {
            (Carries::Hbone, _) => ("hbone", None),
            (Carries::Mesh, Some(ALPN_TUNNEL)) => ("tunnel", None),
            (Carries::Mesh, Some(ALPN_H2)) => ("h2", Some(Speaks::H2)),
            (Carries::Mesh, Some(_) | None) => ("h1", Some(Speaks::H1)),
        };
        self.sighted(&mut mesh, Some(&found), protocol);
        facts.tls = Some(Box::new(found));
        // A peer in quarantine is told so before it has said anything.
        let decision = mesh.decide(&self.live, Request::Unseen);
        if let portcullis_mesh::Verdict::Quarantined(rule) = &decision.verdict {
            let mut record = self.record(&mesh, protocol);
            (record.verdict, record.rule) = (decision.verdict.as_str(), Some(rule.clone()));
            facts.set_mesh(mesh);
            record.tell(core.edge(), &facts, Ended::Refused("mesh_quarantined"), (0, 0));
            return None;
        }
        facts.set_mesh(mesh);
        let facts = Arc::new(facts);
        match speaks {
            Some(speaks) => {
                let transport = Transport::Tls(Box::new(tls));
                Some(Caught { transport, front: BytesMut::new(), facts, speaks })
            }
            None => {
                tunnels::serve_carrier(tls, facts, core, drain).await;
                None
            }
        }
    }

    fn record(&self, mesh: &MeshFacts, protocol: &'static str) -> TunnelRecord {
        let mut record = TunnelRecord::new(Direction::Inbound, protocol, &self.live);
        record.source = mesh.source();
        record.identity = mesh.peer.as_ref().map(|peer| peer.as_str().to_owned());
        record.security = mesh.security;
        record.entry.clone_from(&mesh.entry);
        record.endpoint = mesh.target;
        record
    }

    fn sighted(&self, mesh: &mut MeshFacts, tls: Option<&TlsFacts>, protocol: &'static str) {
        let name = peer_label(mesh.peer.as_ref(), mesh.namespace.as_deref());
        let entry = self.live.state.board.entry(Direction::Inbound, &name);
        entry.sighted(Sighting {
            identity: mesh.peer.as_ref().map(|peer| peer.as_str().to_owned()),
            mode: Some(self.mode.as_str()),
            security: Some(mesh.security),
            cipher: tls.map(|tls| tls.cipher),
            protocol: Some(protocol),
            not_after: tls.and_then(|tls| tls.identity.as_ref()).map(|identity| identity.not_after),
        });
        mesh.entry = Some(entry);
    }
}
