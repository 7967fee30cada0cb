//! What a compile step is given: the document to point into and the report to write to.

use crate::{Document, Level, Path, Place, Problem, Report, document::Target, nearest};
use portcullis_names::SecretRef;
use std::{
    path::{Path as FilePath, PathBuf},
    sync::Arc,
};

/// Carried through one compile run. Every step goes on after a problem, so that one run finds them all.
#[derive(Debug, Default)]
pub struct Context {
    document: Arc<Document>,
    report: Report,
    watched: Vec<PathBuf>,
}

/// No certificate, list or rule set that a document names is larger.
const FILE_MAX: u64 = 16 << 20;
/// Names listed in a message; more do not help.
const NAMES_SHOWN: usize = 12;

impl Context {
    /// Goes on with the report of the steps before.
    pub fn new(document: Arc<Document>, report: Report) -> Self {
        let watched = document.watched().to_vec();
        Self { document, report, watched }
    }

    pub fn error(&mut self, at: &Path, message: impl Into<String>) -> &mut Problem {
        self.push(Level::Error, at, Target::Value, message.into())
    }

    pub fn warning(&mut self, at: &Path, message: impl Into<String>) -> &mut Problem {
        self.push(Level::Warning, at, Target::Value, message.into())
    }

    /// An error shown at the key rather than at its value.
    pub fn error_at_key(&mut self, at: &Path, message: impl Into<String>) -> &mut Problem {
        self.push(Level::Error, at, Target::Key, message.into())
    }

    /// `upstream "shp" is not defined (defined: cart, shop)`, with the nearest name as help.
    pub fn undefined<'n>(&mut self, at: &Path, kind: &str, name: &str, defined: impl IntoIterator<Item = &'n str>) {
        let mut defined: Vec<_> = defined.into_iter().collect();
        defined.sort_unstable();
        let best = nearest(name, defined.iter().copied());
        let list = match defined.len() {
            0 => "none is".to_owned(),
            count if count > NAMES_SHOWN => format!("{}, … {count} in all", defined[..NAMES_SHOWN].join(", ")),
            _ => defined.join(", "),
        };
        let problem = self.error(at, format!("{kind} \"{name}\" is not defined (defined: {list})"));
        if let Some(best) = best {
            problem.help(format!("did you mean `{best}`?"));
        }
    }

    /// A file named in the document: relative names count from the directory of the file that says them.
    pub fn resolve(&self, at: &Path, file: &FilePath) -> PathBuf {
        self.document.folder_of(at).map_or_else(|| file.to_owned(), |folder| folder.join(file))
    }

    /// Reads a file named at `at`; its changes will cause a reload. A file that cannot be read is an error in the report.
    pub fn read(&mut self, at: &Path, file: &FilePath) -> Option<Vec<u8>> {
        let file = self.resolve(at, file);
        self.watched.push(file.clone());
        let read = std::fs::metadata(&file).and_then(|metadata| {
            if metadata.len() > FILE_MAX {
                return Err(std::io::Error::other(format!("larger than {} MiB", FILE_MAX >> 20)));
            }
            std::fs::read(&file)
        });
        match read {
            Ok(bytes) => Some(bytes),
            Err(error) => {
                self.error(at, format!("cannot read {}: {error}", file.display()));
                None
            }
        }
    }

    /// Reads what a secret reference stands for. The value never enters a message.
    pub fn secret(&mut self, at: &Path, secret: &SecretRef) -> Option<Vec<u8>> {
        match secret {
            SecretRef::File(file) => self.read(&at.key("file"), file),
            SecretRef::Env(name) => match std::env::var_os(name) {
                Some(value) => Some(value.into_encoded_bytes()),
                None => {
                    self.error(&at.key("env"), format!("environment variable {name} is not set"));
                    None
                }
            },
        }
    }

    /// Where the value at `at` was written; for a value that was not written, its nearest written parent.
    pub fn place(&self, at: &Path) -> Option<Place> {
        self.document.place(at)
    }

    pub fn report(&self) -> &Report {
        &self.report
    }

    /// The report, and every file whose change can change the outcome.
    pub fn finish(self) -> (Report, Vec<PathBuf>) {
        (self.report, self.watched)
    }

    fn push(&mut self, level: Level, at: &Path, target: Target, message: String) -> &mut Problem {
        let mut problem = Problem::new(level, at.clone(), message);
        problem.span = self.document.span(at, target);
        problem.document = Some(self.document.clone());
        self.report.push(problem)
    }
}
