//! A rollout compiled: every name resolved, every value settled.

use crate::{GateSpec, OnFail, RolloutSpec, Slo};
use portcullis_config::{Context, Path};
use portcullis_names::{ObjectName, Percent, TimeSpan};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU64,
    sync::Arc,
    time::Duration,
};

/// How a release goes out.
#[derive(Debug, Clone, PartialEq)]
pub struct RolloutPlan {
    pub name: ObjectName,
    pub route: ObjectName,
    pub from: ObjectName,
    pub to: ObjectName,
    /// Strictly rising, never empty, none of them zero.
    pub steps: Vec<Percent>,
    pub hold: Duration,
    pub gate: Gate,
    pub on_fail: OnFail,
    pub mirror_first: Option<MirrorFirst>,
    pub effect: Effect,
}

/// Whether traffic moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    Live,
    /// Everything is judged and told, and no request moves.
    DryRun,
}

/// What the new version must hold to.
#[derive(Debug, Clone, PartialEq)]
pub struct Gate {
    pub slo: Option<Arc<Slo>>,
    pub min_requests: u64,
    pub max_burn: f64,
    pub max_error_ratio_over_baseline: f64,
    pub max_latency_ratio: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MirrorFirst {
    pub percent: Percent,
    pub hold: Duration,
}

/// What the names in a rollout stand for.
#[derive(Debug)]
pub struct Known<'k> {
    /// Every route, with the upstreams that its rules send to.
    pub routes: &'k BTreeMap<ObjectName, BTreeSet<ObjectName>>,
    pub upstreams: &'k BTreeSet<ObjectName>,
    pub slos: &'k BTreeMap<ObjectName, Arc<Slo>>,
}

const STEPS_DEFAULT: [Percent; 5] = [
    Percent::from_whole(1),
    Percent::from_whole(5),
    Percent::from_whole(25),
    Percent::from_whole(50),
    Percent::from_whole(100),
];
const HOLD_DEFAULT: Duration = Duration::from_secs(600);
const MIN_REQUESTS_DEFAULT: u64 = 100;
const MAX_BURN_DEFAULT: f64 = 2.0;
const MAX_ERROR_RATIO_DEFAULT: f64 = 2.0;
const MAX_LATENCY_RATIO_DEFAULT: f64 = 1.5;

/// Each step is a line of status and a verdict; nobody reads a hundred.
const STEPS_MAX: usize = 100;
/// Shorter than a tick, nothing would be watched.
const HOLD_MIN: Duration = Duration::from_millis(100);
const HOLD_MAX: Duration = Duration::from_secs(30 * 86_400);
/// The latency histogram's buckets are 12 % wide at the most; a finer limit would judge its rounding.
const LATENCY_RATIO_MIN: f64 = 1.15;
/// A limit beyond this limits nothing.
const LIMIT_MAX: f64 = 1_000.0;

/// Compiles every rollout and what holds between them. Every problem goes to the report.
pub fn compile_rollouts(
    specs: &BTreeMap<ObjectName, RolloutSpec>,
    known: &Known<'_>,
    cx: &mut Context,
) -> BTreeMap<ObjectName, Arc<RolloutPlan>> {
    let root = Path::root().key("rollout");
    let mut plans: BTreeMap<ObjectName, Arc<RolloutPlan>> = BTreeMap::new();
    for (name, spec) in specs {
        let at = root.key(name);
        let Some(plan) = spec.compile(name, &at, known, cx) else { continue };
        // Two that move the same requests would each undo the other's share.
        let touches = |other: &RolloutPlan| {
            let theirs = [&other.from, &other.to];
            other.route == plan.route && (theirs.contains(&&plan.from) || theirs.contains(&&plan.to))
        };
        if let Some(other) = plans.values().find(|other| touches(other)) {
            let message = format!(
                "rollouts \"{}\" and \"{name}\" move the same requests of route \"{}\"",
                other.name, plan.route
            );
            cx.error_at_key(&at, message)
                .help("remove the one that is over, or release one after the other")
                .also(&root.key(&other.name), "the other one");
        }
        plans.insert(name.clone(), Arc::new(plan));
    }
    plans
}

