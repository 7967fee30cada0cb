//! Listeners, the stages of a request, and the engine that drives them. The only crate that knows pingora.
#![deny(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod conn;
mod core;
mod engine;
pub mod listen;
mod snapshot;
mod stage;
mod tunnel;

pub use crate::core::CoreThread;
pub use conn::{ConnFacts, TlsFacts};
pub use engine::Peers;
pub use snapshot::{Drain, Edge, Snapshot};
pub use tunnel::{SniRoutes, TcpRoute, TcpRouteSpec, TlsRouteSpec};
