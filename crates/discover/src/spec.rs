//! `[upstream.X] discover = { … }` and `[discovery.X]` as the operator writes them.

use crate::{DnsName, DnsSource, EndpointList, FileSource, HttpSource, Nameservers, Seek, Servers, Source};
use portcullis_auth::HttpUrl;
use portcullis_config::{Context, Path};
use portcullis_names::{EndpointAddress, ObjectName, TimeSpan};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, num::NonZeroU32, path::PathBuf, sync::Arc, time::Duration};

/// Where an upstream's endpoints are found: exactly one of `dns`, `srv`, `file` and `http`.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub struct DiscoverSpec {
    /// `"shop.internal:8080"`: every address of the name, all on that port, asked again when the answer's TTL is over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns: Option<String>,
    /// `"_http._tcp.shop.internal"`: the hosts, ports, priorities and weights of a service (SRV), and their addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub srv: Option<String>,
    /// A file with `endpoints = [ … ]` in TOML (in JSON if it is called `.json`), followed as it changes. A broken one
    /// changes nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// `"https://registry.internal/cart"`, which answers with `{ "endpoints": [ … ] }` in JSON. In the clear only from
    /// loopback: who can change the list can have the traffic. One that cannot be had changes nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<String>,
    /// How often `http` is asked (default 10s).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<TimeSpan>,
    /// Which addresses are asked for (default both).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub family: Option<Families>,
    /// How long the endpoints are kept when their name has no answer any more: NXDOMAIN, or no record (default 30s). When
    /// DNS cannot be asked at all, they are kept however long it takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace: Option<TimeSpan>,
    /// The `[discovery.X]` whose DNS servers are asked (default: the system's).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub through: Option<String>,
}

/// Address families.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Families {
    Both,
    Ipv4,
    Ipv6,
}

/// `[discovery.X]`.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub struct DiscoverySpec {
    pub dns: NameserversSpec,
}

/// How DNS is asked.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub struct NameserversSpec {
    /// `"10.0.0.53:53"` (default: those of `/etc/resolv.conf`, with its search list and `/etc/hosts`).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub servers: Option<Vec<EndpointAddress>>,
    /// How long one try may take (default 2s).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<TimeSpan>,
    /// How often a question is tried (default 2).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 10))]
    pub attempts: Option<NonZeroU32>,
    /// Answers hold at least this long, whatever their TTL (default 1s).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_ttl: Option<TimeSpan>,
    /// Answers hold at most this long, whatever their TTL (default 1h).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_ttl: Option<TimeSpan>,
}

/// The `[discovery.X]` tables, compiled.
#[derive(Debug, Default)]
pub struct Resolvers {
    named: BTreeMap<ObjectName, Arc<Nameservers>>,
    system: Arc<Nameservers>,
}

const GRACE: Duration = Duration::from_secs(30);
/// Asking more often than this is an attack on the server.
const TTL_LEAST: Duration = Duration::from_millis(100);
const POLL: Duration = Duration::from_secs(10);
const POLL_LEAST: Duration = Duration::from_secs(1);
const POLL_MOST: Duration = Duration::from_secs(3_600);
const TIMEOUT_MAX: Duration = Duration::from_secs(60);
const SERVERS_MAX: usize = 8;
const ATTEMPTS_MAX: u32 = 10;

impl Resolvers {
    pub fn compile(specs: &BTreeMap<ObjectName, DiscoverySpec>, cx: &mut Context) -> Self {
        let named = specs.iter().map(|(name, spec)| {
            let at = Path::root().key("discovery").key(name).key("dns");
            (name.clone(), Arc::new(spec.dns.compile(&at, cx)))
        });
        Self { named: named.collect(), system: Arc::default() }
    }

    /// Whom the resolver called `name` asks; an unknown name is an error in the report.
    pub fn servers(&self, name: &str, at: &Path, cx: &mut Context) -> Option<Servers> {
        self.find(Some(name), at, cx).map(|resolver| resolver.servers.clone())
    }

    /// The resolver called `name`, or the system's; an unknown name is an error in the report.
    fn find(&self, name: Option<&str>, at: &Path, cx: &mut Context) -> Option<Arc<Nameservers>> {
        let Some(name) = name else { return Some(self.system.clone()) };
        if !self.named.contains_key(name) {
            cx.undefined(at, "discovery", name, self.named.keys().map(ObjectName::as_str));
        }
        self.named.get(name).cloned()
    }
}

impl NameserversSpec {
    fn compile(&self, at: &Path, cx: &mut Context) -> Nameservers {
        let default = Nameservers::default();
        let servers = match &self.servers {
            None => Servers::System,
            Some(servers) => self.listed(servers, &at.key("servers"), cx),
        };
        let timeout = self.timeout.map_or(default.timeout, TimeSpan::get);
        if timeout.is_zero() || timeout > TIMEOUT_MAX {
            cx.error(&at.key("timeout"), "a server is waited for longer than 0s, and for at most 60s");
        }
        let attempts = self.attempts.map_or(default.attempts, NonZeroU32::get);
        if attempts > ATTEMPTS_MAX {
            cx.error(&at.key("attempts"), format!("a question is tried at most {ATTEMPTS_MAX} times"));
        }
        let (min, max) = (
            self.min_ttl.map_or(*default.ttl.start(), TimeSpan::get),
            self.max_ttl.map_or(*default.ttl.end(), TimeSpan::get),
        );
        if min < TTL_LEAST {
            cx.error(&at.key("min_ttl"), "DNS is asked at most every 100ms");
        }
        if min > max {
            let key = if self.max_ttl.is_some() { "max_ttl" } else { "min_ttl" };
            cx.error(&at.key(key), "`min_ttl` is longer than `max_ttl`").help("the defaults are 1s and 1h");
        }
        // Whatever is wrong is reported; a range that clamps must be one all the same.
        Nameservers { servers, timeout, attempts, ttl: min..=max.max(min) }
    }

