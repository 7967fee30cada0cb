//! Listeners: their sockets, limits and plans.

pub(crate) mod accept;
mod bind;
mod limits;
mod per_address;
mod plan;
mod runtime;
mod spec;

pub use bind::{BoundSocket, take_for_anybody};
pub use limits::{Limits, LimitsSpec, MinRate};
pub use plan::{ListenerPlan, PlanProtocol};
pub use runtime::ListenerRuntime;
pub use spec::{Direction, HttpVersion, ListenerSpec, Protocol, ProxyProtocolSpec, Underscores};
