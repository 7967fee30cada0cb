//! Files read, parsed and merged into one tree, with the sources kept for showing mistakes.

use crate::{
    Path, Place,
    node::{Entry, Node, Span, Table, Value},
    path::Segment,
    report::{Level, Problem, Report},
};
use std::{
    collections::HashSet,
    path::{Path as FilePath, PathBuf},
    sync::Arc,
};
use toml::de::DeTable;

/// One configuration, from however many files.
#[derive(Debug, Clone)]
pub struct Document {
    pub(crate) root: Node,
    pub(crate) sources: Arc<Sources>,
    watched: Vec<PathBuf>,
}

/// The text of every file that was read.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    pub(crate) files: Vec<Source>,
}

#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) path: PathBuf,
    pub(crate) text: String,
    line_starts: Vec<usize>,
}

/// A configuration file larger than this is a mistake.
const FILE_MAX: u64 = 16 << 20;
const FILES_MAX: usize = 10_000;

impl Default for Document {
    fn default() -> Self {
        let span = Span { file: 0, range: 0..0 };
        Self { root: Node { value: Value::Table(Table::new()), span }, sources: Arc::default(), watched: Vec::new() }
    }
}

impl Document {
    /// Reads `files` and what they include. Everything that is wrong with them goes to the report; what could be read is
    /// in the document.
    pub fn load(files: &[PathBuf]) -> (Self, Report) {
        let mut loader = Loader::default();
        for file in files {
            loader.file(file, None);
        }
        loader.finish()
    }

    /// A document from one text; for tests and for what never was a file.
    pub fn parse(name: &str, text: &str) -> (Self, Report) {
        let mut loader = Loader::default();
        loader.text(PathBuf::from(name), text.to_owned());
        loader.finish()
    }

    /// The files and folders whose change can change this document.
    pub fn watched(&self) -> &[PathBuf] {
        &self.watched
    }

    /// The document as plain data.
    pub fn to_json(&self) -> serde_json::Value {
        self.root.to_json()
    }

    /// Where the value at `at` stands; for what was not written, the nearest written parent.
    pub fn place(&self, at: &Path) -> Option<Place> {
        self.span(at, Target::Value).map(|span| self.sources.place(&span))
    }

    pub(crate) fn folder_of(&self, at: &Path) -> Option<PathBuf> {
        let span = self.span(at, Target::Value)?;
        let file = self.sources.files.get(span.file)?;
        file.path.parent().map(FilePath::to_owned)
    }

    pub(crate) fn span(&self, at: &Path, target: Target) -> Option<Span> {
        let mut node = &self.root;
        let mut best: Option<Span> = None;
        let mut exact = true;
        for segment in at.segments() {
            match (segment, &node.value) {
                (Segment::Key(key), Value::Table(table)) => match table.get(key) {
                    Some(entry) => {
                        node = &entry.node;
                        best = Some(entry.key.clone());
                    }
                    None => {
                        exact = false;
                        break;
                    }
                },
                (Segment::Index(index), Value::Array(items)) => match items.get(*index) {
                    Some(item) => {
                        node = item;
                        best = Some(item.span.clone());
                    }
                    None => {
                        exact = false;
                        break;
                    }
                },
                _ => {
                    exact = false;
                    break;
                }
            }
        }
        // A table's own span is its whole body: its key says more.
        let show_value = exact && target == Target::Value && !matches!(node.value, Value::Table(_));
        if show_value { Some(node.span.clone()) } else { best }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    Key,
    Value,
}

impl Sources {
    pub(crate) fn place(&self, span: &Span) -> Place {
        let Some(source) = self.files.get(span.file) else {
            return Place { file: PathBuf::new(), line: 1, column: 1 };
        };
        let line = source.line_starts.partition_point(|start| *start <= span.range.start).max(1);
        let start = source.line_starts.get(line - 1).copied().unwrap_or(0);
        let before = source.text.get(start..span.range.start).unwrap_or_default();
        Place { file: source.path.clone(), line, column: before.chars().count() + 1 }
    }
}

impl Source {
    fn new(path: PathBuf, text: String) -> Self {
        let line_starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { path, text, line_starts }
    }
}

#[derive(Default)]
struct Loader {
    sources: Sources,
    roots: Vec<Node>,
    problems: Vec<Problem>,
    seen: HashSet<PathBuf>,
    watched: Vec<PathBuf>,
}

impl Loader {
    fn file(&mut self, path: &FilePath, included_at: Option<&Span>) {
        self.watched.push(path.to_owned());
        let identity = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        if !self.seen.insert(identity) {
            // Two globs may well name one file; once is enough.
            return;
        }
        if self.sources.files.len() >= FILES_MAX {
            return self.problem(included_at, format!("more than {FILES_MAX} files"));
        }
        match read_limited(path) {
            Ok(text) => self.text(path.to_owned(), text),
            Err(why) => self.problem(included_at, format!("cannot read {}: {why}", path.display())),
        }
    }

