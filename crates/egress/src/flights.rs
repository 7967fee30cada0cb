//! One piece of work for all who ask for the same thing at the same time.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::OnceCell;

/// Work under way by key. If whoever does it gives up, the next who waits does it instead.
#[derive(Debug)]
pub(crate) struct Flights<K, V>(Mutex<HashMap<K, Arc<OnceCell<V>>>>);

impl<K, V> Default for Flights<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash + Clone, V: Clone> Flights<K, V> {
    pub(crate) async fn join(&self, key: &K, work: impl Future<Output = V>) -> V {
        let cell = self.lock().entry(key.clone()).or_default().clone();
        let value = cell.get_or_init(|| work).await.clone();
        let mut flights = self.lock();
        if flights.get(key).is_some_and(|flying| Arc::ptr_eq(flying, &cell)) {
            flights.remove(key);
        }
        value
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Arc<OnceCell<V>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[tokio::test]
    async fn those_who_ask_together_share_one_piece_of_work() {
        let (flights, done) = (Flights::<&str, u32>::default(), AtomicU32::new(0));
        let work = || async {
            tokio::task::yield_now().await;
            done.fetch_add(1, Ordering::Relaxed)
        };
        let all = tokio::join!(flights.join(&"a", work()), flights.join(&"a", work()), flights.join(&"a", work()));
        assert_eq!((all, done.load(Ordering::Relaxed)), ((0, 0, 0), 1));
        assert_eq!(flights.join(&"a", work()).await, 1);
        assert!(flights.lock().is_empty());
    }
}
