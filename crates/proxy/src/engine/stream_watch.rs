//! Cuts an h2 stream whose request body stands still or trickles, and saves what is known of it for the record. pingora's
//! read timeout knows only h1.

use crate::{listen::MinRate, stage::Exchange};
use std::{
    cell::{Cell, RefCell},
    time::{Duration, Instant},
};

/// The most patience that one stream's request body is met with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// For a silence.
    pub(super) silence: Duration,
    /// On average, from the body's first octets on.
    pub(super) rate: MinRate,
}

/// How far one stream's request body is.
struct BodyProgress {
    patience: Patience,
    last: Cell<Instant>,
    first: Cell<Option<Instant>>,
    received: Cell<u64>,
    complete: Cell<bool>,
    /// Left by an exchange that was dropped in the middle.
    orphan: RefCell<Option<Box<Exchange>>>,
}

tokio::task_local! {
    static PROGRESS: BodyProgress;
}

/// How guarded serving ended.
pub(super) enum Guarded<T> {
    Served(T),
    /// With what was known of the exchange, when it had got so far.
    Cut(Option<Box<Exchange>>),
}

/// The body of the stream being served here moved on by so many octets.
pub(super) fn progress(octets: usize) {
    // Over h1 there is no such guard: the connection's own clock does it.
    let _ = PROGRESS.try_with(|body| {
        let now = Instant::now();
        body.last.set(now);
        body.first.set(body.first.get().or(Some(now)));
        body.received.set(body.received.get().saturating_add(octets as u64));
    });
}

/// The body ended, or is one that may rest.
pub(super) fn complete() {
    let _ = PROGRESS.try_with(|body| body.complete.set(true));
}

/// An exchange that is dropped before its record was written.
pub(super) fn abandon(exchange: Box<Exchange>) {
    // Outside of a guarded stream nothing is ever dropped in the middle, and the exchange is simply done with.
    let _ = PROGRESS.try_with(|body| body.orphan.replace(Some(exchange)));
}

/// Runs `serving` to its end, or until patience is over. Dropping it resets the stream.
pub(super) async fn guard<T>(serving: impl Future<Output = T>, patience: Patience) -> Guarded<T> {
    let body = BodyProgress {
        patience,
        last: Cell::new(Instant::now()),
        first: Cell::new(None),
        received: Cell::new(0),
        complete: Cell::new(false),
        orphan: RefCell::new(None),
    };
    let guarded = async {
        let served = {
            let serving = std::pin::pin!(serving);
            tokio::select! {
                biased;
                served = serving => Some(served),
                () = too_slow() => None,
            }
        };
        // The block above has dropped what was being served, so its exchange lies here by now.
        match served {
            Some(served) => Guarded::Served(served),
            None => Guarded::Cut(PROGRESS.with(|body| body.orphan.take())),
        }
    };
    PROGRESS.scope(body, guarded).await
}

async fn too_slow() {
    loop {
        let now = Instant::now();
        let (left, look, complete) =
            PROGRESS.with(|body| (body.left(now), body.patience.rate.grace, body.complete.get()));
        if complete {
            std::future::pending::<()>().await;
        }
        if left.is_zero() {
            return;
        }
        // A body that begins meanwhile cannot use up its patience sooner than after the grace.
        tokio::time::sleep(left.min(look)).await;
    }
}

impl BodyProgress {
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
            orphan: RefCell::new(None),
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
