//! All problems of one run.

use crate::Path;
use std::{fmt, path::PathBuf};

/// Where in which file: line and column count from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub file: PathBuf,
    pub line: usize,
    pub column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file.display(), self.line, self.column)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Error,
    Warning,
}

/// One mistake: what is wrong, where, and the way out.
#[derive(Debug, Clone)]
pub struct Problem {
    pub level: Level,
    pub path: Path,
    pub message: String,
    pub help: Option<String>,
    /// Other places that belong to this problem, each with its note.
    pub related: Vec<(Path, String)>,
}

impl Problem {
    /// Says the way out.
    pub fn help(&mut self, text: impl Into<String>) -> &mut Self {
        self.help = Some(text.into());
        self
    }

    /// Shows one more place: the other half of a conflict.
    pub fn also(&mut self, at: &Path, note: impl Into<String>) -> &mut Self {
        self.related.push((at.clone(), note.into()));
        self
    }
}

/// Every problem of one run, in the order found.
#[derive(Debug, Clone, Default)]
pub struct Report {
    pub problems: Vec<Problem>,
}

impl Report {
    pub fn has_errors(&self) -> bool {
        self.problems.iter().any(|problem| problem.level == Level::Error)
    }
}
