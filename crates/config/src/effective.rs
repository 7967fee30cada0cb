//! The whole configuration with every default filled in, each value with the place it comes from.

use crate::{Document, Path};
use serde_json::Value;

/// Prints resolved data as TOML 1.0, one value a line with `# file:line` or `# default` behind it.
pub fn effective(resolved: &Value, document: &Document) -> String {
    let mut text = String::new();
    table(resolved, document, &Path::root(), &mut text);
    text
}

fn table(value: &Value, document: &Document, at: &Path, text: &mut String) {
    let Value::Object(entries) = value else { return };
    let is_table = |value: &Value| matches!(value, Value::Object(inner) if !inner.is_empty());
    let mut header_done = at.to_string().is_empty();
    for (key, inner) in entries.iter().filter(|(_, inner)| !is_table(inner) && !inner.is_null()) {
        if !header_done {
            text.push_str(&format!("\n[{at}]\n"));
            header_done = true;
        }
        let here = at.key(key);
        let origin = match document.origin(&here) {
            Some(place) => format!("{}:{}", place.file.display(), place.line),
            None => "default".to_owned(),
        };
        text.push_str(&format!("{} = {}  # {origin}\n", quoted(key), inline(inner)));
    }
    for (key, inner) in entries.iter().filter(|(_, inner)| is_table(inner)) {
        table(inner, document, &at.key(key), text);
    }
}

fn inline(value: &Value) -> String {
    match value {
        Value::Array(items) => format!("[{}]", items.iter().map(inline).collect::<Vec<_>>().join(", ")),
        Value::Object(entries) => {
            let parts = entries.iter().filter(|(_, value)| !value.is_null());
            format!(
                "{{ {} }}",
                parts.map(|(key, value)| format!("{} = {}", quoted(key), inline(value))).collect::<Vec<_>>().join(", ")
            )
        }
        // JSON's escapes are all TOML escapes.
        other => other.to_string(),
    }
}

fn quoted(key: &str) -> String {
    let bare = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    if bare { key.to_owned() } else { Value::from(key).to_string() }
}

impl Document {
    /// Where exactly this was written; `None` when it was not.
    fn origin(&self, at: &Path) -> Option<crate::Place> {
        self.has(at).then(|| self.place(at))?
    }

    fn has(&self, at: &Path) -> bool {
        let mut value = &self.root;
        for segment in at.segments() {
            let next = match (segment, &value.value) {
                (crate::path::Segment::Key(key), crate::node::Value::Table(table)) => {
                    table.get(key).map(|entry| &entry.node)
                }
                (crate::path::Segment::Index(index), crate::node::Value::Array(items)) => items.get(*index),
                _ => None,
            };
            match next {
                Some(next) => value = next,
                None => return false,
            }
        }
        true
    }
}
