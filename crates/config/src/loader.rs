//! Reads files and what they include, and merges them into one document: a union of named tables.

use crate::{
    Document, Path, Report,
    node::{Entry, Grower, Node, Span, Table, Value},
    report::{Level, Problem, Related},
    source::Sources,
};
use std::{
    collections::HashMap,
    fs::File,
    io::Read,
    path::{Path as FilePath, PathBuf},
    sync::Arc,
};
use toml::de::DeTable;

/// Collects files; [`Loader::finish`] merges them.
#[derive(Default)]
pub(crate) struct Loader {
    grower: Grower,
    sources: Sources,
    roots: Vec<Table>,
    problems: Vec<Problem>,
    /// Every file read, with the place that asked for it; the files on the command line have none.
    seen: HashMap<PathBuf, Option<Span>>,
    /// The files that are being read: the last one was included by the one before it.
    chain: Vec<(PathBuf, PathBuf)>,
    watched: Vec<PathBuf>,
    secrets: Vec<Span>,
    torn: bool,
}

/// What asked for a file.
enum Asked {
    OnTheCommandLine,
    /// A name written out.
    ByName(Span),
    /// A name that a pattern happened to match.
    ByPattern(Span),
}

/// A configuration file larger than this is a mistake.
const FILE_MAX: u64 = 16 << 20;
const FILES_MAX: usize = 10_000;
/// Files that include files that include files.
const DEPTH_MAX: usize = 16;
/// The version of the language that this program reads.
const LANGUAGE: u32 = 1;

impl Loader {
    pub(crate) fn file(&mut self, path: &FilePath) {
        self.include(path, Asked::OnTheCommandLine);
    }

    pub(crate) fn text(&mut self, path: &FilePath, text: String) {
        let file = self.sources.len();
        let (table, errors) = DeTable::parse_recoverable(&text);
        let root = self.grower.table(file, table.get_ref(), 0..text.len());
        let broken = !errors.is_empty();
        for error in errors {
            let span = error.span().map(|range| Span { file, range });
            let message = error.message().lines().collect::<Vec<_>>().join(", ");
            self.problem(span.as_ref(), message);
        }
        self.sources.push(path, text);
        if broken {
            self.torn = true;
            let source = self.sources.get(&Span { file, range: 0..0 });
            let likely = source.map(|source| source.likely_secrets()).unwrap_or_default();
            self.secrets.extend(likely.into_iter().map(|range| Span { file, range }));
        }
        let Value::Table(mut table) = root.value else { return };
        self.language(&mut table);
        self.includes(&table, path);
        self.roots.push(table);
    }

    pub(crate) fn finish(mut self) -> (Document, Report) {
        let mut merged = Table::new();
        for root in std::mem::take(&mut self.roots) {
            for (key, entry) in root {
                if matches!(key.as_str(), "include" | "schema") {
                    // Each file may say these for itself.
                    merged.entry(key).or_insert(entry);
                } else {
                    self.merge(&mut merged, &Path::root(), key, entry, Depth::Kind);
                }
            }
        }
        let root = self.grower.grow(Value::Table(merged), Span { file: 0, range: 0..0 });
        let sources = Arc::new(self.sources);
        let mut report = Report::new(sources.clone());
        report.hide(self.secrets);
        for problem in self.problems {
            report.push(problem);
        }
        (Document { root, sources, watched: self.watched, torn: self.torn }, report)
    }

    fn include(&mut self, path: &FilePath, asked: Asked) {
        let identity = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        if self.chain.iter().any(|(known, _)| *known == identity) {
            return self.cycle(path, &identity, &asked);
        }
        if let Some(before) = self.seen.get(&identity) {
            let before = before.clone();
            return self.twice(path, before, &asked);
        }
        self.watched.push(path.to_owned());
        let span = asked.span();
        if self.seen.len() >= FILES_MAX {
            return self.problem(span, format!("more than {FILES_MAX} files"));
        }
        if self.chain.len() >= DEPTH_MAX {
            return self.problem(span, format!("files include files more than {DEPTH_MAX} levels deep"));
        }
        self.seen.insert(identity.clone(), span.cloned());
        match read_limited(path) {
            Ok(bytes) => {
                self.chain.push((identity, path.to_owned()));
                self.bytes(path, bytes);
                self.chain.pop();
            }
            Err(why) => {
                // What it would have said is missing everywhere: a compile step would report that.
                self.torn = true;
                self.problem(span, format!("cannot read {}: {why}", path.display()));
            }
        }
    }

    fn bytes(&mut self, path: &FilePath, bytes: Vec<u8>) {
        match String::from_utf8(bytes) {
            Ok(text) => self.text(path, text),
            Err(error) => {
                let start = error.utf8_error().valid_up_to();
                // What stands before the first wrong octet keeps its offset, so the place is right.
                let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
                let span =
                    Span { file: self.sources.len(), range: start..start + char::REPLACEMENT_CHARACTER.len_utf8() };
                self.sources.push(path, text);
                self.torn = true;
                self.problem(Some(&span), "the file is not UTF-8 here");
            }
        }
    }

    fn cycle(&mut self, path: &FilePath, identity: &FilePath, asked: &Asked) {
        let ring =
            self.chain.iter().skip_while(|(known, _)| known != identity).map(|(_, path)| path.display().to_string());
        let ring = ring.chain([path.display().to_string()]).collect::<Vec<_>>().join(" -> ");
        match asked {
            // `*.toml` beside the main file matches the main file; nobody means a ring by that.
            Asked::ByPattern(span) => {
                self.warning(span, format!("the pattern also matches {}, which is read already", path.display()))
            }
            Asked::ByName(span) => {
                let problem = self.located(Some(span), format!("files include one another in a ring: {ring}"));
                self.problems.push(problem);
            }
            Asked::OnTheCommandLine => {}
        }
    }

