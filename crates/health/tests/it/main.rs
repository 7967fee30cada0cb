//! Probes against real endpoints on port 0.
#![allow(clippy::unwrap_used)]

mod endpoint;
mod grpc;
mod http;
mod rhythm;
mod spec;
mod tls;
