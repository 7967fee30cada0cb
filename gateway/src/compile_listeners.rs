//! Listeners: from their tables to plans, each with the routes of tunnels that lead from it. Opens no socket.

use crate::{compile::Compiled, dns, egress, mesh, spec::Spec};
use portcullis_auth::AuthNames;
use portcullis_config::{Context, Path};
use portcullis_names::{CidrSet, ObjectName};
use portcullis_policy::{ClientIp, ListenerId};
use portcullis_proxy::{
    InterceptPlan, ProxyPlan, SniRoutes, TcpRoute,
    listen::{HttpVersion, ListenerPlan, ListenerSpec, PlanProtocol, Protocol, Underscores},
};
use portcullis_tls::{Alpn, Certificates, ListenerTlsSpec, ServerTls, Trusts};
use portcullis_upstream::Clusters;
use std::sync::Arc;

/// What listeners are compiled with.
pub(crate) struct Listeners<'l> {
    pub(crate) spec: &'l Spec,
    pub(crate) certificates: &'l Certificates,
    pub(crate) trusts: &'l Trusts,
    pub(crate) clusters: &'l Clusters,
    pub(crate) names: AuthNames<'l>,
    pub(crate) previous: Option<&'l Compiled>,
}

fn alpn(h1: bool, h2: bool) -> Alpn {
    match (h1, h2) {
        (true, false) => Alpn::H1,
        (false, true) => Alpn::H2,
        _ => Alpn::Both,
    }
}

