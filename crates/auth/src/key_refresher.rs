//! Keeps an identity's keys fresh: one task per identity is the only one that fetches, so there is never more than one
//! fetch on its way.

use crate::{
    Identity, KeyClient, KeySource,
    refresh_plan::{Ask, RefreshPlan},
};
use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};
use tokio::sync::{Notify, watch};

/// What passes the time: the system, or a test.
pub trait RefreshClock: Send + Sync {
    /// Seconds since 1970.
    fn now(&self) -> i64;
    fn sleep(&self, span: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

/// The system's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl RefreshClock for SystemClock {
    fn now(&self) -> i64 {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    }
    fn sleep(&self, span: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(tokio::time::sleep(span))
    }
}

/// The fetching side; [`KeyRefresher::run`] is a task.
pub struct KeyRefresher {
    shared: Arc<Shared>,
    client: KeyClient,
    status: watch::Sender<KeyStatus>,
}

/// The asking side, as requests use it.
#[derive(Clone)]
pub struct KeyHandle {
    shared: Arc<Shared>,
    status: watch::Receiver<KeyStatus>,
}

/// What an operator sees.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyStatus {
    /// Fetches that ended, well or not.
    pub fetches: u64,
    /// Seconds since 1970.
    pub last_success: Option<i64>,
    /// Of the last fetch.
    pub error: Option<String>,
}

struct Shared {
    identity: Arc<Identity>,
    clock: Arc<dyn RefreshClock>,
    plan: Mutex<RefreshPlan>,
    asked: Notify,
}

impl KeyRefresher {
    /// `None` for an identity whose keys come from a file.
    pub fn new(identity: Arc<Identity>, client: KeyClient, clock: Arc<dyn RefreshClock>) -> Option<(Self, KeyHandle)> {
        let KeySource::Fetched { ttl, .. } = identity.source() else { return None };
        let plan = Mutex::new(RefreshPlan::new(*ttl, clock.now()));
        let shared = Arc::new(Shared { identity, clock, plan, asked: Notify::new() });
        let (status, seen) = watch::channel(KeyStatus::default());
        let handle = KeyHandle { shared: shared.clone(), status: seen };
        Some((Self { shared, client, status }, handle))
    }

    /// Fetches whenever it is time, until every handle is gone. `draw` gives numbers in 0..1.
    pub async fn run(self, mut draw: impl FnMut() -> f64 + Send) {
        while !self.status.is_closed() {
            self.wait().await;
            if self.status.is_closed() {
                return;
            }
            self.fetch(draw()).await;
        }
    }

    async fn wait(&self) {
        loop {
            let now = self.shared.clock.now();
            let seconds = self.shared.plan(|plan| plan.pause(now));
            if seconds == 0 {
                return;
            }
            tokio::select! {
                () = self.shared.clock.sleep(Duration::from_secs(seconds)) => {}
                () = self.shared.asked.notified() => {}
                () = self.status.closed() => return,
            }
        }
    }

    async fn fetch(&self, draw: f64) {
        let shared = &self.shared;
        shared.plan(|plan| plan.began(shared.clock.now()));
        let outcome = self.client.fetch(&shared.identity).await;
        let now = shared.clock.now();
        let error = match outcome {
            Ok(keys) => {
                shared.identity.set_keys(keys, now);
                shared.plan(|plan| plan.succeeded(now, draw));
                None
            }
            Err(error) => {
                shared.plan(|plan| plan.failed(now, draw));
                Some(error.to_string())
            }
        };
        self.status.send_modify(|status| {
            status.fetches = status.fetches.saturating_add(1);
            if error.is_none() {
                status.last_success = Some(now);
            }
            status.error = error;
        });
    }
}

impl KeyHandle {
    pub fn identity(&self) -> &Arc<Identity> {
        &self.shared.identity
    }

    pub fn status(&self) -> KeyStatus {
        self.status.borrow().clone()
    }

    /// Waits until a fetch has ended that everybody who waits shares; not at all if there was one within 30 s. In either case
    /// the token is to be verified once more: keys may have come between its first verification and this call.
    pub async fn refreshed(&self) {
        let mut status = self.status.clone();
        status.mark_unchanged();
        let now = self.shared.clock.now();
        match self.shared.plan(|plan| plan.ask(now)) {
            Ask::Declined => {}
            Ask::Wait => {
                self.shared.asked.notify_one();
                // An error means that the fetching task is gone, so nothing more will come.
                let _ = status.changed().await;
            }
        }
    }
}

impl Shared {
    fn plan<T>(&self, step: impl FnOnce(&mut RefreshPlan) -> T) -> T {
        // Each step leaves the plan whole, so one that panicked left it whole too.
        step(&mut self.plan.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl std::fmt::Debug for KeyHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyHandle").field("identity", self.identity().name()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
