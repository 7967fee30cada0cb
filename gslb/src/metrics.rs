//! Every metric of the DNS server. Label values come from the configuration or from closed sets.

use crate::{
    answer::{Reply, Transport, Truncated},
    fleet::{FleetStatus, PeerState, Sight},
    rate_limit::Limited,
    record_type::{Rcode, RecordType},
    snapshot::Snapshot,
    steer::{MemberStatus, SiteStatus},
};
use portcullis_names::ObjectName;
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};
use std::{
    collections::{HashMap, HashSet},
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
    peers: IntGaugeVec,
    skew: IntGaugeVec,
    differs: IntGaugeVec,
    pulls: IntCounterVec,
    isolated: IntGauge,
    blind: IntGauge,
    site_load: IntGaugeVec,
    site_share: IntGaugeVec,
    /// Series of members, with the reason that is shown of each.
    shown: Mutex<HashMap<[String; 3], &'static str>>,
    shown_peers: Mutex<HashSet<String>>,
    shown_sites: Mutex<HashSet<[String; 2]>>,
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
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
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
                "Whether a member of a published service is answered, and why not.",
                &["service", "site", "member", "reason"],
            )?,
            held: gauges(
                "portcullis_dns_service_withdrawals_held",
                "Whether more members fell than max_withdraw allows, so that all are answered.",
                &["service"],
            )?,
            peers: gauges(
                "portcullis_dns_peer_up",
                "Whether the word of a peer of the fleet counts.",
                &["peer", "site"],
            )?,
            skew: gauges(
                "portcullis_dns_peer_clock_skew_seconds",
                "How far the clock of a peer is ahead of ours.",
                &["peer"],
            )?,
            differs: gauges(
                "portcullis_dns_peer_config_differs",
                "Whether a peer has other zones or services than we.",
                &["peer"],
            )?,
            pulls: family("portcullis_dns_peer_pulls_total", "Questions to a peer, by outcome.", &["peer", "outcome"])?,
            isolated: gauge("portcullis_dns_isolated", "Whether too few nodes of the fleet are heard.")?,
            blind: gauge("portcullis_dns_blind", "Whether this node distrusts its own checks.")?,
            site_load: gauges(
                "portcullis_dns_site_load_permille",
                "What the gateways of a site carry of what they can.",
                &["service", "site"],
            )?,
            site_share: gauges(
                "portcullis_dns_site_share_permille",
                "What its load leaves a site of its share of clients.",
                &["service", "site"],
            )?,
            shown: Mutex::default(),
            shown_peers: Mutex::default(),
            shown_sites: Mutex::default(),
        })
    }

    /// Counts so many replies that are alike to every metric.
    pub(crate) fn answered(&self, snapshot: &Snapshot, transport: Transport, reply: &Reply, replies: u64) {
        let code = Rcode::ALL.iter().position(|code| *code == reply.rcode);
        let counter = self.answers.get(transport as usize).and_then(|codes| codes.get(code?));
        counter.inspect(|counter| counter.inc_by(replies));
        if let Some(of_type) = reply.of_type {
            let place = TYPES.iter().position(|known| *known == of_type);
            place.and_then(|place| self.types.get(place)).unwrap_or(&self.other_types).inc_by(replies);
        }
        if let Some(zone) = reply.zone.and_then(|zone| snapshot.zones.zones.get(zone)) {
            let counters = zone.counters.get_or_init(|| {
                let name = zone.name.as_str();
                Rcode::ALL.iter().map(|code| self.zones.with_label_values(&[name, code.as_str()])).collect()
            });
            code.and_then(|code| counters.get(code)).inspect(|counter| counter.inc_by(replies));
        }
        if let Some(served) = reply.service.and_then(|service| snapshot.services.list.get(service)) {
            let counters = served.counters.get_or_init(|| {
                let name = served.service.name.as_str();
                Rcode::ALL.iter().map(|code| self.services.with_label_values(&[name, code.as_str()])).collect()
            });
            code.and_then(|code| counters.get(code)).inspect(|counter| counter.inc_by(replies));
        }
        if reply.truncated == Truncated::Yes {
            self.truncated.inc_by(replies);
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
        let place = |m: &MemberStatus| [m.service.to_string(), m.site.to_string(), m.member.to_string()];
        let now: HashMap<[String; 3], &'static str> =
            members.iter().map(|member| (place(member), member.code.unwrap_or("none"))).collect();
        for ([service, site, member], reason) in shown.iter().filter(|(key, reason)| now.get(*key) != Some(*reason)) {
            // They may be gone already: there is nothing to do then.
            self.members.remove_label_values(&[service.as_str(), site, member, reason]).ok();
            if !now.keys().any(|[other, ..]| other == service) {
                self.held.remove_label_values(&[service]).ok();
            }
        }
        for member in members {
            let (service, site) = (member.service.as_str(), member.site.as_str());
            let up = i64::from(member.share > 0);
            let labels = [service, site, &member.member.to_string(), member.code.unwrap_or("none")];
            self.members.with_label_values(&labels).set(up);
            self.held.with_label_values(&[service]).set(i64::from(member.held));
        }
        *shown = now;
    }

    /// Loads, where somebody says so.
    pub(crate) fn sites(&self, sites: &[SiteStatus]) {
        let mut shown = self.shown_sites.lock().unwrap_or_else(PoisonError::into_inner);
        let told = sites.iter().filter(|site| site.load.is_some());
        let now: HashSet<_> = told.map(|site| [site.service.to_string(), site.site.to_string()]).collect();
        for [service, site] in shown.difference(&now) {
            self.site_load.remove_label_values(&[service, site]).ok();
            self.site_share.remove_label_values(&[service, site]).ok();
        }
        *shown = now;
        for site in sites {
            let labels = [site.service.as_str(), site.site.as_str()];
            if let Some(load) = site.load {
                self.site_load.with_label_values(&labels).set(i64::from(load));
                self.site_share.with_label_values(&labels).set(i64::from(site.load_share));
            }
        }
    }

    pub(crate) fn pulled(&self, peer: &ObjectName, outcome: &str) {
        self.pulls.with_label_values(&[peer.as_str(), outcome]).inc();
    }

    /// `None`: there is no fleet, or no more.
    pub(crate) fn fleet(&self, fleet: Option<&FleetStatus>) {
        let mut shown = self.shown_peers.lock().unwrap_or_else(PoisonError::into_inner);
        let peers = fleet.map_or(&[][..], |fleet| &fleet.peers);
        if shown.iter().any(|name| !peers.iter().any(|peer| peer.node.as_str() == name)) {
            self.peers.reset();
            self.skew.reset();
            self.differs.reset();
        }
        *shown = peers.iter().map(|peer| peer.node.to_string()).collect();
        for peer in peers {
            let node = peer.node.as_str();
            self.peers.with_label_values(&[node, peer.site.as_str()]).set(i64::from(peer.state == PeerState::Fresh));
            self.skew.with_label_values(&[node]).set(peer.skew_seconds);
            self.differs.with_label_values(&[node]).set(i64::from(peer.config_differs));
        }
        self.isolated.set(i64::from(fleet.is_some_and(|fleet| fleet.isolated)));
        self.blind.set(i64::from(fleet.is_some_and(|fleet| fleet.sight == Sight::Blind)));
    }

    pub(crate) fn connection_refused(&self) {
        self.connections_refused.inc();
    }
}
