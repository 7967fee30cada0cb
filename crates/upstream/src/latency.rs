//! How long an endpoint takes: an average that rises at once and falls slowly (Finagle's peak EWMA).

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// A moving average of answer times. Zero until the first answer.
#[derive(Debug)]
pub(crate) struct PeakEwma {
    began: Instant,
    /// Microseconds as `f32` in the high half, milliseconds since `began` in the low half.
    packed: AtomicU64,
}

/// After so long, a third of an old peak is left.
const DECAY: Duration = Duration::from_secs(10);

impl PeakEwma {
    pub(crate) fn new(now: Instant) -> Self {
        Self { began: now, packed: AtomicU64::new(0) }
    }

    /// Takes in one answer. Two at the same moment may overwrite one another: it is an estimate.
    pub(crate) fn record(&self, micros: u64, now: Instant) {
        let (old, at) = unpack(self.packed.load(Relaxed));
        let stamp = self.stamp(now);
        let latest = micros as f32;
        let next = if latest >= old {
            latest
        } else {
            let keep = self.kept(at, now);
            old * keep + latest * (1.0 - keep)
        };
        self.packed.store(u64::from(next.to_bits()) << 32 | u64::from(stamp), Relaxed);
    }

    /// In microseconds. Falls while nothing is heard: an endpoint that was slow is asked again some time.
    pub(crate) fn get(&self, now: Instant) -> f32 {
        let (average, at) = unpack(self.packed.load(Relaxed));
        average * self.kept(at, now)
    }

    /// The part of an average from `at` that is left.
    fn kept(&self, at: u32, now: Instant) -> f32 {
        let elapsed = Duration::from_millis(u64::from(self.stamp(now).saturating_sub(at)));
        (-elapsed.as_secs_f32() / DECAY.as_secs_f32()).exp()
    }

    fn stamp(&self, now: Instant) -> u32 {
        u32::try_from(now.saturating_duration_since(self.began).as_millis()).unwrap_or(u32::MAX)
    }
}

fn unpack(packed: u64) -> (f32, u32) {
    (f32::from_bits((packed >> 32) as u32), packed as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_rises_at_once_and_falls_slowly() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let average = PeakEwma::new(start);
        average.record(1000, at(0));
        average.record(50_000, at(0));
        assert_eq!(average.get(at(0)), 50_000.0);
        average.record(1000, at(10));
        assert!((18_000.0..20_000.0).contains(&average.get(at(10))), "{}", average.get(at(10)));
        average.record(1000, at(100));
        assert!(average.get(at(100)) < 1100.0);
        assert!(average.get(at(130)) < 100.0);
    }
}
