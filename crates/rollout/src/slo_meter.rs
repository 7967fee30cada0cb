//! How much of an error budget is left, and how fast it goes.
//!
//! Burn rates and their alerts follow the Google SRE workbook, chapter 5 ("Alerting on SLOs", multiwindow, multi-burn-rate):
//! an alert needs a long window, so that a blip is not one, and a short window, so that it ends when the trouble ends.

use crate::{
    Counts, Moment, Slo,
    bucket_ring::{BucketRing, Slot},
};
use serde::{Deserialize, Serialize};
use std::{sync::Arc, time::Duration};

/// Counts of one route against its objective. Bounded: at most some 100 KiB whatever the traffic.
#[derive(Debug, Clone)]
pub struct SloMeter {
    slo: Arc<Slo>,
    /// For windows up to six hours.
    fine: BucketRing,
    /// For the longer ones and the budget.
    coarse: BucketRing,
}

/// A window over which the burn rate is told, and when that is worth an alert.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BurnWindow {
    pub long: Duration,
    pub short: Duration,
    /// The burn rate over both at which the alert stands.
    pub threshold: f64,
    pub severity: Severity,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Somebody should look in working hours.
    Ticket,
    /// Somebody must look now.
    Page,
}

const MINUTE: u64 = 60;
const HOUR: u64 = 3_600;
const DAY: u64 = 86_400;

/// The workbook's table 5-8: 2 % of a 30-day budget in an hour, 5 % in six, 10 % in one day and in three.
pub const BURN_WINDOWS: [BurnWindow; 4] = [
    BurnWindow::new(HOUR, 5 * MINUTE, 14.4, Severity::Page),
    BurnWindow::new(6 * HOUR, 30 * MINUTE, 6.0, Severity::Page),
    BurnWindow::new(DAY, 2 * HOUR, 3.0, Severity::Ticket),
    BurnWindow::new(3 * DAY, 6 * HOUR, 1.0, Severity::Ticket),
];

/// Fine enough for the shortest window.
const FINE_BUCKET: Duration = Duration::from_secs(30);
const FINE_SPAN: Duration = Duration::from_secs(6 * HOUR);
const COARSE_BUCKET: Duration = Duration::from_secs(HOUR);
/// The burn rate of three days is told even of an objective over an hour.
const COARSE_SPAN_MIN: Duration = Duration::from_secs(3 * DAY);
/// Fewer requests in the short window than this are no alert: one failure among ten at night is not a fast burn.
const ALERT_REQUESTS_MIN: u64 = 20;

impl BurnWindow {
    const fn new(long: u64, short: u64, threshold: f64, severity: Severity) -> Self {
        Self { long: Duration::from_secs(long), short: Duration::from_secs(short), threshold, severity }
    }
}

/// The budget burns too fast.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct BurnAlert {
    pub severity: Severity,
    /// Over this time (seconds) …
    pub window_seconds: u64,
    /// … at this multiple of what the budget allows …
    pub burn: f64,
    /// … which is more than this.
    pub threshold: f64,
}

/// The burn rate over one window.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct WindowBurn {
    pub window_seconds: u64,
    pub burn: f64,
    pub requests: u64,
}

/// Everything there is to tell, for metrics, the admin interface and the command line.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SloReport {
    pub slo: String,
    pub route: String,
    /// Fraction of the error budget that is left over the objective's window; below zero when overspent.
    pub budget_left: f64,
    pub requests: u64,
    pub burn: Vec<WindowBurn>,
    pub alert: Option<BurnAlert>,
}

/// What is kept on disk. Versions that this program does not know are started anew.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    version: u32,
    fine: Vec<Slot>,
    coarse: Vec<Slot>,
}

const SAVED_VERSION: u32 = 1;

impl SloMeter {
    pub fn new(slo: Arc<Slo>) -> Self {
        let span = slo.window.max(COARSE_SPAN_MIN);
        Self {
            slo,
            fine: BucketRing::new(FINE_BUCKET, FINE_SPAN),
            // One more for the hour that is being filled.
            coarse: BucketRing::new(COARSE_BUCKET, span + COARSE_BUCKET),
        }
    }

    /// The same counts under a changed objective: a reload forgets no budget.
    pub fn with_slo(&self, slo: Arc<Slo>, now: Moment) -> Self {
        let mut meter = Self::new(slo);
        // Slow was counted against the old limit, and there is no telling what it would be under the new one.
        let forget_slow = self.slo.latency != meter.slo.latency;
        for (from, to) in [(&self.fine, &mut meter.fine), (&self.coarse, &mut meter.coarse)] {
            let mut slots = from.filled();
            if forget_slow {
                slots.iter_mut().for_each(Slot::forget_slow);
            }
            to.refill(&slots, now);
        }
        meter
    }

    pub fn slo(&self) -> &Arc<Slo> {
        &self.slo
    }

