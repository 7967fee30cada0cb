//! The DNS tables of a document, compiled: what answers are made from, and the listeners that give them. Opens no socket.

use crate::{Compiled, compile::admin_path, compile_listeners::Listeners, dns_signals, spec::Spec};
use portcullis_config::{Context, Path};
use portcullis_gslb::{Clocks, GslbSpec, Registries, Snapshot};
use portcullis_names::{ListenAddress, ObjectName, Percent};
use portcullis_ops::AccessLogTarget;
use portcullis_proxy::listen::{ListenerSpec, Protocol};
use portcullis_tls::{Alpn, ClientAuth, ServerTls, Tickets};
use std::sync::Arc;

/// What a document says about DNS.
#[derive(Debug, Clone)]
pub struct Dns {
    pub snapshot: Arc<Snapshot>,
    pub listeners: Vec<DnsListener>,
    /// `None`: queries are counted and not told.
    pub query_log: Option<AccessLogTarget>,
}

/// A listener of the DNS side.
#[derive(Debug, Clone)]
pub struct DnsListener {
    pub name: ObjectName,
    pub address: ListenAddress,
    pub speaks: DnsSpeaks,
}

/// What a listener speaks.
#[derive(Debug, Clone)]
pub enum DnsSpeaks {
    /// DNS over UDP and TCP.
    Clear,
    /// DNS over TLS and over HTTPS.
    Encrypted(ServerTls),
    /// With the peers of the fleet.
    Verdicts(ServerTls),
}

impl DnsSpeaks {
    pub(crate) fn tls(&self) -> Option<&ServerTls> {
        match self {
            Self::Clear => None,
            Self::Encrypted(tls) | Self::Verdicts(tls) => Some(tls),
        }
    }
}

/// Listeners that are no part of the pipeline.
pub(crate) fn is_of_dns(protocol: Protocol) -> bool {
    matches!(protocol, Protocol::Dns | Protocol::Verdicts)
}

/// Whether a document speaks of DNS at all.
pub(crate) fn is_wanted(spec: &Spec) -> bool {
    let tables = spec.dns.is_some() || !spec.zone.is_empty() || !spec.public_service.is_empty();
    let verdicts = spec.listener.values().any(|listener| listener.effective_protocol() == Protocol::Verdicts);
    let tables = tables || verdicts;
    tables || listeners_of(spec).next().is_some()
}

fn listeners_of(spec: &Spec) -> impl Iterator<Item = (&ObjectName, &ListenerSpec)> {
    spec.listener.iter().filter(|(_, listener)| listener.effective_protocol() == Protocol::Dns)
}

