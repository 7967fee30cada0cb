//! The built-in certificate authority of a mesh: root → one intermediate per namespace → short-lived X.509-SVIDs.
//!
//! Pure but for [`Folder`], which is the authority's files: certificates, keys (0600), what was revoked. `now` is an
//! argument everywhere; only keys and tokens are drawn here. Deliberately absent: a network service (that is `enrol`), a database of what was issued
//! (short lives take its place), and any certificate but for workloads; web certificates come from elsewhere. Used by
//! the `portcullis ca` command.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod authority;
mod certificate;
mod error;
mod file;
mod folder;
mod life;
mod request;
mod revoked;
mod token;
mod workload;

pub use authority::{Authority, NewIntermediate};
pub use certificate::Certificate;
pub use error::CaError;
pub use file::{Overwrite, SECRET, write as write_file};
pub use folder::{Folder, Issued, Trusted};
pub use life::{AuthorityLife, LeafLife};
pub use request::{Request, ask_for};
pub use token::{Redeemed, TokenUse};
pub use workload::{Namespace, Workload};
