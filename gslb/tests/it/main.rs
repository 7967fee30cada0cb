//! The DNS server from outside: messages in, messages out, judged by another library.
#![allow(clippy::unwrap_used)]

mod mutations;
mod protocol;
mod server;
mod support;
mod zones;
