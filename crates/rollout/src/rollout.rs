//! The release itself: a state machine over figures, time and an operator's commands.
//!
//! What holds whatever happens: the share rises only after the gate has passed at the share before, or because an operator
//! promoted; it is never more than the step's; after a rollback or an abort it is zero; in a dry run it is always zero.

use crate::{
    BurnAlert, Effect, Figures, Moment, OnFail, RolloutPlan,
    state::{Cause, Phase, State, StateKind, Transition},
    verdict::{Case, Held, Verdict},
    watch::Watch,
};
use portcullis_names::{ObjectName, Percent, TimeSpan};
use std::{collections::VecDeque, sync::Arc, time::Duration};

/// A release on its way. Call [`Rollout::tick`] every second or so.
#[derive(Debug, Clone)]
pub struct Rollout {
    pub(crate) plan: Arc<RolloutPlan>,
    pub(crate) state: State,
    pub(crate) watch: Watch,
    /// Why the next step has to wait; what the last tick found.
    pub(crate) waits_for: Option<String>,
    /// The last transitions, newest last.
    pub(crate) history: VecDeque<Transition>,
}

/// What was seen since the last tick: deltas, not totals.
#[derive(Debug, Clone, Default)]
pub struct Observations {
    /// Of requests that went to `from`.
    pub old: Figures,
    /// Of requests that went to `to`; during the dark launch, of the copies.
    pub new: Figures,
    pub candidate: Candidate,
    /// The alert of the gate's objective ([`crate::SloMeter::alert`]), if there is one.
    pub alert: Option<BurnAlert>,
}

/// Whether the new version can take requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Candidate {
    /// At least one of its endpoints is up.
    #[default]
    Ready,
    /// None is.
    Absent,
}

/// What an operator can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Stay at this share. The gate goes on watching: a release that fails it is still rolled back.
    Pause,
    /// Go on from where it was paused, with a fresh look; or, after a rollback or an abort, start from the beginning.
    Resume,
    /// Go to the last step at once, whatever the gate says.
    Promote,
    /// Everything goes back to the old version, also after the promotion.
    Abort,
}

impl Command {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Promote => "promote",
            Self::Abort => "abort",
        }
    }
}

/// A command that makes no sense in this state. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("rollout \"{rollout}\" is in state {} and cannot {}: {way_out}", state.as_str(), command.as_str())]
pub struct CommandRefused {
    pub rollout: ObjectName,
    pub command: Command,
    pub state: StateKind,
    pub way_out: &'static str,
}

/// Transitions kept for the operator.
pub(crate) const HISTORY_MAX: usize = 20;
/// Characters of an operator's own words; they are kept on disk and shown in one line.
const WHY_MAX: usize = 200;

impl Rollout {
    pub fn new(plan: Arc<RolloutPlan>, now: Moment) -> Self {
        Self {
            plan,
            state: State::Waiting { since: now },
            watch: Watch::default(),
            waits_for: None,
            history: VecDeque::new(),
        }
    }

    pub fn plan(&self) -> &Arc<RolloutPlan> {
        &self.plan
    }

    pub fn state(&self) -> &State {
        &self.state
    }

    /// The last transitions, oldest first.
    pub fn history(&self) -> impl Iterator<Item = &Transition> {
        self.history.iter()
    }

    /// The share of `from`'s requests that go to `to` instead. None of them in a dry run.
    pub fn share(&self) -> Percent {
        match self.plan.effect {
            Effect::Live => self.planned_share(),
            Effect::DryRun => Percent::NONE,
        }
    }

    /// The share that it would be if this were no dry run.
    pub fn planned_share(&self) -> Percent {
        match (&self.state, self.state.phase()) {
            (_, Some(Phase::Step { index })) => self.plan.step(index),
            (State::Promoted { .. }, _) => self.plan.last_step(),
            _ => Percent::NONE,
        }
    }

    /// The share of requests that are copied to `to`: during the dark launch, and all through a dry run.
    pub fn mirror_percent(&self) -> Percent {
        let Some(mirror) = self.plan.mirror_first else { return Percent::NONE };
        match (self.state.phase(), self.plan.effect) {
            (Some(Phase::Mirroring), _) | (Some(Phase::Step { .. }), Effect::DryRun) => mirror.percent,
            _ => Percent::NONE,
        }
    }

