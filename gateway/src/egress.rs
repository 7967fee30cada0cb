//! The way out: its tables compiled, its listeners' plans, and what runs of it.

use crate::{Compiled, spec::Spec};
use portcullis_auth::{AuthNames, AuthRule, RuleAuthSpec};
use portcullis_config::{Context, Path};
use portcullis_discover::Servers;
use portcullis_names::{ListenAddress, ObjectName};
use portcullis_policy::{AccessSpec, KnownGuards, RouteTable};
use portcullis_proxy::{
    EgressPlan, EgressSources, LiveEgress,
    listen::{Protocol, Underscores},
    outward,
};
use portcullis_upstream::Surroundings;
use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::SystemTime};

/// The routes, with plans for the requests that go out.
pub(crate) fn with_outward(routes: RouteTable, spec: &Spec, known: KnownGuards<'_>, cx: &mut Context) -> RouteTable {
    routes.with_outward(&outward(&spec.destination), known, cx)
}

/// `None` where the document has nothing of it.
pub(crate) fn compile(
    spec: &Spec,
    around: Surroundings<'_>,
    previous: Option<&Compiled>,
    cx: &mut Context,
) -> Option<Arc<EgressPlan>> {
    let listens = spec.listener.values().any(|listener| is_way_out(listener.effective_protocol()));
    let is_sidecar = spec.workload.is_some();
    let access: BTreeMap<ObjectName, AccessSpec> = (spec.access.iter())
        .filter(
            |(_, rule)| if is_sidecar && !listens { !rule.is_about_services() } else { rule.is_about_destinations() },
        )
        .map(|(name, rule)| (name.clone(), rule.clone()))
        .collect();
    for (name, _) in spec.access.iter().filter(|(name, _)| !is_sidecar && !access.contains_key(*name)) {
        let at = Path::root().key("access").key(name).key("to");
        cx.error(&at, "services are called by way of a sidecar, and there is no [workload]");
    }
    let tables = [
        ("destination", !spec.destination.is_empty()),
        ("access", !access.is_empty()),
        ("credential", !spec.credential.is_empty()),
        ("egress", spec.egress.is_some()),
    ];
    for (table, written) in tables {
        if written && !listens {
            cx.error_at_key(
                &Path::root().key(table),
                format!("`{table}` is about what goes out, and no listener lets anything out"),
            )
            .help("add [listener.NAME] with protocol = \"proxy\"");
        }
    }
    if !listens && tables.iter().all(|(_, written)| !written) {
        return None;
    }
    if access.is_empty() {
        cx.warning(&Path::root().key("listener"), "there is no [access] rule: everything that wants out is refused");
    }
    let servers = spec.egress.as_ref().and_then(|egress| egress.resolver.as_deref()).and_then(|name| {
        let at = Path::root().key("egress").key("resolver");
        match around.resolvers.servers(name, &at, cx)? {
            Servers::System => None,
            Servers::Listed(servers) => Some(servers),
        }
    });
    let sources = EgressSources {
        egress: spec.egress.as_ref(),
        destinations: &spec.destination,
        access: &access,
        credentials: &spec.credential,
        around,
        name_servers: servers.as_deref(),
    };
    let before = previous.and_then(|previous| previous.egress.as_deref());
    Some(Arc::new(EgressPlan::compile(&sources, before, SystemTime::now(), cx)))
}

/// Listeners under `[access]`.
pub(crate) fn is_way_out(protocol: Protocol) -> bool {
    match protocol {
        Protocol::Proxy | Protocol::Sni | Protocol::Transparent => true,
        Protocol::Http
        | Protocol::Https
        | Protocol::Tcp
        | Protocol::Tls
        | Protocol::Dns
        | Protocol::Verdicts
        | Protocol::Mesh => false,
    }
}

/// What becomes of field names with underscores when the listener does not say: what goes out goes as it came.
pub(crate) fn underscores(protocol: Protocol) -> Underscores {
    if is_way_out(protocol) || protocol == Protocol::Mesh { Underscores::Pass } else { Underscores::default() }
}

/// What the clients of a proxy listener must show.
pub(crate) fn proxy_auth(
    spec: &RuleAuthSpec,
    at: &Path,
    names: AuthNames<'_>,
    cx: &mut Context,
) -> Option<Arc<AuthRule>> {
    for (key, written) in [("jwt", spec.jwt.is_some()), ("api_key", spec.api_key.is_some())] {
        if written {
            cx.error_at_key(&at.key(key), format!("clients of a proxy do not send what `{key}` asks for"))
                .help("use `basic`, or `client_cert` with `tls.client_auth`");
        }
    }
    spec.compile(at, names, cx).map(Arc::new)
}

/// What runs of a compiled configuration. `bound`: every socket that the listeners have.
pub(crate) fn live(
    compiled: &Compiled,
    bound: Vec<SocketAddr>,
    previous: Option<&LiveEgress>,
) -> Result<Option<Arc<LiveEgress>>, String> {
    let Some(plan) = &compiled.egress else { return Ok(None) };
    // Nobody may reach our own metrics, or our name server, by way of us.
    let written = compiled.spec.listener.values().map(|listener| &listener.address).chain(&compiled.fixed.metrics);
    let fixed = written.filter_map(|address| match address {
        ListenAddress::Ip(address) => Some(*address),
        ListenAddress::Any(port) => Some(SocketAddr::new(std::net::Ipv6Addr::UNSPECIFIED.into(), *port)),
        ListenAddress::Unix(_) => None,
    });
    // Port 0 is any: which one it became is among those that are bound.
    let listeners = bound.into_iter().chain(fixed.filter(|address| address.port() != 0));
    LiveEgress::new(plan.clone(), listeners, previous).map(|live| Some(Arc::new(live))).map_err(|error| {
        format!("egress: {error}; name servers can be given by [egress] resolver and a [discovery.NAME]")
    })
}
