//! Asks name servers, through a cache, once for all who ask together.
//!
//! A closed enum over where answers come from: the system's name servers, or a table for tests. Says nothing about whether
//! an address may be dialled; [`Resolved::checked`] does.

use crate::{
    DnsName, Host, Reason, Resolved,
    dns_cache::{ADDRESSES_MAX, Answer, DnsCache},
    flights::Flights,
};
use hickory_resolver::{
    ResolverBuilder, TokioResolver,
    config::{LookupIpStrategy, NameServerConfig, ResolverConfig},
    net::{NetError, runtime::TokioRuntimeProvider},
};
use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

#[derive(Debug)]
pub struct Resolver {
    source: Source,
    cache: Mutex<DnsCache>,
    flights: Flights<DnsName, Answer>,
}

#[derive(Debug)]
enum Source {
    NameServers(Box<NameServers>),
    Table(AnswerTable),
}

struct NameServers(TokioResolver);

/// Answers for tests: of each name a list of answers that are given in turn, the last one for ever.
#[derive(Debug, Default)]
pub struct AnswerTable {
    answers: HashMap<String, (Vec<Vec<IpAddr>>, AtomicUsize)>,
    asked: AtomicUsize,
}

/// For the whole of a question, all name servers and both families.
const TIMEOUT: Duration = Duration::from_secs(5);

impl Resolver {
    /// With the name servers of `/etc/resolv.conf`.
    pub fn from_system() -> Result<Self, ResolverError> {
        let builder = TokioResolver::builder_tokio().map_err(|error| ResolverError(error.to_string()))?;
        Self::build(builder)
    }

    /// With these name servers, by UDP and where answers are cut off by TCP.
    pub fn from_name_servers(servers: &[SocketAddr]) -> Result<Self, ResolverError> {
        let servers = servers.iter().map(|server| {
            let mut config = NameServerConfig::udp_and_tcp(server.ip());
            config.connections.iter_mut().for_each(|connection| connection.port = server.port());
            config
        });
        let config = ResolverConfig::from_parts(None, Vec::new(), servers.collect());
        Self::build(TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()))
    }

    fn build(mut builder: ResolverBuilder<TokioRuntimeProvider>) -> Result<Self, ResolverError> {
        let options = builder.options_mut();
        // Ours is the only cache: its times are the ones that hold.
        options.cache_size = 0;
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        options.timeout = TIMEOUT / 2;
        let resolver = builder.build().map_err(|error| ResolverError(error.to_string()))?;
        Ok(Self::new(Source::NameServers(Box::new(NameServers(resolver)))))
    }

    pub fn from_table(table: AnswerTable) -> Self {
        Self::new(Source::Table(table))
    }

    fn new(source: Source) -> Self {
        Self { source, cache: Mutex::default(), flights: Flights::default() }
    }

    /// The host's addresses, by our own asking. An address is itself.
    pub async fn resolve(&self, host: &Host, now: Instant) -> Result<Resolved, Reason> {
        let name = match host {
            Host::Address(address) => return Ok(Resolved::new(host.clone(), [*address].into())),
            Host::Name(name) => name,
        };
        let cached = self.cache.lock().unwrap_or_else(PoisonError::into_inner).get(name, now);
        let answer = match cached {
            Some(answer) => answer,
            None => self.flights.join(name, self.ask(name, now)).await,
        };
        answer.map(|addresses| Resolved::new(host.clone(), addresses))
    }

    async fn ask(&self, name: &DnsName, now: Instant) -> Answer {
        let asked = match &self.source {
            Source::NameServers(servers) => servers.ask(name, now).await,
            Source::Table(table) => table.ask(name),
        };
        let (answer, ttl) = match asked {
            Ok((addresses, _)) if addresses.is_empty() => (Err(Reason::NameUnknown), Duration::ZERO),
            Ok((addresses, ttl)) => (Ok(addresses.into_iter().take(ADDRESSES_MAX).collect()), ttl),
            Err(reason) => (Err(reason), Duration::ZERO),
        };
        self.cache.lock().unwrap_or_else(PoisonError::into_inner).put(name, answer.clone(), ttl, now);
        answer
    }
}

/// Why there is no resolver.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the system's name servers cannot be used: {0}")]
pub struct ResolverError(String);

impl NameServers {
    async fn ask(&self, name: &DnsName, now: Instant) -> Result<(Vec<IpAddr>, Duration), Reason> {
        // With its final dot: no search list of this machine makes another name of it.
        let question = self.0.lookup_ip(format!("{name}."));
        match tokio::time::timeout(TIMEOUT, question).await {
            Ok(Ok(found)) => Ok((found.iter().collect(), found.valid_until().saturating_duration_since(now))),
            Ok(Err(error)) if error.is_nx_domain() || error.is_no_records_found() => Err(Reason::NameUnknown),
            Ok(Err(NetError::Timeout)) | Err(_) => Err(Reason::ResolveTimeout),
            Ok(Err(_)) => Err(Reason::ResolveFailed),
        }
    }
}

impl std::fmt::Debug for NameServers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NameServers")
    }
}

