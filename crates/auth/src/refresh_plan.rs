//! When an issuer's keys are fetched. Pure: times in seconds since 1970, chance as an argument.

use std::time::Duration;

/// What is known about fetching one key set.
#[derive(Debug)]
pub(crate) struct RefreshPlan {
    ttl_secs: i64,
    last_attempt: Option<i64>,
    in_flight: bool,
    failures: u32,
    due: i64,
}

/// The answer to who would like other keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ask {
    /// A fetch is on its way, or is due now.
    Wait,
    /// There was one just now.
    Declined,
}

/// A token with an invented key id must not turn the gateway against its issuer.
const ASKED_EVERY_SECS: i64 = 30;
const BACKOFF_FIRST_SECS: i64 = 1;
const BACKOFF_MAX_SECS: i64 = 60;

impl RefreshPlan {
    pub(crate) fn new(ttl: Duration, now: i64) -> Self {
        Self {
            ttl_secs: i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX),
            last_attempt: None,
            in_flight: false,
            failures: 0,
            due: now,
        }
    }

    /// Seconds from `now` to the next fetch.
    pub(crate) fn pause(&self, now: i64) -> u64 {
        let pause = self.due.saturating_sub(now);
        // No pause is planned to be longer: the clock was set back, and rotations would be missed by as much.
        let longest = self.ttl_secs.max(BACKOFF_MAX_SECS);
        if pause > longest { 0 } else { u64::try_from(pause).unwrap_or(0) }
    }

    /// Somebody showed a key id that is not known.
    pub(crate) fn ask(&mut self, now: i64) -> Ask {
        if self.in_flight || self.pause(now) == 0 {
            return Ask::Wait;
        }
        if self.last_attempt.is_some_and(|last| (last..last.saturating_add(ASKED_EVERY_SECS)).contains(&now)) {
            return Ask::Declined;
        }
        self.due = now;
        Ask::Wait
    }

    pub(crate) fn began(&mut self, now: i64) {
        self.in_flight = true;
        self.last_attempt = Some(now);
    }

    /// `draw` in 0..1: many gateways started together do not ask together.
    pub(crate) fn succeeded(&mut self, now: i64, draw: f64) {
        self.in_flight = false;
        self.failures = 0;
        self.due = now.saturating_add(spread(self.ttl_secs, draw));
    }

    pub(crate) fn failed(&mut self, now: i64, draw: f64) {
        self.in_flight = false;
        let doubled = BACKOFF_FIRST_SECS.checked_shl(self.failures.min(16)).unwrap_or(BACKOFF_MAX_SECS);
        self.failures = self.failures.saturating_add(1);
        self.due = now.saturating_add(spread(doubled.min(BACKOFF_MAX_SECS), draw).max(BACKOFF_FIRST_SECS));
    }
}

/// 80 % to 100 % of the span.
fn spread(seconds: i64, draw: f64) -> i64 {
    let shortened = seconds as f64 * 0.2 * draw.clamp(0.0, 1.0);
    seconds.saturating_sub(shortened as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> RefreshPlan {
        RefreshPlan::new(Duration::from_secs(3600), 1000)
    }

    #[test]
    fn keys_are_fetched_at_once_then_before_their_time_is_over() {
        let mut plan = plan();
        assert_eq!(plan.pause(1000), 0);
        for (draw, pause) in [(0.0, 3600), (0.5, 3240), (1.0, 2880), (7.0, 2880), (-1.0, 3600)] {
            plan.began(1000);
            plan.succeeded(1000, draw);
            assert_eq!(plan.pause(1000), pause, "{draw}");
        }
    }

    #[test]
    fn failures_are_followed_by_ever_longer_pauses() {
        let mut plan = plan();
        let mut now = 1000;
        let mut pauses = Vec::new();
        for _ in 0..40 {
            plan.began(now);
            plan.failed(now, 0.0);
            pauses.push(plan.pause(now));
            now = plan.due;
        }
        assert_eq!(pauses[..8], [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(pauses[39], 60);
        plan.succeeded(now, 0.0);
        plan.failed(now, 1.0);
        assert_eq!(plan.pause(now), 1);
    }

    #[test]
    fn an_unknown_key_is_asked_about_once_in_thirty_seconds() {
        let mut plan = plan();
        assert_eq!(plan.ask(1000), Ask::Wait);
        plan.began(1000);
        assert_eq!(plan.ask(1001), Ask::Wait);
        plan.succeeded(1002, 0.0);
        for (now, answer) in [(1003, Ask::Declined), (1029, Ask::Declined), (1030, Ask::Wait), (1031, Ask::Wait)] {
            assert_eq!(plan.ask(now), answer, "{now}");
        }
        assert_eq!(plan.due, 1030);
    }

    #[test]
    fn a_clock_that_is_set_back_does_not_stop_fetching() {
        let mut plan = plan();
        plan.began(1_000_000);
        plan.succeeded(1_000_000, 0.0);
        for (now, pause) in [(1_000_000, 3600), (1_003_599, 1), (1_003_600, 0), (9_000_000, 0), (999_999, 0), (1000, 0)]
        {
            assert_eq!(plan.pause(now), pause, "{now}");
        }
        assert_eq!(plan.ask(1000), Ask::Wait);
    }
}
