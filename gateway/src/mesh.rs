//! The sidecar: its tables compiled, its listeners' plans, the upstreams and routes that it takes for granted, and what runs of
//! it.

use crate::{Compiled, spec::Spec};
use portcullis_config::{Context, Path};
use portcullis_discover::EndpointSpec;
use portcullis_mesh::{GlobalName, MtlsSpec, OpaquePorts};
use portcullis_names::{EndpointAddress, HostPattern, ObjectName};
use portcullis_policy::{AccessSpec, RouteSpec, RouteWafSpec, WafMode};
use portcullis_proxy::{
    Beyond, InboundTarget, LiveMesh, MeshListener, MeshPlan, MeshSources, Otherwise, OutboundTarget,
    listen::{Direction, ListenerSpec, Protocol},
};
use portcullis_upstream::UpstreamSpec;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::SystemTime,
};

/// Adds what a sidecar has without its being written: an upstream that is the application of each inbound listener, a route to
/// it, and a route to each service.
pub(crate) fn weave(spec: &mut Spec) {
    let directed = |wanted: Direction| {
        let each = spec.listener.iter().filter(move |(_, listener)| listener.direction == Some(wanted));
        each.map(|(name, listener)| (name.clone(), listener.to.clone())).collect::<Vec<_>>()
    };
    let (inbound, outbound) = (directed(Direction::Inbound), directed(Direction::Outbound));
    if inbound.is_empty() && outbound.is_empty() {
        return;
    }
    keep_out_of_inbound(spec, &inbound);
    let watches = spec.defaults.as_ref().is_none_or(|defaults| defaults.waf.is_none());
    for (listener, to) in &inbound {
        let Some(application) = application(listener) else { continue };
        // Where nothing is written each connection brings its own address; this one is never dialled.
        let address = to.as_ref().and_then(|to| to.parse().ok());
        let address = address.unwrap_or(EndpointAddress::Ip(SocketAddr::from(([127, 0, 0, 1], 9))));
        spec.upstream.entry(application.clone()).or_insert_with(|| UpstreamSpec {
            endpoints: vec![EndpointSpec { address, weight: 1, priority: 0, zone: None }],
            ..UpstreamSpec::default()
        });
        let is_routed = spec.route.values().any(|route| names(route).any(|name| name == listener.as_str()));
        if !is_routed {
            let route = RouteSpec {
                listeners: Some(vec![listener.to_string()]),
                upstream: Some(application.to_string()),
                ..RouteSpec::default()
            };
            add(spec, listener, route);
        }
        // Everything that comes in is looked at, and nothing refused by it, unless somebody said otherwise.
        let detect = RouteWafSpec { mode: Some(WafMode::Detect), ..RouteWafSpec::default() };
        let here = |route: &&mut RouteSpec| names(route).any(|name| name == listener.as_str());
        for route in spec.route.values_mut().filter(here).filter(|route| watches && route.waf.is_none()) {
            route.waf = Some(detect.clone());
        }
    }
    let Some(workload) = spec.workload.clone() else { return };
    for (name, service) in spec.service.clone() {
        let Some(upstream) = service.upstream.filter(|_| !outbound.is_empty()) else { continue };
        let mut hosts: Vec<HostPattern> = Vec::from_iter(format!("{name}.{}", service.namespace).parse().ok());
        if service.namespace == workload.namespace {
            hosts.extend(name.as_str().parse::<HostPattern>().ok());
        }
        // Who writes a route for a service says all about it.
        let is_routed = |route: &RouteSpec| route.hosts.iter().any(|host| hosts.contains(host));
        if hosts.is_empty() || spec.route.values().any(is_routed) {
            continue;
        }
        let route = RouteSpec {
            listeners: Some(outbound.iter().map(|(name, _)| name.to_string()).collect()),
            hosts,
            upstream: Some(upstream.to_string()),
            ..RouteSpec::default()
        };
        add(spec, &name, route);
    }
}

/// The upstream that stands for the application behind an inbound listener.
fn application(listener: &ObjectName) -> Option<ObjectName> {
    format!("{listener}-application").parse().ok()
}

fn names(route: &RouteSpec) -> impl Iterator<Item = &str> {
    route.listeners.iter().flatten().map(String::as_str)
}

fn add(spec: &mut Spec, name: &ObjectName, route: RouteSpec) {
    let free = [name.to_string(), format!("mesh-{name}")].into_iter().filter_map(|name| name.parse().ok());
    let free = free.into_iter().find(|name: &ObjectName| !spec.route.contains_key(name));
    if let Some(name) = free {
        spec.route.insert(name, route);
    }
}

