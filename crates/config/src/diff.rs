//! What one configuration has that another has not, object by object.

use crate::path::Quoted;
use serde::Serialize;
use serde_json::Value;
use std::{collections::BTreeMap, fmt};

/// The difference between two configurations as plain data.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Diff {
    pub changes: Vec<Change>,
}

/// One object that differs.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "change", rename_all = "lowercase")]
pub enum Change {
    Added { object: String },
    Removed { object: String },
    Changed { object: String, keys: Vec<KeyChange> },
}

/// One value that differs inside an object.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct KeyChange {
    pub key: String,
    pub old: Option<Value>,
    pub new: Option<Value>,
}

/// Objects that one line of a log names.
const LINE_MAX: usize = 20;

impl Diff {
    pub fn between(old: &Value, new: &Value) -> Self {
        let (old, new) = (objects(old), objects(new));
        let mut changes = Vec::new();
        for (object, value) in &new {
            match old.get(object) {
                None => changes.push(Change::Added { object: object.clone() }),
                Some(before) if *before != *value => {
                    let mut keys = Vec::new();
                    compare(before, value, String::new(), &mut keys);
                    changes.push(Change::Changed { object: object.clone(), keys });
                }
                Some(_) => {}
            }
        }
        let gone = old.keys().filter(|object| !new.contains_key(*object));
        changes.extend(gone.map(|object| Change::Removed { object: object.clone() }));
        changes.sort_by(|one, two| one.object().cmp(two.object()));
        Self { changes }
    }

    /// For one line of a log: `+route.c -route.b ~route.a(hosts, timeout)`.
    pub fn line(&self) -> String {
        let shown = self.changes.iter().take(LINE_MAX).map(|change| match change {
            Change::Added { object } => format!("+{object}"),
            Change::Removed { object } => format!("-{object}"),
            Change::Changed { object, keys } => {
                let keys: Vec<_> = keys.iter().map(|key| key.key.as_str()).filter(|key| !key.is_empty()).collect();
                if keys.is_empty() { format!("~{object}") } else { format!("~{object}({})", keys.join(", ")) }
            }
        });
        let mut line = shown.collect::<Vec<_>>().join(" ");
        if let Some(more) = self.changes.len().checked_sub(LINE_MAX).filter(|more| *more > 0) {
            line.push_str(&format!(" … and {more} more"));
        }
        if line.is_empty() { "no difference".to_owned() } else { line }
    }

    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

/// `route.shop` and its like: named objects. What is not a table of tables stays whole.
fn objects(document: &Value) -> BTreeMap<String, &Value> {
    let mut objects = BTreeMap::new();
    for (kind, value) in document.as_object().into_iter().flatten() {
        match value {
            // A kind without objects says nothing.
            Value::Object(named) if named.values().all(Value::is_object) => {
                objects.extend(named.iter().map(|(name, object)| (format!("{kind}.{}", Quoted(name)), object)));
            }
            other => drop(objects.insert(kind.clone(), other)),
        }
    }
    objects
}

fn compare(old: &Value, new: &Value, at: String, out: &mut Vec<KeyChange>) {
    let (Value::Object(before), Value::Object(after)) = (old, new) else {
        return out.push(KeyChange { key: at, old: Some(old.clone()), new: Some(new.clone()) });
    };
    let below = |key: &str| match at.as_str() {
        "" => Quoted(key).to_string(),
        at => format!("{at}.{}", Quoted(key)),
    };
    for (key, value) in after {
        match before.get(key) {
            Some(other) if other != value => compare(other, value, below(key), out),
            Some(_) => {}
            None => out.push(KeyChange { key: below(key), old: None, new: Some(value.clone()) }),
        }
    }
    for (key, value) in before.iter().filter(|(key, _)| !after.contains_key(*key)) {
        out.push(KeyChange { key: below(key), old: Some(value.clone()), new: None });
    }
}

impl Change {
    /// `route.shop`.
    pub fn object(&self) -> &str {
        match self {
            Self::Added { object } | Self::Removed { object } | Self::Changed { object, .. } => object,
        }
    }
}

impl fmt::Display for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("no difference");
        }
        for (at, change) in self.changes.iter().enumerate() {
            if at > 0 {
                f.write_str("\n")?;
            }
            match change {
                Change::Added { object } => write!(f, "+ {object}")?,
                Change::Removed { object } => write!(f, "- {object}")?,
                Change::Changed { object, keys } => {
                    write!(f, "~ {object}")?;
                    for key in keys {
                        let show = |value: &Option<Value>| value.as_ref().map_or("(none)".to_owned(), Value::to_string);
                        let colon = if key.key.is_empty() { "" } else { ": " };
                        write!(f, "\n    {}{colon}{} -> {}", key.key, show(&key.old), show(&key.new))?;
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn objects_are_added_removed_and_changed_by_name() {
        let old = json!({ "schema": "1", "route": { "a": { "hosts": ["x"], "timeout": "1s" }, "b": {} } });
        let new = json!({ "schema": "1", "route": { "a": { "hosts": ["y"], "upstream": "u" }, "c": {} } });
        let text = Diff::between(&old, &new).to_string();
        for line in [
            "~ route.a",
            "    hosts: [\"x\"] -> [\"y\"]",
            "    timeout: \"1s\" -> (none)",
            "    upstream: (none) -> \"u\"",
            "+ route.c",
            "- route.b",
        ] {
            assert!(text.lines().any(|have| have == line), "{line} in\n{text}");
        }
        assert!(Diff::between(&old, &old).is_empty());
        assert_eq!(Diff::between(&old, &new).line(), "~route.a(hosts, upstream, timeout) -route.b +route.c");
    }

    #[test]
    fn each_kind_of_difference_is_one_line() {
        for (old, new, line) in [
            (json!({}), json!({}), "no difference"),
            (json!({ "route": {} }), json!({ "route": { "a": {} } }), "+route.a"),
            (json!({ "route": { "a": {} } }), json!({}), "-route.a"),
            (json!({ "process": { "threads": 1 } }), json!({ "process": { "threads": 2 } }), "~process(threads)"),
            (json!({ "a": { "b": { "c": { "d": 1 } } } }), json!({ "a": { "b": { "c": { "d": 2 } } } }), "~a.b(c.d)"),
            (json!({ "a": { "b": { "x.y": 1 } } }), json!({ "a": { "b": {} } }), "~a.b(\"x.y\")"),
            (json!({ "schema": "1" }), json!({ "schema": "2" }), "~schema"),
            (json!({ "schema": "1" }), json!({}), "-schema"),
        ] {
            let diff = Diff::between(&old, &new);
            assert_eq!(diff.line(), line, "{old} {new}");
            assert_eq!(serde_json::to_value(&diff).unwrap()["changes"].as_array().unwrap().is_empty(), diff.is_empty());
        }
    }
}
