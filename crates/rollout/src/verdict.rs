//! The gate: the new version against the old, and against the objective.
//!
//! Decides from figures alone and knows neither steps nor time; [`crate::Rollout`] does.

use crate::{
    BurnAlert, Candidate, Figures, Gate, Severity,
    evidence::{Evidence, Limit, Proportion},
    slo::budget,
};
use portcullis_names::ObjectName;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Why a release failed its gate; `as_str` is the metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// Most of its requests fail: that is seen before there are `min_requests`.
    Broken,
    /// It fails more often than the old version.
    ErrorRatio,
    /// It spends the error budget too fast.
    Burn,
    /// It answers later than the old version.
    Latency,
}

impl Failure {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Broken => "broken",
            Self::ErrorRatio => "error_ratio",
            Self::Burn => "burn",
            Self::Latency => "latency",
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Verdict {
    Pass(String),
    /// Neither good nor bad enough yet, or not the moment.
    Wait(String),
    Fail(Failure, String),
}

/// What one verdict is about.
#[derive(Debug)]
pub(crate) struct Case<'c> {
    pub(crate) gate: &'c Gate,
    pub(crate) from: &'c ObjectName,
    pub(crate) to: &'c ObjectName,
    pub(crate) step: Span<'c>,
    pub(crate) recent: Span<'c>,
    pub(crate) held: Held,
    pub(crate) candidate: Candidate,
    pub(crate) alert: Option<BurnAlert>,
}

/// Both versions over the same time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span<'c> {
    pub(crate) new: &'c Figures,
    /// `None`: too little is known of the old version.
    pub(crate) old: Option<&'c Figures>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Held {
    /// There is more to see.
    NotYet,
    LongEnough,
}

/// Standard errors that make a fault certain while the step may still be watched: one tick in 30,000 at the limit itself.
const CERTAIN: f64 = 4.0;
/// The same once the step has been held: what is left is to decide.
const CERTAIN_ENOUGH: f64 = 3.0;
/// A release that fails more than this is broken …
const BROKEN_SHARE: f64 = 0.5;
/// … and this many requests show it.
const BROKEN_REQUESTS: u64 = 20;
/// A baseline is taken to fail at least so much: against one that never fails, any error would be infinitely worse.
const BASELINE_FLOOR: f64 = 0.001;
/// An old version that spends the budget too fast itself is no better than a new one that spends it so much faster.
const SHARED_TROUBLE: f64 = 1.5;
/// The p99 of fewer good answers than this is just the slowest of them.
const P99_ANSWERS_MIN: u64 = 100;
/// What the 99th percentile leaves above it.
const P99_TAIL: f64 = 0.01;
/// A baseline faster than this counts as this: no user feels what lies below, and scheduling alone is as much.
const P99_FLOOR: Duration = Duration::from_millis(2);

