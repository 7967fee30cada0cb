//! All problems of one run, and their forms: for people, for programs, for logs.

use crate::{
    Path,
    document::Target,
    node::Span,
    render::{self, Colour},
    source::Sources,
};
use std::{fmt, ops::Range, path::PathBuf, sync::Arc};

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
    /// Where it stands, when it was written somewhere.
    pub place: Option<Place>,
    /// Other places that belong to this problem, each with its note.
    pub related: Vec<Related>,
    pub(crate) span: Option<Span>,
    pub(crate) document: Option<Arc<crate::Document>>,
}

/// One more place of a problem.
#[derive(Debug, Clone)]
pub struct Related {
    pub note: String,
    pub place: Option<Place>,
    pub(crate) path: Path,
    pub(crate) span: Option<Span>,
}

impl Related {
    pub(crate) fn new(note: impl Into<String>) -> Self {
        Self { note: note.into(), place: None, path: Path::root(), span: None }
    }
}

impl Problem {
    pub(crate) fn new(level: Level, path: Path, message: String) -> Self {
        Self { level, path, message, help: None, place: None, related: Vec::new(), span: None, document: None }
    }

    /// Says the way out.
    pub fn help(&mut self, text: impl Into<String>) -> &mut Self {
        self.help = Some(text.into());
        self
    }

    /// Shows one more place: the other half of a conflict.
    pub fn also(&mut self, at: &Path, note: impl Into<String>) -> &mut Self {
        let document = self.document.as_deref();
        let span = document.and_then(|document| document.span(at, Target::Value));
        let place = document.and_then(|document| document.place(at));
        self.related.push(Related { note: note.into(), place, path: at.clone(), span });
        self
    }
}

/// Every problem of one run.
#[derive(Debug, Clone, Default)]
pub struct Report {
    problems: Vec<Problem>,
    sources: Arc<Sources>,
    secrets: Vec<Span>,
}

/// Problems printed in full; a document with more is wrong in one way, many times over.
const RENDERED_MAX: usize = 1_000;

impl Report {
    pub(crate) fn new(sources: Arc<Sources>) -> Self {
        Self { problems: Vec::new(), sources, secrets: Vec::new() }
    }

    /// A report that knows no text yet takes these to show places in.
    pub(crate) fn adopt_sources(&mut self, sources: &Arc<Sources>) {
        if self.sources.is_empty() {
            self.sources = sources.clone();
        }
    }

    /// These texts are never shown.
    pub(crate) fn hide(&mut self, secrets: impl IntoIterator<Item = Span>) {
        self.secrets.extend(secrets);
    }

    pub(crate) fn push(&mut self, mut problem: Problem) -> &mut Problem {
        problem.place = problem.span.as_ref().and_then(|span| self.sources.place(span));
        for related in &mut problem.related {
            related.place = related.span.as_ref().and_then(|span| self.sources.place(span));
        }
        self.problems.push(problem);
        self.problems.last_mut().expect("pushed on the line above")
    }

    pub(crate) fn retain(&mut self, keep: impl FnMut(&Problem) -> bool) {
        self.problems.retain(keep);
    }

    /// In the order found.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Where a problem stands; the same as its `place`.
    pub fn place(&self, problem: &Problem) -> Option<Place> {
        problem.place.clone()
    }

    pub fn has_errors(&self) -> bool {
        self.problems.iter().any(|problem| problem.level == Level::Error)
    }

    pub fn is_empty(&self) -> bool {
        self.problems.is_empty()
    }

    /// For scripts: 0 is fit to run, warnings or not; 1 has errors.
    pub fn exit_code(&self) -> u8 {
        u8::from(self.has_errors())
    }

    /// `2 errors, 1 warning`.
    pub fn summary(&self) -> String {
        let count = |level: Level| self.problems.iter().filter(|problem| problem.level == level).count();
        let part = |count: usize, noun: &str| match count {
            0 => None,
            1 => Some(format!("1 {noun}")),
            count => Some(format!("{count} {noun}s")),
        };
        let parts = [part(count(Level::Error), "error"), part(count(Level::Warning), "warning")];
        let text = parts.into_iter().flatten().collect::<Vec<_>>().join(", ");
        if text.is_empty() { "no mistakes found".to_owned() } else { text }
    }

    /// For people: each problem with its source line and a caret, in the order of the files.
    pub fn render(&self, colour: Colour) -> String {
        let mut text = String::new();
        let sorted = self.sorted();
        for problem in sorted.iter().take(RENDERED_MAX) {
            text.push_str(&render::problem(problem, &self.sources, &self.secrets, colour));
            text.push_str("\n\n");
        }
        if let Some(more) = sorted.len().checked_sub(RENDERED_MAX).filter(|more| *more > 0) {
            text.push_str(&format!("… and {more} more\n\n"));
        }
        text.push_str(&self.summary());
        text.push('\n');
        text
    }

    /// For programs.
    pub fn to_json(&self) -> serde_json::Value {
        let problems = self.sorted().into_iter().map(|problem| {
            let related = problem.related.iter();
            let related = related.map(|related| serde_json::json!({ "note": related.note, "place": related.place }));
            serde_json::json!({
                "level": problem.level,
                "message": problem.message,
                "path": problem.path.to_string(),
                "place": problem.place,
                "help": problem.help,
                "related": related.collect::<Vec<_>>(),
            })
        });
        serde_json::json!({ "summary": self.summary(), "problems": problems.collect::<Vec<_>>() })
    }

    /// One line a problem, for logs.
    pub fn lines(&self) -> Vec<String> {
        let line = |problem: &Problem| {
            let place = problem.place.as_ref().map(|place| format!("{place}: ")).unwrap_or_default();
            let help = problem.help.as_ref().map(|help| format!(" ({help})")).unwrap_or_default();
            format!("{place}{}{help}", problem.message)
        };
        self.sorted().into_iter().map(line).collect()
    }

    /// The texts of a file that are never shown, in the order they were found.
    pub(crate) fn secrets_in(secrets: &[Span], file: usize) -> Vec<Range<usize>> {
        secrets.iter().filter(|span| span.file == file).map(|span| span.range.clone()).collect()
    }

    fn sorted(&self) -> Vec<&Problem> {
        let mut problems: Vec<_> = self.problems.iter().collect();
        problems.sort_by_key(|problem| problem.span.as_ref().map(|span| (span.file, span.range.start)));
        problems
    }
}
