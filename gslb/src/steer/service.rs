//! A published service, compiled: sites and members by index, places by class. Holds no state.

use super::{
    Area, Balance, Maintenance, Places, Policy, PublicServiceSpec, Spread, Terms,
    place::{AreaId, PlaceMap},
    spec::{AllDownSpec, BindingSpec, MemberSpec, SiteSpec},
};
use crate::{
    Name, RecordType,
    svcb::{self, Params},
    zones::{domain, whole_seconds},
};
use portcullis_config::{Context, Path};
use portcullis_health::{Ask, HealthCheck};
use portcullis_names::{ObjectName, Percent, TimeSpan};
use portcullis_tls::{Certificates, Trusts, UpstreamTls};
use std::{
    collections::{BTreeMap, HashMap},
    hash::{Hash, Hasher},
    net::IpAddr,
    num::{NonZeroU8, NonZeroU16, NonZeroU32},
    time::Duration,
};

/// One published service.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) name: ObjectName,
    pub(crate) host: Name,
    pub(crate) sites: Vec<Site>,
    pub(crate) policies: Vec<Policy>,
    pub(crate) spread: Spread,
    pub(crate) ttl: u32,
    pub(crate) ttl_undecided: u32,
    pub(crate) all_down: AllDown,
    pub(crate) check: Option<Check>,
    pub(crate) slow_start: Duration,
    pub(crate) max_withdraw: Percent,
    pub(crate) withdraw_window: Duration,
    pub(crate) https: Option<Params>,
    pub(crate) svcb: Option<Params>,
    pub(crate) terms: Terms,
    /// Sites by preference.
    pub(crate) order: Vec<SiteId>,
    /// What each class of places prefers.
    rules: Vec<Rule>,
    rule_of_class: Vec<u16>,
}

pub(crate) type SiteId = u8;
/// A set of sites, a bit each.
pub(crate) type SiteSet = u64;

#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) name: ObjectName,
    pub(crate) members: Vec<Member>,
    /// Whose endpoints the members are, and who says how they are.
    pub(crate) upstream: Option<ObjectName>,
    pub(crate) cname: Option<Name>,
    pub(crate) weight: u32,
    pub(crate) areas: Vec<Area>,
    pub(crate) balance: Balance,
    pub(crate) count: usize,
    pub(crate) min_up: usize,
    pub(crate) maintenance: Vec<Maintenance>,
    /// Of the name: equal on every node, so that all give a client the same answer.
    pub(crate) hash: u64,
}

#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) address: IpAddr,
    pub(crate) weight: u32,
    pub(crate) hash: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AllDown {
    All,
    LastKnown,
    Empty,
    Refuse,
    Addresses(Vec<IpAddr>),
    Site(SiteId),
}

/// How members are asked.
#[derive(Debug)]
pub(crate) struct Check {
    pub(crate) check: HealthCheck,
    pub(crate) port: u16,
    pub(crate) tls: Option<UpstreamTls>,
}

/// What one class of places prefers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Rule {
    /// Sites whose areas hold the client, narrowest areas first.
    pub(crate) tiers: Vec<SiteSet>,
    /// Milliseconds to each site, by the narrowest area that has a row.
    pub(crate) latency: Option<Vec<u32>>,
    /// What `tolerance` adds to the nearest.
    pub(crate) tolerance: u32,
}

/// What names in a service can refer to.
#[derive(Debug, Clone, Copy)]
pub struct Registries<'r> {
    pub certificates: &'r Certificates,
    pub trusts: &'r Trusts,
    /// Addresses of the endpoints of each upstream of the process.
    pub upstreams: &'r BTreeMap<ObjectName, Endpoints>,
}

/// What an upstream lends to a site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoints {
    Written(Vec<IpAddr>),
    /// Found by asking around: as they are now, maybe none yet.
    Found(Vec<IpAddr>),
}

/// A set of sites is one word.
const SITES_MAX: usize = 64;
/// Members of one site; the members of one answer are counted in a byte.
const MEMBERS_MAX: usize = 1_000;
pub(crate) const COUNT_MAX: usize = 16;
/// A latency that is not in the table.
const FAR: u32 = u32::MAX;

