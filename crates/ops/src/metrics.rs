//! Every metric there is. Handles are resolved when a configuration is compiled, so that the data path only adds to atomics;
//! label values come from the configuration or from closed sets, never from a client.

pub use crate::mesh_metrics::MeshFlow;
use crate::{EgressMetrics, MeshMetrics, OverloadMetrics, PrivacyMetrics};
use prometheus::{
    Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry, TextEncoder, core::Collector,
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// The metrics of one process (or of one test: nothing here is global).
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    connections: IntCounterVec,
    connections_active: IntGaugeVec,
    connections_refused: IntCounterVec,
    handshakes: IntCounterVec,
    handshakes_failed: IntCounterVec,
    bytes: IntCounterVec,
    requests: IntCounterVec,
    request_seconds: HistogramVec,
    requests_active: IntGaugeVec,
    refusals: IntCounterVec,
    attempts: IntCounterVec,
    retries: IntCounterVec,
    upstream_seconds: HistogramVec,
    endpoint_requests: IntCounterVec,
    endpoint_active: IntGaugeVec,
    ejections: IntCounterVec,
    endpoint_up: IntGaugeVec,
    endpoint_failures: IntCounterVec,
    reloads: IntCounterVec,
    generation: IntGauge,
    certificate_expiry: IntGaugeVec,
    access_log_dropped: IntCounter,
    mirrors: IntCounterVec,
    store_failures: IntCounterVec,
    inspected: IntCounterVec,
    shadowed: IntCounterVec,
    uninspected: IntCounterVec,
    violations: IntCounterVec,
    slo_budget: GaugeVec,
    slo_burn: GaugeVec,
    rollout_share: GaugeVec,
    rollout_state: IntGaugeVec,
    limit_refused: IntCounterVec,
    limit_keys: IntGaugeVec,
    resident: Gauge,
    pub overload: OverloadMetrics,
    pub privacy: PrivacyMetrics,
    pub egress: EgressMetrics,
    pub mesh: MeshMetrics,
    listeners: Mutex<HashMap<String, Arc<ListenerMetrics>>>,
}

/// Roughly exponential, from what a lane takes to what a patient client waits.
const SECONDS: [f64; 16] =
    [0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0];

