//! The state on disk, and what becomes of it when it comes back under another configuration.
//!
//! Decided so that no change of configuration and no restart ever raises the share by itself:
//!
//! | changed meanwhile | what happens |
//! |---|---|
//! | the latency limit of the gate's objective | goes on there, watched anew: slow was counted against the old limit |
//! | else in `gate`, `hold`, `on_fail` | goes on with what was seen; the new gate judges from the next tick |
//! | `steps`, the present share is still a step | goes on there with what was seen |
//! | `steps`, it is not | goes on at the highest step below it, watched anew; without one, starts from the beginning |
//! | `steps` after the promotion | stays promoted when the last step is not higher; else goes on towards it |
//! | `steps` after a rollback or an abort | stays so: a failed release starts again by `resume` only |
//! | `mirror_first` removed during the dark launch | goes on to the first step |
//! | `route`, `from` or `to` | another release: starts from the beginning |
//! | `dry_run` | starts from the beginning: what was judged without traffic proves nothing about traffic |
//! | what was kept is damaged, or of another version | held (paused) at the beginning until an operator decides: it may have been rolled back |

use crate::{
    Cause, Effect, Moment, Phase, Rollout, RolloutPlan, State, Transition, rollout::HISTORY_MAX, watch::Watch,
};
use portcullis_names::{ObjectName, Percent};
use serde::{Deserialize, Serialize};
use std::{collections::VecDeque, sync::Arc};

/// A rollout as it is written to disk. JSON, with a version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RolloutState {
    version: u32,
    route: ObjectName,
    from: ObjectName,
    to: ObjectName,
    effect: Effect,
    steps: Vec<Percent>,
    state: State,
    watch: Watch,
    history: VecDeque<Transition>,
}

/// A rollout that goes on, and what the operator should know about that.
#[derive(Debug, Clone)]
pub struct Restored {
    pub rollout: Rollout,
    pub notice: Option<Notice>,
}

/// Why a rollout does not go on exactly where it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Notice {
    #[error("the steps have changed: it goes on at {share} instead of {before}")]
    StepsChanged { before: Percent, share: Percent },
    #[error("the dark launch was removed from the configuration: the steps begin")]
    MirrorRemoved,
    #[error("it moves other requests than before (route, `from` or `to` changed): it starts from the beginning")]
    ReleaseChanged,
    #[error("`dry_run` has changed: it starts from the beginning")]
    EffectChanged,
    #[error(
        "the kept state is of version {found}, and this program reads {SAVED_VERSION}: it is held until an operator resumes, promotes or aborts it"
    )]
    OtherVersion { found: u32 },
    #[error("the kept state cannot be read ({why}): it is held until an operator resumes, promotes or aborts it")]
    Unreadable { why: String },
}

impl Notice {
    /// Whether state was lost that nobody asked to lose: somebody must act, where the others are news.
    pub const fn is_a_loss(&self) -> bool {
        match self {
            Self::OtherVersion { .. } | Self::Unreadable { .. } => true,
            Self::StepsChanged { .. } | Self::MirrorRemoved | Self::ReleaseChanged | Self::EffectChanged => false,
        }
    }
}

const SAVED_VERSION: u32 = 1;
/// A state is some 20 KiB with full histograms; what is much larger is not ours.
const SAVED_BYTES_MAX: usize = 1 << 20;

#[derive(Deserialize)]
struct VersionOnly {
    version: u32,
}

impl RolloutState {
    pub fn to_json(&self) -> String {
        // Numbers, names and lists: there is nothing in it that JSON cannot say.
        serde_json::to_string(self).unwrap_or_default()
    }

    pub fn from_json(text: &str) -> Result<Self, Notice> {
        let unreadable = |why: String| Notice::Unreadable { why };
        if text.len() > SAVED_BYTES_MAX {
            return Err(unreadable(format!("{} bytes, more than {SAVED_BYTES_MAX}", text.len())));
        }
        let VersionOnly { version } = serde_json::from_str(text).map_err(|error| unreadable(error.to_string()))?;
        if version != SAVED_VERSION {
            return Err(Notice::OtherVersion { found: version });
        }
        let mut saved: Self = serde_json::from_str(text).map_err(|error| unreadable(error.to_string()))?;
        if let Some(Phase::Step { index }) = saved.state.phase()
            && index >= saved.steps.len()
        {
            return Err(unreadable(format!("step {index} of {}", saved.steps.len())));
        }
        let surplus = saved.history.len().saturating_sub(HISTORY_MAX);
        saved.history.drain(..surplus);
        Ok(saved)
    }

    fn share(&self) -> Percent {
        match (&self.state, self.state.phase()) {
            (_, Some(Phase::Step { index })) => self.steps.get(index).copied().unwrap_or(Percent::NONE),
            (State::Promoted { .. }, _) => self.steps.last().copied().unwrap_or(Percent::NONE),
            _ => Percent::NONE,
        }
    }
}

