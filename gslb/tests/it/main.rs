//! The DNS server from outside: messages in, messages out, judged by another library.
#![allow(clippy::unwrap_used)]

mod clauses;
mod dnssec;
mod documents;
mod explain;
mod fleet;
mod journals;
mod keys;
mod mmdb;
mod mutations;
mod protocol;
mod server;
mod steering;
mod support;
mod transfers;
mod zones;
