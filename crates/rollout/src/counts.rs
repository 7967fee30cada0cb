//! How requests went.

use serde::{Deserialize, Serialize};
use std::ops::AddAssign;

/// Requests by how they went. A request whose client gave up counts nowhere: it says nothing about the service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counts {
    /// Answered below 500.
    pub good: u64,
    /// Answered 5xx, or not at all.
    pub bad: u64,
    /// Those among the good that took longer than the objective allows.
    pub slow: u64,
}

impl Counts {
    pub const fn total(self) -> u64 {
        self.good.saturating_add(self.bad)
    }

    pub const fn is_empty(self) -> bool {
        self.total() == 0
    }

    /// Bad requests as a fraction of all; zero without requests.
    pub fn bad_ratio(self) -> f64 {
        ratio(self.bad, self.total())
    }

    /// Slow requests as a fraction of the good: an error that came quickly is not fast service.
    pub fn slow_ratio(self) -> f64 {
        ratio(self.slow, self.good)
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, more: Self) {
        self.good = self.good.saturating_add(more.good);
        self.bad = self.bad.saturating_add(more.bad);
        self.slow = self.slow.saturating_add(more.slow);
    }
}

pub(crate) fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}