impl Metrics {
    #[expect(clippy::expect_used, reason = "names and labels are constants, checked by the test below")]
    pub fn new() -> Self {
        let registry = Registry::new();
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let family = IntCounterVec::new(Opts::new(name, help), labels).expect("a valid family");
            registry.register(Box::new(family.clone())).expect("a name used once");
            family
        };
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            let family = IntGaugeVec::new(Opts::new(name, help), labels).expect("a valid family");
            registry.register(Box::new(family.clone())).expect("a name used once");
            family
        };
        let fractions = |name: &str, help: &str, labels: &[&str]| {
            let family = GaugeVec::new(Opts::new(name, help), labels).expect("a valid family");
            registry.register(Box::new(family.clone())).expect("a name used once");
            family
        };
        let histograms = |name: &str, help: &str, labels: &[&str]| {
            let options = HistogramOpts::new(name, help).buckets(SECONDS.to_vec());
            let family = HistogramVec::new(options, labels).expect("a valid family");
            registry.register(Box::new(family.clone())).expect("a name used once");
            family
        };
        let generation = IntGauge::new("portcullis_config_generation", "Number of the configuration that serves.")
            .expect("a valid name");
        registry.register(Box::new(generation.clone())).expect("a name used once");
        let access_log_dropped = IntCounter::new(
            "portcullis_access_log_dropped_total",
            "Records dropped because the log's writer was behind or could not write.",
        )
        .expect("a valid name");
        registry.register(Box::new(access_log_dropped.clone())).expect("a name used once");
        let resident = Gauge::new("portcullis_process_resident_memory_bytes", "Memory of the process that is in RAM.")
            .expect("a valid name");
        registry.register(Box::new(resident.clone())).expect("a name used once");
        Self {
            connections: counters("portcullis_connections_total", "Connections accepted.", &["listener"]),
            connections_active: gauges("portcullis_connections_active", "Connections open now.", &["listener"]),
            connections_refused: counters(
                "portcullis_connections_refused_total",
                "Connections turned away before HTTP.",
                &["listener", "cause"],
            ),
            handshakes: counters(
                "portcullis_tls_handshakes_total",
                "TLS handshakes completed.",
                &["listener", "version", "resumed"],
            ),
            handshakes_failed: counters(
                "portcullis_tls_handshakes_failed_total",
                "TLS handshakes that failed.",
                &["listener", "cause"],
            ),
            bytes: counters(
                "portcullis_connection_bytes_total",
                "Octets of HTTP on client connections.",
                &["listener", "direction"],
            ),
            requests: counters("portcullis_requests_total", "Requests answered, by status class.", &["route", "class"]),
            requests_active: gauges("portcullis_requests_active", "Requests being served now.", &["route"]),
            refusals: counters(
                "portcullis_refusals_total",
                "Requests and connections ended by us, by reason.",
                &["reason"],
            ),
            attempts: counters("portcullis_upstream_attempts_total", "Tries at endpoints.", &["upstream"]),
            retries: counters("portcullis_upstream_retries_total", "Tries after the first.", &["upstream"]),
            endpoint_up: gauges("portcullis_endpoint_up", "Whether an endpoint is up.", &["upstream", "endpoint"]),
            endpoint_failures: counters(
                "portcullis_endpoint_failures_total",
                "Tries that failed.",
                &["upstream", "endpoint"],
            ),
            overload: OverloadMetrics::new(&registry).expect("names used once"),
            privacy: PrivacyMetrics::new(&registry).expect("a name used once"),
            egress: EgressMetrics::new(&registry).expect("names used once"),
            mesh: MeshMetrics::new(&registry).expect("names used once"),
            reloads: counters("portcullis_config_reloads_total", "Reloads by outcome.", &["outcome"]),
            certificate_expiry: gauges(
                "portcullis_certificate_expiry_seconds",
                "When a certificate expires, in seconds since 1970.",
                &["certificate"],
            ),
            slo_budget: fractions(
                "portcullis_slo_error_budget_left",
                "Fraction of an objective's error budget that is left; below zero when overspent.",
                &["slo"],
            ),
            slo_burn: fractions(
                "portcullis_slo_burn_rate",
                "How many times faster than allowed the budget went, by window in seconds.",
                &["slo", "window"],
            ),
            rollout_share: fractions(
                "portcullis_rollout_share",
                "Fraction of the requests that go to the new version.",
                &["rollout"],
            ),
            rollout_state: gauges("portcullis_rollout_state", "1 for the state it is in.", &["rollout", "state"]),
            inspected: counters(
                "portcullis_waf_transactions_total",
                "Exchanges that the WAF looked at: passed, matched (and let through) or blocked.",
                &["waf", "outcome"],
            ),
            shadowed: counters(
                "portcullis_waf_shadow_total",
                "Exchanges that a shadow rule set saw: same, other_rules, stricter, laxer or undecided.",
                &["waf", "shadow", "outcome"],
            ),
            uninspected: counters(
                "portcullis_waf_cut_total",
                "Exchanges of which the WAF did not see everything, by what.",
                &["waf", "cut"],
            ),
            violations: counters(
                "portcullis_api_violations_total",
                "Differences from an API's document: which kind, and what was done about it.",
                &["route", "api", "kind", "action"],
            ),
            store_failures: counters(
                "portcullis_store_failures_total",
                "Requests that a store gave no answer about.",
                &["store", "cause"],
            ),
            limit_refused: counters(
                "portcullis_rate_limit_total",
                "Requests over a rate limit (refused, or shadowed), and keys that it forgot too early (evicted).",
                &["limit", "what"],
            ),
            limit_keys: gauges("portcullis_rate_limit_keys", "Keys that a rate limit counts now.", &["limit"]),
            mirrors: counters("portcullis_mirrored_requests_total", "Copies by outcome.", &["outcome"]),
            request_seconds: histograms(
                "portcullis_request_duration_seconds",
                "From the request's head to the end of its response.",
                &["route"],
            ),
            upstream_seconds: histograms(
                "portcullis_upstream_duration_seconds",
                "From a try's begin to the head of its response.",
                &["upstream"],
            ),
            endpoint_requests: counters(
                "portcullis_endpoint_requests_total",
                "Tries at an endpoint.",
                &["upstream", "endpoint"],
            ),
            endpoint_active: gauges(
                "portcullis_endpoint_requests_active",
                "Requests that an endpoint works on.",
                &["upstream", "endpoint"],
            ),
            ejections: counters(
                "portcullis_endpoint_ejections_total",
                "Times that an endpoint's answers took it out of use.",
                &["upstream", "endpoint", "reason"],
            ),
            generation,
            access_log_dropped,
            resident,
            registry,
            listeners: Mutex::default(),
        }
    }

    /// The handles of a listener; the same ones for the same name.
    pub fn listener(&self, name: &str) -> Arc<ListenerMetrics> {
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        let handles = listeners.entry(name.to_owned()).or_insert_with(|| {
            Arc::new(ListenerMetrics {
                name: name.to_owned(),
                total: self.connections.with_label_values(&[name]),
                active: self.connections_active.with_label_values(&[name]),
                bytes_in: self.bytes.with_label_values(&[name, "in"]),
                bytes_out: self.bytes.with_label_values(&[name, "out"]),
                refused: self.connections_refused.clone(),
                handshakes: self.handshakes.clone(),
                handshakes_failed: self.handshakes_failed.clone(),
                refusals: self.refusals.clone(),
            })
        });
        handles.clone()
    }

    pub fn route(&self, name: &str) -> RouteMetrics {
        let class = |class: &str| self.requests.with_label_values(&[name, class]);
        RouteMetrics {
            classes: [class("1xx"), class("2xx"), class("3xx"), class("4xx"), class("5xx")],
            seconds: self.request_seconds.with_label_values(&[name]),
            active: self.requests_active.with_label_values(&[name]),
        }
    }

    pub fn upstream(&self, name: &str) -> UpstreamMetrics {
        UpstreamMetrics {
            attempts: self.attempts.with_label_values(&[name]),
            retries: self.retries.with_label_values(&[name]),
            seconds: self.upstream_seconds.with_label_values(&[name]),
        }
    }

    pub fn endpoint(&self, upstream: &str, address: &str) -> EndpointMetrics {
        let labels = &[upstream, address];
        EndpointMetrics {
            up: self.endpoint_up.with_label_values(labels),
            requests: self.endpoint_requests.with_label_values(labels),
            active: self.endpoint_active.with_label_values(labels),
            ejections: self.ejections.clone(),
            labels: [upstream.to_owned(), address.to_owned()],
            failures: self.endpoint_failures.with_label_values(labels),
        }
    }

    /// Drops the series of endpoints that are configured no more.
    pub fn forget_endpoint(&self, upstream: &str, address: &str) {
        let labels = &[upstream, address];
        // An error says that there was no such series.
        let _ = self.endpoint_up.remove_label_values(labels);
        let _ = self.endpoint_failures.remove_label_values(labels);
        let _ = self.endpoint_requests.remove_label_values(labels);
        let _ = self.endpoint_active.remove_label_values(labels);
        for reason in self.ejection_reasons(upstream, address) {
            let _ = self.ejections.remove_label_values(&[upstream, address, &reason]);
        }
    }

    /// Those for which this endpoint was ever ejected.
    fn ejection_reasons(&self, upstream: &str, address: &str) -> Vec<String> {
        let families = self.ejections.collect();
        let each = families.iter().flat_map(|family| family.get_metric()).filter_map(|metric| {
            let label =
                |name: &str| metric.get_label().iter().find(|label| label.name() == name).map(|label| label.value());
            let is_its = label("upstream") == Some(upstream) && label("endpoint") == Some(address);
            label("reason").filter(|_| is_its).map(str::to_owned)
        });
        each.collect()
    }

    /// `outcome` is from a closed set.
    pub fn inspected(&self, waf: &str, outcome: &str) {
        self.inspected.with_label_values(&[waf, outcome]).inc();
    }

    /// How a rule set that only looks on compares with the one that decides; `outcome` is from a closed set.
    pub fn shadowed(&self, waf: &str, shadow: &str, outcome: &str) {
        self.shadowed.with_label_values(&[waf, shadow, outcome]).inc();
    }

    /// `cut` is from a closed set.
    pub fn uninspected(&self, waf: &str, cut: &str) {
        self.uninspected.with_label_values(&[waf, cut]).inc();
    }

    /// `kind` and `action` are from closed sets.
    pub fn violated(&self, route: &str, api: &str, kind: &str, action: &str) {
        self.violations.with_label_values(&[route, api, kind, action]).inc();
    }

    pub fn objective(&self, slo: &str, budget_left: f64) {
        self.slo_budget.with_label_values(&[slo]).set(budget_left);
    }

    pub fn burn(&self, slo: &str, window_seconds: u64, burn: f64) {
        self.slo_burn.with_label_values(&[slo, &window_seconds.to_string()]).set(burn);
    }

    /// `states` is a closed set: `StateKind::ALL`; each with whether it is the one.
    pub fn rollout<'s>(&self, rollout: &str, share: f64, states: impl Iterator<Item = (&'s str, bool)>) {
        self.rollout_share.with_label_values(&[rollout]).set(share);
        for (state, is_it) in states {
            self.rollout_state.with_label_values(&[rollout, state]).set(i64::from(is_it));
        }
    }

    /// `cause` is from a closed set: `StoreError::as_str`.
    pub fn store_failed(&self, store: &str, cause: &str) {
        self.store_failures.with_label_values(&[store, cause]).inc();
    }

    /// What a rate limit has counted since it came to be; told before each scrape.
    pub fn rate_limit(&self, limit: &str, counts: [(&str, u64); 3], keys: usize) {
        for (what, count) in counts {
            let counter = self.limit_refused.with_label_values(&[limit, what]);
            counter.inc_by(count.saturating_sub(counter.get()));
        }
        self.limit_keys.with_label_values(&[limit]).set(i64::try_from(keys).unwrap_or(i64::MAX));
    }

    /// `reason` is from a closed set: `Reason::as_str`, `Refusal::as_str`, `H2Abuse::as_str`.
    pub fn refused(&self, reason: &str) {
        self.refusals.with_label_values(&[reason]).inc();
    }

    pub fn reloaded(&self, outcome: &str, generation: u64) {
        self.reloads.with_label_values(&[outcome]).inc();
        self.generation.set(i64::try_from(generation).unwrap_or(i64::MAX));
    }

    pub fn certificate(&self, name: &str, not_after: i64) {
        self.certificate_expiry.with_label_values(&[name]).set(not_after);
    }

    pub fn mirrored(&self, outcome: &str) {
        self.mirrors.with_label_values(&[outcome]).inc();
    }

    pub(crate) fn log_dropped(&self) -> &IntCounter {
        &self.access_log_dropped
    }

    /// For parts of the process that declare metrics of their own.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The text exposition format.
    pub fn render(&self) -> String {
        self.resident.set(resident_bytes().unwrap_or(0.0));
        let mut text = Vec::new();
        match TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            Ok(()) => String::from_utf8_lossy(&text).into_owned(),
            Err(error) => format!("# metrics cannot be rendered: {error}\n"),
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// From `/proc/self/statm`, in pages of 4 KiB.
fn resident_bytes() -> Option<f64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: f64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * 4096.0)
}

