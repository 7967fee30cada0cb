//! One endpoint: what was configured, and what happens to it.

use crate::{latency::PeakEwma, sticky::StickyToken};
use portcullis_health::{
    Changed, EjectReason, Failure, Health, HealthState, IntervalSums, Outlier, Override, Streaks, TryOutcome,
};
use portcullis_names::EndpointAddress;
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// An endpoint in one snapshot. Its state is shared with every snapshot that has the same address in the same upstream.
#[derive(Debug, Clone)]
pub struct Endpoint {
    pub address: EndpointAddress,
    pub weight: u32,
    /// 0 first; others when too few of those before can be used.
    pub priority: u32,
    pub zone: Option<String>,
    pub(crate) token: StickyToken,
    pub state: Arc<EndpointState>,
}

/// What is known and counted of an endpoint; survives reloads.
#[derive(Debug)]
pub struct EndpointState {
    pub(crate) active: AtomicU32,
    pub(crate) requests: AtomicU64,
    pub(crate) failures: AtomicU64,
    pub(crate) latency: PeakEwma,
    /// Its one request of a trial is under way.
    trial: AtomicBool,
    born: Instant,
    /// Milliseconds from birth to the last failed try, plus one; 0 when a good one came after it.
    failed_at: AtomicU64,
    streaks: Streaks,
    health: Mutex<Health>,
    /// Of the upstream: counts changes of any endpoint's health, so that the balancer sees that its view is old.
    epoch: Arc<AtomicU64>,
}

impl EndpointState {
    pub(crate) fn new(epoch: Arc<AtomicU64>, now: Instant) -> Self {
        Self {
            active: AtomicU32::new(0),
            requests: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            latency: PeakEwma::new(now),
            trial: AtomicBool::new(false),
            born: now,
            failed_at: AtomicU64::new(0),
            streaks: Streaks::default(),
            health: Mutex::new(Health::new(now)),
            epoch,
        }
    }

    pub fn health(&self) -> Health {
        self.health.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn state(&self, now: Instant) -> HealthState {
        self.health.lock().unwrap_or_else(PoisonError::into_inner).state(now)
    }

    /// The operator's word, or `None` to take it back.
    pub fn force(&self, forced: Option<Override>, now: Instant) {
        self.change(now, |health| health.force(forced, now));
    }

    /// Takes in a probe's outcome; gives the new state when it changed.
    pub fn observe(
        &self,
        outcome: Result<(), Failure>,
        healthy: u32,
        unhealthy: u32,
        now: Instant,
    ) -> Option<HealthState> {
        self.change(now, |health| health.observe(outcome, healthy, unhealthy, now))
    }

    /// Without checks nothing would bring it up again.
    pub(crate) fn forget_probes(&self, now: Instant) {
        self.change(now, |health| {
            health.forget_probes();
            Changed::Yes
        });
    }

    pub(crate) fn eject(&self, reason: EjectReason, rules: &Outlier, now: Instant) -> Option<HealthState> {
        self.change(now, |health| health.eject(reason, rules.eject, rules.eject_longest, now))
    }

    pub(crate) fn readmit(&self, now: Instant) -> Option<HealthState> {
        self.change(now, |health| health.readmit(now))
    }

    pub(crate) fn record(&self, outcome: TryOutcome, rules: &Outlier, now: Instant) -> Option<EjectReason> {
        if let TryOutcome::Answered { micros, .. } = outcome {
            self.latency.record(micros, now);
        }
        if !outcome.is_good() {
            self.failures.fetch_add(1, Relaxed);
            self.failed_at.store(self.age_ms(now) + 1, Relaxed);
        } else if self.failed_at.load(Relaxed) != 0 {
            self.failed_at.store(0, Relaxed);
        }
        self.streaks.record(outcome, rules)
    }

    /// Ends an interval of outlier detection.
    pub(crate) fn take_interval(&self) -> IntervalSums {
        let sums = self.streaks.take_interval();
        if sums.bad == 0 {
            self.health.lock().unwrap_or_else(PoisonError::into_inner).quiet();
        }
        sums
    }

    /// Its last try failed, and that is not longer ago than this.
    pub(crate) fn failed_within(&self, time: Duration, now: Instant) -> bool {
        match self.failed_at.load(Relaxed) {
            0 => false,
            at => self.age_ms(now).saturating_sub(at - 1) < u64::try_from(time.as_millis()).unwrap_or(u64::MAX),
        }
    }

    fn age_ms(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.born).as_millis()).unwrap_or(u64::MAX >> 1)
    }

    /// True for the one caller that may send the trial's request.
    pub(crate) fn begin_trial(&self) -> bool {
        !self.trial.swap(true, Relaxed)
    }

    pub(crate) fn end_trial(&self) {
        self.trial.store(false, Relaxed);
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

    fn change(&self, now: Instant, act: impl FnOnce(&mut Health) -> Changed) -> Option<HealthState> {
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        match act(&mut health) {
            Changed::No => None,
            Changed::Yes => {
                self.epoch.fetch_add(1, Relaxed);
                Some(health.state(now))
            }
        }
    }
}
