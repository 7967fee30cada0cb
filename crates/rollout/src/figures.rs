//! What was seen of one version, and the counter that sees it.

use crate::{Counts, LATENCY_BUCKETS, LatencyHistogram, latency_bucket};
use serde::{Deserialize, Serialize};
use std::{
    array,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// Requests of one version: how they went, and how long the good ones took.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Figures {
    pub counts: Counts,
    /// Of good answers only: errors that come quickly must not make a version look fast.
    pub latency: LatencyHistogram,
}

/// How one request went. A client that gave up is none of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Answered below 500.
    Good,
    /// Answered 5xx, or not at all.
    Bad,
}

impl Figures {
    /// Takes in one request; `slow_over` is the objective's limit, if there is one.
    pub fn record(&mut self, outcome: Outcome, took: Duration, slow_over: Option<Duration>) {
        match outcome {
            Outcome::Bad => self.counts.bad = self.counts.bad.saturating_add(1),
            Outcome::Good => {
                let slow = u64::from(slow_over.is_some_and(|limit| took > limit));
                self.counts += Counts { good: 1, bad: 0, slow };
                self.latency.record(took);
            }
        }
    }

    pub fn merge(&mut self, more: &Self) {
        self.counts += more.counts;
        self.latency.merge(&more.latency);
    }

    pub fn total(&self) -> u64 {
        self.counts.total()
    }

    /// The 99th percentile of the good answers.
    pub fn p99(&self) -> Option<Duration> {
        self.latency.quantile(0.99)
    }
}

/// Counts requests of one version from many threads, without a lock. Each tick takes what came since the last one.
#[derive(Debug)]
pub struct VersionMeter {
    slow_over: Option<Duration>,
    good: AtomicU64,
    bad: AtomicU64,
    slow: AtomicU64,
    latency: [AtomicU64; LATENCY_BUCKETS],
}

impl VersionMeter {
    /// `slow_over` is the latency limit of the gate's objective, if it has one.
    pub fn new(slow_over: Option<Duration>) -> Self {
        Self {
            slow_over,
            good: AtomicU64::new(0),
            bad: AtomicU64::new(0),
            slow: AtomicU64::new(0),
            latency: array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    pub fn record(&self, outcome: Outcome, took: Duration) {
        match outcome {
            Outcome::Bad => {
                self.bad.fetch_add(1, Relaxed);
            }
            Outcome::Good => {
                self.good.fetch_add(1, Relaxed);
                if self.slow_over.is_some_and(|limit| took > limit) {
                    self.slow.fetch_add(1, Relaxed);
                }
                if let Some(bucket) = self.latency.get(latency_bucket(took)) {
                    bucket.fetch_add(1, Relaxed);
                }
            }
        }
    }

    /// What came since the last call. A request that is counted meanwhile may be split over two takes, never lost.
    pub fn take(&self) -> Figures {
        // In this order no take has more slow requests than good ones.
        let slow = self.slow.swap(0, Relaxed);
        let counts = Counts { good: self.good.swap(0, Relaxed), bad: self.bad.swap(0, Relaxed), slow };
        let mut latency = LatencyHistogram::default();
        for (bucket, answers) in self.latency.iter().enumerate() {
            latency.add(bucket, answers.swap(0, Relaxed));
        }
        Figures { counts, latency }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_meter_counts_as_the_figures_do_and_empties_when_taken() {
        let limit = Some(Duration::from_millis(300));
        let (meter, mut figures) = (VersionMeter::new(limit), Figures::default());
        for (outcome, millis) in
            [(Outcome::Good, 10), (Outcome::Good, 301), (Outcome::Bad, 5_000), (Outcome::Good, 300)]
        {
            meter.record(outcome, Duration::from_millis(millis));
            figures.record(outcome, Duration::from_millis(millis), limit);
        }
        assert_eq!(figures.counts, Counts { good: 3, bad: 1, slow: 1 });
        assert_eq!(meter.take(), figures);
        assert_eq!(meter.take(), Figures::default());
    }
}
