//! Why a client is given what it is given: the data path's own choice, told step by step.

use super::{
    Client, Family, MemberStatus, Ordered, Outcome, Served, Services,
    pick::Draw,
    service::{AllDown, Service, SiteSet, bit},
    services::{Clocks, Round},
    view::Mood,
};
use crate::edns::Subnet;
use serde::Serialize;
use std::net::IpAddr;

/// What is assumed.
#[derive(Debug, Clone, Default)]
pub struct WhatIf {
    /// Members and sites taken to be down.
    pub down: Vec<Ordered>,
    /// What chance says, where the policy draws.
    pub draw: u64,
    /// Whose turn it is, where the policy takes turns. Default: that of the next query.
    pub turn: Option<u64>,
}

/// The choice for one client, and how it came about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    pub service: String,
    pub site: Option<String>,
    pub cname: Option<String>,
    pub ipv4: Vec<IpAddr>,
    pub ipv6: Vec<IpAddr>,
    pub ttl: u32,
    /// The ECS scope: for which prefix length the same holds.
    pub scope: u8,
    pub refused: bool,
    /// Each step in words.
    pub steps: Vec<String>,
}

/// More are for `gslb status`.
const WORDS_MAX: usize = 20;

impl Services {
    pub(crate) fn explain(
        &self,
        index: usize,
        source: IpAddr,
        subnet: Option<&Subnet>,
        what_if: &WhatIf,
        clocks: Clocks,
    ) -> Option<Explanation> {
        let served = self.list.get(index)?;
        let service = &served.service;
        let view = served.view_if(&what_if.down, self.fleet.as_deref(), clocks);
        let client = self.client(service, source, subnet);
        let next = |round| {
            let draw = served.next_draw(what_if.draw, round);
            Draw { turn: what_if.turn.unwrap_or(draw.turn), ..draw }
        };
        let draw = next(Round::V4);
        let picked = served.pick(&view, &client, draw);
        let addresses = |family, round| served.addresses(&picked, &view, &client, next(round), family);
        let site = match picked.outcome {
            Outcome::Site(id) => service.sites.get(usize::from(id)),
            Outcome::Addresses | Outcome::Empty | Outcome::Refuse => None,
        };
        let mut steps = vec![self.place_of(&client, service), format!("fit sites: {}", names(service, view.fit))];
        steps.extend(match view.mood {
            Mood::Normal => None,
            Mood::Held => Some("more members fell than max_withdraw allows: health is not believed".to_owned()),
            Mood::AllDown => Some(format!("no site is fit: all_down = {}", all_down(service))),
        });
        steps.extend(self.words_on(served, clocks));
        if view.fit != 0 {
            let policies = service.policies.iter().zip(picked.left);
            steps.extend(policies.map(|(policy, left)| format!("{} leaves {}", policy.as_str(), names(service, left))));
        }
        if picked.ttl == service.ttl_undecided && picked.ttl != service.ttl {
            steps.push("the state of a member is in doubt: the answer lives shorter".to_owned());
        }
        Some(Explanation {
            service: service.name.to_string(),
            site: site.map(|site| site.name.to_string()),
            cname: site.and_then(|site| site.cname.as_ref()).map(ToString::to_string),
            ipv4: addresses(Family::V4, Round::V4),
            ipv6: addresses(Family::V6, Round::V6),
            ttl: picked.ttl,
            // As the reply has it: never longer than what the query told.
            scope: subnet.map_or(picked.scope, |subnet| picked.scope.min(subnet.source)),
            refused: picked.outcome == Outcome::Refuse,
            steps,
        })
    }

    /// Why members are not answered, where nodes vote on it.
    fn words_on(&self, served: &Served, clocks: Clocks) -> Vec<String> {
        let out = served.status(self.fleet.as_deref(), clocks).into_iter().filter(|member| member.share == 0);
        let line = |member: MemberStatus| {
            let votes = member.votes?;
            let (site, address, code) = (member.site, member.member, member.code.unwrap_or("none"));
            Some(format!(
                "{site}/{address} is out ({code}): {} of {} nodes say down, {:?}",
                votes.down, votes.of, votes.why
            ))
        };
        out.filter_map(line).take(WORDS_MAX).collect()
    }

    fn place_of(&self, client: &Client, service: &Service) -> String {
        if !service.asks_place() {
            return "no policy asks for the client's place".to_owned();
        }
        let areas = service.sites.iter().flat_map(|site| &site.areas);
        let in_class: Vec<_> = areas.filter(|area| self.holds(client, area)).map(ToString::to_string).collect();
        format!(
            "the client is in {} (/{})",
            if in_class.is_empty() { "no known area".into() } else { in_class.join(", ") },
            client.class_prefix
        )
    }
}

/// As the configuration has it.
fn all_down(service: &Service) -> String {
    match &service.all_down {
        AllDown::All => "all".to_owned(),
        AllDown::LastKnown => "last_known".to_owned(),
        AllDown::Empty => "empty".to_owned(),
        AllDown::Refuse => "refuse".to_owned(),
        AllDown::Addresses(addresses) => addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        AllDown::Site(id) => {
            service.sites.get(usize::from(*id)).map_or_else(String::new, |site| format!("site {}", site.name))
        }
    }
}

fn names(service: &Service, set: SiteSet) -> String {
    let sites = service.order.iter().filter(|site| set & bit(**site) != 0);
    let names: Vec<_> =
        sites.filter_map(|site| service.sites.get(usize::from(*site))).map(|s| s.name.as_str()).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
