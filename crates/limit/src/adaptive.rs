//! How many at once, found out from how long they take.
//!
//! No queue and no clock: whoever gets no permit is refused at once, and every call is told the time. The hot path adds to
//! atomics; whoever ends a window moves the limit under a lock that nobody waits for.

use crate::{
    AdaptivePlan, Nanos,
    adaptive_gradient::{Gradient, Turn, Window},
    adaptive_latencies::Latencies,
};
use std::{
    sync::{
        Arc, Mutex, PoisonError, TryLockError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// Lets in as many at a time as are answered without waiting for each other.
#[derive(Debug, Clone)]
pub struct AdaptiveLimit(Arc<Inner>);

/// One place, given back when dropped.
#[derive(Debug)]
#[must_use = "a permit that is dropped is given back"]
pub struct AdaptivePermit {
    inner: Arc<Inner>,
    entered: Instant,
    epoch: u32,
    said: Said,
}

/// How a request ended, for what it tells about load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Answered, well or not: how long it took tells something.
    Answered,
    /// Timed out, reset, or refused for load (429, 503): too many were sent.
    Dropped,
    /// Says nothing: the client went away, or it was answered without the server.
    Unrelated,
}

/// For admin and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdaptiveState {
    pub limit: u32,
    pub taken: u32,
    /// What an answer takes when nothing waits.
    pub unloaded: Option<Duration>,
    /// What it took in the last window.
    pub latency: Option<Duration>,
    /// Requests refused since the limit came to be, over reloads.
    pub refused: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    Nothing,
    Outcome,
}

/// The bounds are those of one configuration; the rest goes on over reloads.
#[derive(Debug)]
struct Inner {
    plan: AdaptivePlan,
    shared: Arc<Shared>,
}

/// Counters publish nothing else: all orderings are relaxed.
#[derive(Debug)]
struct Shared {
    origin: Instant,
    taken: AtomicU32,
    limit: AtomicU32,
    /// Samples of those who entered under another one do not count.
    epoch: AtomicU32,
    peak: AtomicU32,
    dropped: AtomicU32,
    refused: AtomicU64,
    /// Nanoseconds since `origin`.
    look_at: AtomicU64,
    /// Nanoseconds; 0 before the first window ended.
    latency: AtomicU64,
    latencies: Latencies,
    gradient: Mutex<Gradient>,
}

impl AdaptiveLimit {
    /// `draw`: uniform, for the times at which it measures.
    pub fn new(plan: AdaptivePlan, now: Instant, draw: u64) -> Self {
        let gradient = Gradient::new(&plan, draw);
        let shared = Shared {
            origin: now,
            taken: AtomicU32::new(0),
            limit: AtomicU32::new(gradient.allowed(&plan)),
            epoch: AtomicU32::new(0),
            peak: AtomicU32::new(0),
            dropped: AtomicU32::new(0),
            refused: AtomicU64::new(0),
            look_at: AtomicU64::new(gradient.look_at(Nanos(0)).0),
            latency: AtomicU64::new(0),
            latencies: Latencies::new(),
            gradient: Mutex::new(gradient),
        };
        Self(Arc::new(Inner { plan, shared: Arc::new(shared) }))
    }

    /// After a reload: those who are inside count on, and what was learnt holds within the new bounds. Changes nothing for
    /// `previous`, which may go on to serve.
    pub fn carry_over(&mut self, previous: &Self) {
        self.0 = Arc::new(Inner { plan: self.0.plan, shared: previous.0.shared.clone() });
    }

    pub fn enter(&self, now: Instant) -> Option<AdaptivePermit> {
        let shared = &self.0.shared;
        let limit = self.limit();
        let one_more = |taken: u32| (taken < limit).then_some(taken + 1);
        let Ok(taken) = shared.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more) else {
            shared.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        if taken >= shared.peak.load(Ordering::Relaxed) {
            shared.peak.fetch_max(taken + 1, Ordering::Relaxed);
        }
        let epoch = shared.epoch.load(Ordering::Relaxed);
        Some(AdaptivePermit { inner: self.0.clone(), entered: now, epoch, said: Said::Nothing })
    }