    /// Takes in what happened since the last call: deltas of counters, not their values.
    pub fn record(&mut self, since_last: Counts, now: Moment) {
        if !since_last.is_empty() {
            self.fine.add(since_last, now);
            self.coarse.add(since_last, now);
        }
    }

    /// What happened over the last `window`.
    pub fn counts(&self, window: Duration, now: Moment) -> Counts {
        let ring = if window <= FINE_SPAN { &self.fine } else { &self.coarse };
        ring.sum(window, now)
    }

    /// How many times faster than allowed the budget went over the last `window`; zero without requests.
    pub fn burn(&self, window: Duration, now: Moment) -> f64 {
        self.slo.burn(self.counts(window, now))
    }

    /// Fraction of the budget that is left; below zero when overspent.
    pub fn budget_left(&self, now: Moment) -> f64 {
        1.0 - self.slo.burn(self.counts(self.slo.window, now))
    }

    /// The most severe alert that stands.
    pub fn alert(&self, now: Moment) -> Option<BurnAlert> {
        // The most severe come first.
        BURN_WINDOWS.iter().find_map(|window| {
            let burn = self.burn(window.long, now);
            let recent = self.counts(window.short, now);
            let burns = burn > window.threshold && self.slo.burn(recent) > window.threshold;
            (burns && recent.total() >= ALERT_REQUESTS_MIN).then_some(BurnAlert {
                severity: window.severity,
                window_seconds: window.long.as_secs(),
                burn,
                threshold: window.threshold,
            })
        })
    }

    pub fn report(&self, now: Moment) -> SloReport {
        let mut spans: Vec<_> = BURN_WINDOWS.iter().flat_map(|window| [window.short, window.long]).collect();
        spans.sort_unstable();
        spans.dedup();
        let burn = spans.into_iter().map(|span| {
            let counts = self.counts(span, now);
            WindowBurn { window_seconds: span.as_secs(), burn: self.slo.burn(counts), requests: counts.total() }
        });
        SloReport {
            slo: self.slo.name.to_string(),
            route: self.slo.route.to_string(),
            budget_left: self.budget_left(now),
            requests: self.counts(self.slo.window, now).total(),
            burn: burn.collect(),
            alert: self.alert(now),
        }
    }

    /// The counts as text to keep.
    pub fn save(&self) -> String {
        let saved = Saved { version: SAVED_VERSION, fine: self.fine.filled(), coarse: self.coarse.filled() };
        // Numbers, names and lists: there is nothing in it that JSON cannot say.
        serde_json::to_string(&saved).unwrap_or_default()
    }

