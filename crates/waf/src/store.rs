//! Values that outlive a transaction: the collections IP, GLOBAL, SESSION, USER and RESOURCE.
//!
//! In memory and bounded: a client that invents addresses or sessions displaces others, it does not grow the process.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::seclang::variable::Variable;

/// Collections kept at once.
const COLLECTIONS: usize = 100_000;

/// Members of one collection.
const MEMBERS: usize = 64;

/// Which collection: its kind, and the key `initcol` gave.
pub(crate) type Key = (Variable, Vec<u8>);

/// All persistent collections of a compiled rule set.
#[derive(Debug, Default)]
pub(crate) struct Store {
    collections: Mutex<HashMap<Key, Collection>>,
}

#[derive(Debug)]
struct Collection {
    members: HashMap<Vec<u8>, Member>,
    /// Since the epoch.
    ends: Duration,
}

#[derive(Debug, Clone)]
struct Member {
    value: Vec<u8>,
    ends: Option<Duration>,
}

impl Store {
    /// Opens a collection and moves its end to `timeout` from now.
    pub(crate) fn open(&self, key: &Key, now: Duration, timeout: Duration) {
        let mut collections = self.collections.lock().unwrap_or_else(PoisonError::into_inner);
        let ends = now.saturating_add(timeout);
        if let Some(collection) = collections.get_mut(key) {
            if collection.ends <= now {
                collection.members.clear();
            }
            collection.ends = ends;
            return;
        }
        if collections.len() >= COLLECTIONS {
            collections.retain(|_, collection| collection.ends > now);
        }
        if collections.len() >= COLLECTIONS {
            // Still full of live ones: any of them makes room, chosen by the order of a keyed hash.
            let displaced = collections.keys().next().cloned();
            displaced.and_then(|key| collections.remove(&key));
        }
        collections.insert(key.clone(), Collection { members: HashMap::new(), ends });
    }

    /// The value of a member, unless it has ended.
    pub(crate) fn get(&self, key: &Key, member: &[u8], now: Duration) -> Option<Vec<u8>> {
        let collections = self.collections.lock().unwrap_or_else(PoisonError::into_inner);
        let member = collections.get(key)?.members.get(member)?;
        member.is_live(now).then(|| member.value.clone())
    }

    /// All members that have not ended, by name.
    pub(crate) fn all(&self, key: &Key, now: Duration) -> Vec<(Vec<u8>, Vec<u8>)> {
        let collections = self.collections.lock().unwrap_or_else(PoisonError::into_inner);
        let members = collections.get(key).into_iter().flat_map(|collection| &collection.members);
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
        let mut collections = self.collections.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(collection) = collections.get_mut(key) else { return };
        let old = collection.members.get(name).filter(|member| member.is_live(now));
        let ends = old.and_then(|member| member.ends);
        match change(old.map(|member| member.value.as_slice())) {
            Some(value) if collection.members.contains_key(name) || collection.members.len() < MEMBERS => {
                collection.members.insert(name.to_vec(), Member { value, ends });
            }
            Some(_) => {}
            None => {
                collection.members.remove(name);
            }
        }
    }

    /// Lets a member end later.
    pub(crate) fn expire(&self, key: &Key, name: &[u8], ends: Duration) {
        let mut collections = self.collections.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(member) = collections.get_mut(key).and_then(|collection| collection.members.get_mut(name)) {
            member.ends = Some(ends);
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
        assert_eq!(store.collections.lock().unwrap().len(), COLLECTIONS);
    }
}
