//! A published mesh plan, and what lives on from plan to plan: peers seen, ports learnt.

use super::{MeshPlan, board::Board};
use portcullis_egress::PipePool;
use portcullis_mesh::PortMemory;
use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// What decides about connections now. Pinned by each of them.
#[derive(Debug)]
pub struct LiveMesh {
    pub plan: Arc<MeshPlan>,
    pub state: Arc<MeshState>,
}

/// What the whole process knows.
#[derive(Debug)]
pub struct MeshState {
    pub board: Board,
    pub(crate) pipes: PipePool,
    inbound_ports: Mutex<PortMemory>,
    outbound_ports: Mutex<PortMemory>,
    /// Endpoints that were found to have no sidecar.
    plain: Mutex<HashMap<SocketAddr, Instant>>,
    /// Wakes every connection when another plan is published.
    changes: watch::Sender<u64>,
}

/// A quarter of what the kernel gives an unprivileged user (`fs.pipe-user-pages-soft`, 64 MiB); the rest is for egress.
const PIPE_BYTES_MAX: usize = 16 << 20;
/// How long an endpoint without a sidecar is believed to have none.
const PLAIN_FOR: Duration = Duration::from_secs(30);
const PLAIN_MAX: usize = 4096;

impl LiveMesh {
    pub fn new(plan: Arc<MeshPlan>, previous: Option<&Self>) -> Self {
        let state = previous.map_or_else(|| Arc::new(MeshState::new()), |previous| previous.state.clone());
        Self { plan, state }
    }
}

impl MeshState {
    fn new() -> Self {
        Self {
            board: Board::default(),
            pipes: PipePool::new(PIPE_BYTES_MAX),
            inbound_ports: Mutex::default(),
            outbound_ports: Mutex::default(),
            plain: Mutex::default(),
            changes: watch::Sender::new(0),
        }
    }

    /// To be called when another plan has been published.
    pub fn changed(&self) {
        self.changes.send_modify(|generation| *generation = generation.wrapping_add(1));
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub(crate) fn inbound_ports<T>(&self, ask: impl FnOnce(&mut PortMemory) -> T) -> T {
        ask(&mut self.inbound_ports.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn outbound_ports<T>(&self, ask: impl FnOnce(&mut PortMemory) -> T) -> T {
        ask(&mut self.outbound_ports.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether the endpoint was lately found to have no sidecar.
    pub(crate) fn is_plain(&self, endpoint: SocketAddr, now: Instant) -> bool {
        let plain = self.plain.lock().unwrap_or_else(PoisonError::into_inner);
        plain.get(&endpoint).is_some_and(|since| now.saturating_duration_since(*since) < PLAIN_FOR)
    }

    pub(crate) fn found_plain(&self, endpoint: SocketAddr, now: Instant) {
        let mut plain = self.plain.lock().unwrap_or_else(PoisonError::into_inner);
        if plain.len() >= PLAIN_MAX {
            plain.retain(|_, since| now.saturating_duration_since(*since) < PLAIN_FOR);
        }
        if plain.len() < PLAIN_MAX {
            plain.insert(endpoint, now);
        }
    }
}
