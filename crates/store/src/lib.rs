//! Counts that several processes share, in Valkey or Redis, and a board on which they pin what they have to say.
//!
//! Decides nothing of its own: the arithmetic is `portcullis-limit`'s, run inside the store as one script, and what happens
//! when the store does not answer is the caller's (`on_fail`). Sockets are opened here, to the configured nodes only.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod board;
mod breaker;
mod connection;
mod driver;
mod error;
mod script;
mod spec;
mod store;

pub use board::Board;
pub use breaker::Breaker;
pub use connection::{Node, StoreConfig};
pub use error::StoreError;
pub use spec::{OnFail, StoreSpec, StoreTlsSpec, ValkeySpec};
pub use store::{Store, StoreCounts};
