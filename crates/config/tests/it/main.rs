//! The crate from outside: documents in, reports and specs out.
#![allow(clippy::unwrap_used)]

mod include;
mod mistakes;
mod mutation;
mod scale;
mod secrets;
mod spec;
mod watch;
