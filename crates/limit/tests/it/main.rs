//! The crate from outside: documents compiled, time simulated.
#![allow(clippy::unwrap_used)]

mod adaptive;
mod adaptive_spec;
mod admits;
mod bounds;
mod compile;
mod fields;
mod limits;
mod reload;
