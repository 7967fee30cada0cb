//! What a compile step is given: the document to point into and the report to write to.

use crate::{Level, Path, Place, Problem, Report};
use portcullis_names::SecretRef;
use std::path::PathBuf;

/// Carried through one compile run. Every step goes on after a problem, so that one run finds them all.
#[derive(Debug, Default)]
pub struct Context {
    report: Report,
    watched: Vec<PathBuf>,
}

impl Context {
    pub fn error(&mut self, at: &Path, message: impl Into<String>) -> &mut Problem {
        self.push(Level::Error, at, message.into())
    }

    pub fn warning(&mut self, at: &Path, message: impl Into<String>) -> &mut Problem {
        self.push(Level::Warning, at, message.into())
    }

    /// `upstream "shp" is not defined (defined: cart, shop)`, with the nearest name as help.
    pub fn undefined<'n>(&mut self, at: &Path, kind: &str, name: &str, defined: impl IntoIterator<Item = &'n str>) {
        let defined: Vec<_> = defined.into_iter().collect();
        self.error(at, format!("{kind} \"{name}\" is not defined (defined: {})", defined.join(", ")));
    }

    /// A file named in the document: relative names count from the directory of the file that says them.
    pub fn resolve(&self, _at: &Path, file: &std::path::Path) -> PathBuf {
        file.to_owned()
    }

    /// Reads a file named at `at`; its changes will cause a reload. A file that cannot be read is an error in the report.
    pub fn read(&mut self, at: &Path, file: &std::path::Path) -> Option<Vec<u8>> {
        let file = self.resolve(at, file);
        self.watched.push(file.clone());
        match std::fs::read(&file) {
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
    pub fn place(&self, _at: &Path) -> Option<Place> {
        None
    }

    pub fn report(&self) -> &Report {
        &self.report
    }

    fn push(&mut self, level: Level, at: &Path, message: String) -> &mut Problem {
        self.report.problems.push(Problem { level, path: at.clone(), message, help: None, related: Vec::new() });
        self.report.problems.last_mut().expect("pushed on the line above")
    }
}
