//! Where a workload's identity comes from: files that something else writes, the authority's endpoint, or a SPIFFE Workload
//! API; and the endpoint itself.
//!
//! Whatever the source, an identity arrives by [`portcullis_mesh::OwnIdentity::offer`], whole and judged; the last valid one stays
//! when nothing better comes. Deliberately absent: the decisions (they are `mesh`'s and `ca`'s) and any listener of the mesh.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod authority_client;
mod clock;
mod endpoint;
mod error;
mod files;
mod follower;
mod given;
mod pace;
mod source;
#[cfg(feature = "workload-api")]
mod workload_api;

pub use clock::Clock;
pub use endpoint::Endpoint;
pub use error::EnrolError;
pub use follower::{Follower, Progress};
pub use pace::Pace;
pub use source::is_built;
