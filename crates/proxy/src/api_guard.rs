//! The documents that a rule's requests and responses are held against, those of all levels together.

use portcullis_api::Api;
use std::sync::Arc;

/// Shared by all requests of a rule.
#[derive(Debug)]
pub struct ApiGuard {
    /// By name, from the outermost level to the innermost; none of them overrules another.
    pub apis: Vec<(String, Arc<Api>)>,
}
