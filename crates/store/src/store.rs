//! The handle through which requests ask a store.

use crate::{
    OnFail, StoreConfig, StoreError,
    driver::{self, Ask},
    script::Question,
};
use portcullis_limit::{Key, Nanos, RateLimit, Verdict};
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
    time::timeout,
};

/// One client of a store: one connection, whose requests are batched. Clones share it; it ends with the last of them. Start
/// one in each worker's runtime, so that no batch waits for another core. Questions under way at the same time may be counted in
/// any order.
#[derive(Debug, Clone)]
pub struct Store {
    config: Arc<StoreConfig>,
    shared: Arc<Shared>,
    queue: mpsc::Sender<Ask>,
}

/// Since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StoreCounts {
    /// Questions that were sent.
    pub asked: u64,
    /// Batches that they were sent in.
    pub batches: u64,
    /// Batches, and attempts to connect, that failed.
    pub failures: u64,
}

/// What the driver tells the handles.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    pub(crate) open: AtomicBool,
    pub(crate) asked: AtomicU64,
    pub(crate) batches: AtomicU64,
    pub(crate) failures: AtomicU64,
}

/// Questions that wait for a place in a batch. What comes beyond is not going to be answered in time.
const QUEUE_MAX: usize = 1_024;

impl Store {
    /// Connects in the background, in this runtime.
    pub fn start(config: StoreConfig, runtime: &Handle) -> Self {
        let (queue, asks) = mpsc::channel(QUEUE_MAX);
        let (config, shared) = (Arc::new(config), Arc::new(Shared::default()));
        runtime.spawn(driver::run(config.clone(), shared.clone(), asks));
        Self { config, shared, queue }
    }

    /// Counts one request by the store's own clock. While the store is known to be dead this costs one atomic read.
    pub async fn check(&self, limit: &RateLimit, key: &Key) -> Result<Verdict, StoreError> {
        self.ask(limit, key, None).await
    }

    /// As of a given time since 1970, to replay recorded requests. Never mix it with `check` on one limit.
    pub async fn check_at(&self, limit: &RateLimit, key: &Key, now: Nanos) -> Result<Verdict, StoreError> {
        self.ask(limit, key, Some(now)).await
    }

    /// What becomes of a request that got no verdict.
    pub fn on_fail(&self) -> OnFail {
        self.config.on_fail
    }

    /// An equal configuration can go on with this client after a reload.
    pub fn config(&self) -> &StoreConfig {
        &self.config
    }

    /// Whether the breaker is open: nobody is asking the store.
    pub fn is_open(&self) -> bool {
        self.shared.open.load(Ordering::Relaxed)
    }

    pub fn counts(&self) -> StoreCounts {
        StoreCounts {
            asked: self.shared.asked.load(Ordering::Relaxed),
            batches: self.shared.batches.load(Ordering::Relaxed),
            failures: self.shared.failures.load(Ordering::Relaxed),
        }
    }

    async fn ask(&self, limit: &RateLimit, key: &Key, now: Option<Nanos>) -> Result<Verdict, StoreError> {
        if self.is_open() {
            return Err(StoreError::Open);
        }
        let (answer, answered) = oneshot::channel();
        let ask = Ask { question: Question::new(limit, key, now), answer };
        self.queue.try_send(ask).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => StoreError::Overloaded,
            mpsc::error::TrySendError::Closed(_) => StoreError::Lost,
        })?;
        match timeout(self.config.timeout, answered).await {
            Ok(Ok(verdict)) => verdict,
            // The driver let go of it with the connection.
            Ok(Err(_)) => Err(StoreError::Lost),
            Err(_) => Err(StoreError::Timeout),
        }
    }
}
