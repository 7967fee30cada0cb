//! What is known of the members of one service, from whichever side: our own checks, the words of a fleet, orders, maintenance,
//! load. Turned here into the facts that a view is derived from. Outlives reloads.

use super::{
    Lack, Order, Recalled, Service,
    health::{Certainty, MemberHealth, Withdrawals},
    order::Forced,
    service::{Member, Site},
    services::Clocks,
    terms::Lock,
    view::{FULL, MemberFacts, SiteFacts, View},
};
use crate::fleet::{Ballot, Damper, Eyes, Fleet, Heard, Merged, Sight, Stands, Turn, Vote, Witnesses, Word};
use portcullis_health::HealthState;
use portcullis_names::ObjectName;
use std::{collections::HashMap, net::IpAddr, time::Duration, time::Instant};

#[derive(Debug, Default)]
pub(crate) struct Known {
    pub(super) members: HashMap<(ObjectName, IpAddr), MemberHealth>,
    /// What the nodes of a fleet make of each member together; empty without one.
    pub(super) merged: HashMap<(ObjectName, IpAddr), Merged>,
    pub(super) withdrawals: Withdrawals,
    pub(super) orders: Vec<Order>,
    /// The last view with a fit site, for `last_known`.
    pub(super) last: Option<View>,
    /// What the sites lack of services that this one needs, in their order.
    pub(super) lacks: Vec<Lack>,
    dampers: HashMap<ObjectName, Damper>,
    /// Thousandths of what a member can carry, as its gateway sees it.
    pub(super) loads: HashMap<(ObjectName, IpAddr), u16>,
}

impl Known {
    /// Takes in an order; an older one than what is known is passed over.
    pub(super) fn take(&mut self, order: Order, now: u64) {
        let newer = self.orders.iter().any(|other| other.target == order.target && other.stamp > order.stamp);
        if !newer {
            // The newest for a target wins.
            self.orders.retain(|other| other.target != order.target && other.until > now);
            self.orders.push(order);
        }
    }

    /// Whether time alone may change what is believed.
    pub(super) fn is_undecided(&self) -> bool {
        self.merged.values().any(Merged::is_undecided)
    }

    /// Counts the words of the fleet on each member.
    pub(super) fn merge(&mut self, service: &Service, fleet: &Fleet, eyes: Eyes, clocks: Clocks) {
        let now = clocks.instant;
        let roster = fleet.roster();
        let fresh = fleet.fresh(&roster, now);
        let own_sight = if eyes == Eyes::Trusted { Sight::Clear } else { Sight::Blind };
        let own_presence = fleet.own_report().presence;
        let mut votes = Vec::with_capacity(fresh.len());
        for site in &service.sites {
            let stands = |at: &ObjectName| if *at == site.name { Stands::AtSite } else { Stands::Elsewhere };
            let witnesses = witnesses(fleet, &fresh, site);
            for member in &site.members {
                let key = (site.name.clone(), member.address);
                votes.clear();
                votes.extend(fresh.iter().map(|(_, heard)| Vote {
                    word: word_of(heard, service, site, member),
                    stands: stands(&heard.site),
                    sight: heard.content.sight,
                    presence: heard.content.gateway.presence,
                }));
                let own = self.members.get(&key);
                let ballot = Ballot {
                    own: Vote {
                        word: own.map_or(Word::Unknown, MemberHealth::word),
                        stands: stands(&fleet.plan.site),
                        // What is distrusted is held as it was; it is no vote against others.
                        sight: own_sight,
                        presence: own_presence,
                    },
                    peers: &votes,
                    witnesses,
                    recalled: own.map_or(Word::Unknown, |own| own.recalled(clocks.unix)),
                    initial: service.terms.initial,
                };
                let tally = ballot.count(&fleet.plan.rules);
                let merged = self.merged.entry(key.clone()).or_insert_with(|| Merged::new(now));
                match merged.step(tally, eyes, &fleet.plan.rules, now) {
                    Turn::Fell => self.withdrawals.fell(&key, now),
                    Turn::Rose => self.withdrawals.rose(&key),
                    Turn::None => {}
                }
            }
        }
    }

    /// Lets loaded sites give clients away.
    pub(super) fn damp(&mut self, service: &Service, fleet: Option<&Fleet>, now: Instant) {
        let Some(target) = service.terms.load_target else { return };
        let ttl = Duration::from_secs(u64::from(service.ttl));
        for site in &service.sites {
            let load = self.load(site, fleet, now);
            self.dampers.entry(site.name.clone()).or_default().step(load, target, ttl, now);
        }
    }

