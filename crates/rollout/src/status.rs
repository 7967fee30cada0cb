//! What an operator is told of a rollout.

use crate::{Effect, Figures, Moment, Phase, Rollout, State, StateKind, Transition};
use portcullis_names::Percent;
use serde::Serialize;

/// Everything there is to tell, for the admin interface and the command line. Times are Unix milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RolloutStatus {
    pub name: String,
    pub route: String,
    pub state: StateKind,
    /// Counted from one; also while it is paused on a step.
    pub step: Option<usize>,
    pub steps: Vec<Percent>,
    /// Of requests that go to the new version.
    pub share: Percent,
    /// What the share would be if this were no dry run.
    pub planned_share: Percent,
    /// Of requests that are copied to the new version.
    pub mirror: Percent,
    pub effect: Effect,
    pub since: Moment,
    /// Why it is in this state.
    pub reason: Option<String>,
    /// What keeps it from the next step.
    pub waits_for: Option<String>,
    /// The earliest moment of the next step, or of the promotion.
    pub next_step_at: Option<Moment>,
    pub old: VersionStatus,
    pub new: VersionStatus,
    pub history: Vec<Transition>,
}

/// What was seen of one version since the step began; of a rollout that is over, what it ended with.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct VersionStatus {
    pub upstream: String,
    pub requests: u64,
    pub errors: u64,
    pub error_ratio: f64,
    /// Good answers that were slower than the objective allows.
    pub slow: u64,
    pub p50_millis: Option<f64>,
    pub p99_millis: Option<f64>,
}

impl Rollout {
    pub fn status(&self, now: Moment) -> RolloutStatus {
        let (plan, state) = (self.plan(), self.state());
        let step = match state.phase() {
            Some(Phase::Step { index }) => Some(index + 1),
            Some(Phase::Waiting | Phase::Mirroring) | None => None,
        };
        let reason = match state {
            State::Paused { reason, .. }
            | State::Promoted { reason, .. }
            | State::RolledBack { reason, .. }
            | State::Aborted { reason, .. } => Some(reason.clone()),
            State::Waiting { .. } | State::Mirroring { .. } | State::Step { .. } => {
                self.history().last().map(|transition| transition.reason.clone())
            }
        };
        RolloutStatus {
            name: plan.name.to_string(),
            route: plan.route.to_string(),
            state: state.kind(),
            step,
            steps: plan.steps.clone(),
            share: self.share(),
            planned_share: self.planned_share(),
            mirror: self.mirror_percent(),
            effect: plan.effect,
            since: state.since(),
            reason,
            waits_for: self.waits_for.clone(),
            next_step_at: self.next_step_at(now),
            old: VersionStatus::of(plan.from.as_str(), self.watch.old_version()),
            new: VersionStatus::of(plan.to.as_str(), self.watch.new_version()),
            history: self.history().cloned().collect(),
        }
    }
}

impl VersionStatus {
    fn of(upstream: &str, figures: &Figures) -> Self {
        let millis = |quantile| figures.latency.quantile(quantile).map(|time| time.as_secs_f64() * 1e3);
        Self {
            upstream: upstream.to_owned(),
            requests: figures.total(),
            errors: figures.counts.bad,
            error_ratio: figures.counts.bad_ratio(),
            slow: figures.counts.slow,
            p50_millis: millis(0.5),
            p99_millis: millis(0.99),
        }
    }
}
