//! Upstreams: their endpoints, who of them may be used, and whom to pick. No HTTP, no sockets.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod balance;
mod breaker;
mod cluster;
mod clusters;
mod connections;
mod consistent_hash;
mod endpoint;
mod latency;
mod pick;
mod retry_budget;
mod spec;
mod status;
mod sticky;
mod view;

pub use balance::{Balance, BalanceSpec, Locality, Policy};
pub use breaker::{CircuitBreaker, CircuitBreakerSpec, Gauge, Permit};
pub use cluster::{Cluster, ClusterId, ClusterLoad};
pub use clusters::{Clusters, Surroundings};
pub use connections::{Connections, Rest, Seat};
pub use consistent_hash::{HashAlgorithm, hash_key};
pub use endpoint::{Endpoint, EndpointState};
pub use pick::{NotPicked, Pick, Tried, Volunteer, Wish};
pub use retry_budget::{RetryBudget, RetryBudgetSpec};
pub use spec::{HttpProtocol, ProxyProtocolVersion, UpstreamSpec};
pub use status::{EndpointStatus, UpstreamStatus};
pub use sticky::{StickySpec, StickyToken};
