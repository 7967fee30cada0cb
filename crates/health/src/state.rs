//! Whether an endpoint may be used: what probes say, what its answers to real requests say, and what the operator says.
//!
//! One state machine for all three; the operator's word stands above the others. Pure: time comes in as an argument.

use crate::{EjectReason, Failure};
use serde::Serialize;
use std::time::{Duration, Instant};

/// What is believed of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthState {
    /// Not probed yet. Counts as up: availability fails open, a start must not wait for probes.
    Unknown,
    Up,
    /// Probes failed.
    Down,
    /// Real requests failed; no more of them for some time.
    Ejected,
    /// The time is over: one request at a time shows whether it may come back (a half-open circuit).
    Trial,
    /// The operator: no new requests; those in flight end, sticky clients stay.
    Drained,
    /// The operator: up, whatever the probes and answers say.
    ForcedUp,
    /// The operator: down, for sticky clients too.
    ForcedDown,
}

impl HealthState {
    /// Takes new requests.
    pub const fn is_usable(self) -> bool {
        matches!(self, Self::Unknown | Self::Up | Self::Trial | Self::ForcedUp)
    }

    /// Held out by the operator: not even panic brings it back.
    pub const fn is_withheld(self) -> bool {
        matches!(self, Self::Drained | Self::ForcedDown)
    }
}

/// What an operator decided, whatever the probes say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Override {
    Drained,
    Up,
    Down,
}

/// The state machine of one endpoint.
#[derive(Debug, Clone)]
pub struct Health {
    probed: Probed,
    /// Outcomes in a row against the present state.
    against: u32,
    ejection: Option<Ejection>,
    /// How often it was ejected lately; each one lasts longer than the one before.
    ejections: u32,
    forced: Option<Override>,
    since: Instant,
    last_failure: Option<Failure>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Probed {
    Unknown,
    Up,
    Down,
}

#[derive(Debug, Clone, Copy)]
struct Ejection {
    reason: EjectReason,
    until: Instant,
    lasted: Duration,
}

impl Health {
    pub fn new(now: Instant) -> Self {
        Self {
            probed: Probed::Unknown,
            against: 0,
            ejection: None,
            ejections: 0,
            forced: None,
            since: now,
            last_failure: None,
        }
    }

    /// How long a trial has been due; `None` when none is.
    pub fn trial_due_for(&self, now: Instant) -> Option<Duration> {
        let ejection = self.ejection.filter(|_| self.state(now) == HealthState::Trial)?;
        Some(now.saturating_duration_since(ejection.until))
    }

    pub fn state(&self, now: Instant) -> HealthState {
        match (self.forced, self.ejection, self.probed) {
            (Some(Override::Drained), _, _) => HealthState::Drained,
            (Some(Override::Up), _, _) => HealthState::ForcedUp,
            (Some(Override::Down), _, _) => HealthState::ForcedDown,
            (None, _, Probed::Down) => HealthState::Down,
            (None, Some(ejection), _) if now < ejection.until => HealthState::Ejected,
            (None, Some(_), _) => HealthState::Trial,
            (None, None, Probed::Up) => HealthState::Up,
            (None, None, Probed::Unknown) => HealthState::Unknown,
        }
    }

    /// Takes in a probe's outcome; true when the state changed.
    pub fn observe(&mut self, outcome: Result<(), Failure>, healthy: u32, unhealthy: u32, now: Instant) -> Changed {
        let (next, needed) = match outcome {
            Ok(()) => (Probed::Up, healthy),
            Err(failure) => {
                self.last_failure = Some(failure);
                (Probed::Down, unhealthy)
            }
        };
        if next == self.probed {
            self.against = 0;
            return Changed::No;
        }
        self.against += 1;
        // The first outcome settles what was unknown: an endpoint that is dead at start is not tried three times over.
        if self.probed != Probed::Unknown && self.against < needed {
            return Changed::No;
        }
        (self.probed, self.against, self.since) = (next, 0, now);
        Changed::Yes
    }

    /// Its answers were bad: no requests for `base` times the number of recent ejections, at most `longest`.
    pub fn eject(&mut self, reason: EjectReason, base: Duration, longest: Duration, now: Instant) -> Changed {
        if matches!(self.state(now), HealthState::Ejected) {
            return Changed::No;
        }
        self.ejections = self.ejections.saturating_add(1);
        let lasted = base.saturating_mul(self.ejections).min(longest);
        self.ejection = Some(Ejection { reason, until: now + lasted, lasted });
        self.since = now;
        Changed::Yes
    }

    /// A trial's request was answered well.
    pub fn readmit(&mut self, now: Instant) -> Changed {
        if self.state(now) != HealthState::Trial {
            return Changed::No;
        }
        (self.ejection, self.since) = (None, now);
        Changed::Yes
    }

