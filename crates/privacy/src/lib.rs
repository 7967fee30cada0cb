//! Personal data in what passes: payment cards, bank accounts, social security numbers, and patterns of one's own. Finds them in
//! octets that come in pieces, and covers them up in place, so that no length changes.
//!
//! Pure: knows no HTTP and unpacks nothing; who holds a compressed body unpacks it first. Never hands out what it found, only
//! where and of which kind.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::indexing_slicing))]

mod boundary;
mod card;
mod detector;
mod iban;
mod json_strings;
mod pattern;
mod profile;
mod scanner;
mod social_security;
mod spec;
mod watch;

pub use detector::Detector;
pub use profile::Profile;
pub use scanner::{Scanner, Until};
pub use spec::{DetectorSpec, PrivacyAction, PrivacySpec};
pub use watch::{Rule, Watch};
