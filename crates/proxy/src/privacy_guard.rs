//! What a rule looks for in its requests and responses, all levels taken together.

use portcullis_privacy::{PrivacyAction, Rule, Watch};
use std::sync::Arc;

/// Shared by all requests of a rule.
#[derive(Debug)]
pub struct PrivacyGuard {
    /// Of the profiles, for log lines.
    pub names: Vec<String>,
    pub request: Arc<Watch>,
    pub response: Arc<Watch>,
    /// Covers whatever either of them looks for: our own log lines must not tell it.
    hidden: Arc<Watch>,
}

impl PrivacyGuard {
    pub fn new(names: Vec<String>, request: Watch, response: Watch) -> Self {
        let all = request.rules().iter().chain(response.rules());
        let hidden = all.map(|rule| Rule { detector: rule.detector.clone(), action: PrivacyAction::Mask });
        let hidden = Arc::new(Watch::new(hidden));
        Self { names, request: Arc::new(request), response: Arc::new(response), hidden }
    }

    /// A text that is fit for a log line.
    pub(crate) fn hide(&self, text: &str) -> String {
        String::from_utf8_lossy(&self.hidden.look(text.as_bytes()).0).into_owned()
    }
}
