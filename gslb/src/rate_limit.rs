//! Response rate limiting: how many like replies one network gets (the amplification bar). One fixed table a thread; no clock.

use crate::{answer::ReplyKind, edns::masked};
use portcullis_names::{Cidr, CidrSet};
use std::{
    hash::{BuildHasher, Hash, RandomState},
    net::IpAddr,
};

/// `[dns.rate_limit]` with every value settled.
#[derive(Debug, Clone)]
pub(crate) struct RateLimitPlan {
    pub(crate) mode: RateLimitMode,
    /// Like replies a second for one /24 or /56.
    pub(crate) per_second: u32,
    /// Of the replies over the rate, every n-th is sent truncated, so that a real client can come by TCP.
    pub(crate) slip: u32,
    pub(crate) exempt: CidrSet,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RateLimitMode {
    On,
    Off,
}

/// What is done with a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limited {
    Send,
    /// Truncated and empty: costs a forger's victim no more than the query did.
    Slip,
    Drop,
}

/// Buckets of one thread.
#[derive(Debug)]
pub(crate) struct RateLimit {
    sets: Vec<[Bucket; WAYS]>,
    hasher: RandomState,
}

#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    /// Zero: never used.
    key: u64,
    /// Thousandths of a reply that may still be sent.
    credit: u32,
    /// Milliseconds at the last look.
    seen: u32,
    over: u32,
}

/// RFC 7871 §11.1 and common practice of response rate limits.
const V4_PREFIX: u8 = 24;
const V6_PREFIX: u8 = 56;
const WAYS: usize = 4;
/// 4096 sets of 4 buckets are 320 KiB a thread.
const SETS: usize = 4_096;

impl RateLimitPlan {
    pub(crate) fn exempt(prefixes: &[Cidr]) -> CidrSet {
        CidrSet::new(prefixes)
    }
}

impl RateLimit {
    pub(crate) fn new() -> Self {
        Self { sets: vec![[Bucket::default(); WAYS]; SETS], hasher: RandomState::new() }
    }

    /// `like` is what makes replies alike: the name of a positive answer, the zone of a negative one. `now` in milliseconds.
    pub(crate) fn check(
        &mut self,
        plan: &RateLimitPlan,
        client: IpAddr,
        kind: ReplyKind,
        like: impl Hash,
        now: u32,
    ) -> Limited {
        if plan.mode == RateLimitMode::Off || plan.exempt.contains(client) {
            return Limited::Send;
        }
        let network = masked(client, if client.is_ipv4() { V4_PREFIX } else { V6_PREFIX });
        // A hash of secret seed: nobody can choose networks that share a bucket.
        let key = self.hasher.hash_one((network, kind, like)).max(1);
        let set = (key >> 32) as usize % SETS;
        let Some(set) = self.sets.get_mut(set) else { return Limited::Send };
        let full = plan.per_second.saturating_mul(1_000);
        let place = match set.iter().position(|bucket| bucket.key == key) {
            Some(place) => place,
            None => {
                let oldest = set.iter().enumerate().max_by_key(|(_, bucket)| now.wrapping_sub(bucket.seen));
                let place = oldest.map_or(0, |(place, _)| place);
                let place = set.iter().position(|bucket| bucket.key == 0).unwrap_or(place);
                if let Some(bucket) = set.get_mut(place) {
                    *bucket = Bucket { key, credit: full, seen: now, over: 0 };
                }
                place
            }
        };
        let Some(bucket) = set.get_mut(place) else { return Limited::Send };
        // `per_second` replies in a thousand milliseconds are `per_second` thousandths in each.
        let earned = now.wrapping_sub(bucket.seen).saturating_mul(plan.per_second);
        bucket.credit = bucket.credit.saturating_add(earned).min(full);
        bucket.seen = now;
        if let Some(credit) = bucket.credit.checked_sub(1_000) {
            bucket.credit = credit;
            return Limited::Send;
        }
        bucket.over = bucket.over.wrapping_add(1);
        if plan.slip > 0 && bucket.over.is_multiple_of(plan.slip) { Limited::Slip } else { Limited::Drop }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> RateLimitPlan {
        RateLimitPlan {
            mode: RateLimitMode::On,
            per_second: 5,
            slip: 2,
            exempt: RateLimitPlan::exempt(&["10.0.0.0/8".parse().unwrap()]),
        }
    }

    fn ask(limit: &mut RateLimit, client: &str, like: &str, now: u32) -> Limited {
        limit.check(&plan(), client.parse().unwrap(), ReplyKind::Positive, like, now)
    }

    #[test]
    fn a_network_gets_its_rate_and_every_second_reply_over_it_truncated() {
        let mut limit = RateLimit::new();
        for _ in 0..5 {
            assert_eq!(ask(&mut limit, "192.0.2.1", "a", 0), Limited::Send);
        }
        assert_eq!(ask(&mut limit, "192.0.2.200", "a", 0), Limited::Drop);
        assert_eq!(ask(&mut limit, "192.0.2.1", "a", 0), Limited::Slip);
        assert_eq!(ask(&mut limit, "192.0.2.1", "b", 0), Limited::Send, "another name");
        assert_eq!(ask(&mut limit, "192.0.3.1", "a", 0), Limited::Send, "another network");
        assert_eq!(ask(&mut limit, "192.0.2.1", "a", 200), Limited::Send, "a fifth of a second later");
        assert_eq!(ask(&mut limit, "192.0.2.1", "a", 200), Limited::Drop);
    }

    #[test]
    fn who_is_exempt_is_never_limited() {
        let mut limit = RateLimit::new();
        assert!((0..100).all(|_| ask(&mut limit, "10.1.2.3", "a", 0) == Limited::Send));
    }

    #[test]
    fn many_networks_do_not_grow_the_table() {
        let mut limit = RateLimit::new();
        for network in 0..100_000u32 {
            let client = IpAddr::V4((network << 8).into());
            assert_eq!(limit.check(&plan(), client, ReplyKind::Error, "", network), Limited::Send);
        }
        assert_eq!(limit.sets.len(), SETS);
    }
}
