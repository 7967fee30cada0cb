//! `concurrency = …` as the operator writes it: a number, or a table.

use crate::{AdaptiveLimit, AdaptivePlan, Concurrency, ConcurrencyLimit};
use portcullis_config::{Context, Path};
use portcullis_names::{Percent, TimeSpan};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de};
use std::{borrow::Cow, fmt, num::NonZeroU32, time::Duration, time::Instant};

/// Requests at a time; more are refused at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum ConcurrencySpec {
    /// `500`
    Max(NonZeroU32),
    /// `{ max = 500, adaptive = true }`
    Table(ConcurrencyTable),
}

/// The long form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConcurrencyTable {
    /// Requests at a time, never more.
    pub max: NonZeroU32,
    /// Whether the limit moves between `min` and `max` with what the latency of answers says (default false).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adaptive: Option<bool>,
    /// Requests that are always let in at a time (default 10, or `max` where that is less). Of adaptive limits only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<NonZeroU32>,
    /// Latency above that of the unloaded upstream, in percent of it, that is not yet taken for a queue (default 25%). Of
    /// adaptive limits only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tolerance: Option<Percent>,
    /// How often the latency of the unloaded upstream is measured anew, give or take 15%; for some 30 requests only a third
    /// of the limit is let in then. From 1s to 1h (default 60s). Of adaptive limits only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub measure_every: Option<TimeSpan>,
}

const MIN: NonZeroU32 = NonZeroU32::new(10).expect("not zero");
/// That of Envoy's `min_rtt_calc_params.buffer`.
const TOLERANCE: Percent = Percent::from_whole(25);
const MEASURE_EVERY: Duration = Duration::from_secs(60);
const MEASURE_EVERY_MIN: Duration = Duration::from_secs(1);
const MEASURE_EVERY_MAX: Duration = Duration::from_secs(3600);

impl ConcurrencySpec {
    /// `draw`: uniform, so that gateways do not measure all at once. `None`: reported.
    pub fn compile(&self, now: Instant, draw: u64, at: &Path, cx: &mut Context) -> Option<Concurrency> {
        match self {
            Self::Max(max) => Some(Concurrency::Fixed(ConcurrencyLimit::new(*max))),
            Self::Table(table) if table.adaptive == Some(true) => {
                let plan = table.plan(at, cx)?;
                Some(Concurrency::Adaptive(AdaptiveLimit::new(plan, now, draw)))
            }
            Self::Table(table) => {
                table.refuse_adaptive_keys(at, cx)?;
                Some(Concurrency::Fixed(ConcurrencyLimit::new(table.max)))
            }
        }
    }
}

impl ConcurrencyTable {
    fn plan(&self, at: &Path, cx: &mut Context) -> Option<AdaptivePlan> {
        let min = self.min.unwrap_or(MIN.min(self.max));
        let measure_every = self.measure_every.map_or(MEASURE_EVERY, TimeSpan::get);
        let min_fits = min <= self.max;
        if !min_fits {
            cx.error(&at.key("min"), format!("`min` ({min}) is above `max` ({})", self.max));
        }
        let often_enough = (MEASURE_EVERY_MIN..=MEASURE_EVERY_MAX).contains(&measure_every);
        if !often_enough {
            cx.error(
                &at.key("measure_every"),
                "the unloaded latency is measured every 1s at most and every 1h at least",
            );
        }
        let tolerance = self.tolerance.unwrap_or(TOLERANCE).fraction();
        (min_fits && often_enough).then_some(AdaptivePlan { min, max: self.max, tolerance, measure_every })
    }

    fn refuse_adaptive_keys(&self, at: &Path, cx: &mut Context) -> Option<()> {
        let keys = [
            ("min", self.min.is_some()),
            ("tolerance", self.tolerance.is_some()),
            ("measure_every", self.measure_every.is_some()),
        ];
        for (key, _) in keys.into_iter().filter(|(_, given)| *given) {
            cx.error_at_key(&at.key(key), format!("`{key}` has no effect without `adaptive = true`")).help(format!(
                "write concurrency = {{ max = {}, adaptive = true, … }}, or leave `{key}` out",
                self.max
            ));
        }
        keys.iter().all(|(_, given)| !given).then_some(())
    }
}

impl<'de> Deserialize<'de> for ConcurrencySpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = ConcurrencySpec;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of requests, or a table { max, adaptive, min, tolerance, measure_every }")
            }
            fn visit_u64<E: de::Error>(self, max: u64) -> Result<ConcurrencySpec, E> {
                let max = u32::try_from(max).ok().and_then(NonZeroU32::new);
                max.map(ConcurrencySpec::Max).ok_or_else(|| E::custom(format!("a limit is from 1 to {}", u32::MAX)))
            }
            fn visit_i64<E: de::Error>(self, max: i64) -> Result<ConcurrencySpec, E> {
                self.visit_u64(u64::try_from(max).unwrap_or(0))
            }
            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<ConcurrencySpec, A::Error> {
                let table = ConcurrencyTable::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Ok(ConcurrencySpec::Table(table))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for ConcurrencySpec {
    fn schema_name() -> Cow<'static, str> {
        "ConcurrencySpec".into()
    }
    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let max = generator.subschema_for::<NonZeroU32>();
        let table = generator.subschema_for::<ConcurrencyTable>();
        schemars::json_schema!({ "anyOf": [max, table] })
    }
}
