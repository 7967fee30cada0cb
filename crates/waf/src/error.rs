//! Where in the rule files something stands, and what is wrong with it.

use std::fmt;
use std::sync::Arc;

/// A place in a rule file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The file (or the name given to a text).
    pub file: Arc<str>,
    /// The line on which the directive begins, counted from one.
    pub line: u32,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// One thing in the rule files that cannot be accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{origin}: {message}")]
pub struct SecLangError {
    /// The directive at fault.
    pub origin: Origin,
    /// What is wrong, lower case, naming the value and the way out.
    pub message: String,
}

/// A directive that was accepted but cannot do all it does elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The directive meant.
    pub origin: Origin,
    /// What it does not do.
    pub message: String,
}

/// Collects every problem of a run, so that one compilation reports them all.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    pub(crate) errors: Vec<SecLangError>,
    pub(crate) notes: Vec<Note>,
}

impl Problems {
    pub(crate) fn error(&mut self, origin: &Origin, message: impl Into<String>) {
        self.errors.push(SecLangError { origin: origin.clone(), message: message.into() });
    }

    pub(crate) fn note(&mut self, origin: &Origin, message: impl Into<String>) {
        self.notes.push(Note { origin: origin.clone(), message: message.into() });
    }

    /// Keeps the value or records why there is none.
    pub(crate) fn keep<T>(&mut self, origin: &Origin, outcome: Result<T, String>) -> Option<T> {
        outcome.map_err(|message| self.error(origin, message)).ok()
    }
}
