//! The stages of a request. They know no engine: each takes facts and gives a decision.

mod admit;
mod exchange;
mod pick;
mod record;

pub(crate) use admit::{Arrival, admit};
pub(crate) use exchange::Exchange;
pub(crate) use pick::pick;
pub(crate) use record::{Ending, record};
