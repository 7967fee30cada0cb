//! The sliding window made of two counters: this window's, and the one before it weighed by how much of it still counts.
//!
//! Integers only, in microseconds and 65536ths, every rounding against the client; so small that the doubles of a store's
//! script hold each product exactly (below 2^53). The script of `portcullis-store` does the same arithmetic; change both
//! together. As with the bucket, no sequence is admitted more than `count + rate × time`.

use crate::{
    key_table::{Meter, Standing},
    limit::{Limit, Unfit, Verdict},
    nanos::Nanos,
};
use std::{
    num::{NonZeroU32, NonZeroU64},
    time::Duration,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlidingWindow {
    length_micros: NonZeroU64,
    limit: u32,
    cost: NonZeroU32,
}

/// The counters of one key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Window {
    /// Which window since the origin.
    pub index: u64,
    pub current: u32,
    pub previous: u32,
}

/// The whole of a window, in the unit that its share is counted in.
const WHOLE: u64 = 1 << 16;

impl SlidingWindow {
    /// The window is the rate's unit of time, and `burst` what fits into one.
    pub fn new(limit: &Limit) -> Result<Self, Unfit> {
        limit.fits()?;
        let length = u64::try_from(limit.rate.per().as_micros()).ok().and_then(NonZeroU64::new);
        let length_micros = length.ok_or(Unfit::RateTooHigh)?;
        Ok(Self { length_micros, limit: limit.burst.get(), cost: limit.cost })
    }

    /// Counts the request if it fits.
    pub fn check(&self, window: &mut Window, now: Nanos) -> Verdict {
        let (mut rolled, elapsed) = self.roll(*window, now);
        let used = self.used(&rolled, elapsed);
        if used + u64::from(self.cost.get()) > u64::from(self.limit) {
            return self.verdict(false, &rolled, elapsed);
        }
        rolled.current = rolled.current.saturating_add(self.cost.get());
        *window = rolled;
        self.verdict(true, &rolled, elapsed)
    }

    /// What to say when, after the decision, the counters are these, `elapsed` microseconds into the window.
    pub fn verdict(&self, allowed: bool, window: &Window, elapsed: u64) -> Verdict {
        let left = u64::from(self.limit).saturating_sub(self.used(window, elapsed));
        let to_end = self.length().saturating_sub(elapsed);
        let reset_micros = match window {
            Window { current: 0, previous: 0, .. } => 0,
            Window { current: 0, .. } => to_end,
            Window { .. } => to_end.saturating_add(self.length()),
        };
        let retry_micros = if allowed { 0 } else { self.wait(window, elapsed) };
        Verdict {
            allowed,
            remaining: left / u64::from(self.cost.get()),
            reset_after: Duration::from_micros(reset_micros),
            retry_after: Duration::from_micros(retry_micros),
        }
    }

    pub fn length_micros(&self) -> NonZeroU64 {
        self.length_micros
    }

    pub fn limit(&self) -> u32 {
        self.limit
    }

    pub fn cost(&self) -> NonZeroU32 {
        self.cost
    }

    fn length(&self) -> u64 {
        self.length_micros.get()
    }

    /// The counters as of now, and how many microseconds of the window are over.
    fn roll(&self, window: Window, now: Nanos) -> (Window, u64) {
        let micros = now.0 / 1_000;
        let (index, elapsed) = (micros / self.length_micros, micros % self.length_micros);
        match index.checked_sub(window.index) {
            Some(0) => (window, elapsed),
            Some(1) => (Window { index, current: 0, previous: window.current }, elapsed),
            Some(_) => (Window { index, current: 0, previous: 0 }, elapsed),
            // Another thread, with a later `now`, was here first.
            None => (window, 0),
        }
    }

    fn used(&self, window: &Window, elapsed: u64) -> u64 {
        let to_end = self.length().saturating_sub(elapsed);
        let share = (to_end * WHOLE).div_ceil(self.length());
        u64::from(window.current) + (u64::from(window.previous) * share).div_ceil(WHOLE)
    }

    /// Microseconds until the cost fits, if nobody else asks.
    fn wait(&self, window: &Window, elapsed: u64) -> u64 {
        let to_end = self.length().saturating_sub(elapsed);
        match self.limit.checked_sub(window.current).and_then(|left| left.checked_sub(self.cost.get())) {
            Some(room) => self.fades_to(window.previous, room).saturating_sub(elapsed),
            None => to_end + self.fades_to(window.current, self.limit.saturating_sub(self.cost.get())),
        }
    }

    /// How far into the window after them so many events weigh no more than `room`.
    fn fades_to(&self, events: u32, room: u32) -> u64 {
        let share = (u64::from(room) * WHOLE).checked_div(u64::from(events)).unwrap_or(WHOLE).min(WHOLE);
        self.length() - share * self.length() / WHOLE
    }
}

impl Meter<2> for SlidingWindow {
    fn check(&self, state: &mut [u64; 2], now: Nanos) -> Verdict {
        let mut window = unpack(state);
        let verdict = Self::check(self, &mut window, now);
        *state = [window.index, u64::from(window.current) << 32 | u64::from(window.previous)];
        verdict
    }

    fn standing(&self, state: &[u64; 2]) -> Standing {
        let window = unpack(state);
        let windows = match window {
            Window { current: 0, previous: 0, .. } => 0,
            Window { current: 0, .. } => 1,
            Window { .. } => 2,
        };
        let end_micros = window.index.saturating_add(windows).saturating_mul(self.length());
        Standing {
            full_at: Nanos(end_micros.saturating_mul(1_000)),
            spent: u64::from(window.current) + u64::from(window.previous),
        }
    }
}

fn unpack([index, counts]: &[u64; 2]) -> Window {
    Window { index: *index, current: (counts >> 32) as u32, previous: *counts as u32 }
}
