//! The sidecar's part of a document, compiled. Immutable; a reload makes a new one. The identity in use outlives it.

use portcullis_config::{Context, Path};
use portcullis_mesh::{
    ALPN_H1, ALPN_H2, ALPN_HBONE, ALPN_TUNNEL, Authorisation, GlobalName, IdentitySource, Mode, Modes, MtlsSpec,
    Outbound, OwnIdentity, PeerName, Relation, Service, ServiceSpec, Services, Workload, WorkloadSpec, client_config,
    server_config,
};
use portcullis_names::ObjectName;
use portcullis_policy::AccessSpec;
use portcullis_tls::{UpstreamTls, provider};
use rustls::{ClientConfig, ServerConfig, pki_types::ServerName};
use std::{
    collections::{BTreeMap, BTreeSet, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
    num::NonZeroU16,
    sync::Arc,
    time::SystemTime,
};

/// What a sidecar is made of.
pub struct MeshSources<'s> {
    pub workload: &'s WorkloadSpec,
    pub mtls: &'s MtlsSpec,
    pub services: &'s BTreeMap<ObjectName, ServiceSpec>,
    /// Only those that are about services.
    pub access: &'s BTreeMap<ObjectName, AccessSpec>,
    pub upstreams: Vec<&'s ObjectName>,
    /// Hosts that routes are written for.
    pub hosts: BTreeSet<String>,
}

/// `[workload]`, `[mtls]`, `[service]` and what of `[access]` is about services.
#[derive(Debug)]
pub struct MeshPlan {
    pub workload: Workload,
    pub own: GlobalName,
    pub modes: Modes,
    pub services: Services,
    pub authorisation: Authorisation,
    pub identity: Arc<OwnIdentity>,
    pub source: IdentitySource,
    /// What the sidecar's own connections are marked with.
    pub mark: Option<u32>,
    pub(crate) server: Arc<ServerConfig>,
    pub(crate) hbone: Arc<ServerConfig>,
    towards: BTreeMap<ObjectName, Arc<Towards>>,
    /// Hosts of routes that are written out.
    hosts: BTreeSet<String>,
}

/// How the endpoints of one service are reached.
#[derive(Debug)]
pub struct Towards {
    pub peer: PeerName,
    pub mode: Mode,
    pub(crate) how: How,
    /// The port on which its endpoints take HBONE.
    pub(crate) hbone: Option<NonZeroU16>,
    pub(crate) tunnel: Arc<ClientConfig>,
    pub(crate) server_name: ServerName<'static>,
    tls: UpstreamTls,
}

/// Encrypted or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    Mesh,
    /// Encrypted; to an endpoint that turns out to have no sidecar, in clear text.
    MeshOrPlain,
    Plain,
}

impl MeshPlan {
    /// `None`: the report says why not.
    pub fn compile(
        sources: &MeshSources<'_>,
        previous: Option<&Self>,
        now: SystemTime,
        cx: &mut Context,
    ) -> Option<Self> {
        let root = Path::root();
        let workload = Workload::compile(sources.workload, &root.key("workload"), cx);
        let modes = Modes::compile(sources.mtls, &root.key("mtls"), cx);
        let services = Services::compile(&workload, sources.services, &sources.upstreams, &root.key("service"), cx);
        let own = GlobalName { service: workload.service.to_string(), namespace: workload.namespace.clone() };
        let authorisation = Authorisation::compile(&own, sources.access, &root.key("access"), cx);
        let source = sources.workload.svid.compile(&workload.spiffe, &root.key("workload").key("svid"), cx);
        let kept = previous.filter(|previous| previous.workload.spiffe == workload.spiffe && previous.source == source);
        let identity = match kept {
            Some(previous) => previous.identity.clone(),
            None => Arc::new(first_identity(&workload, &source, now, cx)),
        };
        let mut serving = |alpn: &[&[u8]]| made(server_config(&identity, alpn, &provider()), &root.key("workload"), cx);
        let (server, hbone) = (serving(&[ALPN_TUNNEL, ALPN_H2, ALPN_H1])?, serving(&[ALPN_HBONE])?);
        let mut towards = BTreeMap::new();
        for (name, service) in services.iter() {
            let Some(upstream) = &service.upstream else { continue };
            let at = root.key("service").key(&name.service);
            let relation = services.relation(Some(&name.namespace));
            // Ports in `[mtls]` are the workload's own.
            let mode = modes.of(&name.namespace, &name.service, 0);
            let Some(way) = Towards::compile(service, mode, relation, &identity, &at, cx) else { continue };
            if let Some(other) = towards.insert(upstream.clone(), Arc::new(way)) {
                cx.error(&at.key("upstream"), format!("upstream \"{upstream}\" is service {} already", other.peer));
            }
        }
        let mark = sources.workload.mark.map(std::num::NonZeroU32::get);
        Some(Self {
            workload,
            own,
            modes,
            services,
            authorisation,
            identity,
            source,
            mark,
            server,
            hbone,
            towards,
            hosts: sources.hosts.clone(),
        })
    }

