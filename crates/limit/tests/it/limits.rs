//! Limits from a line of configuration.

use portcullis_config::{Context, Document, Path};
use portcullis_limit::{Key, Known, RateLimit, RateLimitRefs, RateLimitSpec};
use portcullis_names::ObjectName;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};

#[derive(serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Spec {
    rule: Rule,
    #[serde(default)]
    rate_limit: BTreeMap<ObjectName, RateLimitSpec>,
}

#[derive(serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct Rule {
    rate_limit: RateLimitRefs,
}

/// The limits of a rule, or the report's lines. `store.shared` exists.
pub(crate) fn compile(document: &str, now: Instant) -> Result<Vec<Arc<RateLimit>>, Vec<String>> {
    reload(document, &[], now)
}

/// As above, after a snapshot with these limits.
pub(crate) fn reload(
    document: &str,
    previous: &[Arc<RateLimit>],
    now: Instant,
) -> Result<Vec<Arc<RateLimit>>, Vec<String>> {
    let previous = previous.iter().map(|limit| (limit.name().to_owned(), limit.clone())).collect();
    let (document, report) = Document::parse("edge.toml", document);
    let (spec, mut cx) = Arc::new(document).read::<Spec>(report, &[]);
    let limits = spec.map_or_else(Vec::new, |spec| compile_spec(&spec, &previous, now, &mut cx));
    let (report, _) = cx.finish();
    if report.has_errors() { Err(report.lines()) } else { Ok(limits) }
}

fn compile_spec(
    spec: &Spec,
    previous: &BTreeMap<String, Arc<RateLimit>>,
    now: Instant,
    cx: &mut Context,
) -> Vec<Arc<RateLimit>> {
    let stores = BTreeSet::from(["shared".parse().unwrap()]);
    let none = Known { limits: &BTreeMap::new(), stores: &stores, previous };
    let mut limits = BTreeMap::new();
    for (name, spec) in &spec.rate_limit {
        let at = Path::root().key("rate_limit").key(name);
        if let Some(limit) = spec.compile(name.as_str(), &none, now, &at, cx) {
            limits.insert(name.clone(), Arc::new(limit));
        }
    }
    let at = Path::root().key("rule").key("rate_limit");
    spec.rule.rate_limit.compile("shop/api", &Known { limits: &limits, stores: &stores, previous }, now, &at, cx)
}

/// `rule.rate_limit = …`, right and one.
pub(crate) fn limit(value: &str, now: Instant) -> RateLimit {
    let mut limits = compile(&format!("rule.rate_limit = {value}"), now).unwrap();
    assert_eq!(limits.len(), 1);
    Arc::into_inner(limits.remove(0)).unwrap()
}

pub(crate) fn key(part: &str) -> Key {
    [Some(part.as_bytes())].into_iter().collect()
}
