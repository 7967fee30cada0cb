//! The way out: callers, tunnels and requests under `[destination]` and `[access]`.
//!
//! What may happen is decided in `portcullis-egress`; here connections are read, answered, dialled and carried. Requests that the
//! gateway sees go through the HTTP engine (`engine/egress.rs`).

mod admission;
mod answer;
mod auth;
mod caller;
pub(crate) mod connect;
pub(crate) mod connect_h2;
mod inspect;
pub(crate) mod intercept;
mod live;
pub(crate) mod local_process;
mod outbound;
pub(crate) mod parents;
mod plan;
mod record;
mod relay_any;
mod revoked;
pub(crate) mod socks;
mod spec;
mod spoken;
mod tunnel;

pub(crate) use admission::{Refused, admit, resolve};
pub(crate) use caller::CallerFacts;
pub(crate) use connect::Pinned;
pub use intercept::{Capture, InterceptPlan};
pub use live::{EgressState, LiveEgress};
pub(crate) use outbound::TRIES_MAX;
pub(crate) use plan::Showing;
pub use plan::{EgressPlan, EgressSources, ProxyPlan, outward};
pub(crate) use record::{Ended, FlowRecord, Octets};
pub(crate) use relay_any::relay_any;
pub(crate) use revoked::revoked;
pub use spec::EgressSpec;
pub(crate) use tunnel::Tunnel;