/// A route that names no listener is on all of them, but never on an inbound one: a peer could ask the sidecar, by a Host field,
/// to go on to another service under its own identity.
fn keep_out_of_inbound(spec: &mut Spec, inbound: &[(ObjectName, Option<String>)]) {
    let takes = |listener: &ListenerSpec| {
        matches!(listener.effective_protocol(), Protocol::Http | Protocol::Https)
            || listener.direction == Some(Direction::Outbound)
    };
    let others: Vec<String> =
        spec.listener.iter().filter(|(_, listener)| takes(listener)).map(|(name, _)| name.to_string()).collect();
    if inbound.is_empty() {
        return;
    }
    for route in spec.route.values_mut().filter(|route| route.listeners.is_none()) {
        route.listeners = Some(others.clone());
    }
}

/// `None` where the document is no sidecar's.
pub(crate) fn compile(spec: &Spec, previous: Option<&Compiled>, cx: &mut Context) -> Option<Arc<MeshPlan>> {
    let root = Path::root();
    let directed: Vec<_> = spec.listener.iter().filter(|(_, listener)| listener.direction.is_some()).collect();
    let Some(workload) = &spec.workload else {
        for (name, _) in &directed {
            cx.error_at_key(&root.key("listener").key(name).key("direction"), "nothing says whose sidecar this is")
                .help("add [workload] with service, namespace, spiffe and svid");
        }
        for (table, written) in [("mtls", spec.mtls.is_some()), ("service", !spec.service.is_empty())] {
            if written {
                cx.error_at_key(&root.key(table), format!("`{table}` is a sidecar's, and there is no [workload]"));
            }
        }
        return None;
    };
    if directed.is_empty() {
        cx.error_at_key(&root.key("workload"), "a sidecar without a listener carries nothing")
            .help("add [listener.NAME] with direction = \"inbound\" or \"outbound\"");
    }
    let access: BTreeMap<ObjectName, AccessSpec> = (spec.access.iter())
        .filter(|(_, rule)| rule.is_about_services())
        .map(|(name, rule)| (name.clone(), rule.clone()))
        .collect();
    let hosts = spec.route.values().flat_map(|route| &route.hosts);
    let hosts = hosts.filter_map(|host| match host {
        HostPattern::Exact(name) => Some(name.clone()),
        HostPattern::Wildcard(_) | HostPattern::Any => None,
    });
    let nothing = MtlsSpec::default();
    let sources = MeshSources {
        workload,
        mtls: spec.mtls.as_ref().unwrap_or(&nothing),
        services: &spec.service,
        access: &access,
        upstreams: spec.upstream.keys().collect(),
        hosts: hosts.collect(),
    };
    let before = previous.and_then(|previous| previous.mesh.as_deref());
    let plan = MeshPlan::compile(&sources, before, SystemTime::now(), cx)?;
    if !portcullis_enrol::is_built(&plan.source) {
        let at = root.key("workload").key("svid").key("workload_api");
        cx.error_at_key(&at, "this program was built without the Workload API")
            .help("build it with its feature `workload-api`, or take `files` or `authority`");
    }
    Some(Arc::new(plan))
}

