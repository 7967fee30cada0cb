//! What a text in a URL, a field or a form stands for, by the types that its schema allows.

use crate::{
    document::{Document, escape},
    schemas::Schema,
};
use serde_json::{Map, Number, Value};
use std::collections::BTreeMap;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Number,
    Boolean,
    Null,
    String,
    Array,
    Object,
}

/// The types that a schema allows, with those of what it contains.
#[derive(Debug, Clone, Default)]
pub(crate) struct Kinds {
    own: Vec<Kind>,
    items: Vec<Kind>,
    properties: BTreeMap<String, Kinds>,
}

impl Kinds {
    pub(crate) fn of(document: &Document, pointer: &str) -> Self {
        let mut kinds = Self::default();
        kinds.add(document, pointer, DEPTH_MAX);
        kinds
    }

    /// Alternatives and parts add theirs.
    fn add(&mut self, document: &Document, pointer: &str, depth: usize) {
        let Ok((at, schema)) = document.follow(pointer) else { return };
        match schema.get("type") {
            Some(Value::String(word)) => self.own.extend(kind(word)),
            Some(Value::Array(words)) => self.own.extend(words.iter().filter_map(Value::as_str).filter_map(kind)),
            _ => {}
        }
        if schema.get("nullable") == Some(&Value::Bool(true)) {
            self.own.push(Kind::Null);
        }
        if depth == 0 {
            return;
        }
        if schema.get("items").is_some() {
            let mut items = Self::default();
            items.add(document, &format!("{at}/items"), depth - 1);
            self.items.extend(items.own);
        }
        for name in schema.get("properties").and_then(Value::as_object).into_iter().flat_map(Map::keys) {
            let inner = self.properties.entry(name.clone()).or_default();
            inner.add(document, &format!("{at}/properties/{}", escape(name)), depth - 1);
        }
        for word in ["allOf", "oneOf", "anyOf"] {
            for index in 0..schema.get(word).and_then(Value::as_array).map_or(0, Vec::len) {
                self.add(document, &format!("{at}/{word}/{index}"), depth - 1);
            }
        }
    }

    pub(crate) fn has(&self, kind: Kind) -> bool {
        self.own.contains(&kind)
    }

    pub(crate) fn property_names(&self) -> impl Iterator<Item = &str> {
        self.properties.keys().map(String::as_str)
    }
}

/// Schemas nest; texts in URLs do not by much.
const DEPTH_MAX: usize = 4;

fn kind(word: &str) -> Option<Kind> {
    Some(match word {
        "integer" | "number" => Kind::Number,
        "boolean" => Kind::Boolean,
        "null" => Kind::Null,
        "string" => Kind::String,
        "array" => Kind::Array,
        "object" => Kind::Object,
        _ => return None,
    })
}

/// How texts become a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// As numbers and the like wherever a type allows it.
    Typed,
    /// As texts throughout: `1` is also a text, where a schema has no type or several.
    Plain,
}

/// Holds what `make` makes of a text against the schema, read one way and then the other.
pub(crate) fn differences(schema: &Schema, make: impl Fn(Reading) -> Value) -> Vec<(String, String)> {
    let typed = make(Reading::Typed);
    if schema.accepts(&typed) || schema.accepts(&make(Reading::Plain)) {
        return Vec::new();
    }
    schema.differences(&typed)
}

pub(crate) fn scalar(kinds: &Kinds, text: &str, reading: Reading) -> Value {
    read(&kinds.own, text, reading)
}

pub(crate) fn list<'t>(kinds: &Kinds, texts: impl Iterator<Item = &'t str>, reading: Reading) -> Value {
    Value::Array(texts.map(|text| read(&kinds.items, text, reading)).collect())
}

/// Of fields, in which a name that is given several times is a list.
pub(crate) fn object<'t>(kinds: &Kinds, fields: impl Iterator<Item = (&'t str, &'t str)>, reading: Reading) -> Value {
    let mut together: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, text) in fields {
        together.entry(name).or_default().push(text);
    }
    let unknown = Kinds::default();
    let entries = together.into_iter().map(|(name, texts)| {
        let inner = kinds.properties.get(name).unwrap_or(&unknown);
        let value = match texts.as_slice() {
            [text] if !inner.has(Kind::Array) => scalar(inner, text, reading),
            texts => list(inner, texts.iter().copied(), reading),
        };
        (name.to_owned(), value)
    });
    Value::Object(entries.collect())
}

fn read(kinds: &[Kind], text: &str, reading: Reading) -> Value {
    if reading == Reading::Plain {
        return Value::String(text.to_owned());
    }
    let may = |kind| kinds.is_empty() || kinds.contains(&kind);
    if may(Kind::Number)
        && let Some(number) = number(text)
    {
        return Value::Number(number);
    }
    match text {
        "true" if may(Kind::Boolean) => Value::Bool(true),
        "false" if may(Kind::Boolean) => Value::Bool(false),
        "" | "null" if kinds.contains(&Kind::Null) => Value::Null,
        _ => Value::String(text.to_owned()),
    }
}

/// As JSON writes it, and in no other way: `+1`, `0x1`, `inf` and ` 1` are texts.
fn number(text: &str) -> Option<Number> {
    let first = text.bytes().next()?;
    (first == b'-' || first.is_ascii_digit()).then(|| serde_json::from_str(text).ok()).flatten()
}
