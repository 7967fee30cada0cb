//! The token bucket as GCRA (ITU-T I.371, the virtual scheduling form): all of a bucket's state is one moment.
//!
//! The moment is when the bucket will be full again, its TAT. Integers only, and the time between two tokens is rounded up
//! once, when the limit is made: no sequence of requests is admitted more than `burst + rate × time`, ever. The script of
//! `portcullis-store` does the same arithmetic; change both together.

use crate::{
    key_table::{Meter, Standing},
    limit::{Limit, Unfit, Verdict},
    nanos::Nanos,
};
use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gcra {
    /// What one request adds to the TAT, in nanoseconds.
    increment: u64,
    /// How far the TAT may be ahead of now, in nanoseconds.
    capacity: u64,
}

/// With it no sum below leaves a `u64`.
const CAPACITY_MAX: u64 = Duration::from_secs(366 * 86_400).as_nanos() as u64;

impl Gcra {
    pub fn new(limit: &Limit) -> Result<Self, Unfit> {
        limit.fits()?;
        let period = Nanos::from(limit.rate.per()).0;
        let token = period.div_ceil(limit.rate.count().get());
        let capacity = token.checked_mul(u64::from(limit.burst.get())).filter(|capacity| *capacity <= CAPACITY_MAX);
        let capacity = capacity.ok_or(Unfit::RefillTooLong)?;
        Ok(Self { increment: token.saturating_mul(u64::from(limit.cost.get())), capacity })
    }

    /// Takes the request's cost out of the bucket if it is there.
    pub fn check(&self, tat: &mut Nanos, now: Nanos) -> Verdict {
        let ahead = self.ahead(*tat, now);
        let wanted = ahead.saturating_add(self.increment);
        if wanted > self.capacity {
            return self.verdict(false, ahead);
        }
        *tat = now.plus(wanted);
        self.verdict(true, wanted)
    }

    /// What to say when, after the decision, the TAT is `ahead` nanoseconds ahead of now.
    pub fn verdict(&self, allowed: bool, ahead: u64) -> Verdict {
        let left = self.capacity.saturating_sub(ahead);
        let short = if allowed { 0 } else { self.increment.saturating_sub(left) };
        Verdict {
            allowed,
            remaining: left.checked_div(self.increment).unwrap_or(0),
            reset_after: Duration::from_nanos(ahead),
            retry_after: Duration::from_nanos(short),
        }
    }

    /// Nanoseconds that one request adds to the TAT.
    pub fn increment(&self) -> u64 {
        self.increment
    }

    /// Nanoseconds in which an empty bucket fills.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// A bucket is never emptier than empty: a TAT from a larger burst before a reload, or from a clock that was set back,
    /// does not lock anybody out.
    fn ahead(&self, tat: Nanos, now: Nanos) -> u64 {
        now.until(tat).min(self.capacity)
    }
}

impl Meter<1> for Gcra {
    fn check(&self, [tat]: &mut [u64; 1], now: Nanos) -> Verdict {
        let mut moment = Nanos(*tat);
        let verdict = Self::check(self, &mut moment, now);
        *tat = moment.0;
        verdict
    }

    fn standing(&self, [tat]: &[u64; 1]) -> Standing {
        Standing { full_at: Nanos(*tat), spent: 0 }
    }
}
