//! Against a real server where one is installed (`redis-server` or `valkey-server`); where none is, the tests that need it say
//! so and pass.
#![allow(clippy::unwrap_used)]

mod equality;
mod failure;
mod server;
mod spec;
mod tls;
