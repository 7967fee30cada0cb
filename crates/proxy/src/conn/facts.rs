//! What is known of a connection before the first request on it, and what its byte layer found out while reading.
//!
//! One value per connection, shared by all its requests. The engines carry it; the stages read it.

use crate::{
    egress::{Pinned, local_process::LocalProcess},
    listen::ListenerRuntime,
    mesh::MeshFacts,
};
use portcullis_ops::metrics::ListenerMetrics;
use portcullis_tls::PeerIdentity;
use portcullis_wire as wire;
use std::{
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

/// The facts of one accepted connection.
#[derive(Debug)]
pub struct ConnFacts {
    pub listener: Arc<ListenerRuntime>,
    /// Who opened the socket; `None` on a unix socket.
    pub peer: Option<SocketAddr>,
    /// Who the connection speaks for: the PROXY protocol's source from a trusted peer, else `peer`.
    pub source: Option<SocketAddr>,
    pub local: Option<SocketAddr>,
    /// Boxed, as the next two: an idle connection in the clear pays for none of them.
    pub tls: Option<Box<TlsFacts>>,
    pub metrics: Arc<ListenerMetrics>,
    fault: OnceLock<Fault>,
    tunnel: AtomicBool,
    /// Egress: what all requests behind an accepted CONNECT are for.
    pinned: OnceLock<Box<Pinned>>,
    /// Egress: who holds the other end on this machine, once that was looked up.
    process: OnceLock<Option<Box<LocalProcess>>>,
    /// Of a sidecar's connection.
    mesh: Option<Box<MeshFacts>>,
}

/// What the TLS handshake settled.
#[derive(Debug, Clone)]
pub struct TlsFacts {
    pub version: &'static str,
    pub cipher: &'static str,
    pub sni: Option<String>,
    pub resumed: bool,
    /// Present only when the client showed a certificate and it was verified.
    pub identity: Option<PeerIdentity>,
}

impl TlsFacts {
    /// Of a handshake that is over.
    pub(crate) fn of(session: &rustls::ServerConnection) -> Self {
        Self {
            version: session.protocol_version().and_then(|version| version.as_str()).unwrap_or("unknown"),
            cipher: session.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str()).unwrap_or("unknown"),
            sni: session.server_name().map(str::to_ascii_lowercase),
            resumed: session.handshake_kind() == Some(rustls::HandshakeKind::Resumed),
            identity: session.peer_certificates().and_then(PeerIdentity::from_chain),
        }
    }
}

/// Why the byte layer gave up on a connection. The engine only sees an IO error; this says what it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Malformed(wire::Refusal),
    SlowBody,
    H2Abuse(wire::H2Abuse),
}

impl ConnFacts {
    pub(crate) fn new(listener: Arc<ListenerRuntime>) -> Self {
        Self {
            metrics: listener.metrics.clone(),
            listener,
            peer: None,
            source: None,
            local: None,
            tls: None,
            fault: OnceLock::new(),
            tunnel: AtomicBool::new(false),
            pinned: OnceLock::new(),
            process: OnceLock::new(),
            mesh: None,
        }
    }

    /// Of what is inside one stream of the connection.
    pub(crate) fn inside(&self) -> Self {
        let inside = Self {
            peer: self.peer,
            source: self.source,
            local: self.local,
            tls: self.tls.clone(),
            ..Self::new(self.listener.clone())
        };
        if let Some(process) = self.process.get() {
            let _ = inside.process.set(process.clone());
        }
        inside
    }

    pub(crate) fn set_fault(&self, fault: Fault) {
        // The first one is the cause; what follows is its consequence.
        let _ = self.fault.set(fault);
    }

    pub(crate) fn fault(&self) -> Option<Fault> {
        self.fault.get().copied()
    }

    /// The origin answered 101: from now on the bytes are not HTTP.
    ///
    /// Set only then, never on the request's mere wish (CVE-2026-2833: bytes behind `Upgrade` passed before the 101).
    pub(crate) fn open_tunnel(&self) {
        self.tunnel.store(true, Relaxed);
    }

    pub(crate) fn is_tunnel(&self) -> bool {
        self.tunnel.load(Relaxed)
    }

    /// From now on the connection's requests are for one target.
    pub(crate) fn pin(&self, pinned: Pinned) {
        // A second CONNECT inside the first is refused before it comes here.
        let _ = self.pinned.set(Box::new(pinned));
    }

    pub(crate) fn pinned(&self) -> Option<&Pinned> {
        self.pinned.get().map(|pinned| &**pinned)
    }

    /// Nothing new is to begin on the connection: its listener drains, or the certificates that opened it are nearly over.
    pub(crate) fn is_ending(&self) -> bool {
        let lifetime = self.mesh.as_ref().and_then(|mesh| mesh.lifetime);
        self.listener.is_draining()
            || lifetime.is_some_and(|lifetime| lifetime.is_retiring(tokio::time::Instant::now()))
    }

    pub(crate) fn set_mesh(&mut self, mesh: MeshFacts) {
        self.mesh = Some(Box::new(mesh));
    }

    pub(crate) fn mesh(&self) -> Option<&MeshFacts> {
        self.mesh.as_deref()
    }

    pub(crate) fn set_process(&self, found: Option<LocalProcess>) {
        let _ = self.process.set(found.map(Box::new));
    }

    pub(crate) fn process_is_known(&self) -> bool {
        self.process.get().is_some()
    }

    pub(crate) fn process(&self) -> Option<&LocalProcess> {
        self.process.get()?.as_deref()
    }
}
