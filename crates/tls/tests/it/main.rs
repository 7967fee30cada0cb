//! The crate from outside: files are loaded, configurations compiled, and handshakes run in memory.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod authority;
mod client_auth;
mod handshake;
mod identity;
mod listener;
mod load;
mod ocsp;
mod sessions;
mod upstream;
mod workbench;
