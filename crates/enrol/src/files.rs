//! Files that somebody else renews.

use crate::{EnrolError, follower::Teller, source::Source};
use portcullis_config::Watcher;
use portcullis_mesh::SvidFiles;

impl Source for SvidFiles {
    async fn follow(self, teller: Teller) {
        let all = [&self.chain, &self.key, &self.bundle].into_iter().chain(&self.revoked).cloned();
        // It remembers what the files hold before we read them: a change in between is news.
        let mut watcher = Watcher::new(all.collect());
        let mut failures: u32 = 0;
        loop {
            let (read, own, now) = (self.clone(), teller.own.id().clone(), teller.clock.now());
            // It fails only while the runtime shuts down.
            let Ok(read) = tokio::task::spawn_blocking(move || read.read(&own, now)).await else { return };
            let taken = teller.tell(read.map_err(EnrolError::from));
            if taken.is_some() {
                failures = 0;
                watcher.changed().await;
                continue;
            }
            // What cannot be taken now may be good later though no file changes: a certificate of the next second, say.
            failures = failures.saturating_add(1);
            tokio::select! {
                _ = watcher.changed() => {}
                () = tokio::time::sleep(teller.pace.pause(failures, fastrand::u64(..))) => {}
            }
        }
    }
}
