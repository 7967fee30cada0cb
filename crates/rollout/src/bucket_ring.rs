//! Counts over time in buckets of one length, with a bounded number of them.

use crate::{Counts, Moment};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The last buckets of time. What is older than the ring is forgotten by being overwritten.
#[derive(Debug, Clone)]
pub(crate) struct BucketRing {
    bucket: Duration,
    slots: Box<[Slot]>,
}

/// The counts of bucket number `number` since the epoch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Slot {
    number: u64,
    counts: Counts,
}

impl Slot {
    pub(crate) fn forget_slow(&mut self) {
        self.counts.slow = 0;
    }
}

impl BucketRing {
    /// Buckets of length `bucket` that together cover `span`.
    pub(crate) fn new(bucket: Duration, span: Duration) -> Self {
        let bucket = bucket.max(Duration::from_millis(1));
        let slots = usize::try_from(span.as_millis().div_ceil(bucket.as_millis())).unwrap_or(1).clamp(1, SLOTS_MAX);
        Self { bucket, slots: vec![Slot::default(); slots].into() }
    }

    pub(crate) fn add(&mut self, counts: Counts, now: Moment) {
        let number = self.number(now);
        self.put(Slot { number, counts });
    }

    /// Everything in the last `window`, the bucket that is still being filled included.
    pub(crate) fn sum(&self, window: Duration, now: Moment) -> Counts {
        let last = self.number(now);
        let buckets = u64::try_from(window.as_millis().div_ceil(self.bucket.as_millis())).unwrap_or(u64::MAX);
        let mut sum = Counts::default();
        for slot in &self.slots {
            // A slot from the near future was written before the clock went back; it happened, so it counts.
            let near = slot.number <= last.saturating_add(self.slots.len() as u64);
            if near && slot.number.saturating_add(buckets) > last {
                sum += slot.counts;
            }
        }
        sum
    }

    /// What is worth keeping on disk.
    pub(crate) fn filled(&self) -> Vec<Slot> {
        self.slots.iter().filter(|slot| !slot.counts.is_empty()).copied().collect()
    }

    pub(crate) fn refill(&mut self, slots: &[Slot], now: Moment) {
        let last = self.number(now);
        // Slots from the future would stay for as long as the clock that wrote them was wrong.
        for slot in slots.iter().filter(|slot| slot.number <= last) {
            self.put(*slot);
        }
    }

    fn put(&mut self, new: Slot) {
        let slots = self.slots.len() as u64;
        let index = new.number % slots;
        let Some(slot) = usize::try_from(index).ok().and_then(|index| self.slots.get_mut(index)) else { return };
        // A slot from further ahead than the ring is long was written by a clock gone wrong, and would never age.
        if slot.number < new.number || slot.number > new.number.saturating_add(slots) {
            *slot = new;
        } else {
            slot.counts += new.counts;
        }
    }

    fn number(&self, now: Moment) -> u64 {
        // The cast holds: a bucket is at most days long.
        now.unix_millis() / (self.bucket.as_millis() as u64)
    }
}

/// 90 days in hours, and one for the bucket that is being filled.
const SLOTS_MAX: usize = 90 * 24 + 1;

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn good(good: u64) -> Counts {
        Counts { good, ..Counts::default() }
    }

    fn minute(minute: u64) -> Moment {
        Moment::from_unix_millis(1_700_000_000_000 / 60_000 * 60_000 + minute * 60_000)
    }

    #[test]
    fn a_window_has_what_happened_in_it_and_nothing_older() {
        let mut ring = BucketRing::new(MINUTE, MINUTE * 10);
        for at in 0..100 {
            ring.add(good(1), minute(at));
        }
        for (minutes, expected) in [(1, 1), (5, 5), (10, 10), (60, 10)] {
            assert_eq!(ring.sum(MINUTE * minutes, minute(99)), good(expected), "{minutes}");
        }
        assert_eq!(ring.sum(MINUTE * 5, minute(102)), good(2));
        assert_eq!(ring.sum(MINUTE * 5, minute(500)), good(0));
    }

    #[test]
    fn a_clock_that_goes_back_loses_nothing() {
        let mut ring = BucketRing::new(MINUTE, MINUTE * 10);
        ring.add(good(1), minute(50));
        ring.add(good(2), minute(40));
        ring.add(good(4), minute(45));
        assert_eq!(ring.sum(MINUTE * 10, minute(45)), good(7));
    }

    #[test]
    fn a_clock_that_leaps_ahead_only_ages_the_past() {
        let mut ring = BucketRing::new(MINUTE, MINUTE * 10);
        ring.add(good(1), minute(0));
        ring.add(good(2), Moment::from_unix_millis(u64::MAX));
        assert_eq!(ring.sum(MINUTE * 10, Moment::from_unix_millis(u64::MAX)), good(2));
    }

    #[test]
    fn what_a_clock_gone_wrong_wrote_does_not_stay() {
        let mut ring = BucketRing::new(MINUTE, MINUTE * 10);
        for at in 0..10 {
            ring.add(good(100), minute(1_000_000 + at));
        }
        ring.add(good(1), minute(0));
        assert_eq!(ring.sum(MINUTE * 10, minute(0)), good(1));
    }

    #[test]
    fn what_was_kept_comes_back_but_not_from_the_future() {
        let mut ring = BucketRing::new(MINUTE, MINUTE * 10);
        ring.add(good(1), minute(3));
        ring.add(good(2), minute(5));
        let mut again = BucketRing::new(MINUTE, MINUTE * 10);
        again.refill(&ring.filled(), minute(4));
        assert_eq!(again.sum(MINUTE * 10, minute(5)), good(1));
    }
}
