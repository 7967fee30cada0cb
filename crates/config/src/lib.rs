//! The one road of a configuration: text → document → spec → compiled snapshot, with every mistake found in one run.
//!
//! Knows no service: a service brings its `Spec` (serde + JSON Schema) and its compile step; this crate reads files,
//! finds mistakes, says where they are, compares and watches.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod context;
mod diff;
mod document;
mod effective;
mod fingerprint;
mod lint;
mod live;
mod loader;
mod nearest;
mod node;
mod path;
mod read;
mod reader;
mod render;
mod report;
mod reserved;
mod secret_program;
mod shape;
mod source;
mod trail;
mod unfinished;
mod watcher;

pub use context::Context;
pub use diff::{Change, Diff};
pub use document::Document;
pub use effective::{effective, effective_with};
pub use live::{ContentHash, LastReload, Live, Published, Reader, ReloadOutcome};
pub use nearest::nearest;
pub use path::Path;
pub use render::Colour;
pub use report::{Level, Place, Problem, Related, Report};
pub use reserved::Reserved;
pub use watcher::{Pace, Watched, Watcher};

/// The JSON Schema (2020-12) of a spec, as editors take it.
pub fn schema<S: schemars::JsonSchema>() -> serde_json::Value {
    schemars::schema_for!(S).to_value()
}
