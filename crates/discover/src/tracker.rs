//! What answers mean: which questions are due, which endpoints there are, and when to ask again. Pure.
//!
//! Availability fails open. A question that cannot be answered (timeout, SERVFAIL) keeps its last answer, however old, and is
//! asked again with growing pauses. A name that is said to have nothing (NXDOMAIN, or no record) keeps its last answer for
//! the source's grace: zones are emptied by accident more often than on purpose.

use crate::{
    DnsName, DnsSource, Endpoints, Families, Found, Seek,
    shares::{Target, shares},
};
use portcullis_names::EndpointAddress;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

/// Something to ask DNS for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Question {
    Services(DnsName),
    Addresses(DnsName, IpVersion),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IpVersion {
    V4,
    V6,
}

/// What came of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// To [`Question::Services`].
    Services {
        services: Vec<Service>,
        ttl: Duration,
    },
    /// To [`Question::Addresses`].
    Addresses {
        addresses: Vec<IpAddr>,
        ttl: Duration,
    },
    /// NXDOMAIN, or no record of this kind; for how long that holds, if the zone says so (RFC 2308 §5).
    Nothing {
        ttl: Option<Duration>,
    },
    Failed(Trouble),
}

/// An SRV record.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Service {
    pub priority: u16,
    pub weight: u16,
    pub port: u16,
    pub host: DnsName,
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    Timeout,
    /// SERVFAIL.
    Failing,
    /// REFUSED.
    Refused,
    /// No server could be reached, or none is known.
    Unreachable,
    /// An answer that makes no sense.
    Broken,
    /// The name does not exist, or has no record of this kind.
    Nothing,
}

/// The state of one DNS source.
#[derive(Debug)]
pub struct Tracker {
    source: DnsSource,
    asked: BTreeMap<Question, Asked>,
}

/// What is known of one question.
#[derive(Debug)]
struct Asked {
    known: Known,
    /// Since when the question has no records; `known` is then what it had before.
    gone: Option<Instant>,
    failures: u32,
    trouble: Option<Trouble>,
    due: Instant,
}

#[derive(Debug, PartialEq, Eq)]
enum Known {
    Never,
    Services(Vec<Service>),
    Addresses(Vec<IpAddr>),
}

/// Records of one service that are followed: each costs two questions.
pub const SERVICES_MAX: usize = 100;
/// First pause after a failure; each further one is twice as long.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// A name that has nothing is asked for at least this often, whatever the zone says: the endpoints are awaited.
const NOTHING_MAX: Duration = Duration::from_secs(30);
/// When the zone does not say.
const NOTHING: Duration = Duration::from_secs(5);
/// Priorities of endpoints go up to 127.
const PRIORITY_MAX: u32 = 127;

impl Tracker {
    pub fn new(source: DnsSource) -> Self {
        Self { source, asked: BTreeMap::new() }
    }

    /// The questions whose time has come. An answer about services can bring up further ones.
    pub fn due(&self, now: Instant) -> Vec<Question> {
        let is_due = |question: &Question| self.asked.get(question).is_none_or(|asked| asked.due <= now);
        self.questions(now).into_iter().filter(is_due).collect()
    }

    /// Takes in what came of a question. `draw` from 0 to 1 spreads repetitions of failures.
    pub fn take(&mut self, question: Question, answer: Answer, draw: f64, now: Instant) {
        let through = self.source.through.clone();
        let asked = self.asked.entry(question).or_insert_with(|| Asked::new(now));
        let pause = match answer {
            Answer::Services { services, ttl } => match followed(services) {
                services if services.is_empty() => asked.nothing(Some(ttl), now),
                services => asked.learn(Known::Services(services), through.clamp(ttl)),
            },
            Answer::Addresses { addresses, ttl } => match dialled(addresses) {
                addresses if addresses.is_empty() => asked.nothing(Some(ttl), now),
                addresses => asked.learn(Known::Addresses(addresses), through.clamp(ttl)),
            },
            Answer::Nothing { ttl } => asked.nothing(ttl, now),
            Answer::Failed(trouble) => asked.failed(trouble, draw),
        };
        asked.due = now + pause.max(*through.ttl.start());
        // Hosts that no service names any more are forgotten.
        let wanted: BTreeSet<_> = self.questions(now).into_iter().collect();
        self.asked.retain(|question, _| wanted.contains(question));
    }

    /// Who there is.
    pub fn endpoints(&self, now: Instant) -> Endpoints {
        let found = match &self.source.seek {
            Seek::Addresses { name, port } => {
                let host: Arc<str> = name.host().into();
                let addresses = self.addresses(name, now).into_iter();
                addresses.map(|address| found(address, *port, 1, 0, &host)).collect()
            }
            Seek::Services { name } => self.served(self.services(name, now), now),
        };
        Endpoints::new(found)
    }

    /// When something has to be done next.
    pub fn wake(&self, now: Instant) -> Instant {
        let times = self.questions(now).into_iter().flat_map(|question| match self.asked.get(&question) {
            None => [Some(now), None],
            Some(asked) => {
                let end = asked.gone.map(|gone| gone + self.source.grace).filter(|end| *end > now);
                [Some(asked.due), end]
            }
        });
        times.flatten().min().unwrap_or(now)
    }

    /// What is wrong with the first question that something is wrong with. That a name has no addresses of one version is
    /// nothing wrong as long as it has any.
    pub fn trouble(&self, now: Instant) -> Option<(Question, Trouble)> {
        self.questions(now).into_iter().find_map(|question| {
            let trouble = match (&question, self.asked.get(&question)?.trouble?) {
                (Question::Addresses(name, _), Trouble::Nothing) if self.is_alive(name) => return None,
                (_, trouble) => trouble,
            };
            Some((question, trouble))
        })
    }

