//! How much a caller may take of a destination: requests in a time, a budget of requests and octets, tunnels at once.
//!
//! [`QuotaPlan`] is what a destination says; [`Quotas`] are the counts of all destinations, made once and kept over reloads.
//! Each process counts for itself.

use crate::{CallerName, Destination, Reason, SharedBy, budget::Budget, destination_spec::DestinationSpec};
use portcullis_config::{Context, Path};
use portcullis_limit::{ConcurrencyLimit, Gcra, Key, KeyTable, Limit, Permit};
use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

/// The limits of one destination.
#[derive(Debug, Clone, Default)]
pub struct QuotaPlan {
    rate: Option<(Gcra, SharedBy)>,
    budget: Option<Budget>,
    tunnels: Option<(NonZeroU32, SharedBy)>,
}

/// What is refused for want of quota, and when to come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuotaRefusal {
    pub reason: Reason,
    pub retry_after: Duration,
}

/// One tunnel that is open, given back when dropped. `None` inside where the destination has no limit.
#[derive(Debug)]
#[must_use = "a tunnel's place that is dropped is given back"]
pub struct TunnelPlace(#[expect(dead_code, reason = "held for its drop")] Option<Permit>);

/// The counts of all callers and destinations.
#[derive(Debug)]
pub struct Quotas {
    rates: KeyTable<1>,
    requests: KeyTable<2>,
    octets: KeyTable<2>,
    tunnels: Mutex<HashMap<Key, ConcurrencyLimit>>,
}

/// Pairs of caller and destination that are counted at a time; beyond, those that spent least are forgotten. 2 to 3 MB a table.
const PAIRS_MAX: NonZeroU32 = NonZeroU32::new(100_000).expect("not zero");

impl QuotaPlan {
    pub(crate) fn counts_octets(&self) -> bool {
        self.budget.is_some()
    }

    /// Whether callers are counted at all, so that a caller needs a name.
    pub(crate) fn counts_callers(&self) -> bool {
        self.budget.is_some() || self.rate.is_some() || self.tunnels.is_some()
    }

    pub(crate) fn compile(spec: &DestinationSpec, at: &Path, cx: &mut Context) -> Self {
        let rate = spec.rate_limit.as_ref().and_then(|rate| {
            let at = at.key("rate_limit");
            let count = u32::try_from(rate.rate.count().get()).ok().and_then(NonZeroU32::new);
            let Some(burst) = rate.burst.or(count) else {
                cx.error(&at.key("rate"), format!("the count of the rate {} is above {}", rate.rate, u32::MAX))
                    .help("say how much may come at once as `burst`");
                return None;
            };
            let limit = Limit { rate: rate.rate, burst, cost: NonZeroU32::MIN };
            match Gcra::new(&limit) {
                Ok(gcra) => Some((gcra, rate.key.unwrap_or_default())),
                Err(unfit) => {
                    cx.error(&at, unfit.to_string());
                    None
                }
            }
        });
        let budget = spec.budget.as_ref().and_then(|budget| Budget::compile(budget, &at.key("budget"), cx));
        let tunnels = spec.tunnels.as_ref().map(|tunnels| (tunnels.max, tunnels.key.unwrap_or_default()));
        Self { rate, budget, tunnels }
    }
}

impl Quotas {
    /// `now` becomes the origin of their time.
    pub fn new(now: Instant) -> Self {
        Self {
            rates: KeyTable::new(PAIRS_MAX, now),
            requests: KeyTable::new(PAIRS_MAX, now),
            octets: KeyTable::new(PAIRS_MAX, now),
            tunnels: Mutex::default(),
        }
    }

    /// Counts one request, or one tunnel begun. `wall` tells the budget's window.
    pub fn admit(
        &self,
        destination: &Destination,
        caller: &CallerName,
        now: Instant,
        wall: SystemTime,
    ) -> Result<(), QuotaRefusal> {
        let plan = destination.quota();
        if let Some(budget) = &plan.budget {
            let key = key(destination, caller, budget.shared);
            // Octets first: what is used up there must not cost a request here.
            if let Some(meter) = budget.octets(0, wall)
                && !self.octets.check(&meter, &key, now).allowed
            {
                return Err(QuotaRefusal { reason: Reason::Quota, retry_after: budget.window_left(wall) });
            }
        }
        if let Some((gcra, shared)) = &plan.rate {
            let verdict = self.rates.check(gcra, &key(destination, caller, *shared), now);
            if !verdict.allowed {
                return Err(QuotaRefusal { reason: Reason::RateLimited, retry_after: verdict.retry_after });
            }
        }
        if let Some(budget) = &plan.budget
            && let Some(meter) = budget.requests(wall)
            && !self.requests.check(&meter, &key(destination, caller, budget.shared), now).allowed
        {
            return Err(QuotaRefusal { reason: Reason::Quota, retry_after: budget.window_left(wall) });
        }
        Ok(())
    }

    /// Counts octets that were moved. An error cuts the tunnel: the budget was used up by them.
    pub fn spend(
        &self,
        destination: &Destination,
        caller: &CallerName,
        octets: u64,
        now: Instant,
        wall: SystemTime,
    ) -> Result<(), Reason> {
        let Some(budget) = &destination.quota().budget else { return Ok(()) };
        let Some(meter) = budget.octets(octets, wall) else { return Ok(()) };
        let verdict = self.octets.check(&meter, &key(destination, caller, budget.shared), now);
        if verdict.allowed { Ok(()) } else { Err(Reason::Quota) }
    }

    /// A place for a tunnel, held as long as it is open.
    pub fn open_tunnel(&self, destination: &Destination, caller: &CallerName) -> Result<TunnelPlace, Reason> {
        let Some((max, shared)) = destination.quota().tunnels else { return Ok(TunnelPlace(None)) };
        let mut tunnels = self.tunnels.lock().unwrap_or_else(PoisonError::into_inner);
        let key = key(destination, caller, shared);
        if tunnels.len() >= PAIRS_MAX.get() as usize && !tunnels.contains_key(&key) {
            tunnels.retain(|_, limit| limit.taken() > 0);
            if tunnels.len() >= PAIRS_MAX.get() as usize {
                return Err(Reason::Tunnels);
            }
        }
        let limit = tunnels.entry(key).or_insert_with(|| ConcurrencyLimit::new(max));
        if limit.max() != max {
            let mut changed = ConcurrencyLimit::new(max);
            changed.carry_over(limit);
            *limit = changed;
        }
        limit.try_acquire().map(|permit| TunnelPlace(Some(permit))).ok_or(Reason::Tunnels)
    }
}

fn key(destination: &Destination, caller: &CallerName, shared: SharedBy) -> Key {
    let caller = match shared {
        SharedBy::Workload => Some(caller.as_str().as_bytes()),
        SharedBy::Destination => None,
    };
    [Some(destination.name().as_str().as_bytes()), caller].into_iter().collect()
}

#[cfg(test)]
mod tests;
