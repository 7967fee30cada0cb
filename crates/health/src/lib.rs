//! Decides whether an endpoint is up, and runs the probes that tell.
//!
//! [`Health`] is a pure state machine: time and outcomes come in as arguments. Sockets exist only in [`Prober`].
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod body_rule;
mod check;
mod expiry;
mod outlier;
mod probe;
mod prober;
mod spec;
mod state;

pub use body_rule::{BodyRule, BodySpec};
pub use check::{Ask, DnsCheck, GrpcCheck, HealthCheck, HttpCheck, Part, Several, StatusRange};
pub use expiry::{EndsSoon, ExpiryAction, ExpiryRule, ExpirySpec};
pub use outlier::{EjectReason, IntervalSums, Outlier, OutlierSpec, Streaks, TryOutcome};
pub use probe::{Failure, Probe, ProbeKind, Vitals};
pub use prober::{Prober, Target, Tell};
pub use spec::{DnsCheckSpec, DnsCheckType, HealthCheckSpec, ProbeProtocol};
pub use state::{Changed, Health, HealthState, Override};