    fn listed(&self, servers: &[EndpointAddress], at: &Path, cx: &mut Context) -> Servers {
        if servers.is_empty() || servers.len() > SERVERS_MAX {
            cx.error(at, format!("1 to {SERVERS_MAX} servers are asked"))
                .help("leave `servers` out to ask those of the system");
        }
        let each = servers.iter().enumerate().filter_map(|(index, server)| match server {
            EndpointAddress::Ip(address) => Some(*address),
            EndpointAddress::Unix(_) => {
                cx.error(&at.index(index), "DNS is not spoken over Unix sockets").help("write \"address:53\"");
                None
            }
        });
        Servers::Listed(each.collect())
    }
}

impl DiscoverSpec {
    /// `None`: the report says why not.
    pub fn compile(&self, resolvers: &Resolvers, at: &Path, cx: &mut Context) -> Option<Source> {
        if self.interval.is_some() && self.http.is_none() {
            cx.error_at_key(&at.key("interval"), "`interval` is for `http`");
        }
        match (&self.dns, &self.srv, &self.file, &self.http) {
            (Some(dns), None, None, None) => self.dns_source(addresses(dns, &at.key("dns"), cx), resolvers, at, cx),
            (None, Some(srv), None, None) => {
                let name = name(srv, &at.key("srv"), cx);
                self.dns_source(name.map(|name| Seek::Services { name }), resolvers, at, cx)
            }
            (None, None, None, Some(url)) => self.http_source(url, at, cx),
            (None, None, Some(file), None) => self.file_source(file, at, cx),
            (None, None, None, None) => {
                cx.error_at_key(at, "`discover` does not say where: `dns`, `srv`, `file` or `http`");
                None
            }
            (_, _, _, _) => {
                cx.error_at_key(at, "`dns`, `srv`, `file` and `http` exclude one another").help("leave one of them");
                None
            }
        }
    }

    fn dns_source(&self, seek: Option<Seek>, resolvers: &Resolvers, at: &Path, cx: &mut Context) -> Option<Source> {
        let through = resolvers.find(self.through.as_deref(), &at.key("through"), cx)?;
        Some(Source::Dns(DnsSource {
            seek: seek?,
            families: self.family.unwrap_or(Families::Both),
            grace: self.grace.map_or(GRACE, TimeSpan::get),
            through,
        }))
    }

    fn http_source(&self, url: &str, at: &Path, cx: &mut Context) -> Option<Source> {
        self.refuse_keys_of_dns("http", at, cx);
        let every = self.interval.map_or(POLL, TimeSpan::get);
        if every < POLL_LEAST || every > POLL_MOST {
            cx.error(&at.key("interval"), "a registry is asked every 1s to every 1h");
        }
        match HttpUrl::parse_protected(url) {
            Ok(url) => Some(Source::Http(HttpSource { url, every })),
            Err(error) => {
                cx.error(&at.key("http"), error.to_string());
                None
            }
        }
    }

    fn refuse_keys_of_dns(&self, beside: &str, at: &Path, cx: &mut Context) {
        for (key, given) in
            [("family", self.family.is_some()), ("grace", self.grace.is_some()), ("through", self.through.is_some())]
        {
            if given {
                cx.error_at_key(&at.key(key), format!("`{key}` has no effect with `{beside}`"))
                    .help("it is for `dns` and `srv`");
            }
        }
    }

    fn file_source(&self, file: &std::path::Path, at: &Path, cx: &mut Context) -> Option<Source> {
        self.refuse_keys_of_dns("file", at, cx);
        let here = at.key("file");
        let path = cx.resolve(&here, file);
        // Not an error: something else writes it, perhaps later, and must not be able to hold up a reload.
        if let Err(error) = EndpointList::read(&path) {
            cx.warning(&here, format!("no endpoints from {}: {error}", path.display()))
                .help("the last good ones are used until it can be read");
        }
        Some(Source::File(FileSource { path }))
    }
}

fn addresses(text: &str, at: &Path, cx: &mut Context) -> Option<Seek> {
    let Some((host, port)) = text.rsplit_once(':') else {
        cx.error(at, "the port is missing").help(format!("write \"{text}:8080\""));
        return None;
    };
    let port = port.parse::<u16>().ok().filter(|port| *port != 0);
    if port.is_none() {
        cx.error(at, "a port is a number from 1 to 65535");
    }
    // An address in brackets, or with too many colons, is not a name.
    if host.contains(':') {
        cx.error(at, format!("{}: {host}", crate::dns_name::NotAName::Address)).help("list it under `endpoints`");
        return None;
    }
    let name = name(host, at, cx);
    Some(Seek::Addresses { name: name?, port: port? })
}

fn name(text: &str, at: &Path, cx: &mut Context) -> Option<DnsName> {
    let name = text.parse();
    if let Err(error) = &name {
        let problem = cx.error(at, format!("`{text}` cannot be asked for: {error}"));
        if *error == crate::dns_name::NotAName::Address {
            problem.help("list it under `endpoints`");
        }
    }
    name.ok()
}
