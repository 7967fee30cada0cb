//! One parameter of an operation: where it is, how it is written, and what it may be.

use crate::{
    ViolationKind,
    document::{Document, Fault},
    schemas::{Schema, Schemas},
    style::{Explode, Form, Lead, Parts, Style},
    text_value::{Kind, Kinds, Reading, differences, list, object, scalar},
    violation::Violation,
};
use serde_json::Value;

#[derive(Debug)]
pub(crate) struct Parameter {
    pub(crate) place: Place,
    pub(crate) name: String,
    required: bool,
    empty_is_fine: bool,
    shape: Shape,
    schema: Option<Schema>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Path,
    Query,
    Header,
    Cookie,
}

/// How its value is put into text (OpenAPI 3.1 §4.8.12.6).
#[derive(Debug)]
enum Shape {
    Scalar(Kinds),
    /// Items apart by a character; `None`: the name is given for each.
    List(Kinds, Option<char>),
    /// `name[key]=value`.
    Deep(Kinds),
    /// Each key is a parameter by itself.
    Spread(Kinds),
    /// Several in one text, with marks of their own.
    Styled(Kinds, Style),
    /// A JSON text.
    Json,
    /// Whether it is there, and no more.
    Opaque,
}

impl Place {
    fn word(self) -> &'static str {
        match self {
            Self::Path => "path",
            Self::Query => "query",
            Self::Header => "header",
            Self::Cookie => "cookie",
        }
    }
}

impl Parameter {
    /// `None`: it is none that is looked at, or a fault was found.
    pub(crate) fn compile(
        document: &Document,
        schemas: &Schemas,
        pointer: &str,
        faults: &mut Vec<Fault>,
    ) -> Option<Self> {
        let (at, value) = document.follow(pointer).map_err(|fault| faults.push(fault)).ok()?;
        let text = |key: &str| value.get(key).and_then(Value::as_str);
        let flag = |key: &str| value.get(key).and_then(Value::as_bool);
        let Some(name) = text("name") else {
            faults.push(document.fault(&at, "a parameter has a `name`"));
            return None;
        };
        let place = match text("in") {
            Some("path") => Place::Path,
            Some("query") => Place::Query,
            Some("header") => Place::Header,
            Some("cookie") => Place::Cookie,
            _ => {
                faults.push(document.fault(&at, format!("parameter `{name}`: `in` is path, query, header or cookie")));
                return None;
            }
        };
        // OpenAPI 3.1 §4.8.12.2: these are described elsewhere.
        let ignored = ["accept", "content-type", "authorization"];
        if place == Place::Header && ignored.iter().any(|word| name.eq_ignore_ascii_case(word)) {
            return None;
        }
        let required = flag("required").unwrap_or(false);
        if place == Place::Path && !required {
            faults.push(document.fault(&at, format!("path parameter `{name}` must say `required: true`")));
        }
        let schema_at = match value.get("content").and_then(Value::as_object).and_then(|content| content.keys().next())
        {
            Some(media) => format!("{at}/content/{}/schema", crate::document::escape(media)),
            None => format!("{at}/schema"),
        };
        let schema = match document.value.pointer(&schema_at) {
            None => None,
            Some(_) => schemas.compile(document, &schema_at).map_err(|fault| faults.push(fault)).ok(),
        };
        let shape =
            if value.get("content").is_some() { Shape::Json } else { shape(document, value, place, &schema_at) };
        let empty_is_fine = flag("allowEmptyValue").unwrap_or(false);
        Some(Self { place, name: name.to_owned(), required, empty_is_fine, shape, schema })
    }

    /// Whether a name in a query is this one's.
    pub(crate) fn takes(&self, name: &str) -> bool {
        match &self.shape {
            Shape::Deep(_) => self.key(name).is_some(),
            Shape::Spread(kinds) => kinds.property_names().any(|known| known == name),
            Shape::Scalar(_) | Shape::List(..) | Shape::Styled(..) | Shape::Json | Shape::Opaque => {
                let bare = self.name.strip_suffix("[]").unwrap_or(&self.name);
                name == self.name || name == bare
            }
        }
    }

    /// Whether any name in a query may be one of its keys.
    pub(crate) fn takes_any(&self) -> bool {
        matches!(&self.shape, Shape::Spread(kinds) if kinds.property_names().next().is_none())
    }

