//! One core's upstream connections that rest: the last one in is the first one out, so that those that are not needed grow old.
//!
//! Nobody waits on each of them. All wake one keeper, which throws out those that ended, whose place is needed, or whose time is over.

use crate::engine::upstream_io::UpstreamIo;
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Wake, Waker},
    time::{Duration, Instant},
};
use tokio::sync::Notify;

#[derive(Clone, Default)]
pub(in crate::engine) struct Pool(Arc<Shared>);

#[derive(Default)]
struct Shared {
    rests: Mutex<Rests>,
    keeper: Arc<Keeper>,
    is_kept: AtomicBool,
}

/// By whom a connection leads where.
#[derive(Default)]
struct Rests {
    by_way: HashMap<u64, Vec<Resting>>,
    count: usize,
    /// When the keeper looks again.
    due: Option<Instant>,
}

struct Resting {
    io: Box<UpstreamIo>,
    until: Instant,
}

/// Wakes whoever looks after the pool.
#[derive(Default)]
struct Keeper(Notify);

impl Wake for Keeper {
    fn wake(self: Arc<Self>) {
        self.0.notify_one();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.notify_one();
    }
}

/// Connections that rest on one core, beside those of pingora's pool: what one has, the other cannot use.
const MOST: usize = 1024;

impl Pool {
    /// One that nobody has closed.
    pub(super) fn take(&self, way: u64) -> Option<Box<UpstreamIo>> {
        loop {
            let mut io = self.0.rests().take(way, Instant::now())?;
            if io.is_at_rest(&mut Context::from_waker(Waker::noop())) {
                return Some(io);
            }
        }
    }

    /// Keeps a connection, whose last answer was read to its end, for so long.
    pub(super) fn keep(&self, way: u64, mut io: Box<UpstreamIo>, rest: Duration) {
        io.rest_lightly();
        let waker = Waker::from(self.0.keeper.clone());
        if rest.is_zero() || !io.is_at_rest(&mut Context::from_waker(&waker)) {
            return;
        }
        if self.0.rests().keep(way, Resting { io, until: Instant::now() + rest }) {
            self.0.keeper.0.notify_one();
        }
        if !self.0.is_kept.swap(true, Relaxed) {
            tokio::spawn(look_after(Arc::downgrade(&self.0), self.0.keeper.clone()));
        }
    }
}

async fn look_after(pool: Weak<Shared>, keeper: Arc<Keeper>) {
    let waker = Waker::from(keeper.clone());
    loop {
        let due = match pool.upgrade() {
            Some(pool) => pool.rests().tidy(&mut Context::from_waker(&waker), Instant::now()),
            None => return,
        };
        match due {
            None => keeper.0.notified().await,
            Some(due) => _ = tokio::time::timeout_at(due.into(), keeper.0.notified()).await,
        }
    }
}

impl Shared {
    fn rests(&self) -> MutexGuard<'_, Rests> {
        // Nothing is left half done by a panic: each change is one call.
        self.rests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.keeper.0.notify_one();
    }
}

impl Rests {
    /// One whose time is not over, even if the keeper has not got to it.
    fn take(&mut self, way: u64, now: Instant) -> Option<Box<UpstreamIo>> {
        let rests = self.by_way.get_mut(&way)?;
        loop {
            let resting = rests.pop()?;
            self.count -= 1;
            if resting.until > now {
                return Some(resting.io);
            }
        }
    }

    /// Whether the keeper must look sooner than it thinks.
    fn keep(&mut self, way: u64, resting: Resting) -> bool {
        if self.count >= MOST {
            self.drop_oldest();
        }
        let is_sooner = self.due.is_none_or(|due| resting.until < due);
        if is_sooner {
            self.due = Some(resting.until);
        }
        self.by_way.entry(way).or_default().push(resting);
        self.count += 1;
        is_sooner
    }

    fn drop_oldest(&mut self) {
        let oldest = self.by_way.iter().filter_map(|(way, rests)| Some((*way, rests.first()?.until)));
        let Some((way, _)) = oldest.min_by_key(|(_, until)| *until) else { return };
        if let Some(rests) = self.by_way.get_mut(&way) {
            rests.remove(0);
            self.count -= 1;
        }
    }

    /// Throws out what is to go; when to look again, unless woken before.
    fn tidy(&mut self, cx: &mut Context<'_>, now: Instant) -> Option<Instant> {
        self.by_way.retain(|_, rests| {
            rests.retain_mut(|resting| resting.until > now && resting.io.is_at_rest(cx));
            !rests.is_empty()
        });
        self.count = self.by_way.values().map(Vec::len).sum();
        self.due = self.by_way.values().flatten().map(|resting| resting.until).min();
        self.due
    }
}
