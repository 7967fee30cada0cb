//! A moment as nanoseconds since an origin that its owner chose.

use std::time::Duration;

/// Enough for 584 years. Local tables count from their own making, a store from 1970.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nanos(pub u64);

impl Nanos {
    /// How far `self` is behind `later`; nothing when it is not.
    pub fn until(self, later: Self) -> u64 {
        later.0.saturating_sub(self.0)
    }

    pub fn plus(self, nanos: u64) -> Self {
        Self(self.0.saturating_add(nanos))
    }
}

impl From<Duration> for Nanos {
    fn from(since: Duration) -> Self {
        Self(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
    }
}
