//! Listeners, the stages of a request, and the engine that drives them. The only crate that knows pingora.
#![deny(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod api_guard;
mod conn;
mod core;
mod egress;
mod engine;
pub mod footprint;
pub mod listen;
mod mesh;
mod privacy_guard;
mod release;
mod snapshot;
mod stage;
mod tunnel;
mod waf_guard;

pub use crate::core::CoreThread;
pub use api_guard::ApiGuard;
pub use conn::{ConnFacts, TlsFacts};
pub use egress::{
    Capture, EgressPlan, EgressSources, EgressSpec, EgressState, InterceptPlan, LiveEgress, ProxyPlan, outward,
};
pub use engine::Peers;
pub use mesh::{
    Beyond, InboundTarget, LiveMesh, MeshListener, MeshPlan, MeshSources, MeshState, Otherwise, OutboundTarget,
    PeerEntry, PeerStatus, Security, Towards,
};
pub use privacy_guard::PrivacyGuard;
pub use release::{LiveRollout, ReleaseStep, Releases};
pub use snapshot::{Drain, Edge, Snapshot};
pub use tunnel::{SniRoutes, TcpRoute, TcpRouteSpec, TlsRouteSpec};
pub use waf_guard::WafGuard;

/// Seconds since 1970; what tokens and passwords are judged by.
pub(crate) fn unix_seconds() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}