impl AnswerTable {
    /// One more name with the answers that it gives in turn, each with a TTL of zero.
    pub fn with(mut self, name: &str, answers: &[&[IpAddr]]) -> Self {
        let answers = answers.iter().map(|answer| answer.to_vec()).collect();
        self.answers.insert(name.to_owned(), (answers, AtomicUsize::new(0)));
        self
    }

    fn ask(&self, name: &DnsName) -> Result<(Vec<IpAddr>, Duration), Reason> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let (answers, next) = self.answers.get(name.as_str()).ok_or(Reason::NameUnknown)?;
        let at = next.fetch_add(1, Ordering::Relaxed);
        let answer = answers.get(at).or(answers.last()).cloned().unwrap_or_default();
        Ok((answer, Duration::ZERO))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AddressPolicy, PrivateRanges};

    fn start() -> Instant {
        Instant::now()
    }

    fn host(text: &str) -> Host {
        Host::parse(text).unwrap()
    }

    fn addresses(list: &[&str]) -> Vec<IpAddr> {
        list.iter().map(|address| address.parse().unwrap()).collect()
    }

    fn asked(resolver: &Resolver) -> usize {
        match &resolver.source {
            Source::Table(table) => table.asked.load(Ordering::Relaxed),
            Source::NameServers(_) => 0,
        }
    }

    #[tokio::test]
    async fn a_name_that_rebinds_is_dialled_where_it_was_checked() {
        let (good, bad) = (addresses(&["8.8.8.8"]), addresses(&["169.254.169.254"]));
        let resolver = Resolver::from_table(AnswerTable::default().with("r.test", &[&good, &bad, &good]));
        let start = start();
        let policy = AddressPolicy::default();
        let first = resolver.resolve(&host("r.test"), start).await.unwrap();
        let again = resolver.resolve(&host("r.test"), start + Duration::from_secs(4)).await.unwrap();
        assert_eq!((&first, asked(&resolver)), (&again, 1));
        assert!(again.checked(&policy, 443, &PrivateRanges::none()).is_ok());
        let later = resolver.resolve(&host("r.test"), start + Duration::from_secs(5)).await.unwrap();
        assert!(later.checked(&policy, 443, &PrivateRanges::none()).is_err());
    }

    #[tokio::test]
    async fn what_does_not_exist_is_asked_for_once() {
        let resolver = Resolver::from_table(AnswerTable::default().with("empty.test", &[&[]]));
        let start = start();
        for name in ["none.test", "none.test", "empty.test", "empty.test"] {
            assert_eq!(resolver.resolve(&host(name), start).await.unwrap_err(), Reason::NameUnknown);
        }
        assert_eq!(asked(&resolver), 2);
    }

    #[tokio::test]
    async fn an_address_is_itself_and_long_answers_are_cut() {
        let many: Vec<IpAddr> = (0..100).map(|n| [8, 8, 4, n].into()).collect();
        let resolver = Resolver::from_table(AnswerTable::default().with("many.test", &[&many]));
        let start = start();
        let literal = resolver.resolve(&host("10.0.0.1"), start).await.unwrap();
        assert!(literal.contains("10.0.0.1".parse().unwrap()) && asked(&resolver) == 0);
        let cut = resolver.resolve(&host("many.test"), start).await.unwrap();
        assert_eq!(cut.checked(&AddressPolicy::default(), 1, &PrivateRanges::none()).unwrap().len(), ADDRESSES_MAX);
    }

    /// Answers A questions of `good.test`, knows nothing of `none.test`, has no address for `empty.test`, and fails else.
    async fn name_server() -> SocketAddr {
        let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let at = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            loop {
                let (len, from) = socket.recv_from(&mut buffer).await.unwrap();
                // Header, then the question up to its class, without EDNS.
                let end = 12 + buffer[12..len].iter().position(|octet| *octet == 0).unwrap() + 5;
                let name = String::from_utf8_lossy(&buffer[13..17]).into_owned();
                let is_a = buffer[end - 3] == 1;
                let (code, answers) = match name.as_str() {
                    "good" if is_a => (0, 1),
                    "good" | "empt" => (0, 0),
                    "none" => (3, 0),
                    _ => (2, 0),
                };
                let mut answer = vec![buffer[0], buffer[1], 0x81, 0x80 | code, 0, 1, 0, answers, 0, 0, 0, 0];
                answer.extend_from_slice(&buffer[12..end]);
                if answers == 1 {
                    answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 8, 8, 8, 8]);
                }
                socket.send_to(&answer, from).await.unwrap();
            }
        });
        at
    }

    #[tokio::test]
    async fn real_name_servers_are_asked_for_the_whole_name() {
        let resolver = Resolver::from_name_servers(&[name_server().await]).unwrap();
        let now = start();
        let good = resolver.resolve(&host("good.test"), now).await.unwrap();
        assert!(good.contains([8, 8, 8, 8].into()));
        for (name, reason) in [
            ("none.test", Reason::NameUnknown),
            ("empty.test", Reason::NameUnknown),
            ("fail.test", Reason::ResolveFailed),
        ] {
            assert_eq!(resolver.resolve(&host(name), now).await.unwrap_err(), reason, "{name}");
        }
    }
}
