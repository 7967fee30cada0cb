//! What guards refer to by name: shared rate limits and the stores that they count in.

use crate::{Compiled, spec::Spec};
use portcullis_auth::{AuthNames, Consumers, Identity};
use portcullis_config::{Context, Path};
use portcullis_limit::{Known, RateLimit, RateLimitRef, RateLimitRefs};
use portcullis_names::{KeyPart, ObjectName, RequestKey};
use portcullis_policy::{CarriedGuards, KnownGuards, Level};
use portcullis_store::StoreConfig;
use portcullis_tls::{Certificates, Trusts};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};

/// Everything a guard may name, compiled.
#[derive(Debug)]
pub(crate) struct GuardObjects {
    pub(crate) stores: BTreeMap<ObjectName, StoreConfig>,
    store_names: BTreeSet<ObjectName>,
    pub(crate) identities: BTreeMap<ObjectName, Arc<Identity>>,
    consumers: Arc<Consumers>,
    limits: BTreeMap<ObjectName, Arc<RateLimit>>,
}

impl GuardObjects {
    pub(crate) fn compile(
        spec: &Spec,
        certificates: &Certificates,
        trusts: &Trusts,
        previous: &CarriedGuards,
        now: Instant,
        cx: &mut Context,
    ) -> Self {
        let consumers = Consumers::compile(&spec.consumer, &Path::root().key("consumer"), cx);
        let mut objects = Self {
            stores: BTreeMap::new(),
            store_names: BTreeSet::new(),
            identities: BTreeMap::new(),
            consumers: Arc::new(consumers),
            limits: BTreeMap::new(),
        };
        for (name, identity) in &spec.identity {
            let at = Path::root().key("identity").key(name);
            let compiled = identity.compile(name, &at, cx).map(Arc::new);
            objects.identities.extend(compiled.map(|identity| (name.clone(), identity)));
        }
        for (name, store) in &spec.store {
            let at = Path::root().key("store").key(name);
            objects.store_names.insert(name.clone());
            if let Some(config) = store.compile(certificates, trusts, &at, cx) {
                objects.stores.insert(name.clone(), config);
            }
        }
        let none = BTreeMap::new();
        for (name, limit) in &spec.rate_limit {
            let at = Path::root().key("rate_limit").key(name);
            let known = Known { limits: &none, stores: &objects.store_names, previous: &previous.limits };
            let compiled = limit.compile(name.as_str(), &known, now, &at, cx).map(Arc::new);
            objects.limits.extend(compiled.map(|limit| (name.clone(), limit)));
        }
        objects
    }

    pub(crate) fn known<'k>(&'k self, previous: &'k CarriedGuards, now: Instant) -> KnownGuards<'k> {
        let names = AuthNames { identities: &self.identities, consumers: &self.consumers };
        KnownGuards { limits: &self.limits, stores: &self.store_names, names, previous, now, draw: fastrand::u64(..) }
    }
}

/// What `[defaults]` demands of every request.
pub(crate) fn demanded(spec: &Spec, known: KnownGuards<'_>, cx: &mut Context) -> Level {
    let defaults = spec.defaults.clone().unwrap_or_default();
    defaults.guards().compile("defaults", &Level::default(), known, &Path::root().key("defaults"), cx)
}

/// The guards of the configuration before, for what goes on from them.
pub(crate) fn carried(previous: Option<&Compiled>) -> Option<&CarriedGuards> {
    previous.map(|previous| previous.routes.carried())
}

/// A key by a fact that nobody can tell would put everybody together.
pub(crate) fn check_country_keys(spec: &Spec, cx: &mut Context) {
    if spec.geo.is_some() {
        return;
    }
    let by_country = |key: Option<&RequestKey>| key.is_some_and(|key| key.parts().contains(&KeyPart::Country));
    let mut wrong: Vec<Path> = Vec::new();
    for (name, _) in spec.rate_limit.iter().filter(|(_, limit)| by_country(limit.key.as_ref())) {
        wrong.push(Path::root().key("rate_limit").key(name).key("key"));
    }
    for (name, upstream) in &spec.upstream {
        if by_country(upstream.balance.as_ref().and_then(|balance| balance.key.as_ref())) {
            wrong.push(Path::root().key("upstream").key(name).key("balance").key("key"));
        }
    }
    let refs = |refs: Option<&RateLimitRefs>| {
        refs.is_some_and(|refs| {
            refs.iter().any(|one| matches!(one, RateLimitRef::Own(own) if by_country(own.key.as_ref())))
        })
    };
    if refs(spec.defaults.as_ref().and_then(|defaults| defaults.rate_limit.as_ref())) {
        wrong.push(Path::root().key("defaults").key("rate_limit"));
    }
    for (name, route) in &spec.route {
        let at = Path::root().key("route").key(name);
        if refs(route.rate_limit.as_ref()) {
            wrong.push(at.key("rate_limit"));
        }
        for (rule, _) in route.rule.iter().filter(|(_, own)| refs(own.rate_limit.as_ref())) {
            wrong.push(at.key("rule").key(rule).key("rate_limit"));
        }
    }
    for at in wrong {
        cx.error(&at, "`country` is a key here, and nothing says where an address is")
            .help("add [geo] with `file`, a database in MaxMind's format");
    }
}