    fn questions(&self, now: Instant) -> Vec<Question> {
        let versions: &[IpVersion] = match self.source.families {
            Families::Both => &[IpVersion::V4, IpVersion::V6],
            Families::Ipv4 => &[IpVersion::V4],
            Families::Ipv6 => &[IpVersion::V6],
        };
        let of = |host: &DnsName| versions.iter().map(|version| Question::Addresses(host.clone(), *version)).collect();
        match &self.source.seek {
            Seek::Addresses { name, .. } => of(name),
            Seek::Services { name } => {
                let hosts: BTreeSet<_> = self.services(name, now).iter().map(|service| &service.host).collect();
                let of_hosts = hosts.into_iter().flat_map(|host| -> Vec<_> { of(host) });
                std::iter::once(Question::Services(name.clone())).chain(of_hosts).collect()
            }
        }
    }

    fn services(&self, name: &DnsName, now: Instant) -> &[Service] {
        match self.asked.get(&Question::Services(name.clone())) {
            Some(Asked { known: Known::Services(services), gone, .. }) if self.is_kept(*gone, now) => services,
            _ => &[],
        }
    }

    /// Of both versions. A version that has gone is missed only when the other has gone, too.
    fn addresses(&self, name: &DnsName, now: Instant) -> Vec<IpAddr> {
        let alive = self.is_alive(name);
        let both = self.both(name).filter(|asked| asked.gone.is_none() || (!alive && self.is_kept(asked.gone, now)));
        let addresses = both.filter_map(|asked| match &asked.known {
            Known::Addresses(addresses) => Some(addresses),
            Known::Never | Known::Services(_) => None,
        });
        addresses.flatten().copied().collect()
    }

    /// Has addresses of either version now.
    fn is_alive(&self, name: &DnsName) -> bool {
        self.both(name).any(|asked| asked.gone.is_none() && asked.known != Known::Never)
    }

    fn both(&self, name: &DnsName) -> impl Iterator<Item = &Asked> {
        let versions = [IpVersion::V4, IpVersion::V6].into_iter();
        versions.filter_map(|version| self.asked.get(&Question::Addresses(name.clone(), version)))
    }

    fn is_kept(&self, gone: Option<Instant>, now: Instant) -> bool {
        gone.is_none_or(|gone| now < gone + self.source.grace)
    }

    /// Priorities of services become their ranks: ours are few, and only their order counts.
    fn served(&self, services: &[Service], now: Instant) -> Vec<Found> {
        let mut all = Vec::new();
        let levels = services.chunk_by(|one, other| one.priority == other.priority);
        for (priority, level) in (0..).zip(levels) {
            let addresses: Vec<_> = level.iter().map(|service| self.addresses(&service.host, now)).collect();
            let targets = level
                .iter()
                .zip(&addresses)
                .map(|(service, addresses)| Target { weight: service.weight, addresses: addresses.len() });
            let weights = shares(&targets.collect::<Vec<_>>());
            for ((service, addresses), weight) in level.iter().zip(addresses).zip(weights) {
                let host: Arc<str> = service.host.host().into();
                let each = addresses.into_iter();
                all.extend(each.map(|address| found(address, service.port, weight, PRIORITY_MAX.min(priority), &host)));
            }
        }
        all
    }
}

impl Asked {
    fn new(now: Instant) -> Self {
        Self { known: Known::Never, gone: None, failures: 0, trouble: None, due: now }
    }

    fn learn(&mut self, known: Known, ttl: Duration) -> Duration {
        (self.known, self.gone, self.failures, self.trouble) = (known, None, 0, None);
        ttl
    }

    fn nothing(&mut self, ttl: Option<Duration>, now: Instant) -> Duration {
        (self.failures, self.trouble) = (0, Some(Trouble::Nothing));
        self.gone.get_or_insert(now);
        ttl.unwrap_or(NOTHING).min(NOTHING_MAX)
    }

    fn failed(&mut self, trouble: Trouble, draw: f64) -> Duration {
        let pause = PAUSE.saturating_mul(1_u32.checked_shl(self.failures).unwrap_or(u32::MAX)).min(PAUSE_MAX);
        self.failures = self.failures.saturating_add(1);
        self.trouble = Some(trouble);
        pause.mul_f64(1.0 - draw.clamp(0.0, 1.0) / 2.0)
    }
}

/// In the order of RFC 2782, the most wanted first, no more than can be followed.
fn followed(mut services: Vec<Service>) -> Vec<Service> {
    services.retain(|service| service.port != 0);
    services.sort_by(|a, b| (a.priority, b.weight, &a.host, a.port).cmp(&(b.priority, a.weight, &b.host, b.port)));
    services.dedup();
    services.truncate(SERVICES_MAX);
    services
}

/// Nobody listens on `0.0.0.0` or a group: who connects to the former reaches himself.
fn dialled(mut addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    addresses.retain(|address| !address.is_unspecified() && !address.is_multicast());
    addresses
}

fn found(address: IpAddr, port: u16, weight: u32, priority: u32, host: &Arc<str>) -> Found {
    let address = EndpointAddress::Ip(SocketAddr::new(address, port));
    Found { priority, address, weight, zone: None, host: Some(host.clone()) }
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Services(name) => write!(f, "SRV {name}"),
            Self::Addresses(name, IpVersion::V4) => write!(f, "A {name}"),
            Self::Addresses(name, IpVersion::V6) => write!(f, "AAAA {name}"),
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Timeout => "timeout",
            Self::Failing => "the server fails (SERVFAIL)",
            Self::Refused => "the server refuses (REFUSED)",
            Self::Unreachable => "no server can be reached",
            Self::Broken => "the answer makes no sense",
            Self::Nothing => "no such record",
        })
    }
}
