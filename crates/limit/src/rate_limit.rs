//! One compiled rate limit with its counts.

use crate::{Gcra, Key, KeyTable, Mode, SlidingWindow, Verdict, fields::Quota};
use portcullis_names::{ObjectName, Rate, RequestKey};
use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

/// Ready to be asked. With a `store` the caller asks that first, and this one's own counts only when `on_fail` says so.
#[derive(Debug)]
pub struct RateLimit {
    name: Arc<str>,
    rate: Rate,
    meter: Metered,
    key: RequestKey,
    mode: Mode,
    store: Option<ObjectName>,
    keys: NonZeroU32,
    tally: Arc<Tally>,
}

/// The algorithm and its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    TokenBucket(Gcra),
    SlidingWindow(SlidingWindow),
}

/// What comes of a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    Admit,
    Refuse,
    /// Would be refused, were the limit enforced. The client is shown nothing of it.
    Shadow,
}

/// Since the limit came to be, over reloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    pub refused: u64,
    pub shadowed: u64,
    /// Keys forgotten while they still counted.
    pub evicted: u64,
    /// Keys held now.
    pub keys: usize,
}

/// The algorithm beside the table of its states. The tables survive a reload.
#[derive(Debug)]
enum Metered {
    TokenBucket(Gcra, Arc<KeyTable<1>>),
    SlidingWindow(SlidingWindow, Arc<KeyTable<2>>),
}

#[derive(Debug, Default)]
struct Tally {
    refused: AtomicU64,
    shadowed: AtomicU64,
}

impl RateLimit {
    #[expect(clippy::too_many_arguments, reason = "one call, from the compile step, which has just named each of them")]
    pub(crate) fn new(
        name: &str,
        rate: Rate,
        plan: Plan,
        key: RequestKey,
        mode: Mode,
        store: Option<ObjectName>,
        keys: NonZeroU32,
        now: Instant,
    ) -> Self {
        let meter = match plan {
            Plan::TokenBucket(gcra) => Metered::TokenBucket(gcra, Arc::new(KeyTable::new(keys, now))),
            Plan::SlidingWindow(window) => Metered::SlidingWindow(window, Arc::new(KeyTable::new(keys, now))),
        };
        Self { name: name.into(), rate, meter, key, mode, store, keys, tally: Arc::default() }
    }

    /// Goes on with the counts of the limit that had this name before a reload, if they still mean the same: rate, algorithm,
    /// key and number of keys agree. Burst, cost, mode and store may differ. Otherwise everybody starts anew.
    ///
    /// Until the old snapshot is gone both count in one table.
    pub fn carry_over(&mut self, previous: &Self) {
        if self.rate != previous.rate || self.key != previous.key || self.keys != previous.keys {
            return;
        }
        match (&mut self.meter, &previous.meter) {
            (Metered::TokenBucket(_, table), Metered::TokenBucket(_, before)) => *table = before.clone(),
            (Metered::SlidingWindow(_, table), Metered::SlidingWindow(_, before)) => *table = before.clone(),
            (Metered::TokenBucket(..), Metered::SlidingWindow(..))
            | (Metered::SlidingWindow(..), Metered::TokenBucket(..)) => return,
        }
        self.tally = previous.tally.clone();
    }

    /// Counts one request by this process's own table. Under 200 ns.
    pub fn check(&self, key: &Key, now: Instant) -> Verdict {
        match &self.meter {
            Metered::TokenBucket(gcra, table) => table.check(gcra, key, now),
            Metered::SlidingWindow(window, table) => table.check(window, key, now),
        }
    }

    /// What `check` would say, without counting.
    pub fn peek(&self, key: &Key, now: Instant) -> Verdict {
        match &self.meter {
            Metered::TokenBucket(gcra, table) => table.peek(gcra, key, now),
            Metered::SlidingWindow(window, table) => table.peek(window, key, now),
        }
    }

    /// What to do about a verdict, local or of the store; refusals are counted here.
    pub fn decide(&self, verdict: &Verdict) -> Decision {
        match (verdict.allowed, self.mode) {
            (true, _) => Decision::Admit,
            (false, Mode::Enforce) => {
                self.tally.refused.fetch_add(1, Ordering::Relaxed);
                Decision::Refuse
            }
            (false, Mode::Shadow) => {
                self.tally.shadowed.fetch_add(1, Ordering::Relaxed);
                Decision::Shadow
            }
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn rate(&self) -> Rate {
        self.rate
    }

    /// What a request is counted by.
    pub fn key(&self) -> &RequestKey {
        &self.key
    }

    pub fn mode(&self) -> Mode {
        self.mode
    }

    pub fn store(&self) -> Option<&ObjectName> {
        self.store.as_ref()
    }

    pub fn plan(&self) -> Plan {
        match &self.meter {
            Metered::TokenBucket(gcra, _) => Plan::TokenBucket(*gcra),
            Metered::SlidingWindow(window, _) => Plan::SlidingWindow(*window),
        }
    }

    pub fn counts(&self) -> Counts {
        let (evicted, keys) = match &self.meter {
            Metered::TokenBucket(_, table) => (table.evicted(), table.len()),
            Metered::SlidingWindow(_, table) => (table.evicted(), table.len()),
        };
        Counts {
            refused: self.tally.refused.load(Ordering::Relaxed),
            shadowed: self.tally.shadowed.load(Ordering::Relaxed),
            evicted,
            keys,
        }
    }

    pub(crate) fn quota(&self) -> Quota {
        match self.plan() {
            Plan::TokenBucket(gcra) => {
                Quota { requests: gcra.verdict(true, 0).remaining, window_seconds: gcra.capacity().div_ceil(NANOS) }
            }
            Plan::SlidingWindow(window) => Quota {
                requests: u64::from(window.limit() / window.cost()),
                window_seconds: window.length_micros().get().div_ceil(MICROS),
            },
        }
    }
}

const NANOS: u64 = 1_000_000_000;
const MICROS: u64 = 1_000_000;