    /// A quiet interval makes the next ejection shorter again (Envoy's rule).
    pub fn quiet(&mut self) {
        if self.ejection.is_none() {
            self.ejections = self.ejections.saturating_sub(1);
        }
    }

    pub fn force(&mut self, forced: Option<Override>, now: Instant) -> Changed {
        if self.forced == forced {
            return Changed::No;
        }
        (self.forced, self.since) = (forced, now);
        Changed::Yes
    }

    /// Without probes nothing would bring it up again.
    pub fn forget_probes(&mut self) {
        (self.probed, self.against) = (Probed::Unknown, 0);
    }

    pub fn since(&self) -> Instant {
        self.since
    }

    pub fn last_failure(&self) -> Option<Failure> {
        self.last_failure
    }

    /// Why it is ejected or on trial, and how long it was or is kept out.
    pub fn ejection(&self) -> Option<(EjectReason, Duration)> {
        self.ejection.map(|ejection| (ejection.reason, ejection.lasted))
    }

    /// When the state changes by time alone.
    pub fn changes_at(&self, now: Instant) -> Option<Instant> {
        (self.state(now) == HealthState::Ejected).then(|| self.ejection.map(|ejection| ejection.until)).flatten()
    }
}

/// Whether a call changed what is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Changed {
    Yes,
    No,
}

#[cfg(test)]
mod tests {
    use super::*;
    use HealthState::*;

    const BASE: Duration = Duration::from_secs(30);
    const LONGEST: Duration = Duration::from_secs(70);

    #[test]
    fn it_takes_a_row_to_change_and_one_outcome_to_settle_the_unknown() {
        let now = Instant::now();
        let bad = Err(Failure::Refused);
        for (outcomes, expected) in [
            (&[][..], Unknown),
            (&[Ok(())][..], Up),
            (&[bad], Down),
            (&[Ok(()), bad, bad], Up),
            (&[Ok(()), bad, bad, bad], Down),
            (&[Ok(()), bad, bad, Ok(()), bad, bad], Up),
            (&[bad, Ok(())], Down),
            (&[bad, Ok(()), Ok(())], Up),
            (&[bad, Ok(()), bad, Ok(())], Down),
        ] {
            let mut health = Health::new(now);
            for outcome in outcomes {
                let _ = health.observe(*outcome, 2, 3, now);
            }
            assert_eq!(health.state(now), expected, "{outcomes:?}");
        }
    }

    #[test]
    fn the_reason_and_the_moment_of_a_change_are_kept() {
        let start = Instant::now();
        let later = start + Duration::from_secs(9);
        let mut health = Health::new(start);
        assert_eq!(health.observe(Err(Failure::Status(503)), 2, 3, later), Changed::Yes);
        assert_eq!((health.since(), health.last_failure()), (later, Some(Failure::Status(503))));
    }

    #[test]
    fn an_ejection_ends_in_a_trial_that_readmits_or_ejects_for_longer() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut health = Health::new(start);
        let eject = |health: &mut Health, now| health.eject(EjectReason::Consecutive5xx, BASE, LONGEST, now);
        assert_eq!(eject(&mut health, start), Changed::Yes);
        assert_eq!(eject(&mut health, at(1)), Changed::No);
        assert_eq!(health.readmit(at(29)), Changed::No);
        assert_eq!((health.state(at(29)), health.state(at(30))), (Ejected, Trial));
        assert_eq!(health.changes_at(at(1)), Some(at(30)));
        assert_eq!(eject(&mut health, at(30)), Changed::Yes);
        assert_eq!((health.state(at(89)), health.state(at(90))), (Ejected, Trial));
        assert_eq!(eject(&mut health, at(90)), Changed::Yes);
        assert_eq!(health.ejection().unwrap().1, LONGEST);
        assert_eq!(health.readmit(at(160)), Changed::Yes);
        assert_eq!((health.state(at(160)), health.since()), (Unknown, at(160)));
        for _ in 0..2 {
            health.quiet();
        }
        assert_eq!(eject(&mut health, at(200)), Changed::Yes);
        assert_eq!(health.ejection().unwrap().1, BASE * 2);
    }

    #[test]
    fn the_operators_word_stands_above_probes_and_answers() {
        let now = Instant::now();
        let mut health = Health::new(now);
        let _ = health.observe(Err(Failure::Refused), 2, 3, now);
        for (forced, state) in [(Override::Up, ForcedUp), (Override::Drained, Drained), (Override::Down, ForcedDown)] {
            assert_eq!(health.force(Some(forced), now), Changed::Yes);
            assert_eq!(health.state(now), state);
        }
        assert_eq!(health.force(None, now), Changed::Yes);
        assert_eq!(health.state(now), Down);
        health.forget_probes();
        assert_eq!(health.state(now), Unknown);
    }
}
