//! What a compile step is given: the document to point into and the report to write to.

use crate::{Document, Level, Path, Place, Problem, Report, document::Target, nearest, secret_program::SecretPrograms};
use portcullis_names::{SecretCommand, SecretRef};
use std::{
    collections::HashSet,
    fs::{File, Metadata},
    io::Read,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path as FilePath, PathBuf},
    sync::Arc,
    time::Duration,
};

/// Carried through one compile run. Every step goes on after a problem, so that one run finds them all.
#[derive(Debug, Default)]
pub struct Context {
    document: Arc<Document>,
    report: Report,
    watched: Vec<PathBuf>,
    /// What was written wrongly and is therefore not in the spec. A problem above or below such a place is its consequence.
    aside: Vec<Path>,
    programs: SecretPrograms,
}

/// No certificate, list or rule set that a document names is larger.
const FILE_MAX: u64 = 16 << 20;
/// Names listed in a message; more do not help.
const NAMES_SHOWN: usize = 12;

impl Context {
    /// Goes on with the report of the steps before.
    pub fn new(document: Arc<Document>, mut report: Report) -> Self {
        report.adopt_sources(&document.sources);
        let watched = document.watched().to_vec();
        Self { document, report, watched, aside: Vec::new(), programs: SecretPrograms::default() }
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
        // It is written, but so wrongly that it could not be read: that is reported where it stands.
        if !self.aside.is_empty() && self.document.has(&Path::root().key(kind).key(name)) {
            return;
        }
        let mut defined: Vec<_> = defined.into_iter().collect();
        defined.sort_unstable();
        let best = nearest(name, defined.iter().copied());
        let list = match defined.get(..NAMES_SHOWN) {
            Some(shown) if defined.len() > NAMES_SHOWN => format!("{}, … {} in all", shown.join(", "), defined.len()),
            _ if defined.is_empty() => "none is".to_owned(),
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
        match read_limited(&file) {
            Ok(bytes) => Some(bytes),
            Err(error) => {
                self.error(at, format!("cannot read {}: {error}", file.display()));
                None
            }
        }
    }

    /// Reads what a secret reference stands for. The value never enters a message. A program is run and waited for: not on a
    /// runtime's thread.
    pub fn secret(&mut self, at: &Path, secret: &SecretRef) -> Option<Vec<u8>> {
        match secret {
            SecretRef::File(file) => {
                let at = at.key("file");
                let bytes = self.read(&at, file)?;
                let file = self.resolve(&at, file);
                if is_world_readable(&file) {
                    self.warning(&at, format!("every user of this machine can read {}", file.display()))
                        .help(format!("chmod o-r {}", file.display()));
                }
                Some(bytes)
            }
            SecretRef::Env(name) => match std::env::var_os(name) {
                Some(value) => Some(value.into_encoded_bytes()),
                None => {
                    self.error(&at.key("env"), format!("environment variable {name} is not set"));
                    None
                }
            },
            SecretRef::Command(command) => self.printed(&at.key("command"), command),
        }
    }

    /// What a program prints; how it ended is told, and nothing that it said.
    fn printed(&mut self, at: &Path, command: &SecretCommand) -> Option<Vec<u8>> {
        let program = command.program();
        if is_world_writable(program) {
            // Security: fail closed. It would be run as this user, and is whatever somebody made of it.
            self.error(at, format!("every user of this machine can change {}", program.display()))
                .help(format!("chmod o-w {}", program.display()));
            return None;
        }
        let folder = self.document.folder_of(at).unwrap_or_default();
        match self.programs.answer(command, &folder) {
            Ok(answer) => Some(answer),
            Err(error) => {
                self.error(at, format!("{} {error}", program.display()))
                    .help("run it by hand, as this user: nothing of what it prints is shown here");
                None
            }
        }
    }

    /// Where the value at `at` was written; for a value that was not written, its nearest written parent.
    pub fn place(&self, at: &Path) -> Option<Place> {
        self.document.place(at)
    }

    /// Where the key at `at` was written.
    pub fn place_of_key(&self, at: &Path) -> Option<Place> {
        self.document.place_of_key(at)
    }

    pub fn document(&self) -> &Arc<Document> {
        &self.document
    }

    pub fn report(&self) -> &Report {
        &self.report
    }

    /// One more file whose change can change the outcome.
    pub fn watch(&mut self, file: PathBuf) {
        self.watched.push(file);
    }

    /// The report, and every file whose change can change the outcome.
    pub fn finish(mut self) -> (Report, Vec<PathBuf>) {
        let aside = std::mem::take(&mut self.aside);
        if !aside.is_empty() {
            // Advice about a document with holes in it is noise, and so is an error that only a hole causes.
            let follows = |at: &Path| aside.iter().any(|hole| at.leads_to(hole) || hole.leads_to(at));
            let caused = |problem: &Problem| {
                follows(&problem.path) || problem.related.iter().any(|related| follows(&related.path))
            };
            // What the steps before compilation found is the mistakes themselves.
            self.report
                .retain(|problem| problem.document.is_none() || (problem.level == Level::Error && !caused(problem)));
        }
        let mut seen = HashSet::new();
        self.watched.retain(|file| seen.insert(file.clone()));
        (self.report, self.watched)
    }

    /// Takes over a problem that the steps before compilation found.
    pub(crate) fn adopt(&mut self, problem: Problem) {
        self.report.push(problem);
    }

    pub(crate) fn set_aside(&mut self, paths: impl IntoIterator<Item = Path>) {
        self.aside.extend(paths);
    }

    fn push(&mut self, level: Level, at: &Path, target: Target, message: String) -> &mut Problem {
        let mut problem = Problem::new(level, at.clone(), message);
        problem.span = self.document.span(at, target);
        problem.document = Some(self.document.clone());
        self.report.push(problem)
    }
}

/// Looks of one read: a file that is written to for longer is read as it is then.
const LOOKS: u32 = 20;
const BETWEEN_LOOKS: Duration = Duration::from_millis(25);

fn read_limited(file: &FilePath) -> std::io::Result<Vec<u8>> {
    for _ in 1..LOOKS {
        let open = File::open(file)?;
        let before = open.metadata()?;
        let bytes = read_open(&open)?;
        let after = open.metadata()?;
        // A device or pipe has no length to look at.
        let stands = |data: &Metadata| (data.len(), data.mtime(), data.mtime_nsec());
        let is_still = stands(&before) == stands(&after) && bytes.len() as u64 == after.len();
        if is_still || !after.is_file() {
            return Ok(bytes);
        }
        // Somebody writes to it: half of a zone is a zone as well.
        std::thread::sleep(BETWEEN_LOOKS);
    }
    read_open(&File::open(file)?)
}

fn read_open(mut file: &File) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    Read::by_ref(&mut file).take(FILE_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(std::io::Error::other(format!("larger than {} MiB", FILE_MAX >> 20)));
    }
    Ok(bytes)
}

fn is_world_readable(file: &FilePath) -> bool {
    is_permitted(file, 0o004)
}

fn is_world_writable(file: &FilePath) -> bool {
    is_permitted(file, 0o002)
}

fn is_permitted(file: &FilePath, bit: u32) -> bool {
    std::fs::metadata(file).is_ok_and(|metadata| metadata.permissions().mode() & bit != 0)
}
