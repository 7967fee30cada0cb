//! The addresses of each host that is asked for, balanced and judged as an upstream's endpoints are, under the policy of the
//! host's destination. Made when first needed and forgotten when not needed any more; what is known of an address outlives
//! new answers of the name servers and reloads.

use crate::{Checked, Target};
use portcullis_health::{EjectReason, HealthState};
use portcullis_names::{EndpointAddress, ObjectName};
use portcullis_upstream::Cluster;
use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// The pools of all destinations, for the life of the process.
#[derive(Debug, Default)]
pub struct Pools(Mutex<HashMap<ObjectName, HashMap<Target, Kept>>>);

#[derive(Debug)]
struct Kept {
    pool: Arc<Cluster>,
    /// What it was made from; another one is a new configuration.
    policy: Arc<Cluster>,
    used: Instant,
    judged: Instant,
}

/// Of one destination. Wildcards let callers choose names: beyond it, what rests is forgotten.
const HOSTS_MAX: usize = 4_096;
/// Longer than the longest ejection by default.
const RESTS: Duration = Duration::from_secs(600);

/// An address that was left alone for what it did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ejected {
    pub destination: ObjectName,
    pub address: EndpointAddress,
    pub reason: EjectReason,
}

impl Pools {
    /// `policy` over `addresses`, in their order.
    pub fn of(&self, policy: &Arc<Cluster>, target: &Target, addresses: &[Checked], now: Instant) -> Arc<Cluster> {
        let sought = || addresses.iter().map(|checked| checked.socket_address());
        let mut pools = self.lock();
        let known = pools.get_mut(&policy.name).and_then(|hosts| hosts.get_mut(target));
        let previous = match known {
            Some(kept) if Arc::ptr_eq(&kept.policy, policy) && kept.pool.is_over(sought()) => {
                kept.used = now;
                return kept.pool.clone();
            }
            Some(kept) => Some(kept.pool.clone()),
            None => None,
        };
        let sought: Vec<SocketAddr> = sought().collect();
        let pool = Arc::new(policy.over(&sought, previous.as_deref(), now));
        let hosts = pools.entry(policy.name.clone()).or_default();
        if hosts.len() >= HOSTS_MAX && !hosts.contains_key(target) {
            hosts.retain(|_, kept| now.saturating_duration_since(kept.used) < RESTS);
            // All in use at once: what was learned of them is learned anew.
            if hosts.len() >= HOSTS_MAX {
                hosts.clear();
            }
        }
        let kept = Kept { pool: pool.clone(), policy: policy.clone(), used: now, judged: now };
        hosts.insert(target.clone(), kept);
        pool
    }

    /// Compares the addresses of each host at the end of each of its policy's intervals; gives those that fall out, and forgets
    /// destinations that `is_known` knows no more.
    pub fn judge(&self, is_known: impl Fn(&ObjectName) -> bool, now: Instant) -> Vec<Ejected> {
        let mut ejected = Vec::new();
        let mut pools = self.lock();
        pools.retain(|destination, _| is_known(destination));
        for (destination, hosts) in pools.iter_mut() {
            for kept in hosts.values_mut() {
                if now.saturating_duration_since(kept.judged) < kept.pool.outlier.interval {
                    continue;
                }
                kept.judged = now;
                for (index, reason) in kept.pool.judge_interval(now) {
                    let address = kept.pool.endpoints.get(index).map(|endpoint| endpoint.address.clone());
                    ejected.extend(address.map(|address| Ejected {
                        destination: destination.clone(),
                        address,
                        reason,
                    }));
                }
            }
        }
        ejected
    }

    /// How many addresses of each destination are left alone now.
    pub fn ejected(&self, now: Instant) -> Vec<(ObjectName, usize)> {
        let pools = self.lock();
        let of = |kept: &Kept| {
            let states = kept.pool.endpoints.iter().map(|endpoint| endpoint.state.state(now));
            states.filter(|state| *state == HealthState::Ejected).count()
        };
        pools.iter().map(|(destination, hosts)| (destination.clone(), hosts.values().map(of).sum())).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ObjectName, HashMap<Target, Kept>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
