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

/// Names a node in its document, through merging and moving.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct NodeId(u32);

#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) value: Value,
    pub(crate) span: Span,
}

#[derive(Debug, Clone)]
pub(crate) enum Value {
    String(String),
    /// Wider than any key takes, so that a number beyond 64 bits is still compared as a number.
    Integer(i128),
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

/// Hands out node ids, and turns the parser's tree into ours.
#[derive(Debug, Default)]
pub(crate) struct Grower {
    next: u32,
}

impl Grower {
    pub(crate) fn table(&mut self, file: FileId, table: &DeTable<'_>, range: Range<usize>) -> Node {
        let entries = table.iter().map(|(key, value)| {
            let node = self.node(file, value.get_ref(), value.span());
            (key.get_ref().to_string(), Entry { key: Span { file, range: key.span() }, node })
        });
        let value = Value::Table(entries.collect());
        self.grow(value, Span { file, range })
    }

    pub(crate) fn grow(&mut self, value: Value, span: Span) -> Node {
        // 10,000 files of 16 MiB could wrap this; reading them would have ended the process long before.
        self.next = self.next.wrapping_add(1);
        Node { id: NodeId(self.next), value, span }
    }

    fn node(&mut self, file: FileId, value: &DeValue<'_>, range: Range<usize>) -> Node {
        let value = match value {
            DeValue::String(text) => Value::String(text.to_string()),
            DeValue::Integer(integer) => Value::Integer(integer_of(integer.as_str(), integer.radix())),
            DeValue::Float(float) => Value::Float(float.as_str().replace('_', "").parse().unwrap_or(f64::NAN)),
            DeValue::Boolean(bool) => Value::Bool(*bool),
            DeValue::Datetime(_) => Value::Date,
            DeValue::Array(items) => {
                Value::Array(items.iter().map(|item| self.node(file, item.get_ref(), item.span())).collect())
            }
            DeValue::Table(table) => return self.table(file, table, range),
        };
        self.grow(value, Span { file, range })
    }
}

fn integer_of(digits: &str, radix: u32) -> i128 {
    let digits = digits.replace('_', "");
    let saturated = if digits.starts_with('-') { i128::MIN } else { i128::MAX };
    i128::from_str_radix(&digits, radix).unwrap_or(saturated)
}

impl Node {
    pub(crate) fn as_table(&self) -> Option<&Table> {
        match &self.value {
            Value::Table(table) => Some(table),
            _ => None,
        }
    }

    /// What stands here, in words. Text is not repeated: it may be a secret.
    pub(crate) fn describe(&self) -> String {
        match &self.value {
            Value::String(_) => "a string".to_owned(),
            Value::Integer(integer) => format!("the integer {integer}"),
            Value::Float(float) => format!("the number {float}"),
            Value::Bool(bool) => format!("{bool}"),
            Value::Date => "a date".to_owned(),
            Value::Array(_) => "an array".to_owned(),
            Value::Table(_) => "a table".to_owned(),
        }
    }

    /// The tree without its places.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::String(text) => text.clone().into(),
            Value::Integer(integer) => match (i64::try_from(*integer), u64::try_from(*integer)) {
                (Ok(integer), _) => integer.into(),
                (_, Ok(integer)) => integer.into(),
                (Err(_), Err(_)) => (*integer as f64).into(),
            },
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