impl Listeners<'_> {
    pub(crate) fn compile(&self, cx: &mut Context) -> Vec<ListenerPlan> {
        let mut ids = ListenerIds::new(self.previous);
        let mut plans = Vec::new();
        let each = self.spec.listener.iter();
        for (name, spec) in each.filter(|(_, spec)| !dns::is_of_dns(spec.effective_protocol())) {
            let at = Path::root().key("listener").key(name);
            plans.extend(self.listener(ids.of(name), name, spec, &at, cx));
        }
        self.check_addresses(cx);
        plans.extend(self.redirects(&mut ids));
        // A misspelt `[listner.X]` is told as that, and not as its absence.
        if self.spec.listener.is_empty() && !cx.report().has_errors() {
            cx.error(&Path::root().key("listener"), "no listener: nothing would be served")
                .help("add [listener.https] with an address");
        }
        plans
    }

    fn listener(
        &self,
        id: ListenerId,
        name: &ObjectName,
        spec: &ListenerSpec,
        at: &Path,
        cx: &mut Context,
    ) -> Option<ListenerPlan> {
        let protocol = spec.effective_protocol();
        let limits = spec.limits.clone().unwrap_or_default().compile(&at.key("limits"), cx);
        self.check_keys(spec, protocol, at, cx);
        let versions = spec.versions.clone().unwrap_or_else(|| vec![HttpVersion::H1, HttpVersion::H2]);
        let (h1, h2) = (versions.contains(&HttpVersion::H1), versions.contains(&HttpVersion::H2));
        if !h1 && (!h2 || protocol == Protocol::Http) {
            cx.error(&at.key("versions"), "an http listener speaks at least h1")
                .help("use [\"h1\"] or [\"h1\", \"h2\"]");
        }
        let protocol = match protocol {
            Protocol::Http => PlanProtocol::Http,
            Protocol::Https => PlanProtocol::Https(self.tls(name, spec, alpn(h1, h2), at, cx)?),
            Protocol::Tcp => PlanProtocol::Tcp(self.tcp_route(name, at, cx)?),
            Protocol::Tls => PlanProtocol::Tls(Arc::new(self.sni_routes(name, at, cx))),
            // It is no listener of the pipeline.
            Protocol::Dns | Protocol::Verdicts => return None,
            Protocol::Mesh => {
                let direction = spec.direction?;
                PlanProtocol::Mesh(mesh::listener(name, spec, direction, self.spec, at, cx)?)
            }
            Protocol::Proxy => PlanProtocol::Proxy(self.proxy(name, spec, h1, h2, at, cx)?),
            Protocol::Sni => PlanProtocol::Intercept(InterceptPlan::Named(spec.target_port)),
            Protocol::Transparent => {
                PlanProtocol::Intercept(InterceptPlan::Transparent(spec.capture.unwrap_or_default()))
            }
        };
        Some(ListenerPlan {
            id,
            name: name.clone(),
            address: spec.address.clone(),
            protocol,
            proxy_protocol: spec.proxy_protocol.as_ref().map(|from| CidrSet::new(&from.from)),
            client_ip: spec.client_ip.as_ref().map(ClientIp::new).unwrap_or_default(),
            underscores: spec.underscores.unwrap_or(egress::underscores(spec.effective_protocol())),
            limits,
            h1,
            h2,
            redirects_to_https: false,
        })
    }

    /// A key that has no effect on this protocol is a misunderstanding.
    pub(crate) fn check_keys(&self, spec: &ListenerSpec, protocol: Protocol, at: &Path, cx: &mut Context) {
        let is_http = !matches!(protocol, Protocol::Tcp | Protocol::Tls | Protocol::Dns | Protocol::Verdicts);
        // A proxy speaks TLS when it has a certificate for it.
        let has_tls = matches!(protocol, Protocol::Https | Protocol::Dns | Protocol::Verdicts | Protocol::Proxy);
        let keys = [
            ("certificates", spec.certificates.is_some(), has_tls),
            ("tls", spec.tls.is_some(), has_tls && (protocol != Protocol::Proxy || spec.certificates.is_some())),
            ("http_redirect", spec.http_redirect.is_some(), protocol == Protocol::Https),
            ("versions", spec.versions.is_some(), is_http),
            ("client_ip", spec.client_ip.is_some(), is_http),
            ("underscores", spec.underscores.is_some(), is_http),
            ("proxy_protocol", spec.proxy_protocol.is_some(), !dns::is_of_dns(protocol)),
            // Streams of DNS are limited by `[dns.tcp]`.
            ("limits", spec.limits.is_some(), !dns::is_of_dns(protocol)),
        ];
        let intercept_only = [
            ("target_port", spec.target_port.is_some() && protocol != Protocol::Sni, "sni"),
            (
                "capture",
                spec.capture.is_some() && !matches!(protocol, Protocol::Transparent | Protocol::Mesh),
                "transparent",
            ),
        ];
        for (key, _, on) in intercept_only.into_iter().filter(|(_, misplaced, _)| *misplaced) {
            cx.error_at_key(&at.key(key), format!("`{key}` has an effect only on a listener of protocol {on}"));
        }
        let mesh_only = [
            ("to", spec.to.is_some()),
            ("otherwise", spec.otherwise.is_some()),
            ("gateway", spec.gateway.is_some()),
            ("opaque_ports", spec.opaque_ports.is_some()),
            ("hbone", spec.hbone.is_some()),
        ];
        for (key, _) in mesh_only.into_iter().filter(|(_, written)| *written && protocol != Protocol::Mesh) {
            cx.error_at_key(
                &at.key(key),
                format!("`{key}` has an effect only on a sidecar's listener, with `direction`"),
            );
        }
        if spec.auth.is_some() && protocol != Protocol::Proxy {
            cx.error_at_key(&at.key("auth"), "`auth` on a listener is for clients of a proxy")
                .help("on routes, say `auth` there, or in [defaults]");
        }
        let word = format!("{protocol:?}").to_lowercase();
        for (key, given, has_effect) in keys {
            if given && !has_effect {
                cx.error_at_key(&at.key(key), format!("`{key}` has no effect on a listener of protocol {word}"));
            }
        }
    }

    pub(crate) fn tls(
        &self,
        name: &ObjectName,
        spec: &ListenerSpec,
        alpn: Alpn,
        at: &Path,
        cx: &mut Context,
    ) -> Option<ServerTls> {
        let certificates = self.certificates;
        let names = match &spec.certificates {
            Some(names) => names.clone(),
            None => self.spec.certificate.keys().map(ToString::to_string).collect(),
        };
        for (index, certificate) in names.iter().enumerate() {
            let known = self.spec.certificate.keys().any(|known| known.as_str() == certificate);
            if !known {
                cx.undefined(
                    &at.key("certificates").index(index),
                    "certificate",
                    certificate,
                    self.spec.certificate.keys().map(ObjectName::as_str),
                );
            }
        }
        if names.is_empty() {
            cx.error_at_key(at, "an https listener needs a certificate")
                .help("add [certificate.NAME] with `cert` and `key`");
            return None;
        }
        let mut tls = spec.tls.clone().unwrap_or_default();
        let floor = self.spec.defaults.as_ref().and_then(|defaults| defaults.tls.as_ref()?.min_version);
        // Security accumulates: a listener can raise the floor, not lower it.
        tls.min_version = tls.min_version.max(floor);
        if spec.tls.as_ref().is_some_and(|own| own.min_version.is_some() && own.min_version < floor) {
            cx.error(&at.key("tls").key("min_version"), "lower than `defaults.tls.min_version`")
                .also(&Path::root().key("defaults").key("tls").key("min_version"), "the floor");
        }
        let before = self.previous_tls(name);
        ServerTls::compile(
            &ListenerTlsSpec { ..tls },
            &names,
            alpn,
            certificates,
            self.trusts,
            before,
            &at.key("tls"),
            cx,
        )
    }

    fn previous_tls(&self, name: &ObjectName) -> Option<&ServerTls> {
        if let Some(tls) = self.previous?.dns_tls(name) {
            return Some(tls);
        }
        let listener = self.previous?.listeners.iter().find(|listener| listener.plan.name == *name)?;
        listener.plan.protocol.server_tls()
    }

    fn proxy(
        &self,
        name: &ObjectName,
        spec: &ListenerSpec,
        h1: bool,
        h2: bool,
        at: &Path,
        cx: &mut Context,
    ) -> Option<ProxyPlan> {
        // Fails closed: a listener whose `auth` cannot be compiled is no listener.
        let auth = match &spec.auth {
            None => None,
            Some(auth) => Some(egress::proxy_auth(auth, &at.key("auth"), self.names, cx)?),
        };
        let tls = match &spec.certificates {
            None => None,
            Some(_) => Some(self.tls(name, spec, alpn(h1, h2), at, cx)?),
        };
        Some(ProxyPlan { tls, auth })
    }

    fn tcp_route(&self, listener: &ObjectName, at: &Path, cx: &mut Context) -> Option<Arc<TcpRoute>> {
        let mut routes = self
            .spec
            .tcp_route
            .iter()
            .filter(|(_, route)| route.listeners.iter().any(|name| name == listener.as_str()));
        let Some((name, route)) = routes.next() else {
            cx.error_at_key(at, format!("no tcp_route leads from listener \"{listener}\""))
                .help("add [tcp_route.NAME] with this listener");
            return None;
        };
        if let Some((other, _)) = routes.next() {
            cx.error_at_key(
                &Path::root().key("tcp_route").key(other),
                format!("listener \"{listener}\" already leads elsewhere"),
            )
            .also(&Path::root().key("tcp_route").key(name), "by this route");
        }
        self.tunnel(name, &route.upstream, &Path::root().key("tcp_route").key(name), cx)
    }

    fn sni_routes(&self, listener: &ObjectName, at: &Path, cx: &mut Context) -> SniRoutes {
        let mut table = SniRoutes::default();
        let mut any = false;
        for (name, route) in
            self.spec.tls_route.iter().filter(|(_, route)| route.listeners.iter().any(|name| name == listener.as_str()))
        {
            let here = Path::root().key("tls_route").key(name);
            any = true;
            let Some(tunnel) = self.tunnel(name, &route.upstream, &here, cx) else { continue };
            for (index, pattern) in route.sni.iter().enumerate() {
                if let Some(other) = table.insert(pattern, tunnel.clone()) {
                    cx.error(
                        &here.key("sni").index(index),
                        format!("{pattern} is claimed twice on listener \"{listener}\""),
                    )
                    .also(&Path::root().key("tls_route").key(&other.name).key("sni"), "here too");
                }
            }
        }
        if !any {
            cx.error_at_key(at, format!("no tls_route leads from listener \"{listener}\""))
                .help("add [tls_route.NAME] with this listener");
        }
        table
    }

    fn tunnel(&self, name: &ObjectName, upstream: &str, at: &Path, cx: &mut Context) -> Option<Arc<TcpRoute>> {
        let Some((_, cluster)) = self.clusters.find(upstream) else {
            cx.undefined(&at.key("upstream"), "upstream", upstream, self.clusters.ids().keys().map(String::as_str));
            return None;
        };
        Some(Arc::new(TcpRoute {
            name: name.clone(),
            upstream: cluster.name.clone(),
            proxy_protocol: cluster.proxy_protocol,
        }))
    }

    fn check_addresses(&self, cx: &mut Context) {
        let all: Vec<_> = self.spec.listener.iter().collect();
        for (index, (name, first)) in all.iter().enumerate() {
            for (other, second) in all.iter().skip(index + 1) {
                if first.address.conflicts_with(&second.address) {
                    let at = |name: &ObjectName| Path::root().key("listener").key(name).key("address");
                    cx.error(&at(other), format!("listeners \"{name}\" and \"{other}\" cannot both have this address"))
                        .also(&at(name), "the other one");
                }
            }
        }
    }

    /// An https listener on 443 answers port 80 as well, unless somebody else does or it is told not to.
    fn redirects(&self, ids: &mut ListenerIds<'_>) -> Vec<ListenerPlan> {
        let mut plans = Vec::new();
        for (name, spec) in &self.spec.listener {
            let wanted = spec.effective_protocol() == Protocol::Https
                && spec.address.port() == Some(443)
                && spec.http_redirect != Some(false);
            let Some(address) = spec.address.with_port(80).filter(|_| wanted) else { continue };
            if self.spec.listener.values().any(|other| other.address.conflicts_with(&address)) {
                continue;
            }
            let Ok(name) = format!("{name}-redirect").parse::<ObjectName>() else { continue };
            let limits = spec.limits.clone().unwrap_or_default().compile(&Path::root(), &mut Context::default());
            plans.push(ListenerPlan {
                id: ids.of(&name),
                name,
                address,
                protocol: PlanProtocol::Http,
                proxy_protocol: spec.proxy_protocol.as_ref().map(|from| CidrSet::new(&from.from)),
                client_ip: spec.client_ip.as_ref().map(ClientIp::new).unwrap_or_default(),
                underscores: Underscores::default(),
                limits,
                h1: true,
                h2: false,
                redirects_to_https: true,
            });
        }
        plans
    }
}

/// Ids by name, kept over reloads: connections of an old configuration must not be taken for another listener's.
struct ListenerIds<'p> {
    previous: Option<&'p Compiled>,
    next: u16,
}

impl<'p> ListenerIds<'p> {
    fn new(previous: Option<&'p Compiled>) -> Self {
        let highest = previous.iter().flat_map(|previous| &previous.listeners).map(|listener| listener.plan.id.0).max();
        Self { previous, next: highest.map_or(0, |highest| highest.wrapping_add(1)) }
    }

    fn of(&mut self, name: &ObjectName) -> ListenerId {
        let kept =
            self.previous.and_then(|previous| previous.listeners.iter().find(|listener| listener.plan.name == *name));
        if let Some(kept) = kept {
            return kept.plan.id;
        }
        let id = ListenerId(self.next);
        self.next = self.next.wrapping_add(1);
        id
    }
}
