//! Everything that answers are made from, compiled from a document and never changed.

use crate::{
    Name,
    answer::{self, Asked, Handled},
    compiled::CompiledAnswers,
    edns::Subnet,
    fleet::{Document, DocumentError, Fleet, FleetStatus, GatewayReport},
    kept::Kept,
    memory::Memory,
    plan::ServerPlan,
    query::KeySpace,
    rdata,
    spec::GslbSpec,
    steer::{
        Clocks, Explanation, MemberStatus, Order, OrderError, Ordered, Registries, Services, SiteStatus, Stamp,
        ToldMember, WhatIf,
    },
    zone::{Alias, Found},
    zones::Zones,
};
use bytes::Bytes;
use portcullis_config::{Context, Path};
use portcullis_names::ObjectName;
use std::{net::IpAddr, sync::Arc, time::Duration};

/// How nodes hear of one another.
#[derive(Debug, Clone)]
pub struct Pace {
    /// A store through which documents go as well.
    pub store: Option<ObjectName>,
    pub poll: Duration,
    pub stale_after: Duration,
}

/// What serves. Replaced as a whole; only what is known of members lives on from one to the next.
#[derive(Debug)]
pub struct Snapshot {
    pub(crate) zones: Zones,
    pub(crate) services: Services,
    pub(crate) plan: ServerPlan,
    pub(crate) compiled: CompiledAnswers,
    pub(crate) kept: Kept,
    pub(crate) memory: Memory,
}

impl Snapshot {
    /// Compiles the tables of a document; problems go to `cx`. `previous` lends what survives a reload: serials, states,
    /// orders, secrets.
    pub fn compile(
        spec: &GslbSpec,
        registries: Registries<'_>,
        previous: Option<&Self>,
        clocks: Clocks,
        cx: &mut Context,
    ) -> Arc<Self> {
        // Serials wrap as RFC 1982 says.
        let keys: Vec<_> = spec.dns.iter().flat_map(|dns| dns.tsig.keys()).map(ObjectName::as_str).collect();
        let before = previous.map(|previous| &previous.zones);
        let kept = previous.map(|previous| previous.kept.clone());
        let kept = kept.unwrap_or_else(|| Kept::new(spec.state.clone()));
        let mut zones = Zones::compile(&spec.zone, before, &keys, &kept, clocks.unix as u32, cx);
        let plan = ServerPlan::compile(spec.dns.as_ref(), spec.logged, previous.map(|previous| &previous.plan), cx);
        let geo = spec.dns.as_ref().and_then(|dns| dns.geo.as_ref());
        let before = previous.map(|previous| &previous.services);
        let memory = previous.map(|previous| previous.memory.clone());
        let is_first = memory.is_none();
        let memory = memory.unwrap_or_else(|| Memory::open(spec.state.as_ref(), clocks.unix));
        let fleet = spec.dns.as_ref().and_then(|dns| dns.fleet.as_ref());
        let fleet = fleet.map(|fleet| {
            let before = before.and_then(|before| before.fleet.as_deref());
            Fleet::compile(fleet, digest(spec), registries, before, memory.epoch(), cx)
        });
        let services = Services::compile(&spec.public_service, geo, registries, fleet, before, clocks, cx);
        if is_first {
            memory.remind(&services, clocks);
        }
        for (index, served) in services.list.iter().enumerate() {
            let at = Path::root().key("public_service").key(&served.service.name).key("host");
            let has_cname = served.service.sites.iter().any(|site| site.cname.is_some());
            let alias = if has_cname { Alias::Possible } else { Alias::Never };
            match zones.find_mut(served.service.host.as_wire()) {
                None => {
                    let help = "a published name lies in one of the zones";
                    cx.error(&at, format!("no zone holds {}", served.service.host)).help(help);
                }
                Some(zone) if zone.is_given_signed() => {
                    let message = format!(
                        "zone {} is signed and given to secondaries, which cannot sign what this service answers",
                        zone.zone.apex
                    );
                    cx.error(&at, message)
                        .help("leave out `dnssec` or `transfer` of the zone, or put the name into a zone of its own");
                }
                // What somebody else wrote must not keep our own document from being served.
                Some(zone) if zone.zone.signer.as_ref().is_some_and(|signer| signer.presigned().is_some()) => {
                    let message =
                        format!("zone {} came signed: nothing can be answered in it by others", zone.zone.apex);
                    cx.warning(&at, message).help("put the name into a zone of its own");
                }
                Some(zone) => {
                    if let Err(message) = zone.zone.publish(&served.service.host, index, alias) {
                        cx.error(&at, message);
                    }
                    if let Some(roll) = &mut zone.roll {
                        roll.holds(served.service.ttl);
                    }
                }
            }
        }
        let types = |index: usize| services.list.get(index).map_or_else(Vec::new, |served| served.service.types());
        let now = clocks.unix as u32;
        for served in &mut zones.zones {
            served.zone.link(&types);
            served.sign_all(now);
            match previous.and_then(|previous| Some((previous.zones.get(&served.zone.apex)?, &previous.services))) {
                Some(before) => served.follow(&services, before, now, cx),
                None => {
                    served.resume(&services, &kept.journals);
                    served.zone.sign_soa(now);
                }
            }
        }
        let mut snapshot = Self { zones, services, plan, compiled: CompiledAnswers::default(), kept, memory };
        snapshot.compiled = CompiledAnswers::new(&snapshot);
        Arc::new(snapshot)
    }

