//! One endpoint: what was configured, and what happens to it.

use portcullis_health::{Failure, Health, HealthState};
use portcullis_names::EndpointAddress;
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

/// An endpoint in one snapshot. Its state is shared with every snapshot that has the same address in the same upstream.
#[derive(Debug, Clone)]
pub struct Endpoint {
    pub address: EndpointAddress,
    pub weight: u32,
    pub state: Arc<EndpointState>,
}

/// What is known and counted of an endpoint; survives reloads.
#[derive(Debug)]
pub struct EndpointState {
    /// Read on every pick; the details are behind the lock.
    up: AtomicBool,
    drained: AtomicBool,
    pub(crate) active: AtomicU32,
    pub(crate) requests: AtomicU64,
    pub(crate) failures: AtomicU64,
    health: Mutex<Health>,
}

impl EndpointState {
    pub fn new(now: Instant) -> Self {
        Self {
            up: AtomicBool::new(true),
            drained: AtomicBool::new(false),
            active: AtomicU32::new(0),
            requests: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            health: Mutex::new(Health::new(now)),
        }
    }

    /// Whether health speaks for it.
    pub fn is_up(&self) -> bool {
        self.up.load(Relaxed)
    }

    pub fn is_drained(&self) -> bool {
        self.drained.load(Relaxed)
    }

    /// The operator's word: no new requests, or normal service again.
    pub fn set_drained(&self, drained: bool) {
        self.drained.store(drained, Relaxed);
    }

    /// Takes in a probe's outcome; gives the new state when it changed.
    pub fn observe(
        &self,
        outcome: Result<(), Failure>,
        healthy: u32,
        unhealthy: u32,
        now: Instant,
    ) -> Option<HealthState> {
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = health.observe(outcome, healthy, unhealthy, now);
        self.up.store(health.state() != HealthState::Down, Relaxed);
        changed
    }

    /// Without checks nothing would bring it up again.
    pub(crate) fn forget_health(&self, now: Instant) {
        *self.health.lock().unwrap_or_else(PoisonError::into_inner) = Health::new(now);
        self.up.store(true, Relaxed);
    }

    pub fn health(&self) -> Health {
        self.health.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn note_failure(&self) {
        self.failures.fetch_add(1, Relaxed);
    }

    pub fn active(&self) -> u32 {
        self.active.load(Relaxed)
    }

    pub fn requests(&self) -> u64 {
        self.requests.load(Relaxed)
    }

    pub fn failures(&self) -> u64 {
        self.failures.load(Relaxed)
    }
}
