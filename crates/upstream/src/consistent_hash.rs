//! Consistent hashing: the same key to the same endpoint, and few keys moved when endpoints come, go or change weight.
//!
//! Hashes are unseeded, so that all gateways agree.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// How keys are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HashAlgorithm {
    /// Google's Maglev table: even, one memory access a lookup.
    #[default]
    Maglev,
    /// Ketama's ring: fewer keys move when an endpoint goes.
    Ring,
}

/// A table over all endpoints of an upstream, whether usable or not, so that one that fails moves only its own keys.
#[derive(Debug)]
pub(crate) enum HashTable {
    Maglev(Vec<u32>),
    /// Sorted by point.
    Ring(Vec<(u64, u32)>),
}

/// A prime, as Envoy's default; with 650 endpoints each still has 100 places, which is an error of 1 % (Maglev paper, §5.3).
const MAGLEV_SIZE: usize = 65_537;
/// Points of the ring for the lightest endpoint.
const RING_POINTS: f64 = 160.0;
/// All points of a ring: 16 octets each.
const RING_MAX: f64 = 1_000_000.0;
/// No endpoint's place or name can be told from this seed.
const SECOND_SEED: u64 = 0x9e37_79b9_7f4a_7c15;

impl HashTable {
    /// `endpoints`: name and weight of each, by index. Those of weight zero get no keys.
    pub(crate) fn new(algorithm: HashAlgorithm, endpoints: &[(String, u32)]) -> Self {
        match algorithm {
            HashAlgorithm::Maglev => Self::Maglev(maglev(endpoints)),
            HashAlgorithm::Ring => Self::Ring(ring(endpoints)),
        }
    }

    /// Endpoints for a key: its own, then those that take over when that one cannot.
    pub(crate) fn candidates(&self, hash: u64) -> impl Iterator<Item = usize> + '_ {
        let start = match self {
            Self::Maglev(_) => 0,
            Self::Ring(points) => points.partition_point(|(point, _)| *point < hash),
        };
        (0..CANDIDATES).filter_map(move |attempt| match self {
            Self::Maglev(table) => {
                let hash = if attempt == 0 { hash } else { xxh3_64_with_seed(&hash.to_le_bytes(), attempt as u64) };
                let place = usize::try_from(hash % (table.len().max(1) as u64)).ok()?;
                table.get(place).map(|index| *index as usize)
            }
            Self::Ring(points) => {
                let place = (start + attempt) % points.len().max(1);
                points.get(place).map(|(_, index)| *index as usize)
            }
        })
    }
}

/// How many places are looked at for one that can be used.
const CANDIDATES: usize = 64;

/// The hash of a key's octets.
pub fn hash_key(key: &[u8]) -> u64 {
    xxh3_64(key)
}

/// Maglev paper, §3.4, with turns by weight as in Envoy.
fn maglev(endpoints: &[(String, u32)]) -> Vec<u32> {
    struct Entry {
        index: u32,
        offset: u64,
        skip: u64,
        next: u64,
        weight: f64,
        target: f64,
    }
    let heaviest = endpoints.iter().map(|(_, weight)| *weight).max().unwrap_or(0);
    if heaviest == 0 {
        return Vec::new();
    }
    let size = MAGLEV_SIZE as u64;
    let mut entries: Vec<Entry> = endpoints
        .iter()
        .zip(0_u32..)
        .filter(|((_, weight), _)| *weight > 0)
        .map(|((name, weight), index)| Entry {
            index,
            offset: xxh3_64(name.as_bytes()) % size,
            skip: xxh3_64_with_seed(name.as_bytes(), SECOND_SEED) % (size - 1) + 1,
            next: 0,
            weight: f64::from(*weight) / f64::from(heaviest),
            target: 0.0,
        })
        .collect();
    // By name, not by place in the file: the order there must not matter.
    entries.sort_by(|a, b| endpoints.get(a.index as usize).cmp(&endpoints.get(b.index as usize)));
    let mut table = vec![u32::MAX; MAGLEV_SIZE];
    let (mut filled, mut turn) = (0, 0.0);
    loop {
        turn += 1.0;
        for entry in &mut entries {
            if turn * entry.weight < entry.target {
                continue;
            }
            entry.target += 1.0;
            loop {
                let place = (entry.offset + entry.skip * entry.next) % size;
                entry.next += 1;
                if let Some(slot) = table.get_mut(place as usize).filter(|slot| **slot == u32::MAX) {
                    *slot = entry.index;
                    break;
                }
            }
            filled += 1;
            if filled == MAGLEV_SIZE {
                return table;
            }
        }
    }
}

