//! All published services of a snapshot: their compiled forms, what is known of their members, and the views made of both.

use super::{
    Family, Order, OrderError, Ordered, Outcome, PlaceMap, Places, PublicServiceSpec, Service,
    health::{Belief, Certainty, Change, MemberHealth, Withdrawals},
    order::{Forced, ORDERS_MAX},
    pick::{self, Chosen, Client, Draw, Pick, pick},
    service::{Registries, Site},
    spec::GeoSpec,
    view::{MemberFacts, Mood, SiteFacts, View},
};
use crate::edns::Subnet;
use arc_swap::ArcSwap;
use portcullis_config::{Context, Path};
use portcullis_health::{Failure, HealthState, Probe, ProbeKind};
use portcullis_names::{EndpointAddress, ObjectName};
use prometheus::IntCounter;
use serde::Serialize;
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Instant, SystemTime},
};

/// The published services of a snapshot.
#[derive(Debug, Default)]
pub(crate) struct Services {
    pub(crate) list: Vec<Served>,
    by_name: HashMap<ObjectName, usize>,
    map: PlaceMap,
    places: Places,
}

/// One service with its state.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) service: Service,
    view: ArcSwap<View>,
    /// A round for each kind of question: clients ask A and AAAA in step, and would else never see every other site.
    turns: Arc<[AtomicU64; 3]>,
    known: Arc<Mutex<Known>>,
    /// By code; resolved when the service answers first.
    pub(crate) counters: OnceLock<Vec<IntCounter>>,
}

/// What is known; outlives reloads.
#[derive(Debug, Default)]
struct Known {
    members: HashMap<(ObjectName, IpAddr), MemberHealth>,
    withdrawals: Withdrawals,
    orders: Vec<Order>,
    /// The last view with a fit site, for `last_known`.
    last: Option<View>,
}

/// Both clocks: `Instant` for intervals, seconds since 1970 for what people write.
#[derive(Debug, Clone, Copy)]
pub struct Clocks {
    pub instant: Instant,
    pub unix: u64,
}

impl Clocks {
    /// For whoever runs a server; logic is given them.
    pub fn read() -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Self { instant: Instant::now(), unix: since.unwrap_or_default().as_secs() }
    }
}

/// Kinds of questions, each with its own round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Round {
    V4,
    V6,
    Other,
}

/// A member to be asked.
pub(crate) struct CheckTarget {
    pub(crate) key: String,
    pub(crate) probe: Probe,
    pub(crate) service: ObjectName,
    pub(crate) site: ObjectName,
    pub(crate) member: IpAddr,
}

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
    pub for_seconds: u64,
    /// More fell than `max_withdraw` allows: all are answered.
    pub held: bool,
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
}

/// A member that somebody else watches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToldMember {
    pub upstream: ObjectName,
    /// Service, site, address: what [`crate::Snapshot::observe`] takes.
    pub member: (ObjectName, ObjectName, IpAddr),
}

const SERVICES_MAX: usize = 10_000;

impl Services {
    pub(crate) fn compile(
        specs: &BTreeMap<ObjectName, PublicServiceSpec>,
        geo: Option<&GeoSpec>,
        registries: Registries<'_>,
        previous: Option<&Self>,
        clocks: Clocks,
        cx: &mut Context,
    ) -> Self {
        let root = Path::root().key("public_service");
        if specs.len() > SERVICES_MAX {
            cx.error(&root, format!("more than {SERVICES_MAX} services"));
            return Self::default();
        }
        let mut places = Places::default();
        let mut compiled: Vec<(Service, &PublicServiceSpec)> = Vec::with_capacity(specs.len());
        for (name, spec) in specs {
            let at = root.key(name);
            check_nets(spec, geo, &at, cx);
            let Some(service) = Service::compile(name, spec, registries, &mut places, &at, cx) else { continue };
            if let Some((twin, _)) = compiled.iter().find(|(other, _)| other.host == service.host) {
                let other = root.key(&twin.name).key("host");
                cx.error(&at.key("host"), format!("{} is published twice", service.host)).also(&other, "here as well");
            }
            compiled.push((service, spec));
        }
        places.check(cx);
        let map = PlaceMap::compile(geo, &places, cx);
        let mut list = Vec::with_capacity(compiled.len());
        for (mut service, spec) in compiled {
            service.place(spec, &mut places, &map);
            let before = previous.and_then(|previous| previous.find(&service.name));
            list.push(Served::new(service, before, clocks));
        }
        let names = list.iter().enumerate();
        let by_name = names.map(|(index, served)| (served.service.name.clone(), index)).collect();
        Self { list, by_name, map, places }
    }