impl Service {
    /// Compiles all but the rules, which need the places of all services.
    pub(crate) fn compile(
        name: &ObjectName,
        spec: &PublicServiceSpec,
        registries: Registries<'_>,
        places: &mut Places,
        at: &Path,
        cx: &mut Context,
    ) -> Option<Self> {
        let host = domain(&spec.host, &at.key("host"), cx);
        let sites_at = at.key("sites");
        if spec.sites.0.is_empty() || spec.sites.0.len() > SITES_MAX {
            cx.error(&sites_at, format!("a service has 1 to {SITES_MAX} sites"));
            return None;
        }
        let sites: Vec<_> = spec
            .sites
            .0
            .iter()
            .map(|(name, site)| Site::compile(name, site, registries, &sites_at.key(name), cx))
            .collect();
        let names: Vec<&str> = spec.sites.0.keys().map(ObjectName::as_str).collect();
        let policies = policies(spec, at, cx);
        for area in sites.iter().flat_map(|site| &site.areas).chain(spec.latency.keys()) {
            places.id(area);
        }
        let ttl = whole_seconds(spec.ttl, Duration::from_secs(30), &at.key("ttl"), cx);
        let quarter = Duration::from_secs(u64::from(ttl / 4).max(1));
        let ttl_undecided = whole_seconds(spec.ttl_undecided, quarter, &at.key("ttl_undecided"), cx);
        if ttl_undecided > ttl {
            cx.error(&at.key("ttl_undecided"), "longer than `ttl`: a state in doubt is for short answers");
        }
        Some(Self {
            host: host?,
            order: order(&spec.fallback, &names, &at.key("fallback"), cx),
            policies,
            spread: spec.spread.unwrap_or(Spread::Client),
            ttl,
            ttl_undecided,
            all_down: all_down(spec.all_down.as_ref(), &names, &at.key("all_down"), cx),
            check: check(spec, registries, at, cx),
            terms: Terms::compile(spec, at, cx),
            slow_start: spec.slow_start.map_or(Duration::ZERO, TimeSpan::get),
            max_withdraw: spec.max_withdraw.unwrap_or(Percent::ALL),
            withdraw_window: spec.withdraw_window.map_or(Duration::from_secs(60), TimeSpan::get),
            https: spec.https.as_ref().and_then(|https| params(https, &at.key("https"), cx)),
            svcb: spec.svcb.as_ref().and_then(|svcb| params(svcb, &at.key("svcb"), cx)),
            name: name.clone(),
            sites,
            rules: Vec::new(),
            rule_of_class: Vec::new(),
        })
    }

    /// What each class of places means to this service.
    pub(crate) fn place(&mut self, spec: &PublicServiceSpec, places: &mut Places, map: &PlaceMap) {
        let tolerance = spec.latency_tolerance.map_or(10, |span| millis(span.get()));
        let areas: Vec<(AreaId, u16, SiteSet)> = self.areas_of_sites(places);
        let rows: Vec<(AreaId, u16, Vec<u32>)> = spec
            .latency
            .iter()
            .map(|(area, row)| {
                let of_site = |site: &Site| row.get(site.name.as_str()).map_or(FAR, |span| millis(span.get()));
                (places.id(area), area.rank(), self.sites.iter().map(of_site).collect())
            })
            .collect();
        let mut known: HashMap<Rule, u16> = HashMap::new();
        for class in &map.members {
            let mut tiers: BTreeMap<u16, SiteSet> = BTreeMap::new();
            for (id, rank, set) in &areas {
                if class.binary_search(id).is_ok() {
                    *tiers.entry(*rank).or_default() |= set;
                }
            }
            let row = rows.iter().filter(|(id, ..)| class.binary_search(id).is_ok()).max_by_key(|(_, rank, _)| *rank);
            let rule = Rule {
                tiers: tiers.into_values().rev().collect(),
                latency: row.map(|(.., row)| row.clone()),
                tolerance,
            };
            let next = self.rules.len().min(usize::from(u16::MAX)) as u16;
            let index = *known.entry(rule).or_insert_with_key(|rule| {
                self.rules.push(rule.clone());
                next
            });
            self.rule_of_class.push(index);
        }
    }

    fn areas_of_sites(&self, places: &mut Places) -> Vec<(AreaId, u16, SiteSet)> {
        let mut areas = Vec::new();
        for (index, site) in self.sites.iter().enumerate() {
            areas.extend(site.areas.iter().map(|area| (places.id(area), area.rank(), bit(index as SiteId))));
        }
        areas
    }

    pub(crate) fn rule(&self, class: u16) -> Option<&Rule> {
        self.rules.get(usize::from(*self.rule_of_class.get(usize::from(class))?))
    }

    /// Whether an answer can depend on where the client is.
    pub(crate) fn asks_place(&self) -> bool {
        self.policies.iter().any(|policy| matches!(policy, Policy::Geo | Policy::Latency))
    }