    /// The counts that [`SloMeter::save`] kept. What cannot be read is an empty meter, and the warning says why.
    pub fn restore(slo: Arc<Slo>, saved: &str, now: Moment) -> (Self, Option<String>) {
        let mut meter = Self::new(slo);
        let warning = match serde_json::from_str::<Saved>(saved) {
            Ok(saved) if saved.version == SAVED_VERSION => {
                meter.fine.refill(&saved.fine, now);
                meter.coarse.refill(&saved.coarse, now);
                None
            }
            Ok(Saved { version, .. }) => {
                Some(format!("is of version {version}, and this program reads {SAVED_VERSION}"))
            }
            Err(error) => Some(format!("cannot be read: {error}")),
        };
        let name = &meter.slo.name;
        let warning =
            warning.map(|why| format!("slo \"{name}\": the kept state {why}; the error budget is counted anew"));
        (meter, warning)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LatencyObjective;

    fn slo(availability: Option<&str>, latency: Option<&str>) -> Arc<Slo> {
        Arc::new(Slo {
            name: "shop".parse().unwrap(),
            route: "shop".parse().unwrap(),
            availability: availability.map(|target| target.parse().unwrap()),
            latency: latency
                .map(|target| LatencyObjective { target: target.parse().unwrap(), under: Duration::from_millis(300) }),
            window: Duration::from_secs(30 * DAY),
        })
    }

    fn at(seconds: u64) -> Moment {
        Moment::from_unix_millis(1_700_000_000_000 + seconds * 1_000)
    }

    /// A request a second for each, a tick every ten: the error ratio of each stretch of time.
    fn play(meter: &mut SloMeter, stretches: &[(u64, f64)]) -> Moment {
        let (mut second, mut owed) = (0, 0.0);
        for (length, error_ratio) in stretches {
            for _ in 0..length / 10 {
                owed += 1_000.0 * error_ratio;
                let bad = owed as u64;
                owed -= bad as f64;
                meter.record(Counts { good: 1_000 - bad, bad, slow: 0 }, at(second));
                second += 10;
            }
        }
        at(second.saturating_sub(10))
    }

    #[test]
    fn alerts_stand_at_the_rates_of_the_workbook_and_end_with_the_trouble() {
        use Severity::*;
        for (what, stretches, expected) in [
            ("all is well", &[(3 * DAY, 0.0005)][..], None),
            ("spends exactly the budget", &[(3 * DAY, 0.000_99)], None),
            ("a blip", &[(DAY, 0.0), (MINUTE, 0.05)], None),
            ("14.4 times over an hour", &[(DAY, 0.0), (HOUR, 0.016)], Some((Page, HOUR))),
            ("all fails for five minutes", &[(DAY, 0.0), (5 * MINUTE, 1.0)], Some((Page, HOUR))),
            ("it was bad and is well again", &[(DAY, 0.0), (HOUR, 0.016), (10 * MINUTE, 0.0)], None),
            ("7 times over six hours", &[(DAY, 0.0), (6 * HOUR, 0.007)], Some((Page, 6 * HOUR))),
            ("4 times over a day", &[(DAY, 0.0), (DAY, 0.004)], Some((Ticket, DAY))),
            ("twice over three days", &[(3 * DAY, 0.002)], Some((Ticket, 3 * DAY))),
        ] {
            let mut meter = SloMeter::new(slo(Some("99.9%"), None));
            let now = play(&mut meter, stretches);
            let alert = meter.alert(now).map(|alert| (alert.severity, alert.window_seconds));
            assert_eq!(alert, expected, "{what}");
        }
    }

    #[test]
    fn the_budget_goes_with_bad_requests_and_comes_back_with_time() {
        let mut meter = SloMeter::new(slo(Some("99.9%"), None));
        assert_eq!(meter.budget_left(at(0)), 1.0);
        let now = play(&mut meter, &[(DAY, 0.0005)]);
        assert!((meter.budget_left(now) - 0.5).abs() < 0.01, "{}", meter.budget_left(now));
        meter.record(Counts { bad: 100_000, ..Counts::default() }, now);
        assert!(meter.budget_left(now) < -9.0);
        assert_eq!(meter.budget_left(now.plus(Duration::from_secs(31 * DAY))), 1.0);
    }

    #[test]
    fn the_objective_in_more_trouble_is_told() {
        let counts = Counts { good: 990, bad: 10, slow: 99 };
        for (availability, latency, burn) in [
            (Some("99%"), None, 1.0),
            (None, Some("99%"), 10.0),
            (Some("99%"), Some("99%"), 10.0),
            (Some("99.9%"), Some("90%"), 10.0),
        ] {
            let told = slo(availability, latency).burn(counts);
            assert!((told - burn).abs() < 1e-6, "{availability:?} {latency:?}: {told}");
        }
    }

    #[test]
    fn a_few_failures_at_night_are_no_alert() {
        let mut meter = SloMeter::new(slo(Some("99.9%"), None));
        meter.record(Counts { good: 8, bad: 2, slow: 0 }, at(0));
        assert_eq!(meter.alert(at(1)), None);
        meter.record(Counts { good: 8, bad: 2, slow: 0 }, at(2));
        assert!(meter.alert(at(3)).is_some());
    }

    #[test]
    fn counts_survive_a_restart_and_a_changed_objective() {
        let mut meter = SloMeter::new(slo(Some("99.9%"), Some("99%")));
        let now = play(&mut meter, &[(DAY, 0.002)]);
        let (again, warning) = SloMeter::restore(meter.slo().clone(), &meter.save(), now);
        assert_eq!((again.report(now), warning), (meter.report(now), None));
        let stricter = meter.with_slo(slo(Some("99.99%"), None), now);
        assert!((stricter.burn(Duration::from_secs(HOUR), now) - 20.0).abs() < 0.1);
    }

    #[test]
    fn state_that_cannot_be_read_is_an_empty_meter_and_a_warning() {
        for (saved, why) in [
            ("", "cannot be read"),
            ("{\"version\":1}", "missing field"),
            ("{\"version\":9,\"fine\":[],\"coarse\":[]}", "is of version 9"),
        ] {
            let (meter, warning) = SloMeter::restore(slo(Some("99%"), None), saved, at(0));
            assert!(warning.as_ref().unwrap().contains(why), "{warning:?}");
            assert_eq!(meter.budget_left(at(0)), 1.0);
        }
    }

    #[test]
    fn memory_has_a_limit_whatever_the_window() {
        let mut longest = (*slo(Some("99%"), None)).clone();
        longest.window = Duration::from_secs(90 * DAY);
        let mut meter = SloMeter::new(Arc::new(longest));
        for hour in 0..4_000 {
            meter.record(Counts { good: 1, ..Counts::default() }, at(hour * HOUR));
        }
        assert!(meter.coarse.filled().len() <= 90 * 24 + 1 && meter.fine.filled().len() <= 720);
        assert_eq!(meter.counts(Duration::from_secs(90 * DAY), at(3_999 * HOUR)).total(), 90 * 24);
    }
}
