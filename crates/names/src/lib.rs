//! The nouns that several crates speak, parsed once at the edge into types that cannot be wrong.
//!
//! Every text type here has one grammar, one error message and one JSON Schema `format`; [`check_format`] lets the
//! configuration linter run the very same parser over every value of a document, so that all mistakes are found in one run.
//! Deliberately absent: sockets, files, clocks, and anything that only one crate needs.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod byte_size;
mod cidr;
mod country;
mod endpoint_address;
mod header_name;
mod host_pattern;
mod listen_address;
mod method;
mod object_name;
mod percent;
mod rate;
mod request_key;
mod san_pattern;
mod secret_command;
mod secret_ref;
mod spiffe_id;
mod status;
mod text;
mod time_range;
mod time_span;

pub use byte_size::ByteSize;
pub use cidr::{Cidr, CidrSet};
pub use country::Country;
pub use endpoint_address::EndpointAddress;
pub use header_name::HeaderName;
pub use host_pattern::{HostPattern, normalise_host};
pub use listen_address::ListenAddress;
pub use method::Method;
pub use object_name::ObjectName;
pub use percent::Percent;
pub use rate::Rate;
pub use request_key::{KeyPart, RequestKey};
pub use san_pattern::SanPattern;
pub use secret_command::{NotACommand, SecretCommand};
pub use secret_ref::SecretRef;
pub use spiffe_id::{SpiffeId, TrustDomain};
pub use status::Status;
pub use text::{ParseError, check_format};
pub use time_range::TimeRange;
pub use time_span::TimeSpan;