    pub(crate) fn find(&self, name: &ObjectName) -> Option<&Served> {
        self.list.get(*self.by_name.get(name)?)
    }

    /// The place of a client, as far as a service asks for it.
    pub(crate) fn client(&self, service: &Service, source: IpAddr, subnet: Option<&Subnet>) -> Client {
        Client::new(service.asks_place().then_some(&self.map), source, subnet)
    }

    pub(crate) fn holds(&self, client: &Client, area: &super::Area) -> bool {
        self.places.get(area).is_some_and(|id| self.map.areas(client.class).binary_search(&id).is_ok())
    }

    /// Takes in the outcome of a check; a member that is no more is forgotten.
    pub(crate) fn observe(
        &self,
        target: &(ObjectName, ObjectName, IpAddr),
        outcome: Result<(), Failure>,
        clocks: Clocks,
    ) -> Change {
        let (service, site, member) = target;
        let Some(served) = self.find(service) else { return Change::None };
        let Some((healthy, unhealthy)) = served.service.thresholds(site) else { return Change::None };
        let mut known = served.known();
        let Some(health) = known.members.get_mut(&(site.clone(), *member)) else { return Change::None };
        let change = health.observe(outcome, healthy, unhealthy, clocks.instant);
        if change == Change::Fell {
            known.withdrawals.fell(clocks.instant);
        }
        served.refresh(&mut known, clocks);
        change
    }

    /// Lets time do its part: slow starts, ends of orders and of holds. What an older snapshot was told at the moment of a
    /// reload is taken in as well.
    pub(crate) fn tick(&self, clocks: Clocks) {
        self.list.iter().for_each(|served| served.refresh(&mut served.known(), clocks));
    }

    pub(crate) fn settle(&self, clocks: Clocks) {
        for served in &self.list {
            let mut known = served.known();
            let wanted: HashSet<_> = served.service.members().collect();
            known.members.retain(|key, _| wanted.contains(key));
            served.refresh(&mut known, clocks);
        }
    }

    pub(crate) fn order(&self, order: Order, clocks: Clocks) -> Result<(), OrderError> {
        order.check()?;
        let Ordered { service, site, member } = &order.target;
        let served = self.find(service).ok_or_else(|| OrderError::NoService(service.clone()))?;
        let no_site = || OrderError::NoSite { service: service.clone(), site: site.clone() };
        let id = served.service.site(site.as_str()).ok_or_else(no_site)?;
        let members = served.service.sites.get(usize::from(id)).map_or(&[][..], |site| &site.members);
        if let Some(member) = member.filter(|member| !members.iter().any(|other| other.address == *member)) {
            return Err(OrderError::NoMember { site: site.clone(), member });
        }
        let mut known = served.known();
        // The newest for a target wins.
        known.orders.retain(|other| other.target != order.target && other.until > clocks.unix);
        if known.orders.len() >= ORDERS_MAX {
            return Err(OrderError::Many);
        }
        known.orders.push(order);
        served.refresh(&mut known, clocks);
        Ok(())
    }

    pub(crate) fn withdraw(&self, target: &Ordered, clocks: Clocks) {
        if let Some(served) = self.find(&target.service) {
            let mut known = served.known();
            known.orders.retain(|order| order.target != *target);
            served.refresh(&mut known, clocks);
        }
    }

    pub(crate) fn orders(&self) -> Vec<Order> {
        self.list.iter().flat_map(|served| served.known().orders.clone()).collect()
    }

    pub(crate) fn targets(&self) -> Vec<CheckTarget> {
        self.list.iter().flat_map(Served::targets).collect()
    }

    pub(crate) fn sites(&self, clocks: Clocks) -> Vec<SiteStatus> {
        self.list.iter().flat_map(|served| served.sites(clocks)).collect()
    }

    pub(crate) fn told(&self) -> Vec<ToldMember> {
        let sites = self.list.iter().flat_map(|served| served.service.sites.iter().map(move |site| (served, site)));
        let told = |(served, site): (&Served, &Site)| {
            let (service, name) = (served.service.name.clone(), site.name.clone());
            let upstream = site.upstream.clone()?;
            let each = site.members.iter().map(move |member| ToldMember {
                upstream: upstream.clone(),
                member: (service.clone(), name.clone(), member.address),
            });
            Some(each.collect::<Vec<_>>())
        };
        sites.filter_map(told).flatten().collect()
    }

    pub(crate) fn status(&self, clocks: Clocks) -> Vec<MemberStatus> {
        self.list.iter().flat_map(|served| served.status(clocks)).collect()
    }
}

