//! What is believed of one member after the words of all nodes were counted, and what time does to it: an outcome is believed
//! once it has held for a moment, doubt holds the last state for a while. Pure: time comes in.

use super::{
    Rules,
    ballot::{Tally, Verdict, Why},
};
use portcullis_health::HealthState;
use std::time::Instant;

/// The belief in one member.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Merged {
    believed: HealthState,
    since: Instant,
    /// What was believed before.
    before: HealthState,
    /// An outcome that is not believed yet.
    pending: Option<(HealthState, Instant)>,
    /// Since when it is down and nobody can confirm it.
    doubted: Option<Instant>,
    /// When it came back from being down.
    pub(crate) recovered: Option<Instant>,
    pub(crate) tally: Tally,
}

/// What this node makes of its own eyes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Eyes {
    Trusted,
    /// All fell at once, the first of them then: as it was before is held.
    Distrusted {
        first_fall: Instant,
    },
    /// And it stayed so for too long.
    GivenUp,
}

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    None,
    Fell,
    Rose,
}

impl Merged {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            believed: HealthState::Unknown,
            since: now,
            before: HealthState::Unknown,
            pending: None,
            doubted: None,
            recovered: None,
            tally: Tally { verdict: Verdict::Unknown, why: Why::Initial, downs: 0, voters: 0 },
        }
    }

    pub(crate) fn believed(&self) -> HealthState {
        self.believed
    }

    pub(crate) fn since(&self) -> Instant {
        self.since
    }

    /// Whether an answer may soon be another one.
    pub(crate) fn is_undecided(&self) -> bool {
        self.pending.is_some() || self.doubted.is_some() || self.tally.is_split()
    }

    /// Takes in what the words come to now.
    pub(crate) fn step(&mut self, tally: Tally, eyes: Eyes, rules: &Rules, now: Instant) -> Turn {
        self.tally = tally;
        let doubted = tally.verdict == Verdict::Doubted;
        self.doubted = doubted.then(|| self.doubted.unwrap_or(now));
        let wanted = match (eyes, tally.verdict) {
            (Eyes::Distrusted { first_fall }, _) => {
                self.tally.why = Why::Held;
                let is_of_the_fall = self.believed == HealthState::Down && self.since >= first_fall;
                if is_of_the_fall { self.before } else { self.believed }
            }
            (Eyes::GivenUp, _) => {
                self.tally.why = Why::FailOpen;
                HealthState::Up
            }
            (Eyes::Trusted, Verdict::Up) => HealthState::Up,
            (Eyes::Trusted, Verdict::Down) => HealthState::Down,
            (Eyes::Trusted, Verdict::Unknown) => HealthState::Unknown,
            (Eyes::Trusted, Verdict::Doubted) => {
                let is_over = self.doubted.is_some_and(|at| now.saturating_duration_since(at) >= rules.hold);
                if is_over { HealthState::Down } else { self.believed }
            }
        };
        self.want(wanted, eyes, rules, now)
    }

    fn want(&mut self, wanted: HealthState, eyes: Eyes, rules: &Rules, now: Instant) -> Turn {
        if wanted == self.believed {
            self.pending = None;
            return Turn::None;
        }
        // The first word settles what nobody knew; and what was held wrongly is mended at once.
        let at_once = self.believed == HealthState::Unknown || eyes != Eyes::Trusted;
        let since = match self.pending {
            Some((pending, since)) if pending == wanted => since,
            Some(_) | None => now,
        };
        if !at_once && now.saturating_duration_since(since) < rules.settle {
            self.pending = Some((wanted, since));
            return Turn::None;
        }
        let before = std::mem::replace(&mut self.believed, wanted);
        (self.before, self.since, self.pending) = (before, now, None);
        self.recovered = (before == HealthState::Down && wanted == HealthState::Up).then_some(now);
        match (before, wanted) {
            (HealthState::Up, HealthState::Down) => Turn::Fell,
            (HealthState::Down, HealthState::Up) => Turn::Rose,
            _ => Turn::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn tally(verdict: Verdict) -> Tally {
        Tally { verdict, why: Why::Quorum, downs: 0, voters: 3 }
    }

    #[test]
    fn an_outcome_is_believed_once_it_has_held() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut member = Merged::new(start);
        for (millis, verdict, believed) in [
            (0, Verdict::Up, HealthState::Up),
            (1_000, Verdict::Down, HealthState::Up),
            (1_400, Verdict::Down, HealthState::Up),
            // A late word that is taken back moves nothing.
            (1_450, Verdict::Up, HealthState::Up),
            (2_000, Verdict::Down, HealthState::Up),
            (2_500, Verdict::Down, HealthState::Down),
            (3_000, Verdict::Up, HealthState::Down),
            (3_500, Verdict::Up, HealthState::Up),
        ] {
            member.step(tally(verdict), Eyes::Trusted, &Rules::default(), at(millis));
            assert_eq!(member.believed(), believed, "{millis}");
        }
    }

    #[test]
    fn doubt_holds_the_last_state_for_a_while_and_no_longer() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut member = Merged::new(start);
        for (second, verdict, believed) in [
            (0, Verdict::Up, HealthState::Up),
            (10, Verdict::Doubted, HealthState::Up),
            (39, Verdict::Doubted, HealthState::Up),
            (40, Verdict::Doubted, HealthState::Up),
            (41, Verdict::Doubted, HealthState::Down),
        ] {
            member.step(tally(verdict), Eyes::Trusted, &Rules::default(), at(second));
            assert_eq!(member.believed(), believed, "{second}");
        }
    }

    #[test]
    fn who_distrusts_its_eyes_goes_back_to_what_it_saw_before_and_at_last_answers_all() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let (mut fallen, mut dead) = (Merged::new(start), Merged::new(start));
        let rules = Rules { settle: Duration::ZERO, ..Rules::default() };
        let mut both = |first, second, eyes, now| {
            fallen.step(tally(first), eyes, &rules, now);
            dead.step(tally(second), eyes, &rules, now);
            (fallen.believed(), dead.believed())
        };
        assert_eq!(both(Verdict::Up, Verdict::Up, Eyes::Trusted, at(0)), (HealthState::Up, HealthState::Up));
        assert_eq!(both(Verdict::Up, Verdict::Down, Eyes::Trusted, at(10)), (HealthState::Up, HealthState::Down));
        assert_eq!(both(Verdict::Down, Verdict::Down, Eyes::Trusted, at(100)), (HealthState::Down, HealthState::Down));
        let distrusted = Eyes::Distrusted { first_fall: at(99) };
        let held = both(Verdict::Down, Verdict::Down, distrusted, at(101));
        assert_eq!(held, (HealthState::Up, HealthState::Down), "what was down before stays down");
        let open = both(Verdict::Down, Verdict::Down, Eyes::GivenUp, at(131));
        assert_eq!(open, (HealthState::Up, HealthState::Up));
    }
}
