//! What an operator is shown of sites and members.

use super::{
    Lack, Served,
    order::Forced,
    service::{Site, bit},
    services::{Clocks, Services},
    view::{Mood, SiteFacts},
};
use crate::fleet::{Fleet, Why, Word};
use portcullis_health::HealthState;
use portcullis_names::ObjectName;
use serde::Serialize;
use std::net::IpAddr;

/// A member as an operator sees it.
#[derive(Debug, Clone, Serialize)]
pub struct MemberStatus {
    pub service: ObjectName,
    pub site: ObjectName,
    pub member: IpAddr,
    pub state: HealthState,
    /// Thousandths of its weight that it is answered with.
    pub share: u16,
    pub site_fit: bool,
    pub forced: Option<Forced>,
    pub reason: Option<String>,
    /// The reason as one of a closed set, for metrics; `None`: it is up.
    pub code: Option<&'static str>,
    pub for_seconds: u64,
    /// Round trip of the last check that ended well, in milliseconds.
    pub rtt_ms: Option<u64>,
    /// What the nodes of a fleet made of it together.
    pub votes: Option<Votes>,
    /// More fell than `max_withdraw` allows: all are answered.
    pub held: bool,
}

/// How the nodes of a fleet voted on a member.
#[derive(Debug, Clone, Serialize)]
pub struct Votes {
    pub why: Why,
    /// Nodes that say down.
    pub down: u8,
    /// Nodes that know.
    pub of: u8,
    /// What this node says itself.
    pub own: Word,
}

/// A site as an operator sees it.
#[derive(Debug, Clone, Serialize)]
pub struct SiteStatus {
    pub service: ObjectName,
    pub host: String,
    pub site: ObjectName,
    /// Whether it is answered with now.
    pub fit: bool,
    pub forced: Option<Forced>,
    pub members: usize,
    pub up: usize,
    /// Why the service does not go by health alone: `all_down`, `held`.
    pub mood: Option<&'static str>,
    /// Why the configuration drains it now.
    pub maintenance: Option<String>,
    /// A service that this one needs has no fit site of this name.
    pub lacks: bool,
    /// Thousandths of what its gateways can carry, where somebody says so.
    pub load: Option<u16>,
    /// Thousandths that its load leaves it of its share of clients.
    pub load_share: u16,
}

impl Services {
    pub(crate) fn sites(&self, clocks: Clocks) -> Vec<SiteStatus> {
        self.list.iter().flat_map(|served| served.sites(self.fleet.as_deref(), clocks)).collect()
    }

    pub(crate) fn status(&self, clocks: Clocks) -> Vec<MemberStatus> {
        self.list.iter().flat_map(|served| served.status(self.fleet.as_deref(), clocks)).collect()
    }
}

impl Served {
    fn sites(&self, fleet: Option<&Fleet>, clocks: Clocks) -> Vec<SiteStatus> {
        let known = self.known();
        let facts = known.facts(&self.service, fleet, clocks.unix);
        let view = self.view();
        let each = self.service.sites.iter().zip(&facts).zip(&view.shares).enumerate();
        let status = |(index, ((site, facts), shares)): (usize, ((&Site, &SiteFacts), &Vec<u16>))| SiteStatus {
            service: self.service.name.clone(),
            host: self.service.host.to_string(),
            site: site.name.clone(),
            fit: view.fit & bit(index as u8) != 0,
            forced: facts.forced,
            members: site.members.len(),
            up: shares.iter().filter(|share| **share > 0).count(),
            mood: match view.mood {
                Mood::Normal => None,
                Mood::Held => Some("held"),
                Mood::AllDown => Some("all_down"),
            },
            maintenance: site
                .maintenance
                .iter()
                .find(|one| one.is_on(None, clocks.unix))
                .map(|one| one.why.clone().unwrap_or_else(|| "planned".to_owned())),
            lacks: facts.lack == Lack::Something,
            load: known.load(site, fleet, clocks.instant),
            load_share: known.damped(&site.name),
        };
        each.map(status).collect()
    }

    pub(super) fn status(&self, fleet: Option<&Fleet>, clocks: Clocks) -> Vec<MemberStatus> {
        let known = self.known();
        let facts = known.facts(&self.service, fleet, clocks.unix);
        let view = self.view();
        let mut all = Vec::new();
        for (index, ((site, facts), shares)) in self.service.sites.iter().zip(&facts).zip(&view.shares).enumerate() {
            for ((member, facts_of_member), share) in site.members.iter().zip(&facts.members).zip(shares) {
                let key = (site.name.clone(), member.address);
                let health = known.members.get(&key);
                let merged = known.merged.get(&key).filter(|_| fleet.is_some());
                let since = merged.map(|merged| merged.since()).or_else(|| health.map(|health| health.since()));
                let failure = health.and_then(|health| health.last_failure());
                let forced = facts_of_member.forced.or(facts.forced);
                let fails = facts_of_member.state == HealthState::Down;
                // Of what nobody here saw: the peers did.
                let seen = || failure.map_or("peers", |failure| failure.code());
                let code = match forced {
                    Some(Forced::Up) => None,
                    Some(Forced::Down) => Some("ordered_down"),
                    Some(Forced::Drain) => Some("drained"),
                    None => fails.then(seen),
                };
                all.push(MemberStatus {
                    service: self.service.name.clone(),
                    site: site.name.clone(),
                    member: member.address,
                    state: facts_of_member.state,
                    share: *share,
                    site_fit: view.fit & bit(index as u8) != 0,
                    forced,
                    reason: failure.map(|failure| failure.to_string()),
                    code,
                    for_seconds: since.map_or(0, |since| clocks.instant.saturating_duration_since(since).as_secs()),
                    rtt_ms: health.and_then(|health| health.rtt).and_then(|rtt| u64::try_from(rtt.as_millis()).ok()),
                    votes: merged.map(|merged| Votes {
                        why: merged.tally.why,
                        down: merged.tally.downs,
                        of: merged.tally.voters,
                        own: health.map_or(Word::Unknown, |health| health.word()),
                    }),
                    held: view.mood == Mood::Held,
                });
            }
        }
        all
    }
}
