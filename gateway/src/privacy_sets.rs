//! `[privacy.NAME]`: profiles, and what each rule of a route looks for with all of its levels together.

use portcullis_config::{Context, Path};
use portcullis_names::ObjectName;
use portcullis_policy::{RouteTable, Wanted};
use portcullis_privacy::{PrivacySpec, Profile, Watch};
use portcullis_proxy::PrivacyGuard;
use std::{collections::BTreeMap, sync::Arc};

/// For each plan, in their order. Rules that want the same share it.
pub(crate) fn compile_privacy(
    specs: &BTreeMap<ObjectName, PrivacySpec>,
    routes: &RouteTable,
    cx: &mut Context,
) -> Vec<Option<Arc<PrivacyGuard>>> {
    let profiles: BTreeMap<&str, Profile> = specs
        .iter()
        .map(|(name, spec)| (name.as_str(), Profile::compile(spec, &Path::root().key("privacy").key(name), cx)))
        .collect();
    let mut made: Vec<(Wanted, Option<Arc<PrivacyGuard>>)> = Vec::new();
    let mut guards = Vec::new();
    for plan in routes.plans() {
        if let Some((_, guard)) = made.iter().find(|(known, _)| *known == plan.privacy) {
            guards.push(guard.clone());
            continue;
        }
        let guard = compile_guard(&profiles, &plan.privacy, cx);
        made.push((plan.privacy.clone(), guard.clone()));
        guards.push(guard);
    }
    for name in
        specs.keys().filter(|name| !routes.plans().any(|plan| plan.privacy.names().any(|one| one == name.as_str())))
    {
        cx.warning(&Path::root().key("privacy").key(name), format!("no route has `privacy = \"{name}\"`"));
    }
    guards
}

fn compile_guard(profiles: &BTreeMap<&str, Profile>, wanted: &Wanted, cx: &mut Context) -> Option<Arc<PrivacyGuard>> {
    let mut found = Vec::new();
    for (name, at) in wanted.iter() {
        match profiles.get(name) {
            Some(profile) => found.push((name.to_owned(), profile)),
            None => cx.undefined(at, "privacy", name, profiles.keys().copied()),
        }
    }
    if found.is_empty() {
        return None;
    }
    let request = Watch::new(found.iter().flat_map(|(_, profile)| profile.request_rules()));
    let response = Watch::new(found.iter().flat_map(|(_, profile)| profile.response_rules()));
    Some(Arc::new(PrivacyGuard::new(found.into_iter().map(|(name, _)| name).collect(), request, response)))
}