impl Rollout {
    /// What to write to disk, at each transition and now and then between them.
    pub fn save(&self) -> RolloutState {
        RolloutState {
            version: SAVED_VERSION,
            route: self.plan.route.clone(),
            from: self.plan.from.clone(),
            to: self.plan.to.clone(),
            effect: self.plan.effect,
            steps: self.plan.steps.clone(),
            state: self.state.clone(),
            watch: self.watch.lasting(),
            history: self.history.clone(),
        }
    }

    /// Goes on after a restart with what [`RolloutState::to_json`] wrote; `None` when nothing was kept.
    pub fn restore(plan: Arc<RolloutPlan>, saved: Option<&str>, now: Moment) -> Restored {
        match saved.map(RolloutState::from_json) {
            None => Restored { rollout: Self::new(plan, now), notice: None },
            Some(Ok(saved)) => adopt(plan, saved, now),
            Some(Err(notice)) => anew(plan, notice, now),
        }
    }

    /// After a restart at which it cannot be known how far it was.
    pub fn held_back(plan: Arc<RolloutPlan>, why: String, now: Moment) -> Restored {
        anew(plan, Notice::Unreadable { why }, now)
    }

    /// Goes on after a reload, under a plan that may have changed.
    pub fn with_plan(&self, plan: Arc<RolloutPlan>, now: Moment) -> Restored {
        let same_limit = self.plan.slow_over() == plan.slow_over();
        let mut restored = adopt(plan, self.save(), now);
        if restored.notice.is_none() {
            restored.rollout.watch = self.watch.clone();
            // What is over keeps the figures that ended it.
            if !same_limit && self.state.phase().is_some() {
                restored.rollout.watch.forget();
            }
            restored.rollout.waits_for = self.waits_for.clone();
        }
        restored
    }
}

fn anew(plan: Arc<RolloutPlan>, notice: Notice, now: Moment) -> Restored {
    let mut rollout = Rollout::new(plan, now);
    let state = if notice.is_a_loss() {
        // Safety: what was rolled back must not go out again because a file was damaged.
        State::Paused { phase: Phase::Waiting, reason: notice.to_string(), at: now }
    } else {
        State::Waiting { since: now }
    };
    rollout.enter(state, Cause::Reload, notice.to_string(), now);
    Restored { rollout, notice: Some(notice) }
}

fn adopt(plan: Arc<RolloutPlan>, saved: RolloutState, now: Moment) -> Restored {
    if (&saved.route, &saved.from, &saved.to) != (&plan.route, &plan.from, &plan.to) {
        return anew(plan, Notice::ReleaseChanged, now);
    }
    if saved.effect != plan.effect {
        return anew(plan, Notice::EffectChanged, now);
    }
    let before = saved.share();
    let steps_changed = saved.steps != plan.steps;
    let mut rollout = Rollout { plan, state: saved.state, watch: saved.watch, waits_for: None, history: saved.history };
    let notice = match rollout.state.phase() {
        Some(Phase::Mirroring) if rollout.plan.mirror_first.is_none() => {
            rollout.continue_at(Phase::Waiting, Notice::MirrorRemoved, now)
        }
        Some(Phase::Step { .. }) if steps_changed => rollout.remap(before, now),
        None if matches!(rollout.state, State::Promoted { .. }) && before < rollout.plan.last_step() => {
            rollout.remap(before, now)
        }
        None | Some(_) => None,
    };
    Restored { rollout, notice }
}

impl Rollout {
    /// Finds the place of a share among changed steps: never above it.
    fn remap(&mut self, before: Percent, now: Moment) -> Option<Notice> {
        let index = self.plan.steps.iter().rposition(|step| *step <= before);
        let phase = index.map_or(Phase::Waiting, |index| Phase::Step { index });
        let share = index.map_or(Percent::NONE, |index| self.plan.step(index));
        if share == before && self.state.phase().is_some() {
            match &mut self.state {
                State::Paused { phase: paused, .. } => *paused = phase,
                state => *state = State::of(phase, state.since()),
            }
            return None;
        }
        self.continue_at(phase, Notice::StepsChanged { before, share }, now)
    }

    /// What an operator paused stays paused, wherever it is now.
    fn continue_at(&mut self, phase: Phase, notice: Notice, now: Moment) -> Option<Notice> {
        let state = match &self.state {
            State::Paused { reason, at, .. } => State::Paused { phase, reason: reason.clone(), at: *at },
            _ => State::of(phase, now),
        };
        self.watch.start_over();
        self.enter(state, Cause::Reload, notice.to_string(), now);
        Some(notice)
    }
}
