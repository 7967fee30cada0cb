//! A point in time that can be written to disk.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Milliseconds since the Unix epoch. `Instant` cannot be kept across a restart, and state here must be.
///
/// Wall clocks jump, so nothing in this crate trusts a difference: it saturates at zero backwards, and what counts as
/// time spent on a step is bounded per tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Moment(u64);

impl Moment {
    pub const fn from_unix_millis(millis: u64) -> Self {
        Self(millis)
    }

    pub const fn unix_millis(self) -> u64 {
        self.0
    }

    /// How long ago `earlier` was; zero when it is not past.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// This moment and `span` later.
    pub fn plus(self, span: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)))
    }
}
