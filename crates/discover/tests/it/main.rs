//! The crate at its boundary: simulated time for decisions, real sockets and files for the rest.
#![allow(clippy::unwrap_used)]

mod dns;
mod file;
mod server;
mod spec;
mod tracker;
