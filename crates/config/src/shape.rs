//! What one place of a JSON Schema says, as far as schemars writes it for the types of a spec.

use crate::node::{Node, Value};
use serde_json::{Map, Value as Json};

/// One alternative of a schema, with references followed.
#[derive(Clone, Copy)]
pub(crate) struct Shape<'s>(&'s Json);

/// Chains of references in a schema made by schemars are two or three long.
const REFERENCES_MAX: usize = 32;

impl<'s> Shape<'s> {
    /// The alternatives of a schema: references followed, `anyOf` and `oneOf` laid flat, `null` left out, since TOML
    /// writes an absent value by leaving it out.
    pub(crate) fn alternatives(root: &'s Json, schema: &'s Json) -> Vec<Self> {
        let mut out = Vec::new();
        flatten(root, schema, REFERENCES_MAX, &mut out);
        out
    }

    fn get(&self, key: &str) -> Option<&'s Json> {
        self.0.get(key)
    }

    /// Anything goes.
    pub(crate) fn is_open(&self) -> bool {
        self.0.as_bool() == Some(true)
            || self.0.as_object().is_some_and(|schema| types(self.0).is_empty() && !schema.contains_key("not"))
    }

    pub(crate) fn takes(&self, node: &Node) -> bool {
        let name = match &node.value {
            Value::String(_) => "string",
            Value::Integer(_) => "integer",
            Value::Float(_) => "number",
            Value::Bool(_) => "boolean",
            Value::Array(_) => "array",
            Value::Table(_) => "object",
            Value::Date => return false,
        };
        types(self.0).iter().any(|have| *have == name || (*have == "number" && name == "integer"))
    }

    pub(crate) fn is_secret(&self) -> bool {
        self.get("x-secret").is_some()
    }

    pub(crate) fn properties(&self) -> impl Iterator<Item = (&'s str, &'s Json)> {
        let properties = self.get("properties").and_then(Json::as_object);
        properties.into_iter().flatten().map(|(key, schema)| (key.as_str(), schema))
    }

    pub(crate) fn property(&self, key: &str) -> Option<&'s Json> {
        self.get("properties")?.get(key)
    }

    /// The schema of keys that no property names; `None` when such keys are unknown.
    pub(crate) fn others(&self) -> Option<&'s Json> {
        let patterns =
            self.get("patternProperties").and_then(Json::as_object).and_then(|patterns| patterns.values().next());
        match self.get("additionalProperties") {
            Some(Json::Bool(false)) => patterns,
            Some(schema) => Some(schema),
            // JSON Schema leaves an object open that says nothing. A spec that is read by serde without
            // `deny_unknown_fields` looks like this, and its keys would do nothing: unknown keys are mistakes here.
            None => patterns,
        }
    }

    /// The format of keys, where the schema says one.
    pub(crate) fn key_format(&self) -> Option<&'s str> {
        self.get("propertyNames")?.get("format")?.as_str()
    }

    pub(crate) fn required(&self) -> impl Iterator<Item = &'s str> {
        self.get("required").and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str)
    }

    pub(crate) fn items(&self, index: usize) -> Option<&'s Json> {
        self.get("prefixItems").and_then(|items| items.get(index)).or_else(|| self.get("items"))
    }

    pub(crate) fn count(&self, key: &str) -> Option<u64> {
        self.get(key)?.as_u64()
    }

    pub(crate) fn format(&self) -> Option<&'s str> {
        self.get("format")?.as_str()
    }

    /// The only texts that are taken; empty when any text may be.
    pub(crate) fn constants(&self) -> Vec<&'s str> {
        let several = self.get("enum").and_then(Json::as_array).into_iter().flatten();
        several.chain(self.get("const")).filter_map(Json::as_str).collect()
    }

    /// The one key of an externally tagged variant.
    pub(crate) fn variant_key(&self) -> Option<&'s str> {
        let mut required = self.required();
        let (key, None) = (required.next()?, required.next()) else { return None };
        (self.properties().count() == 1 && self.others().is_none()).then_some(key)
    }

    /// The text that a property must have: the tag of an internally tagged variant.
    pub(crate) fn tag(&self, key: &str) -> Option<&'s str> {
        let property = Shape(self.property(key)?);
        match property.constants().as_slice() {
            [one] => Some(one),
            _ => None,
        }
    }

    /// The least and the most that a number may be.
    pub(crate) fn range(&self) -> (Option<f64>, Option<f64>) {
        let bound = |key: &str| self.get(key).and_then(Json::as_f64);
        let (least, most) = match self.format().unwrap_or_default() {
            "uint8" => (Some(0.0), Some(f64::from(u8::MAX))),
            "uint16" => (Some(0.0), Some(f64::from(u16::MAX))),
            "uint32" => (Some(0.0), Some(f64::from(u32::MAX))),
            // The most is a power of two that a float holds exactly; TOML's own integers end at 2^63 - 1.
            "uint" | "uint64" => (Some(0.0), Some(u64::MAX as f64)),
            "int8" => (Some(f64::from(i8::MIN)), Some(f64::from(i8::MAX))),
            "int16" => (Some(f64::from(i16::MIN)), Some(f64::from(i16::MAX))),
            "int32" => (Some(f64::from(i32::MIN)), Some(f64::from(i32::MAX))),
            "int" | "int64" => (Some(i64::MIN as f64), Some(i64::MAX as f64)),
            _ => (None, None),
        };
        (bound("minimum").or(least), bound("maximum").or(most))
    }

    /// What is wanted, in words.
    pub(crate) fn expectation(&self) -> String {
        // A field's own documentation is the schema's `description`; what its type wants is told apart from it.
        if let Some(expects) = self.get("x-expects").and_then(Json::as_str) {
            return expects.to_owned();
        }
        match types(self.0).first().copied() {
            Some("string") => match self.constants().as_slice() {
                [] => "a string".to_owned(),
                [one] => format!("\"{one}\""),
                values => format!("one of {}", values.join(", ")),
            },
            Some("integer") => "an integer".to_owned(),
            Some("number") => "a number".to_owned(),
            Some("boolean") => "true or false".to_owned(),
            Some("array") => match self.get("items") {
                Some(items) if types(items).contains(&"string") => "an array of strings".to_owned(),
                _ => "an array".to_owned(),
            },
            Some("object") => {
                let keys: Vec<_> = self.properties().map(|(key, _)| key).collect();
                if keys.is_empty() { "a table".to_owned() } else { format!("a table {{ {} }}", keys.join(", ")) }
            }
            _ => "nothing".to_owned(),
        }
    }
}

