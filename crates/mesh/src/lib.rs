//! What a sidecar decides, as plain functions: who a peer is, whether it must be encrypted, what a connection speaks, who
//! may call what, and which packets are captured.
//!
//! Facts, `now` and draws are arguments. Deliberately absent: sockets, handshakes, tasks, metrics, and any control plane.
//! The one effect is [`SvidFiles::read`], which reads three files when told. `proxy` carries out what is decided here.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod authorise;
mod authorise_rule;
mod capture;
mod capture_steps;
mod detect;
mod identity_source;
mod mode;
mod namespace;
mod peer_name;
#[cfg(test)]
mod sample;
mod spiffe;
mod svid;
mod svid_verifier;
mod tls;
mod workload;

pub use authorise::{Authorisation, Considered, Decision, Peer, Verdict};
pub use authorise_rule::{Attributes, Call, Request, RuleOutcome};
pub use capture::{Capture, Checked, Exclusion, Family, Method, NoCapture, TPROXY_MARK};
pub use capture_steps::{CaptureOutcome, CaptureStep, Filter, remove_capture};
pub use detect::{Hello, OpaquePorts, PEEK_MAX, PortMemory, Protocol, SERVER_FIRST_AFTER, Step, detect, hello};
pub use identity_source::{
    AuthoritySource, AuthoritySourceSpec, IdentitySource, SvidFilesSpec, SvidSpec, WorkloadApiSpec,
};
pub use mode::{Inbound, Mode, ModeRefusal, Modes, MtlsSpec, Outbound, Relation, Wire};
pub use namespace::{GlobalName, NotAGlobalName, Service, ServiceSpec, Services};
pub use peer_name::PeerName;
pub use spiffe::{NotAnSvid, svid_id};
pub use svid::{Offered, OwnIdentity, Svid, SvidError, SvidFiles, SvidPem};
pub use svid_verifier::SvidVerifier;
pub use tls::{ALPN_H1, ALPN_H2, ALPN_HBONE, ALPN_TUNNEL, PeerRefused, client_config, peer_refused, server_config};
pub use workload::{Workload, WorkloadSpec};