    /// The service behind an upstream.
    pub fn towards(&self, upstream: &ObjectName) -> Option<&Arc<Towards>> {
        self.towards.get(upstream)
    }

    /// Whether a route is written for the host.
    pub(crate) fn is_routed(&self, host: Option<&str>) -> bool {
        host.is_some_and(|host| self.hosts.contains(host))
    }

    /// How TLS is opened to the upstreams of services.
    pub fn upstream_tls(&self) -> BTreeMap<ObjectName, UpstreamTls> {
        let encrypted = self.towards.iter().filter(|(_, towards)| towards.how != How::Plain);
        encrypted.map(|(name, towards)| (name.clone(), towards.tls.clone())).collect()
    }

    /// Whose rules need what a token says.
    pub(crate) fn needs_claims(&self) -> bool {
        self.authorisation.needs_claims()
    }
}

impl Towards {
    fn compile(
        service: &Service,
        mode: Mode,
        relation: Relation,
        identity: &Arc<OwnIdentity>,
        at: &Path,
        cx: &mut Context,
    ) -> Option<Self> {
        let peer = &service.peer;
        let name = peer.name().to_string();
        let server_name = ServerName::try_from(name.clone()).ok()?;
        let mut group = DefaultHasher::new();
        (&name, format!("{peer:?}"), identity.id().as_str()).hash(&mut group);
        let mut open = |alpn| made(client_config(identity, peer, alpn, &provider()), at, cx);
        let (h1, h2, tunnel) =
            (open(ALPN_H1)?, open(ALPN_H2)?, open(service.hbone.map_or(ALPN_TUNNEL, |_| ALPN_HBONE))?);
        let how = match (service.hbone, mode.outbound(relation), mode, relation) {
            (Some(_), _, _, _) => How::Mesh,
            (None, Outbound::Plain, _, _) => How::Plain,
            (None, Outbound::MeshTls, Mode::Permissive, Relation::Same) => How::MeshOrPlain,
            (None, Outbound::MeshTls, _, _) => How::Mesh,
        };
        let tls = UpstreamTls::made(h1, h2, server_name.clone(), group.finish());
        Some(Self { peer: peer.clone(), mode, how, hbone: service.hbone, tunnel, server_name, tls })
    }

    pub fn name(&self) -> &GlobalName {
        self.peer.name()
    }
}

fn made<T>(config: Result<T, rustls::Error>, at: &Path, cx: &mut Context) -> Option<T> {
    match config {
        Ok(config) => Some(config),
        Err(error) => {
            cx.error_at_key(at, format!("TLS cannot be spoken like this: {error}"));
            None
        }
    }
}

/// What is there already. A sidecar may start before its certificate is issued: until then it proves nothing, and mTLS is
/// refused on both sides.
fn first_identity(workload: &Workload, source: &IdentitySource, now: SystemTime, cx: &mut Context) -> OwnIdentity {
    let identity = OwnIdentity::new(workload.spiffe.clone());
    match source {
        IdentitySource::Files(files) => match files.read(&workload.spiffe, now) {
            Ok(svid) => _ = identity.offer(svid, now),
            Err(error) => {
                cx.warning(&Path::root().key("workload").key("svid"), format!("there is no identity yet: {error}"))
                    .help("until there is one, no mTLS is spoken; the files are looked at all the time");
            }
        },
        // Somebody has to be asked: not while a configuration is compiled.
        IdentitySource::Authority(_) | IdentitySource::WorkloadApi(_) => {}
    }
    identity
}