    /// To be called when it has been published: forgets members that are no more, and takes in what became known of the others
    /// while it was compiled. Compiling alone changes nothing of what serves.
    pub fn settle(&self, clocks: Clocks) {
        self.services.settle(clocks);
        self.keep_journals();
    }

    /// To be called when it serves: notes for the next process what changed in zones that are given away. Waits for the disk.
    pub fn keep_journals(&self) {
        for served in &self.zones.zones {
            served.keep_journal(&self.services, &self.kept.journals);
        }
    }

    /// The reply to one message, as the wire has it; `None`: it gets none. What the server does but for rate limits.
    pub fn answer(&self, message: &[u8], asked: &Asked) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        match answer::respond(self, message, asked, &mut KeySpace::default(), &mut out) {
            Handled::Replied(_) => Some(out),
            Handled::Silent => None,
        }
    }

    /// DS records for the parents of signed zones, as lines of a zone file.
    pub fn ds(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for zone in &self.zones.zones {
            let Some(signer) = &zone.zone.signer else { continue };
            for ds in signer.ds(&zone.zone.apex) {
                lines.push(format!("{} IN DS {}", zone.zone.apex, rdata::display(crate::RecordType::DS, &ds)));
            }
        }
        lines
    }

    /// Why a client gets what it gets: the data path's own choice. `None`: no published service answers for the name.
    pub fn explain(
        &self,
        name: &Name,
        source: IpAddr,
        subnet: Option<(IpAddr, u8)>,
        what_if: &WhatIf,
        clocks: Clocks,
    ) -> Option<Explanation> {
        let (_, zone) = self.zones.find(name.as_wire(), crate::RecordType::A)?;
        let node = match zone.zone.find(name.as_wire()) {
            Found::Exact(node) | Found::Wildcard { node, .. } => node,
            Found::Cut { .. } | Found::Dname { .. } | Found::Missing { .. } => return None,
        };
        let subnet = subnet.map(|(address, source)| Subnet { address: Some(address), source });
        self.services.explain(node.service?, source, subnet.as_ref(), what_if, clocks)
    }

    /// Every member with its state, for an admin page.
    pub fn members(&self, clocks: Clocks) -> Vec<MemberStatus> {
        self.services.status(clocks)
    }

    /// Every site of every published service.
    pub fn sites(&self, clocks: Clocks) -> Vec<SiteStatus> {
        self.services.sites(clocks)
    }

    /// Upstreams that sites have their members from.
    pub fn upstreams(&self) -> impl Iterator<Item = &ObjectName> {
        let services = self.services.list.iter();
        services.flat_map(|served| &served.service.sites).filter_map(|site| site.upstream.as_ref())
    }

    /// Members whose state is to be told by [`Snapshot::observe`].
    pub fn told(&self) -> Vec<ToldMember> {
        self.services.told()
    }

    /// Forces the state of a member or a site. Holds over reloads; [`Snapshot::orders`] is what to keep over restarts.
    pub fn order(&self, order: Order, clocks: Clocks) -> Result<(), OrderError> {
        self.services.order(order, clocks)
    }

    /// Takes an order back.
    pub fn withdraw(&self, target: &Ordered, clocks: Clocks) {
        self.services.withdraw(target, clocks);
    }

    pub fn orders(&self) -> Vec<Order> {
        self.services.orders()
    }

    /// Takes in what somebody else found out about a member: an outcome as a check has it.
    pub fn observe(
        &self,
        member: &(ObjectName, ObjectName, IpAddr),
        outcome: Result<(), portcullis_health::Failure>,
        clocks: Clocks,
    ) {
        self.services.observe(member, outcome, None, clocks);
    }

    /// How full a member is, in thousandths, as the gateway sees it whose traffic it carries.
    pub fn tell_load(&self, member: &(ObjectName, ObjectName, IpAddr), load: Option<u16>) {
        self.services.tell_load(member, load);
    }

    /// Lets time do its part. To be called a few times a second in a fleet, and every second at least.
    pub fn tick(&self, clocks: Clocks) {
        self.services.tick(clocks);
    }

    /// Publishes what this node sees to its fleet, if that is news; the document as it goes out. `None`: there is no fleet.
    pub fn publish(&self, clocks: Clocks) -> Option<Bytes> {
        self.services.publish(clocks);
        Some(self.services.fleet.as_ref()?.published().borrow().octets.clone())
    }

    /// Takes in what a peer said. `their_clock`: what its clock said when it answered, in seconds since 1970.
    pub fn hear(
        &self,
        peer: &ObjectName,
        octets: &[u8],
        their_clock: u64,
        clocks: Clocks,
    ) -> Result<(), DocumentError> {
        self.services.hear(peer, Document::parse(octets)?, their_clock, clocks)
    }

    /// The fleet as this node sees it.
    pub fn fleet(&self, clocks: Clocks) -> Option<FleetStatus> {
        Some(self.services.fleet.as_ref()?.status(clocks.instant))
    }

    /// How often and by what way nodes are to hear of one another; `None`: there is no fleet.
    pub fn pace(&self) -> Option<Pace> {
        let plan = &self.services.fleet.as_ref()?.plan;
        Some(Pace { store: plan.store.clone(), poll: plan.poll, stale_after: plan.stale_after })
    }

    /// What the gateway beside this node says of itself, for its fleet.
    pub fn report(&self, report: GatewayReport) {
        if let Some(fleet) = &self.services.fleet {
            fleet.report(report);
        }
    }

    /// The stamp of an order that is given now; `None`: there is no fleet, and nothing to be newer than.
    pub fn stamp(&self, clocks: Clocks) -> Option<Stamp> {
        Some(self.services.fleet.as_ref()?.stamp(clocks.unix))
    }

    /// How many members this node asks.
    pub fn checks(&self) -> usize {
        self.services.targets().len()
    }

    /// Keeps what is known of members for the next start. Waits for the disk.
    pub fn save_memory(&self, clocks: Clocks) -> std::io::Result<()> {
        self.memory.save(&self.services, clocks)
    }

    /// RFC 5001. A node that is alone says so: whoever wonders about an answer asks for it.
    pub(crate) fn nsid(&self) -> Option<&[u8]> {
        let is_isolated = self.services.fleet.as_ref().is_some_and(|fleet| fleet.was_isolated());
        if is_isolated { self.plan.nsid_isolated.as_deref() } else { self.plan.nsid.as_deref() }
    }

    pub(crate) fn service_name(&self, index: usize) -> Option<&str> {
        self.services.list.get(index).map(|served| served.service.name.as_str())
    }
}

/// Of what nodes of a fleet should have alike: zones and services, not who a node is.
fn digest(spec: &GslbSpec) -> String {
    let alike = serde_json::to_vec(&(&spec.zone, &spec.public_service)).unwrap_or_default();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &alike);
    data_encoding::HEXLOWER.encode(digest.as_ref().get(..16).unwrap_or_default())
}