impl RolloutSpec {
    /// `None`: something is wrong, and the report says what.
    pub fn compile(&self, name: &ObjectName, at: &Path, known: &Known<'_>, cx: &mut Context) -> Option<RolloutPlan> {
        let route = self.route(at, known, cx);
        let from = upstream(&self.from, &at.key("from"), known, cx);
        let to = upstream(&self.to, &at.key("to"), known, cx);
        if self.from == self.to {
            cx.error(
                &at.key("to"),
                format!("the new version is the old one: `from` and `to` are both \"{}\"", self.to),
            )
            .help("give the new version an upstream of its own");
        }
        let steps = self.steps(at, cx);
        let hold = hold(self.hold, HOLD_DEFAULT, &at.key("hold"), cx);
        let gate = self.gate.clone().unwrap_or_default().compile(&self.route, &at.key("gate"), known, cx);
        let mirror_first = self.mirror_first.as_ref().map(|mirror| {
            let at = at.key("mirror_first");
            let percent = mirror.percent.unwrap_or(Percent::ALL);
            if percent == Percent::NONE {
                cx.error(&at.key("percent"), "a mirror of 0% copies nothing").help("leave `mirror_first` out");
            }
            MirrorFirst { percent, hold: crate::plan::hold(mirror.hold, hold, &at.key("hold"), cx) }
        });
        let (route, from, to) = (route?, from?, to?);
        Some(RolloutPlan {
            name: name.clone(),
            route,
            from,
            to,
            steps,
            hold,
            gate: gate?,
            on_fail: self.on_fail.unwrap_or(OnFail::Rollback),
            mirror_first,
            effect: if self.dry_run == Some(true) { Effect::DryRun } else { Effect::Live },
        })
        .filter(|plan| plan.from != plan.to && !plan.steps.is_empty())
    }

    fn route(&self, at: &Path, known: &Known<'_>, cx: &mut Context) -> Option<ObjectName> {
        let Some((route, upstreams)) = known.routes.get_key_value(self.route.as_str()) else {
            cx.undefined(&at.key("route"), "route", &self.route, known.routes.keys().map(ObjectName::as_str));
            return None;
        };
        if !upstreams.contains(self.from.as_str()) && known.upstreams.contains(self.from.as_str()) {
            let list: Vec<_> = upstreams.iter().map(ObjectName::as_str).collect();
            let list = if list.is_empty() { "no upstream".to_owned() } else { list.join(", ") };
            cx.error(
                &at.key("from"),
                format!("route \"{route}\" does not send to upstream \"{}\" (it sends to {list})", self.from),
            )
            .help("the route keeps sending to the old version until the rollout is over; then remove the rollout");
        }
        if upstreams.contains(self.to.as_str()) && self.from != self.to {
            cx.error(&at.key("to"), format!("route \"{route}\" sends to upstream \"{}\" by itself already", self.to))
                .help("let the route send to the old version only: the rollout adds the new one");
        }
        Some(route.clone())
    }

    fn steps(&self, at: &Path, cx: &mut Context) -> Vec<Percent> {
        let at = at.key("steps");
        let Some(steps) = &self.steps else { return STEPS_DEFAULT.to_vec() };
        if steps.is_empty() || steps.len() > STEPS_MAX {
            cx.error(&at, format!("a rollout has 1 to {STEPS_MAX} steps, not {}", steps.len()))
                .help("leave `steps` out for 1%, 5%, 25%, 50%, 100%");
        }
        if steps.first() == Some(&Percent::NONE) {
            cx.error(&at.index(0), "a step of 0% moves nothing")
                .help("`mirror_first` watches the new version without users");
        }
        for (index, pair) in steps.windows(2).enumerate() {
            if let [before, after] = pair
                && after <= before
            {
                cx.error(
                    &at.index(index + 1),
                    format!("step `{after}` is not more than the one before it, `{before}`"),
                );
            }
        }
        steps.clone()
    }
}

