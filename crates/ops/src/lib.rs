//! What an operator touches: metrics, the access log, the admin socket, signals, and the hand-over to a new binary.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod access_log;
pub mod admin;
pub mod handover;
pub mod log;
pub mod metrics;
pub mod signals;
mod spec;
pub mod systemd;

pub use spec::{
    AccessLogSpec, AccessLogTarget, AdminSpec, LogFormat, MetricsSpec, ProcessSpec, TelemetrySpec, Threads,
};
