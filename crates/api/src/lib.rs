//! What an OpenAPI 3 document says of an API, held against requests and responses: known paths and methods, parameters, content
//! types, bodies. And the other way round: a document proposed from recorded traffic.
//!
//! Pure: opens nothing but the document through the configuration's reader, knows no HTTP engine, and enforces nothing itself.
//! Messages about a violation name places and rules, never the value that broke them.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::indexing_slicing))]

mod api;
mod content;
mod document;
mod learn;
mod multipart;
mod operation;
mod parameter;
mod paths;
mod schemas;
mod spec;
mod style;
mod text_value;
mod violation;

pub use api::{Api, RequestHead};
pub use learn::Learner;
pub use operation::{Operation, Presence};
pub use spec::{ApiMode, ApiSpec, ValidateSpec};
pub use violation::{Violation, ViolationGroup, ViolationKind};
