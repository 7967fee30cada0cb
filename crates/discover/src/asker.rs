//! Asks DNS. What the answers mean is [`Tracker`](crate::Tracker)'s.

use crate::{Answer, DnsName, IpVersion, Nameservers, Question, Servers, Service, Trouble};
use hickory_resolver::{
    Resolver, TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts},
    lookup::Lookup,
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
    proto::{
        op::ResponseCode,
        rr::{Name, RData, Record, RecordType},
    },
    system_conf,
};
use std::{net::IpAddr, sync::Arc, time::Duration};
use tokio::{task::JoinSet, time::timeout};

/// Asks the servers of one [`Nameservers`].
pub(crate) struct Asker {
    through: Arc<Nameservers>,
    ready: Option<Ready>,
    /// What the system's files said when `ready` was made.
    files: Option<SystemFiles>,
}

/// A resolver with its settings.
#[derive(Clone)]
struct Ready {
    /// Asks the servers two at a time and takes the first word.
    resolver: TokioResolver,
    /// Each server by itself, when there are several.
    singly: Vec<TokioResolver>,
    search: Vec<String>,
    /// Names with at least so many dots are asked for as they are first.
    dots: usize,
    /// For all tries of one name.
    patience: Duration,
}

#[derive(PartialEq, Eq)]
struct SystemFiles([Option<Vec<u8>>; 2]);

/// Questions that one source has under way at a time.
const AT_ONCE: usize = 16;
/// Entries of a search list that are tried; glibc's limit of old.
const SEARCH_MAX: usize = 6;
/// Records of one answer that are looked at.
const RECORDS_MAX: usize = 4_096;

impl Asker {
    pub(crate) fn new(through: Arc<Nameservers>) -> Self {
        Self { through, ready: None, files: None }
    }

    /// Every question gets an answer, be it that there is none.
    pub(crate) async fn ask(&mut self, questions: Vec<Question>) -> Vec<(Question, Answer)> {
        self.follow_system().await;
        let Some(ready) = &self.ready else {
            return questions.into_iter().map(|question| (question, Answer::Failed(Trouble::Unreachable))).collect();
        };
        let mut answers = Vec::with_capacity(questions.len());
        let mut under_way = JoinSet::new();
        for question in questions {
            if under_way.len() >= AT_ONCE {
                answers.extend(under_way.join_next().await.and_then(Result::ok));
            }
            let ready = ready.clone();
            under_way.spawn(async move {
                let answer = ready.ask(&question).await;
                (question, answer)
            });
        }
        while let Some(answer) = under_way.join_next().await {
            answers.extend(answer);
        }
        answers
    }

    /// Makes the resolver, anew when the system's files have changed: a machine can change its network while we run.
    async fn follow_system(&mut self) {
        if self.through.servers != Servers::System {
            if self.ready.is_none() {
                self.ready = Ready::new(&self.through);
            }
            return;
        }
        let through = self.through.clone();
        let before = self.files.take();
        let look = move || {
            let files = SystemFiles::read();
            // Reads the files a second time; a change between the two is seen at the next look.
            let ready = (before.as_ref() != Some(&files)).then(|| Ready::new(&through));
            (files, ready)
        };
        // It fails only while the runtime shuts down.
        if let Ok((files, ready)) = tokio::task::spawn_blocking(look).await {
            self.files = Some(files);
            if let Some(ready) = ready {
                self.ready = ready;
            }
        }
    }
}

impl SystemFiles {
    fn read() -> Self {
        Self(["/etc/resolv.conf", "/etc/hosts"].map(|file| std::fs::read(file).ok()))
    }
}