/// One sidecar's listener.
pub(crate) fn listener(
    name: &ObjectName,
    spec: &ListenerSpec,
    direction: Direction,
    document: &Spec,
    at: &Path,
    cx: &mut Context,
) -> Option<MeshListener> {
    if spec.address.port().is_none() {
        cx.error(&at.key("address"), "a sidecar's listener has an IP address and a port");
    }
    if spec.protocol.is_some() {
        cx.error_at_key(&at.key("protocol"), "a sidecar finds out by itself what is spoken")
            .help("leave `protocol` out");
    }
    if spec.to.is_some() && spec.capture.is_some() {
        cx.error_at_key(&at.key("capture"), "with `to`, connections are for one place, whatever they were for before")
            .help("leave one of the two out");
    }
    let opaque = match &spec.opaque_ports {
        Some(ports) => OpaquePorts::new(ports.iter().copied()),
        None => OpaquePorts::default(),
    };
    let capture = spec.capture.unwrap_or_default();
    match direction {
        Direction::Inbound => {
            for (key, written) in [("otherwise", spec.otherwise.is_some()), ("gateway", spec.gateway.is_some())] {
                if written {
                    cx.error_at_key(&at.key(key), format!("`{key}` is about what goes out"));
                }
            }
            let to = match spec.to.as_deref().map(str::parse) {
                None => InboundTarget::Captured(capture),
                Some(Ok(address)) => InboundTarget::At(address),
                Some(Err(_)) => {
                    cx.error(&at.key("to"), "expected the application's address, like \"127.0.0.1:8080\"");
                    return None;
                }
            };
            if spec.hbone == Some(true) {
                for (key, written) in
                    [("capture", spec.capture.is_some()), ("opaque_ports", spec.opaque_ports.is_some())]
                {
                    if written {
                        cx.error_at_key(&at.key(key), format!("`{key}` has no effect where streams come by HBONE"));
                    }
                }
                let to = if let InboundTarget::At(address) = to { Some(address) } else { None };
                return Some(MeshListener::Hbone { to, application: application(name)? });
            }
            Some(MeshListener::Inbound { to, opaque, application: application(name)? })
        }
        Direction::Outbound => {
            if spec.hbone.is_some() {
                cx.error_at_key(&at.key("hbone"), "`hbone` is about what comes in")
                    .help("what goes out by HBONE says so at its service: [service.NAME] hbone = 15008");
            }
            let to = match spec.to.as_deref() {
                None => OutboundTarget::Captured(capture),
                Some(to) => OutboundTarget::Service(service(to, document, &at.key("to"), cx)?),
            };
            let beyond = match (&spec.gateway, spec.otherwise) {
                (Some(gateway), otherwise) => {
                    if otherwise.is_some() {
                        cx.error_at_key(&at.key("otherwise"), "what is for no service goes through `gateway`");
                    }
                    match document.upstream.get_key_value(gateway.as_str()) {
                        Some((name, _)) => Beyond::Gateway(name.clone()),
                        None => {
                            let defined = document.upstream.keys().map(ObjectName::as_str);
                            cx.undefined(&at.key("gateway"), "upstream", gateway, defined);
                            return None;
                        }
                    }
                }
                (None, Some(Otherwise::Pass)) => Beyond::Pass,
                (None, Some(Otherwise::Refuse) | None) => Beyond::Refuse,
            };
            if spec.to.is_some() && (spec.otherwise.is_some() || spec.gateway.is_some()) {
                let key = if spec.gateway.is_some() { "gateway" } else { "otherwise" };
                cx.error_at_key(&at.key(key), "with `to`, every connection is for a service");
            }
            Some(MeshListener::Outbound { to, opaque, beyond })
        }
    }
}

fn service(text: &str, document: &Spec, at: &Path, cx: &mut Context) -> Option<GlobalName> {
    let own = document.workload.as_ref().map(|workload| workload.namespace.clone()).unwrap_or_default();
    let full = if text.contains('.') { text.to_owned() } else { format!("{text}.{own}") };
    let found = document.service.iter().find(|(name, service)| format!("{name}.{}", service.namespace) == full);
    if found.is_none() {
        cx.undefined(at, "service", text, document.service.keys().map(ObjectName::as_str));
    }
    found.and_then(|_| GlobalName::parse(&full).ok())
}

/// What runs of a compiled configuration.
pub(crate) fn live(compiled: &Compiled, previous: Option<&LiveMesh>) -> Option<Arc<LiveMesh>> {
    let plan = compiled.mesh.clone()?;
    if previous.is_none() {
        let mode = plan.modes.of(&plan.own.namespace, &plan.own.service, 0);
        tracing::info!(
            workload = %plan.workload.spiffe,
            service = %plan.own,
            mode = mode.as_str(),
            "sidecar: {}",
            portcullis_mesh::Authorisation::default_in_words(mode)
        );
    }
    Some(Arc::new(LiveMesh::new(plan, previous)))
}

/// The own identity, and every peer.
pub(crate) fn status(live: &LiveMesh) -> Value {
    let (plan, now) = (&live.plan, SystemTime::now());
    let mode = plan.modes.of(&plan.own.namespace, &plan.own.service, 0);
    json!({
        "workload": {
            "service": plan.own.to_string(),
            "spiffe": plan.workload.spiffe.as_str(),
            "version": plan.workload.version,
            "mode": mode.as_str(),
            "default": portcullis_mesh::Authorisation::default_in_words(mode),
            "identity": match plan.identity.at(now) {
                Ok(_) => "valid",
                Err(why) => why.as_str(),
            },
            "seconds_to_expiry": plan.identity.current().map(|svid| svid.seconds_to_expiry(now)),
        },
        "peers": live.state.board.peers(now),
    })
}

/// Services and the calls between them, as seen from here.
pub(crate) fn graph(live: &LiveMesh) -> Value {
    let own = live.plan.own.to_string();
    let peers = live.state.board.peers(SystemTime::now());
    let nodes: BTreeSet<&str> = peers.iter().map(|peer| peer.peer.as_str()).chain([own.as_str()]).collect();
    let edges = peers.iter().map(|peer| {
        let (from, to) =
            if peer.direction == Direction::Inbound.as_str() { (&peer.peer, &own) } else { (&own, &peer.peer) };
        json!({
            "from": from,
            "to": to,
            "security": peer.security,
            "calls": peer.calls,
            "reported": peer.reported,
            "refused": peer.refused,
            "failed": peer.failed,
            "mean_ms": peer.mean_ms,
        })
    });
    json!({ "nodes": nodes, "edges": edges.collect::<Vec<_>>() })
}
