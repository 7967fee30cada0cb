//! Which addresses of which hosts chose HTTP/1.1 when they could have had h2: the next request does not ask them again so soon.

use portcullis_egress::Target;
use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// What is remembered, for the life of the process.
#[derive(Debug, Default)]
pub(crate) struct Spoken(Mutex<HashMap<(Target, SocketAddr), Instant>>);

/// A server that learns h2 is found out after so long.
const KEPT: Duration = Duration::from_secs(600);
/// Wildcards let callers choose hosts.
const KEPT_MAX: usize = 4_096;

impl Spoken {
    pub(crate) fn is_h1(&self, target: &Target, address: SocketAddr, now: Instant) -> bool {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let told = known.get(&(target.clone(), address));
        told.is_some_and(|told| now.saturating_duration_since(*told) < KEPT)
    }

    pub(crate) fn chose_h1(&self, target: Target, address: SocketAddr, now: Instant) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KEPT_MAX {
            known.retain(|_, told| now.saturating_duration_since(*told) < KEPT);
            // All of them fresh: one more handshake for each is what forgetting costs.
            if known.len() >= KEPT_MAX {
                known.clear();
            }
        }
        known.insert((target, address), now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_chosen_is_remembered_for_a_while_and_for_so_many() {
        let (spoken, start) = (Spoken::default(), Instant::now());
        let target = |host: &str| Target::parse(&format!("{host}:443")).unwrap();
        let address = SocketAddr::from(([8, 8, 8, 8], 443));
        spoken.chose_h1(target("a.example"), address, start);
        assert!(spoken.is_h1(&target("a.example"), address, start));
        assert!(!spoken.is_h1(&target("b.example"), address, start));
        assert!(!spoken.is_h1(&target("a.example"), SocketAddr::from(([8, 8, 4, 4], 443)), start));
        assert!(!spoken.is_h1(&target("a.example"), address, start + KEPT));
        for number in 0..KEPT_MAX {
            spoken.chose_h1(target(&format!("n{number}.example")), address, start);
        }
        assert!(spoken.0.lock().unwrap().len() <= KEPT_MAX);
    }
}