impl Ready {
    /// `None`: there is nobody to ask.
    fn new(through: &Nameservers) -> Option<Self> {
        let (config, mut options) = match &through.servers {
            Servers::System => system_conf::read_system_conf().ok()?,
            Servers::Listed(servers) => {
                let servers = servers.iter().map(|server| {
                    let both = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                        connection.port = server.port();
                        connection
                    });
                    NameServerConfig::new(server.ip(), true, both.to_vec())
                });
                let config = ResolverConfig::from_parts(None, Vec::new(), servers.collect());
                let mut options = ResolverOpts::default();
                options.use_hosts_file = ResolveHosts::Never;
                (config, options)
            }
        };
        options.timeout = through.timeout;
        options.attempts = usize::try_from(through.attempts.saturating_sub(1)).unwrap_or(0);
        // The tracker knows what holds how long; a second memory would only make it older.
        options.cache_size = 0;
        // A CNAME on the way can have a shorter TTL than the addresses it leads to.
        options.preserve_intermediates = true;
        let domains = config.domain().into_iter().filter(|_| config.search().is_empty());
        let search = config.search().iter().chain(domains).take(SEARCH_MAX).map(Name::to_ascii).collect();
        let dots = options.ndots;
        let patience = through.timeout.saturating_mul(through.attempts);
        let resolver = |config| {
            let builder = Resolver::builder_with_config(config, TokioRuntimeProvider::default());
            builder.with_options(options.clone()).build().ok()
        };
        let servers = config.name_servers().iter().filter(|_| config.name_servers().len() > 1);
        let singly = servers.map(|server| ResolverConfig::from_parts(None, Vec::new(), vec![server.clone()]));
        let singly = singly.filter_map(resolver).collect();
        Some(Self { resolver: resolver(config)?, singly, search, dots, patience })
    }

    /// Goes through the search list as far as needed. That one place has nothing is only the answer when every place could
    /// be asked; hickory's own search would give the last place's word.
    async fn ask(&self, question: &Question) -> Answer {
        let (name, kind) = match question {
            Question::Services(name) => (name, RecordType::SRV),
            Question::Addresses(name, IpVersion::V4) => (name, RecordType::A),
            Question::Addresses(name, IpVersion::V6) => (name, RecordType::AAAA),
        };
        let mut outcome = Answer::Nothing { ttl: None };
        for place in places(name, &self.search, self.dots) {
            match self.ask_for(&place, kind).await {
                Answer::Nothing { ttl } => {
                    if outcome == (Answer::Nothing { ttl: None }) {
                        outcome = Answer::Nothing { ttl };
                    }
                }
                Answer::Failed(trouble) => outcome = Answer::Failed(trouble),
                answer @ (Answer::Services { .. } | Answer::Addresses { .. }) => return answer,
            }
        }
        outcome
    }

    async fn ask_for(&self, place: &DnsName, kind: RecordType) -> Answer {
        let Ok(name) = Name::from_ascii(place.as_str()) else { return Answer::Failed(Trouble::Broken) };
        let mut answer = self.ask_by(&self.resolver, &name, kind).await;
        // The library takes SERVFAIL and REFUSED for the last word if they come first, and has one timeout for all servers:
        // another one may know better.
        for resolver in &self.singly {
            if !matches!(answer, Answer::Failed(_)) {
                break;
            }
            answer = self.ask_by(resolver, &name, kind).await;
        }
        answer
    }

    async fn ask_by(&self, resolver: &TokioResolver, name: &Name, kind: RecordType) -> Answer {
        match timeout(self.patience, resolver.lookup(name.clone(), kind)).await {
            Err(_) => Answer::Failed(Trouble::Timeout),
            Ok(Ok(lookup)) => read(name, kind, &lookup),
            Ok(Err(error)) => read_error(&error),
        }
    }
}

/// The complete names to ask for, in order (resolv.conf(5), `search` and `ndots`).
fn places(name: &DnsName, search: &[String], dots: usize) -> Vec<DnsName> {
    let itself = name.within("");
    if name.is_complete() {
        return itself.into_iter().collect();
    }
    let searched = search.iter().filter_map(|suffix| name.within(suffix));
    if name.dots() >= dots { itself.into_iter().chain(searched).collect() } else { searched.chain(itself).collect() }
}

/// Only records of the name itself, or of what its CNAMEs lead to, count; whatever else a server adds does not.
fn read(name: &Name, kind: RecordType, lookup: &Lookup) -> Answer {
    let records = || lookup.answers().iter().take(RECORDS_MAX);
    let mut chain = vec![name];
    for record in records() {
        if let RData::CNAME(target) = &record.data
            && chain.contains(&&record.name)
        {
            chain.push(&target.0);
        }
    }
    let own: Vec<&Record> = records().filter(|record| chain.contains(&&record.name)).collect();
    let Some(seconds) = own.iter().map(|record| record.ttl).min() else { return Answer::Nothing { ttl: None } };
    let ttl = Duration::from_secs(u64::from(seconds));
    let of_kind = own.iter().filter(|record| record.record_type() == kind);
    if kind == RecordType::SRV {
        let services = of_kind.filter_map(|record| match &record.data {
            RData::SRV(srv) => Some(Service {
                priority: srv.priority,
                weight: srv.weight,
                port: srv.port,
                // RFC 2782, Target: "." means that the service is decidedly not available; it is no name for us either.
                host: srv.target.to_ascii().parse().ok()?,
            }),
            _ => None,
        });
        return Answer::Services { services: services.collect(), ttl };
    }
    let addresses = of_kind.filter_map(|record| match &record.data {
        RData::A(address) => Some(IpAddr::V4(address.0)),
        RData::AAAA(address) => Some(IpAddr::V6(address.0)),
        _ => None,
    });
    Answer::Addresses { addresses: addresses.collect(), ttl }
}

fn read_error(error: &NetError) -> Answer {
    let trouble = match error {
        NetError::Dns(DnsError::NoRecordsFound(nothing)) => {
            return Answer::Nothing { ttl: nothing.negative_ttl.map(|ttl| Duration::from_secs(u64::from(ttl))) };
        }
        NetError::Dns(DnsError::ResponseCode(ResponseCode::Refused)) => Trouble::Refused,
        NetError::Dns(DnsError::ResponseCode(ResponseCode::ServFail)) => Trouble::Failing,
        NetError::Timeout => Trouble::Timeout,
        NetError::Io(_) | NetError::NoConnections | NetError::Busy => Trouble::Unreachable,
        _ => Trouble::Broken,
    };
    Answer::Failed(trouble)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_list_is_gone_through_in_its_order() {
        let search = ["a.b.".to_owned(), "c".to_owned()];
        for (name, dots, expected) in [
            ("x", 1, &["x.a.b.", "x.c.", "x."][..]),
            ("x.y", 1, &["x.y.", "x.y.a.b.", "x.y.c."]),
            ("x.y", 5, &["x.y.a.b.", "x.y.c.", "x.y."]),
            ("x.", 1, &["x."]),
        ] {
            let places = places(&name.parse().unwrap(), &search, dots);
            let places: Vec<_> = places.iter().map(DnsName::as_str).collect();
            assert_eq!(places, expected, "{name}");
        }
    }
}