    /// Types that it may answer. An alias is not told: a denial must not speak of one (RFC 4035 §5.4).
    pub(crate) fn types(&self) -> Vec<RecordType> {
        let fallback = match &self.all_down {
            AllDown::Addresses(list) => list.as_slice(),
            AllDown::All | AllDown::LastKnown | AllDown::Empty | AllDown::Refuse | AllDown::Site(_) => &[],
        };
        let members = self.sites.iter().flat_map(|site| &site.members).map(|member| member.address);
        let all: Vec<_> = members.chain(fallback.iter().copied()).collect();
        let mut types = Vec::new();
        types.extend(all.iter().any(IpAddr::is_ipv4).then_some(RecordType::A));
        types.extend(all.iter().any(IpAddr::is_ipv6).then_some(RecordType::AAAA));
        types.extend(self.https.is_some().then_some(RecordType::HTTPS));
        types.extend(self.svcb.is_some().then_some(RecordType::SVCB));
        types
    }

    /// What clients are told of how to bind to it, where this type is for that and was asked for.
    pub(crate) fn binding(&self, of_type: RecordType) -> Option<&Params> {
        match of_type {
            RecordType::HTTPS => self.https.as_ref(),
            RecordType::SVCB => self.svcb.as_ref(),
            _ => None,
        }
    }

    /// Outcomes in a row that change the state of a member; `None`: nobody looks.
    pub(crate) fn thresholds(&self, site: &ObjectName) -> Option<(u32, u32)> {
        let site = self.sites.iter().find(|own| own.name == *site)?;
        match (&site.upstream, &self.check) {
            // Whoever tells has made up its mind.
            (Some(_), _) => Some((1, 1)),
            (None, Some(check)) => Some((check.check.healthy, check.check.unhealthy)),
            (None, None) => None,
        }
    }

    /// Every member, by what it is known under.
    pub(crate) fn members(&self) -> impl Iterator<Item = (ObjectName, IpAddr)> {
        self.sites.iter().flat_map(|site| site.members.iter().map(|member| (site.name.clone(), member.address)))
    }

    pub(crate) fn site(&self, name: &str) -> Option<SiteId> {
        // There are at most 64.
        self.sites.iter().position(|site| site.name.as_str() == name).map(|index| index as SiteId)
    }
}

impl Site {
    fn compile(name: &ObjectName, spec: &SiteSpec, registries: Registries<'_>, at: &Path, cx: &mut Context) -> Self {
        let members_at = at.key("members");
        let spec = &with_endpoints(spec, registries, at, cx);
        if spec.members.is_empty() && spec.cname.is_none() && spec.upstream.is_none() {
            cx.error(at, "a site without members answers nothing").help("give `members`, `upstream` or `cname`");
        }
        if spec.members.len() > MEMBERS_MAX {
            cx.error(&members_at, format!("more than {MEMBERS_MAX} members"));
        }
        let members: Vec<_> = spec
            .members
            .iter()
            .take(MEMBERS_MAX)
            .map(|member| Member {
                address: member.address,
                weight: member.weight.unwrap_or(1),
                hash: fixed_hash(&member.address.to_string()),
            })
            .collect();
        for (index, member) in members.iter().enumerate() {
            if members.iter().take(index).any(|other| other.address == member.address) {
                cx.error(&members_at.index(index), format!("{} is given twice", member.address));
            }
            if spec.members.get(index).is_some_and(|member| member.weight.is_some())
                && spec.balance != Some(Balance::Weighted)
            {
                let message = "a member's weight has no effect without `balance = \"weighted\"`";
                cx.error(&members_at.index(index).key("weight"), message);
            }
            if member.weight > 65_535 {
                cx.error(&members_at.index(index), "a weight is at most 65535");
            }
        }
        if spec.weight.is_some_and(|weight| weight > 65_535) {
            cx.error(&at.key("weight"), "a weight is at most 65535");
        }
        let balance = spec.balance.unwrap_or(Balance::All);
        let min_up = spec.min_up.map_or(1, NonZeroU32::get) as usize;
        if spec.min_up.is_some() && min_up > members.len() && spec.upstream.is_none() {
            cx.error(&at.key("min_up"), format!("the site has {} members: it would never be fit", members.len()));
        }
        let default_count = if balance == Balance::All { 8 } else { 1 };
        let count = usize::from(spec.count.map_or(default_count, NonZeroU8::get));
        if count > COUNT_MAX {
            cx.error(&at.key("count"), format!("an answer has at most {COUNT_MAX} addresses of a family"));
        }
        Self {
            name: name.clone(),
            upstream: spec.upstream.clone(),
            cname: spec.cname.as_ref().and_then(|cname| domain(cname, &at.key("cname"), cx)),
            weight: spec.weight.unwrap_or(1),
            areas: spec.areas.clone(),
            balance,
            count: count.min(COUNT_MAX),
            min_up,
            maintenance: Maintenance::compile(&spec.maintenance, &members, &at.key("maintenance"), cx),
            hash: fixed_hash(name.as_str()),
            members,
        }
    }
}

