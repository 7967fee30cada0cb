//! What would a client be answered, and how would load move under another configuration? Asked of the data path's own choice.

use crate::Compiled;
use portcullis_gslb::{Clocks, Delegation, Explanation, Name, Ordered, Snapshot, WhatIf};
use portcullis_names::Cidr;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, net::IpAddr};

/// A query that was never sent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DnsQuestion {
    pub name: String,
    /// The address that asks: a resolver's, as a rule.
    pub from: IpAddr,
    /// The client's network, as a resolver may tell it (RFC 7871).
    #[serde(default)]
    pub subnet: Option<Cidr>,
    /// What is taken to be down: `SERVICE/SITE` or `SERVICE/SITE/ADDRESS`.
    #[serde(default)]
    pub down: Vec<String>,
    /// What chance says, where the policy draws.
    #[serde(default)]
    pub draw: u64,
}

impl DnsQuestion {
    /// The error says what is wrong with the question.
    pub fn explain(&self, snapshot: &Snapshot, clocks: Clocks) -> Result<Explanation, String> {
        let down = self.down.iter().map(|text| target(text)).collect::<Result<_, _>>()?;
        let what_if = WhatIf { down, draw: self.draw, turn: None };
        self.choose(snapshot, &what_if, clocks)?.ok_or_else(|| {
            format!("no published service answers for {}: its records, if any, are the same for everybody", self.name)
        })
    }

    fn choose(&self, snapshot: &Snapshot, what_if: &WhatIf, clocks: Clocks) -> Result<Option<Explanation>, String> {
        let name = Name::absolute(&self.name).map_err(|error| format!("`{}` is not a name: {error}", self.name))?;
        Ok(snapshot.explain(&name, self.from, self.subnet.as_ref().and_then(parts), what_if, clocks))
    }
}

impl Compiled {
    /// As if this configuration had just begun to serve: no check has ended yet.
    pub fn explain_dns(&self, question: &DnsQuestion) -> Result<Explanation, String> {
        question.explain(&self.dns.as_ref().ok_or(NO_DNS)?.snapshot, Clocks::read())
    }

    /// What the parent of a zone must have.
    pub fn delegation(&self, zone: &str) -> Result<Delegation, String> {
        delegation_of(&self.dns.as_ref().ok_or(NO_DNS)?.snapshot, zone)
    }
}

const NO_DNS: &str = "the configuration serves no DNS: it has no listener of protocol dns";

pub(crate) fn delegation_of(snapshot: &Snapshot, zone: &str) -> Result<Delegation, String> {
    let apex = Name::absolute(zone).ok();
    apex.and_then(|apex| snapshot.delegation(&apex)).ok_or_else(|| {
        let zones: Vec<_> = snapshot.zones(Clocks::read()).into_iter().map(|zone| zone.name).collect();
        format!("no zone \"{zone}\" is served (served: {})", zones.join(", "))
    })
}

/// A network as address and length.
fn parts(cidr: &Cidr) -> Option<(IpAddr, u8)> {
    let text = cidr.to_string();
    let (address, length) = text.split_once('/')?;
    Some((address.parse().ok()?, length.parse().ok()?))
}

fn target(text: &str) -> Result<Ordered, String> {
    let wrong = || format!("`{text}` is neither SERVICE/SITE nor SERVICE/SITE/ADDRESS");
    let mut parts = text.splitn(3, '/');
    let mut name = || parts.next().and_then(|part| part.parse().ok()).ok_or_else(wrong);
    let (service, site) = (name()?, name()?);
    let member = parts.next().map(|part| part.parse().map_err(|_| wrong())).transpose()?;
    Ok(Ordered { service, site, member })
}

/// A query of a log, and how often it stands there.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReplayedQuery {
    pub name: String,
    pub from: IpAddr,
    #[serde(default)]
    pub subnet: Option<Cidr>,
    pub count: u64,
}

/// Queries that a site is given, by one configuration and by another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Moved {
    pub service: String,
    pub site: String,
    pub now: u64,
    pub then: u64,
}

/// What became of a log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Replay {
    pub sites: Vec<Moved>,
    pub queries: u64,
    /// Queries that go elsewhere.
    pub changed: u64,
    /// Queries for names that neither publishes.
    pub others: u64,
}

/// Different queries of one replay; a log is gathered before it is sent.
pub(crate) const QUERIES_MAX: usize = 200_000;
/// A query that is there a million times is not asked as often: its draws are even by then.
const DRAWS_MAX: u64 = 100;

impl Replay {
    /// Asks both about each query, under the health of this moment.
    pub fn run(running: &Snapshot, candidate: &Snapshot, queries: &[ReplayedQuery], clocks: Clocks) -> Self {
        let mut replay = Self::default();
        let mut sites: BTreeMap<(String, String), (u64, u64)> = BTreeMap::new();
        for (index, query) in queries.iter().take(QUERIES_MAX).enumerate() {
            let question = DnsQuestion {
                name: query.name.clone(),
                from: query.from,
                subnet: query.subnet,
                down: Vec::new(),
                draw: 0,
            };
            let draws = query.count.clamp(1, DRAWS_MAX);
            for turn in 0..draws {
                let weight = query.count / draws + u64::from(turn < query.count % draws);
                replay.queries += weight;
                // Golden-ratio steps: even over all draws, and the same for both.
                let draw = (index as u64 + turn).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                let what_if = WhatIf { down: Vec::new(), draw, turn: Some(index as u64 + turn) };
                let choose = |snapshot| question.choose(snapshot, &what_if, clocks).ok().flatten().map(|e| place(&e));
                let (now, then) = (choose(running), choose(candidate));
                if now.is_none() && then.is_none() {
                    replay.others += weight;
                    continue;
                }
                if now != then {
                    replay.changed += weight;
                }
                now.into_iter().for_each(|place| sites.entry(place).or_default().0 += weight);
                then.into_iter().for_each(|place| sites.entry(place).or_default().1 += weight);
            }
        }
        let moved = |((service, site), (now, then))| Moved { service, site, now, then };
        replay.sites = sites.into_iter().map(moved).collect();
        replay
    }
}

fn place(explanation: &Explanation) -> (String, String) {
    let site = match &explanation.site {
        Some(site) => site.clone(),
        None if explanation.refused => "(refused)".to_owned(),
        None if explanation.ipv4.is_empty() && explanation.ipv6.is_empty() => "(empty)".to_owned(),
        None => "(all down)".to_owned(),
    };
    (explanation.service.clone(), site)
}
