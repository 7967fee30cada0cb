//! The snapshot that serves, replaced as a whole: readers pin one, writers publish the next.

use arc_swap::{ArcSwap, Cache};
use std::{fmt, sync::Arc, sync::Mutex, sync::PoisonError, time::SystemTime};
use tokio::sync::watch;

/// A snapshot that can be replaced while it is read. Clones are the same one.
#[derive(Debug)]
pub struct Live<S>(Arc<Inner<S>>);

#[derive(Debug)]
struct Inner<S> {
    current: Arc<ArcSwap<Published<S>>>,
    generations: watch::Sender<u64>,
    last: Mutex<LastReload>,
}

/// A snapshot with its place in the row of snapshots.
#[derive(Debug)]
pub struct Published<S> {
    pub snapshot: Arc<S>,
    /// Counts from 1; never goes back.
    pub generation: u64,
    pub hash: ContentHash,
    pub since: SystemTime,
}

/// Names what a configuration says: equal on every process that serves the same.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ContentHash(pub [u8; 32]);

/// How the last attempt to change the configuration went.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct LastReload {
    pub outcome: ReloadOutcome,
    /// Why it was attempted: `files, signal`.
    pub trigger: String,
    #[serde(serialize_with = "unix_seconds")]
    pub at: SystemTime,
}

#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(tag = "outcome", rename_all = "lowercase")]
pub enum ReloadOutcome {
    Published {
        generation: u64,
    },
    /// The one before keeps serving.
    Refused {
        report: serde_json::Value,
    },
}

/// Reads the snapshot from one thread without touching what other threads write.
pub struct Reader<S>(Cache<Arc<ArcSwap<Published<S>>>, Arc<Published<S>>>);

impl<S> Clone for Live<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S> Live<S> {
    /// Begins with generation 1.
    pub fn new(snapshot: Arc<S>, hash: ContentHash, now: SystemTime) -> Self {
        let first = Published { snapshot, generation: 1, hash, since: now };
        let outcome = ReloadOutcome::Published { generation: 1 };
        Self(Arc::new(Inner {
            current: Arc::new(ArcSwap::from_pointee(first)),
            generations: watch::Sender::new(1),
            last: Mutex::new(LastReload { outcome, trigger: "start".to_owned(), at: now }),
        }))
    }

    /// The snapshot that serves now; hold it for as long as one decision takes.
    pub fn load(&self) -> Arc<Published<S>> {
        self.0.current.load_full()
    }

    /// For a thread that asks often.
    pub fn reader(&self) -> Reader<S> {
        Reader(Cache::new(self.0.current.clone()))
    }

    /// Replaces the snapshot. Returns the new generation; who holds the old one keeps it until it is dropped.
    pub fn publish(&self, snapshot: Arc<S>, hash: ContentHash, trigger: &str, now: SystemTime) -> u64 {
        let mut last = self.0.last.lock().unwrap_or_else(PoisonError::into_inner);
        let generation = self.load().generation.saturating_add(1);
        self.0.current.store(Arc::new(Published { snapshot, generation, hash, since: now }));
        let outcome = ReloadOutcome::Published { generation };
        *last = LastReload { outcome, trigger: trigger.to_owned(), at: now };
        self.0.generations.send_replace(generation);
        generation
    }

    /// Notes that a reload was refused; what serves stays.
    pub fn refuse(&self, report: &crate::Report, trigger: &str, now: SystemTime) {
        let outcome = ReloadOutcome::Refused { report: report.to_json() };
        *self.0.last.lock().unwrap_or_else(PoisonError::into_inner) =
            LastReload { outcome, trigger: trigger.to_owned(), at: now };
    }

    /// Tells each new generation; one that is slow misses those between.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.generations.subscribe()
    }

    pub fn last_reload(&self) -> LastReload {
        self.0.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl<S> Reader<S> {
    /// The snapshot that serves now.
    pub fn load(&mut self) -> &Arc<Published<S>> {
        self.0.load()
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn unix_seconds<S: serde::Serializer>(at: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn a_reader_keeps_what_it_holds_and_sees_what_is_published() {
        let live = Live::new(Arc::new("a"), ContentHash([0; 32]), at(1));
        let held = live.load();
        let mut reader = live.reader();
        let news = live.subscribe();
        assert_eq!(live.publish(Arc::new("b"), ContentHash([1; 32]), "files", at(2)), 2);
        assert_eq!((*held.snapshot, held.generation), ("a", 1));
        let now = reader.load();
        assert_eq!((*now.snapshot, now.generation, now.since), ("b", 2, at(2)));
        assert_eq!(now.hash.to_string(), "01".repeat(32));
        assert!(news.has_changed().unwrap() && *news.borrow() == 2);
    }

    #[test]
    fn a_refusal_is_told_and_changes_nothing() {
        let live = Live::new(Arc::new(()), ContentHash([0; 32]), at(1));
        assert_eq!(live.last_reload().trigger, "start");
        let (_, report) = crate::Document::parse("edge.toml", "a = \n");
        live.refuse(&report, "signal", at(7));
        let json = serde_json::to_value(live.last_reload()).unwrap();
        assert_eq!(json.pointer("/outcome/outcome").unwrap(), "refused");
        assert_eq!(json.pointer("/outcome/report/problems/0/place/line").unwrap(), 1);
        assert_eq!(json.pointer("/at").unwrap(), 7);
        assert_eq!(live.load().generation, 1);
    }
}
