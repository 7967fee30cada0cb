//! What guards refer to by name: shared rate limits and the stores that they count in.

use crate::{Compiled, spec::Spec};
use portcullis_auth::{AuthNames, Consumers, Identity};
use portcullis_config::{Context, Path};
use portcullis_limit::{Known, RateLimit};
use portcullis_names::ObjectName;
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
