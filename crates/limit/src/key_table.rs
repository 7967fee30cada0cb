//! The state of many keys in memory that never grows.
//!
//! A table of fixed size in shards, each a small lock around buckets of eight slots; a key may live in two of them. When both
//! are full the key goes that would soonest be full again: first those that are already (nothing is lost), then those that
//! have spent least. A flood of fresh keys therefore pushes out its own, not the heavy client that is being held back, as
//! least-recently-used would. Keys are kept as hashes under a seed of this process, so that nobody can aim for collisions.
//!
//! Memory for each of `keys`, allocated at once but touched only when used: 20 bytes with one word of state (token bucket),
//! 30 with two (sliding window).

use crate::{key::Key, limit::Verdict, nanos::Nanos};
use std::{
    hash::{BuildHasher, RandomState},
    num::NonZeroU32,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

/// An algorithm whose state for one key is `WORDS` words; all zero is a key that was never seen.
pub trait Meter<const WORDS: usize> {
    fn check(&self, state: &mut [u64; WORDS], now: Nanos) -> Verdict;
    fn standing(&self, state: &[u64; WORDS]) -> Standing;
}

/// How much would be lost with a key. Less goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Standing {
    /// From then on the key is like one that was never seen.
    pub full_at: Nanos,
    pub spent: u64,
}

#[derive(Debug)]
pub struct KeyTable<const WORDS: usize> {
    origin: Instant,
    seed: RandomState,
    shards: Box<[Shard<WORDS>]>,
}

/// Two cache lines apart: processors fetch lines in pairs, and neighbours' locks must not slow each other down.
#[derive(Debug)]
#[repr(align(128))]
struct Shard<const WORDS: usize>(Mutex<Slots<WORDS>>);

#[derive(Debug)]
struct Slots<const WORDS: usize> {
    /// Hashes; zero is an empty slot. Apart from the states, so that a bucket is looked through in one cache line.
    hashes: Box<[u64]>,
    states: Box<[[u64; WORDS]]>,
    used: usize,
    evicted: u64,
}

/// Eight hashes are one cache line.
const BUCKET: usize = 8;
const SHARDS_MAX: usize = 64;
/// Fewer keys than this make no shard of their own: they would fill it unevenly.
const SHARD_KEYS_MIN: usize = 4_096;

impl<const WORDS: usize> KeyTable<WORDS> {
    /// Room for `keys`; `now` becomes the origin of its time.
    pub fn new(keys: NonZeroU32, now: Instant) -> Self {
        let keys = keys.get() as usize;
        let shards = (keys / SHARD_KEYS_MIN).next_power_of_two().min(SHARDS_MAX);
        // A quarter more slots than keys: with two buckets to choose from hardly any key is then pushed out before all are in.
        let buckets = (keys + keys / 4).div_ceil(shards * BUCKET).max(1);
        let shards = (0..shards).map(|_| Shard(Mutex::new(Slots::new(buckets)))).collect();
        Self { origin: now, seed: RandomState::new(), shards }
    }

    pub fn check(&self, meter: &impl Meter<WORDS>, key: &Key, now: Instant) -> Verdict {
        let now = Nanos::from(now.saturating_duration_since(self.origin));
        let hash = self.hash(key);
        let mut slots = self.shard(hash).lock();
        let at = slots.find(hash).unwrap_or_else(|| slots.take(hash, meter, now));
        match slots.states.get_mut(at) {
            Some(state) => meter.check(state, now),
            None => meter.check(&mut [0; WORDS], now),
        }
    }

    /// What `check` would say, without a cost and without a trace.
    pub fn peek(&self, meter: &impl Meter<WORDS>, key: &Key, now: Instant) -> Verdict {
        let now = Nanos::from(now.saturating_duration_since(self.origin));
        let hash = self.hash(key);
        let slots = self.shard(hash).lock();
        let mut state = slots.find(hash).and_then(|at| slots.states.get(at)).copied().unwrap_or([0; WORDS]);
        meter.check(&mut state, now)
    }

    /// Keys held, whether or not they still count.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().used).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Keys that can be held; never more.
    pub fn capacity(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().hashes.len()).sum()
    }

    /// Keys that were pushed out while they still counted. More than a few say that `keys` is too small.
    pub fn evicted(&self) -> u64 {
        self.shards.iter().map(|shard| shard.lock().evicted).sum()
    }

    fn hash(&self, key: &Key) -> u64 {
        // Zero marks an empty slot.
        self.seed.hash_one(key.as_bytes()).max(1)
    }

    fn shard(&self, hash: u64) -> &Shard<WORDS> {
        // The number of shards is a power of two: the top bits are spread evenly.
        let at = (hash >> 58) as usize & (self.shards.len() - 1);
        &self.shards[at]
    }
}

impl<const WORDS: usize> Shard<WORDS> {
    /// A thread that panicked left at worst one state half counted.
    fn lock(&self) -> MutexGuard<'_, Slots<WORDS>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<const WORDS: usize> Slots<WORDS> {
    fn new(buckets: usize) -> Self {
        let slots = buckets * BUCKET;
        // Both come zeroed from the system, which gives the memory when it is first written to.
        Self { hashes: vec![0; slots].into(), states: vec![[0; WORDS]; slots].into(), used: 0, evicted: 0 }
    }

    fn find(&self, hash: u64) -> Option<usize> {
        self.homes(hash).into_iter().find_map(|home| Some(home + self.position(home, hash)?))
    }

    /// A slot for a key that has none, its state zeroed.
    fn take(&mut self, hash: u64, meter: &impl Meter<WORDS>, now: Nanos) -> usize {
        let homes = self.homes(hash);
        // Buckets fill from the front: a first empty slot further to the front is a bucket with more room.
        let empty = homes.iter().filter_map(|home| Some((self.position(*home, 0)?, *home))).min();
        let at = match empty {
            Some((offset, home)) => {
                self.used += 1;
                home + offset
            }
            None => {
                let slots = homes.into_iter().flat_map(|home| home..home + BUCKET);
                let ranked = slots.map(|slot| (meter.standing(&self.states[slot]), slot));
                let (standing, slot) = ranked.min().unwrap_or((Standing { full_at: Nanos(0), spent: 0 }, homes[0]));
                self.evicted += u64::from(standing.full_at > now);
                slot
            }
        };
        self.hashes[at] = hash;
        self.states[at] = [0; WORDS];
        at
    }

    fn position(&self, home: usize, hash: u64) -> Option<usize> {
        self.hashes[home..home + BUCKET].iter().position(|have| *have == hash)
    }

    /// The first slots of the two buckets, from bits that choose neither the shard nor each other's bucket.
    fn homes(&self, hash: u64) -> [usize; 2] {
        let buckets = (self.hashes.len() / BUCKET) as u64;
        let scale = |bits: u64| (((bits & 0xffff_ffff) * buckets) >> 32) as usize * BUCKET;
        [scale(hash), scale(hash >> 26)]
    }
}
