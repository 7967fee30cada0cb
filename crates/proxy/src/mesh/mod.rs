//! The sidecar: what comes in for its application and what goes out to services, under `[mtls]` and `[access]`.
//!
//! What may happen is decided in `portcullis-mesh`; here connections are read, opened, dialled and carried. HTTP goes through
//! the same engine as at an edge: a service is an upstream with a route.

mod board;
mod carrier;
mod dialling;
mod facts;
mod first;
mod gateway;
mod h2_stream;
mod inbound;
mod judge;
mod lifetime;
mod listener;
mod live;
mod outbound;
mod plan;
mod record;
mod revoke;
mod tunnels;

pub use board::{PeerEntry, PeerStatus};
pub(crate) use carrier::{Carriers, sighting};
pub(crate) use dialling::{connect, is_not_tls};
pub use facts::Security;
pub(crate) use facts::{MeshCall, MeshFacts};
pub(crate) use inbound::serve as serve_inbound;
pub(crate) use judge::{When, judge_request};
pub(crate) use lifetime::Lifetime;
pub use listener::{Beyond, InboundTarget, MeshListener, Otherwise, OutboundTarget};
pub use live::{LiveMesh, MeshState};
pub(crate) use outbound::serve as serve_outbound;
pub(crate) use plan::How;
pub use plan::{MeshPlan, MeshSources, Towards};
pub(crate) use record::{count_request, described};
pub(crate) use revoke::revoked;
