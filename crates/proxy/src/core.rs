//! One core: a current-thread runtime with its own engine and upstream pool. Connections never leave the core that
//! accepted them.

use crate::{
    engine::Engine,
    listen::{BoundSocket, ListenerRuntime, accept},
    snapshot::{Drain, Edge},
};
use std::{
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    thread::JoinHandle,
};
use tokio::{sync::mpsc, task::LocalSet};

/// What the connections of one core share.
pub(crate) struct Core {
    edge: Arc<Edge>,
    engine: Engine,
    connections: Rc<Connections>,
}

/// Connections of the whole process, against `process.max_connections`.
#[derive(Debug, Default)]
pub(crate) struct ProcessConnections(AtomicU32);

struct Connections(Arc<Edge>);

/// One connection of the process; dropping it counts down.
pub(crate) struct HeldConnection(Rc<Connections>);

impl ProcessConnections {
    pub(crate) fn open(&self) -> u32 {
        self.0.load(Relaxed)
    }
}

impl Core {
    fn new(edge: Arc<Edge>) -> Self {
        let engine = Engine::new(edge.clone());
        Self { connections: Rc::new(Connections(edge.clone())), edge, engine }
    }

    pub(crate) fn edge(&self) -> &Arc<Edge> {
        &self.edge
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    pub(crate) fn drain(&self) -> Drain {
        self.edge.snapshot().drain
    }

    pub(crate) fn is_full(&self) -> bool {
        self.edge.connections.open() >= self.edge.snapshot().max_connections
    }

    pub(crate) fn count_connection(&self) -> HeldConnection {
        self.connections.0.connections.0.fetch_add(1, Relaxed);
        HeldConnection(self.connections.clone())
    }
}

impl Drop for HeldConnection {
    fn drop(&mut self) {
        self.0.0.connections.0.fetch_sub(1, Relaxed);
    }
}

/// A thread that serves connections.
#[derive(Debug)]
pub struct CoreThread {
    sockets: mpsc::UnboundedSender<(BoundSocket, Arc<ListenerRuntime>)>,
    thread: Option<JoinHandle<()>>,
}

impl CoreThread {
    /// Starts the thread of one core.
    pub fn start(edge: Arc<Edge>, index: usize) -> std::io::Result<Self> {
        let (sockets, mut incoming) = mpsc::unbounded_channel::<(BoundSocket, Arc<ListenerRuntime>)>();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name(format!("core-{index}")).spawn(move || {
            let local = LocalSet::new();
            local.block_on(&runtime, async move {
                let core = Rc::new(Core::new(edge));
                while let Some((socket, listener)) = incoming.recv().await {
                    tokio::task::spawn_local(accept::run(socket, listener, core.clone()));
                }
            });
            // Connections that outlived the drain's patience end here.
        })?;
        Ok(Self { sockets, thread: Some(thread) })
    }

    /// Gives this core one more socket to accept from.
    pub fn listen(&self, socket: BoundSocket, listener: Arc<ListenerRuntime>) {
        // The thread ends only after this handle is dropped, so it is there to receive.
        let _ = self.sockets.send((socket, listener));
    }

    /// Ends the thread, and with it every connection that is still open.
    pub fn stop(mut self) {
        let (closed, _) = mpsc::unbounded_channel();
        self.sockets = closed;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