    /// Takes in what was seen and decides. At most one step at a time.
    pub fn tick(&mut self, seen: &Observations, now: Moment) -> Option<Transition> {
        let phase = self.state.phase()?;
        self.watch.take_in(seen, now);
        match phase {
            Phase::Waiting => self.wait_for_the_new_version(seen, now),
            Phase::Mirroring | Phase::Step { .. } => self.judge(phase, seen, now),
        }
    }

    /// Does what the operator wants. `why` is for people, and optional.
    pub fn command(&mut self, command: Command, why: Option<&str>, now: Moment) -> Result<Transition, CommandRefused> {
        let why = why.map(|why| format!(": {}", one_line(why))).unwrap_or_default();
        let (state, reason) = match command {
            Command::Pause => {
                let reason = format!("paused by an operator{why}");
                let phase = self.running().map_err(|way_out| self.refuse(command, way_out))?;
                (State::Paused { phase, reason: reason.clone(), at: now }, reason)
            }
            Command::Resume => {
                let phase = self.resumes_at().map_err(|way_out| self.refuse(command, way_out))?;
                let what = if self.state.phase().is_some() { "resumed" } else { "started anew" };
                (State::of(phase, now), format!("{what} by an operator{why}"))
            }
            Command::Promote => {
                if self.state.phase().is_none() {
                    return Err(
                        self.refuse(command, "it is over; `resume` starts anew what was rolled back or aborted")
                    );
                }
                let reason = format!("promoted to {} by an operator{why}", self.plan.last_step());
                (State::Promoted { reason: reason.clone(), at: now }, reason)
            }
            Command::Abort => {
                if matches!(self.state, State::RolledBack { .. } | State::Aborted { .. }) {
                    return Err(self.refuse(command, "everything goes to the old version already"));
                }
                let reason = format!("aborted by an operator{why}");
                (State::Aborted { reason: reason.clone(), at: now }, reason)
            }
        };
        Ok(self.enter(state, Cause::Operator, reason, now))
    }

    /// When the hold of this step is over, if ticks go on coming. The gate may need longer.
    pub fn next_step_at(&self, now: Moment) -> Option<Moment> {
        match &self.state {
            State::Mirroring { .. } | State::Step { .. } => {
                Some(now.plus(self.hold(self.state.phase()?).saturating_sub(self.watch.held())))
            }
            State::Waiting { .. }
            | State::Paused { .. }
            | State::Promoted { .. }
            | State::RolledBack { .. }
            | State::Aborted { .. } => None,
        }
    }

    fn wait_for_the_new_version(&mut self, seen: &Observations, now: Moment) -> Option<Transition> {
        if matches!(self.state, State::Paused { .. }) {
            return None;
        }
        let to = &self.plan.to;
        if seen.candidate == Candidate::Absent {
            self.waits_for = Some(format!("no endpoint of {to} is up"));
            return None;
        }
        Some(self.advance(Phase::Waiting, Cause::Ready, format!("{to} is up"), now))
    }

    fn judge(&mut self, phase: Phase, seen: &Observations, now: Moment) -> Option<Transition> {
        let paused = matches!(self.state, State::Paused { .. });
        match (self.verdict(phase, seen), self.plan.on_fail) {
            (Verdict::Fail(failure, reason), OnFail::Rollback) => {
                let state = State::RolledBack { reason: reason.clone(), at: now };
                Some(self.enter(state, Cause::GateFailed(failure), reason, now))
            }
            _ if paused => {
                self.waits_for = Some("an operator".to_owned());
                None
            }
            (Verdict::Fail(failure, reason), OnFail::Pause) => {
                let state = State::Paused { phase, reason: reason.clone(), at: now };
                Some(self.enter(state, Cause::GateFailed(failure), reason, now))
            }
            (Verdict::Wait(reason), _) => {
                self.waits_for = Some(reason);
                None
            }
            (Verdict::Pass(summary), _) => {
                let held = TimeSpan::from_millis(u64::try_from(self.hold(phase).as_millis()).unwrap_or(u64::MAX));
                Some(self.advance(phase, Cause::GatePassed, format!("passed after {held}: {summary}"), now))
            }
        }
    }

