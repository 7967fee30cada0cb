//! What was found true is not proved again: a bounded cache of verified credentials.
//!
//! Holds no credential, only keyed hashes of them. Refused credentials never enter a cache of tokens, so that nobody fills
//! it with inventions.

use quick_cache::{Weighter, sync::Cache};
use sha2::{Digest, Sha256};
use std::{
    hash::{BuildHasher, Hasher, RandomState},
    sync::atomic::{AtomicU64, Ordering},
};

/// Sharded; safe to use from all threads; forgets the least useful entries when full.
pub(crate) struct VerifiedCache<V> {
    /// Of this cache alone: whoever reads the memory cannot try passwords against it, nor anybody aim at a shard.
    salt: [u8; 32],
    cache: Cache<Fingerprint, Entry<V>, ByBytes, FirstBytes>,
    /// What was put in under an older generation is not there any more.
    generation: AtomicU64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fingerprint([u8; 32]);

/// Which knowledge a verification used. Taken before verifying, so that a result of old keys is never kept under new ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Generation(u64);

impl Fingerprint {
    /// Its first octets, as a draw that nobody outside can foresee.
    pub(crate) fn number(self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }
}

#[derive(Clone)]
struct Entry<V> {
    value: V,
    /// Seconds since 1970; from then on the entry is not used.
    until: i64,
    generation: u64,
    weight: u64,
}

/// Counted on top of a credential's own length.
const ENTRY_BYTES: u64 = 256;
const ENTRIES_ESTIMATED: usize = 4096;

impl<V: Clone> VerifiedCache<V> {
    /// `capacity` bounds the summed lengths of the credentials, which bound what they say.
    pub(crate) fn new(capacity_bytes: u64) -> Self {
        let random = RandomState::new();
        let mut salt = [0; 32];
        for (at, chunk) in salt.chunks_exact_mut(8).enumerate() {
            chunk.copy_from_slice(&random.hash_one(at).to_ne_bytes());
        }
        let lifecycle = quick_cache::sync::DefaultLifecycle::default();
        let cache = Cache::with(ENTRIES_ESTIMATED, capacity_bytes, ByBytes, FirstBytes, lifecycle);
        Self { salt, cache, generation: AtomicU64::new(0) }
    }

    pub(crate) fn fingerprint(&self, credential: &[&[u8]]) -> Fingerprint {
        let mut hash = Sha256::new_with_prefix(self.salt);
        for part in credential {
            // Lengths keep ("ab", "c") apart from ("a", "bc").
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        Fingerprint(hash.finalize().into())
    }

    pub(crate) fn generation(&self) -> Generation {
        Generation(self.generation.load(Ordering::Acquire))
    }

    pub(crate) fn get(&self, fingerprint: Fingerprint, now: i64) -> Option<V> {
        let Entry { value, until, generation, .. } = self.cache.get(&fingerprint)?;
        if generation == self.generation().0 && now < until {
            return Some(value);
        }
        self.cache.remove(&fingerprint);
        None
    }

    pub(crate) fn put(&self, fingerprint: Fingerprint, value: V, until: i64, generation: Generation, length: usize) {
        let weight = ENTRY_BYTES.saturating_add(length as u64);
        self.cache.insert(fingerprint, Entry { value, until, generation: generation.0, weight });
    }

    /// Forgets everything, also what is being verified at this moment.
    pub(crate) fn flush(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.cache.clear();
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.cache.len()
    }
}

impl<V> std::fmt::Debug for VerifiedCache<V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VerifiedCache").field("entries", &"…").finish()
    }
}

#[derive(Clone)]
struct ByBytes;

impl<V> Weighter<Fingerprint, Entry<V>> for ByBytes {
    fn weight(&self, _: &Fingerprint, entry: &Entry<V>) -> u64 {
        entry.weight
    }
}

/// A fingerprint is random already; hashing it once more would tell nothing.
#[derive(Clone, Default)]
struct FirstBytes;

#[derive(Default)]
struct FirstBytesHasher(u64);

impl BuildHasher for FirstBytes {
    type Hasher = FirstBytesHasher;
    fn build_hasher(&self) -> FirstBytesHasher {
        FirstBytesHasher::default()
    }
}

impl std::hash::Hash for Fingerprint {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.number());
    }
}

impl Hasher for FirstBytesHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }
    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(capacity: u64) -> VerifiedCache<u32> {
        VerifiedCache::new(capacity)
    }

    #[test]
    fn an_entry_lasts_until_its_time_or_a_flush() {
        let cache = cache(1 << 20);
        let (a, b) = (cache.fingerprint(&[b"a"]), cache.fingerprint(&[b"b"]));
        cache.put(a, 1, 100, cache.generation(), 10);
        for (now, found) in [(0, Some(1)), (99, Some(1)), (100, None), (0, None)] {
            assert_eq!(cache.get(a, now), found, "{now}");
        }
        assert_eq!(cache.get(b, 0), None);
        let before = cache.generation();
        cache.put(b, 2, 100, before, 10);
        cache.flush();
        assert_eq!(cache.get(b, 0), None);
        // Verified with what was known before the flush.
        cache.put(b, 2, 100, before, 10);
        assert_eq!(cache.get(b, 0), None);
        cache.put(b, 3, 100, cache.generation(), 10);
        assert_eq!(cache.get(b, 0), Some(3));
    }

    #[test]
    fn a_flood_of_credentials_stays_within_the_bound() {
        let cache = cache(100 * 1024);
        for at in 0..50_000_u32 {
            let fingerprint = cache.fingerprint(&[&at.to_le_bytes()]);
            cache.put(fingerprint, at, 100, cache.generation(), 768);
        }
        assert!((10..=110).contains(&cache.len()), "{}", cache.len());
    }

    #[test]
    fn fingerprints_differ_by_part_and_by_cache() {
        let (one, two) = (cache(1024), cache(1024));
        assert!(one.fingerprint(&[b"ab", b"c"]) != one.fingerprint(&[b"a", b"bc"]));
        assert!(one.fingerprint(&[b"ab"]) == one.fingerprint(&[b"ab"]));
        assert!(one.fingerprint(&[b"ab"]) != two.fingerprint(&[b"ab"]));
    }
}
