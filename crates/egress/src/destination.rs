//! One `[destination.X]`, compiled.

use crate::{
    HostRule, PrivateRanges, TlsMode,
    binding::{Bind, EchPolicy},
    destination_spec::{DestinationSpec, TIMEOUT},
    protocol::Protocol,
    quota::QuotaPlan,
};
use portcullis_config::{Context, Path};
use portcullis_names::{ObjectName, TimeSpan};
use std::time::Duration;

/// How a party outside is talked to.
#[derive(Debug)]
pub struct Destination {
    pub(crate) name: ObjectName,
    pub(crate) ports: Vec<u16>,
    pub(crate) protocol: Protocol,
    pub(crate) tls: TlsMode,
    pub(crate) bind: Bind,
    pub(crate) ech: EchPolicy,
    pub(crate) private: PrivateRanges,
    pub(crate) credential: Option<ObjectName>,
    pub(crate) quota: QuotaPlan,
    connect_timeout: Duration,
    timeout: Duration,
}

impl Destination {
    pub fn name(&self) -> &ObjectName {
        &self.name
    }

    pub fn tls(&self) -> TlsMode {
        self.tls
    }

    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// For [`crate::Resolved::checked`].
    pub fn private_ranges(&self) -> &PrivateRanges {
        &self.private
    }

    pub fn credential(&self) -> Option<&ObjectName> {
        self.credential.as_ref()
    }

    pub fn quota(&self) -> &QuotaPlan {
        &self.quota
    }

    /// For one address.
    pub fn connect_timeout(&self) -> Duration {
        self.connect_timeout
    }

    /// Longest silence within a request.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Whether octets are counted against a budget, so that whoever moves them has to tell.
    pub fn counts_octets(&self) -> bool {
        self.quota.counts_octets()
    }

    /// Whether requests, octets or tunnels are limited, for each caller or all together.
    pub fn counts_callers(&self) -> bool {
        self.quota.counts_callers()
    }

    /// The port to dial when a client asks for `asked`; `None` when that port is not the destination's.
    ///
    /// Where the gateway opens the TLS, clients write `http://host/`, which says port 80 and means the first of ours.
    pub fn port_for(&self, asked: u16) -> Option<u16> {
        if self.ports.contains(&asked) {
            return Some(asked);
        }
        match (self.tls, asked) {
            (TlsMode::Originate, 80) => self.ports.first().copied(),
            (TlsMode::Originate | TlsMode::Inspect | TlsMode::Passthrough, _) => None,
        }
    }

    /// Whether methods, paths and header fields pass through the gateway's hands.
    pub fn sees_requests(&self) -> bool {
        self.tls != TlsMode::Passthrough || self.protocol == Protocol::Http
    }

    /// The destination with its host rules; what is wrong is reported and the rest compiled.
    pub(crate) fn compile(
        name: &ObjectName,
        spec: &DestinationSpec,
        at: &Path,
        cx: &mut Context,
    ) -> (Self, Vec<HostRule>) {
        let hosts = hosts(spec, at, cx);
        let protocol = spec.protocol.unwrap_or_default();
        let tls = spec.tls.unwrap_or_default();
        let opens = tls != TlsMode::Passthrough;
        if opens && protocol != Protocol::Tls {
            cx.error(&at.key("tls"), "the gateway would speak TLS to the destination, and its `protocol` is another")
                .help("leave `protocol` out; requests are http inside anyway");
        }
        let see_requests = spec.sees_requests();
        if spec.credential.is_some() && !see_requests {
            cx.error(&at.key("credential"), "the gateway does not see the requests that it would be added to")
                .help("say tls = \"originate\"");
        }
        if spec.timeout.is_some() && !see_requests {
            cx.error_at_key(&at.key("timeout"), "the gateway sees no requests here that could take time")
                .help("of tunnels, say `idle_timeout` in [egress]");
        }
        for (key, said) in [
            ("retry", spec.retry.is_some()),
            ("request_headers", spec.request_headers.is_some()),
            ("response_headers", spec.response_headers.is_some()),
            ("waf", spec.waf.is_some()),
            ("privacy", spec.privacy.is_some()),
            ("api", spec.api.is_some()),
        ] {
            if said && !see_requests {
                cx.error_at_key(&at.key(key), format!("`{key}` is about requests, and the gateway sees none here"))
                    .help("say tls = \"originate\" or \"inspect\"");
            }
        }
        let balance = spec.balance.as_ref();
        if balance.is_some_and(|balance| balance.key.is_some()) && !see_requests {
            cx.error_at_key(&at.key("balance").key("key"), "a tunnel has nothing that a key could be made of");
        }
        if spec.ech.is_some() && (opens || protocol != Protocol::Tls) {
            cx.error_at_key(&at.key("ech"), "`ech` is about TLS that passes through, and here none does");
        }
        if spec.trust.is_some() && !opens {
            cx.error_at_key(&at.key("trust"), "`trust` is about TLS that the gateway opens, and here it opens none")
                .help("say tls = \"originate\"");
        }
        let ports = ports(spec, protocol, at, cx);
        let destination = Self {
            name: name.clone(),
            ports,
            protocol,
            tls,
            bind: spec.bind.unwrap_or_default(),
            ech: spec.ech.unwrap_or_default(),
            private: PrivateRanges::new(spec.private_addresses.as_deref().unwrap_or_default()),
            credential: spec.credential.clone(),
            quota: QuotaPlan::compile(spec, at, cx),
            connect_timeout: time(spec.connect_timeout, CONNECT_TIMEOUT, &at.key("connect_timeout"), cx),
            timeout: time(spec.timeout, TIMEOUT, &at.key("timeout"), cx),
        };
        (destination, hosts)
    }
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

fn time(said: Option<TimeSpan>, default: Duration, at: &Path, cx: &mut Context) -> Duration {
    if said.is_some_and(TimeSpan::is_zero) {
        cx.error(at, "no time at all is never enough").help("leave it out for the default");
    }
    said.map_or(default, TimeSpan::get)
}

fn hosts(spec: &DestinationSpec, at: &Path, cx: &mut Context) -> Vec<HostRule> {
    let at = at.key("hosts");
    if spec.hosts.is_empty() {
        cx.error(&at, "a destination without hosts is never reached");
    }
    let mut rules = Vec::with_capacity(spec.hosts.len());
    for (index, text) in spec.hosts.iter().enumerate() {
        let rule = match text.parse::<HostRule>() {
            Ok(rule) => rule,
            Err(error) => {
                cx.error(&at.index(index), error.to_string());
                continue;
            }
        };
        if let (Err(error), false) = (rule.check_public_suffix(), spec.allow_public_suffix.unwrap_or(false)) {
            cx.error(&at.index(index), error.to_string())
                .help("name the hosts, or say allow_public_suffix = true if all of them are meant");
        }
        rules.push(rule);
    }
    rules
}

fn ports(spec: &DestinationSpec, protocol: Protocol, at: &Path, cx: &mut Context) -> Vec<u16> {
    let at = at.key("ports");
    match (&spec.ports, protocol) {
        (Some(ports), _) => {
            if ports.is_empty() || ports.contains(&0) {
                cx.error(&at, "ports are numbers from 1 to 65535, and at least one of them");
            }
            ports.clone()
        }
        (None, Protocol::Tls) => vec![443],
        (None, Protocol::Http) => vec![80],
        (None, Protocol::Ssh) => vec![22],
        (None, Protocol::Postgres) => vec![5432],
        (None, Protocol::Opaque) => {
            cx.error_at_key(&at, "an opaque protocol has no port of its own").help("say `ports`");
            Vec::new()
        }
    }
}
