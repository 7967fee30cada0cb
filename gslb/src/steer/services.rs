//! All published services of a snapshot: their compiled forms, what is known of their members, and the views made of both.

use super::{
    Family, Lack, Order, OrderError, Ordered, Outcome, PlaceMap, Places, PublicServiceSpec, Service,
    evidence::Known,
    health::{Belief, Certainty, Change, MemberHealth},
    order::{Forced, ORDERS_MAX},
    pick::{self, Client, Draw, Pick, pick},
    service::{Registries, Site},
    spec::GeoSpec,
    terms::Lock,
    view::{Mood, View},
};
use crate::{
    edns::Subnet,
    fleet::{Fleet, Word},
};
use arc_swap::ArcSwap;
use portcullis_config::{Context, Path};
use portcullis_health::{Failure, HealthState, Probe, ProbeKind};
use portcullis_names::{EndpointAddress, ObjectName};
use prometheus::IntCounter;
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};

/// The published services of a snapshot.
#[derive(Debug, Default)]
pub(crate) struct Services {
    pub(crate) list: Vec<Served>,
    pub(super) by_name: HashMap<ObjectName, usize>,
    map: PlaceMap,
    places: Places,
    /// Other nodes whose word counts.
    pub(crate) fleet: Option<Arc<Fleet>>,
}

