//! What a limit is made of, and what it says about one request.

use portcullis_names::Rate;
use std::{num::NonZeroU32, time::Duration};

/// So much per time, so much at once, and what one request costs of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    pub rate: Rate,
    pub burst: NonZeroU32,
    pub cost: NonZeroU32,
}

/// What a limit says about one request. Whether that is obeyed is the limit's mode, not said here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    pub allowed: bool,
    /// Further requests of the same cost that would be allowed now.
    pub remaining: u64,
    /// When all is as if nothing had been asked.
    pub reset_after: Duration,
    /// When a refused request would be allowed, if nobody else asks; zero for one that is allowed.
    pub retry_after: Duration,
}

/// Why no limit can be made of these numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    #[error("one request costs {cost}, more than the {burst} there ever are: none would be admitted")]
    CostAboveBurst { cost: NonZeroU32, burst: NonZeroU32 },
    #[error("the rate is above 10000000 in a second, which cannot be counted exactly")]
    RateTooHigh,
    #[error("the burst takes longer than a year to come back at this rate")]
    RefillTooLong,
}

/// Up to here the rounding of the time between two events to whole nanoseconds stays under one percent.
const PER_SECOND_MAX: u64 = 10_000_000;

impl Limit {
    /// What every algorithm needs.
    pub(crate) fn fits(&self) -> Result<(), Unfit> {
        if self.cost > self.burst {
            return Err(Unfit::CostAboveBurst { cost: self.cost, burst: self.burst });
        }
        if self.rate.count().get() > PER_SECOND_MAX.saturating_mul(self.rate.per().as_secs()) {
            return Err(Unfit::RateTooHigh);
        }
        Ok(())
    }
}