/// What connections of one listener count.
#[derive(Debug)]
pub struct ListenerMetrics {
    name: String,
    total: IntCounter,
    active: IntGauge,
    bytes_in: IntCounter,
    bytes_out: IntCounter,
    refused: IntCounterVec,
    handshakes: IntCounterVec,
    handshakes_failed: IntCounterVec,
    refusals: IntCounterVec,
}

impl ListenerMetrics {
    pub fn connection_opened(&self) {
        self.total.inc();
        self.active.inc();
    }

    pub fn connection_closed(&self) {
        self.active.dec();
    }

    pub fn connection_refused(&self, cause: &'static str) {
        self.refused.with_label_values(&[self.name.as_str(), cause]).inc();
    }

    pub fn handshake_done(&self, version: &'static str, resumed: bool) {
        let resumed = if resumed { "yes" } else { "no" };
        self.handshakes.with_label_values(&[self.name.as_str(), version, resumed]).inc();
    }

    pub fn handshake_failed(&self, cause: &'static str) {
        self.handshakes_failed.with_label_values(&[self.name.as_str(), cause]).inc();
    }

    pub fn bytes_in(&self, octets: u64) {
        self.bytes_in.inc_by(octets);
    }

    pub fn bytes_out(&self, octets: u64) {
        self.bytes_out.inc_by(octets);
    }