/// A site of an upstream has its endpoints as members.
fn with_endpoints(spec: &SiteSpec, registries: Registries<'_>, at: &Path, cx: &mut Context) -> SiteSpec {
    let mut spec = spec.clone();
    let Some(upstream) = &spec.upstream else { return spec };
    if !spec.members.is_empty() {
        cx.error(&at.key("members"), "the members are the endpoints of `upstream`").help("give one of the two");
        return spec;
    }
    // Written short, the name has no key of its own.
    let own = at.key("upstream");
    let at = if cx.document().has(&own) { own } else { at.clone() };
    match registries.upstreams.get(upstream) {
        None => cx.undefined(
            &at,
            "upstream",
            upstream.as_str(),
            registries.upstreams.keys().map(ObjectName::as_str).collect::<Vec<_>>(),
        ),
        Some(Endpoints::Written(addresses)) if addresses.is_empty() => {
            cx.error(&at, format!("upstream \"{upstream}\" has no endpoints with an address of their own"))
                .help("endpoints on unix sockets cannot be published; give `members`");
        }
        Some(Endpoints::Written(addresses) | Endpoints::Found(addresses)) => {
            spec.members = addresses.iter().map(|address| MemberSpec { address: *address, weight: None }).collect();
        }
    }
    spec
}

pub(crate) fn bit(site: SiteId) -> SiteSet {
    1u64.checked_shl(u32::from(site)).unwrap_or(0)
}

/// The same in every process of every version: nodes must agree without talking.
fn fixed_hash(text: &str) -> u64 {
    let mut hasher = siphasher::sip::SipHasher13::new_with_keys(0, 0);
    text.hash(&mut hasher);
    hasher.finish()
}

fn millis(span: Duration) -> u32 {
    u32::try_from(span.as_millis()).unwrap_or(FAR - 1).min(FAR - 1)
}

fn policies(spec: &PublicServiceSpec, at: &Path, cx: &mut Context) -> Vec<Policy> {
    let policies = spec.policy.as_ref().map_or_else(|| vec![Policy::Failover], |policies| policies.0.clone());
    let policy_at = at.key("policy");
    if policies.is_empty() || policies.len() > 5 {
        cx.error(&policy_at, "a service has one to five policies");
    }
    for (index, policy) in policies.iter().enumerate() {
        let chooses = matches!(policy, Policy::Weighted | Policy::RoundRobin | Policy::Failover);
        if chooses && index + 1 < policies.len() {
            cx.error(
                &policy_at,
                "weighted, round_robin and failover leave one site: nothing behind them has an effect",
            );
        }
    }
    let has = |policy| policies.contains(&policy);
    let is_weighted =
        has(Policy::Weighted) || spec.sites.0.values().any(|site| site.balance == Some(Balance::Weighted));
    for (key, given) in [("spread", spec.spread.is_some()), ("slow_start", spec.slow_start.is_some())] {
        if given && !is_weighted {
            cx.error(&at.key(key), format!("`{key}` has no effect where nothing is weighted"))
                .help("policy = \"weighted\", or `balance` of a site");
        }
    }
    if spec.withdraw_window.is_some() && spec.max_withdraw.is_none() {
        cx.error(&at.key("withdraw_window"), "`withdraw_window` has no effect without `max_withdraw`");
    }
    let has_areas = spec.sites.0.values().any(|site| !site.areas.is_empty());
    for (key, given, needs) in [
        ("latency", !spec.latency.is_empty(), Policy::Latency),
        ("latency_tolerance", spec.latency_tolerance.is_some(), Policy::Latency),
    ] {
        if given && !has(needs) {
            cx.error(&at.key(key), format!("`{key}` has no effect without policy \"latency\""));
        }
    }
    if has(Policy::Latency) && spec.latency.is_empty() {
        cx.error(&policy_at, "policy \"latency\" needs a table `latency`");
    }
    if has(Policy::Geo) && !has_areas {
        cx.error(&policy_at, "policy \"geo\" needs `areas` at the sites");
    }
    for (name, site) in &spec.sites.0 {
        if !site.areas.is_empty() && !has(Policy::Geo) {
            cx.error(&at.key("sites").key(name).key("areas"), "`areas` have no effect without policy \"geo\"");
        }
        if site.weight.is_some() && !has(Policy::Weighted) {
            cx.error(&at.key("sites").key(name).key("weight"), "`weight` has no effect without policy \"weighted\"");
        }
    }
    for (area, row) in &spec.latency {
        for site in row.keys().filter(|site| !spec.sites.0.contains_key(*site)) {
            let names = spec.sites.0.keys().map(ObjectName::as_str);
            cx.undefined(&at.key("latency").key(area).key(site), "site", site.as_str(), names);
        }
    }
    policies
}

