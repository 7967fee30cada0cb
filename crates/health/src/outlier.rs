//! `outlier = { … }`: which answers to real requests take an endpoint out (Envoy: outlier detection).
//!
//! Decides only; who counts and who is told is `upstream`'s business.

use portcullis_config::{Context, Path};
use portcullis_names::{Percent, TimeSpan};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    num::NonZeroU32,
    sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// When an endpoint's answers take it out of use, and for how long. On by default.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OutlierSpec {
    /// Failures in a row: statuses of 500 and above, and tries without an answer (default 5).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consecutive_5xx: Option<NonZeroU32>,
    /// Gateway failures in a row: 502, 503, 504, resets, timeouts, garbage (default 5).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consecutive_gateway: Option<NonZeroU32>,
    /// Connections in a row that could not be made (default 3).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consecutive_connect: Option<NonZeroU32>,
    /// Over an interval, the lowest share of good answers that is borne (default: none).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub success_rate: Option<Percent>,
    /// Over an interval, how many times the median endpoint's mean latency is borne (default: none).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1.1, max = 1000.0))]
    pub latency_factor: Option<f64>,
    /// Answers that an endpoint must have had in an interval to be judged by it (default 20).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_requests: Option<NonZeroU32>,
    /// Default 10s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<TimeSpan>,
    /// How long the first ejection lasts; the n-th in a row lasts n times as long (default 5s: it ends in a trial of one request).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eject: Option<TimeSpan>,
    /// The longest ejection (default 5m).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eject_longest: Option<TimeSpan>,
    /// The largest share of endpoints that may be out by this (default 30%, 100% with a `fallback`, though always one of two or
    /// more); 0% switches it off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_ejected: Option<Percent>,
}

/// The settings with every value settled.
#[derive(Debug, Clone, PartialEq)]
pub struct Outlier {
    pub consecutive_5xx: u32,
    pub consecutive_gateway: u32,
    pub consecutive_connect: u32,
    pub success_rate: Option<f64>,
    pub latency_factor: Option<f64>,
    pub min_requests: u32,
    pub interval: Duration,
    pub eject: Duration,
    pub eject_longest: Duration,
    pub max_ejected: Percent,
}

/// Why an endpoint was ejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EjectReason {
    #[serde(rename = "consecutive_5xx")]
    Consecutive5xx,
    ConsecutiveGateway,
    ConsecutiveConnect,
    SuccessRate,
    Latency,
    /// The one request of its trial failed.
    Trial,
}

impl EjectReason {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Consecutive5xx => "consecutive_5xx",
            Self::ConsecutiveGateway => "consecutive_gateway",
            Self::ConsecutiveConnect => "consecutive_connect",
            Self::SuccessRate => "success_rate",
            Self::Latency => "latency",
            Self::Trial => "trial",
        }
    }
}

impl fmt::Display for EjectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How a try at an endpoint ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TryOutcome {
    /// With a response head after `micros`.
    Answered { status: u16, micros: u64 },
    /// Reset, silence, garbage or an answer cut short.
    Broken,
    /// No connection.
    NotConnected,
}

impl TryOutcome {
    pub const fn is_good(self) -> bool {
        matches!(self, Self::Answered { status: ..=499, .. })
    }
}

/// What an endpoint did: rows of failures, and sums of the present interval.
#[derive(Debug, Default)]
pub struct Streaks {
    failures: AtomicU32,
    gateway: AtomicU32,
    connect: AtomicU32,
    good: AtomicU32,
    bad: AtomicU32,
    micros: AtomicU64,
}

/// The sums of one endpoint over an interval.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct IntervalSums {
    pub good: u32,
    pub bad: u32,
    pub micros: u64,
}

