//! Who talks with this workload, as far as it was seen: what `mesh status` and the service graph are made of.

use super::Security;
use crate::listen::Direction;
use serde::Serialize;
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Instant, SystemTime},
};

/// All peers. A stranger beyond the limit is counted as `other`.
#[derive(Debug, Default)]
pub struct Board(Mutex<BTreeMap<(Direction, String), Arc<PeerEntry>>>);

/// More than any service has for neighbours; ids come from certificates of our own authority.
const PEERS_MAX: usize = 500;
/// The name of those beyond, here and in metrics.
const OTHER: &str = "other";

/// One peer in one direction.
#[derive(Debug)]
pub struct PeerEntry {
    pub direction: Direction,
    /// `cart.acme.lab`; `clear` for those who did not say who they are.
    pub name: String,
    calls: AtomicU64,
    reported: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
    micros: AtomicU64,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default, Clone)]
struct Seen {
    at: Option<SystemTime>,
    identity: Option<String>,
    mode: Option<&'static str>,
    security: Option<Security>,
    cipher: Option<&'static str>,
    protocol: Option<&'static str>,
    not_after: Option<i64>,
    deny: Option<Deny>,
}

/// The last refusal.
#[derive(Debug, Clone, Serialize)]
pub struct Deny {
    /// Seconds since 1970.
    pub at: u64,
    pub reason: String,
    pub rule: Option<String>,
}

/// What a connection turned out to be.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sighting {
    pub(crate) identity: Option<String>,
    pub(crate) mode: Option<&'static str>,
    pub(crate) security: Option<Security>,
    pub(crate) cipher: Option<&'static str>,
    pub(crate) protocol: Option<&'static str>,
    pub(crate) not_after: Option<i64>,
}

/// How a call went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Went {
    Well,
    Reported,
    Refused,
    Failed,
}

/// A peer as it is told.
#[derive(Debug, Clone, Serialize)]
pub struct PeerStatus {
    pub direction: &'static str,
    pub peer: String,
    pub identity: Option<String>,
    pub mode: Option<&'static str>,
    pub security: Option<&'static str>,
    pub cipher: Option<&'static str>,
    pub protocol: Option<&'static str>,
    /// Of the peer's certificate.
    pub seconds_to_expiry: Option<i64>,
    pub seconds_since_seen: Option<u64>,
    pub calls: u64,
    pub reported: u64,
    pub refused: u64,
    pub failed: u64,
    pub mean_ms: Option<f64>,
    pub last_deny: Option<Deny>,
}

impl Board {
    pub(crate) fn entry(&self, direction: Direction, name: &str) -> Arc<PeerEntry> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = all.contains_key(&(direction, name.to_owned()));
        let name = if known || all.len() < PEERS_MAX { name } else { OTHER };
        all.entry((direction, name.to_owned())).or_insert_with(|| Arc::new(PeerEntry::new(direction, name))).clone()
    }

    pub fn peers(&self, now: SystemTime) -> Vec<PeerStatus> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.values().map(|entry| entry.status(now)).collect()
    }
}

impl PeerEntry {
    fn new(direction: Direction, name: &str) -> Self {
        let (calls, reported, refused, failed, micros) = Default::default();
        Self { direction, name: name.to_owned(), calls, reported, refused, failed, micros, seen: Mutex::default() }
    }

    /// A connection was made.
    pub(crate) fn sighted(&self, sighting: Sighting) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let Sighting { identity, mode, security, cipher, protocol, not_after } = sighting;
        *seen = Seen {
            at: Some(SystemTime::now()),
            identity,
            mode,
            security,
            cipher,
            protocol,
            not_after,
            deny: seen.deny.take(),
        };
    }

    pub(crate) fn denied(&self, reason: &str, rule: Option<&str>) {
        let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.deny = Some(Deny { at, reason: reason.to_owned(), rule: rule.map(str::to_owned) });
    }

    pub(crate) fn called(&self, went: Went, began: Instant) {
        self.calls.fetch_add(1, Relaxed);
        let micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.micros.fetch_add(micros, Relaxed);
        match went {
            Went::Well => {}
            Went::Reported => _ = self.reported.fetch_add(1, Relaxed),
            Went::Refused => _ = self.refused.fetch_add(1, Relaxed),
            Went::Failed => _ = self.failed.fetch_add(1, Relaxed),
        }
    }

    fn status(&self, now: SystemTime) -> PeerStatus {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let unix =
            now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(0));
        let calls = self.calls.load(Relaxed);
        #[expect(clippy::cast_precision_loss, reason = "a mean for people")]
        let mean = (calls > 0).then(|| self.micros.load(Relaxed) as f64 / calls as f64 / 1000.0);
        PeerStatus {
            direction: self.direction.as_str(),
            peer: self.name.clone(),
            identity: seen.identity,
            mode: seen.mode,
            security: seen.security.map(Security::as_str),
            cipher: seen.cipher,
            protocol: seen.protocol,
            seconds_to_expiry: seen.not_after.map(|at| at.saturating_sub(unix)),
            seconds_since_seen: seen.at.and_then(|at| now.duration_since(at).ok()).map(|since| since.as_secs()),
            calls,
            reported: self.reported.load(Relaxed),
            refused: self.refused.load(Relaxed),
            failed: self.failed.load(Relaxed),
            mean_ms: mean,
            last_deny: seen.deny,
        }
    }
}
