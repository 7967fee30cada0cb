//! Choosing one of several: pure functions over weights, loads and a number.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How requests are spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    #[default]
    RoundRobin,
    LeastRequest,
}

/// The order of one smooth weighted round (nginx's algorithm): exact over a round, evenly mixed within it.
pub(crate) fn smooth_round(weights: &[u32]) -> Vec<u32> {
    let divisor = weights.iter().copied().filter(|weight| *weight > 0).fold(0, gcd).max(1);
    let mut weights: Vec<i64> = weights.iter().map(|weight| i64::from(weight / divisor)).collect();
    let mut total: i64 = weights.iter().sum();
    // A round longer than this is approximated: half a percent of the smallest share is below what anybody can see.
    if total > ROUND_MAX {
        for weight in &mut weights {
            *weight = (*weight * ROUND_MAX + total - 1) / total;
        }
        total = weights.iter().sum();
    }
    let mut current = vec![0_i64; weights.len()];
    let mut round = Vec::with_capacity(usize::try_from(total).unwrap_or(0));
    for _ in 0..total {
        for (level, weight) in current.iter_mut().zip(&weights) {
            *level += weight;
        }
        // The first of the highest, so that the order is the file's.
        let best = (0..current.len()).rev().max_by_key(|index| current[*index]).unwrap_or(0);
        current[best] -= total;
        round.push(u32::try_from(best).unwrap_or(u32::MAX));
    }
    round
}

const ROUND_MAX: i64 = 10_000;

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Of `(weight, active)` candidates the one with the least load for its weight; equal ones by the draw.
pub(crate) fn least_loaded(candidates: impl Iterator<Item = (usize, u32, u32)>, draw: u64) -> Option<usize> {
    let mut best: Option<(usize, u32, u32)> = None;
    let mut equal = 0_u64;
    for (index, weight, active) in candidates.filter(|(_, weight, _)| *weight > 0) {
        let ordering = best.map(|(_, best_weight, best_active)| {
            // (active + 1) / weight, compared without division.
            let ours = (u64::from(active) + 1) * u64::from(best_weight);
            let theirs = (u64::from(best_active) + 1) * u64::from(weight);
            ours.cmp(&theirs)
        });
        match ordering {
            None | Some(std::cmp::Ordering::Less) => {
                best = Some((index, weight, active));
                equal = 1;
            }
            Some(std::cmp::Ordering::Equal) => {
                equal += 1;
                // Reservoir of one: each of the equal ones is as likely.
                if (draw >> (equal % 48)).is_multiple_of(equal) {
                    best = Some((index, weight, active));
                }
            }
            Some(std::cmp::Ordering::Greater) => {}
        }
    }
    best.map(|(index, _, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_is_exact_and_mixed() {
        assert_eq!(smooth_round(&[5, 1, 1]), [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(smooth_round(&[1, 1]), [0, 1]);
        assert_eq!(smooth_round(&[90, 10]).len(), 10);
        assert_eq!(smooth_round(&[0, 3]), [1]);
        assert!(smooth_round(&[0, 0]).is_empty());
        assert!(smooth_round(&[65_535, 65_534]).len() <= 10_002);
    }

    #[test]
    fn the_least_loaded_for_its_weight_is_taken() {
        let pick =
            |loads: &[(u32, u32)], draw| least_loaded(loads.iter().enumerate().map(|(i, (w, a))| (i, *w, *a)), draw);
        assert_eq!(pick(&[(1, 3), (1, 1), (1, 2)], 0), Some(1));
        assert_eq!(pick(&[(1, 1), (10, 5)], 0), Some(1));
        assert_eq!(pick(&[(0, 0), (1, 9)], 0), Some(1));
        assert_eq!(pick(&[], 0), None);
        let mut seen = [0; 3];
        let mut random = fastrand_like(7);
        for _ in 0..3000 {
            seen[pick(&[(1, 0), (1, 0), (1, 0)], random()).unwrap()] += 1;
        }
        assert!(seen.iter().all(|count| *count > 500), "{seen:?}");
    }

    fn fastrand_like(mut state: u64) -> impl FnMut() -> u64 {
        move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        }
    }
}
