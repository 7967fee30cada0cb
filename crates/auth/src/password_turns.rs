//! How many passwords are checked at once, and how many wait for that. All cores checking passwords would serve nothing
//! else, and after a reload every client's password is checked anew.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Hands out turns; blocks the thread that waits for one.
#[derive(Debug)]
pub(crate) struct PasswordTurns {
    counts: Mutex<Counts>,
    freed: Condvar,
    checking_max: usize,
}

#[derive(Debug, Default)]
struct Counts {
    checking: usize,
    waiting: usize,
}

/// One check; dropping it lets the next one begin.
#[derive(Debug)]
pub(crate) struct PasswordTurn<'t>(&'t PasswordTurns);

/// At 30 ms a check, the last of them waits a second on a machine of four cores. Whoever comes after is refused.
const WAITING_MAX: usize = 64;

impl PasswordTurns {
    pub(crate) fn new(checking_max: usize) -> Self {
        Self { counts: Mutex::default(), freed: Condvar::new(), checking_max: checking_max.max(1) }
    }

    /// `None` when too many wait already.
    pub(crate) fn take(&self) -> Option<PasswordTurn<'_>> {
        let mut counts = self.counts();
        if counts.checking >= self.checking_max {
            if counts.waiting >= WAITING_MAX {
                return None;
            }
            counts.waiting = counts.waiting.saturating_add(1);
            let full = |counts: &mut Counts| counts.checking >= self.checking_max;
            counts = self.freed.wait_while(counts, full).unwrap_or_else(PoisonError::into_inner);
            counts.waiting = counts.waiting.saturating_sub(1);
        }
        counts.checking = counts.checking.saturating_add(1);
        Some(PasswordTurn(self))
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        // Each change leaves the counts right, so one that panicked left them right too.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for PasswordTurn<'_> {
    fn drop(&mut self) {
        let mut counts = self.0.counts();
        counts.checking = counts.checking.saturating_sub(1);
        drop(counts);
        self.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn few_check_some_wait_and_the_rest_is_refused() {
        let turns = PasswordTurns::new(2);
        let (peak, now) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let held = [turns.take().unwrap(), turns.take().unwrap()];
        std::thread::scope(|scope| {
            for _ in 0..WAITING_MAX {
                scope.spawn(|| {
                    let _turn = turns.take().unwrap();
                    peak.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    std::thread::yield_now();
                    now.fetch_sub(1, Ordering::SeqCst);
                });
            }
            while turns.counts().waiting < WAITING_MAX {
                std::thread::yield_now();
            }
            assert!(turns.take().is_none());
            drop(held);
        });
        assert!(peak.load(Ordering::SeqCst) <= 2);
        let counts = turns.counts();
        assert_eq!((counts.checking, counts.waiting), (0, 0));
    }
}
