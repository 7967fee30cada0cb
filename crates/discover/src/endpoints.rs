//! A set of endpoints that was found.

use portcullis_names::EndpointAddress;
use std::sync::Arc;

/// One endpoint, as the source tells it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    /// 0 is asked first.
    pub priority: u32,
    pub address: EndpointAddress,
    /// Share of requests; 0 takes none.
    pub weight: u32,
    pub zone: Option<String>,
    /// The name that led to the address, for SNI and Host; a file gives none.
    pub host: Option<Arc<str>>,
}

/// Sorted by priority and address, no address twice, no more than [`ENDPOINTS_MAX`]: equal sets are equal values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Endpoints {
    found: Arc<[Found]>,
    left_out: usize,
}

/// Endpoints of one source. An answer with more is a mistake or an attack; each costs probes, connections and metrics.
pub const ENDPOINTS_MAX: usize = 1_000;

impl Endpoints {
    /// Of an address that is found twice, the lower priority number and then the larger weight counts.
    pub fn new(mut found: Vec<Found>) -> Self {
        found.sort_by(|a, b| (&a.address, a.priority, b.weight).cmp(&(&b.address, b.priority, a.weight)));
        found.dedup_by(|later, earlier| later.address == earlier.address);
        found.sort();
        let left_out = found.len().saturating_sub(ENDPOINTS_MAX);
        found.truncate(ENDPOINTS_MAX);
        Self { found: found.into(), left_out }
    }

    pub fn as_slice(&self) -> &[Found] {
        &self.found
    }

    pub fn iter(&self) -> std::slice::Iter<'_, Found> {
        self.found.iter()
    }

    pub fn len(&self) -> usize {
        self.found.len()
    }

    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// How many were found beyond [`ENDPOINTS_MAX`].
    pub fn left_out(&self) -> usize {
        self.left_out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(address: &str, priority: u32, weight: u32) -> Found {
        Found { address: address.parse().unwrap(), weight, priority, zone: None, host: None }
    }

    #[test]
    fn equal_sets_are_equal_in_any_order_and_with_doubles() {
        let one = Endpoints::new(vec![found("10.0.0.2:1", 0, 1), found("10.0.0.1:1", 1, 1), found("10.0.0.1:1", 0, 5)]);
        let other =
            Endpoints::new(vec![found("10.0.0.1:1", 0, 5), found("10.0.0.1:1", 0, 3), found("10.0.0.2:1", 0, 1)]);
        assert_eq!(one, other);
        assert_eq!(one.as_slice(), [found("10.0.0.1:1", 0, 5), found("10.0.0.2:1", 0, 1)]);
    }

    #[test]
    fn no_more_than_the_limit_is_taken_and_always_the_same_ones() {
        let many: Vec<_> = (0..1_200).map(|i| found(&format!("10.0.{}.{}:1", i / 200, i % 200), 0, 1)).collect();
        let endpoints = Endpoints::new(many.iter().rev().cloned().collect());
        assert_eq!((endpoints.len(), endpoints.left_out()), (ENDPOINTS_MAX, 200));
        assert_eq!(endpoints, Endpoints::new(many));
    }
}