    pub fn abuse(&self, reason: &'static str) {
        self.refusals.with_label_values(&[reason]).inc();
    }
}

/// What requests of one rule count.
#[derive(Debug, Clone)]
pub struct RouteMetrics {
    classes: [IntCounter; 5],
    seconds: Histogram,
    active: IntGauge,
}

/// One request that is being served.
#[derive(Debug)]
#[must_use = "a request that is dropped is over"]
pub struct ActiveRequest(IntGauge);

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl RouteMetrics {
    /// Counted as being served until the value is dropped, however that comes about.
    pub fn began(&self) -> ActiveRequest {
        self.active.inc();
        ActiveRequest(self.active.clone())
    }

    /// Statuses outside 100 to 599 never left the process.
    pub fn ended(&self, status: u16, took: Duration) {
        self.seconds.observe(took.as_secs_f64());
        if let Some(class) = usize::from(status / 100).checked_sub(1).and_then(|class| self.classes.get(class)) {
            class.inc();
        }
    }
}

#[derive(Debug, Clone)]
pub struct UpstreamMetrics {
    attempts: IntCounter,
    retries: IntCounter,
    seconds: Histogram,
}

impl UpstreamMetrics {
    pub fn attempt(&self) {
        self.attempts.inc();
    }

    pub fn retry(&self) {
        self.retries.inc();
    }

