//! What was seen of both versions since a step began.

use crate::{Figures, Moment, Observations, verdict::Span};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Figures of the step, of the last minute, and of the old version in the steps before.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Watch {
    /// Time that the step was really watched.
    held_millis: u64,
    new: Figures,
    old: Figures,
    /// The old version before this step: at a step of 100% it has no requests to compare with.
    before: Figures,
    // A moment before a restart says nothing about the time since.
    #[serde(skip)]
    last_tick: Option<Moment>,
    #[serde(skip)]
    recent: Recent,
}

/// The last half to whole minute, in two halves of which the older is dropped.
#[derive(Debug, Clone, Default, PartialEq)]
struct Recent {
    began: Option<Moment>,
    half_before: (Figures, Figures),
    /// Of the new and of the old version, both halves together.
    sum: (Figures, Figures),
    half_now: (Figures, Figures),
}

/// A longer silence counts as this much: a gateway that was stopped, or a clock that leapt, has not watched.
const TICK_MAX: Duration = Duration::from_secs(60);
const HALF: Duration = Duration::from_secs(30);
/// Fewer requests of the old version than this are no baseline while there is an older and larger one.
const BASELINE_REQUESTS: u64 = 100;
/// In the recent past fewer will do: the question there is only whether it fails as well.
const BASELINE_REQUESTS_RECENT: u64 = 20;

impl Watch {
    pub(crate) fn take_in(&mut self, seen: &Observations, now: Moment) {
        let gap = self.last_tick.map_or(Duration::ZERO, |last| now.since(last)).min(TICK_MAX);
        self.last_tick = Some(now);
        self.held_millis = self.held_millis.saturating_add(u64::try_from(gap.as_millis()).unwrap_or(u64::MAX));
        self.new.merge(&seen.new);
        self.old.merge(&seen.old);
        self.recent.take_in(seen, now);
    }

    /// Another share begins: what the new version did at the one before says nothing about it.
    pub(crate) fn start_over(&mut self) {
        let old = std::mem::take(&mut self.old);
        let before = if old.total() >= BASELINE_REQUESTS { old } else { std::mem::take(&mut self.before) };
        *self = Self { before, last_tick: self.last_tick, ..Self::default() };
    }

    /// Another measure: what was counted says nothing under it, of neither version.
    pub(crate) fn forget(&mut self) {
        *self = Self { last_tick: self.last_tick, ..Self::default() };
    }

    /// What is worth keeping on disk.
    pub(crate) fn lasting(&self) -> Self {
        let (new, old, before) = (self.new.clone(), self.old.clone(), self.before.clone());
        Self { held_millis: self.held_millis, new, old, before, last_tick: None, recent: Recent::default() }
    }

    pub(crate) fn held(&self) -> Duration {
        Duration::from_millis(self.held_millis)
    }

    pub(crate) fn new_version(&self) -> &Figures {
        &self.new
    }

    pub(crate) fn old_version(&self) -> &Figures {
        &self.old
    }

    pub(crate) fn step(&self) -> Span<'_> {
        Span { new: &self.new, old: self.baseline() }
    }

    pub(crate) fn recent(&self) -> Span<'_> {
        let (new, old) = &self.recent.sum;
        let enough = old.total() >= BASELINE_REQUESTS_RECENT;
        Span { new, old: if enough { Some(old) } else { self.baseline() } }
    }

    fn baseline(&self) -> Option<&Figures> {
        if self.old.total() >= BASELINE_REQUESTS {
            return Some(&self.old);
        }
        [&self.before, &self.old].into_iter().find(|figures| figures.total() > 0)
    }
}

impl Recent {
    fn take_in(&mut self, seen: &Observations, now: Moment) {
        // A clock that went back would keep the half open for as long as it went.
        let age = self.began.filter(|began| *began <= now).map_or(Duration::MAX, |began| now.since(began));
        if age >= HALF {
            let half = std::mem::take(&mut self.half_now);
            self.half_before = if age < 2 * HALF { half } else { Default::default() };
            self.sum = self.half_before.clone();
            self.began = Some(now);
        }
        for (new, old) in [&mut self.half_now, &mut self.sum] {
            new.merge(&seen.new);
            old.merge(&seen.old);
        }
    }
}
