//! The gateway's own traffic as a signal: what is known of the endpoints of upstreams is told to the published services that
//! have them as members.

use portcullis_gslb::{Clocks, Endpoints, GatewayReport, Presence, Snapshot};
use portcullis_health::{Failure, HealthState};
use portcullis_names::{EndpointAddress, ObjectName};
use portcullis_ops::{OverloadState, Resource};
use portcullis_upstream::Clusters;
use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant},
};

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
        snapshot.tell_load(&told.member, Some(cluster.fullness()));
    }
}

/// What passed through all upstreams since the start, and what is under way.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Traffic {
    requests: u64,
    failures: u64,
    in_flight: u32,
}

pub(crate) fn traffic(clusters: &Clusters) -> Traffic {
    let endpoints = clusters.iter().flat_map(|cluster| cluster.endpoints.iter());
    endpoints.fold(Traffic::default(), |all, endpoint| Traffic {
        requests: all.requests.saturating_add(endpoint.state.requests()),
        failures: all.failures.saturating_add(endpoint.state.failures()),
        in_flight: all.in_flight.saturating_add(endpoint.state.active()),
    })
}

/// The share of failures in the traffic of the last while.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Gathered {
    begun: Option<(Traffic, Instant)>,
    in_flight: u32,
    /// Thousandths.
    errors: u16,
}

/// A share of fewer requests says little.
const GATHERED_FOR: Duration = Duration::from_secs(5);

impl Gathered {
    pub(crate) fn step(&mut self, traffic: Traffic, now: Instant) -> Self {
        self.in_flight = traffic.in_flight;
        let (before, at) = *self.begun.get_or_insert((traffic, now));
        if now.saturating_duration_since(at) >= GATHERED_FOR {
            // Endpoints that went took their counts along.
            let requests = traffic.requests.saturating_sub(before.requests).max(1);
            let failures = traffic.failures.saturating_sub(before.failures).min(requests);
            self.errors = u16::try_from(failures.saturating_mul(1_000) / requests).unwrap_or(1_000);
            self.begun = Some((traffic, now));
        }
        *self
    }
}

/// What this gateway says of itself. `connections`: open, and how many may be.
pub(crate) fn report(
    presence: Presence,
    connections: (u32, u32),
    overload: &OverloadState,
    gathered: Gathered,
) -> GatewayReport {
    let (open, most) = connections;
    let connected = f64::from(open) / f64::from(most.max(1));
    // Where nothing is watched, nobody said how much is too much.
    let used = Resource::ALL.into_iter().filter_map(|resource| {
        let state = overload.of(resource);
        Some(state.level.pressure? / state.threshold?.fraction().max(0.01))
    });
    let load = used.fold(connected, f64::max);
    let shed = Resource::ALL.into_iter().map(|resource| overload.of(resource).level.shed).fold(0.0, f64::max);
    // The casts saturate.
    let thousandths = |share: f64| (share * 1_000.0).round() as u16;
    GatewayReport {
        presence,
        load: Some(thousandths(load)),
        in_flight: gathered.in_flight,
        errors: gathered.errors,
        shed: thousandths(shed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_of_failures_is_that_of_the_last_while() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut gathered = Gathered::default();
        for (second, requests, failures, errors) in [
            (0, 1_000, 1_000, 0),
            (3, 1_100, 1_050, 0),
            (5, 1_200, 1_020, 100),
            (10, 1_300, 1_020, 0),
            (15, 1_300, 1_020, 0),
        ] {
            let traffic = Traffic { requests, failures, in_flight: 1 };
            assert_eq!(gathered.step(traffic, at(second)).errors, errors, "{second}");
        }
    }

    #[test]
    fn the_fullest_of_what_is_limited_is_the_load() {
        let mut overload = portcullis_ops::Shedding::new(portcullis_ops::Overload::OFF).state();
        let report = |overload: &OverloadState| report(Presence::Serving, (50, 100), overload, Gathered::default());
        assert_eq!((report(&overload).load, report(&overload).shed), (Some(500), 0));
        overload.cpu.threshold = Some(portcullis_names::Percent::from_whole(80));
        overload.cpu.level.pressure = Some(0.6);
        overload.cpu.level.shed = 0.02;
        assert_eq!((report(&overload).load, report(&overload).shed), (Some(750), 20));
    }
}
