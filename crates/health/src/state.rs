//! Up or down: rise and fall over probe outcomes, under an operator's override.

use crate::Failure;
use serde::Serialize;
use std::time::Instant;

/// What is believed of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthState {
    /// Not probed yet. Counts as up: availability fails open, a start must not wait for probes.
    Unknown,
    Up,
    Down,
}

/// What an operator decided, whatever the probes say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Override {
    /// No new requests; those in flight end.
    Drained,
}

/// The state machine of one endpoint.
#[derive(Debug, Clone)]
pub struct Health {
    state: HealthState,
    since: Instant,
    last_failure: Option<Failure>,
    /// Outcomes in a row against the present state.
    against: u32,
}

impl Health {
    pub fn new(now: Instant) -> Self {
        Self { state: HealthState::Unknown, since: now, last_failure: None, against: 0 }
    }

    /// Takes in one outcome; gives the new state when it changed.
    pub fn observe(
        &mut self,
        outcome: Result<(), Failure>,
        healthy: u32,
        unhealthy: u32,
        now: Instant,
    ) -> Option<HealthState> {
        let (next, needed) = match outcome {
            Ok(()) => (HealthState::Up, healthy),
            Err(failure) => {
                self.last_failure = Some(failure);
                (HealthState::Down, unhealthy)
            }
        };
        // The first outcome settles what was unknown: an endpoint that is dead at start is not tried three times over.
        let settled = self.state == HealthState::Unknown;
        if next == self.state {
            self.against = 0;
            return None;
        }
        self.against += 1;
        if !settled && self.against < needed {
            return None;
        }
        *self = Self { state: next, since: now, against: 0, last_failure: self.last_failure };
        Some(next)
    }

    pub fn state(&self) -> HealthState {
        self.state
    }

    pub fn since(&self) -> Instant {
        self.since
    }

    pub fn last_failure(&self) -> Option<Failure> {
        self.last_failure
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use HealthState::*;

    #[test]
    fn it_takes_a_row_to_change_and_one_outcome_to_settle_the_unknown() {
        let now = Instant::now();
        let bad = Err(Failure::Refused);
        for (outcomes, expected) in [
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
                health.observe(*outcome, 2, 3, now);
            }
            assert_eq!(health.state(), expected, "{outcomes:?}");
        }
    }

    #[test]
    fn the_reason_and_the_moment_of_a_change_are_kept() {
        let start = Instant::now();
        let later = start + std::time::Duration::from_secs(9);
        let mut health = Health::new(start);
        assert_eq!(health.observe(Err(Failure::Status(503)), 2, 3, later), Some(Down));
        assert_eq!((health.since(), health.last_failure()), (later, Some(Failure::Status(503))));
    }
}
