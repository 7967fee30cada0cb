//! The egress part of a document, compiled. Immutable; a reload makes a new one.

use super::{EgressSpec, parents::Parents};
use portcullis_auth::AuthRule;
use portcullis_config::{Context, Path};
use portcullis_egress::{CredentialSpec, Credentials, DestinationSpec, EgressPolicy, TlsMode};
use portcullis_names::{ObjectName, TimeSpan};
use portcullis_policy::{AccessSpec, Outward};
use portcullis_tls::{Inspection, ServerTls, UpstreamTls, UpstreamTlsSpec};
use portcullis_upstream::{Cluster, Clusters, Surroundings, UpstreamSpec};
use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

/// What the operator wrote of egress, and what that refers to.
#[derive(Debug, Clone, Copy)]
pub struct EgressSources<'s> {
    pub egress: Option<&'s EgressSpec>,
    pub destinations: &'s BTreeMap<ObjectName, DestinationSpec>,
    pub access: &'s BTreeMap<ObjectName, AccessSpec>,
    pub credentials: &'s BTreeMap<ObjectName, CredentialSpec>,
    /// `previous` of it does not matter.
    pub around: Surroundings<'s>,
    /// Of `[egress] resolver`; `None`: the system's.
    pub name_servers: Option<&'s [SocketAddr]>,
}

/// Everything that decides about what goes out.
#[derive(Debug)]
pub struct EgressPlan {
    pub policy: EgressPolicy,
    pub(crate) credentials: Credentials,
    origins: HashMap<ObjectName, OriginTls>,
    /// Balancing, breakers and the rest, of each destination by its name.
    traffic: Clusters,
    pub(crate) parents: Parents,
    /// Answers in the place of destinations that are inspected.
    pub(crate) inspection: Option<Inspection>,
    pub(crate) name_servers: Option<Vec<SocketAddr>>,
    pub(crate) drain: Duration,
    pub(crate) idle: Duration,
}

/// How the gateway opens TLS to a destination.
#[derive(Debug)]
pub(crate) struct OriginTls {
    plain: Opening,
    /// Showing the certificate of the destination's credential.
    with_certificate: Option<Opening>,
}

/// The same TLS for either version of HTTP.
#[derive(Debug)]
pub(crate) struct Opening {
    tls: UpstreamTls,
    any_http: Arc<rustls::ClientConfig>,
}

/// Whether the credential's certificate is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Showing {
    Nothing,
    Certificate,
}

/// A `proxy` listener.
#[derive(Debug)]
pub struct ProxyPlan {
    /// TLS between client and proxy.
    pub tls: Option<ServerTls>,
    /// What a client must show.
    pub auth: Option<Arc<AuthRule>>,
}

const DRAIN: Duration = Duration::from_secs(10);
const IDLE: Duration = Duration::from_secs(3_600);

impl EgressPlan {
    pub fn compile(sources: &EgressSources<'_>, previous: Option<&Self>, now: SystemTime, cx: &mut Context) -> Self {
        let certificate_names: Vec<&str> = sources.around.certificates.names().collect();
        let credentials = Credentials::compile(sources.credentials, &certificate_names, cx);
        let credential_names: Vec<&ObjectName> = sources.credentials.keys().collect();
        let mut policy = EgressPolicy::compile(sources.destinations, sources.access, &credential_names, now, cx);
        if let Some(previous) = previous {
            policy.carry_over(&previous.policy);
        }
        let originating =
            sources.destinations.iter().filter(|(_, spec)| spec.tls.unwrap_or_default() != TlsMode::Passthrough);
        let origins =
            originating.filter_map(|(name, spec)| Some((name.clone(), OriginTls::compile(name, spec, sources, cx)?)));
        let origins = origins.collect();
        let traffic = traffic(sources, previous, cx);
        let parents = Parents::compile(sources, cx);
        let at = Path::root().key("egress");
        let inspect = sources.egress.and_then(|spec| spec.inspect.as_ref());
        let inspection = inspect.and_then(|spec| spec.compile(&at.key("inspect"), cx));
        for (name, _) in sources.destinations.iter().filter(|(_, spec)| spec.tls == Some(TlsMode::Inspect)) {
            if inspect.is_none() {
                let at = Path::root().key("destination").key(name).key("tls");
                cx.error(&at, "nothing says who signs for inspected destinations")
                    .help("add [egress] with inspect = { certificate = { file = \"…\" }, key = { file = \"…\" } }");
            }
        }
        let idle = sources.egress.and_then(|spec| spec.idle_timeout);
        if idle.is_some_and(TimeSpan::is_zero) {
            cx.error(&at.key("idle_timeout"), "a tunnel that may not rest at all cannot be used");
        }
        Self {
            policy,
            credentials,
            origins,
            traffic,
            parents,
            inspection,
            name_servers: sources.name_servers.map(<[_]>::to_vec),
            drain: sources.egress.and_then(|spec| spec.drain).map_or(DRAIN, TimeSpan::get),
            idle: idle.map_or(IDLE, TimeSpan::get),
        }
    }

