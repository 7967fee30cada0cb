//! Either kind of limit on how many at once, asked in one way.

use crate::{AdaptiveLimit, AdaptivePermit, ConcurrencyLimit, Outcome, Permit};
use std::{num::NonZeroU32, time::Instant};

/// What `concurrency = …` compiles to.
#[derive(Debug, Clone)]
pub enum Concurrency {
    /// So many and no more.
    Fixed(ConcurrencyLimit),
    /// As many as are answered without waiting for each other.
    Adaptive(AdaptiveLimit),
}

/// One place, given back when dropped.
#[derive(Debug)]
#[must_use = "a permit that is dropped is given back"]
pub enum ConcurrencyPermit {
    Fixed(Permit),
    Adaptive(AdaptivePermit),
}

impl Concurrency {
    pub fn try_acquire(&self, now: Instant) -> Option<ConcurrencyPermit> {
        match self {
            Self::Fixed(limit) => limit.try_acquire().map(ConcurrencyPermit::Fixed),
            Self::Adaptive(limit) => limit.enter(now).map(ConcurrencyPermit::Adaptive),
        }
    }

    /// After a reload. A limit that has become one of the other kind counts from nothing: once, there may be as many more
    /// as were inside.
    pub fn carry_over(&mut self, previous: &Self) {
        match (self, previous) {
            (Self::Fixed(limit), Self::Fixed(previous)) => limit.carry_over(previous),
            (Self::Adaptive(limit), Self::Adaptive(previous)) => limit.carry_over(previous),
            (Self::Fixed(_), Self::Adaptive(_)) | (Self::Adaptive(_), Self::Fixed(_)) => {}
        }
    }

    /// The most that there may ever be inside.
    pub fn max(&self) -> NonZeroU32 {
        match self {
            Self::Fixed(limit) => limit.max(),
            Self::Adaptive(limit) => limit.plan().max,
        }
    }

    /// How many may be inside now.
    pub fn limit(&self) -> u32 {
        match self {
            Self::Fixed(limit) => limit.max().get(),
            Self::Adaptive(limit) => limit.limit(),
        }
    }

    pub fn taken(&self) -> u32 {
        match self {
            Self::Fixed(limit) => limit.taken(),
            Self::Adaptive(limit) => limit.taken(),
        }
    }
}

impl ConcurrencyPermit {
    /// Tells how it went, and gives the place back.
    pub fn finish(self, now: Instant, outcome: Outcome) {
        match self {
            Self::Fixed(_) => {}
            Self::Adaptive(permit) => permit.finish(now, outcome),
        }
    }

    /// Tells how it went while the place is kept; see [`AdaptivePermit::sample`].
    pub fn sample(&mut self, now: Instant, outcome: Outcome) {
        match self {
            Self::Fixed(_) => {}
            Self::Adaptive(permit) => permit.sample(now, outcome),
        }
    }
}
