//! `[rate_limit.X]`, and the same table inside a rule, as the operator writes it.

use crate::{Gcra, Known, Limit, Plan, RateLimit, SlidingWindow, Unfit};
use portcullis_config::{Context, Path};
use portcullis_names::{KeyPart, ObjectName, Rate, RequestKey};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{num::NonZeroU32, time::Instant};

/// How many requests with the same key are let through.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RateLimitSpec {
    pub rate: Rate,
    /// How much may come at once (default: what the rate gives in one of its units of time). Of token_bucket only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst: Option<NonZeroU32>,
    /// What is counted by (default client_ip).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<RequestKey>,
    /// What one request takes of the rate (default 1).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<NonZeroU32>,
    /// Default token_bucket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub algorithm: Option<Algorithm>,
    /// Default enforce.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// Keys remembered at a time, at most 10000000 (default 100000). Beyond them those that spent least are forgotten.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub keys: Option<NonZeroU32>,
    /// The `[store.X]` through which all processes count together (default: each counts for itself).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<ObjectName>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Algorithm {
    /// A bucket that fills evenly: a burst, then the rate.
    #[default]
    TokenBucket,
    /// At most the rate's count in any unit of its time, by two weighted counters.
    SlidingWindow,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    #[default]
    Enforce,
    /// Counts what it would refuse, and refuses nothing.
    Shadow,
}

const KEYS: NonZeroU32 = NonZeroU32::new(100_000).expect("not zero");
const KEYS_MAX: u32 = 10_000_000;

impl RateLimitSpec {
    /// `name` is shown to clients and in metrics; state survives a reload by it. `now` becomes the origin of its time.
    pub fn compile(
        &self,
        name: &str,
        known: &Known<'_>,
        now: Instant,
        at: &Path,
        cx: &mut Context,
    ) -> Option<RateLimit> {
        let keys = self.keys.unwrap_or(KEYS);
        let keys_fit = keys.get() <= KEYS_MAX;
        if !keys_fit {
            cx.error(&at.key("keys"), format!("a limit remembers at most {KEYS_MAX} keys"));
        }
        let store_known = self.store.as_ref().is_none_or(|store| known.stores.contains(store));
        if let Some(store) = self.store.as_ref().filter(|_| !store_known) {
            cx.undefined(&at.key("store"), "store", store.as_str(), known.stores.iter().map(ObjectName::as_str));
        }
        let plan = self.plan(at, cx)?;
        if !keys_fit || !store_known {
            return None;
        }
        let key = self.key.clone().unwrap_or_else(|| KeyPart::ClientIp.into());
        let mode = self.mode.unwrap_or_default();
        let mut limit = RateLimit::new(name, self.rate, plan, key, mode, self.store.clone(), keys, now);
        if let Some(previous) = known.previous.get(name) {
            limit.carry_over(previous);
        }
        Some(limit)
    }

    fn plan(&self, at: &Path, cx: &mut Context) -> Option<Plan> {
        let algorithm = self.algorithm.unwrap_or_default();
        if algorithm == Algorithm::SlidingWindow && self.burst.is_some() {
            cx.error_at_key(&at.key("burst"), "`burst` has no effect with algorithm = \"sliding_window\"")
                .help("leave one of the two out; what fits into a window is the rate's count");
            return None;
        }
        let count = u32::try_from(self.rate.count().get()).ok().and_then(NonZeroU32::new);
        let Some(burst) = self.burst.or(count) else {
            cx.error(&at.key("rate"), format!("the count of the rate {} is above {}", self.rate, u32::MAX))
                .help("say it by a smaller unit of time, or say how much may come at once as `burst`");
            return None;
        };
        let limit = Limit { rate: self.rate, burst, cost: self.cost.unwrap_or(NonZeroU32::MIN) };
        let plan = match algorithm {
            Algorithm::TokenBucket => Gcra::new(&limit).map(Plan::TokenBucket),
            Algorithm::SlidingWindow => SlidingWindow::new(&limit).map(Plan::SlidingWindow),
        };
        let report = |unfit: Unfit| {
            let key = match unfit {
                Unfit::CostAboveBurst { .. } => "cost",
                Unfit::RateTooHigh => "rate",
                Unfit::RefillTooLong => "burst",
            };
            cx.error(&at.key(key), unfit.to_string());
        };
        plan.map_err(report).ok()
    }
}
