//! Values that outlive a transaction: the collections IP, GLOBAL, SESSION, USER and RESOURCE.
//!
//! In memory and bounded: a client that invents addresses or sessions displaces others, it does not grow the process.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::seclang::variable::Variable;

/// Collections kept at once.
const COLLECTIONS: usize = 100_000;

/// Members of one collection.
const MEMBERS: usize = 64;

/// The longest key of a collection, and the longest name and value of a member.
const TEXT_BYTES: usize = 1024;

/// All keys, names and values together.
const TOTAL_BYTES: usize = 64 << 20;

/// What a key or a member takes besides its text.
const ENTRY_BYTES: usize = 96;

/// Which collection: its kind, and the key `initcol` gave.
pub(crate) type Key = (Variable, Vec<u8>);

/// All persistent collections of a compiled rule set.
#[derive(Debug, Default)]
pub(crate) struct Store {
    collections: Mutex<Collections>,
}

#[derive(Debug, Default)]
struct Collections {
    by_key: HashMap<Key, Collection>,
    /// What they come to, as [`Collection::bytes`] counts.
    bytes: usize,
    /// When ended ones were last looked for.
    swept: Duration,
}

#[derive(Debug)]
struct Collection {
    members: HashMap<Vec<u8>, Member>,
    /// Since the epoch.
    ends: Duration,
    bytes: usize,
}

#[derive(Debug, Clone)]
struct Member {
    value: Vec<u8>,
    ends: Option<Duration>,
}

impl Store {
    fn lock(&self) -> MutexGuard<'_, Collections> {
        self.collections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a collection and moves its end to `timeout` from now. One with too long a key is not kept.
    pub(crate) fn open(&self, key: &Key, now: Duration, timeout: Duration) {
        if key.1.len() > TEXT_BYTES {
            return;
        }
        let mut collections = self.lock();
        let ends = now.saturating_add(timeout);
        if let Some(collection) = collections.by_key.get_mut(key) {
            if collection.ends > now {
                collection.ends = ends;
                return;
            }
            collections.remove(key);
        }
        collections.make_room(key, key.1.len() + ENTRY_BYTES, now);
        let bytes = key.1.len() + ENTRY_BYTES;
        collections.bytes += bytes;
        collections.by_key.insert(key.clone(), Collection { members: HashMap::new(), ends, bytes });
    }

    /// The value of a member, unless it has ended.
    pub(crate) fn get(&self, key: &Key, member: &[u8], now: Duration) -> Option<Vec<u8>> {
        let collections = self.lock();
        let member = collections.by_key.get(key)?.members.get(member)?;
        member.is_live(now).then(|| member.value.clone())
    }

    /// All members that have not ended, by name.
    pub(crate) fn all(&self, key: &Key, now: Duration) -> Vec<(Vec<u8>, Vec<u8>)> {
        let collections = self.lock();
        let members = collections.by_key.get(key).into_iter().flat_map(|collection| &collection.members);
        let mut live: Vec<_> = members
            .filter(|(_, member)| member.is_live(now))
            .map(|(name, member)| (name.clone(), member.value.clone()))
            .collect();
        live.sort();
        live
    }

    /// Changes a member: the closure gets the live value and gives the new one, or `None` to remove it.
    pub(crate) fn change(
        &self,
        key: &Key,
        name: &[u8],
        now: Duration,
        change: impl FnOnce(Option<&[u8]>) -> Option<Vec<u8>>,
    ) {
        let mut collections = self.lock();
        let Some(collection) = collections.by_key.get_mut(key) else { return };
        let old = collection.members.get(name).filter(|member| member.is_live(now));
        let ends = old.and_then(|member| member.ends);
        let new = change(old.map(|member| member.value.as_slice()));
        let known = collection.members.contains_key(name);
        let fits = known || collection.members.len() < MEMBERS;
        let freed = collection.members.remove(name).map_or(0, |member| member.value.len() + name.len() + ENTRY_BYTES);
        collection.bytes -= freed;
        collections.bytes -= freed;
        let Some(mut value) = new.filter(|_| fits && name.len() <= TEXT_BYTES) else { return };
        value.truncate(TEXT_BYTES);
        let bytes = value.len() + name.len() + ENTRY_BYTES;
        collections.make_room(key, bytes, now);
        if let Some(collection) = collections.by_key.get_mut(key) {
            collection.members.insert(name.to_vec(), Member { value, ends });
            collection.bytes += bytes;
            collections.bytes += bytes;
        }
    }

