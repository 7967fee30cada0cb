//! Keeps an identity fresh: one task for its source.

use crate::{
    Clock, EnrolError, Pace,
    source::{self, Source},
};
use portcullis_mesh::{IdentitySource, Offered, OwnIdentity, Svid};
use std::{sync::Arc, time::Duration};
use tokio::{sync::watch, task::AbortHandle};

/// A running source. The task ends with it.
#[derive(Debug)]
pub struct Follower {
    source: IdentitySource,
    own: Arc<OwnIdentity>,
    seen: watch::Receiver<Progress>,
    task: AbortHandle,
}

/// How a source does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// Counts identities that were taken.
    pub taken: u64,
    /// Why the last attempt failed; the identity in use is kept.
    pub trouble: Option<String>,
    /// The first attempt is over, whatever came of it.
    pub settled: bool,
}

/// What every source's task has.
pub(crate) struct Teller {
    pub(crate) own: Arc<OwnIdentity>,
    pub(crate) clock: Clock,
    pub(crate) pace: Pace,
    progress: watch::Sender<Progress>,
}

impl Follower {
    /// Needs a tokio runtime; waits for nothing.
    pub fn start(source: IdentitySource, own: Arc<OwnIdentity>, clock: Clock, pace: Pace) -> Self {
        let (progress, seen) = watch::channel(Progress::default());
        let teller = Teller { own: own.clone(), clock, pace, progress };
        let task = match source.clone() {
            IdentitySource::Files(files) => run(files, teller),
            IdentitySource::Authority(authority) => run(authority, teller),
            IdentitySource::WorkloadApi(socket) => run(source::workload_api(socket), teller),
        };
        Self { source, own, seen, task }
    }

    /// Whether it keeps this very identity fresh from this source.
    pub fn is_of(&self, source: &IdentitySource, own: &Arc<OwnIdentity>) -> bool {
        self.source == *source && Arc::ptr_eq(&self.own, own)
    }

    pub fn source(&self) -> &IdentitySource {
        &self.source
    }

    pub fn progress(&self) -> Progress {
        self.seen.borrow().clone()
    }

    /// For whoever makes something of each new identity.
    pub fn changes(&self) -> watch::Receiver<Progress> {
        self.seen.clone()
    }

    /// Returns when the first attempt is over, at the latest after `limit`.
    pub async fn settled(&self, limit: Duration) {
        let mut seen = self.seen.clone();
        let _ = tokio::time::timeout(limit, seen.wait_for(|progress| progress.settled)).await;
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Teller {
    /// Offers what was got, or tells why nothing was.
    pub(crate) fn tell(&self, outcome: Result<Svid, EnrolError>) -> Option<Offered> {
        let now = self.clock.now();
        match outcome {
            Ok(svid) => {
                let seconds = svid.seconds_to_expiry(now);
                let offered = self.own.offer(svid, now);
                if offered == Offered::Taken {
                    tracing::info!(id = %self.own.id(), seconds, "an identity was taken");
                }
                self.progress.send_modify(|progress| {
                    progress.taken = progress.taken.wrapping_add(u64::from(offered == Offered::Taken));
                    (progress.settled, progress.trouble) = (true, None);
                });
                Some(offered)
            }
            Err(error) => {
                let trouble = error.to_string();
                let seconds = self.own.current().map(|svid| svid.seconds_to_expiry(now));
                self.progress.send_modify(|progress| {
                    // Once when it begins or changes, not at every try.
                    if progress.trouble.as_ref() != Some(&trouble) {
                        tracing::warn!(id = %self.own.id(), trouble, ?seconds, "no new identity: the last one is kept");
                    }
                    (progress.settled, progress.trouble) = (true, Some(trouble));
                });
                None
            }
        }
    }

    /// Nothing is wrong, and nothing is new.
    pub(crate) fn well(&self) {
        self.progress.send_if_modified(|progress| {
            let was = progress.trouble.take();
            was.is_some() | !std::mem::replace(&mut progress.settled, true)
        });
    }
}

fn run(source: impl Source, teller: Teller) -> AbortHandle {
    tokio::spawn(source.follow(teller)).abort_handle()
}
