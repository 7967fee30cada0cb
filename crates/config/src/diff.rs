//! What one configuration has that another has not, object by object.

use serde::Serialize;
use serde_json::{Map, Value};
use std::fmt;

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

impl Diff {
    pub fn between(old: &Value, new: &Value) -> Self {
        let (old, new) = (objects(old), objects(new));
        let mut changes = Vec::new();
        for (object, value) in &new {
            match old.get(object) {
                None => changes.push(Change::Added { object: object.clone() }),
                Some(before) if before != value => {
                    let mut keys = Vec::new();
                    compare(before, value, String::new(), &mut keys);
                    changes.push(Change::Changed { object: object.clone(), keys });
                }
                Some(_) => {}
            }
        }
        let gone = old.keys().filter(|object| !new.contains_key(*object));
        changes.extend(gone.map(|object| Change::Removed { object: object.clone() }));
        Self { changes }
    }

    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

/// `route.shop` and its like: named objects; what is not a table of tables stays whole.
fn objects(document: &Value) -> Map<String, Value> {
    let mut objects = Map::new();
    for (kind, value) in document.as_object().into_iter().flatten() {
        match value {
            Value::Object(named) if !named.is_empty() && named.values().all(Value::is_object) => {
                for (name, object) in named {
                    objects.insert(format!("{kind}.{name}"), object.clone());
                }
            }
            other => {
                objects.insert(kind.clone(), other.clone());
            }
        }
    }
    objects
}

fn compare(old: &Value, new: &Value, at: String, out: &mut Vec<KeyChange>) {
    let (Value::Object(before), Value::Object(after)) = (old, new) else {
        return out.push(KeyChange { key: at, old: Some(old.clone()), new: Some(new.clone()) });
    };
    let below = |key: &str| if at.is_empty() { key.to_owned() } else { format!("{at}.{key}") };
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
                        write!(f, "\n    {}: {} -> {}", key.key, show(&key.old), show(&key.new))?;
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
    }
}
