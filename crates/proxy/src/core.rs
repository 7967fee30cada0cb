//! One core: a current-thread runtime with its own engine and upstream pool. Connections never leave the core that
//! accepted them.

use crate::{
    conn::watch_memory,
    engine::Engine,
    listen::{BoundSocket, ListenerRuntime, accept},
    mesh::Carriers,
    snapshot::{Drain, Edge},
};
use std::{
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::Duration,
};
use tokio::{sync::mpsc, task::LocalSet};

/// What the connections of one core share.
pub(crate) struct Core {
    edge: Arc<Edge>,
    engine: Engine,
    carriers: Rc<Carriers>,
}

/// A count of the whole process that goes down by itself.
#[derive(Debug, Default, Clone)]
pub(crate) struct Counter(Arc<AtomicU32>);

/// One of what a [`Counter`] counts; dropping it counts down.
#[derive(Debug)]
pub(crate) struct Counted(Counter);

impl Counter {
    pub(crate) fn get(&self) -> u32 {
        self.0.load(Relaxed)
    }

    fn count(&self) -> Counted {
        self.0.fetch_add(1, Relaxed);
        Counted(self.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Relaxed);
    }
}

impl Core {
    fn new(edge: Arc<Edge>) -> Self {
        let engine = Engine::new(edge.clone());
        let carriers = Rc::new(Carriers::default());
        carriers.tend();
        Self { edge, engine, carriers }
    }

    pub(crate) fn edge(&self) -> &Arc<Edge> {
        &self.edge
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    pub(crate) fn carriers(&self) -> &Carriers {
        &self.carriers
    }

    pub(crate) fn drain(&self) -> Drain {
        self.edge.snapshot().drain
    }

    pub(crate) fn is_full(&self) -> bool {
        self.edge.connections.get() >= self.edge.snapshot().max_connections
    }

    pub(crate) fn is_short_of_memory(&self) -> bool {
        self.edge.shedding.is_short_of_memory()
    }

    pub(crate) fn count_connection(&self) -> Counted {
        self.edge.connections.count()
    }

    /// For as long as a socket is accepted from.
    pub(crate) fn count_accepting(&self) -> Counted {
        self.edge.accepting.count()
    }
}

/// Keeps the next timer of this thread near. The runtime wakes itself, by a system call and an event more, whenever a timer is
/// set that ends before all others: without this one, most deadlines of connections would.
async fn keep_time() {
    /// Deadlines of connections are longer but for few.
    const NEAR: Duration = Duration::from_secs(1);
    loop {
        tokio::time::sleep(NEAR).await;
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
                watch_memory(edge.shedding.clone());
                tokio::task::spawn_local(keep_time());
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
