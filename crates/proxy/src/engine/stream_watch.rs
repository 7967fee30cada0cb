//! Cuts an h2 stream whose request body stands still. pingora's read timeout knows only h1.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

/// How far one stream's request body is.
struct BodyProgress {
    last: Cell<Instant>,
    complete: Cell<bool>,
}

tokio::task_local! {
    static PROGRESS: BodyProgress;
}

/// The body of the stream being served here moved on, or ended.
pub(super) fn progress(end: bool) {
    // Over h1 there is no such guard: the connection's own clock does it.
    let _ = PROGRESS.try_with(|body| {
        body.last.set(Instant::now());
        body.complete.set(body.complete.get() || end);
    });
}

/// Runs `serving` to its end, or until the body has not moved for `patience`.
pub(super) async fn guard<T>(serving: impl Future<Output = T>, complete: bool, patience: Duration) -> Option<T> {
    if complete {
        return Some(serving.await);
    }
    let body = BodyProgress { last: Cell::new(Instant::now()), complete: Cell::new(false) };
    let guarded = async {
        tokio::select! {
            biased;
            served = serving => Some(served),
            () = stalled(patience) => None,
        }
    };
    PROGRESS.scope(body, guarded).await
}

async fn stalled(patience: Duration) {
    loop {
        let (last, complete) = PROGRESS.with(|body| (body.last.get(), body.complete.get()));
        if complete {
            std::future::pending::<()>().await;
        }
        let left = patience.saturating_sub(last.elapsed());
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left).await;
    }
}
