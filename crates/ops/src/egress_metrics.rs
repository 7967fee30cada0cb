//! What leaves by the egress gateway, by destination. Labels are names of the configuration or of closed sets; of the names
//! only so many get series of their own.

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};
use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

/// The families of one process.
#[derive(Debug)]
pub struct EgressMetrics {
    flows: IntCounterVec,
    refusals: IntCounterVec,
    bytes: IntCounterVec,
    tunnels: IntGaugeVec,
    rules: IntCounterVec,
    ejected: IntGaugeVec,
    /// Destinations that have series.
    known: Mutex<HashSet<String>>,
}

/// One open tunnel; dropping it counts down.
#[derive(Debug)]
pub struct OpenTunnel(IntGauge);

/// A document with thousands of destinations is possible; a monitoring system that takes all their series may not be.
const DESTINATIONS_MAX: usize = 1_000;
/// The label of those beyond.
const OTHER: &str = "other";
/// The label of what belongs to no destination.
const NONE: &str = "none";

impl EgressMetrics {
    pub(crate) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let family = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(family.clone()))?;
            Ok::<_, prometheus::Error>(family)
        };
        let tunnels = IntGaugeVec::new(
            Opts::new("portcullis_egress_tunnels_active", "Tunnels that are open."),
            &["destination"],
        )?;
        registry.register(Box::new(tunnels.clone()))?;
        let ejected = IntGaugeVec::new(
            Opts::new(
                "portcullis_egress_addresses_ejected",
                "Addresses of hosts that are left alone for what they did.",
            ),
            &["destination"],
        )?;
        registry.register(Box::new(ejected.clone()))?;
        Ok(Self {
            flows: counters(
                "portcullis_egress_flows_total",
                "Requests and tunnels that wanted out: allowed, reported (let through, and would be denied) or refused.",
                &["destination", "kind", "outcome"],
            )?,
            refusals: counters(
                "portcullis_egress_refusals_total",
                "Requests and tunnels that were refused or cut, by reason.",
                &["destination", "reason"],
            )?,
            bytes: counters(
                "portcullis_egress_bytes_total",
                "Octets of tunnels and of bodies, seen from the caller.",
                &["destination", "direction"],
            )?,
            rules: counters(
                "portcullis_egress_rule_total",
                "What a rule of [access] decided: all (applied), and what it let through on report (would_deny).",
                &["rule", "what"],
            )?,
            tunnels,
            ejected,
            known: Mutex::default(),
        })
    }

    /// `kind` and `outcome` are of closed sets.
    pub fn flow(&self, destination: Option<&str>, kind: &'static str, outcome: &'static str) {
        self.flows.with_label_values(&[self.label(destination), kind, outcome]).inc();
    }

    /// `reason` is of a closed set: `portcullis_egress::Reason::as_str` or `portcullis_policy::Reason::as_str`.
    pub fn refused(&self, destination: Option<&str>, reason: &str) {
        self.refusals.with_label_values(&[self.label(destination), reason]).inc();
    }

    pub fn moved(&self, destination: Option<&str>, up: u64, down: u64) {
        let (up_counter, down_counter) = self.byte_counters(destination);
        up_counter.inc_by(up);
        down_counter.inc_by(down);
    }

    fn byte_counters(&self, destination: Option<&str>) -> (IntCounter, IntCounter) {
        let label = self.label(destination);
        (self.bytes.with_label_values(&[label, "up"]), self.bytes.with_label_values(&[label, "down"]))
    }

    pub fn tunnel_opened(&self, destination: Option<&str>) -> OpenTunnel {
        let gauge = self.tunnels.with_label_values(&[self.label(destination)]);
        gauge.inc();
        OpenTunnel(gauge)
    }

    /// What a rule counted since it came to be; told before each scrape.
    pub fn rule(&self, rule: &str, applied: u64, would_deny: u64) {
        for (what, count) in [("applied", applied), ("would_deny", would_deny)] {
            let counter = self.rules.with_label_values(&[rule, what]);
            counter.inc_by(count.saturating_sub(counter.get()));
        }
    }

    /// What is ejected now, of each destination; told before each scrape.
    pub fn ejected<'d>(&self, destinations: impl Iterator<Item = (&'d str, usize)>) {
        self.ejected.reset();
        for (destination, addresses) in destinations {
            // Beyond the limit they share a series, which has the sum of theirs.
            let gauge = self.ejected.with_label_values(&[self.label(Some(destination))]);
            gauge.add(i64::try_from(addresses).unwrap_or(i64::MAX));
        }
    }

    fn label<'d>(&self, destination: Option<&'d str>) -> &'d str {
        let Some(name) = destination else { return NONE };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.contains(name) {
            return name;
        }
        if known.len() >= DESTINATIONS_MAX {
            return OTHER;
        }
        known.insert(name.to_owned());
        name
    }
}

impl Drop for OpenTunnel {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_so_many_destinations_get_series() {
        let metrics = EgressMetrics::new(&Registry::new()).unwrap();
        for number in 0..DESTINATIONS_MAX + 5 {
            metrics.flow(Some(&format!("d{number}")), "tunnel", "allowed");
        }
        assert_eq!(metrics.flows.with_label_values(&["other", "tunnel", "allowed"]).get(), 5);
        assert_eq!(metrics.flows.with_label_values(&["d0", "tunnel", "allowed"]).get(), 1);
        metrics.flow(None, "tunnel", "refused");
        assert_eq!(metrics.flows.with_label_values(&["none", "tunnel", "refused"]).get(), 1);
    }

    #[test]
    fn what_is_ejected_is_told_anew_each_time() {
        let metrics = EgressMetrics::new(&Registry::new()).unwrap();
        metrics.ejected([("a", 2), ("b", 1)].into_iter());
        metrics.ejected([("a", 1)].into_iter());
        assert_eq!(metrics.ejected.with_label_values(&["a"]).get(), 1);
        assert_eq!(metrics.ejected.with_label_values(&["b"]).get(), 0);
    }

    #[test]
    fn a_tunnel_counts_while_it_is_open() {
        let metrics = EgressMetrics::new(&Registry::new()).unwrap();
        let open = metrics.tunnel_opened(Some("a"));
        assert_eq!(metrics.tunnels.with_label_values(&["a"]).get(), 1);
        drop(open);
        assert_eq!(metrics.tunnels.with_label_values(&["a"]).get(), 0);
    }
}
