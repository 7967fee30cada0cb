//! What was resolved, and for how long that is believed. Pure: `now` is an argument.
//!
//! Whoever owns a name chooses its TTL; with a TTL of zero and answers that alternate, every look is a fresh throw of the
//! dice. The least time keeps the answer that was checked the one that is dialled; the greatest keeps a move in sight.

use crate::{DnsName, Reason};
use std::{
    collections::HashMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

/// Addresses, or why there are none.
pub(crate) type Answer = Result<Arc<[IpAddr]>, Reason>;

#[derive(Debug, Default)]
pub(crate) struct DnsCache(HashMap<DnsName, Entry>);

#[derive(Debug)]
struct Entry {
    answer: Answer,
    until: Instant,
}

const TTL_MIN: Duration = Duration::from_secs(5);
const TTL_MAX: Duration = Duration::from_secs(300);
/// Of names that do not exist: long enough to stop a storm, short enough for who has just made the name.
const NEGATIVE_TTL: Duration = Duration::from_secs(10);
/// Of name servers that fail.
const FAILURE_TTL: Duration = Duration::from_secs(2);
const NAMES_MAX: usize = 10_000;
/// Of one answer; more help nobody.
pub(crate) const ADDRESSES_MAX: usize = 32;

impl DnsCache {
    pub(crate) fn get(&self, name: &DnsName, now: Instant) -> Option<Answer> {
        self.0.get(name).filter(|entry| now < entry.until).map(|entry| entry.answer.clone())
    }

    pub(crate) fn put(&mut self, name: &DnsName, answer: Answer, ttl: Duration, now: Instant) {
        if self.0.len() >= NAMES_MAX && !self.0.contains_key(name) {
            self.make_room(now);
        }
        let believed = match &answer {
            Ok(_) => ttl.clamp(TTL_MIN, TTL_MAX),
            Err(Reason::NameUnknown) => NEGATIVE_TTL,
            Err(_) => FAILURE_TTL,
        };
        let until = now.checked_add(believed).unwrap_or(now);
        self.0.insert(name.clone(), Entry { answer, until });
    }

    /// What is over goes; if nothing is, what would be over first.
    fn make_room(&mut self, now: Instant) {
        self.0.retain(|_, entry| now < entry.until);
        if self.0.len() >= NAMES_MAX
            && let Some(first) = self.0.iter().min_by_key(|(_, entry)| entry.until).map(|(name, _)| name.clone())
        {
            self.0.remove(&first);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Host;

    fn name(text: &str) -> DnsName {
        Host::parse(text).unwrap().name().unwrap().clone()
    }

    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn answers_are_believed_within_bounds() {
        let start = start();
        let good: Answer = Ok(["8.8.8.8".parse().unwrap()].into());
        for (answer, ttl, believed) in [
            (good.clone(), 0, 5),
            (good.clone(), 60, 60),
            (good.clone(), 86_400, 300),
            (Err(Reason::NameUnknown), 86_400, 10),
            (Err(Reason::ResolveFailed), 86_400, 2),
            (Err(Reason::ResolveTimeout), 0, 2),
        ] {
            let mut cache = DnsCache::default();
            cache.put(&name("a.test"), answer.clone(), Duration::from_secs(ttl), start);
            let at = |seconds: u64| cache.get(&name("a.test"), start + Duration::from_secs(seconds));
            assert_eq!((at(0), at(believed - 1), at(believed)), (Some(answer.clone()), Some(answer), None), "{ttl}");
        }
    }

    #[test]
    fn the_cache_has_an_end() {
        let (start, mut cache) = (start(), DnsCache::default());
        for n in 0..(NAMES_MAX + 100) {
            let later = start + Duration::from_millis(n as u64 % 1_000);
            cache.put(&name(&format!("n{n}.test")), Err(Reason::NameUnknown), Duration::ZERO, later);
        }
        assert_eq!(cache.0.len(), NAMES_MAX);
        cache.put(&name("last.test"), Err(Reason::NameUnknown), Duration::ZERO, start + Duration::from_secs(60));
        assert_eq!(cache.0.len(), 1);
    }
}
