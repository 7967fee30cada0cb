//! Keys that are made here, kept over reloads and restarts. Knows no time: `roll` says what is due.

use super::{
    Algorithm, KeyRole, generate_key,
    key::{Duty, Key},
    roll::{Awaited, Conflict, KeyState, Moved, RollPlan},
};
use crate::Name;
use std::{
    collections::HashMap,
    io::Write as _,
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The keys of all zones that have automatic ones. Clones are the same one.
#[derive(Debug, Clone, Default)]
pub(crate) struct KeyStore(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    folder: Option<PathBuf>,
    zones: Mutex<HashMap<Name, KeyState>>,
}

/// What a parent is asked for.
#[derive(Debug, Clone)]
pub(crate) struct AwaitedDs {
    pub(crate) tag: u16,
    /// Data of the record that is to be there.
    pub(crate) ds: Vec<u8>,
    /// The algorithm of which there is to be none.
    pub(crate) without: Option<Algorithm>,
}

impl KeyStore {
    pub(crate) fn new(folder: Option<PathBuf>) -> Self {
        Self(Arc::new(Inner { folder, ..Inner::default() }))
    }

    /// The keys of a zone; the first ones are made, and kept when [`KeyStore::step`] is told that they serve.
    pub(crate) fn get(&self, apex: &Name, plan: &RollPlan, now: u64) -> KeyState {
        let mut zones = lock(&self.0.zones);
        let state = zones.entry(apex.clone()).or_insert_with(|| self.read(apex));
        if state.duties(plan).next().is_none() {
            state.step(plan, now, &mut make);
        }
        state.clone()
    }

    /// What the keys that serve are, where the plan wants others, and where they are kept.
    pub(crate) fn conflict(&self, apex: &Name, plan: &RollPlan) -> Option<(Conflict, Option<PathBuf>)> {
        let zones = lock(&self.0.zones);
        let conflict = match zones.get(apex) {
            Some(state) => state.conflict(plan),
            None => self.read(apex).conflict(plan),
        };
        conflict.map(|conflict| (conflict, self.file(apex)))
    }

    /// Does what is due in a zone that serves; gives what moved. What cannot be written down does not happen.
    pub(crate) fn step(&self, apex: &Name, plan: &RollPlan, now: u64) -> Vec<Moved> {
        self.change(apex, |state| state.step(plan, now, &mut make))
    }

    pub(crate) fn seen_at_parent(&self, apex: &Name, tag: u16, now: u64) {
        self.change(apex, |state| state.seen_at_parent(tag, now));
    }

    /// The DS records that the parent is still to show.
    pub(crate) fn awaited(&self, apex: &Name) -> Vec<AwaitedDs> {
        let zones = lock(&self.0.zones);
        let awaited = zones.get(apex).into_iter().flat_map(KeyState::awaited);
        let awaited = awaited.filter_map(|Awaited { key, without }| {
            Some(AwaitedDs { tag: key.tag(), ds: super::signer::ds_data(apex, &key.key()?), without })
        });
        awaited.collect()
    }

    fn change<T: Default>(&self, apex: &Name, change: impl FnOnce(&mut KeyState) -> T) -> T {
        let mut zones = lock(&self.0.zones);
        let Some(state) = zones.get_mut(apex) else { return T::default() };
        let mut next = state.clone();
        let outcome = change(&mut next);
        let is_kept = self.file(apex).is_none_or(|file| file.exists());
        if next == *state && is_kept {
            return outcome;
        }
        match self.write(apex, &next) {
            Ok(()) => {
                *state = next;
                outcome
            }
            Err(error) => {
                // Security and availability alike: a key that a crash would lose must not become the one that the parent knows.
                tracing::error!(zone = %apex, %error, "keys cannot be kept: none is replaced");
                T::default()
            }
        }
    }

    fn file(&self, apex: &Name) -> Option<PathBuf> {
        Some(self.0.folder.as_ref()?.join(format!("{}.keys", data_encoding::HEXLOWER.encode(apex.as_wire()))))
    }

    /// A file that is there and cannot be read is not written over: [`KeyStore::write`] would forget a key that the parent knows.
    fn read(&self, apex: &Name) -> KeyState {
        let Some(file) = self.file(apex) else { return KeyState::default() };
        match std::fs::read(&file) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => KeyState::default(),
            read => {
                let text = read.map_err(|error| error.to_string());
                let state = text.and_then(|text| serde_json::from_slice(&text).map_err(|error| error.to_string()));
                state.unwrap_or_else(|why| {
                    tracing::error!(zone = %apex, file = %file.display(), why, "the keys of a zone cannot be read");
                    KeyState::default()
                })
            }
        }
    }

    /// Beside the file and renamed, for nobody else's eyes.
    fn write(&self, apex: &Name, state: &KeyState) -> std::io::Result<()> {
        let Some(file) = self.file(apex) else { return Ok(()) };
        if let Some(folder) = &self.0.folder {
            std::fs::create_dir_all(folder)?;
        }
        if let Ok(text) = std::fs::read(&file)
            && serde_json::from_slice::<KeyState>(&text).is_err()
        {
            return Err(std::io::Error::other(format!(
                "{} holds what cannot be read; repair or remove it",
                file.display()
            )));
        }
        let beside = file.with_extension("keys.new");
        let mut written =
            std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        written.write_all(&serde_json::to_vec(state).map_err(std::io::Error::other)?)?;
        written.sync_all()?;
        std::fs::rename(beside, file)
    }
}

fn make(algorithm: Algorithm, role: KeyRole) -> Option<(String, u16)> {
    let pem = generate_key(algorithm).ok()?;
    let tag = Key::read(pem.as_bytes(), Duty::of(role)).ok()?.tag;
    Some((pem, tag))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
