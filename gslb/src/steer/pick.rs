//! The choice: a pure function of the service, its view, the client's place and a draw. Queries, `explain` and replays call
//! this one and no other.

use super::{
    Balance, Policy, Spread,
    place::{ClassId, PlaceMap},
    service::{AllDown, COUNT_MAX, Member, Service, Site, SiteId, SiteSet, bit},
    view::{Mood, View},
};
use crate::edns::{Subnet, masked};
use std::net::IpAddr;

/// Where a query is taken to come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Client {
    pub(crate) class: ClassId,
    /// Length of the widest prefix that is all of the class.
    pub(crate) class_prefix: u8,
    /// The client's network and its length: what weights are spread by.
    network: IpAddr,
    prefix: u8,
}

/// What chance says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Draw {
    /// Even over all of `u64`.
    pub(crate) random: u64,
    /// One more each time.
    pub(crate) turn: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

/// What was chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pick {
    pub(crate) outcome: Outcome,
    pub(crate) ttl: u32,
    /// The prefix length for which this holds: 0 is for everybody.
    pub(crate) scope: u8,
    pub(crate) mood: Mood,
    /// Sites left after each policy, for who wants to know why.
    pub(crate) left: [SiteSet; POLICIES_MAX],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Site(SiteId),
    /// The addresses of `all_down`.
    Addresses,
    Empty,
    Refuse,
}

/// Members of an answer, by index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chosen {
    indices: [u16; COUNT_MAX],
    count: usize,
}

pub(crate) const POLICIES_MAX: usize = 5;
/// Clients of one network share a resolver and a road: RFC 7871 §11.1 advises these lengths.
const V4_PREFIX: u8 = 24;
const V6_PREFIX: u8 = 56;

impl Client {
    /// The ECS prefix where one was sent, else the address that asks.
    pub(crate) fn new(map: Option<&PlaceMap>, source: IpAddr, subnet: Option<&Subnet>) -> Self {
        let told = subnet.filter(|subnet| subnet.source > 0).and_then(|subnet| Some((subnet.address?, subnet.source)));
        let widest = |address: IpAddr| if address.is_ipv4() { V4_PREFIX } else { V6_PREFIX };
        let (address, length) = told.unwrap_or((source, u8::MAX));
        let prefix = length.min(widest(address));
        let (class, class_prefix) = map.map_or((0, 0), |map| map.find(address));
        Self { class, class_prefix, network: masked(address, prefix), prefix }
    }

    /// The same on every node.
    fn key(&self) -> u64 {
        let number = match self.network {
            IpAddr::V4(v4) => u128::from(v4.to_ipv6_mapped()),
            IpAddr::V6(v6) => u128::from(v6),
        };
        mix((number >> 64) as u64 ^ mix(number as u64))
    }
}

/// Chooses a site.
pub(crate) fn pick(service: &Service, view: &View, client: &Client, draw: Draw) -> Pick {
    let ttl = match view.certainty {
        super::health::Certainty::Settled => service.ttl,
        super::health::Certainty::Undecided => service.ttl_undecided,
    };
    let mut picked = Pick { outcome: Outcome::Empty, ttl, scope: 0, mood: view.mood, left: [0; POLICIES_MAX] };
    if view.fit == 0 {
        picked.outcome = match service.all_down {
            AllDown::Addresses(_) => Outcome::Addresses,
            AllDown::Refuse => Outcome::Refuse,
            AllDown::All | AllDown::LastKnown | AllDown::Empty | AllDown::Site(_) => Outcome::Empty,
        };
        return picked;
    }
    let mut left = view.fit;
    for (policy, place) in service.policies.iter().zip(&mut picked.left) {
        let (next, scope) = narrow(*policy, service, view, client, draw, left);
        // With one site left there was nothing to choose, and the answer is everybody's.
        if left.count_ones() > 1 {
            picked.scope = picked.scope.max(scope);
        }
        left = next;
        *place = left;
    }
    let first = service.order.iter().copied().find(|site| left & bit(*site) != 0);
    picked.outcome = first.map_or(Outcome::Empty, Outcome::Site);
    if let Some(site) = first.and_then(|site| service.sites.get(usize::from(site)))
        && site.balance == Balance::Weighted
        && service.spread == Spread::Client
    {
        picked.scope = picked.scope.max(client.prefix);
    }
    picked
}