    /// What the gateways at a site carry: the fullest counts, for it is the one that will turn requests away.
    pub(super) fn load(&self, site: &Site, fleet: Option<&Fleet>, now: Instant) -> Option<u16> {
        let told = site.members.iter().filter_map(|member| {
            let key = (site.name.clone(), member.address);
            self.loads.get(&key).copied()
        });
        let told: Vec<u16> = told.collect();
        // Members of one site share its clients: what counts is how full they are together.
        let mean = told.iter().map(|load| u32::from(*load)).sum::<u32>().checked_div(told.len() as u32);
        let mean = mean.and_then(|mean| u16::try_from(mean).ok());
        let Some(fleet) = fleet else { return mean };
        let roster = fleet.roster();
        let of_peers = fleet.fresh(&roster, now).into_iter().filter(|(_, heard)| heard.site == site.name);
        let of_peers = of_peers.map(|(_, heard)| heard.content.gateway);
        let own = (fleet.plan.site == site.name).then(|| fleet.own_report());
        // Who turns requests away is full, whatever it says of its load.
        let load = |report: crate::fleet::GatewayReport| {
            if report.shed > 0 { Some(FULL.max(report.load.unwrap_or(FULL))) } else { report.load }
        };
        own.into_iter().chain(of_peers).filter_map(load).chain(mean).max()
    }

    pub(super) fn damped(&self, site: &ObjectName) -> u16 {
        self.dampers.get(site).map_or(FULL, Damper::share)
    }

    pub(super) fn facts(&self, service: &Service, fleet: Option<&Fleet>, now: u64) -> Vec<SiteFacts> {
        let site = |(index, site): (usize, &Site)| SiteFacts {
            lack: self.lacks.get(index).copied().unwrap_or(Lack::Nothing),
            members: site.members.iter().map(|member| self.member(service, site, member, fleet, now)).collect(),
            forced: self.forced(service, site, None, now),
            damped: if service.terms.load_target.is_some() { self.damped(&site.name) } else { FULL },
        };
        service.sites.iter().enumerate().map(site).collect()
    }

    fn member(&self, service: &Service, site: &Site, member: &Member, fleet: Option<&Fleet>, now: u64) -> MemberFacts {
        let key = (site.name.clone(), member.address);
        let forced = self.forced(service, site, Some(member.address), now);
        let own = self.members.get(&key);
        let Some(_) = fleet else {
            let state = own.map_or(HealthState::Unknown, MemberHealth::state);
            let state = if state == HealthState::Unknown { assumed(service, site, own, now) } else { state };
            return MemberFacts {
                state,
                certainty: own.map_or(Certainty::Undecided, |own| own.certainty),
                recovered: own.and_then(|own| own.recovered),
                forced,
            };
        };
        let merged = self.merged.get(&key);
        let in_doubt = own.is_some_and(|own| own.word() == Word::Degraded) || merged.is_none_or(Merged::is_undecided);
        MemberFacts {
            state: merged.map_or(HealthState::Unknown, Merged::believed),
            certainty: if in_doubt { Certainty::Undecided } else { Certainty::Settled },
            recovered: merged.and_then(|merged| merged.recovered),
            forced,
        }
    }

    /// The configuration stands above operators.
    fn forced(&self, service: &Service, site: &Site, member: Option<IpAddr>, now: u64) -> Option<Forced> {
        if site.maintenance.iter().any(|one| one.is_on(member, now)) {
            return Some(Forced::Drain);
        }
        if service.terms.lock == Lock::Configuration {
            return None;
        }
        let of_target = |order: &&Order| order.target.site == site.name && order.target.member == member;
        self.orders.iter().filter(|order| order.is_in_force(now)).find(of_target).map(|order| order.forced)
    }

    pub(super) fn recall(&mut self, key: &(ObjectName, IpAddr), recalled: Recalled) {
        if let Some(member) = self.members.get_mut(key) {
            member.recall(recalled);
        }
    }
}

/// What a member is taken for that nobody has looked at yet.
fn assumed(service: &Service, site: &Site, own: Option<&MemberHealth>, now: u64) -> HealthState {
    // Nobody is going to look.
    if service.thresholds(&site.name).is_none() {
        return HealthState::Unknown;
    }
    match (own.map_or(Word::Unknown, |own| own.recalled(now)), service.terms.initial) {
        (Word::Down, _) | (Word::Unknown, Word::Down) => HealthState::Down,
        (Word::Up | Word::Degraded | Word::Unknown, _) => HealthState::Unknown,
    }
}

fn word_of(heard: &Heard, service: &Service, site: &Site, member: &Member) -> Word {
    let of_site = heard.words.get(&service.name).and_then(|of_service| of_service.get(&site.name));
    of_site.and_then(|of_site| of_site.get(&member.address)).map_or(Word::Unknown, |word| word.state)
}

/// Whether those who should know of a site's members are heard: the nodes at the site, or all where it has none.
fn witnesses(fleet: &Fleet, fresh: &[(&ObjectName, &Heard)], site: &Site) -> Witnesses {
    let has_nodes = fleet.plan.peers.values().any(|peer| peer.site == site.name);
    let is_heard = if has_nodes { fresh.iter().any(|(_, heard)| heard.site == site.name) } else { !fresh.is_empty() };
    if is_heard { Witnesses::Heard } else { Witnesses::Vanished }
}