/// One service with its state.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) service: Service,
    view: ArcSwap<View>,
    /// A round for each kind of question: clients ask A and AAAA in step, and would else never see every other site.
    turns: Arc<[AtomicU64; 3]>,
    known: Arc<Mutex<Known>>,
    /// Services that it needs, and that need it, by index.
    pub(super) needs: Vec<usize>,
    pub(super) needed_by: Vec<usize>,
    /// By code; resolved when the service answers first.
    pub(crate) counters: OnceLock<Vec<IntCounter>>,
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
        fleet: Option<Fleet>,
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
        let fleet = fleet.map(Arc::new);
        for (service, _) in &compiled {
            service.terms.check(fleet.as_ref().map(|fleet| &fleet.plan), &root.key(&service.name), cx);
        }
        let mut list = Vec::with_capacity(compiled.len());
        for (mut service, spec) in compiled {
            service.place(spec, &mut places, &map);
            let before = previous.and_then(|previous| previous.find(&service.name));
            list.push(Served::new(service, before, fleet.as_deref(), clocks));
        }
        let names = list.iter().enumerate();
        let by_name = names.map(|(index, served)| (served.service.name.clone(), index)).collect();
        let mut services = Self { list, by_name, map, places, fleet };
        services.link(cx);
        for served in services.list.iter().filter(|served| !served.needs.is_empty()) {
            served.follow(services.lacks(served), services.fleet(), clocks);
        }
        services
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
        rtt: Option<Duration>,
        clocks: Clocks,
    ) -> Change {
        let (service, site, member) = target;
        let Some(served) = self.find(service) else { return Change::None };
        let Some((healthy, unhealthy)) = served.service.thresholds(site) else { return Change::None };
        let mut known = served.known();
        let Some(health) = known.members.get_mut(&(site.clone(), *member)) else { return Change::None };
        let before = health.word();
        let change = health.observe(outcome, healthy, unhealthy, clocks.instant);
        if outcome.is_ok() {
            health.rtt = rtt;
        }
        let is_news = health.word() != before;
        if is_news {
            health.says_anew(clocks.unix);
        }
        // In a fleet it has not fallen before the others agree.
        let key = (site.clone(), *member);
        match change {
            Change::Fell if self.fleet.is_none() => known.withdrawals.fell(&key, clocks.instant),
            Change::Rose if self.fleet.is_none() => known.withdrawals.rose(&key),
            Change::Fell | Change::Rose | Change::None => {}
        }
        // The same again is the commonest of all outcomes; what time does is done by ticks.
        if is_news || change != Change::None {
            served.refresh(&mut known, self.fleet(), clocks);
            drop(known);
            self.tell_dependents(served, clocks);
        }
        if is_news && let Some(fleet) = &self.fleet {
            fleet.news();
        }
        change
    }

    /// Lets time do its part: slow starts, ends of orders and of holds. What an older snapshot was told at the moment of a
    /// reload is taken in as well.
    pub(crate) fn tick(&self, clocks: Clocks) {
        if let Some(fleet) = &self.fleet {
            fleet.look_at_own_eyes(self.fall(fleet.plan.rules.hold), clocks.instant);
        }
        self.list.iter().for_each(|served| served.refresh(&mut served.known(), self.fleet(), clocks));
        for served in self.list.iter().filter(|served| !served.needs.is_empty()) {
            served.follow(self.lacks(served), self.fleet(), clocks);
        }
    }

    /// Looks at those of which the fleet is not of one mind yet, or has just become it.
    pub(crate) fn merge(&self, clocks: Clocks) {
        let Some(fleet) = &self.fleet else { return };
        for served in &self.list {
            let mut known = served.known();
            if known.is_undecided() {
                served.refresh(&mut known, Some(fleet), clocks);
            }
        }
    }

    fn fleet(&self) -> Option<&Fleet> {
        self.fleet.as_deref()
    }

    /// When the first and the last of the members fell, if all that we check are down and at least two of them fell within
    /// `span` of the last: what has been down for long says nothing about our eyes.
    fn fall(&self, span: Duration) -> Option<(Instant, Instant)> {
        let mut falls = Vec::new();
        for served in &self.list {
            for member in served.known().members.values() {
                match member.word() {
                    Word::Down => falls.push(member.since()),
                    Word::Up | Word::Degraded => return None,
                    Word::Unknown => {}
                }
            }
        }
        let last = *falls.iter().max()?;
        let together = falls.into_iter().filter(|fall| last.saturating_duration_since(*fall) <= span);
        let together: Vec<_> = together.collect();
        (together.len() > 1).then(|| together.iter().min().map(|first| (*first, last))).flatten()
    }

    pub(crate) fn settle(&self, clocks: Clocks) {
        for served in &self.list {
            let mut known = served.known();
            let wanted: HashSet<_> = served.service.members().collect();
            known.members.retain(|key, _| wanted.contains(key));
            known.merged.retain(|key, _| wanted.contains(key));
            known.loads.retain(|key, _| wanted.contains(key));
            served.refresh(&mut known, self.fleet(), clocks);
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
        if served.service.terms.lock == Lock::Configuration {
            return Err(OrderError::Locked(service.clone()));
        }
        let mut known = served.known();
        if known.orders.len() >= ORDERS_MAX {
            return Err(OrderError::Many);
        }
        known.take(order, clocks.unix);
        served.refresh(&mut known, self.fleet(), clocks);
        drop(known);
        self.tell_dependents(served, clocks);
        if let Some(fleet) = &self.fleet {
            fleet.news();
        }
        Ok(())
    }

    pub(crate) fn withdraw(&self, target: &Ordered, clocks: Clocks) {
        if let Some(served) = self.find(&target.service) {
            let mut known = served.known();
            known.orders.retain(|order| order.target != *target);
            served.refresh(&mut known, self.fleet(), clocks);
            drop(known);
            self.tell_dependents(served, clocks);
        }
    }

    pub(crate) fn orders(&self) -> Vec<Order> {
        self.list.iter().flat_map(|served| served.known().orders.clone()).collect()
    }

    pub(crate) fn targets(&self) -> Vec<CheckTarget> {
        let checks = |served: &&Served| {
            let vantages = &served.service.terms.vantages;
            self.fleet.as_ref().is_none_or(|fleet| fleet.plan.is_among(vantages))
        };
        self.list.iter().filter(checks).flat_map(Served::targets).collect()
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
    fn new(service: Service, before: Option<&Self>, fleet: Option<&Fleet>, clocks: Clocks) -> Self {
        let known = before.map_or_else(Arc::default, |before| before.known.clone());
        let turns = before.map_or_else(Arc::default, |before| before.turns.clone());
        {
            let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
            for key in service.members() {
                known.members.entry(key).or_insert_with(|| MemberHealth::new(clocks.instant));
            }
        }
        let view = View::new(0, Vec::new(), Mood::AllDown, Certainty::Undecided);
        let served = Self {
            service,
            view: ArcSwap::from_pointee(view),
            turns,
            known,
            needs: Vec::new(),
            needed_by: Vec::new(),
            counters: OnceLock::new(),
        };
        served.refresh(&mut served.known(), fleet, clocks);
        served
    }

    pub(super) fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn view(&self) -> arc_swap::Guard<Arc<View>> {
        self.view.load()
    }

    pub(super) fn refresh(&self, known: &mut Known, fleet: Option<&Fleet>, clocks: Clocks) {
        known.orders.retain(|order| order.until > clocks.unix);
        if let Some(fleet) = fleet {
            known.merge(&self.service, fleet, fleet.eyes(clocks.instant), clocks);
        }
        known.damp(&self.service, fleet, clocks.instant);
        let facts = known.facts(&self.service, fleet, clocks.unix);
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

    /// Takes in what its sites lack of services that it needs.
    pub(super) fn follow(&self, lacks: Vec<Lack>, fleet: Option<&Fleet>, clocks: Clocks) {
        let mut known = self.known();
        if known.lacks != lacks {
            known.lacks = lacks;
            self.refresh(&mut known, fleet, clocks);
        }
    }

    /// Whether a site is fit; `None`: there is none of that name.
    pub(super) fn has_fit(&self, site: &ObjectName) -> Option<bool> {
        let id = self.service.site(site.as_str())?;
        let view = self.view();
        // While all are down, all are as good as none.
        Some(view.mood != Mood::AllDown && view.fit & super::service::bit(id) != 0)
    }

    /// The view as it would be if these were down.
    pub(crate) fn view_if(&self, down: &[Ordered], fleet: Option<&Fleet>, clocks: Clocks) -> View {
        let known = self.known();
        let mut facts = known.facts(&self.service, fleet, clocks.unix);
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
        let mut addresses = Vec::new();
        let visit = |address| -> Result<(), std::convert::Infallible> {
            addresses.push(address);
            Ok(())
        };
        match self.visit(picked, view, client, draw, family, visit) {
            Ok(()) => addresses,
        }
    }

    /// The same one by one, without a place to put them.
    pub(crate) fn visit<E>(
        &self,
        picked: &Pick,
        view: &View,
        client: &Client,
        draw: Draw,
        family: Family,
        mut visit: impl FnMut(IpAddr) -> Result<(), E>,
    ) -> Result<(), E> {
        match (picked.outcome, &self.service.all_down) {
            (Outcome::Site(id), _) => {
                let chosen = pick::members(&self.service, id, view, client, draw, family);
                let site = self.service.sites.get(usize::from(id));
                site.map_or(Ok(()), |site| chosen.addresses(site).try_for_each(visit))
            }
            (Outcome::Addresses, super::service::AllDown::Addresses(list)) => {
                list.iter().copied().filter(|address| family.holds(*address)).try_for_each(&mut visit)
            }
            (Outcome::Addresses | Outcome::Empty | Outcome::Refuse, _) => Ok(()),
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
}
