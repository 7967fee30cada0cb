//! DNSSEC (RFC 4035): keys and their roll-over, signatures that are kept, and proofs that something is not there.

mod chain;
mod keeper;
mod key;
mod key_store;
mod parent;
mod presigned;
mod roll;
mod signatures;
mod signer;
mod spec;
mod succession;

pub(crate) use chain::{Chain, Proof, types_of_node};
pub(crate) use keeper::run as keep;
pub use key::{Algorithm, KeyError, generate_key};
pub(crate) use key_store::KeyStore;
pub(crate) use presigned::{split, strip};
pub(crate) use roll::RollPlan;
pub(crate) use signer::{Budget, Signable, Signed, Signer};
pub use spec::{AutomaticKeysSpec, CdsSpec, DenialSpec, DnssecKeySpec, DnssecSpec, KeyRole, KeySchemeSpec};
