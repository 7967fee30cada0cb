//! The gateway's own traffic as a signal: what is known of the endpoints of upstreams is told to the published services that
//! have them as members.

use portcullis_gslb::{Clocks, Endpoints, Snapshot};
use portcullis_health::{Failure, HealthState};
use portcullis_names::{EndpointAddress, ObjectName};
use portcullis_upstream::Clusters;
use std::{collections::BTreeMap, net::IpAddr, time::Instant};

/// Addresses that a site can take over from each upstream, in the order written. `serving` are the upstreams that serve now:
/// what discovery has found is with them.
pub(crate) fn addresses(clusters: &Clusters, serving: Option<&Clusters>) -> BTreeMap<ObjectName, Endpoints> {
    let each = clusters.iter().map(|cluster| {
        let mut addresses: Vec<IpAddr> = Vec::new();
        let now = serving.and_then(|serving| serving.find(cluster.name.as_str()));
        let now = now.map(|(_, now)| now).filter(|now| cluster.source.is_some() && now.source == cluster.source);
        for endpoint in now.unwrap_or(cluster).endpoints.iter() {
            if let EndpointAddress::Ip(address) = &endpoint.address
                && !addresses.contains(&address.ip())
            {
                addresses.push(address.ip());
            }
        }
        // In a fixed order: another one would be another zone to secondaries.
        let endpoints = match cluster.source {
            None => Endpoints::Written(addresses),
            Some(_) => {
                addresses.sort_unstable();
                Endpoints::Found(addresses)
            }
        };
        (cluster.name.clone(), endpoints)
    });
    each.collect()
}

/// Whether a published service has members that discovery finds.
pub(crate) fn follow_discovery(snapshot: &Snapshot, clusters: &Clusters) -> bool {
    let found = |upstream: &ObjectName| clusters.find(upstream.as_str()).is_some_and(|(_, c)| c.source.is_some());
    snapshot.upstreams().any(found)
}

/// Tells the states of this moment.
pub(crate) fn tell(snapshot: &Snapshot, clusters: &Clusters, clocks: Clocks) {
    for told in snapshot.told() {
        let Some((_, cluster)) = clusters.find(told.upstream.as_str()) else { continue };
        let (_, _, address) = &told.member;
        let own = |endpoint: &EndpointAddress| matches!(endpoint, EndpointAddress::Ip(own) if own.ip() == *address);
        let states = cluster.endpoints.iter().filter(|endpoint| own(&endpoint.address));
        let states: Vec<_> = states.map(|endpoint| (endpoint, endpoint.state.state(Instant::now()))).collect();
        // One address may have several endpoints: it serves while one of them does.
        let usable = states.iter().filter(|(_, state)| state.is_usable());
        let outcome = match usable.map(|(_, state)| *state).max_by_key(|state| *state != HealthState::Unknown) {
            // No probe has ended yet: nothing is known, and nothing is told.
            Some(HealthState::Unknown) if cluster.health_check.is_some() => continue,
            Some(_) => Ok(()),
            None => {
                let failure = states.iter().find_map(|(endpoint, _)| endpoint.state.health().last_failure());
                Err(failure.unwrap_or(Failure::Told))
            }
        };
        snapshot.observe(&told.member, outcome, clocks);
    }
}
