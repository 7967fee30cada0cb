//! Decides how much is too much: rate limits by key and limits on concurrency.
//!
//! Pure: `now` is an argument, and there is no socket and no clock. A limit whose counts are shared between processes is
//! kept by `portcullis-store`, which runs the same arithmetic in the store. What is counted by (addresses, header fields,
//! claims) is read from the request by the caller and comes in as a [`Key`].
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod adaptive;
mod adaptive_concurrency;
mod adaptive_gradient;
mod adaptive_latencies;
mod adaptive_spec;
mod concurrency;
mod fields;
mod gcra;
mod key;
mod key_table;
mod limit;
mod nanos;
mod rate_limit;
mod rate_limit_refs;
mod sliding_window;
mod spec;

pub use adaptive::{AdaptiveLimit, AdaptivePermit, AdaptiveState, Outcome};
pub use adaptive_concurrency::{Concurrency, ConcurrencyPermit};
pub use adaptive_gradient::AdaptivePlan;
pub use adaptive_spec::{ConcurrencySpec, ConcurrencyTable};
pub use concurrency::{ConcurrencyLimit, Permit};
pub use fields::{write_policy, write_retry_after, write_state};
pub use gcra::Gcra;
pub use key::Key;
pub use key_table::{KeyTable, Meter, Standing};
pub use limit::{Limit, Unfit, Verdict};
pub use nanos::Nanos;
pub use rate_limit::{Counts, Decision, Plan, RateLimit};
pub use rate_limit_refs::{Known, RateLimitRef, RateLimitRefs};
pub use sliding_window::{SlidingWindow, Window};
pub use spec::{Algorithm, Mode, RateLimitSpec};
