//! How many connections each client address holds: bounded by the number of connections themselves.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
};

/// Counts per address. An IPv6 client is its /64: one subscriber commands that many addresses (RFC 6177).
#[derive(Debug, Default)]
pub(crate) struct PerAddress {
    counts: [Mutex<HashMap<IpAddr, u32>>; SHARDS],
}

const SHARDS: usize = 16;

/// One counted connection; dropping it counts down.
#[derive(Debug)]
pub(crate) struct AddressPermit {
    table: Arc<PerAddress>,
    key: IpAddr,
}

impl PerAddress {
    /// `None`: the address has `most` already.
    pub(crate) fn admit(self: &Arc<Self>, address: IpAddr, most: u32) -> Option<AddressPermit> {
        let key = subscriber(address);
        let mut counts = self.shard(key).lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(key).or_insert(0);
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(AddressPermit { table: self.clone(), key })
    }

    fn shard(&self, key: IpAddr) -> &Mutex<HashMap<IpAddr, u32>> {
        let octet = match key {
            IpAddr::V4(v4) => v4.octets()[3],
            IpAddr::V6(v6) => v6.octets()[7],
        };
        &self.counts[usize::from(octet) % SHARDS]
    }
}

fn subscriber(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(u128::from(v6) & !u128::from(u64::MAX))),
    }
}

impl Drop for AddressPermit {
    fn drop(&mut self) {
        let mut counts = self.table.shard(self.key).lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut entry) = counts.entry(self.key) {
            if *entry.get() <= 1 {
                entry.remove();
            } else {
                *entry.get_mut() -= 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_is_held_to_its_share_and_gets_it_back() {
        let table = Arc::new(PerAddress::default());
        let a: IpAddr = "192.0.2.1".parse().unwrap();
        let first = table.admit(a, 2).unwrap();
        let _second = table.admit(a, 2).unwrap();
        assert!(table.admit(a, 2).is_none());
        assert!(table.admit("192.0.2.2".parse().unwrap(), 2).is_some());
        drop(first);
        assert!(table.admit(a, 2).is_some());
    }

    #[test]
    fn an_ipv6_subscriber_is_one_client() {
        let table = Arc::new(PerAddress::default());
        let _one = table.admit("2001:db8:1:2::1".parse().unwrap(), 1).unwrap();
        assert!(table.admit("2001:db8:1:2:ffff::9".parse().unwrap(), 1).is_none());
        assert!(table.admit("2001:db8:1:3::1".parse().unwrap(), 1).is_some());
        drop(_one);
        assert!(table.counts.iter().all(|shard| shard.lock().unwrap().is_empty()));
    }
}
