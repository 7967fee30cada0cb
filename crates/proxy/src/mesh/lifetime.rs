//! How long a connection between workloads may live: as long as the certificates that it was opened by.
//!
//! Nobody is told anew on an open connection that a certificate has followed another, so one that outlived its certificates
//! would outlive a peer's being taken out of the mesh. It goes in good order before: new requests and streams are sent elsewhere
//! while those under way end.

use std::time::{Duration, SystemTime};
use tokio::time::{Instant, sleep_until};

/// Of one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lifetime {
    retires: Instant,
    ends: Instant,
}

/// The last tenth of its life is for leaving, and of a long life no more than this.
const LEAVE: Duration = Duration::from_secs(30);

impl Lifetime {
    /// Until the first of the certificates is over.
    pub(crate) fn until(ends: SystemTime, now: SystemTime, moment: Instant) -> Self {
        let left = ends.duration_since(now).unwrap_or_default();
        let leave = (left / 10).min(LEAVE);
        Self { retires: moment + (left - leave), ends: moment + left }
    }

    /// Nothing new is to begin on it.
    pub(crate) fn is_retiring(&self, moment: Instant) -> bool {
        self.retires <= moment
    }

    pub(crate) async fn retires(self) {
        sleep_until(self.retires).await;
    }

    /// What is under way is cut.
    pub(crate) async fn ends(self) {
        sleep_until(self.ends).await;
    }
}

/// The moment as X.509 has it: seconds since 1970.
pub(super) fn at(seconds: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_leaves_before_its_certificate_is_over() {
        let (now, moment) = (SystemTime::now(), Instant::now());
        for (left, retires, ends) in [(100, 90, 100), (86_400, 86_370, 86_400), (0, 0, 0)] {
            let life = Lifetime::until(now + Duration::from_secs(left), now, moment);
            let after = |seconds| moment + Duration::from_secs(seconds);
            assert_eq!((life.retires, life.ends), (after(retires), after(ends)), "{left}");
            assert!(life.is_retiring(after(retires)));
            assert_eq!(life.is_retiring(moment), left == 0);
        }
        // One that was over before it began.
        let life = Lifetime::until(now - Duration::from_secs(5), now, moment);
        assert!(life.is_retiring(moment));
    }
}
