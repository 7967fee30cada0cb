//! An authoritative DNS server that answers by health, weight and place.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod answer;
mod cookie;
mod edns;
mod message;
mod name;
mod query;
mod rdata;
mod record_type;
mod snapshot;
mod spec;
mod svcb;
mod token;
mod zone;
mod zone_file;
mod zones;

pub use answer::Transport;
pub use name::{Name, NameError};
pub use record_type::{Rcode, RecordType, UnknownType};
pub use snapshot::Snapshot;
pub use spec::{GslbSpec, SoaSpec, ZoneSpec};
