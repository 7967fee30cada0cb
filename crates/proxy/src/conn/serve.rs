//! The life of one HTTP connection, whatever its version: the driver runs, and a drain puts an end to it in time.

use super::{ConnFacts, EdgeIo, h1, h2};
use crate::{
    core::Core,
    listen::{ListenerPlan, ListenerRuntime},
    mesh::{self, Lifetime},
};
use std::{pin::Pin, rc::Rc, sync::Arc};
use tokio::{sync::watch, time::Instant};

/// What ALPN settled, or that the first octets will.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speaks {
    H1,
    H2,
    ByPreface,
}

/// What a driver needs besides its bytes.
pub(crate) struct Conn {
    pub(crate) core: Rc<Core>,
    pub(crate) listener: Arc<ListenerRuntime>,
    pub(crate) drain: watch::Receiver<bool>,
    pub(crate) speaks: Speaks,
    /// Between workloads.
    pub(crate) lifetime: Option<Lifetime>,
}

impl Conn {
    pub(crate) fn plan(&self) -> Arc<ListenerPlan> {
        self.listener.plan()
    }

    pub(crate) fn is_draining(&self) -> bool {
        *self.drain.borrow() || self.lifetime.is_some_and(|lifetime| lifetime.is_retiring(Instant::now()))
    }

    /// Resolves once nothing new is to begin: the listener drains, or the certificates are nearly over.
    pub(crate) async fn draining(&self) {
        match self.lifetime {
            None => self.drained().await,
            Some(lifetime) => tokio::select! {
                () = self.drained() => {}
                () = lifetime.retires() => {}
            },
        }
    }

    async fn drained(&self) {
        // An error means that the listener is gone: as drained as can be.
        let _ = self.drain.clone().wait_for(|draining| *draining).await;
    }
}

/// Serves the connection to its end, or until the drain's patience is over.
pub(crate) async fn serve(
    io: Box<EdgeIo>,
    speaks: Speaks,
    listener: Arc<ListenerRuntime>,
    core: Rc<Core>,
    drain: watch::Receiver<bool>,
) {
    let facts = io.facts().clone();
    let lifetime = facts.mesh().and_then(|mesh| mesh.lifetime);
    let conn = Conn { core, listener, drain, speaks, lifetime };
    // Boxed: a future is as large as all that was ever moved into it, and `select!` moves it once more.
    let driver: Pin<Box<dyn Future<Output = ()>>> = match speaks {
        Speaks::H2 => Box::pin(h2::serve(io, &conn)),
        Speaks::H1 | Speaks::ByPreface => Box::pin(h1::serve(io, &conn)),
    };
    tokio::select! {
        biased;
        () = driver => {}
        () = patience(&conn, &facts) => {}
        () = mesh::revoked(&facts, &conn.core) => {}
        () = over(lifetime) => conn.core.edge().metrics.mesh.refused("inbound", "certificate_expired"),
    }
}

/// Never, where no certificates opened the connection.
async fn over(lifetime: Option<Lifetime>) {
    match lifetime {
        None => std::future::pending().await,
        Some(lifetime) => lifetime.ends().await,
    }
}

/// `process.drain` for exchanges, `process.stream_drain` for what may last: tunnels, and h2 with its streams.
async fn patience(conn: &Conn, facts: &ConnFacts) {
    conn.drained().await;
    let drain = conn.core.drain();
    tokio::time::sleep(drain.exchanges).await;
    if facts.is_tunnel() || conn.speaks == Speaks::H2 {
        tokio::time::sleep(drain.streams.saturating_sub(drain.exchanges)).await;
    }
}
