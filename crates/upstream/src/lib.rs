//! Upstreams: their endpoints, who of them may be used, and whom to pick. No HTTP, no sockets.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod balance;
mod cluster;
mod endpoint;
mod spec;
mod status;

pub use balance::Policy;
pub use cluster::{Cluster, ClusterId, Clusters, NoEndpoint, Pick, Registries, Tried};
pub use endpoint::{Endpoint, EndpointState};
pub use spec::{BalanceSpec, EndpointSpec, HttpProtocol, ProxyProtocolVersion, UpstreamSpec};
pub use status::{EndpointStatus, UpstreamStatus};
