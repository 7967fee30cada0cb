//! Journals on disk, so that secondaries follow by changes after a restart as well. Never needed: what is missing, wrong or of
//! another version of the zone is not used, and secondaries take the whole zone.

use crate::{Name, journal::Journal};
use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;
use std::{
    collections::HashMap,
    fs,
    io::{self, ErrorKind::NotFound, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

/// Of all zones that are given away. Clones are the same one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Journals(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    folder: Option<PathBuf>,
    /// The serial that the file of each zone ends with; `None`: there is no file.
    written: Mutex<HashMap<Name, Option<u32>>>,
}

/// Octets of one journal on disk: it is written anew with each change.
const FILE_MAX: usize = 4 << 20;

impl Journals {
    pub(crate) fn new(folder: Option<PathBuf>) -> Self {
        Self(Arc::new(Inner { folder, ..Inner::default() }))
    }

    /// The changes that led to the zone with this content, as an earlier process noted them.
    pub(crate) fn get(&self, apex: &Name, content: &str) -> Option<Journal> {
        let file = self.file(apex)?;
        match read(&file, content) {
            Ok(journal) => journal,
            Err(error) => {
                // Availability: a journal saves work and holds nothing that the zone has not.
                tracing::warn!(zone = %apex, file = %file.display(), %error, "changes of a zone cannot be read: secondaries take it whole");
                None
            }
        }
    }

    /// To be called when the zone serves. `content` is asked for only when there is something to write.
    pub(crate) fn put(&self, apex: &Name, journal: &Journal, content: impl FnOnce() -> String) {
        let Some(file) = self.file(apex) else { return };
        let serial = journal.serial();
        let mut written = self.0.written.lock().unwrap_or_else(PoisonError::into_inner);
        if written.get(apex) == Some(&serial) {
            return;
        }
        let text = journal.to_text(FILE_MAX);
        let outcome = if text.is_empty() { remove(&file) } else { self.write(&file, &content(), &text) };
        match outcome {
            Ok(()) => _ = written.insert(apex.clone(), serial),
            Err(error) => {
                tracing::warn!(zone = %apex, file = %file.display(), %error, "changes of a zone cannot be kept: after a restart secondaries take it whole");
                // An old one must not be taken for the present one's: serials would go back. A full disk lets go of files.
                written.remove(apex);
                for file in [&file, &beside(&file)] {
                    remove(file).ok();
                }
            }
        }
    }

    fn file(&self, apex: &Name) -> Option<PathBuf> {
        Some(self.0.folder.as_ref()?.join(format!("{}.journal", HEXLOWER.encode(apex.as_wire()))))
    }

    /// Beside the file and renamed: a crash leaves the old journal or the new one.
    fn write(&self, file: &Path, content: &str, text: &str) -> io::Result<()> {
        if let Some(folder) = &self.0.folder {
            fs::create_dir_all(folder)?;
        }
        let beside = beside(file);
        let mut written = fs::File::create(&beside)?;
        writeln!(written, "{}", head(content, text))?;
        written.write_all(text.as_bytes())?;
        written.sync_all()?;
        fs::rename(beside, file)
    }
}

/// The version of the format, the content of the zone, and a checksum.
fn head(content: &str, text: &str) -> String {
    format!("journal 1 {content} {}", HEXLOWER.encode(digest(&SHA256, text.as_bytes()).as_ref()))
}

fn beside(file: &Path) -> PathBuf {
    file.with_extension("journal.new")
}

fn remove(file: &Path) -> io::Result<()> {
    fs::remove_file(file).or_else(|error| if error.kind() == NotFound { Ok(()) } else { Err(error) })
}

/// `None`: there is none, or it is of another content.
fn read(file: &Path, content: &str) -> io::Result<Option<Journal>> {
    let size = match fs::metadata(file) {
        Err(error) if error.kind() == NotFound => return Ok(None),
        found => found?.len(),
    };
    let damaged = || io::Error::other("it is damaged; it is written anew with the next change");
    if size > FILE_MAX as u64 + 1_024 {
        return Err(damaged());
    }
    let whole = fs::read_to_string(file)?;
    let (first, text) = whole.split_once('\n').ok_or_else(damaged)?;
    let their_content = first.split(' ').nth(2).unwrap_or_default();
    if head(their_content, text) != first {
        return Err(damaged());
    }
    if their_content != content {
        return Ok(None);
    }
    Journal::from_text(text).map(Some).ok_or_else(damaged)
}
