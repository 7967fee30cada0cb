//! `[api.NAME]`: documents, compiled once, and which of them each rule's messages are held against.

use portcullis_api::{Api, ApiSpec};
use portcullis_config::{Context, Path};
use portcullis_names::ObjectName;
use portcullis_policy::{RouteTable, Wanted};
use portcullis_proxy::ApiGuard;
use std::{collections::BTreeMap, sync::Arc};

/// For each plan, in their order. Rules that want the same share it.
pub(crate) fn compile_apis(
    specs: &BTreeMap<ObjectName, ApiSpec>,
    routes: &RouteTable,
    cx: &mut Context,
) -> Vec<Option<Arc<ApiGuard>>> {
    let compiled: BTreeMap<&str, Option<Arc<Api>>> = specs
        .iter()
        .map(|(name, spec)| (name.as_str(), Api::compile(spec, &Path::root().key("api").key(name), cx).map(Arc::new)))
        .collect();
    let mut made: Vec<(Wanted, Option<Arc<ApiGuard>>)> = Vec::new();
    let mut guards = Vec::new();
    for plan in routes.plans() {
        if let Some((_, guard)) = made.iter().find(|(known, _)| *known == plan.api) {
            guards.push(guard.clone());
            continue;
        }
        let mut apis = Vec::new();
        for (name, at) in plan.api.iter() {
            match compiled.get(name) {
                Some(api) => apis.extend(api.clone().map(|api| (name.to_owned(), api))),
                None => cx.undefined(at, "api", name, compiled.keys().copied()),
            }
        }
        let guard = (!apis.is_empty()).then(|| Arc::new(ApiGuard { apis }));
        made.push((plan.api.clone(), guard.clone()));
        guards.push(guard);
    }
    let wanted = |name: &ObjectName| routes.plans().any(|plan| plan.api.names().any(|one| one == name.as_str()));
    for name in specs.keys().filter(|name| !wanted(name)) {
        cx.warning(&Path::root().key("api").key(name), format!("no route has `api = \"{name}\"`"));
    }
    guards
}
