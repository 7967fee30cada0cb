//! Finds the endpoints of upstreams: by DNS addresses, by DNS services (SRV), in a file that something else writes, or by asking
//! a registry over HTTP.
//!
//! What answers mean, how long they hold and when to ask again is decided by [`Tracker`], which is pure: answers, the time
//! and the draw come in as arguments. Sockets and files exist only in the tasks that [`Discovery`] runs. Health, weights over
//! time and the choice of an endpoint are `upstream`'s.
//!
//! Consul and Kubernetes EndpointSlices will be further variants of [`Source`]: a spec key, a compiled struct, and one arm in
//! `discovery.rs` that publishes [`Endpoints`]. There is deliberately no trait to implement.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod asker;
mod discovery;
mod dns_name;
mod endpoint_list;
mod endpoint_spec;
mod endpoints;
mod http_poll;
mod nameservers;
mod shares;
mod source;
mod spec;
mod tracker;

pub use discovery::{Discovery, FIRST_ANSWERS, SourceStatus};
pub use dns_name::DnsName;
pub use endpoint_list::{EndpointList, ListError};
pub use endpoint_spec::EndpointSpec;
pub use endpoints::{ENDPOINTS_MAX, Endpoints, Found};
pub use nameservers::{Nameservers, Servers};
pub use source::{DnsSource, FileSource, HttpSource, Seek, Source};
pub use spec::{DiscoverSpec, DiscoverySpec, Families, NameserversSpec, Resolvers};
pub use tracker::{Answer, IpVersion, Question, SERVICES_MAX, Service, Tracker, Trouble};
