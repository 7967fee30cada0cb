//! What outlives snapshots: zones that were fetched, keys that were made, changes that were sent, and changes for
//! secondaries. Clones are the same one.

use crate::{dnssec::KeyStore, journals::Journals, secondary::Fetched, updates::Updates};
use std::path::PathBuf;

/// Lent from one snapshot to the next, and read from disk by the first.
#[derive(Debug, Clone, Default)]
pub(crate) struct Kept {
    pub(crate) fetched: Fetched,
    pub(crate) keys: KeyStore,
    pub(crate) updates: Updates,
    pub(crate) journals: Journals,
}

impl Kept {
    pub(crate) fn new(folder: Option<PathBuf>) -> Self {
        Self {
            fetched: Fetched::new(folder.clone()),
            keys: KeyStore::new(folder.clone()),
            updates: Updates::new(folder.clone()),
            journals: Journals::new(folder),
        }
    }
}
