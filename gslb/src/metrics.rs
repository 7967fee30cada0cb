//! Every metric of the DNS server. Label values come from the configuration or from closed sets.

use crate::{
    answer::{Reply, Transport, Truncated},
    rate_limit::Limited,
    record_type::{Rcode, RecordType},
    snapshot::Snapshot,
    steer::MemberStatus,
};
use prometheus::{IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry};
use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

/// The metrics of one server.
#[derive(Debug)]
pub struct DnsMetrics {
    /// By transport and code: resolved once, so that a query only adds to an atomic.
    answers: Vec<Vec<IntCounter>>,
    zones: IntCounterVec,
    services: IntCounterVec,
    /// In the order of `TYPES`.
    types: Vec<IntCounter>,
    other_types: IntCounter,
    truncated: IntCounter,
    ignored: Vec<IntCounter>,
    slipped: IntCounter,
    dropped: IntCounter,
    panics: IntCounter,
    transfers: IntCounter,
    connections_refused: IntCounter,
    members: IntGaugeVec,
    held: IntGaugeVec,
    /// Members that have a series.
    shown: Mutex<HashSet<[String; 3]>>,
}

/// Types that have a label of their own.
const TYPES: [RecordType; 12] = [
    RecordType::A,
    RecordType::AAAA,
    RecordType::HTTPS,
    RecordType::SVCB,
    RecordType::NS,
    RecordType::SOA,
    RecordType::MX,
    RecordType::TXT,
    RecordType::CNAME,
    RecordType::DS,
    RecordType::DNSKEY,
    RecordType::ANY,
];

impl DnsMetrics {
    /// Declares the metrics in `registry`. Fails when a name is taken.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let family = |name: &str, help: &str, labels: &[&str]| {
            let family = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(family.clone()))?;
            Ok::<_, prometheus::Error>(family)
        };
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            let family = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(family.clone()))?;
            Ok::<_, prometheus::Error>(family)
        };
        let one = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let answers = family(
            "portcullis_dns_answers_total",
            "Queries answered, by transport and code.",
            &["transport", "rcode"],
        )?;
        let by_code = |transport: &Transport| {
            let codes = Rcode::ALL.iter();
            codes.map(|code| answers.with_label_values(&[transport.as_str(), code.as_str()])).collect()
        };
        let types = family("portcullis_dns_questions_total", "Questions, by type.", &["type"])?;
        let ignored = family("portcullis_dns_ignored_total", "Messages that got no reply.", &["transport"])?;
        let limited = family("portcullis_dns_rate_limited_total", "Replies over a client's rate.", &["outcome"])?;
        Ok(Self {
            answers: Transport::ALL.iter().map(by_code).collect(),
            zones: family("portcullis_dns_zone_answers_total", "Answers from a zone, by code.", &["zone", "rcode"])?,
            services: family(
                "portcullis_dns_service_answers_total",
                "Answers of a published service, by code.",
                &["service", "rcode"],
            )?,
            types: TYPES.iter().map(|t| types.with_label_values(&[t.to_string().as_str()])).collect(),
            other_types: types.with_label_values(&["other"]),
            truncated: one("portcullis_dns_truncated_total", "Replies that were too large for UDP.")?,
            ignored: Transport::ALL.iter().map(|t| ignored.with_label_values(&[t.as_str()])).collect(),
            slipped: limited.with_label_values(&["slipped"]),
            dropped: limited.with_label_values(&["dropped"]),
            transfers: one("portcullis_dns_transfers_total", "Zones given to secondaries.")?,
            panics: one("portcullis_dns_panics_total", "Queries that met a defect of the server.")?,
            connections_refused: one("portcullis_dns_connections_refused_total", "Streams over a cap.")?,
            members: gauges(
                "portcullis_dns_member_up",
                "Whether a member of a published service is up.",
                &["service", "site", "member"],
            )?,
            held: gauges(
                "portcullis_dns_service_withdrawals_held",
                "Whether more members fell than max_withdraw allows, so that all are answered.",
                &["service"],
            )?,
            shown: Mutex::default(),
        })
    }

    pub(crate) fn answered(&self, snapshot: &Snapshot, transport: Transport, reply: &Reply) {
        let code = Rcode::ALL.iter().position(|code| *code == reply.rcode);
        let counter = self.answers.get(transport as usize).and_then(|codes| codes.get(code?));
        counter.inspect(|counter| counter.inc());
        if let Some(of_type) = reply.of_type {
            let place = TYPES.iter().position(|known| *known == of_type);
            place.and_then(|place| self.types.get(place)).unwrap_or(&self.other_types).inc();
        }
        if let Some(zone) = reply.zone.and_then(|zone| snapshot.zones.zones.get(zone)) {
            let counters = zone.counters.get_or_init(|| {
                let name = zone.name.as_str();
                Rcode::ALL.iter().map(|code| self.zones.with_label_values(&[name, code.as_str()])).collect()
            });
            code.and_then(|code| counters.get(code)).inspect(|counter| counter.inc());
        }
        if let Some(served) = reply.service.and_then(|service| snapshot.services.list.get(service)) {
            let counters = served.counters.get_or_init(|| {
                let name = served.service.name.as_str();
                Rcode::ALL.iter().map(|code| self.services.with_label_values(&[name, code.as_str()])).collect()
            });
            code.and_then(|code| counters.get(code)).inspect(|counter| counter.inc());
        }
        if reply.truncated == Truncated::Yes {
            self.truncated.inc();
        }
    }

    pub(crate) fn ignored(&self, transport: Transport) {
        self.ignored.get(transport as usize).inspect(|counter| counter.inc());
    }

    pub(crate) fn limited(&self, outcome: Limited) {
        match outcome {
            Limited::Send => {}
            Limited::Slip => self.slipped.inc(),
            Limited::Drop => self.dropped.inc(),
        }
    }

    pub(crate) fn transferred(&self) {
        self.transfers.inc();
    }

    pub(crate) fn panicked(&self) {
        self.panics.inc();
    }

    /// The state of all members, as it is now; those that are no more lose their series.
    pub(crate) fn members(&self, members: &[MemberStatus]) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let now: HashSet<[String; 3]> =
            members.iter().map(|m| [m.service.to_string(), m.site.to_string(), m.member.to_string()]).collect();
        for gone in shown.difference(&now) {
            let [service, site, member] = gone;
            // They may be gone already: there is nothing to do then.
            self.members.remove_label_values(&[service, site, member]).ok();
            if !now.iter().any(|[other, ..]| other == service) {
                self.held.remove_label_values(&[service]).ok();
            }
        }
        for member in members {
            let (service, site) = (member.service.as_str(), member.site.as_str());
            let up = i64::from(member.share > 0);
            self.members.with_label_values(&[service, site, &member.member.to_string()]).set(up);
            self.held.with_label_values(&[service]).set(i64::from(member.held));
        }
        *shown = now;
    }

    pub(crate) fn connection_refused(&self) {
        self.connections_refused.inc();
    }
}
