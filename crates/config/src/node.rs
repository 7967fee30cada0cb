//! The document as a tree in which every key and value knows where it was written.

use std::{collections::BTreeMap, ops::Range};
use toml::de::{DeTable, DeValue};

/// Which source file, by index.
pub(crate) type FileId = usize;

/// A stretch of one source file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) file: FileId,
    pub(crate) range: Range<usize>,
}

#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) value: Value,
    pub(crate) span: Span,
}

#[derive(Debug, Clone)]
pub(crate) enum Value {
    String(String),
    Integer(i64),
    Float(f64),
    Bool(bool),
    /// TOML's dates have no place in this language; they are kept to be refused where they stand.
    Date,
    Array(Vec<Node>),
    Table(Table),
}

pub(crate) type Table = BTreeMap<String, Entry>;

#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) key: Span,
    pub(crate) node: Node,
}

impl Node {
    pub(crate) fn table(file: FileId, table: &DeTable<'_>, range: Range<usize>) -> Self {
        let entries = table.iter().map(|(key, value)| {
            let node = Self::new(file, value.get_ref(), value.span());
            (key.get_ref().to_string(), Entry { key: Span { file, range: key.span() }, node })
        });
        Self { value: Value::Table(entries.collect()), span: Span { file, range } }
    }

    fn new(file: FileId, value: &DeValue<'_>, range: Range<usize>) -> Self {
        let value = match value {
            DeValue::String(text) => Value::String(text.to_string()),
            DeValue::Integer(integer) => match i64::from_str_radix(&integer.as_str().replace('_', ""), integer.radix())
            {
                Ok(integer) => Value::Integer(integer),
                // Beyond 64 bits: no key takes such a number, and as a float it is refused as one.
                Err(_) => Value::Float(f64::INFINITY),
            },
            DeValue::Float(float) => Value::Float(float.as_str().replace('_', "").parse().unwrap_or(f64::NAN)),
            DeValue::Boolean(bool) => Value::Bool(*bool),
            DeValue::Datetime(_) => Value::Date,
            DeValue::Array(items) => {
                Value::Array(items.iter().map(|item| Self::new(file, item.get_ref(), item.span())).collect())
            }
            DeValue::Table(table) => return Self::table(file, table, range),
        };
        Self { value, span: Span { file, range } }
    }

    pub(crate) fn kind(&self) -> &'static str {
        match &self.value {
            Value::String(_) => "a string",
            Value::Integer(_) => "an integer",
            Value::Float(_) => "a float",
            Value::Bool(_) => "a boolean",
            Value::Date => "a date",
            Value::Array(_) => "an array",
            Value::Table(_) => "a table",
        }
    }

    /// For serde: the tree without its places.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::String(text) => text.clone().into(),
            Value::Integer(integer) => (*integer).into(),
            Value::Float(float) => (*float).into(),
            Value::Bool(bool) => (*bool).into(),
            Value::Date => serde_json::Value::Null,
            Value::Array(items) => items.iter().map(Self::to_json).collect(),
            Value::Table(table) => serde_json::Value::Object(
                table.iter().map(|(key, entry)| (key.clone(), entry.node.to_json())).collect(),
            ),
        }
    }
}