/// The sites that one policy leaves, never none, and for which prefix that holds.
fn narrow(policy: Policy, service: &Service, view: &View, client: &Client, draw: Draw, left: SiteSet) -> (SiteSet, u8) {
    match policy {
        Policy::Geo => {
            let tiers = service.rule(client.class).map_or(&[][..], |rule| &rule.tiers);
            let best = tiers.iter().map(|tier| tier & left).find(|tier| *tier != 0);
            (best.unwrap_or(left), client.class_prefix)
        }
        Policy::Latency => (nearest(service, client, left), client.class_prefix),
        Policy::Weighted => {
            let sites = service.sites.iter().enumerate();
            let sites = sites.filter(|(index, _)| left & bit(*index as SiteId) != 0);
            let weighed = sites.map(|(index, site)| (index, site.hash, u64::from(site.weight) * view.mean(index)));
            let (chosen, scope) = match service.spread {
                Spread::Client => (rendezvous(client.key(), weighed), client.prefix),
                Spread::Random => (by_chance(draw.random, weighed), 0),
            };
            (chosen.map_or(left, |index| bit(index as SiteId)), scope)
        }
        Policy::RoundRobin => {
            let count = u64::from(left.count_ones().max(1));
            let turn = (draw.turn % count) as usize;
            let order = service.order.iter().copied().filter(|site| left & bit(*site) != 0);
            (order.map(bit).nth(turn).unwrap_or(left), 0)
        }
        Policy::Failover => {
            let first = service.order.iter().copied().find(|site| left & bit(*site) != 0);
            (first.map_or(left, bit), 0)
        }
    }
}

/// The sites within the tolerance of the nearest that is left.
fn nearest(service: &Service, client: &Client, left: SiteSet) -> SiteSet {
    let Some((rule, row)) = service.rule(client.class).and_then(|rule| Some((rule, rule.latency.as_ref()?))) else {
        return left;
    };
    let known = |(index, latency): (usize, &u32)| {
        (left & bit(index as SiteId) != 0 && *latency != u32::MAX).then_some(*latency)
    };
    let Some(least) = row.iter().enumerate().filter_map(known).min() else { return left };
    let limit = least.saturating_add(rule.tolerance);
    let near =
        row.iter().enumerate().filter(|(index, latency)| left & bit(*index as SiteId) != 0 && **latency <= limit);
    near.fold(0, |set, (index, _)| set | bit(index as SiteId))
}

/// Weighted rendezvous: of all with a weight, the one whose score from its own and the client's hash is best. A change of one
/// weight moves only clients to or from that one. All of weight zero are as if they had one.
fn rendezvous<I: Copy>(client: u64, items: impl Iterator<Item = (I, u64, u64)> + Clone) -> Option<I> {
    let weighed = items.clone().filter(|(_, _, weight)| *weight > 0);
    best_of(client, weighed).or_else(|| best_of(client, items.map(|(item, hash, _)| (item, hash, 1))))
}

fn best_of<I: Copy>(client: u64, items: impl Iterator<Item = (I, u64, u64)>) -> Option<I> {
    let mut best: Option<(I, f64)> = None;
    for (item, hash, weight) in items {
        // Even in (0, 1]: 53 bits, and never zero.
        let even = ((mix(client ^ hash) >> 11) + 1) as f64 / (1u64 << 53) as f64;
        let score = -even.ln() / weight as f64;
        if best.is_none_or(|(_, least)| score < least) {
            best = Some((item, score));
        }
    }
    best.map(|(item, _)| item)
}

