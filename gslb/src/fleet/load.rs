//! Load feedback: the part of its clients that a loaded site keeps. Damped, because resolvers follow late and what is measured
//! now is an answer to what was said a while ago. Pure: time comes in.

use portcullis_names::Percent;
use std::time::{Duration, Instant};

/// How much of its share a site is given, in thousandths.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Damper {
    share: u16,
    moved: Option<Instant>,
}

const FULL: u16 = 1_000;
/// A site that is given nothing can never show that it has room.
const LEAST: u16 = 100;
/// A share moves by at most this much each step.
const STEP: u16 = 100;
const STEP_EVERY: Duration = Duration::from_secs(5);

impl Default for Damper {
    fn default() -> Self {
        Self { share: FULL, moved: None }
    }
}

impl Damper {
    pub(crate) fn share(&self) -> u16 {
        self.share
    }

    /// `load`: thousandths of what the site can carry; `None`: nobody knows, and it goes back to its full share. `ttl`: how
    /// long resolvers hold on to what they were told; no step shows its effect sooner.
    pub(crate) fn step(&mut self, load: Option<u16>, target: Percent, ttl: Duration, now: Instant) {
        let pause = ttl.max(STEP_EVERY);
        if self.moved.is_some_and(|moved| now.saturating_duration_since(moved) < pause) {
            return;
        }
        let wanted = self.wanted(load, target);
        let next = wanted.clamp(self.share.saturating_sub(STEP), self.share.saturating_add(STEP)).clamp(LEAST, FULL);
        if next != self.share {
            (self.share, self.moved) = (next, Some(now));
        }
    }

    /// What would bring the load to the target, if clients came in proportion.
    fn wanted(&self, load: Option<u16>, target: Percent) -> u16 {
        let Some(load) = load else { return FULL };
        let target = target.fraction() * f64::from(FULL);
        if f64::from(load) <= target && self.share == FULL {
            return FULL;
        }
        // The cast saturates; a site without load is at its target with any share.
        let scaled = f64::from(self.share) * target / f64::from(load.max(1));
        (scaled as u16).clamp(LEAST, FULL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target() -> Percent {
        Percent::from_whole(80)
    }

    #[test]
    fn a_share_moves_by_a_tenth_at_a_time_and_no_faster_than_resolvers_follow() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut site = Damper::default();
        for (second, load, ttl, share) in [
            (0, Some(500), 1, 1_000),
            (1, Some(1_600), 1, 900),
            (3, Some(1_600), 1, 900),
            (6, Some(1_600), 1, 800),
            (11, Some(1_600), 20, 800),
            (26, Some(1_600), 20, 700),
            (60, Some(780), 1, 717),
            (70, None, 1, 817),
            (80, None, 1, 917),
            (90, None, 1, 1_000),
        ] {
            site.step(load, target(), Duration::from_secs(ttl), at(second));
            assert_eq!(site.share(), share, "{second}");
        }
    }

    #[test]
    fn it_comes_to_rest_where_the_load_is_at_its_target_and_never_at_nothing() {
        let start = Instant::now();
        let mut site = Damper::default();
        let mut now = start;
        // A site whose load follows its share.
        for _ in 0..100 {
            now += Duration::from_secs(5);
            let load = u32::from(site.share()) * 1_600 / 1_000;
            site.step(u16::try_from(load).ok(), target(), Duration::from_secs(1), now);
        }
        assert!((480..=520).contains(&site.share()), "{}", site.share());
        for _ in 0..100 {
            now += Duration::from_secs(5);
            site.step(Some(65_000), target(), Duration::from_secs(1), now);
        }
        assert_eq!(site.share(), LEAST);
    }
}
