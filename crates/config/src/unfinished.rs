//! Files that somebody is writing to at the moment, as far as the kernel tells. A file that is truncated and then written is for a
//! while a valid one with less in it: a zone without its records. Used by `watcher`.

use notify::{
    Event, EventKind,
    event::{AccessKind, AccessMode},
};
use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Clones are the same one: events are noted on a thread of their own.
#[derive(Debug, Clone, Default)]
pub(crate) struct Unfinished(Arc<Mutex<HashSet<PathBuf>>>);

/// Files that are written to in the watched folders. Whoever makes more is not waited for.
const FILES_MAX: usize = 4_096;

impl Unfinished {
    /// A write begins what a close, a removal or a rename ends.
    pub(crate) fn note(&self, event: &Event) {
        let mut files = self.lock();
        for path in &event.paths {
            match event.kind {
                EventKind::Access(AccessKind::Close(AccessMode::Write))
                | EventKind::Remove(_)
                | EventKind::Modify(notify::event::ModifyKind::Name(_)) => _ = files.remove(path),
                EventKind::Modify(notify::event::ModifyKind::Data(_)) if files.len() < FILES_MAX => {
                    _ = files.insert(path.clone());
                }
                _ => {}
            }
        }
    }

    /// Whether one of these is being written to. Names of folders count for what is in them.
    pub(crate) fn is_any_of(&self, watched: &[PathBuf]) -> bool {
        let files = self.lock();
        let is_watched = |file: &Path| watched.iter().any(|own| file == own || file.parent() == Some(own));
        let resolved = |file: &Path| watched.iter().any(|own| own.canonicalize().is_ok_and(|real| real == file));
        files.iter().any(|file| is_watched(file) || resolved(file))
    }

    /// Nobody is waited for any longer: an end may have been missed.
    pub(crate) fn forget(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<PathBuf>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
