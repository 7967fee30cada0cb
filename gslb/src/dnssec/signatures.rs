//! Signatures that were made and are kept: a set costs one signature in its time, over reloads as well. Bounded in number, and in
//! what may be made in a second.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash, RandomState},
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64, atomic::Ordering::Relaxed},
};

/// The signatures of one zone, for snapshots that sign with the same keys.
#[derive(Debug, Default)]
pub(super) struct Signatures {
    kept: [Mutex<HashMap<u64, Arc<[Vec<u8>]>>>; SHARDS],
    hasher: RandomState,
    /// Second, and signatures made in it.
    spent: AtomicU64,
}

const SHARDS: usize = 16;
/// Signatures kept in a shard. Of 64 octets each and their frame, all shards hold some 30 MiB at most.
const KEPT_MAX: usize = 8_192;
/// New signatures in a second: at some 15 µs each a third of a core. Floods of absent names must not take more.
const BUDGET: u64 = 20_000;

impl Signatures {
    /// What a set is kept by. A second set with the same key is one in 2^64.
    pub(super) fn key(&self, of: impl Hash) -> u64 {
        self.hasher.hash_one(of)
    }

    pub(super) fn get(&self, key: u64) -> Option<Arc<[Vec<u8>]>> {
        let shard = self.kept.get(key as usize % SHARDS)?;
        shard.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned()
    }

    pub(super) fn keep(&self, key: u64, made: Arc<[Vec<u8>]>) {
        let Some(shard) = self.kept.get(key as usize % SHARDS) else { return };
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        if shard.len() >= KEPT_MAX {
            // All at once: which are of use is found out anew within the budget.
            shard.clear();
        }
        shard.insert(key, made);
    }

    /// One more signature in this second, if there is one left.
    pub(super) fn spend(&self, now: u32) -> bool {
        let second = u64::from(now) << 32;
        let before = self.spent.load(Relaxed);
        if before & !0xffff_ffff != second {
            self.spent.store(second + 1, Relaxed);
            return true;
        }
        self.spent.fetch_add(1, Relaxed) & 0xffff_ffff < BUDGET
    }
}