impl Case<'_> {
    pub(crate) fn judge(&self) -> Verdict {
        for span in [self.recent, self.step] {
            if let Some(reason) = self.broken(span) {
                return Verdict::Fail(Failure::Broken, reason);
            }
        }
        let certainty = match self.held {
            Held::NotYet => CERTAIN,
            Held::LongEnough => CERTAIN_ENOUGH,
        };
        let mut doubt = None;
        // The recent past too: a fault that comes after hours of good service must not hide behind them.
        for (span, certainty) in [(self.step, certainty), (self.recent, CERTAIN)] {
            if span.new.total() < self.gate.min_requests {
                continue;
            }
            for (evidence, failure, reason) in self.checks(span, certainty) {
                match evidence {
                    Evidence::Beyond => return Verdict::Fail(failure, reason()),
                    Evidence::Doubtful if doubt.is_none() => doubt = Some(reason()),
                    Evidence::Doubtful | Evidence::Within => {}
                }
            }
        }
        match self.blocked(doubt) {
            Some(reason) => Verdict::Wait(reason),
            None => Verdict::Pass(self.summary()),
        }
    }

    /// What keeps a release that has not failed from being promoted.
    fn blocked(&self, doubt: Option<String>) -> Option<String> {
        let (to, seen, wanted) = (self.to, self.step.new.total(), self.gate.min_requests);
        if seen < wanted {
            return Some(format!("{to} has had {seen} of the {wanted} requests that a verdict takes"));
        }
        if let Some(reason) = self.held_back() {
            return Some(reason);
        }
        match self.held {
            Held::NotYet => Some("the hold is not over".to_owned()),
            Held::LongEnough => doubt.map(|doubt| format!("{doubt}; that may be chance, and more requests will tell")),
        }
    }

    /// What forbids a promotion whatever the figures of the new version are.
    pub(crate) fn held_back(&self) -> Option<String> {
        if self.candidate == Candidate::Absent {
            return Some(format!("no endpoint of {} is up", self.to));
        }
        // A ticket stands for days and may be what the release cures; a page means that nobody should change anything.
        let alert = self.alert.filter(|alert| alert.severity == Severity::Page)?;
        let slo = self.gate.slo.as_ref()?;
        Some(format!("slo {} burns its error budget {:.1} times too fast", slo.name, alert.burn))
    }

    /// Whether the release plainly fails, and the old version does not fail with it.
    fn broken(&self, span: Span<'_>) -> Option<String> {
        let counts = span.new.counts;
        if counts.total() < BROKEN_REQUESTS || counts.bad_ratio() < BROKEN_SHARE {
            return None;
        }
        let to_blame = span
            .old
            .is_none_or(|old| errors(span.new).weigh(Limit::times(1.0, errors(old)), CERTAIN) == Evidence::Beyond);
        to_blame.then(|| format!("{} fails {} of {} requests", self.to, percent(counts.bad_ratio()), counts.total()))
    }

    fn checks<'s>(&'s self, span: Span<'s>, certainty: f64) -> Vec<Check<'s>> {
        let found = [
            Some(self.error_ratio(span, certainty)),
            self.burn(span, certainty),
            self.slow_burn(span, certainty),
            span.old.and_then(|old| self.latency(span.new, old, certainty)),
        ];
        found.into_iter().flatten().collect()
    }

    fn error_ratio<'s>(&'s self, span: Span<'s>, certainty: f64) -> Check<'s> {
        let new = errors(span.new);
        // Without a baseline no failure is certain to be the release's, but none is let pass either.
        let old = span.old.map_or(Proportion::UNKNOWN, errors);
        let factor = self.gate.max_error_ratio_over_baseline;
        let limit = Limit::times(factor, old).at_least(factor * BASELINE_FLOOR);
        let reason = move || {
            let (share, of, most) = (percent(new.share()), span.new.total(), percent(limit.share));
            let baseline = match span.old {
                Some(old) => format!("{} fails {} of {}", self.from, percent(old.counts.bad_ratio()), old.total()),
                None => format!("nothing is known of {}", self.from),
            };
            format!("{} fails {share} of {of} requests, over the limit of {most} ({baseline})", self.to)
        };
        (new.weigh(limit, certainty), Failure::ErrorRatio, Box::new(reason))
    }

    fn burn<'s>(&'s self, span: Span<'s>, certainty: f64) -> Option<Check<'s>> {
        let slo = self.gate.slo.as_ref()?;
        let budget = budget(slo.availability?);
        // Trouble that both versions share is not the release's, and the objective's own alert holds it back.
        let limit = Limit::fixed(self.gate.max_burn * budget);
        let limit = match span.old {
            Some(old) => limit.or_more(Limit::times(SHARED_TROUBLE, errors(old))),
            None => limit,
        };
        let new = errors(span.new);
        let reason = move || {
            format!(
                "{} spends the error budget of slo {} {:.1} times too fast (limit {}): {} of {} requests fail",
                self.to,
                slo.name,
                new.share() / budget,
                self.gate.max_burn,
                percent(new.share()),
                span.new.total(),
            )
        };
        Some((new.weigh(limit, certainty), Failure::Burn, Box::new(reason)))
    }

    fn slow_burn<'s>(&'s self, span: Span<'s>, certainty: f64) -> Option<Check<'s>> {
        let slo = self.gate.slo.as_ref()?;
        let latency = slo.latency?;
        let budget = budget(latency.target);
        let slow = |figures: &Figures| Proportion::new(figures.counts.slow as f64, figures.counts.good);
        let limit = Limit::fixed(self.gate.max_burn * budget);
        let limit = match span.old {
            Some(old) => limit.or_more(Limit::times(SHARED_TROUBLE, slow(old))),
            None => limit,
        };
        let new = slow(span.new);
        let reason = move || {
            format!(
                "{} spends the latency budget of slo {} {:.1} times too fast (limit {}): {} of {} answers take more than {}",
                self.to,
                slo.name,
                new.share() / budget,
                self.gate.max_burn,
                percent(new.share()),
                span.new.counts.good,
                millis(latency.under),
            )
        };
        Some((new.weigh(limit, certainty), Failure::Burn, Box::new(reason)))
    }

    /// The new p99 is over a limit exactly when more than 1 % of the answers are: that is a proportion, and can be tested.
    fn latency<'s>(&'s self, new: &'s Figures, old: &'s Figures, certainty: f64) -> Option<Check<'s>> {
        if old.counts.good < P99_ANSWERS_MIN {
            return None;
        }
        let baseline = old.p99()?;
        let longest = baseline.max(P99_FLOOR).mul_f64(self.gate.max_latency_ratio);
        let over = |figures: &Figures| Proportion::new(figures.latency.slower_than(longest), figures.counts.good);
        let limit = Limit::times(1.0, over(old)).at_least(P99_TAIL);
        let reason = move || {
            format!(
                "the p99 of {} is {} over {} answers, over the limit of {} (p99 of {}: {})",
                self.to,
                new.p99().map_or("unknown".to_owned(), millis),
                new.counts.good,
                millis(longest),
                self.from,
                millis(baseline),
            )
        };
        Some((over(new).weigh(limit, certainty), Failure::Latency, Box::new(reason)))
    }

    fn summary(&self) -> String {
        let side = |name: &ObjectName, figures: &Figures| {
            let p99 = figures.p99().map(|p99| format!(", p99 {}", millis(p99))).unwrap_or_default();
            format!("{name} fails {} of {} requests{p99}", percent(figures.counts.bad_ratio()), figures.total())
        };
        match self.step.old {
            Some(old) => format!("{} ({})", side(self.to, self.step.new), side(self.from, old)),
            None => side(self.to, self.step.new),
        }
    }
}

