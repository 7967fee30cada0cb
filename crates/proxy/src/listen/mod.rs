//! Listeners: their sockets, limits and plans.

pub(crate) mod accept;
mod bind;
mod limits;
mod per_address;
mod plan;
mod runtime;
mod spec;

pub use bind::BoundSocket;
pub(crate) use limits::MIN_RATE_GRACE;
pub use limits::{Limits, LimitsSpec};
pub use plan::{ListenerPlan, PlanProtocol};
pub use runtime::ListenerRuntime;
pub use spec::{HttpVersion, ListenerSpec, Protocol, ProxyProtocolSpec};