    /// The policy towards the addresses of a destination.
    pub(crate) fn traffic(&self, destination: &ObjectName) -> Option<&Arc<Cluster>> {
        self.traffic.find(destination.as_str()).map(|(_, policy)| policy)
    }

    /// How TLS is opened to a destination; `None` where it is not.
    pub(crate) fn origin(&self, destination: &ObjectName, showing: Showing) -> Option<&Opening> {
        let origin = self.origins.get(destination)?;
        match showing {
            Showing::Nothing => Some(&origin.plain),
            Showing::Certificate => origin.with_certificate.as_ref(),
        }
    }
}

/// What happens to the requests of each destination whose requests are seen.
pub fn outward(destinations: &BTreeMap<ObjectName, DestinationSpec>) -> Vec<Outward<'_>> {
    destinations.iter().filter_map(|(name, spec)| spec.outward(name)).collect()
}

fn traffic(sources: &EgressSources<'_>, previous: Option<&EgressPlan>, cx: &mut Context) -> Clusters {
    let specs: Vec<(&ObjectName, UpstreamSpec)> =
        sources.destinations.iter().map(|(name, spec)| (name, spec.traffic())).collect();
    let at = |name: &ObjectName| Path::root().key("destination").key(name);
    let around = Surroundings { previous: previous.map(|previous| &previous.traffic), ..sources.around };
    Clusters::policies(specs.iter().map(|(name, spec)| (*name, spec, at(name))), around, cx)
}

impl OriginTls {
    fn compile(
        name: &ObjectName,
        spec: &DestinationSpec,
        sources: &EgressSources<'_>,
        cx: &mut Context,
    ) -> Option<Self> {
        let at = Path::root().key("destination").key(name);
        let mut open = |certificate: Option<String>| {
            // The name is another for each host of the destination and given when it is dialled; this one is never used.
            let tls = UpstreamTlsSpec {
                sni: Some("destination.invalid".to_owned()),
                trust: spec.trust.clone(),
                certificate,
                ..UpstreamTlsSpec::default()
            };
            let around = &sources.around;
            let tls = UpstreamTls::compile(&tls, around.certificates, around.trusts, &at, cx).ok().flatten()?;
            Some(Opening::new(tls))
        };
        let plain = open(None)?;
        let credential = spec.credential.as_ref().and_then(|credential| sources.credentials.get(credential));
        let shown = credential.and_then(|credential| credential.client_certificate.as_ref());
        let with_certificate = match shown {
            Some(certificate) => Some(open(Some(certificate.to_string()))?),
            None => None,
        };
        Some(Self { plain, with_certificate })
    }
}

impl Opening {
    fn new(tls: UpstreamTls) -> Self {
        // A copy of it, with the same memory of sessions.
        let mut any_http = (*tls.config(b"h2")).clone();
        any_http.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Self { tls, any_http: Arc::new(any_http) }
    }

    /// See [`UpstreamTls::group_key`].
    pub(crate) fn group_key(&self) -> u64 {
        self.tls.group_key()
    }

    pub(crate) fn h1(&self) -> Arc<rustls::ClientConfig> {
        self.tls.config(b"http/1.1")
    }

    /// For a connection on which the destination chooses between h2 and HTTP/1.1.
    pub(crate) fn any_http(&self) -> Arc<rustls::ClientConfig> {
        self.any_http.clone()
    }
}
