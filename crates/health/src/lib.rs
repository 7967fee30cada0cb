//! Decides whether an endpoint is up, and runs the probes that tell.
//!
//! [`Health`] is a pure state machine: time and outcomes come in as arguments. Sockets exist only in [`Prober`].
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod outlier;
mod probe;
mod prober;
mod spec;
mod state;

pub use outlier::{EjectReason, IntervalSums, Outlier, OutlierSpec, Streaks, TryOutcome};
pub use probe::{Failure, Probe, ProbeKind};
pub use prober::{Prober, Target};
pub use spec::{HealthCheck, HealthCheckSpec, StatusRange};
pub use state::{Changed, Health, HealthState, Override};