fn ring(endpoints: &[(String, u32)]) -> Vec<(u64, u32)> {
    let weights = || endpoints.iter().map(|(_, weight)| f64::from(*weight)).filter(|weight| *weight > 0.0);
    // Counted from the lightest one: another endpoint's weight then leaves everybody else's points where they are.
    let Some(lightest) = weights().min_by(f64::total_cmp) else { return Vec::new() };
    let scale = (RING_MAX / (weights().sum::<f64>() / lightest * RING_POINTS)).min(1.0);
    let mut points = Vec::new();
    for ((name, weight), index) in endpoints.iter().zip(0_u32..).filter(|((_, weight), _)| *weight > 0) {
        let share = (f64::from(*weight) / lightest * RING_POINTS * scale).round().max(1.0) as u64;
        points.extend((0..share).map(|point| (xxh3_64_with_seed(name.as_bytes(), point), index)));
    }
    points.sort_unstable();
    points
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(weights: &[u32]) -> Vec<(String, u32)> {
        weights.iter().enumerate().map(|(index, weight)| (format!("10.0.0.{index}:80"), *weight)).collect()
    }

    fn owners(table: &HashTable, keys: u64) -> Vec<usize> {
        (0..keys).map(|key| table.candidates(hash_key(&key.to_le_bytes())).next().unwrap()).collect()
    }

    const BOTH: [HashAlgorithm; 2] = [HashAlgorithm::Maglev, HashAlgorithm::Ring];

    #[test]
    fn keys_are_spread_by_weight() {
        for algorithm in BOTH {
            let table = HashTable::new(algorithm, &endpoints(&[1, 2, 0, 1]));
            let mut shares = [0; 4];
            for owner in owners(&table, 40_000) {
                shares[owner] += 1;
            }
            for (share, expected) in shares.iter().zip([10_000_i32, 20_000, 0, 10_000]) {
                assert!((share - expected).abs() <= expected * 3 / 20, "{algorithm:?} {shares:?}");
            }
        }
    }

    #[test]
    fn an_endpoint_that_goes_or_a_weight_that_changes_moves_few_keys() {
        for (algorithm, gone, heavier) in [(HashAlgorithm::Maglev, 0.14, 0.14), (HashAlgorithm::Ring, 0.14, 0.12)] {
            let before = owners(&HashTable::new(algorithm, &endpoints(&[1; 10])), 20_000);
            let moved = |after: &HashTable| {
                let after = owners(after, 20_000);
                before.iter().zip(&after).filter(|(a, b)| a != b).count() as f64 / 20_000.0
            };
            let mut fewer = vec![1; 10];
            fewer[9] = 0;
            // A tenth of the keys must move; Maglev moves a few more.
            let share = moved(&HashTable::new(algorithm, &endpoints(&fewer)));
            assert!((0.08..gone).contains(&share), "{algorithm:?} {share}");
            fewer[9] = 2;
            let share = moved(&HashTable::new(algorithm, &endpoints(&fewer)));
            assert!((0.06..heavier).contains(&share), "{algorithm:?} {share}");
        }
    }

    #[test]
    fn the_order_in_the_file_does_not_matter() {
        let forth = endpoints(&[1, 1, 1, 1]);
        let back: Vec<_> = forth.iter().rev().cloned().collect();
        for algorithm in BOTH {
            let (a, b) = (HashTable::new(algorithm, &forth), HashTable::new(algorithm, &back));
            let same = owners(&a, 5000).iter().zip(owners(&b, 5000)).filter(|(a, b)| **a == 3 - b).count();
            assert!(same >= 4995, "{algorithm:?} {same}");
        }
    }

    #[test]
    fn a_key_has_others_to_go_to_and_an_empty_table_has_none() {
        for algorithm in BOTH {
            let table = HashTable::new(algorithm, &endpoints(&[1; 5]));
            let seen: std::collections::HashSet<_> = table.candidates(7).collect();
            assert_eq!(seen.len(), 5, "{algorithm:?}");
            assert_eq!(HashTable::new(algorithm, &endpoints(&[0, 0])).candidates(7).count(), 0);
        }
    }
}