    fn key<'n>(&self, name: &'n str) -> Option<&'n str> {
        name.strip_prefix(self.name.as_str())?.strip_prefix('[')?.strip_suffix(']')
    }

    /// `given`: those of its place that it takes, by name.
    pub(crate) fn check(&self, given: &[(&str, &str)]) -> Vec<Violation> {
        let place = format!("{} {}", self.place.word(), self.name);
        let Some((_, first)) = given.first() else {
            let missing = Violation::new(ViolationKind::Parameter, place, "it is required");
            return if self.required { vec![missing] } else { Vec::new() };
        };
        let Some(schema) = &self.schema else { return Vec::new() };
        if first.is_empty() && self.empty_is_fine {
            return Vec::new();
        }
        let found = match &self.shape {
            Shape::Opaque => Vec::new(),
            Shape::Scalar(_) if given.len() > 1 => vec![(String::new(), "it is given several times".to_owned())],
            Shape::Scalar(kinds) => differences(schema, |reading| scalar(kinds, first, reading)),
            Shape::List(kinds, None) => {
                differences(schema, |reading| list(kinds, given.iter().map(|(_, text)| *text), reading))
            }
            Shape::List(kinds, Some(apart)) => differences(schema, |reading| list(kinds, first.split(*apart), reading)),
            Shape::Deep(kinds) => differences(schema, |reading| {
                object(kinds, given.iter().filter_map(|(name, text)| Some((self.key(name)?, *text))), reading)
            }),
            Shape::Spread(kinds) => differences(schema, |reading| object(kinds, given.iter().copied(), reading)),
            Shape::Styled(kinds, style) => match style.parts(&self.name, first) {
                Some(parts) => differences(schema, |reading| match &parts {
                    Parts::One(text) => scalar(kinds, text, reading),
                    Parts::List(texts) => list(kinds, texts.iter().copied(), reading),
                    Parts::Pairs(pairs) => object(kinds, pairs.iter().copied(), reading),
                }),
                None => vec![(String::new(), "it is not written in the style that the document says".to_owned())],
            },
            Shape::Json => match serde_json::from_str::<Value>(first) {
                Ok(value) => differences(schema, |_: Reading| value.clone()),
                Err(_) => vec![(String::new(), "not JSON".to_owned())],
            },
        };
        let each = found.into_iter().map(|(inner, message)| {
            let place = if inner.is_empty() { place.clone() } else { format!("{place} {inner}") };
            Violation::new(ViolationKind::Parameter, place, message)
        });
        each.collect()
    }
}

fn shape(document: &Document, value: &Value, place: Place, schema_at: &str) -> Shape {
    let default = if matches!(place, Place::Query | Place::Cookie) { "form" } else { "simple" };
    let style = value.get("style").and_then(Value::as_str).unwrap_or(default);
    let explode = Explode::of(value, if style == "form" { Explode::Each } else { Explode::Together });
    let kinds = Kinds::of(document, schema_at);
    let lead = match style {
        "label" => Lead::Dot,
        "matrix" => Lead::Semicolon,
        _ => Lead::Nothing,
    };
    let form = match (kinds.has(Kind::Array), kinds.has(Kind::Object)) {
        (true, _) => Form::List,
        (false, true) => Form::Object,
        (false, false) => Form::Scalar,
    };
    match (style, form) {
        ("form" | "simple", Form::Scalar) => Shape::Scalar(kinds),
        ("form", Form::List) if explode == Explode::Each && place == Place::Query => Shape::List(kinds, None),
        ("form" | "simple", Form::List) => Shape::List(kinds, Some(',')),
        ("spaceDelimited", Form::List) => Shape::List(kinds, Some(' ')),
        ("pipeDelimited", Form::List) => Shape::List(kinds, Some('|')),
        ("deepObject", _) if kinds.has(Kind::Object) => Shape::Deep(kinds),
        ("form", Form::Object) if explode == Explode::Each && place == Place::Query => Shape::Spread(kinds),
        ("simple", Form::Object) | ("label" | "matrix", _) => Shape::Styled(kinds, Style { lead, explode, form }),
        ("form", Form::Object) if explode == Explode::Together => Shape::Styled(kinds, Style { lead, explode, form }),
        // What the specification does not define.
        _ => Shape::Opaque,
    }
}
