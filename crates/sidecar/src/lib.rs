//! What stands around a sidecar's pipeline: packets that are led to it, an application that waits for it and outlives nothing,
//! probes that get past it, and names that it answers.
//!
//! The decisions are `mesh`'s. Deliberately absent: listeners of the mesh, identities, authorisation. Used by the gateway, and by
//! the commands of `mesh-proxy` and `portcullis mesh`.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod application;
mod capture_command;
mod control_group;
mod dns_answer;
mod dns_server;
mod probes;
mod probes_spec;
mod wait;

pub use application::{Application, Applications, Registered, When};
pub use capture_command::{CaptureArguments, CaptureCommand, CaptureFailed, capture};
pub use control_group::NoControlGroup;
pub use dns_answer::{Answered, Names, answer};
pub use dns_server::{DnsServer, LocalDns, LocalDnsSpec, PreparedDns};
pub use probes::{PreparedProbes, ProbeServer, Probes};
pub use probes_spec::{ProbeSpec, ProbesSpec};
pub use wait::{WaitArguments, WaitFailed, wait};
