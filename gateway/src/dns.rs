//! The DNS tables of a document, compiled: what answers are made from, and the listeners that give them. Opens no socket.

use crate::{Compiled, compile::admin_path, compile_listeners::Listeners, dns_signals, spec::Spec};
use portcullis_config::{Context, Path};
use portcullis_gslb::{Clocks, GslbSpec, Registries, Snapshot};
use portcullis_names::{ListenAddress, ObjectName, Percent};
use portcullis_ops::AccessLogTarget;
use portcullis_proxy::listen::{ListenerSpec, Protocol};
use portcullis_tls::{Alpn, ServerTls};
use std::sync::Arc;

/// What a document says about DNS.
#[derive(Debug, Clone)]
pub struct Dns {
    pub snapshot: Arc<Snapshot>,
    pub listeners: Vec<DnsListener>,
    /// `None`: queries are counted and not told.
    pub query_log: Option<AccessLogTarget>,
}

/// UDP and TCP of one address; with certificates, DNS over TLS and over HTTPS.
#[derive(Debug, Clone)]
pub struct DnsListener {
    pub name: ObjectName,
    pub address: ListenAddress,
    pub tls: Option<ServerTls>,
}

/// Whether a document speaks of DNS at all.
pub(crate) fn is_wanted(spec: &Spec) -> bool {
    let tables = spec.dns.is_some() || !spec.zone.is_empty() || !spec.public_service.is_empty();
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
        let listeners = listeners_of(self.spec).filter_map(|(name, spec)| self.dns_listener(name, spec, cx)).collect();
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
        let tls = match &spec.certificates {
            None => None,
            Some(_) => Some(self.tls(name, spec, Alpn::Dns, &at, cx)?),
        };
        Some(DnsListener { name: name.clone(), address: spec.address.clone(), tls })
    }
}

impl Compiled {
    pub(crate) fn dns_tls(&self, listener: &ObjectName) -> Option<&ServerTls> {
        let listeners = self.dns.as_ref().map_or(&[][..], |dns| &dns.listeners);
        listeners.iter().find(|own| own.name == *listener)?.tls.as_ref()
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
