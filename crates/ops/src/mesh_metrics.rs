//! Calls between workloads, with both identities. Labels are ids of our own authority and names of the configuration; of those
//! only so many get series of their own.

use prometheus::{HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry};
use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// The families of one process.
#[derive(Debug)]
pub struct MeshMetrics {
    requests: IntCounterVec,
    request_seconds: HistogramVec,
    tunnels: IntCounterVec,
    bytes: IntCounterVec,
    refusals: IntCounterVec,
    rules: IntCounterVec,
    server_first: IntCounter,
    plain_fallbacks: IntCounter,
    identity_expiry: IntGauge,
    identities: IntCounterVec,
    /// Peers that have series.
    known: Mutex<HashSet<String>>,
}

/// Between whom, and how it is protected.
#[derive(Debug, Clone, Copy)]
pub struct MeshFlow<'f> {
    pub direction: &'f str,
    pub source: &'f str,
    pub destination: &'f str,
    pub security: &'f str,
}

const PEERS_MAX: usize = 500;
/// The label of those beyond.
const OTHER: &str = "other";
const SECONDS: [f64; 12] = [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0];

impl MeshMetrics {
    pub(crate) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let family = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(family.clone()))?;
            Ok::<_, prometheus::Error>(family)
        };
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let options = HistogramOpts::new("portcullis_mesh_request_seconds", "Time of requests between workloads.");
        let request_seconds =
            HistogramVec::new(options.buckets(SECONDS.to_vec()), &["direction", "source", "destination"])?;
        registry.register(Box::new(request_seconds.clone()))?;
        let identity_expiry = IntGauge::new(
            "portcullis_mesh_identity_expiry_seconds",
            "Seconds until this workload's certificate ends; negative once it has.",
        )?;
        registry.register(Box::new(identity_expiry.clone()))?;
        Ok(Self {
            requests: counters(
                "portcullis_mesh_requests_total",
                "Requests between workloads, by what the policy said and by status class.",
                &["direction", "source", "destination", "security", "verdict", "class"],
            )?,
            request_seconds,
            tunnels: counters(
                "portcullis_mesh_tunnels_total",
                "Streams of octets between workloads, by how they went.",
                &["direction", "source", "destination", "security", "outcome"],
            )?,
            bytes: counters(
                "portcullis_mesh_tunnel_bytes_total",
                "Octets of streams between workloads, seen from the caller.",
                &["direction", "source", "destination", "way"],
            )?,
            refusals: counters(
                "portcullis_mesh_refusals_total",
                "Connections and streams that were refused or failed, by reason.",
                &["direction", "reason"],
            )?,
            rules: counters(
                "portcullis_mesh_rule_total",
                "What access rules about services have decided, or would have.",
                &["rule", "outcome"],
            )?,
            server_first: counter(
                "portcullis_mesh_server_first_total",
                "Connections whose client was silent, so that its server was taken to speak first.",
            )?,
            plain_fallbacks: counter(
                "portcullis_mesh_plain_fallbacks_total",
                "Endpoints of permissive services that were found to have no sidecar.",
            )?,
            identity_expiry,
            identities: counters(
                "portcullis_mesh_identity_renewals_total",
                "Looks at the source of this workload's identity that found something, by what became of it.",
                &["outcome"],
            )?,
            known: Mutex::default(),
        })
    }

    pub fn request(&self, flow: &MeshFlow<'_>, verdict: &str, status: u16, took: Duration) {
        let (source, destination) = (self.capped(flow.source), self.capped(flow.destination));
        let class = match status {
            100..=199 => "1xx",
            200..=299 => "2xx",
            300..=399 => "3xx",
            400..=499 => "4xx",
            500..=599 => "5xx",
            _ => "none",
        };
        self.requests.with_label_values(&[flow.direction, source, destination, flow.security, verdict, class]).inc();
        self.request_seconds.with_label_values(&[flow.direction, source, destination]).observe(took.as_secs_f64());
    }

    /// `octets`: up and down.
    pub fn tunnel(&self, flow: &MeshFlow<'_>, outcome: &str, octets: (u64, u64)) {
        let (source, destination) = (self.capped(flow.source), self.capped(flow.destination));
        self.tunnels.with_label_values(&[flow.direction, source, destination, flow.security, outcome]).inc();
        for (way, count) in [("up", octets.0), ("down", octets.1)] {
            self.bytes.with_label_values(&[flow.direction, source, destination, way]).inc_by(count);
        }
    }

    pub fn refused(&self, direction: &str, reason: &str) {
        self.refusals.with_label_values(&[direction, reason]).inc();
    }

    pub fn rule(&self, rule: &str, outcome: &str) {
        self.rules.with_label_values(&[rule, outcome]).inc();
    }

    /// A rule that only reports has found what it would refuse.
    pub fn would_refuse(&self, rule: &str) {
        self.rule(rule, "would_refuse");
    }

    pub fn server_first(&self) {
        self.server_first.inc();
    }

    pub fn plain_fallback(&self) {
        self.plain_fallbacks.inc();
    }

    pub fn identity(&self, seconds_to_expiry: i64) {
        self.identity_expiry.set(seconds_to_expiry);
    }

    pub fn renewed(&self, outcome: &str) {
        self.identities.with_label_values(&[outcome]).inc();
    }

    fn capped<'l>(&self, label: &'l str) -> &'l str {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.contains(label) {
            return label;
        }
        if known.len() >= PEERS_MAX {
            return OTHER;
        }
        known.insert(label.to_owned());
        label
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(source: &str) -> MeshFlow<'_> {
        MeshFlow { direction: "inbound", source, destination: "api.acme.lab", security: "mtls" }
    }

    #[test]
    fn only_so_many_peers_get_series() {
        let metrics = MeshMetrics::new(&Registry::new()).unwrap();
        for number in 0..PEERS_MAX + 5 {
            let peer = format!("peer{number}.acme.lab");
            metrics.request(&flow(&peer), "allowed", 200, Duration::ZERO);
        }
        let counted = |source: &str| {
            metrics.requests.with_label_values(&["inbound", source, "api.acme.lab", "mtls", "allowed", "2xx"]).get()
        };
        assert_eq!(counted("peer0.acme.lab"), 1);
        // One of the names is the destination's.
        assert_eq!(counted(OTHER), 6);
        metrics.tunnel(&flow("one.more"), "finished", (1, 2));
        assert_eq!(metrics.bytes.with_label_values(&["inbound", OTHER, "api.acme.lab", "down"]).get(), 2);
    }
}