/// Lists that areas name must be there.
fn check_nets(spec: &PublicServiceSpec, geo: Option<&GeoSpec>, at: &Path, cx: &mut Context) {
    let sites = spec.sites.0.iter();
    let named = sites.flat_map(|(name, site)| {
        let at = at.key("sites").key(name).key("areas");
        site.areas.iter().enumerate().map(move |(index, area)| (at.index(index), area))
    });
    let latency = spec.latency.keys().map(|area| (at.key("latency").key(area), area));
    let named: Vec<_> = named.chain(latency).collect();
    for (at, area) in named {
        let has_databases = geo.is_some_and(|geo| !geo.databases.is_empty());
        match area {
            super::Area::Nets(list) if !geo.is_some_and(|geo| geo.nets.contains_key(list)) => {
                let lists = geo.map(|geo| geo.nets.keys()).into_iter().flatten();
                cx.undefined(&at, "nets", list.as_str(), lists.map(ObjectName::as_str).collect::<Vec<_>>());
            }
            super::Area::Continent(_) | super::Area::Country(_) | super::Area::Subdivision(_) | super::Area::Asn(_)
                if !has_databases =>
            {
                cx.error(&at, format!("{area} is known from a database only")).help("give `[dns.geo] databases`");
            }
            _ => {}
        }
    }
}

