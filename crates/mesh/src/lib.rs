//! What a sidecar decides, as plain functions: who a peer is, whether it must be encrypted, what a connection speaks, who
//! may call what, and which packets are captured.
//!
//! Facts, `now` and draws are arguments. Deliberately absent: sockets, handshakes, tasks, metrics, and any control plane.
//! The one effect is [`SvidFiles::read`], which reads three files when told. Not wired into the gateway yet.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod authorise;
mod authorise_rule;
mod authorise_spec;
mod capture;
mod detect;
mod mode;
mod namespace;
#[cfg(test)]
mod sample;
mod spiffe;
mod svid;
mod svid_verifier;
mod workload;

pub use authorise::{Authorisation, Considered, Decision, Peer, Verdict};
pub use authorise_rule::{Attributes, Call, Request, RuleOutcome};
pub use authorise_spec::{MeshAccessMatchSpec, MeshAccessSpec, MeshAction};
pub use capture::{Capture, Checked, Exclusion, Family, Method, NoCapture, TPROXY_MARK};
pub use detect::{Hello, OpaquePorts, PEEK_MAX, PortMemory, Protocol, SERVER_FIRST_AFTER, Step, detect, hello};
pub use mode::{Inbound, Mode, ModeRefusal, Modes, MtlsSpec, Outbound, Relation, Wire};
pub use namespace::{GlobalName, NotAGlobalName, ServiceSpec, Services};
pub use spiffe::{NotAnSvid, svid_id};
pub use svid::{Offered, OwnIdentity, Svid, SvidError, SvidFiles, SvidPem};
pub use svid_verifier::SvidVerifier;
pub use workload::{Workload, WorkloadSpec};
