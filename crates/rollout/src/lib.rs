//! Service level objectives, and releases that go out by steps and are judged on the way.
//!
//! Everything here is a plain function of (compiled configuration, figures, `now`): no sockets, no clock, no files. The
//! gateway counts requests, feeds the figures in, asks for the share of the new version, and keeps the state on disk.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod bucket_ring;
mod counts;
mod evidence;
mod figures;
mod latency;
mod moment;
mod plan;
mod rollout;
mod saved;
mod slo;
mod slo_meter;
mod spec;
mod state;
mod status;
mod verdict;
mod watch;

pub use counts::Counts;
pub use figures::{Figures, Outcome, VersionMeter};
pub use latency::{LATENCY_BUCKETS, LatencyHistogram, latency_bucket};
pub use moment::Moment;
pub use plan::{Effect, Gate, Known, MirrorFirst, RolloutPlan, compile_rollouts};
pub use rollout::{Candidate, Command, CommandRefused, Observations, Rollout};
pub use saved::{Notice, Restored, RolloutState};
pub use slo::{LatencyObjective, LatencySpec, Slo, SloSpec, compile_slos};
pub use slo_meter::{BURN_WINDOWS, BurnAlert, BurnWindow, Severity, SloMeter, SloReport, WindowBurn};
pub use spec::{GateSpec, MirrorFirstSpec, OnFail, RolloutSpec};
pub use state::{Cause, Phase, State, StateKind, Transition};
pub use status::{RolloutStatus, VersionStatus};
pub use verdict::Failure;