    fn verdict(&self, phase: Phase, seen: &Observations) -> Verdict {
        // A pause has no end at which something must be decided.
        let over = self.watch.held() >= self.hold(phase) && self.state.kind() != StateKind::Paused;
        let held = if over { Held::LongEnough } else { Held::NotYet };
        let case = Case {
            gate: &self.plan.gate,
            from: &self.plan.from,
            to: &self.plan.to,
            step: self.watch.step(),
            recent: self.watch.recent(),
            held,
            candidate: seen.candidate,
            alert: seen.alert,
        };
        if self.plan.effect == Effect::Live || self.plan.mirror_first.is_some() {
            return case.judge();
        }
        // Nothing reaches the new version, so there is nothing to judge; what is left to show is the way.
        match (case.held_back(), held) {
            (Some(reason), _) => Verdict::Wait(reason),
            (None, Held::NotYet) => Verdict::Wait("the hold is not over".to_owned()),
            (None, Held::LongEnough) => Verdict::Pass(format!("no request of {} was there to judge", self.plan.to)),
        }
    }

    fn advance(&mut self, phase: Phase, cause: Cause, reason: String, now: Moment) -> Transition {
        let next = match phase {
            Phase::Waiting if self.plan.mirror_first.is_some() => Some(Phase::Mirroring),
            Phase::Waiting | Phase::Mirroring => Some(Phase::Step { index: 0 }),
            Phase::Step { index } => {
                Some(index + 1).filter(|next| *next < self.plan.steps.len()).map(|index| Phase::Step { index })
            }
        };
        let state = match next {
            Some(next) => State::of(next, now),
            None => State::Promoted { reason: reason.clone(), at: now },
        };
        self.enter(state, cause, reason, now)
    }

    pub(crate) fn enter(&mut self, state: State, cause: Cause, reason: String, now: Moment) -> Transition {
        let from = self.state.kind();
        let (before, over) = (self.state.phase(), state.phase().is_none());
        self.state = state;
        // A pause goes on watching the same share; what is over keeps the figures that ended it.
        let same = over || (before == self.state.phase() && self.state.kind() == StateKind::Paused);
        if !same {
            self.watch.start_over();
        }
        self.waits_for = None;
        let reason = match self.plan.effect {
            Effect::Live => reason,
            Effect::DryRun => format!("dry run: {reason}"),
        };
        let transition = Transition { at: now, cause, from, to: self.state.kind(), share: self.share(), reason };
        self.history.push_back(transition.clone());
        while self.history.len() > HISTORY_MAX {
            self.history.pop_front();
        }
        transition
    }

    fn hold(&self, phase: Phase) -> Duration {
        match (phase, self.plan.mirror_first) {
            (Phase::Mirroring, Some(mirror)) => mirror.hold,
            _ => self.plan.hold,
        }
    }

    fn running(&self) -> Result<Phase, &'static str> {
        match &self.state {
            State::Paused { .. } => Err("`resume` goes on, `abort` gives up"),
            state => state.phase().ok_or("it is over; nothing moves any more"),
        }
    }

    fn resumes_at(&self) -> Result<Phase, &'static str> {
        match &self.state {
            State::Paused { phase, .. } => Ok(*phase),
            State::RolledBack { .. } | State::Aborted { .. } => Ok(Phase::Waiting),
            State::Promoted { .. } => Err("it is over; `abort` takes everything back"),
            State::Waiting { .. } | State::Mirroring { .. } | State::Step { .. } => Err("it goes on already"),
        }
    }

    fn refuse(&self, command: Command, way_out: &'static str) -> CommandRefused {
        CommandRefused { rollout: self.plan.name.clone(), command, state: self.state.kind(), way_out }
    }
}

/// An operator's words as one line without control characters: they go to logs, terminals and the disk.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(WHY_MAX).collect()
}
