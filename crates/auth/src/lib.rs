//! Decides who is asking and whether they may: tokens, API keys, passwords, certificates, addresses, and the questions put
//! to an external authority.
//!
//! Everything but `key_fetcher` is a plain function of what was configured, what the request shows and `now`. Deliberately
//! absent: routing, engines and their request types (an engine implements [`AuthRequest`]), the sending of external
//! authorisation requests, and any clock.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod algorithm;
mod claims;
mod http_url;
mod identity;
mod identity_spec;
mod json_object;
mod jwt_refusal;
mod key_set;
#[cfg(test)]
mod signer;
mod verified_cache;

pub use algorithm::Algorithm;
pub use claims::Claims;
pub use http_url::{HttpUrl, Transport, UrlError};
pub use identity::{Identity, KeyPlace, KeySource};
pub use identity_spec::{IdentitySpec, JwksSpec};
pub use jwt_refusal::JwtRefusal;
pub use key_set::{KeyOrigin, KeySet, KeySetError};