fn flatten<'s>(root: &'s Json, schema: &'s Json, patience: usize, out: &mut Vec<Shape<'s>>) {
    let Some(patience) = patience.checked_sub(1) else { return };
    if let Some(target) = schema.get("$ref").and_then(Json::as_str) {
        let target = target.strip_prefix('#').and_then(|pointer| root.pointer(pointer));
        return target.into_iter().for_each(|target| flatten(root, target, patience, out));
    }
    match schema.get("anyOf").or_else(|| schema.get("oneOf")).and_then(Json::as_array) {
        Some(inner) => inner.iter().for_each(|inner| flatten(root, inner, patience, out)),
        None if schema.get("type").and_then(Json::as_str) == Some("null") => {}
        None => out.push(Shape(schema)),
    }
}

fn types(schema: &Json) -> Vec<&str> {
    let has = |key: &str| schema.get(key).is_some();
    match schema.get("type") {
        Some(Json::String(one)) => vec![one.as_str()],
        Some(Json::Array(several)) => several.iter().filter_map(Json::as_str).filter(|name| *name != "null").collect(),
        _ if schema.get("const").is_some_and(Json::is_string) || has("enum") => vec!["string"],
        _ if has("properties") || has("additionalProperties") => vec!["object"],
        _ => Vec::new(),
    }
}

/// Whether a schema's top level names a key.
pub(crate) fn names(schema: &Json, key: &str) -> bool {
    schema
        .get("properties")
        .and_then(Json::as_object)
        .is_some_and(|properties: &Map<_, _>| properties.contains_key(key))
}
