//! How many at once.

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

/// At most so many permits at a time. Whoever gets none is refused at once: this is no queue.
#[derive(Debug, Clone)]
pub struct ConcurrencyLimit {
    max: NonZeroU32,
    taken: Arc<AtomicU32>,
}

/// One place, given back when dropped.
#[derive(Debug)]
#[must_use = "a permit that is dropped is given back"]
pub struct Permit(Arc<AtomicU32>);

impl ConcurrencyLimit {
    pub fn new(max: NonZeroU32) -> Self {
        Self { max, taken: Arc::default() }
    }

    /// After a reload: those who are inside count on, under the new maximum.
    pub fn carry_over(&mut self, previous: &Self) {
        self.taken = previous.taken.clone();
    }

    pub fn try_acquire(&self) -> Option<Permit> {
        let one_more = |taken: u32| (taken < self.max.get()).then_some(taken + 1);
        // Nothing else is published with the count.
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        Some(Permit(self.taken.clone()))
    }

    pub fn max(&self) -> NonZeroU32 {
        self.max
    }

    pub fn taken(&self) -> u32 {
        self.taken.load(Ordering::Relaxed)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(max: u32) -> ConcurrencyLimit {
        ConcurrencyLimit::new(NonZeroU32::new(max).unwrap())
    }

    #[test]
    fn a_permit_is_given_back_when_dropped() {
        let limit = limit(2);
        let (first, second) = (limit.try_acquire().unwrap(), limit.try_acquire().unwrap());
        assert!(limit.try_acquire().is_none());
        drop(first);
        assert!(limit.try_acquire().is_some());
        drop(second);
        assert_eq!(limit.taken(), 0);
    }

    #[test]
    fn those_inside_count_on_after_a_reload_under_the_new_maximum() {
        let before = limit(3);
        let held: Vec<_> = (0..3).map(|_| before.try_acquire().unwrap()).collect();
        let mut after = limit(1);
        after.carry_over(&before);
        assert!(after.try_acquire().is_none());
        drop(held);
        assert!(after.try_acquire().is_some());
    }

    #[test]
    fn never_more_than_the_maximum_from_many_threads() {
        let limit = limit(4);
        let most = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..2_000 {
                        let permit = limit.try_acquire();
                        if permit.is_some() {
                            most.fetch_max(limit.taken(), Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        assert!((1..=4).contains(&most.load(Ordering::Relaxed)));
        assert_eq!(limit.taken(), 0);
    }
}
