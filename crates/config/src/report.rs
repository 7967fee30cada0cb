//! All problems of one run.

use crate::{
    Path,
    document::Sources,
    node::Span,
    render::{self, Colour},
};
use std::{fmt, path::PathBuf, sync::Arc};

/// Where in which file: line and column count from 1.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
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
    pub related: Vec<Related>,
    pub(crate) span: Option<Span>,
    pub(crate) document: Option<Arc<crate::Document>>,
}

/// One more place of a problem.
#[derive(Debug, Clone)]
pub struct Related {
    pub note: String,
    pub(crate) span: Option<Span>,
}

impl Problem {
    pub(crate) fn new(level: Level, path: Path, message: String) -> Self {
        Self { level, path, message, help: None, related: Vec::new(), span: None, document: None }
    }

    /// Says the way out.
    pub fn help(&mut self, text: impl Into<String>) -> &mut Self {
        self.help = Some(text.into());
        self
    }

    /// Shows one more place: the other half of a conflict.
    pub fn also(&mut self, at: &Path, note: impl Into<String>) -> &mut Self {
        let span = self.document.as_ref().and_then(|document| document.span(at, crate::document::Target::Value));
        self.relate(span, note);
        self
    }

    pub(crate) fn relate(&mut self, span: Option<Span>, note: impl Into<String>) {
        self.related.push(Related { note: note.into(), span });
    }
}

/// Every problem of one run.
#[derive(Debug, Clone, Default)]
pub struct Report {
    problems: Vec<Problem>,
    sources: Arc<Sources>,
}

impl Report {
    pub(crate) fn new(sources: Arc<Sources>) -> Self {
        Self { problems: Vec::new(), sources }
    }

    pub(crate) fn push(&mut self, problem: Problem) -> &mut Problem {
        self.problems.push(problem);
        self.problems.last_mut().expect("pushed on the line above")
    }

    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    pub fn place(&self, problem: &Problem) -> Option<Place> {
        problem.span.as_ref().map(|span| self.sources.place(span))
    }

    pub fn has_errors(&self) -> bool {
        self.problems.iter().any(|problem| problem.level == Level::Error)
    }

    pub fn is_empty(&self) -> bool {
        self.problems.is_empty()
    }

    fn count(&self, level: Level) -> usize {
        self.problems.iter().filter(|problem| problem.level == level).count()
    }

    /// `2 errors, 1 warning`.
    pub fn summary(&self) -> String {
        let part = |count: usize, noun: &str| match count {
            0 => None,
            1 => Some(format!("1 {noun}")),
            count => Some(format!("{count} {noun}s")),
        };
        let parts = [part(self.count(Level::Error), "error"), part(self.count(Level::Warning), "warning")];
        let text = parts.into_iter().flatten().collect::<Vec<_>>().join(", ");
        if text.is_empty() { "no mistakes found".to_owned() } else { text }
    }

    /// For people: each problem with its source line and a caret, in the order of the files.
    pub fn render(&self, colour: Colour) -> String {
        let mut text = String::new();
        for problem in self.sorted() {
            text.push_str(&render::problem(problem, &self.sources, colour));
            text.push_str("\n\n");
        }
        text.push_str(&self.summary());
        text.push('\n');
        text
    }

    /// For programs.
    pub fn to_json(&self) -> serde_json::Value {
        let problems = self.sorted().into_iter().map(|problem| {
            let related = problem.related.iter().map(|related| {
                serde_json::json!({ "note": related.note, "place": related.span.as_ref().map(|span| self.sources.place(span)) })
            });
            serde_json::json!({
                "level": problem.level,
                "message": problem.message,
                "path": problem.path.to_string(),
                "place": self.place(problem),
                "help": problem.help,
                "related": related.collect::<Vec<_>>(),
            })
        });
        serde_json::json!({ "summary": self.summary(), "problems": problems.collect::<Vec<_>>() })
    }

    /// One line a problem, for logs.
    pub fn lines(&self) -> Vec<String> {
        let line = |problem: &Problem| match self.place(problem) {
            Some(place) => format!("{place}: {}", problem.message),
            None => problem.message.clone(),
        };
        self.sorted().into_iter().map(line).collect()
    }

    fn sorted(&self) -> Vec<&Problem> {
        let mut problems: Vec<_> = self.problems.iter().collect();
        problems.sort_by_key(|problem| problem.span.as_ref().map(|span| (span.file, span.range.start)));
        problems
    }
}
