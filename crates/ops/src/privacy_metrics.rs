//! Which route leaks what: one counter for each place where personal data was found.

use prometheus::{IntCounterVec, Opts, Registry, core::Collector};
use serde::Serialize;

/// Label values come from the configuration and from closed sets, never from what was found.
#[derive(Debug)]
pub struct PrivacyMetrics {
    findings: IntCounterVec,
}

/// One entry of the map.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Leak {
    pub route: String,
    pub detector: String,
    /// request or response
    pub direction: String,
    /// url, header or body
    pub part: String,
    pub action: String,
    pub count: u64,
}

const LABELS: [&str; 5] = ["route", "detector", "direction", "part", "action"];

impl PrivacyMetrics {
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let what = "Personal data found: where, and what was done about it.";
        let findings = IntCounterVec::new(Opts::new("portcullis_privacy_findings_total", what), &LABELS)?;
        registry.register(Box::new(findings.clone()))?;
        Ok(Self { findings })
    }

    pub fn found(&self, route: &str, detector: &str, direction: &str, part: &str, action: &str, count: u32) {
        self.findings.with_label_values(&[route, detector, direction, part, action]).inc_by(u64::from(count));
    }

    /// Everything found since the process began, in order.
    pub fn leaks(&self) -> Vec<Leak> {
        let families = self.findings.collect();
        let each = families.iter().flat_map(|family| family.get_metric()).map(|metric| {
            let label = |name: &str| {
                let label = metric.get_label().iter().find(|label| label.name() == name);
                label.map(|label| label.value().to_owned()).unwrap_or_default()
            };
            Leak {
                route: label("route"),
                detector: label("detector"),
                direction: label("direction"),
                part: label("part"),
                action: label("action"),
                count: metric.get_counter().get_value() as u64,
            }
        });
        let mut leaks: Vec<_> = each.collect();
        leaks.sort();
        leaks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_has_an_entry_for_each_place() {
        let metrics = PrivacyMetrics::new(&Registry::new()).unwrap();
        metrics.found("shop", "iban", "response", "body", "mask", 2);
        metrics.found("shop", "card", "request", "url", "log", 1);
        metrics.found("shop", "iban", "response", "body", "mask", 3);
        let leaks = metrics.leaks();
        assert_eq!(leaks.len(), 2);
        assert_eq!((leaks[0].detector.as_str(), leaks[0].count), ("card", 1));
        assert_eq!((leaks[1].detector.as_str(), leaks[1].count), ("iban", 5));
    }
}