fn order(fallback: &[ObjectName], names: &[&str], at: &Path, cx: &mut Context) -> Vec<SiteId> {
    let mut order: Vec<SiteId> = Vec::with_capacity(names.len());
    for (index, site) in fallback.iter().enumerate() {
        match names.iter().position(|name| *name == site.as_str()) {
            None => cx.undefined(&at.index(index), "site", site.as_str(), names.iter().copied()),
            Some(site) if order.contains(&(site as SiteId)) => {
                cx.error(&at.index(index), format!("site \"{}\" is named twice", fallback[index]));
            }
            Some(site) => order.push(site as SiteId),
        }
    }
    let rest: Vec<_> = (0..names.len() as SiteId).filter(|site| !order.contains(site)).collect();
    order.extend(rest);
    order
}

fn all_down(spec: Option<&AllDownSpec>, names: &[&str], at: &Path, cx: &mut Context) -> AllDown {
    match spec {
        None | Some(AllDownSpec::All) => AllDown::All,
        Some(AllDownSpec::LastKnown) => AllDown::LastKnown,
        Some(AllDownSpec::Empty) => AllDown::Empty,
        Some(AllDownSpec::Refuse) => AllDown::Refuse,
        Some(AllDownSpec::Addresses(addresses)) => {
            if addresses.is_empty() || addresses.len() > COUNT_MAX {
                cx.error(&at.key("addresses"), format!("one to {COUNT_MAX} addresses are given here"));
            }
            AllDown::Addresses(addresses.clone())
        }
        Some(AllDownSpec::Site(site)) => match names.iter().position(|name| *name == site.as_str()) {
            Some(index) => AllDown::Site(index as SiteId),
            None => {
                cx.undefined(&at.key("site"), "site", site.as_str(), names.iter().copied());
                AllDown::All
            }
        },
    }
}

fn check(spec: &PublicServiceSpec, registries: Registries<'_>, at: &Path, cx: &mut Context) -> Option<Check> {
    let is_told = spec.sites.0.values().any(|site| site.upstream.is_some());
    let Some(check) = &spec.health_check else {
        let given = [
            ("port", spec.port.is_some()),
            ("vantages", !spec.vantages.is_empty()),
            ("initial", spec.initial.is_some() && !is_told),
            ("tls", spec.tls.is_some()),
            ("slow_start", spec.slow_start.is_some() && !is_told),
            ("max_withdraw", spec.max_withdraw.is_some() && !is_told),
            ("withdraw_window", spec.withdraw_window.is_some() && !is_told),
        ];
        for (key, _) in given.iter().filter(|(_, given)| *given) {
            cx.error(&at.key(key), format!("`{key}` has no effect without `health_check`"));
        }
        return None;
    };
    let tls = spec.tls.as_ref().and_then(|tls| {
        UpstreamTls::compile(tls, registries.certificates, registries.trusts, &at.key("tls"), cx).ok().flatten()
    });
    let check = check.compile(&at.key("health_check"), cx);
    let default = match (&check.ask, &tls) {
        (Ask::Dns(_), _) => 53,
        (_, Some(_)) => 443,
        (_, None) => 80,
    };
    let port = spec.port.map_or(default, NonZeroU16::get);
    Some(Check { check, port, tls })
}

/// What does not depend on the choice; hints are added to each answer.
fn params(spec: &BindingSpec, at: &Path, cx: &mut Context) -> Option<Params> {
    let mut params = Params::new();
    match svcb::alpn_value(spec.alpn.iter().map(String::as_bytes)) {
        Ok(value) => _ = params.insert(svcb::ALPN, value),
        Err(message) => _ = cx.error(&at.key("alpn"), message),
    }
    if let Some(port) = spec.port {
        params.insert(svcb::PORT, port.get().to_be_bytes().to_vec());
    }
    if let Some(ech) = &spec.ech {
        match data_encoding::BASE64.decode(ech.as_bytes()) {
            Ok(value) if value.len() <= 1_024 => _ = params.insert(svcb::ECH, value),
            _ => _ = cx.error(&at.key("ech"), "an ECH configuration is at most 1 KiB in base 64"),
        }
    }
    Some(params)
}
