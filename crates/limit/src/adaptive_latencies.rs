//! How long the requests of one window took: counts by latency, added to without a lock.
//!
//! Not a metric: it holds one window, is emptied by whoever reads it, and knows latencies to 3 %.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

/// Counts by latency, sixteen steps to each doubling.
#[derive(Debug)]
pub(crate) struct Latencies {
    counts: Box<[AtomicU32]>,
}

/// What a window held.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Typical {
    pub(crate) answers: u32,
    /// The mean of the fastest nine tenths. A few slow ones do not move it, as they would a mean, and it does not leap
    /// where there are two kinds of requests, as a median does.
    pub(crate) latency: Duration,
}

/// 2^4 steps to a doubling: each is at most 1/16 wide.
const STEP_BITS: u32 = 4;
/// Latencies count in units of 2^6 ns, so that the finest step begins at a microsecond.
const UNIT_BITS: u32 = 6;
/// From 1 µs to over an hour; what lies outside counts as the nearest.
const DOUBLINGS: u32 = 32;
const BUCKETS: usize = (DOUBLINGS << STEP_BITS) as usize;

impl Latencies {
    pub(crate) fn new() -> Self {
        Self { counts: (0..BUCKETS).map(|_| AtomicU32::new(0)).collect() }
    }

    pub(crate) fn add(&self, latency: Duration) {
        if let Some(count) = self.counts.get(bucket(latency)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn answers(&self) -> u32 {
        self.counts.iter().fold(0, |sum, count| sum.saturating_add(count.load(Ordering::Relaxed)))
    }

    /// Empties it. An answer that comes meanwhile counts here or in the next window.
    pub(crate) fn take(&self) -> Option<Typical> {
        let mut taken = [0_u32; BUCKETS];
        for (taken, count) in taken.iter_mut().zip(&self.counts) {
            if count.load(Ordering::Relaxed) > 0 {
                *taken = count.swap(0, Ordering::Relaxed);
            }
        }
        let answers = taken.iter().fold(0_u32, |sum, count| sum.saturating_add(*count));
        if answers == 0 {
            return None;
        }
        let kept = answers - answers / 10;
        let (mut left, mut sum) = (kept, 0.0);
        for (index, count) in taken.iter().enumerate().filter(|(_, count)| **count > 0) {
            let counted = left.min(*count);
            sum += f64::from(counted) * middle_nanos(index);
            left -= counted;
        }
        Some(Typical { answers, latency: Duration::from_nanos((sum / f64::from(kept)) as u64) })
    }

    pub(crate) fn clear(&self) {
        for count in &self.counts {
            count.store(0, Ordering::Relaxed);
        }
    }
}

fn bucket(latency: Duration) -> usize {
    let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
    let units = (nanos >> UNIT_BITS).max(1 << STEP_BITS);
    let doubling = units.ilog2() - STEP_BITS;
    let step = (units >> doubling) as usize - (1 << STEP_BITS);
    (((doubling as usize) << STEP_BITS) + step).min(BUCKETS - 1)
}

fn middle_nanos(bucket: usize) -> f64 {
    let (doubling, step) = (bucket >> STEP_BITS, bucket & ((1 << STEP_BITS) - 1));
    let units = ((1 << STEP_BITS) + step) as f64 + 0.5;
    units * (1_u64 << doubling) as f64 * f64::from(1_u32 << UNIT_BITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latency_is_known_to_four_percent() {
        for nanos in [1_024, 1_500, 10_000, 999_999, 1_000_000, 12_345_678, 3_000_000_000, 3_600_000_000_000_u64] {
            let latencies = Latencies::new();
            latencies.add(Duration::from_nanos(nanos));
            let typical = latencies.take().unwrap();
            let error = (typical.latency.as_nanos() as f64 / nanos as f64 - 1.0).abs();
            assert!(typical.answers == 1 && error < 0.04, "{nanos} ns read as {:?}", typical.latency);
        }
    }

    #[test]
    fn what_lies_outside_counts_as_the_nearest() {
        for latency in [Duration::ZERO, Duration::from_nanos(1), Duration::MAX] {
            let latencies = Latencies::new();
            latencies.add(latency);
            assert_eq!(latencies.answers(), 1, "{latency:?}");
        }
    }

    #[test]
    fn the_slowest_tenth_does_not_count() {
        let latencies = Latencies::new();
        for _ in 0..90 {
            latencies.add(Duration::from_millis(10));
        }
        for _ in 0..10 {
            latencies.add(Duration::from_secs(30));
        }
        let typical = latencies.take().unwrap();
        assert_eq!(typical.answers, 100);
        assert!(typical.latency < Duration::from_micros(10_400), "{:?}", typical.latency);
        assert_eq!(latencies.take(), None);
    }
}
