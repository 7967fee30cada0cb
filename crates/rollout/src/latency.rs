//! How long answers took, in buckets whose width grows with the time.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{fmt, time::Duration};

/// Eight buckets for each doubling, from 128 µs to some four minutes: no bucket is wider than an eighth of its time.
#[derive(Clone, PartialEq, Eq)]
pub struct LatencyHistogram {
    buckets: Box<[u64; LATENCY_BUCKETS]>,
}

/// Sub-buckets of a doubling, as a power of two.
const SUB_BITS: u32 = 3;
const SUB: u64 = 1 << SUB_BITS;
/// 2^7 µs: faster than that nothing behind a socket answers.
const FIRST_OCTAVE: u32 = 7;
const OCTAVES: u32 = 21;
/// One for everything faster, then the doublings; the last bucket also takes everything slower.
pub const LATENCY_BUCKETS: usize = 1 + (OCTAVES as usize) * (SUB as usize);

/// The bucket that an answer after `took` belongs to; always below [`LATENCY_BUCKETS`].
pub fn latency_bucket(took: Duration) -> usize {
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    let Some(octave) = micros.checked_ilog2().filter(|octave| *octave >= FIRST_OCTAVE) else { return 0 };
    let sub = (micros >> (octave - SUB_BITS)) & (SUB - 1);
    let index = 1 + u64::from(octave - FIRST_OCTAVE) * SUB + sub;
    usize::try_from(index).unwrap_or(usize::MAX).min(LATENCY_BUCKETS - 1)
}

/// Where a bucket begins, in microseconds.
fn begins(bucket: usize) -> f64 {
    let Some(index) = bucket.checked_sub(1) else { return 0.0 };
    let index = index as u64;
    let (octave, sub) = (index / SUB, index % SUB);
    ((SUB + sub) as f64) * 2f64.powi((FIRST_OCTAVE - SUB_BITS) as i32) * 2f64.powi(octave as i32)
}

impl Default for LatencyHistogram {
    fn default() -> Self {
        Self { buckets: Box::new([0; LATENCY_BUCKETS]) }
    }
}

impl LatencyHistogram {
    pub fn record(&mut self, took: Duration) {
        self.add(latency_bucket(took), 1);
    }

    /// So many answers in one bucket. A bucket that does not exist takes nothing.
    pub fn add(&mut self, bucket: usize, answers: u64) {
        if let Some(count) = self.buckets.get_mut(bucket) {
            *count = count.saturating_add(answers);
        }
    }

    pub fn merge(&mut self, other: &Self) {
        for (count, more) in self.buckets.iter_mut().zip(other.buckets.iter()) {
            *count = count.saturating_add(*more);
        }
    }

    pub fn total(&self) -> u64 {
        self.buckets.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// The time within which the fraction `quantile` of the answers came; `None` without answers.
    pub fn quantile(&self, quantile: f64) -> Option<Duration> {
        let wanted = quantile.clamp(0.0, 1.0) * self.total() as f64;
        let mut below = 0.0;
        for (bucket, count) in self.buckets.iter().enumerate().filter(|(_, count)| **count > 0) {
            let count = *count as f64;
            if below + count >= wanted {
                let (from, to) = (begins(bucket), begins(bucket + 1));
                return Some(Duration::from_secs_f64((from + (to - from) * (wanted - below) / count) / 1e6));
            }
            below += count;
        }
        None
    }

    /// How many answers took longer than `limit`; within a bucket they are taken as evenly spread.
    pub fn slower_than(&self, limit: Duration) -> f64 {
        let limit = limit.as_secs_f64() * 1e6;
        let slower = self.buckets.iter().enumerate().map(|(bucket, count)| {
            let (from, to) = (begins(bucket), begins(bucket + 1));
            *count as f64 * ((to - limit) / (to - from)).clamp(0.0, 1.0)
        });
        slower.sum()
    }
}

/// The buckets that have something in them.
impl fmt::Debug for LatencyHistogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.buckets.iter().enumerate().filter(|(_, count)| **count > 0)).finish()
    }
}

/// Kept as pairs of bucket and count: most buckets are empty.
impl Serialize for LatencyHistogram {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.buckets.iter().enumerate().filter(|(_, count)| **count > 0))
    }
}

impl<'de> Deserialize<'de> for LatencyHistogram {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut histogram = Self::default();
        for (bucket, count) in Vec::<(usize, u64)>::deserialize(deserializer)? {
            if bucket >= LATENCY_BUCKETS {
                return Err(de::Error::custom(format!("there is no latency bucket {bucket}")));
            }
            histogram.add(bucket, count);
        }
        Ok(histogram)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_is_in_the_bucket_that_begins_before_it() {
        let mut micros = 1u64;
        while micros < 400_000_000 {
            let bucket = latency_bucket(Duration::from_micros(micros));
            assert!(begins(bucket) <= micros as f64, "{micros}");
            assert!(bucket == LATENCY_BUCKETS - 1 || begins(bucket + 1) > micros as f64, "{micros}");
            micros += 1 + micros / 37;
        }
        assert_eq!(latency_bucket(Duration::MAX), LATENCY_BUCKETS - 1);
        assert_eq!(latency_bucket(Duration::ZERO), 0);
    }

    #[test]
    fn quantiles_are_true_to_an_eighth() {
        let mut histogram = LatencyHistogram::default();
        assert_eq!(histogram.quantile(0.99), None);
        for millis in 1..=1_000 {
            histogram.record(Duration::from_millis(millis));
        }
        for (quantile, millis) in [(0.01, 10.0), (0.5, 500.0), (0.99, 990.0)] {
            let told = histogram.quantile(quantile).unwrap().as_secs_f64() * 1e3;
            assert!((told / millis - 1.0).abs() < 0.125, "{quantile}: {told}");
        }
        for (limit, slower) in [(0, 1_000.0), (500, 500.0), (900, 100.0), (5_000, 0.0)] {
            let told = histogram.slower_than(Duration::from_millis(limit));
            assert!((told - slower).abs() < 20.0, "{limit}: {told}");
        }
    }

    #[test]
    fn it_is_kept_sparse_and_comes_back_the_same() {
        let mut histogram = LatencyHistogram::default();
        histogram.record(Duration::from_millis(3));
        histogram.record(Duration::from_secs(3));
        let text = serde_json::to_string(&histogram).unwrap();
        assert!(text.len() < 30, "{text}");
        assert_eq!(serde_json::from_str::<LatencyHistogram>(&text).unwrap(), histogram);
        for bad in ["[[9999,1]]", "[[-1,1]]", "{}", "[[1]]"] {
            assert!(serde_json::from_str::<LatencyHistogram>(bad).is_err(), "{bad}");
        }
    }
}
