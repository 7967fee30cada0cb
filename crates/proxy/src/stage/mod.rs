//! The stages of a request. They know no engine: each takes facts and gives a decision.

mod admit;
mod body_in;
mod exchange;
mod judge;
mod pick;
mod record;

pub(crate) use admit::{Arrival, admit};
pub(crate) use exchange::{Exchange, Limited};
pub(crate) use judge::{judge, judge_trial, try_again};
pub(crate) use pick::{Unpicked, choose_upstream, pick, pick_address, wish};
pub(crate) use record::{Ending, record};