impl Served {
    fn new(service: Service, before: Option<&Self>, clocks: Clocks) -> Self {
        let known = before.map_or_else(Arc::default, |before| before.known.clone());
        let turns = before.map_or_else(Arc::default, |before| before.turns.clone());
        {
            let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
            for key in service.members() {
                known.members.entry(key).or_insert_with(|| MemberHealth::new(clocks.instant));
            }
        }
        let view = View { fit: 0, shares: Vec::new(), mood: Mood::AllDown, certainty: Certainty::Undecided };
        let served = Self { service, view: ArcSwap::from_pointee(view), turns, known, counters: OnceLock::new() };
        served.refresh(&mut served.known(), clocks);
        served
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn view(&self) -> arc_swap::Guard<Arc<View>> {
        self.view.load()
    }

    fn refresh(&self, known: &mut Known, clocks: Clocks) {
        known.orders.retain(|order| order.until > clocks.unix);
        let facts = self.facts(known, clocks.unix);
        let members = self.service.sites.iter().map(|site| site.members.len()).sum();
        let (window, max) = (self.service.withdraw_window, self.service.max_withdraw);
        let belief = known.withdrawals.belief(window, max, members, clocks.instant);
        let view = View::derive(&self.service, &facts, belief, known.last.as_ref(), clocks.instant);
        if view.mood != Mood::AllDown {
            known.last = Some(view.clone());
        }
        if **self.view.load() != view {
            self.view.store(Arc::new(view));
        }
    }

    fn facts(&self, known: &Known, now: u64) -> Vec<SiteFacts> {
        let forced = |site: &ObjectName, member: Option<IpAddr>| {
            let of_target = |order: &&Order| order.target.site == *site && order.target.member == member;
            known.orders.iter().filter(|order| order.is_in_force(now)).find(of_target).map(|order| order.forced)
        };
        let member = |site: &ObjectName, address: IpAddr| {
            let health = known.members.get(&(site.clone(), address));
            MemberFacts {
                state: health.map_or(HealthState::Unknown, MemberHealth::state),
                certainty: health.map_or(Certainty::Undecided, |health| health.certainty),
                recovered: health.and_then(|health| health.recovered),
                forced: forced(site, Some(address)),
            }
        };
        let site = |site: &Site| SiteFacts {
            members: site.members.iter().map(|one| member(&site.name, one.address)).collect(),
            forced: forced(&site.name, None),
        };
        self.service.sites.iter().map(site).collect()
    }

    /// The view as it would be if these were down.
    pub(crate) fn view_if(&self, down: &[Ordered], clocks: Clocks) -> View {
        let known = self.known();
        let mut facts = self.facts(&known, clocks.unix);
        for (site, facts) in self.service.sites.iter().zip(&mut facts) {
            for target in down.iter().filter(|target| target.site == site.name) {
                match target.member {
                    None => facts.members.iter_mut().for_each(|member| member.state = HealthState::Down),
                    Some(address) => {
                        let members = site.members.iter().zip(&mut facts.members);
                        let of_target = members.filter(|(member, _)| member.address == address);
                        of_target.for_each(|(_, facts)| facts.state = HealthState::Down);
                    }
                }
                if site.members.is_empty() {
                    facts.forced = Some(Forced::Down);
                }
            }
        }
        View::derive(&self.service, &facts, Belief::Believed, known.last.as_ref(), clocks.instant)
    }

    /// One more turn of the round.
    pub(crate) fn draw(&self, random: u64, round: Round) -> Draw {
        let turn = self.turns.get(round as usize).map_or(0, |turn| turn.fetch_add(1, Relaxed));
        Draw { random, turn }
    }

    /// The turn that the next query will have.
    pub(crate) fn next_draw(&self, random: u64, round: Round) -> Draw {
        Draw { random, turn: self.turns.get(round as usize).map_or(0, |turn| turn.load(Relaxed)) }
    }

    pub(crate) fn pick(&self, view: &View, client: &Client, draw: Draw) -> Pick {
        pick(&self.service, view, client, draw)
    }

    /// The addresses of a family that a pick stands for.
    pub(crate) fn addresses(
        &self,
        picked: &Pick,
        view: &View,
        client: &Client,
        draw: Draw,
        family: Family,
    ) -> Vec<IpAddr> {
        match picked.outcome {
            Outcome::Site(id) => {
                let chosen: Chosen = pick::members(&self.service, id, view, client, draw, family);
                let site = self.service.sites.get(usize::from(id));
                site.map(|site| chosen.addresses(site).collect()).unwrap_or_default()
            }
            Outcome::Addresses => match &self.service.all_down {
                super::service::AllDown::Addresses(list) => {
                    list.iter().copied().filter(|address| family.holds(*address)).collect()
                }
                _ => Vec::new(),
            },
            Outcome::Empty | Outcome::Refuse => Vec::new(),
        }
    }

    fn targets(&self) -> Vec<CheckTarget> {
        let Some(check) = &self.service.check else { return Vec::new() };
        let kind = || match &check.tls {
            None => ProbeKind::Clear,
            Some(tls) => ProbeKind::Tls { config: tls.config(b"http/1.1"), server_name: tls.server_name.clone() },
        };
        let mut targets = Vec::new();
        for site in self.service.sites.iter().filter(|site| site.upstream.is_none()) {
            for member in &site.members {
                let address = SocketAddr::new(member.address, check.port);
                let tls = check.tls.as_ref().map(|tls| tls.server_name.to_str().into_owned());
                targets.push(CheckTarget {
                    key: format!("{} {} {address} {:?} {tls:?}", self.service.name, site.name, check.check),
                    probe: Probe { address: EndpointAddress::Ip(address), kind: kind(), check: check.check.clone() },
                    service: self.service.name.clone(),
                    site: site.name.clone(),
                    member: member.address,
                });
            }
        }
        targets
    }

    fn sites(&self, clocks: Clocks) -> Vec<SiteStatus> {
        let facts = self.facts(&self.known(), clocks.unix);
        let view = self.view();
        let each = self.service.sites.iter().zip(&facts).zip(&view.shares).enumerate();
        let status = |(index, ((site, facts), shares)): (usize, ((&Site, &SiteFacts), &Vec<u16>))| SiteStatus {
            service: self.service.name.clone(),
            host: self.service.host.to_string(),
            site: site.name.clone(),
            fit: view.fit & super::service::bit(index as u8) != 0,
            forced: facts.forced,
            members: site.members.len(),
            up: shares.iter().filter(|share| **share > 0).count(),
            mood: match view.mood {
                Mood::Normal => None,
                Mood::Held => Some("held"),
                Mood::AllDown => Some("all_down"),
            },
        };
        each.map(status).collect()
    }

    fn status(&self, clocks: Clocks) -> Vec<MemberStatus> {
        let known = self.known();
        let facts = self.facts(&known, clocks.unix);
        let view = self.view();
        let mut all = Vec::new();
        for (index, ((site, facts), shares)) in self.service.sites.iter().zip(&facts).zip(&view.shares).enumerate() {
            for ((member, facts_of_member), share) in site.members.iter().zip(&facts.members).zip(shares) {
                let health = known.members.get(&(site.name.clone(), member.address));
                let since = health.map(|health| clocks.instant.saturating_duration_since(health.since()));
                all.push(MemberStatus {
                    service: self.service.name.clone(),
                    site: site.name.clone(),
                    member: member.address,
                    state: facts_of_member.state,
                    share: *share,
                    site_fit: view.fit & super::service::bit(index as u8) != 0,
                    forced: facts_of_member.forced.or(facts.forced),
                    reason: health.and_then(|health| health.last_failure()).map(|failure| failure.to_string()),
                    for_seconds: since.unwrap_or_default().as_secs(),
                    held: view.mood == Mood::Held,
                });
            }
        }
        all
    }
}
