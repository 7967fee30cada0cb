//! Where a rollout stands, and how it got there.

use crate::{Failure, Moment};
use portcullis_names::Percent;
use serde::{Deserialize, Serialize};

/// Where a rollout stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case", deny_unknown_fields)]
pub enum State {
    /// No endpoint of the new version is up yet; nothing goes to it.
    Waiting { since: Moment },
    /// The new version answers copies.
    Mirroring { since: Moment },
    /// The new version has the share of this step (counted from zero).
    Step { index: usize, since: Moment },
    /// Where it was, until an operator decides.
    Paused { phase: Phase, reason: String, at: Moment },
    /// The new version keeps the share of the last step. Nothing is judged any more.
    Promoted { reason: String, at: Moment },
    /// The gate failed; nothing goes to the new version.
    RolledBack { reason: String, at: Moment },
    /// An operator gave it up; nothing goes to the new version.
    Aborted { reason: String, at: Moment },
}

/// How far a rollout is that is not over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case", deny_unknown_fields)]
pub enum Phase {
    Waiting,
    Mirroring,
    Step { index: usize },
}

/// A state without its data: a metric label and a word for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StateKind {
    Waiting,
    Mirroring,
    Step,
    Paused,
    Promoted,
    RolledBack,
    Aborted,
}

impl StateKind {
    pub const ALL: [Self; 7] =
        [Self::Waiting, Self::Mirroring, Self::Step, Self::Paused, Self::Promoted, Self::RolledBack, Self::Aborted];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Mirroring => "mirroring",
            Self::Step => "step",
            Self::Paused => "paused",
            Self::Promoted => "promoted",
            Self::RolledBack => "rolled_back",
            Self::Aborted => "aborted",
        }
    }
}

impl State {
    pub const fn kind(&self) -> StateKind {
        match self {
            Self::Waiting { .. } => StateKind::Waiting,
            Self::Mirroring { .. } => StateKind::Mirroring,
            Self::Step { .. } => StateKind::Step,
            Self::Paused { .. } => StateKind::Paused,
            Self::Promoted { .. } => StateKind::Promoted,
            Self::RolledBack { .. } => StateKind::RolledBack,
            Self::Aborted { .. } => StateKind::Aborted,
        }
    }

    /// How far it is, paused or not; `None` once it is over.
    pub const fn phase(&self) -> Option<Phase> {
        match self {
            Self::Waiting { .. } => Some(Phase::Waiting),
            Self::Mirroring { .. } => Some(Phase::Mirroring),
            Self::Step { index, .. } => Some(Phase::Step { index: *index }),
            Self::Paused { phase, .. } => Some(*phase),
            Self::Promoted { .. } | Self::RolledBack { .. } | Self::Aborted { .. } => None,
        }
    }

    pub const fn since(&self) -> Moment {
        match self {
            Self::Waiting { since } | Self::Mirroring { since } | Self::Step { since, .. } => *since,
            Self::Paused { at, .. }
            | Self::Promoted { at, .. }
            | Self::RolledBack { at, .. }
            | Self::Aborted { at, .. } => *at,
        }
    }

    pub(crate) const fn of(phase: Phase, since: Moment) -> Self {
        match phase {
            Phase::Waiting => Self::Waiting { since },
            Phase::Mirroring => Self::Mirroring { since },
            Phase::Step { index } => Self::Step { index, since },
        }
    }
}

/// What caused a transition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The new version is up.
    Ready,
    /// The hold is over and the gate passed.
    GatePassed,
    GateFailed(Failure),
    Operator,
    /// The configuration changed under it.
    Reload,
}

impl Cause {
    /// A metric label; a failed gate says why it failed in [`Failure::as_str`].
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::GatePassed => "gate_passed",
            Self::GateFailed(_) => "gate_failed",
            Self::Operator => "operator",
            Self::Reload => "reload",
        }
    }
}

/// A change of state, with the reason for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transition {
    pub at: Moment,
    pub cause: Cause,
    pub from: StateKind,
    pub to: StateKind,
    /// Of requests that go to the new version from now on. Always none in a dry run.
    pub share: Percent,
    pub reason: String,
}