    /// How many may be inside now.
    pub fn limit(&self) -> u32 {
        let limit = self.0.shared.limit.load(Ordering::Relaxed);
        // After a reload it may lie outside the bounds until a window ends.
        limit.min(self.0.plan.max.get()).max(self.0.plan.min.get())
    }

    pub fn taken(&self) -> u32 {
        self.0.shared.taken.load(Ordering::Relaxed)
    }

    pub fn plan(&self) -> &AdaptivePlan {
        &self.0.plan
    }

    pub fn state(&self) -> AdaptiveState {
        let shared = &self.0.shared;
        let latency = shared.latency.load(Ordering::Relaxed);
        AdaptiveState {
            limit: self.limit(),
            taken: self.taken(),
            unloaded: shared.gradient.lock().unwrap_or_else(PoisonError::into_inner).unloaded(),
            latency: (latency > 0).then(|| Duration::from_nanos(latency)),
            refused: shared.refused.load(Ordering::Relaxed),
        }
    }
}

impl AdaptivePermit {
    /// Tells how it went, and gives the place back.
    pub fn finish(mut self, now: Instant, outcome: Outcome) {
        self.sample(now, outcome);
    }

    /// Tells how it went while the place is kept: when the head of the answer is there, since how fast a client reads the
    /// body tells nothing about the server. Only the first word counts.
    pub fn sample(&mut self, now: Instant, outcome: Outcome) {
        if self.said == Said::Outcome {
            return;
        }
        self.said = Said::Outcome;
        let shared = &self.inner.shared;
        if self.epoch == shared.epoch.load(Ordering::Relaxed) {
            match outcome {
                Outcome::Answered => shared.latencies.add(now.saturating_duration_since(self.entered)),
                Outcome::Dropped => {
                    shared.dropped.fetch_add(1, Ordering::Relaxed);
                }
                Outcome::Unrelated => {}
            }
        }
        let at = Nanos::from(now.saturating_duration_since(shared.origin));
        if at.0 >= shared.look_at.load(Ordering::Relaxed) {
            shared.look(&self.inner.plan, at);
        }
    }
}

impl Drop for AdaptivePermit {
    fn drop(&mut self) {
        self.inner.shared.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Shared {
    /// Moves the limit if the window is over. One does it; the others go on.
    fn look(&self, plan: &AdaptivePlan, now: Nanos) {
        let mut gradient = match self.gradient.try_lock() {
            Ok(gradient) => gradient,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        // Somebody else may just have done it.
        if now.0 < self.look_at.load(Ordering::Relaxed) {
            return;
        }
        if self.turn(&mut gradient, plan, now) == Turn::Afresh {
            self.epoch.fetch_add(1, Ordering::Relaxed);
            self.latencies.clear();
            self.dropped.store(0, Ordering::Relaxed);
        }
        self.limit.store(gradient.allowed(plan), Ordering::Relaxed);
        self.look_at.store(gradient.look_at(now).0, Ordering::Relaxed);
    }

    fn turn(&self, gradient: &mut Gradient, plan: &AdaptivePlan, now: Nanos) -> Turn {
        let samples = self.latencies.answers().saturating_add(self.dropped.load(Ordering::Relaxed));
        let inside = self.taken.load(Ordering::Relaxed);
        if !gradient.is_over(samples, inside, now) {
            return Turn::Wait;
        }
        let window = Window {
            typical: self.latencies.take(),
            dropped: self.dropped.swap(0, Ordering::Relaxed),
            // Who is still inside counts for the next window too.
            peak: self.peak.swap(inside, Ordering::Relaxed),
        };
        if let Some(typical) = window.typical {
            self.latency.store(Nanos::from(typical.latency).0.max(1), Ordering::Relaxed);
        }
        gradient.close(plan, &window, now)
    }
}
