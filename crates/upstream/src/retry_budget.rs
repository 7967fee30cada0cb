//! `retry_budget = { … }`: how many requests may be tried again, as a share of those that came (Finagle's and Envoy's idea).
//!
//! Without it, an upstream that fails half its requests gets three times the load from two retries each, and never recovers.

use portcullis_config::{Context, Path};
use portcullis_names::Percent;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    time::Instant,
};

/// How many of the requests of the last ten seconds may be tried again.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RetryBudgetSpec {
    /// Of the requests that came (default 20%); 100% is no limit worth the name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percent: Option<Percent>,
    /// Allowed in any case, so that an upstream with little traffic has retries too (default 3).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 10000))]
    pub min_per_second: Option<u32>,
}

/// The settings with every value settled.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryBudget {
    pub percent: Percent,
    pub min_per_second: u32,
}

impl RetryBudgetSpec {
    pub(crate) fn compile(&self, at: &Path, cx: &mut Context) -> RetryBudget {
        let budget = RetryBudget {
            percent: self.percent.unwrap_or(Percent::from_whole(20)),
            min_per_second: self.min_per_second.unwrap_or(3),
        };
        if budget.percent == Percent::NONE && budget.min_per_second == 0 {
            cx.error(at, "this budget allows no retry at all").help("say `retry.attempts = 0` on the route instead");
        }
        budget
    }
}

const SECONDS: u64 = 10;

/// Requests and retries of the last ten seconds, a slot a second.
#[derive(Debug)]
pub(crate) struct RetryLedger {
    began: Instant,
    slots: [Slot; SECONDS as usize],
}

#[derive(Debug, Default)]
struct Slot {
    second: AtomicU64,
    requests: AtomicU32,
    retries: AtomicU32,
}

impl RetryLedger {
    pub(crate) fn new(now: Instant) -> Self {
        Self { began: now, slots: Default::default() }
    }

    /// A request came.
    pub(crate) fn deposit(&self, now: Instant) {
        self.slot(now).requests.fetch_add(1, Relaxed);
    }

    /// Whether one more retry is within the budget; counts it if so.
    pub(crate) fn withdraw(&self, budget: RetryBudget, now: Instant) -> bool {
        let slot = self.slot(now);
        let second = self.second(now);
        let (mut requests, mut retries) = (0_u64, 0_u64);
        for slot in &self.slots {
            if second.saturating_sub(slot.second.load(Relaxed)) < SECONDS {
                requests += u64::from(slot.requests.load(Relaxed));
                retries += u64::from(slot.retries.load(Relaxed));
            }
        }
        let allowed = requests as f64 * budget.percent.fraction() + (u64::from(budget.min_per_second) * SECONDS) as f64;
        if (retries + 1) as f64 > allowed {
            return false;
        }
        slot.retries.fetch_add(1, Relaxed);
        true
    }

    fn second(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.began).as_secs()
    }

    /// The slot of this second, emptied when it was an earlier one's. A count may be lost to a race at the turn of a second.
    #[expect(clippy::indexing_slicing, reason = "a remainder is smaller than the divisor, which is the length")]
    fn slot(&self, now: Instant) -> &Slot {
        let second = self.second(now);
        let slot = &self.slots[(second % SECONDS) as usize];
        let held = slot.second.load(Relaxed);
        if held != second && slot.second.compare_exchange(held, second, Relaxed, Relaxed).is_ok() {
            slot.requests.store(0, Relaxed);
            slot.retries.store(0, Relaxed);
        }
        slot
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_storm_stays_within_a_fifth_of_the_load_and_calm_times_are_not_saved_up() {
        let start = Instant::now();
        let ledger = RetryLedger::new(start);
        let budget = RetryBudget { percent: Percent::from_whole(20), min_per_second: 0 };
        let mut retries = 0;
        for millis in 0..60_000_u64 {
            let now = start + Duration::from_millis(millis);
            ledger.deposit(now);
            // Every second request fails, and so does its retry, and so on.
            for _ in 0..3 {
                retries += u64::from(ledger.withdraw(budget, now));
            }
        }
        assert!((11_000..=12_200).contains(&retries), "{retries}");
        let later = start + Duration::from_secs(600);
        assert!(!ledger.withdraw(budget, later), "requests of ten minutes ago give nothing");
    }

    #[test]
    fn little_traffic_has_its_minimum() {
        let now = Instant::now();
        let ledger = RetryLedger::new(now);
        let budget = RetryBudget { percent: Percent::from_whole(20), min_per_second: 3 };
        ledger.deposit(now);
        assert_eq!((0..100).filter(|_| ledger.withdraw(budget, now)).count(), 30);
    }

    #[test]
    fn a_budget_of_nothing_is_refused() {
        let mut cx = Context::default();
        let spec: RetryBudgetSpec = serde_json::from_str(r#"{"percent":"0%","min_per_second":0}"#).unwrap();
        spec.compile(&Path::root(), &mut cx);
        assert!(cx.report().has_errors());
    }
}
