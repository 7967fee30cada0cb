//! What is published anew without a reload: endpoints that discovery found, DNS that was fetched, releases that moved on.

use super::Gateway;
use crate::{
    Compiled,
    compile::{self, Refused},
    dns_listeners::OpenedDns,
    dns_signals,
};
use portcullis_config::{Colour, Report};
use portcullis_discover::Source;
use portcullis_gslb::{Clocks, Presence};
use portcullis_proxy::Peers;
use std::{
    sync::{Arc, PoisonError},
    time::Instant,
};

impl Gateway {
    /// Serves what discovery has found by now. Nothing but the endpoints changes.
    pub(super) fn take_in_found(&self) {
        let mut state = self.state();
        let found = |source: &Source| state.discovery.snapshot(source);
        let Some(clusters) = state.compiled.clusters.with_found(found, None, Instant::now()) else { return };
        let clusters = Arc::new(clusters);
        let compiled = Compiled { clusters: clusters.clone(), ..(*state.compiled).clone() };
        let mesh = self.0.edge.snapshot().mesh.clone();
        let peers = Peers::new(&clusters, &self.0.edge.metrics, mesh.as_deref());
        self.0.edge.publish(Arc::new(self.0.edge.snapshot().with_clusters(clusters, peers)));
        state.compiled = Arc::new(compiled);
        self.follow(&mut state);
    }

    /// Takes what discovery has found over into published services.
    pub(super) fn republish_found(&self) {
        let follows = {
            let state = self.state();
            let snapshot = state.dns.snapshot();
            snapshot.is_some_and(|snapshot| dns_signals::follow_discovery(&snapshot, &state.compiled.clusters))
        };
        if follows {
            self.republish_dns();
        }
    }

    /// Serves DNS from what is known by now: a zone was fetched, endpoints were found. The document is the one that serves,
    /// nothing else changes.
    pub(super) fn republish_dns(&self) {
        let _alone = self.0.reloading.lock().unwrap_or_else(PoisonError::into_inner);
        let running = self.compiled();
        match compile::compile(running.document.clone(), Report::default(), Some(&running)) {
            Ok(Compiled { dns, .. }) => {
                let state = &mut *self.state();
                let (hash, nothing) = (running.document.hash(), OpenedDns::nothing());
                if !state.draining
                    && let Err(error) = state.dns.apply(dns.as_ref(), hash, nothing, &self.0.edge.metrics)
                {
                    tracing::error!(%error, "a part of DNS cannot be started");
                }
                state.compiled = Arc::new(Compiled { dns, ..(*state.compiled).clone() });
            }
            Err(Refused { report, .. }) => {
                let report = report.render(Colour::Plain);
                tracing::error!(
                    "a fetched zone is not served, because the configuration does not compile now:\n{report}"
                );
            }
        }
    }

    /// One step of all releases, and of what a fleet is told of this node's traffic.
    pub(super) fn move_releases(&self) {
        let state = &mut *self.state();
        state.releases.tick(&state.compiled, &self.0.edge.metrics);
        if let Some(snapshot) = state.dns.snapshot() {
            let clocks = Clocks::read();
            dns_signals::tell(&snapshot, &state.compiled.clusters, clocks);
            if snapshot.fleet(clocks).is_some() {
                let presence = if state.draining { Presence::Draining } else { Presence::Serving };
                let open = (self.0.edge.open_connections(), state.compiled.max_connections);
                let traffic = dns_signals::traffic(&state.compiled.clusters);
                let gathered = state.gathered.step(traffic, clocks.instant);
                snapshot.report(dns_signals::report(presence, open, &self.0.edge.shedding.state(), gathered));
                state.dns.orders.follow(&snapshot, clocks);
            }
        }
    }
}
