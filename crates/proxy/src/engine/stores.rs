//! One core's clients of the stores that its rate limits count in.

use portcullis_names::ObjectName;
use portcullis_store::{Store, StoreConfig};
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

/// Started when first asked, kept while the configuration of the store stays the same. Only one core uses it: the lock is
/// never waited for.
#[derive(Debug, Default)]
pub(super) struct Stores(Mutex<HashMap<ObjectName, Store>>);

impl Stores {
    /// The client of `name`. Needs the core's runtime.
    pub(super) fn get(&self, name: &ObjectName, config: &StoreConfig) -> Store {
        let mut stores = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match stores.get(name) {
            Some(store) if store.config() == config => store.clone(),
            _ => {
                let store = Store::start(config.clone(), &tokio::runtime::Handle::current());
                stores.insert(name.clone(), store.clone());
                store
            }
        }
    }
}