impl Listeners<'_> {
    /// `previous` lends what survives a reload.
    pub(crate) fn dns(&self, cx: &mut Context) -> Option<Dns> {
        check_served(self.spec, cx);
        if !is_wanted(self.spec) {
            return None;
        }
        let query_log = self.spec.telemetry.as_ref().and_then(|telemetry| telemetry.query_log.as_ref());
        let sample = query_log.map(|log| log.sample.unwrap_or(Percent::ALL));
        let spec = GslbSpec {
            dns: self.spec.dns.clone(),
            zone: self.spec.zone.clone(),
            public_service: self.spec.public_service.clone(),
            logged: Some(sample.unwrap_or(Percent::from_whole(0))),
            state: Some(admin_path(self.spec).with_file_name("zones")),
        };
        let upstreams = dns_signals::addresses(self.clusters, self.previous.map(|previous| &*previous.clusters));
        let registries = Registries { certificates: self.certificates, trusts: self.trusts, upstreams: &upstreams };
        let previous = self.previous.and_then(|previous| previous.dns.as_ref());
        let before = previous.map(|previous| &*previous.snapshot);
        let listeners = listeners_of(self.spec).filter_map(|(name, spec)| self.dns_listener(name, spec, cx));
        let listeners = listeners.collect::<Vec<_>>().into_iter();
        let listeners = listeners.chain(self.verdicts(cx)).collect();
        self.check_fleet(cx);
        Some(Dns {
            snapshot: Snapshot::compile(&spec, registries, before, Clocks::read(), cx),
            listeners,
            query_log: query_log.map(|log| log.to.clone().unwrap_or(AccessLogTarget::Stdout)),
        })
    }

    fn dns_listener(&self, name: &ObjectName, spec: &ListenerSpec, cx: &mut Context) -> Option<DnsListener> {
        let at = Path::root().key("listener").key(name);
        self.check_keys(spec, Protocol::Dns, &at, cx);
        if matches!(spec.address, ListenAddress::Unix(_)) {
            cx.error(&at.key("address"), "DNS is not served on a unix socket").help("use \":53\" or an address");
        }
        if spec.tls.is_some() && spec.certificates.is_none() {
            cx.error_at_key(&at.key("tls"), "`tls` has no effect on a dns listener without `certificates`")
                .help("certificates = [\"NAME\"] makes it speak DNS over TLS");
        }
        let speaks = match &spec.certificates {
            None => DnsSpeaks::Clear,
            Some(_) => DnsSpeaks::Encrypted(self.tls(name, spec, Alpn::Dns, &at, cx)?),
        };
        Some(DnsListener { name: name.clone(), address: spec.address.clone(), speaks })
    }

    /// The store that a fleet names, and roads that lead nowhere.
    fn check_fleet(&self, cx: &mut Context) {
        let Some(fleet) = self.spec.dns.as_ref().and_then(|dns| dns.fleet.as_ref()) else { return };
        let at = Path::root().key("dns").key("fleet");
        if let Some(store) = &fleet.store
            && !self.spec.store.contains_key(store)
        {
            let known = self.spec.store.keys().map(ObjectName::as_str);
            cx.undefined(&at.key("store"), "store", store.as_str(), known.collect::<Vec<_>>());
        }
        let listens = self.spec.listener.values().any(|spec| spec.effective_protocol() == Protocol::Verdicts);
        if !listens && fleet.store.is_none() {
            cx.error_at_key(&at, "no peer could ask this node")
                .help("add [listener.NAME] with protocol = \"verdicts\", or name a `store`");
        }
    }

    /// Where peers ask for what this node says.
    fn verdicts(&self, cx: &mut Context) -> Vec<DnsListener> {
        let each = self.spec.listener.iter();
        let own = each.filter(|(_, spec)| spec.effective_protocol() == Protocol::Verdicts);
        let has_fleet = self.spec.dns.as_ref().is_some_and(|dns| dns.fleet.is_some());
        let mut listeners = Vec::new();
        for (name, spec) in own {
            let at = Path::root().key("listener").key(name);
            self.check_keys(spec, Protocol::Verdicts, &at, cx);
            if !has_fleet {
                cx.error_at_key(&at.key("protocol"), "no peer would ask: there is no [dns.fleet]");
            }
            if matches!(spec.address, ListenAddress::Unix(_)) {
                cx.error(&at.key("address"), "peers do not come over a unix socket");
            }
            // Fails closed: what is said there names addresses, and what is wrong with them.
            let auth = spec.tls.as_ref().and_then(|tls| tls.client_auth);
            if auth != Some(ClientAuth::Required) || spec.certificates.is_none() {
                cx.error_at_key(&at, "peers prove who they are, and so do we")
                    .help("certificates = [\"NAME\"] and tls = { client_auth = \"required\", trust = \"NAME\" }");
                continue;
            }
            // Who comes again is asked again who it is: connections are few and long.
            let mut full = spec.clone();
            full.tls.get_or_insert_default().tickets.get_or_insert(Tickets::Off);
            let tls = self.tls(name, &full, Alpn::H2, &at, cx).map(DnsSpeaks::Verdicts);
            let listener = |speaks| DnsListener { name: name.clone(), address: spec.address.clone(), speaks };
            listeners.extend(tls.map(listener));
        }
        listeners
    }
}

impl Compiled {
    pub(crate) fn dns_tls(&self, listener: &ObjectName) -> Option<&ServerTls> {
        let listeners = self.dns.as_ref().map_or(&[][..], |dns| &dns.listeners);
        listeners.iter().find(|own| own.name == *listener)?.speaks.tls()
    }
}

/// Tables without a listener answer nobody, and the other way about.
fn check_served(spec: &Spec, cx: &mut Context) {
    let listener = listeners_of(spec).next();
    let tables = [
        ("dns", spec.dns.is_some()),
        ("zone", !spec.zone.is_empty()),
        ("public_service", !spec.public_service.is_empty()),
    ];
    let query_log = spec.telemetry.as_ref().is_some_and(|telemetry| telemetry.query_log.is_some());
    match listener {
        None => {
            if let Some((table, _)) = tables.into_iter().find(|(_, given)| *given) {
                cx.error_at_key(&Path::root().key(table), format!("no listener serves `{table}`"))
                    .help("add [listener.dns] with protocol = \"dns\" and address = \":53\"");
            }
            if query_log {
                let at = Path::root().key("telemetry").key("query_log");
                cx.error_at_key(&at, "`query_log` has no effect without a listener of protocol dns");
            }
        }
        Some((name, _)) if spec.zone.is_empty() => {
            cx.warning(&Path::root().key("listener").key(name), "there is no zone: every query is answered REFUSED")
                .help("add [zone.NAME]");
        }
        Some(_) => {}
    }
}