    fn twice(&mut self, path: &FilePath, before: Option<Span>, asked: &Asked) {
        let message = format!("{} is included twice; it is read once", path.display());
        let mut problem = Problem { level: Level::Warning, ..self.located(asked.span(), message) };
        if before.is_some() {
            problem.related.push(Related { span: before, ..Related::new("already included here") });
        }
        self.problems.push(problem);
    }

    fn includes(&mut self, table: &Table, path: &FilePath) {
        let Some(entry) = table.get("include") else { return };
        let Value::Array(patterns) = &entry.node.value else {
            return self.problem(Some(&entry.node.span), "`include` expects an array of file patterns");
        };
        let folder = path.parent().unwrap_or(FilePath::new("")).to_owned();
        for item in patterns {
            match &item.value {
                Value::String(pattern) => self.pattern(&folder.join(pattern), item),
                _ => self.problem(Some(&item.span), "`include` expects an array of file patterns"),
            }
        }
    }

    fn pattern(&mut self, pattern: &FilePath, item: &Node) {
        // An editor's lock file `.#edge.toml` and Kubernetes' `..data` are nobody's configuration.
        let options = glob::MatchOptions { require_literal_leading_dot: true, ..Default::default() };
        let found = match glob::glob_with(&pattern.to_string_lossy(), options) {
            Ok(found) => found,
            Err(error) => {
                let message = format!("`{}` is not a file pattern: {}", pattern.display(), error.msg);
                return self.problem(Some(&item.span), message);
            }
        };
        self.watched.push(pattern.to_owned());
        let named = !is_pattern(pattern);
        let mut any = false;
        for file in found {
            any = true;
            match file {
                Ok(file) if file.is_dir() && !named => {}
                Ok(file) if named => self.include(&file, Asked::ByName(item.span.clone())),
                Ok(file) => self.include(&file, Asked::ByPattern(item.span.clone())),
                Err(error) => {
                    self.torn = true;
                    self.problem(
                        Some(&item.span),
                        format!("cannot read {}: {}", error.path().display(), error.error()),
                    );
                }
            }
        }
        if !any {
            self.warning(&item.span, format!("no file matches {}", pattern.display()));
        }
    }

    /// `schema = "1"`. A file of a later language would be misread, so it is refused by its version and not by its keys.
    fn language(&mut self, table: &mut Table) {
        let Some(entry) = table.get("schema") else { return };
        let problem = match &entry.node.value {
            Value::String(text) => match text.parse::<u32>() {
                Ok(LANGUAGE) => return,
                Ok(version) if version > LANGUAGE => {
                    format!("schema \"{version}\" is newer than this program, which reads schema \"{LANGUAGE}\"")
                }
                Ok(_) | Err(_) => {
                    format!("`{text}` is not a version of the language; this program reads \"{LANGUAGE}\"")
                }
            },
            _ => format!(
                "`schema`: expected the version of the language, \"{LANGUAGE}\", found {}",
                entry.node.describe()
            ),
        };
        let span = entry.node.span.clone();
        table.remove("schema");
        self.problem(Some(&span), problem);
    }

    /// Union of named tables: kinds merge, objects of one kind must have different names.
    fn merge(&mut self, into: &mut Table, at: &Path, key: String, entry: Entry, depth: Depth) {
        let at = at.key(&key);
        let Some(old) = into.get_mut(&key) else {
            into.insert(key, entry);
            return;
        };
        match (&mut old.node.value, entry.node.value) {
            (Value::Table(old), Value::Table(new)) if depth == Depth::Kind => {
                for (key, entry) in new {
                    self.merge(old, &at, key, entry, Depth::Object);
                }
            }
            _ => {
                let mut problem = self.located(Some(&entry.key), format!("`{at}` is defined twice, in two files"));
                problem.related.push(Related { span: Some(old.key.clone()), ..Related::new("first defined here") });
                self.problems.push(problem);
            }
        }
    }

    fn problem(&mut self, span: Option<&Span>, message: impl Into<String>) {
        let problem = self.located(span, message.into());
        self.problems.push(problem);
    }

    fn warning(&mut self, span: &Span, message: String) {
        let problem = Problem { level: Level::Warning, ..self.located(Some(span), message) };
        self.problems.push(problem);
    }

    fn located(&self, span: Option<&Span>, message: String) -> Problem {
        Problem { span: span.cloned(), ..Problem::new(Level::Error, Path::root(), message) }
    }
}

/// How deep a merge goes: kinds are merged, objects are not.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    Kind,
    Object,
}

impl Asked {
    fn span(&self) -> Option<&Span> {
        match self {
            Self::OnTheCommandLine => None,
            Self::ByName(span) | Self::ByPattern(span) => Some(span),
        }
    }
}

pub(crate) fn is_pattern(path: &FilePath) -> bool {
    path.to_string_lossy().contains(['*', '?', '['])
}

fn read_limited(path: &FilePath) -> Result<Vec<u8>, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    // A device or pipe has no length to look at.
    file.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > FILE_MAX { Err(format!("larger than {} MiB", FILE_MAX >> 20)) } else { Ok(bytes) }
}
