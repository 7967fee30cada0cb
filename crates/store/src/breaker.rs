//! When a failing store is left alone, and when it is tried again. Pure: the driver tells it what happened.

use std::time::{Duration, Instant};

/// Opens after failures in a row; after a pause one probe (of the driver, never of a request) closes it or doubles the pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Breaker {
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed { failures: u32 },
    Open { until: Instant, pause: Duration },
}

/// Fewer could be one restart or one slow moment.
const FAILURES_TO_OPEN: u32 = 5;
const PAUSE_MIN: Duration = Duration::from_millis(250);
/// How late a store that came back is noticed at most.
const PAUSE_MAX: Duration = Duration::from_secs(4);

impl Default for State {
    fn default() -> Self {
        Self::Closed { failures: 0 }
    }
}

impl Breaker {
    pub fn success(&mut self) {
        self.state = State::default();
    }

    pub fn failure(&mut self, now: Instant) {
        self.state = match self.state {
            State::Closed { failures } if failures + 1 < FAILURES_TO_OPEN => State::Closed { failures: failures + 1 },
            State::Closed { .. } => State::Open { until: now + PAUSE_MIN, pause: PAUSE_MIN },
            // The probe failed.
            State::Open { until, pause } if now >= until => {
                let pause = (pause * 2).min(PAUSE_MAX);
                State::Open { until: now + pause, pause }
            }
            // A request that was under way when it opened.
            State::Open { until, pause } => State::Open { until, pause },
        };
    }

    /// When to probe; `None`: it is closed, requests go through.
    pub fn open_until(&self) -> Option<Instant> {
        match self.state {
            State::Closed { .. } => None,
            State::Open { until, .. } => Some(until),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(now: Instant) -> Breaker {
        let mut breaker = Breaker::default();
        (0..FAILURES_TO_OPEN).for_each(|_| breaker.failure(now));
        breaker
    }

    #[test]
    fn it_opens_after_failures_in_a_row_only() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        for _ in 0..10 {
            (1..FAILURES_TO_OPEN).for_each(|_| breaker.failure(now));
            assert_eq!(breaker.open_until(), None);
            breaker.success();
        }
        assert_eq!(opened(now).open_until(), Some(now + PAUSE_MIN));
    }

    #[test]
    fn a_failed_probe_doubles_the_pause_and_a_good_one_closes() {
        let now = Instant::now();
        let (mut breaker, mut at) = (opened(now), now);
        for millis in [250, 500, 1_000, 2_000, 4_000, 4_000] {
            let until = breaker.open_until().unwrap();
            assert_eq!(until - at, Duration::from_millis(millis));
            at = until;
            breaker.failure(at);
        }
        breaker.success();
        assert_eq!(breaker, Breaker::default());
    }

    #[test]
    fn what_was_under_way_when_it_opened_does_not_lengthen_the_pause() {
        let now = Instant::now();
        let mut breaker = opened(now);
        breaker.failure(now + Duration::from_millis(1));
        assert_eq!(breaker, opened(now));
    }
}