impl OutlierSpec {
    pub fn compile(&self, at: &Path, cx: &mut Context) -> Outlier {
        let interval = self.interval.map_or(Duration::from_secs(10), TimeSpan::get);
        let eject = self.eject.map_or(Duration::from_secs(5), TimeSpan::get);
        let eject_longest = self.eject_longest.map_or(Duration::from_secs(300).max(eject), TimeSpan::get);
        if interval < Duration::from_millis(100) {
            cx.error(&at.key("interval"), "endpoints are compared at most every 100ms");
        }
        if eject.is_zero() {
            cx.error(&at.key("eject"), "an ejection lasts some time").help("`max_ejected = \"0%\"` switches it off");
        }
        if eject_longest < eject {
            cx.error(&at.key("eject_longest"), "shorter than the first ejection, `eject`");
        }
        Outlier {
            consecutive_5xx: self.consecutive_5xx.map_or(5, NonZeroU32::get),
            consecutive_gateway: self.consecutive_gateway.map_or(5, NonZeroU32::get),
            consecutive_connect: self.consecutive_connect.map_or(3, NonZeroU32::get),
            success_rate: self.success_rate.map(Percent::fraction),
            latency_factor: self.latency_factor,
            min_requests: self.min_requests.map_or(20, NonZeroU32::get),
            interval,
            eject,
            eject_longest,
            max_ejected: self.max_ejected.unwrap_or(Percent::from_whole(30)),
        }
    }
}

impl Outlier {
    /// How many of `endpoints` may be out at one time. One may always be when there is another to take its place.
    pub fn ejectable(&self, endpoints: usize) -> usize {
        if self.max_ejected.fraction() == 0.0 || endpoints < 2 {
            return 0;
        }
        ((endpoints as f64 * self.max_ejected.fraction()) as usize).max(1)
    }

    /// Judges all endpoints of an upstream by an interval's sums; gives the index and fault of each that falls out.
    pub fn judge(&self, sums: &[IntervalSums]) -> Vec<(usize, EjectReason)> {
        let judged = |sums: &IntervalSums| sums.good + sums.bad >= self.min_requests;
        let median =
            self.latency_factor.and_then(|factor| Some((factor, median_latency(sums.iter().filter(|s| judged(s)))?)));
        let mut found = Vec::new();
        for (index, sums) in sums.iter().enumerate().filter(|(_, sums)| judged(sums)) {
            let rate = f64::from(sums.good) / f64::from(sums.good + sums.bad);
            if self.success_rate.is_some_and(|lowest| rate < lowest) {
                found.push((index, EjectReason::SuccessRate));
            } else if let (Some((factor, median)), Some(mean)) = (median, sums.mean())
                && mean > median * factor
            {
                found.push((index, EjectReason::Latency));
            }
        }
        found
    }
}

/// Of the endpoints' means; two endpoints alone have no majority to differ from.
fn median_latency<'s>(sums: impl Iterator<Item = &'s IntervalSums>) -> Option<f64> {
    let mut means: Vec<f64> = sums.filter_map(IntervalSums::mean).collect();
    if means.len() < 3 {
        return None;
    }
    means.sort_by(f64::total_cmp);
    means.get(means.len() / 2).copied()
}

impl IntervalSums {
    fn mean(&self) -> Option<f64> {
        let answered = self.good + self.bad;
        (answered > 0).then(|| self.micros as f64 / f64::from(answered))
    }
}

impl Streaks {
    /// Takes in an outcome; gives the rule that it broke, if it did. Rows begin anew after each break.
    pub fn record(&self, outcome: TryOutcome, rules: &Outlier) -> Option<EjectReason> {
        if let TryOutcome::Answered { micros, .. } = outcome {
            self.micros.fetch_add(micros, Relaxed);
        }
        if outcome.is_good() {
            self.good.fetch_add(1, Relaxed);
            // Written only when there is something to forget: the line stays shared between cores.
            for row in [&self.failures, &self.gateway, &self.connect] {
                if row.load(Relaxed) != 0 {
                    row.store(0, Relaxed);
                }
            }
            return None;
        }
        self.bad.fetch_add(1, Relaxed);
        let gateway = !matches!(outcome, TryOutcome::Answered { status, .. } if !matches!(status, 502..=504));
        let connect = outcome == TryOutcome::NotConnected;
        let mut broken = None;
        for (row, counts, most, reason) in [
            (&self.connect, connect, rules.consecutive_connect, EjectReason::ConsecutiveConnect),
            (&self.gateway, gateway, rules.consecutive_gateway, EjectReason::ConsecutiveGateway),
            (&self.failures, true, rules.consecutive_5xx, EjectReason::Consecutive5xx),
        ] {
            if !counts {
                row.store(0, Relaxed);
            } else if row.fetch_add(1, Relaxed) + 1 >= most {
                row.store(0, Relaxed);
                broken = broken.or(Some(reason));
            }
        }
        broken
    }

