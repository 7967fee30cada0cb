//! Whole-program tests: a real process, real sockets, clients that nobody here wrote where it matters.
#![allow(clippy::unwrap_used)]

mod support;

mod h1_strict;
mod routing;
mod structure;
