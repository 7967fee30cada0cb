//! The crate at its boundary: configuration as text, and releases in simulated time.
#![allow(clippy::unwrap_used)]

mod operator;
mod persistence;
mod properties;
mod releases;
mod spec;
mod world;
