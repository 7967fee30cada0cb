//! What the weights of SRV records become when each target has its own number of addresses.

/// One record: its weight, and how many addresses its target has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target {
    pub(crate) weight: u16,
    pub(crate) addresses: usize,
}

/// Finest subdivision: exact for targets with up to six addresses.
const FINE: u32 = 60;
/// The largest weight of an endpoint.
const WEIGHT_MAX: u32 = 65_535;

/// The weight of each address of each target. A target's share does not grow with the number of its addresses, and a weight
/// of 0 is "a very small chance" (RFC 2782, Weight) while any is larger; all zero means alike.
pub(crate) fn shares(targets: &[Target]) -> Vec<u32> {
    let reachable = || targets.iter().filter(|target| target.addresses > 0);
    let largest = reachable().map(|target| u32::from(target.weight)).max().unwrap_or(0);
    let mut counts = reachable().map(|target| target.addresses);
    let first = counts.next().unwrap_or(1);
    let even = counts.all(|count| count == first);
    let zeros = largest > 0 && reachable().any(|target| target.weight == 0);
    let share = |target: &Target| {
        let weight = if largest == 0 { 1 } else { u32::from(target.weight) };
        if even && !zeros {
            return weight;
        }
        let scale = FINE.min(WEIGHT_MAX / largest.max(1)).max(1);
        let count = u32::try_from(target.addresses.max(1)).unwrap_or(u32::MAX);
        (weight.saturating_mul(scale) / count).max(1)
    };
    targets.iter().map(share).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_stay_as_written_where_they_can_and_are_divided_where_they_must() {
        for (targets, expected) in [
            (&[(10, 1), (30, 1)][..], &[10, 30][..]),
            (&[(10, 2), (30, 2)], &[10, 30]),
            (&[(10, 2), (10, 1)], &[300, 600]),
            (&[(0, 1), (0, 1)], &[1, 1]),
            (&[(0, 2), (0, 1)], &[30, 60]),
            (&[(0, 1), (10, 1)], &[1, 600]),
            (&[(65_535, 1), (65_535, 3)], &[65_535, 21_845]),
            (&[(5, 0), (10, 1)], &[5, 10]),
            (&[], &[]),
        ] {
            let given: Vec<_> = targets.iter().map(|&(weight, addresses)| Target { weight, addresses }).collect();
            assert_eq!(shares(&given), expected, "{targets:?}");
        }
    }
}