    fn text(&mut self, path: PathBuf, text: String) {
        let file = self.sources.files.len();
        let (table, errors) = DeTable::parse_recoverable(&text);
        let root = Node::table(file, table.get_ref(), 0..text.len());
        for error in errors {
            let span = error.span().map(|range| Span { file, range });
            self.syntax(span, error.message());
        }
        self.sources.files.push(Source::new(path.clone(), text));
        self.includes(&root, &path);
        self.roots.push(root);
    }

    fn syntax(&mut self, span: Option<Span>, message: &str) {
        let first_line = message.lines().collect::<Vec<_>>().join("; ");
        self.problem(span.as_ref(), first_line);
    }

    fn includes(&mut self, root: &Node, path: &FilePath) {
        let Value::Table(table) = &root.value else { return };
        let Some(Value::Array(globs)) = table.get("include").map(|entry| &entry.node.value) else { return };
        let folder = path.parent().unwrap_or(FilePath::new("")).to_owned();
        for item in globs {
            let Value::String(pattern) = &item.value else { continue };
            let pattern = folder.join(pattern);
            if let Some(parent) = pattern.parent() {
                self.watched.push(if parent.as_os_str().is_empty() { PathBuf::from(".") } else { parent.to_owned() });
            }
            let found = match glob::glob(&pattern.to_string_lossy()) {
                Ok(found) => found,
                Err(error) => {
                    self.problem(Some(&item.span), format!("`{}` is not a file pattern: {error}", pattern.display()));
                    continue;
                }
            };
            let mut any = false;
            for file in found {
                any = true;
                match file {
                    Ok(file) => self.file(&file, Some(&item.span)),
                    Err(error) => {
                        self.problem(Some(&item.span), format!("cannot read {}: {error}", error.path().display()))
                    }
                }
            }
            if !any {
                let mut problem = self.located(Some(&item.span), format!("no file matches {}", pattern.display()));
                problem.level = Level::Warning;
                self.problems.push(problem);
            }
        }
    }

    fn problem(&mut self, span: Option<&Span>, message: String) {
        let problem = self.located(span, message);
        self.problems.push(problem);
    }

    fn located(&self, span: Option<&Span>, message: String) -> Problem {
        Problem { span: span.cloned(), ..Problem::new(Level::Error, Path::root(), message) }
    }

    fn finish(mut self) -> (Document, Report) {
        let mut merged = Table::new();
        for root in std::mem::take(&mut self.roots) {
            let Value::Table(table) = root.value else { continue };
            for (key, entry) in table {
                if key == "include" || (key == "schema" && merged.contains_key("schema")) {
                    merged.entry(key).or_insert(entry);
                } else {
                    self.merge(&mut merged, &Path::root(), key, entry, 1);
                }
            }
        }
        let span = Span { file: 0, range: 0..0 };
        let sources = Arc::new(self.sources);
        let document = Document {
            root: Node { value: Value::Table(merged), span },
            sources: sources.clone(),
            watched: self.watched,
        };
        let mut report = Report::new(sources);
        for problem in self.problems {
            report.push(problem);
        }
        (document, report)
    }

    /// Union of named tables: kinds merge, objects of one kind must have different names.
    fn merge(&mut self, into: &mut Table, at: &Path, key: String, entry: Entry, depth: usize) {
        let at = at.key(&key);
        match into.entry(key) {
            std::collections::btree_map::Entry::Vacant(vacant) => {
                vacant.insert(entry);
            }
            std::collections::btree_map::Entry::Occupied(mut occupied) => {
                let other_file = occupied.get().key.file != entry.key.file;
                match (&mut occupied.get_mut().node.value, entry.node.value) {
                    (Value::Table(old), Value::Table(new)) if depth == 1 => {
                        for (key, entry) in new {
                            self.merge(old, &at, key, entry, depth + 1);
                        }
                    }
                    _ => {
                        let first = occupied.get().key.clone();
                        let message =
                            format!("`{at}` is defined twice{}", if other_file { ", in two files" } else { "" });
                        let mut problem = self.located(Some(&entry.key), message);
                        problem.relate(Some(first), "first defined here");
                        self.problems.push(problem);
                    }
                }
            }
        }
    }
}

fn read_limited(path: &FilePath) -> Result<String, String> {
    let size = std::fs::metadata(path).map_err(|error| error.to_string())?.len();
    if size > FILE_MAX {
        return Err(format!("larger than {} MiB", FILE_MAX >> 20));
    }
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    String::from_utf8(bytes).map_err(|error| {
        let line =
            1 + error.as_bytes().iter().take(error.utf8_error().valid_up_to()).filter(|octet| **octet == b'\n').count();
        format!("line {line} is not UTF-8")
    })
}