    /// Lets a member end later.
    pub(crate) fn expire(&self, key: &Key, name: &[u8], ends: Duration) {
        let mut collections = self.lock();
        if let Some(member) = collections.by_key.get_mut(key).and_then(|collection| collection.members.get_mut(name)) {
            member.ends = Some(ends);
        }
    }
}

impl Collections {
    fn remove(&mut self, key: &Key) {
        if let Some(removed) = self.by_key.remove(key) {
            self.bytes -= removed.bytes;
        }
    }

    /// Displaces others until so many bytes more are within the bounds.
    fn make_room(&mut self, key: &Key, bytes: usize, now: Duration) {
        let full = |this: &Self| this.by_key.len() >= COLLECTIONS || this.bytes + bytes > TOTAL_BYTES;
        // Once a second at most: a flood of new clients must not have all collections read for each of them.
        if full(self) && now.saturating_sub(self.swept) >= Duration::from_secs(1) {
            self.swept = now;
            let Self { by_key, bytes, .. } = self;
            by_key.retain(|own, collection| {
                let stays = collection.ends > now || own == key;
                if !stays {
                    *bytes -= collection.bytes;
                }
                stays
            });
        }
        while full(self) {
            // Still full of live ones: any of them makes room, chosen by the order of a keyed hash.
            let Some(displaced) = self.by_key.keys().find(|own| *own != key).cloned() else { return };
            self.remove(&displaced);
        }
    }
}

impl Member {
    fn is_live(&self, now: Duration) -> bool {
        self.ends.is_none_or(|ends| ends > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn members_live_until_they_expire() {
        let (store, key) = (Store::default(), (Variable::Ip, b"10.0.0.1".to_vec()));
        let set = |value: &'static [u8]| move |_: Option<&[u8]>| Some(value.to_vec());
        store.change(&key, b"a", at(1), set(b"lost: not open"));
        assert_eq!(store.get(&key, b"a", at(1)), None);
        store.open(&key, at(1), at(100));
        store.change(&key, b"a", at(1), set(b"1"));
        store.change(&key, b"b", at(1), set(b"2"));
        store.expire(&key, b"a", at(11));
        assert_eq!(store.get(&key, b"a", at(10)), Some(b"1".to_vec()));
        assert_eq!(store.get(&key, b"a", at(11)), None);
        assert_eq!(store.all(&key, at(12)), [(b"b".to_vec(), b"2".to_vec())]);
        store.change(&key, b"b", at(12), |_| None);
        assert_eq!(store.get(&key, b"b", at(12)), None);
    }

    #[test]
    fn a_collection_ends_when_it_is_not_opened_again() {
        let (store, key) = (Store::default(), (Variable::Session, b"s".to_vec()));
        store.open(&key, at(0), at(10));
        store.change(&key, b"a", at(0), |_| Some(b"1".to_vec()));
        store.open(&key, at(9), at(10));
        assert!(store.get(&key, b"a", at(9)).is_some());
        store.open(&key, at(19), at(10));
        assert_eq!(store.get(&key, b"a", at(19)), None);
    }

    #[test]
    fn memory_is_bounded() {
        let store = Store::default();
        for client in 0..COLLECTIONS + 10 {
            store.open(&(Variable::Ip, client.to_string().into_bytes()), at(1), at(100));
        }
        assert_eq!(store.lock().by_key.len(), COLLECTIONS);
    }

    #[test]
    fn so_are_the_texts_in_it() {
        let store = Store::default();
        let key = |client: usize| (Variable::Ip, client.to_string().into_bytes());
        for client in 0..2_000 {
            store.open(&key(client), at(1), at(100));
            for member in 0..MEMBERS + 10 {
                store.change(&key(client), member.to_string().as_bytes(), at(1), |_| Some(vec![b'x'; 5_000]));
            }
        }
        assert!(store.lock().bytes <= TOTAL_BYTES);
        let counted = |collection: &Collection| {
            collection.members.iter().map(|(name, member)| name.len() + member.value.len() + ENTRY_BYTES).sum::<usize>()
        };
        let recounted: usize =
            store.lock().by_key.iter().map(|(key, own)| key.1.len() + ENTRY_BYTES + counted(own)).sum();
        assert_eq!(recounted, store.lock().bytes);
        assert_eq!(store.all(&key(1_999), at(1)).len(), MEMBERS);
        assert_eq!(store.get(&key(1_999), b"1", at(1)).map(|value| value.len()), Some(TEXT_BYTES));
        let long = (Variable::Session, vec![b'k'; 2_000]);
        store.open(&long, at(1), at(100));
        store.change(&long, b"a", at(1), |_| Some(b"1".to_vec()));
        assert_eq!(store.get(&long, b"a", at(1)), None);
    }
}
