//! All upstreams of one snapshot, by name and by index.

use crate::{Cluster, ClusterId, UpstreamSpec};
use portcullis_config::{Context, Path};
use portcullis_discover::{Endpoints, Resolvers, Source};
use portcullis_names::ObjectName;
use portcullis_tls::{Certificates, Trusts, UpstreamTls};
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

/// All upstreams of a snapshot.
#[derive(Debug, Default)]
pub struct Clusters {
    pub(crate) clusters: Vec<Arc<Cluster>>,
    pub(crate) by_name: BTreeMap<String, ClusterId>,
}

/// What an upstream is compiled with besides its own table.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings<'r> {
    pub certificates: &'r Certificates,
    pub trusts: &'r Trusts,
    pub resolvers: &'r Resolvers,
    pub connect_timeout: Duration,
    /// `site.zone`.
    pub zone: Option<&'r str>,
    pub previous: Option<&'r Clusters>,
    /// How TLS is opened to upstreams whose own table does not say it: services of a mesh.
    pub made_tls: &'r BTreeMap<ObjectName, UpstreamTls>,
    pub now: Instant,
}

impl Clusters {
    pub fn compile(specs: &BTreeMap<ObjectName, UpstreamSpec>, around: Surroundings<'_>, cx: &mut Context) -> Self {
        let mut clusters = Self::default();
        for (id, name) in specs.keys().enumerate() {
            // A cluster that cannot be compiled still lends its name, so that routes to it are not wrong as well.
            clusters.by_name.insert(name.to_string(), id);
        }
        for (name, spec) in specs {
            let at = Path::root().key("upstream").key(name);
            if spec.endpoints.is_empty() && spec.discover.is_none() {
                cx.error_at_key(&at, format!("upstream \"{name}\" has no endpoints"))
                    .help("list them in `endpoints`, or say where to `discover` them");
            }
            let mut cluster = Cluster::compile(name, spec, around, &at, cx);
            cluster.fallback = clusters.fallback(spec, &at, cx);
            clusters.clusters.push(Arc::new(cluster));
        }
        clusters.check_fallbacks(cx);
        clusters
    }

    fn fallback(&self, spec: &UpstreamSpec, at: &Path, cx: &mut Context) -> Option<ClusterId> {
        let name = spec.fallback.as_ref()?;
        let found = self.by_name.get(name).copied();
        if found.is_none() {
            cx.undefined(&at.key("fallback"), "upstream", name, self.by_name.keys().map(String::as_str));
        }
        found
    }

    /// A request must not go round in a circle.
    fn check_fallbacks(&self, cx: &mut Context) {
        for (id, cluster) in self.clusters.iter().enumerate() {
            let mut next = cluster.fallback;
            for _ in 0..self.clusters.len() {
                let Some(other) = next else { break };
                if other == id {
                    let at = Path::root().key("upstream").key(&cluster.name).key("fallback");
                    cx.error(&at, format!("upstream \"{}\" falls back to itself in the end", cluster.name));
                    break;
                }
                next = self.clusters.get(other).and_then(|other| other.fallback);
            }
        }
    }

    /// The same upstreams with the endpoints that discovery knows now; `None` when that changes nothing. State goes on from
    /// `previous`, if these have just been compiled.
    pub fn with_found(
        &self,
        known: impl Fn(&Source) -> Endpoints,
        previous: Option<&Self>,
        now: Instant,
    ) -> Option<Self> {
        let mut changed = false;
        let each = self.clusters.iter().map(|cluster| {
            let Some(source) = &cluster.source else { return cluster.clone() };
            let found = known(source);
            if cluster.has_found(found.as_slice()) {
                return cluster.clone();
            }
            changed = true;
            let before =
                previous.and_then(|previous| previous.find(cluster.name.as_str())).map(|(_, before)| &**before);
            Arc::new(cluster.with_found(found.as_slice(), before, now))
        });
        let clusters = each.collect();
        changed.then(|| Self { clusters, by_name: self.by_name.clone() })
    }

    /// Forgets what probes said of endpoints that are probed no more: nothing would bring them up again. To be called when
    /// these serve and the old probes have ended; compiling alone touches no state, for it may come to nothing.
    pub fn forget_old_probes(&self, now: Instant) {
        for cluster in self.clusters.iter().filter(|cluster| cluster.health_check.is_none()) {
            cluster.endpoints.iter().for_each(|endpoint| endpoint.state.forget_probes(now));
        }
    }

    /// What discovery is to be run for.
    pub fn sources(&self) -> impl Iterator<Item = &Source> {
        self.clusters.iter().filter_map(|cluster| cluster.source.as_ref())
    }

    pub fn get(&self, id: ClusterId) -> Option<&Arc<Cluster>> {
        self.clusters.get(id)
    }

    pub fn find(&self, name: &str) -> Option<(ClusterId, &Arc<Cluster>)> {
        let id = *self.by_name.get(name)?;
        Some((id, self.clusters.get(id)?))
    }

    pub fn ids(&self) -> &BTreeMap<String, ClusterId> {
        &self.by_name
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Cluster>> {
        self.clusters.iter()
    }
}