impl GateSpec {
    fn compile(&self, route: &str, at: &Path, known: &Known<'_>, cx: &mut Context) -> Option<Gate> {
        let slo = self.slo.as_ref().map(|name| {
            let slo = known.slos.get(name.as_str());
            match slo {
                None => cx.undefined(&at.key("slo"), "slo", name, known.slos.keys().map(ObjectName::as_str)),
                Some(slo) if slo.route.as_str() != route => {
                    let message =
                        format!("slo \"{name}\" is of route \"{}\", and the rollout of \"{route}\"", slo.route);
                    cx.error(&at.key("slo"), message).help("name an objective of the same route");
                }
                Some(_) => {}
            }
            slo.cloned()
        });
        if self.slo.is_none() && self.max_burn.is_some() {
            cx.error(&at.key("max_burn"), "`max_burn` has no effect without `slo`")
                .help("name the objective whose budget is meant: slo = \"…\"");
        }
        let mut limit = |key: &str, given: Option<f64>, default: f64, least: f64| {
            let value = given.unwrap_or(default);
            // Not a range of floats alone: `nan` is in none, and must not pass either.
            if !(least..=LIMIT_MAX).contains(&value) {
                cx.error(&at.key(key), format!("`{key}` is {value}, and not between {least} and {LIMIT_MAX}"));
            }
            value
        };
        let gate = Gate {
            min_requests: self.min_requests.map_or(MIN_REQUESTS_DEFAULT, NonZeroU64::get),
            max_burn: limit("max_burn", self.max_burn, MAX_BURN_DEFAULT, 0.1),
            max_error_ratio_over_baseline: limit(
                "max_error_ratio_over_baseline",
                self.max_error_ratio_over_baseline,
                MAX_ERROR_RATIO_DEFAULT,
                1.0,
            ),
            max_latency_ratio: limit(
                "max_latency_ratio",
                self.max_latency_ratio,
                MAX_LATENCY_RATIO_DEFAULT,
                LATENCY_RATIO_MIN,
            ),
            slo: slo.flatten(),
        };
        // A gate whose objective is unknown would let pass what the operator wanted held.
        (gate.slo.is_some() == self.slo.is_some()).then_some(gate)
    }
}

fn upstream(name: &str, at: &Path, known: &Known<'_>, cx: &mut Context) -> Option<ObjectName> {
    let found = known.upstreams.get(name);
    if found.is_none() {
        cx.undefined(at, "upstream", name, known.upstreams.iter().map(ObjectName::as_str));
    }
    found.cloned()
}

fn hold(given: Option<TimeSpan>, default: Duration, at: &Path, cx: &mut Context) -> Duration {
    let hold = given.map_or(default, TimeSpan::get);
    if let Some(span) = given
        && !(HOLD_MIN..=HOLD_MAX).contains(&hold)
    {
        cx.error(at, format!("a hold of `{span}` is not between 100ms and 30d"));
    }
    hold
}
impl RolloutPlan {
    /// The share of a step; nothing beyond the last.
    pub(crate) fn step(&self, index: usize) -> Percent {
        self.steps.get(index).copied().unwrap_or(Percent::NONE)
    }

    /// Above this an answer counts as slow: the latency limit of the gate's objective.
    pub fn slow_over(&self) -> Option<Duration> {
        self.gate.slo.as_ref()?.latency.map(|latency| latency.under)
    }

    /// The share that stays when all has gone well.
    pub(crate) fn last_step(&self) -> Percent {
        self.steps.last().copied().unwrap_or(Percent::NONE)
    }
}
