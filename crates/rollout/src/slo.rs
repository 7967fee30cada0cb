//! `[slo.NAME]`: what a route promises, as written and as compiled.

use portcullis_config::{Context, Path};
use portcullis_names::{ObjectName, Percent, TimeSpan};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

/// An objective for a route. At least one of `availability` and `latency`.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub struct SloSpec {
    /// The route whose requests are counted.
    pub route: String,
    /// Requests that are answered, and not with 5xx.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub availability: Option<Percent>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency: Option<LatencySpec>,
    /// Over which the error budget is counted (default 30d; 1h to 90d).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<TimeSpan>,
}

/// `{ target = "99%", under = "300ms" }`: so many of the good answers come within that time.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub struct LatencySpec {
    pub target: Percent,
    pub under: TimeSpan,
}

/// An objective with every value settled.
#[derive(Debug, Clone, PartialEq)]
pub struct Slo {
    pub name: ObjectName,
    pub route: ObjectName,
    pub availability: Option<Percent>,
    pub latency: Option<LatencyObjective>,
    pub window: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LatencyObjective {
    pub target: Percent,
    pub under: Duration,
}

const WINDOW_DEFAULT: Duration = Duration::from_secs(30 * 86_400);
/// Shorter, and a single burst is the whole budget.
const WINDOW_MIN: Duration = Duration::from_secs(3_600);
/// What the meter's buckets hold; longer than a quarter nobody reports.
const WINDOW_MAX: Duration = Duration::from_secs(90 * 86_400);

/// Compiles every objective. Every problem goes to the report; those without one are in the map.
pub fn compile_slos(
    specs: &BTreeMap<ObjectName, SloSpec>,
    routes: &BTreeSet<ObjectName>,
    cx: &mut Context,
) -> BTreeMap<ObjectName, Arc<Slo>> {
    let root = Path::root().key("slo");
    let compiled = specs.iter().filter_map(|(name, spec)| {
        let slo = spec.compile(name, &root.key(name), routes, cx)?;
        Some((name.clone(), Arc::new(slo)))
    });
    compiled.collect()
}

impl SloSpec {
    /// `None`: something is wrong, and the report says what.
    pub fn compile(
        &self,
        name: &ObjectName,
        at: &Path,
        routes: &BTreeSet<ObjectName>,
        cx: &mut Context,
    ) -> Option<Slo> {
        let route = routes.get(self.route.as_str());
        if route.is_none() {
            cx.undefined(&at.key("route"), "route", &self.route, routes.iter().map(ObjectName::as_str));
        }
        if self.availability.is_none() && self.latency.is_none() {
            cx.error(at, format!("slo \"{name}\" promises nothing")).help(
                "give `availability = \"99.9%\"`, or `latency = { target = \"99%\", under = \"300ms\" }`, or both",
            );
            return None;
        }
        let mut fits = true;
        if let Some(target) = self.availability {
            fits &= leaves_a_budget(target, &at.key("availability"), cx);
        }
        if let Some(latency) = &self.latency {
            fits &= leaves_a_budget(latency.target, &at.key("latency").key("target"), cx);
            if latency.under.is_zero() {
                cx.error(&at.key("latency").key("under"), "no answer comes within no time").help("like \"300ms\"");
                fits = false;
            }
        }
        let window = self.window.map_or(WINDOW_DEFAULT, TimeSpan::get);
        if !(WINDOW_MIN..=WINDOW_MAX).contains(&window) {
            let given = self.window.map(|span| span.to_string()).unwrap_or_default();
            cx.error(&at.key("window"), format!("the window `{given}` is not between 1h and 90d"));
            fits = false;
        }
        let latency = self.latency.as_ref();
        let latency = latency.map(|latency| LatencyObjective { target: latency.target, under: latency.under.get() });
        let slo = Slo { name: name.clone(), route: route?.clone(), availability: self.availability, latency, window };
        fits.then_some(slo)
    }
}

fn leaves_a_budget(target: Percent, at: &Path, cx: &mut Context) -> bool {
    if target == Percent::ALL {
        cx.error(at, "a target of 100% leaves no error budget: the first failure would spend it all")
            .help("promise a little less, like \"99.99%\"");
    } else if target == Percent::NONE {
        cx.error(at, "a target of 0% is always met").help("like \"99.9%\"");
    }
    target != Percent::ALL && target != Percent::NONE
}

impl Slo {
    /// How many times faster than allowed the budget is spent at these ratios: 1 spends it exactly over the window. Of
    /// two objectives, the one in more trouble.
    pub fn burn(&self, counts: crate::Counts) -> f64 {
        let availability = self.availability.map_or(0.0, |target| counts.bad_ratio() / budget(target));
        let latency = self.latency.map_or(0.0, |latency| counts.slow_ratio() / budget(latency.target));
        availability.max(latency)
    }
}

/// The fraction that may fail. Never zero: targets of 100 % do not compile.
pub(crate) fn budget(target: Percent) -> f64 {
    (1.0 - target.fraction()).max(1e-6)
}
