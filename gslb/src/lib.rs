//! An authoritative DNS server that answers by health, weight and place.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod name;
mod rdata;
mod record_type;
mod svcb;
mod token;
mod zone_file;

pub use name::{Name, NameError};
pub use record_type::{Rcode, RecordType, UnknownType};