    /// The sums since the last call.
    pub fn take_interval(&self) -> IntervalSums {
        IntervalSums {
            good: self.good.swap(0, Relaxed),
            bad: self.bad.swap(0, Relaxed),
            micros: self.micros.swap(0, Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(json: &str) -> Outlier {
        let mut cx = Context::default();
        let rules = serde_json::from_str::<OutlierSpec>(json).unwrap().compile(&Path::root(), &mut cx);
        assert!(!cx.report().has_errors());
        rules
    }

    const OK: TryOutcome = TryOutcome::Answered { status: 200, micros: 1 };
    const E500: TryOutcome = TryOutcome::Answered { status: 500, micros: 1 };
    const E503: TryOutcome = TryOutcome::Answered { status: 503, micros: 1 };

    #[test]
    fn rows_of_failures_eject_by_the_first_rule_they_break() {
        use EjectReason::*;
        let rules = rules(r#"{"consecutive_5xx":5,"consecutive_gateway":4,"consecutive_connect":2}"#);
        for (outcomes, expected) in [
            (vec![E500; 4], None),
            (vec![E500; 5], Some(Consecutive5xx)),
            (vec![E500, E500, E500, E500, OK, E500], None),
            (vec![E503; 4], Some(ConsecutiveGateway)),
            (vec![E503, E503, E503, E500, E503], Some(Consecutive5xx)),
            (vec![TryOutcome::NotConnected; 2], Some(ConsecutiveConnect)),
            (vec![TryOutcome::NotConnected, TryOutcome::Broken, TryOutcome::NotConnected], None),
            (vec![TryOutcome::Broken; 4], Some(ConsecutiveGateway)),
            (vec![TryOutcome::Answered { status: 404, micros: 1 }; 50], None),
        ] {
            let streaks = Streaks::default();
            let mut last = None;
            for outcome in &outcomes {
                last = streaks.record(*outcome, &rules);
            }
            assert_eq!(last, expected, "{outcomes:?}");
        }
    }

    #[test]
    fn an_interval_is_judged_by_success_rate_and_against_the_median_latency() {
        let rules = rules(r#"{"success_rate":"90%","latency_factor":4.0,"min_requests":10}"#);
        let sums = |good, bad, mean: u64| IntervalSums { good, bad, micros: mean * u64::from(good + bad) };
        let found = rules.judge(&[
            sums(100, 0, 1000),
            sums(89, 11, 1000),
            sums(0, 9, 1000),
            sums(100, 0, 4100),
            sums(100, 0, 1000),
            sums(0, 0, 0),
        ]);
        assert_eq!(found, [(1, EjectReason::SuccessRate), (3, EjectReason::Latency)]);
        assert_eq!(rules.judge(&[sums(100, 0, 1), sums(100, 0, 1_000_000)]), [], "two have no majority");
    }

    #[test]
    fn so_many_may_be_out_and_no_more() {
        for (share, endpoints, expected) in
            [("30%", 1, 0), ("30%", 2, 1), ("30%", 9, 2), ("30%", 10, 3), ("0%", 10, 0), ("100%", 4, 4)]
        {
            assert_eq!(rules(&format!(r#"{{"max_ejected":"{share}"}}"#)).ejectable(endpoints), expected, "{share}");
        }
    }

    #[test]
    fn settings_that_cannot_work_are_refused() {
        for json in [r#"{"interval":"1ms"}"#, r#"{"eject":"0s"}"#, r#"{"eject":"60s","eject_longest":"30s"}"#] {
            let mut cx = Context::default();
            serde_json::from_str::<OutlierSpec>(json).unwrap().compile(&Path::root(), &mut cx);
            assert!(cx.report().has_errors(), "{json}");
        }
    }
}
