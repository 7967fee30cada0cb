//! serde's way into a document: the tree without what is known to be wrong, and errors that know their place.

use crate::{
    Path,
    node::{Node, NodeId, Span, Table, Value},
    path::Segment,
};
use serde::{
    Deserializer,
    de::{self, DeserializeSeed, IntoDeserializer, Visitor, value::StrDeserializer},
    forward_to_deserialize_any,
};
use std::{collections::HashSet, fmt};

/// Reads a node and what is below it, as if the nodes in `without` had not been written.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'de> {
    pub(crate) node: &'de Node,
    pub(crate) without: &'de HashSet<NodeId>,
}

/// What a type's own reader refused, and where.
#[derive(Debug)]
pub(crate) struct ReadError {
    pub(crate) message: String,
    pub(crate) at: Option<(NodeId, Span)>,
    /// Collected on the way out: the last segment comes first.
    path: Vec<Segment>,
}

impl ReadError {
    pub(crate) fn path(&self) -> Path {
        self.path.iter().rev().cloned().collect()
    }

    fn locate(mut self, node: NodeId, span: &Span) -> Self {
        self.at.get_or_insert_with(|| (node, span.clone()));
        self
    }

    fn below(mut self, segment: Segment) -> Self {
        self.path.push(segment);
        self
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ReadError {}

impl de::Error for ReadError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self { message: message.to_string(), at: None, path: Vec::new() }
    }
}

impl<'de> Reader<'de> {
    fn child(self, node: &'de Node) -> Self {
        Self { node, ..self }
    }

    fn keeps(&self, node: &Node) -> bool {
        !self.without.contains(&node.id)
    }

    fn located(self) -> impl FnOnce(ReadError) -> ReadError {
        move |error| error.locate(self.node.id, &self.node.span)
    }
}

impl<'de> Deserializer<'de> for Reader<'de> {
    type Error = ReadError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        let read = match &self.node.value {
            Value::String(text) => visitor.visit_borrowed_str(text),
            Value::Integer(integer) => match (i64::try_from(*integer), u64::try_from(*integer)) {
                (Ok(integer), _) => visitor.visit_i64(integer),
                (_, Ok(integer)) => visitor.visit_u64(integer),
                (Err(_), Err(_)) => visitor.visit_i128(*integer),
            },
            Value::Float(float) => visitor.visit_f64(*float),
            Value::Bool(bool) => visitor.visit_bool(*bool),
            Value::Date => visitor.visit_unit(),
            Value::Array(items) => visitor.visit_seq(Items { reader: self, items: items.iter().enumerate() }),
            Value::Table(table) => visitor.visit_map(Entries::new(self, table)),
        };
        read.map_err(self.located())
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, ReadError> {
        visitor.visit_newtype_struct(self).map_err(self.located())
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        let read = match &self.node.value {
            Value::String(text) => visitor.visit_enum(IntoDeserializer::<ReadError>::into_deserializer(text.as_str())),
            Value::Table(table) => visitor.visit_enum(de::value::MapAccessDeserializer::new(Entries::new(self, table))),
            _ => return self.deserialize_any(visitor),
        };
        read.map_err(self.located())
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct identifier ignored_any
    }
}

struct Items<'de> {
    reader: Reader<'de>,
    items: std::iter::Enumerate<std::slice::Iter<'de, Node>>,
}

impl<'de> de::SeqAccess<'de> for Items<'de> {
    type Error = ReadError;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, ReadError> {
        let reader = self.reader;
        let Some((index, item)) = self.items.find(|(_, item)| reader.keeps(item)) else { return Ok(None) };
        let read = seed.deserialize(reader.child(item));
        read.map(Some).map_err(|error| error.locate(item.id, &item.span).below(Segment::Index(index)))
    }

    fn size_hint(&self) -> Option<usize> {
        self.items.size_hint().1
    }
}

struct Entries<'de> {
    reader: Reader<'de>,
    entries: std::collections::btree_map::Iter<'de, String, crate::node::Entry>,
    value: Option<(&'de str, &'de crate::node::Entry)>,
}

impl<'de> Entries<'de> {
    fn new(reader: Reader<'de>, table: &'de Table) -> Self {
        Self { reader, entries: table.iter(), value: None }
    }
}

impl<'de> de::MapAccess<'de> for Entries<'de> {
    type Error = ReadError;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, ReadError> {
        let reader = self.reader;
        let Some((key, entry)) = self.entries.find(|(_, entry)| reader.keeps(&entry.node)) else { return Ok(None) };
        self.value = Some((key, entry));
        let read = seed.deserialize(StrDeserializer::<ReadError>::new(key));
        read.map(Some).map_err(|error| error.locate(entry.node.id, &entry.key).below(Segment::Key(key.clone())))
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, ReadError> {
        let Some((key, entry)) = self.value.take() else { return Err(de::Error::custom("a value without a key")) };
        let read = seed.deserialize(self.reader.child(&entry.node));
        read.map_err(|error| error.locate(entry.node.id, &entry.node.span).below(Segment::Key(key.to_owned())))
    }
}