    pub fn answered(&self, took: Duration) {
        self.seconds.observe(took.as_secs_f64());
    }
}

#[derive(Debug, Clone)]
pub struct EndpointMetrics {
    up: IntGauge,
    failures: IntCounter,
    requests: IntCounter,
    active: IntGauge,
    ejections: IntCounterVec,
    labels: [String; 2],
}

impl EndpointMetrics {
    pub fn up(&self, up: bool) {
        self.up.set(i64::from(up));
    }

    pub fn failed(&self) {
        self.failures.inc();
    }

    /// `reason` is from a closed set: `EjectReason::as_str`.
    pub fn ejected(&self, reason: &str) {
        let [upstream, endpoint] = &self.labels;
        self.ejections.with_label_values(&[upstream.as_str(), endpoint, reason]).inc();
    }

    /// Takes over what the balancer counts anyway: done when somebody looks, not per request.
    pub fn sync(&self, requests: u64, active: u32) {
        self.requests.inc_by(requests.saturating_sub(self.requests.get()));
        self.active.set(i64::from(active));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_that_is_gone_leaves_no_series() {
        let metrics = Metrics::new();
        for (upstream, address) in [("shop", "10.0.0.1:80"), ("shop", "10.0.0.2:80"), ("cart", "10.0.0.1:80")] {
            let endpoint = metrics.endpoint(upstream, address);
            endpoint.up(true);
            endpoint.failed();
            endpoint.sync(3, 1);
            endpoint.ejected("consecutive_5xx");
            endpoint.ejected("trial");
        }
        let series = || -> Vec<String> {
            let text = metrics.render();
            text.lines().filter(|line| line.contains("endpoint=")).map(str::to_owned).collect()
        };
        let before = series();
        metrics.forget_endpoint("shop", "10.0.0.1:80");
        let its = |line: &&String| line.contains("\"shop\"") && line.contains("\"10.0.0.1:80\"");
        let expected: Vec<_> = before.iter().filter(|line| !its(line)).cloned().collect();
        assert_eq!((before.len(), expected.len()), (18, 12));
        assert_eq!(series(), expected);
    }

    #[test]
    fn every_family_can_be_made_and_rendered() {
        let metrics = Metrics::new();
        metrics.listener("https").connection_opened();
        drop(metrics.route("shop/api").began());
        metrics.route("shop/api").ended(204, Duration::from_millis(3));
        metrics.refused("bare_lf");
        let text = metrics.render();
        for line in [
            "portcullis_connections_active{listener=\"https\"} 1",
            "portcullis_requests_total{class=\"2xx\",route=\"shop/api\"} 1",
            "portcullis_requests_active{route=\"shop/api\"} 0",
            "portcullis_refusals_total{reason=\"bare_lf\"} 1",
            "portcullis_request_duration_seconds_bucket{route=\"shop/api\",le=\"0.005\"} 1",
        ] {
            assert!(text.lines().any(|have| have == line), "{line} in\n{text}");
        }
    }
}
