//! Signing on line (RFC 4035): keys, signatures that are kept, and proofs that something is not there.

mod chain;
mod key;
mod signer;
mod spec;

pub(crate) use chain::{Chain, Proof, types_of_node};
pub use key::{Algorithm, KeyError, generate_key};
pub(crate) use signer::{Budget, Signable, Signed, Signer};
pub use spec::{CdsSpec, DenialSpec, DnssecKeySpec, DnssecSpec, KeyRole};
