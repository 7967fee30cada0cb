//! When to ask again: after a failure later each time, and never all sidecars together.

use std::time::Duration;

/// How often things are looked at.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// The longest sleep. A machine that was asleep itself finds its clock ahead of its timers.
    pub look: Duration,
    /// Between two questions for roots and revocation lists.
    pub trust: Duration,
    /// The first pause after a failure; it doubles.
    pub retry: Duration,
    /// The longest pause after failures.
    pub retry_most: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            look: Duration::from_secs(10),
            trust: Duration::from_secs(300),
            retry: Duration::from_secs(1),
            retry_most: Duration::from_secs(120),
        }
    }
}

impl Pace {
    /// The pause after so many failures in a row, between half and all of it by `draw`.
    pub(crate) fn pause(&self, failures: u32, draw: u64) -> Duration {
        let doubled = self.retry.saturating_mul(1_u32.checked_shl(failures.saturating_sub(1).min(20)).unwrap_or(1));
        let whole = doubled.min(self.retry_most);
        whole / 2 + whole / 2 / 1000 * u32::try_from(draw % 1001).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_limit_and_are_drawn_from_their_upper_half() {
        let pace = Pace::default();
        for (failures, least, most) in [(1, 500, 1_000), (2, 1_000, 2_000), (5, 8_000, 16_000), (40, 60_000, 120_000)] {
            let pause = |draw| pace.pause(failures, draw).as_millis();
            assert_eq!((pause(0), pause(1000)), (least, most), "{failures}");
            assert!((least..=most).contains(&pause(u64::MAX)) && pause(3) != pause(900));
        }
    }
}