/// What one check found, and the words for it, which are only wanted when it found something.
type Check<'s> = (Evidence, Failure, Box<dyn Fn() -> String + 's>);

fn errors(figures: &Figures) -> Proportion {
    Proportion::new(figures.counts.bad as f64, figures.counts.total())
}

/// `0.12%`: two digits after the point are enough, and none when there is nothing to show.
fn percent(share: f64) -> String {
    let text = format!("{:.2}", share * 100.0);
    format!("{}%", text.trim_end_matches('0').trim_end_matches('.'))
}

fn millis(time: Duration) -> String {
    let millis = time.as_secs_f64() * 1e3;
    if millis < 10.0 { format!("{millis:.1}ms") } else { format!("{millis:.0}ms") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Counts, LatencyHistogram, Slo};
    use std::sync::Arc;

    fn figures(good: u64, bad: u64, millis: u64) -> Figures {
        let mut latency = LatencyHistogram::default();
        latency.add(crate::latency_bucket(Duration::from_millis(millis)), good);
        Figures { counts: Counts { good, bad, slow: 0 }, latency }
    }

    fn gate() -> Gate {
        Gate { slo: None, min_requests: 100, max_burn: 2.0, max_error_ratio_over_baseline: 2.0, max_latency_ratio: 1.5 }
    }

    /// Over a step that nothing recent is known of.
    fn judge(gate: &Gate, new: &Figures, old: Option<&Figures>, held: Held) -> Verdict {
        let (from, to) = ("shop".parse().unwrap(), "shop-v2".parse().unwrap());
        let (step, recent) = (Span { new, old }, Span { new: &Figures::default(), old: None });
        let candidate = Candidate::Ready;
        Case { gate, from: &from, to: &to, step, recent, held, candidate, alert: None }.judge()
    }

    fn word(verdict: &Verdict) -> &'static str {
        match verdict {
            Verdict::Pass(_) => "pass",
            Verdict::Wait(_) => "wait",
            Verdict::Fail(failure, _) => failure.as_str(),
        }
    }

    #[test]
    fn errors_are_judged_by_how_many_there_are_and_how_sure_that_is() {
        for (good, bad, old_good, old_bad, held, early) in [
            (100, 0, 10_000, 0, "pass", "wait"),
            (99, 0, 10_000, 0, "wait", "wait"),
            (99, 1, 10_000, 0, "wait", "wait"),
            (999, 1, 10_000, 0, "pass", "wait"),
            (0, 19, 10_000, 0, "wait", "wait"),
            (0, 20, 10_000, 0, "broken", "broken"),
            (10, 10, 10_000, 0, "broken", "broken"),
            (11, 9, 10_000, 0, "wait", "wait"),
            (0, 5_000, 0, 10_000, "pass", "wait"),
            (970, 30, 9_900, 100, "wait", "wait"),
            (900, 100, 9_900, 100, "error_ratio", "error_ratio"),
            (985, 15, 10_000, 0, "error_ratio", "wait"),
            (980, 20, 9_900, 100, "pass", "wait"),
        ] {
            let (new, old) = (figures(good, bad, 10), figures(old_good, old_bad, 10));
            let what = format!("{good}+{bad} against {old_good}+{old_bad}");
            assert_eq!(word(&judge(&gate(), &new, Some(&old), Held::LongEnough)), held, "{what}");
            assert_eq!(word(&judge(&gate(), &new, Some(&old), Held::NotYet)), early, "{what}, early");
        }
    }

    #[test]
    fn without_a_baseline_what_fails_waits_and_what_is_broken_fails() {
        for (good, bad, expected) in
            [(1_000, 0, "pass"), (9_999, 1, "pass"), (900, 100, "wait"), (0, 19, "wait"), (0, 20, "broken")]
        {
            let mut gate = gate();
            gate.min_requests = 1;
            let verdict = judge(&gate, &figures(good, bad, 10), None, Held::LongEnough);
            assert_eq!(word(&verdict), expected, "{good}+{bad}: {verdict:?}");
        }
    }

    #[test]
    fn latency_is_judged_by_the_p99_of_the_old_version() {
        for (good, millis, old_good, old_millis, expected) in [
            (1_000, 100, 10_000, 100, "pass"),
            (1_000, 130, 10_000, 100, "pass"),
            (1_000, 200, 10_000, 100, "latency"),
            (1_000, 10, 10_000, 100, "pass"),
            // The p99 of a handful is no baseline, and below 2ms nobody feels anything.
            (1_000, 200, 99, 100, "pass"),
            (1_000, 2, 10_000, 1, "pass"),
            (1_000, 5, 10_000, 1, "latency"),
        ] {
            let (new, old) = (figures(good, 0, millis), figures(old_good, 0, old_millis));
            let verdict = judge(&gate(), &new, Some(&old), Held::LongEnough);
            assert_eq!(word(&verdict), expected, "{millis}ms against {old_millis}ms: {verdict:?}");
        }
    }

    #[test]
    fn the_objective_is_a_limit_of_its_own_unless_the_old_version_breaks_it_as_well() {
        let slo = Slo {
            name: "shop".parse().unwrap(),
            route: "shop".parse().unwrap(),
            availability: Some("99.99%".parse().unwrap()),
            latency: Some(crate::LatencyObjective {
                target: "99%".parse().unwrap(),
                under: Duration::from_millis(300),
            }),
            window: Duration::from_secs(86_400),
        };
        let mut gate = gate();
        gate.slo = Some(Arc::new(slo));
        for (bad, slow, old_bad, old_slow, expected) in [
            (0, 0, 0, 0, "pass"),
            (150, 0, 0, 0, "burn"),
            (150, 0, 150, 0, "pass"),
            (0, 10_000, 0, 0, "burn"),
            (0, 10_000, 0, 10_000, "pass"),
            (0, 1_500, 0, 0, "pass"),
        ] {
            let side = |bad: u64, slow: u64| {
                let mut figures = figures(100_000 - bad, bad, 10);
                figures.counts.slow = slow;
                figures
            };
            let (new, old) = (side(bad, slow), side(old_bad, old_slow));
            let verdict = judge(&gate, &new, Some(&old), Held::LongEnough);
            assert_eq!(word(&verdict), expected, "{bad} {slow} against {old_bad} {old_slow}: {verdict:?}");
        }
    }
}
