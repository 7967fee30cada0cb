//! The one road of a configuration: text → document → spec → compiled snapshot, with every mistake found in one run.
//!
//! Knows no service: a service brings its `Spec` (serde + JSON Schema) and its compile step; this crate reads files,
//! finds mistakes, says where they are, and publishes what was compiled.
#![forbid(unsafe_code)]

mod context;
mod path;
mod report;

pub use context::Context;
pub use path::Path;
pub use report::{Level, Place, Problem, Report};
