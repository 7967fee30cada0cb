//! Changes to header fields: `set`, `add`, `remove`.

use crate::{RequestView, hop_by_hop, template::Template};
use portcullis_config::{Context, Path};
use portcullis_names::HeaderName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// `request_headers = { set = { … }, add = { … }, remove = [ … ] }`. Values may hold `${variables}`.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HeaderEditsSpec {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub set: BTreeMap<HeaderName, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub add: BTreeMap<HeaderName, String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<HeaderName>,
}

/// Compiled edits; removal first, then set, then add.
#[derive(Debug, Clone, Default)]
pub struct HeaderEdits {
    remove: Vec<String>,
    set: Vec<(String, Template)>,
    add: Vec<(String, Template)>,
}

/// Where edits go: an engine's own header map.
pub trait HeaderSink {
    fn set(&mut self, name: &str, value: &[u8]);
    fn add(&mut self, name: &str, value: &[u8]);
    fn remove(&mut self, name: &str);
}

impl HeaderEditsSpec {
    pub(crate) fn compile(&self, at: &Path, cx: &mut Context) -> HeaderEdits {
        let mut templates = |key: &str, map: &BTreeMap<HeaderName, String>| -> Vec<(String, Template)> {
            let at = at.key(key);
            let compiled = map.iter().filter_map(|(name, value)| {
                let here = at.key(name);
                check_name(name, &here, cx);
                Some((name.to_string(), Template::compile(value, &here, cx)?))
            });
            compiled.collect()
        };
        let (set, add) = (templates("set", &self.set), templates("add", &self.add));
        for (index, name) in self.remove.iter().enumerate() {
            check_name(name, &at.key("remove").index(index), cx);
        }
        HeaderEdits { remove: self.remove.iter().map(ToString::to_string).collect(), set, add }
    }
}

/// Fields that frame a message or belong to one connection are not the operator's to edit: a wrong one is smuggling.
pub(crate) fn check_name(name: &HeaderName, at: &Path, cx: &mut Context) {
    let name = name.as_str();
    if name == "host" {
        cx.error_at_key(at, "`host` is not edited here").help("use `rewrite.host`");
    } else if name == "content-length" || hop_by_hop::is_hop_by_hop(name) {
        cx.error_at_key(at, format!("`{name}` frames the message or belongs to one connection; it cannot be edited"));
    }
}

impl HeaderEdits {
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }

    pub fn apply(&self, request: &impl RequestView, sink: &mut impl HeaderSink) {
        for name in &self.remove {
            sink.remove(name);
        }
        for (name, value) in &self.set {
            sink.set(name, &value.expand(request));
        }
        for (name, value) in &self.add {
            sink.add(name, &value.expand(request));
        }
    }
}
