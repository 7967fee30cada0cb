//! Tests only: policies from TOML text.

use crate::{DestinationSpec, EgressPolicy};
use portcullis_config::Context;
use portcullis_names::ObjectName;
use portcullis_policy::AccessSpec;
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Document {
    pub(crate) destination: BTreeMap<ObjectName, DestinationSpec>,
    pub(crate) access: BTreeMap<ObjectName, AccessSpec>,
}

/// 2026-11-21T00:00:00Z.
pub(crate) fn noon() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_219_200)
}

/// The policy with what was found wrong in it.
pub(crate) fn compile(text: &str) -> (EgressPolicy, Vec<String>) {
    let document: Document = toml::from_str(text).unwrap();
    let mut cx = Context::default();
    let credentials: Vec<ObjectName> = vec!["key".parse().unwrap()];
    let names: Vec<&ObjectName> = credentials.iter().collect();
    let policy = EgressPolicy::compile(&document.destination, &document.access, &names, noon(), &mut cx);
    let (report, _) = cx.finish();
    (policy, report.problems().iter().map(|problem| format!("{}: {}", problem.path, problem.message)).collect())
}

pub(crate) fn policy(text: &str) -> EgressPolicy {
    let (policy, problems) = compile(text);
    assert!(problems.is_empty(), "{problems:?}");
    policy
}
