//! `balance = { … }`: whom a request goes to. Pure functions over weights, loads and a draw.

use crate::{Endpoint, HashAlgorithm, consistent_hash::HashTable};
use portcullis_config::{Context, Path};
use portcullis_names::{RequestKey, TimeSpan};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How requests are spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// In turn, by weight, evenly mixed.
    RoundRobin,
    /// Of two drawn by weight, the one that works on less for its weight. The default: an endpoint that stops answering then gets
    /// two requests, not its share of all.
    #[default]
    LeastRequest,
    /// Of two drawn by weight, the one with the smaller product of latency and load, for its weight.
    PeakEwma,
    /// By weight.
    Random,
    /// The same key to the same endpoint.
    ConsistentHash,
}

/// How requests are spread over endpoints.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BalanceSpec {
    /// Default least_request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<Policy>,
    /// What `consistent_hash` hashes (default client_ip). A request without it goes anywhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<RequestKey>,
    /// Of `consistent_hash` (default maglev).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub algorithm: Option<HashAlgorithm>,
    /// Of `consistent_hash`: an endpoint with more than so many times its share of the load is passed over (default: no bound).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1.05, max = 100.0))]
    pub load_factor: Option<f64>,
    /// An endpoint that comes (back) gets its full share only after so long (default: at once).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow_start: Option<TimeSpan>,
    /// Whether endpoints in this process's own zone (`site.zone`) come first (default ignore).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub locality: Option<Locality>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Locality {
    #[default]
    Ignore,
    /// The own zone, as far as its endpoints can carry the load.
    Prefer,
}

/// The settings with every value settled.
#[derive(Debug)]
pub struct Balance {
    pub policy: Policy,
    /// `Some` for `consistent_hash`.
    pub key: Option<RequestKey>,
    pub(crate) table: Option<HashTable>,
    algorithm: HashAlgorithm,
    pub(crate) load_factor: Option<f64>,
    pub(crate) slow_start: Option<Duration>,
    pub(crate) locality: Locality,
}

impl BalanceSpec {
    pub(crate) fn compile(&self, endpoints: &[Endpoint], at: &Path, cx: &mut Context) -> Balance {
        let policy = self.policy.unwrap_or_default();
        let hashes = policy == Policy::ConsistentHash;
        for (key, given) in [
            ("key", self.key.is_some()),
            ("algorithm", self.algorithm.is_some()),
            ("load_factor", self.load_factor.is_some()),
        ] {
            if given && !hashes {
                cx.error(&at.key(key), format!("`{key}` has an effect only with policy \"consistent_hash\""));
            }
        }
        if hashes && self.slow_start.is_some() {
            cx.error(&at.key("slow_start"), "`slow_start` would move the keys of a consistent hash");
        }
        let algorithm = self.algorithm.unwrap_or_default();
        Balance {
            policy,
            algorithm,
            key: hashes.then(|| self.key.clone().unwrap_or(portcullis_names::KeyPart::ClientIp.into())),
            table: hashes.then(|| hash_table(algorithm, endpoints)),
            load_factor: self.load_factor,
            slow_start: self.slow_start.map(TimeSpan::get).filter(|time| !time.is_zero()),
            locality: self.locality.unwrap_or_default(),
        }
    }
}

impl Balance {
    /// The same settings for other endpoints.
    pub(crate) fn over(&self, endpoints: &[Endpoint]) -> Self {
        Self {
            policy: self.policy,
            key: self.key.clone(),
            table: self.table.as_ref().map(|_| hash_table(self.algorithm, endpoints)),
            algorithm: self.algorithm,
            load_factor: self.load_factor,
            slow_start: self.slow_start,
            locality: self.locality,
        }
    }
}

fn hash_table(algorithm: HashAlgorithm, endpoints: &[Endpoint]) -> HashTable {
    let names: Vec<_> = endpoints.iter().map(|endpoint| (endpoint.address.to_string(), endpoint.weight)).collect();
    HashTable::new(algorithm, &names)
}

/// A round in which each index comes as often as its weight says, evenly mixed: turn k of weight w is due at (k + ½) / w.
pub(crate) fn smooth_round(weights: &[u64]) -> Vec<u32> {
    let divisor = weights.iter().copied().filter(|weight| *weight > 0).fold(0, gcd).max(1);
    let mut weights: Vec<u64> = weights.iter().map(|weight| weight / divisor).collect();
    let total: u64 = weights.iter().sum();
    // A round longer than this is approximated: half a percent of the smallest share is below what anybody can see.
    if total > ROUND_MAX {
        for weight in weights.iter_mut().filter(|weight| **weight > 0) {
            *weight = (*weight * ROUND_MAX / total).max(1);
        }
    }
    let mut due: Vec<(f64, u32)> = Vec::with_capacity(usize::try_from(total.min(ROUND_MAX)).unwrap_or(0));
    for (weight, index) in weights.iter().zip(0_u32..) {
        due.extend((0..*weight).map(|turn| ((turn as f64 + 0.5) / *weight as f64, index)));
    }
    due.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    due.into_iter().map(|(_, index)| index).collect()
}

const ROUND_MAX: u64 = 10_000;

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The next of a row of draws (SplitMix64: one multiplication more than nothing, and good enough to spread load).
pub(crate) fn next_draw(draw: &mut u64) -> u64 {
    *draw = draw.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *draw;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_is_exact_and_mixed() {
        assert_eq!(smooth_round(&[5, 1, 1]), [0, 0, 0, 1, 2, 0, 0]);
        assert_eq!(smooth_round(&[1, 1]), [0, 1]);
        assert_eq!(smooth_round(&[2, 4]), [1, 0, 1]);
        assert_eq!(smooth_round(&[90, 10]).len(), 10);
        assert_eq!(smooth_round(&[0, 3]), [1]);
        assert!(smooth_round(&[0, 0]).is_empty());
        assert!(smooth_round(&[65_535, 65_534]).len() <= 10_000);
        assert!(smooth_round(&[1_000_000, 1]).contains(&1), "the smallest share is a share");
    }
}
