//! Addresses that whoever calls has resolved and checked itself, balanced and judged as the endpoints of an upstream are.
//!
//! Nothing is resolved or probed here. Egress keeps one such pool for each host of a destination.

use crate::{Cluster, Clusters, Surroundings, UpstreamSpec};
use portcullis_config::{Context, Path};
use portcullis_discover::Found;
use portcullis_names::{EndpointAddress, ObjectName};
use std::{net::SocketAddr, sync::Arc, time::Instant};

impl Clusters {
    /// Upstreams without endpoints, whose policy [`Cluster::over`] puts over addresses. Their counts go on from
    /// `around.previous`, which is what this gave before.
    pub fn policies<'s>(
        specs: impl IntoIterator<Item = (&'s ObjectName, &'s UpstreamSpec, Path)>,
        around: Surroundings<'_>,
        cx: &mut Context,
    ) -> Self {
        let mut policies = Self::default();
        for (name, spec, at) in specs {
            policies.by_name.insert(name.to_string(), policies.clusters.len());
            policies.clusters.push(Arc::new(Cluster::compile(name, spec, around, &at, cx)));
        }
        policies
    }
}

impl Cluster {
    /// This policy over `addresses`, in their order. Those that were in `previous` go on with all that is known of them.
    pub fn over(&self, addresses: &[SocketAddr], previous: Option<&Self>, now: Instant) -> Self {
        let found: Vec<Found> = addresses.iter().map(found).collect();
        self.with_found(&found, previous, now)
    }

    /// Whether these are its endpoints, in this order.
    pub fn is_over(&self, addresses: impl ExactSizeIterator<Item = SocketAddr>) -> bool {
        self.endpoints.len() == addresses.len()
            && self.endpoints.iter().zip(addresses).all(|(own, address)| own.address == EndpointAddress::Ip(address))
    }
}

fn found(address: &SocketAddr) -> Found {
    Found { priority: 0, address: EndpointAddress::Ip(*address), weight: 1, zone: None, host: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{NotPicked, Tried, Wish};
    use portcullis_health::{EjectReason, TryOutcome};
    use std::collections::BTreeMap;

    fn policy(json: &str) -> Arc<Cluster> {
        let name: ObjectName = "stripe".parse().unwrap();
        let spec: UpstreamSpec = serde_json::from_str(json).unwrap();
        let mut cx = Context::default();
        let resolvers = portcullis_discover::Resolvers::compile(&BTreeMap::new(), &mut cx);
        let around = Surroundings {
            certificates: &portcullis_tls::Certificates::default(),
            trusts: &portcullis_tls::Trusts::default(),
            resolvers: &resolvers,
            connect_timeout: std::time::Duration::from_secs(1),
            zone: None,
            previous: None,
            made_tls: &BTreeMap::new(),
            now: Instant::now(),
        };
        let policies = Clusters::policies([(&name, &spec, Path::root())], around, &mut cx);
        assert!(!cx.report().has_errors(), "{:?}", cx.report().lines());
        policies.get(0).unwrap().clone()
    }

    fn addresses(last: &[u8]) -> Vec<SocketAddr> {
        last.iter().map(|last| SocketAddr::from(([192, 0, 2, *last], 443))).collect()
    }

    #[test]
    fn what_is_known_of_an_address_outlives_a_new_answer_of_the_name_server() {
        let now = Instant::now();
        let policy = policy(r#"{"outlier":{"consecutive_connect":1,"max_ejected":"100%"}}"#);
        let first = policy.over(&addresses(&[1, 2]), None, now);
        assert!(first.is_over(addresses(&[1, 2]).into_iter()));
        assert!(!first.is_over(addresses(&[2, 1]).into_iter()) && !first.is_over(addresses(&[1]).into_iter()));
        let mut tried = Tried::default();
        let pick = first.pick(Wish::plain(0, now), &mut tried).unwrap();
        let bad = pick.index;
        assert_eq!(first.record(&pick, TryOutcome::NotConnected, now), Some(EjectReason::ConsecutiveConnect));
        drop(pick);
        let second = policy.over(&addresses(&[3, 2, 1]), Some(&first), now);
        let out = 2 - bad;
        for draw in 0..200_u64 {
            let draw = draw.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let pick = second.pick(Wish::plain(draw, now), &mut Tried::default()).unwrap();
            assert_ne!(pick.index, out);
        }
    }

    #[test]
    fn a_breaker_is_the_destinations_and_not_each_hosts() {
        let now = Instant::now();
        let policy = policy(r#"{"circuit_breaker":{"requests":1}}"#);
        let (one, other) = (policy.over(&addresses(&[1]), None, now), policy.over(&addresses(&[2]), None, now));
        let held = one.pick(Wish::plain(0, now), &mut Tried::default()).unwrap();
        let refused = other.pick(Wish::plain(0, now), &mut Tried::default());
        assert_eq!(refused.unwrap_err(), NotPicked::Overflow);
        drop(held);
        assert!(other.pick(Wish::plain(0, now), &mut Tried::default()).is_ok());
    }
}
