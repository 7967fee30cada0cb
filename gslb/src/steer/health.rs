//! What is known of members: outcomes of checks, recoveries, and how many fell lately. Pure: time comes in.

use crate::fleet::Word;
use portcullis_health::{Changed, Failure, Health, HealthState};
use portcullis_names::{ObjectName, Percent};
use std::{
    collections::VecDeque,
    net::IpAddr,
    time::{Duration, Instant},
};

/// What is known of one member.
#[derive(Debug, Clone)]
pub(crate) struct MemberHealth {
    health: Health,
    pub(crate) certainty: Certainty,
    /// When it came back from being down.
    pub(crate) recovered: Option<Instant>,
    /// Round trip of the last check that ended well.
    pub(crate) rtt: Option<Duration>,
    /// Since when it says what it says: seconds since 1970.
    pub(crate) said_since: u64,
    recalled: Option<Recalled>,
}

/// What was known before a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Recalled {
    pub(crate) word: Word,
    /// Seconds since 1970.
    pub(crate) at: u64,
}

/// What is older says nothing any more.
const RECALLED_FOR: u64 = 600;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Certainty {
    Settled,
    /// The last outcome speaks against the state, or there was none yet: answers live shorter.
    Undecided,
}

/// What an outcome did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    None,
    Fell,
    Rose,
}

impl MemberHealth {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            health: Health::new(now),
            certainty: Certainty::Undecided,
            recovered: None,
            rtt: None,
            said_since: 0,
            recalled: None,
        }
    }

    pub(crate) fn state(&self) -> HealthState {
        // Only ejections end by time, and nothing ejects members: any moment will do.
        self.health.state(self.health.since())
    }

    /// What we tell others.
    pub(crate) fn word(&self) -> Word {
        match (self.state(), self.certainty) {
            (HealthState::Unknown, _) => Word::Unknown,
            (HealthState::Down, _) => Word::Down,
            (_, Certainty::Settled) => Word::Up,
            (_, Certainty::Undecided) => Word::Degraded,
        }
    }

    pub(crate) fn recall(&mut self, recalled: Recalled) {
        self.recalled = Some(recalled);
    }

    /// As it was before the restart, while that is not too long ago.
    pub(crate) fn recalled(&self, now: u64) -> Word {
        let young = self.recalled.filter(|recalled| now.saturating_sub(recalled.at) < RECALLED_FOR);
        young.map_or(Word::Unknown, |recalled| recalled.word)
    }

    pub(crate) fn last_failure(&self) -> Option<Failure> {
        self.health.last_failure()
    }

    pub(crate) fn since(&self) -> Instant {
        self.health.since()
    }

    pub(crate) fn observe(
        &mut self,
        outcome: Result<(), Failure>,
        healthy: u32,
        unhealthy: u32,
        now: Instant,
    ) -> Change {
        let before = self.state();
        let changed = self.health.observe(outcome, healthy, unhealthy, now);
        let after = self.state();
        let agrees = matches!((after, outcome), (HealthState::Up, Ok(())) | (HealthState::Down, Err(_)));
        self.certainty = if agrees { Certainty::Settled } else { Certainty::Undecided };
        match (changed, after) {
            (Changed::Yes, HealthState::Down) => {
                self.recovered = None;
                if before == HealthState::Up { Change::Fell } else { Change::None }
            }
            (Changed::Yes, HealthState::Up) => {
                // The first outcome after a start is no recovery: a whole site would begin at a trickle.
                self.recovered = (before == HealthState::Down).then_some(now);
                Change::Rose
            }
            (Changed::Yes | Changed::No, _) => Change::None,
        }
    }
}

/// The blast-radius guard: members that fell lately, against how many may.
#[derive(Debug, Clone, Default)]
pub(crate) struct Withdrawals {
    /// Members that fell and have not come back, with the moment.
    falls: VecDeque<(Instant, Place)>,
}

/// Site and address.
type Place = (ObjectName, IpAddr);

/// Whether health is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Belief {
    Believed,
    /// Too many fell at once: more likely it is the checks, or the road to all of them.
    Held,
}

/// Falls that are remembered; more in a window change nothing.
const FALLS_MAX: usize = 10_000;

impl Withdrawals {
    /// One that falls again and again is one member all the same.
    pub(crate) fn fell(&mut self, member: &Place, now: Instant) {
        self.rose(member);
        if self.falls.len() >= FALLS_MAX {
            self.falls.pop_front();
        }
        self.falls.push_back((now, member.clone()));
    }

    /// Who is back is withdrawn no more.
    pub(crate) fn rose(&mut self, member: &Place) {
        self.falls.retain(|(_, fallen)| fallen != member);
    }

    pub(crate) fn belief(&mut self, window: Duration, max: Percent, members: usize, now: Instant) -> Belief {
        while self.falls.front().is_some_and(|(fall, _)| now.saturating_duration_since(*fall) >= window) {
            self.falls.pop_front();
        }
        let allowed = max.fraction() * members as f64;
        if self.falls.len() as f64 > allowed { Belief::Held } else { Belief::Believed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BAD: Result<(), Failure> = Err(Failure::Timeout);

    #[test]
    fn a_state_is_in_doubt_while_the_last_outcome_speaks_against_it() {
        let now = Instant::now();
        let mut member = MemberHealth::new(now);
        assert_eq!(member.certainty, Certainty::Undecided);
        for (outcome, change, certainty) in [
            (Ok(()), Change::Rose, Certainty::Settled),
            (BAD, Change::None, Certainty::Undecided),
            (Ok(()), Change::None, Certainty::Settled),
            (BAD, Change::None, Certainty::Undecided),
            (BAD, Change::Fell, Certainty::Settled),
            (Ok(()), Change::None, Certainty::Undecided),
            (Ok(()), Change::Rose, Certainty::Settled),
        ] {
            assert_eq!((member.observe(outcome, 2, 2, now), member.certainty), (change, certainty));
        }
        assert_eq!(member.recovered, Some(now));
    }

    #[test]
    fn more_falls_than_allowed_in_a_window_are_not_believed() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let minute = Duration::from_secs(60);
        let half = Percent::from_whole(50);
        let mut falls = Withdrawals::default();
        for (second, expected) in
            [(0, Belief::Believed), (10, Belief::Believed), (20, Belief::Held), (30, Belief::Held)]
        {
            falls.fell(&member(second), at(second));
            assert_eq!(falls.belief(minute, half, 4, at(second)), expected, "{second}");
        }
        assert_eq!(falls.belief(minute, half, 4, at(69)), Belief::Held);
        assert_eq!(falls.belief(minute, half, 4, at(71)), Belief::Believed);
        assert_eq!(falls.belief(minute, Percent::ALL, 4, at(71)), Belief::Believed);
    }

    #[test]
    fn one_member_that_flaps_is_one_and_none_when_it_is_back() {
        let now = Instant::now();
        let (minute, half) = (Duration::from_secs(60), Percent::from_whole(50));
        let mut falls = Withdrawals::default();
        (0..10).for_each(|_| falls.fell(&member(1), now));
        assert_eq!(falls.belief(minute, half, 2, now), Belief::Believed);
        falls.fell(&member(2), now);
        assert_eq!(falls.belief(minute, half, 2, now), Belief::Held);
        falls.rose(&member(1));
        assert_eq!(falls.belief(minute, half, 2, now), Belief::Believed);
    }

    fn member(last: u64) -> Place {
        ("a".parse().unwrap(), IpAddr::from([192, 0, 2, last as u8]))
    }
}