/// By a draw over the sum of weights.
fn by_chance<I: Copy>(random: u64, items: impl Iterator<Item = (I, u64, u64)> + Clone) -> Option<I> {
    let is_idle = items.clone().all(|(_, _, weight)| weight == 0);
    let weight = |weight: u64| if is_idle { 1 } else { weight };
    let sum: u64 = items.clone().map(|(_, _, own)| weight(own)).sum();
    // The high half of a product: even to one part in 2^64 (Lemire).
    let mut at = ((u128::from(random) * u128::from(sum)) >> 64) as u64;
    for (item, _, own) in items {
        match at.checked_sub(weight(own)) {
            Some(rest) => at = rest,
            None => return Some(item),
        }
    }
    None
}

/// The members of a site for one family of addresses.
pub(crate) fn members(
    service: &Service,
    site_id: SiteId,
    view: &View,
    client: &Client,
    draw: Draw,
    family: Family,
) -> Chosen {
    let mut chosen = Chosen { indices: [0; COUNT_MAX], count: 0 };
    let Some(site) = service.sites.get(usize::from(site_id)) else { return chosen };
    let shares = view.shares.get(usize::from(site_id)).map_or(&[][..], Vec::as_slice);
    let all = site.members.iter().zip(shares).enumerate();
    let up = all.filter(|(_, (member, share))| **share > 0 && family.has(member));
    let up = up.map(|(index, (member, share))| (index, member.hash, u64::from(member.weight) * u64::from(*share)));
    match site.balance {
        Balance::All | Balance::Failover => up.take(site.count).for_each(|(index, ..)| chosen.push(index)),
        Balance::RoundRobin => {
            let count = up.clone().count();
            // Sites and members must not turn in step, or half of the pairs would never be seen.
            let turn = draw.turn / u64::from(view.fit.count_ones().max(1));
            let begin = turn.checked_rem(count as u64).unwrap_or(0) as usize;
            let around = up.clone().skip(begin).chain(up.take(begin));
            around.take(site.count).for_each(|(index, ..)| chosen.push(index));
        }
        // Nobody to choose among.
        Balance::Weighted if up.clone().nth(1).is_none() => up.for_each(|(index, ..)| chosen.push(index)),
        Balance::Weighted => {
            let mut random = draw.random;
            for _ in 0..site.count {
                // Members must be spread on their own: the site's hash takes part.
                let key = mix(client.key() ^ site.hash);
                let rest = up.clone().filter(|(index, ..)| !chosen.indices().contains(&(*index as u16)));
                random = mix(random);
                let next = match service.spread {
                    Spread::Client => rendezvous(key, rest),
                    Spread::Random => by_chance(random, rest),
                };
                let Some(next) = next else { break };
                chosen.push(next);
            }
        }
    }
    chosen
}

impl Chosen {
    /// Indices are below a thousand, and no more than `COUNT_MAX` are pushed.
    fn push(&mut self, index: usize) {
        if let Some(place) = self.indices.get_mut(self.count) {
            *place = index as u16;
            self.count += 1;
        }
    }

    fn indices(&self) -> &[u16] {
        self.indices.get(..self.count).unwrap_or_default()
    }

    pub(crate) fn addresses<'s>(&'s self, site: &'s Site) -> impl Iterator<Item = IpAddr> + 's {
        self.indices().iter().filter_map(|index| site.members.get(usize::from(*index))).map(|member| member.address)
    }
}

impl Family {
    fn has(self, member: &Member) -> bool {
        self.holds(member.address)
    }

    pub(crate) fn holds(self, address: IpAddr) -> bool {
        address.is_ipv4() == (self == Self::V4)
    }
}

/// A bijection that spreads every bit over all (splitmix64's end).
fn mix(mut x: u64) -> u64 {
    x ^= x >> 30;
    x = x.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^= x >> 27;
    x = x.wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}
