//! Puts an end to exchanges in the middle, and saves what is known of them for the record: over h2 those whose request body stands
//! still or trickles (pingora's read timeout knows only h1), and on the way out those that the policy no longer allows.

use super::told::Told;
use crate::{
    egress::{LiveEgress, revoked},
    listen::MinRate,
    snapshot::Edge,
    stage::Exchange,
};
use portcullis_egress::{LiveFlow, Reason};
use std::{
    cell::{Cell, RefCell},
    future::pending,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};
use tokio::sync::Notify;

/// The most patience that one stream's request body is met with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// For a silence.
    pub(super) silence: Duration,
    /// On average, from the body's first octets on.
    pub(super) rate: MinRate,
}

/// One exchange that is being served.
struct Watched {
    /// Over h2, while a body is to come.
    body: Option<BodyProgress>,
    /// On the way out, once it was let through.
    departure: RefCell<Option<Departure>>,
    departed: Rc<Notify>,
    /// Left by an exchange that was dropped in the middle.
    orphan: RefCell<Option<Box<Exchange>>>,
}

/// How far one stream's request body is.
struct BodyProgress {
    patience: Patience,
    last: Cell<Instant>,
    first: Cell<Option<Instant>>,
    received: Cell<u64>,
    complete: Cell<bool>,
}

/// What is asked anew about a request that went out, when the policy changes or its grant ends.
pub(super) struct Departure {
    pub(super) flow: LiveFlow,
    pub(super) grant_end: Option<SystemTime>,
    pub(super) egress: Arc<LiveEgress>,
    pub(super) told: Told,
}

tokio::task_local! {
    static WATCHED: Watched;
}

/// How guarded serving ended.
pub(super) enum Guarded<T> {
    Served(T),
    /// With what was known of the exchange, when it had got so far.
    Cut(Cut, Option<Box<Exchange>>),
}

/// What put an end to an exchange.
pub(super) enum Cut {
    TooSlow,
    /// With its head, which is gone by then.
    Revoked(Reason, Box<Told>),
}

fn with_body(act: impl FnOnce(&BodyProgress)) {
    // Over h1 there is no such guard: the connection's own clock does it.
    let _ = WATCHED.try_with(|watched| watched.body.as_ref().map(act));
}

/// The body of the stream being served here moved on by so many octets.
pub(super) fn progress(octets: usize) {
    with_body(|body| {
        let now = Instant::now();
        body.last.set(now);
        body.first.set(body.first.get().or(Some(now)));
        body.received.set(body.received.get().saturating_add(octets as u64));
    });
}

/// The body ended, or is one that may rest.
pub(super) fn complete() {
    with_body(|body| body.complete.set(true));
}

/// The policy let the exchange being served here out.
pub(super) fn departed(departure: Departure) {
    let _ = WATCHED.try_with(|watched| {
        watched.departure.replace(Some(departure));
        watched.departed.notify_one();
    });
}

/// An exchange that is dropped before its record was written.
pub(super) fn abandon(exchange: Box<Exchange>) {
    // Outside of a guarded exchange nothing is ever dropped in the middle, and the exchange is simply done with.
    let _ = WATCHED.try_with(|watched| watched.orphan.replace(Some(exchange)));
}

/// Runs `serving` to its end, or until patience is over, or the policy that let it out. Dropping it resets the stream, or closes
/// the connection.
pub(super) async fn guard<T>(serving: impl Future<Output = T>, patience: Option<Patience>, edge: &Edge) -> Guarded<T> {
    let watched = Watched {
        body: patience.map(BodyProgress::new),
        departure: RefCell::new(None),
        departed: Rc::default(),
        orphan: RefCell::new(None),
    };
    let guarded = async {
        let ended = {
            let serving = std::pin::pin!(serving);
            tokio::select! {
                biased;
                served = serving => Ok(served),
                () = too_slow() => Err(Cut::TooSlow),
                cut = no_longer_allowed(edge) => Err(cut),
            }
        };
        // The block above has dropped what was being served, so its exchange lies here by now.
        match ended {
            Ok(served) => Guarded::Served(served),
            Err(cut) => Guarded::Cut(cut, WATCHED.with(|watched| watched.orphan.take())),
        }
    };
    WATCHED.scope(watched, guarded).await
}

async fn too_slow() {
    loop {
        let now = Instant::now();
        let look = WATCHED.with(|watched| {
            let body = watched.body.as_ref().filter(|body| !body.complete.get())?;
            Some((body.left(now), body.patience.rate.grace))
        });
        let Some((left, look)) = look else { return pending().await };
        if left.is_zero() {
            return;
        }
        // A body that begins meanwhile cannot use up its patience sooner than after the grace.
        tokio::time::sleep(left.min(look)).await;
    }
}

async fn no_longer_allowed(edge: &Edge) -> Cut {
    let departed = WATCHED.with(|watched| watched.departed.clone());
    departed.notified().await;
    let Some(Departure { flow, grant_end, egress, told }) = WATCHED.with(|watched| watched.departure.take()) else {
        return pending().await;
    };
    let (changes, decided_by) = (egress.state.changes(), Arc::downgrade(&egress.plan));
    // It may go on for days, and must not keep an old configuration alive.
    drop(egress);
    let reason = revoked(&flow, grant_end, edge, changes, &decided_by).await;
    Cut::Revoked(reason, Box::new(told))
}

impl BodyProgress {
    fn new(patience: Patience) -> Self {
        Self {
            patience,
            last: Cell::new(Instant::now()),
            first: Cell::new(None),
            received: Cell::new(0),
            complete: Cell::new(false),
        }
    }

    /// An upstream that is slow to take the body does not tell on the client soon: before the codec's window and our
    /// buffers are full, enough was received to earn minutes.
    fn left(&self, now: Instant) -> Duration {
        let silent = now.saturating_duration_since(self.last.get());
        let silence = self.patience.silence.saturating_sub(silent);
        let Some(first) = self.first.get() else { return silence };
        let rate = self.patience.rate.allowance(self.received.get());
        silence.min(rate.saturating_sub(now.saturating_duration_since(first)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience {
        silence: Duration::from_secs(60),
        rate: MinRate { bytes_per_second: 100, grace: Duration::from_secs(5) },
    };

    fn left(received: u64, first: Option<u64>, last: u64, now: u64) -> Duration {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let body = BodyProgress {
            patience: PATIENCE,
            last: Cell::new(at(last)),
            first: Cell::new(first.map(at)),
            received: Cell::new(received),
            complete: Cell::new(false),
        };
        body.left(at(now))
    }

    #[test]
    fn a_body_may_be_silent_for_a_while_and_must_keep_its_rate() {
        let seconds = Duration::from_secs;
        for (received, first, last, now, expected) in [
            (0, None, 0, 0, 60),
            (0, None, 0, 59, 1),
            (0, None, 0, 61, 0),
            (1, Some(10), 10, 10, 5),
            (1, Some(10), 14, 15, 0),
            (1_000, Some(10), 14, 15, 10),
            (1_000, Some(10), 24, 25, 0),
            (1_000_000, Some(10), 25, 85, 0),
            (1_000_000, Some(10), 25, 84, 1),
        ] {
            let whole = Duration::from_secs(left(received, first, last, now).as_secs());
            assert_eq!(whole, seconds(expected), "{received} {first:?} {last} {now}");
        }
    }
}
