//! `content` of a request body or a response: media types, and the schema of each.

use crate::{
    document::{Document, Fault, escape},
    multipart::{self, Part, PartValue},
    schemas::{Schema, Schemas},
    text_value::{Kinds, Reading, differences, object},
};
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};

#[derive(Debug, Default)]
pub(crate) struct Content(Vec<Media>);

/// One media type or range.
#[derive(Debug)]
pub(crate) struct Media {
    range: String,
    form: Form,
}

#[derive(Debug)]
enum Form {
    Json(Schema),
    UrlEncoded(Schema, Kinds),
    /// With files.
    Multipart(Schema, Kinds),
    /// Known, and there is nothing to look into.
    Opaque,
    /// There is a schema of parts, and nobody here reads the format.
    Unsupported,
}

/// Fields of one form that are looked at.
const FIELDS_MAX: usize = 10_000;

impl Content {
    /// `pointer`: of the `content` table.
    pub(crate) fn compile(document: &Document, schemas: &Schemas, pointer: &str, faults: &mut Vec<Fault>) -> Self {
        let mut all = Vec::new();
        let table = document.value.pointer(pointer).and_then(Value::as_object);
        for (range, media) in table.into_iter().flatten() {
            let at = format!("{pointer}/{}/schema", escape(range));
            let range = essence(range);
            let schema = media
                .get("schema")
                .filter(|_| is_json(&range) || range == FORM || range == FORM_DATA)
                .map(|_| schemas.compile(document, &at));
            let form = match schema {
                Some(Ok(schema)) if range == FORM => Form::UrlEncoded(schema, Kinds::of(document, &at)),
                Some(Ok(schema)) if range == FORM_DATA => Form::Multipart(schema, Kinds::of(document, &at)),
                Some(Ok(schema)) => Form::Json(schema),
                Some(Err(fault)) => {
                    faults.push(fault);
                    Form::Opaque
                }
                None if has_parts(document, &at) => Form::Unsupported,
                None => Form::Opaque,
            };
            all.push(Media { range, form });
        }
        // The narrowest first.
        all.sort_by_key(|media| media.range.matches('*').count());
        Self(all)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn find(&self, content_type: &str) -> Option<&Media> {
        let kind = essence(content_type);
        self.0.iter().find(|media| match media.range.strip_suffix('*') {
            Some("*/" | "") => true,
            Some(family) => kind.starts_with(family),
            None => media.range == kind,
        })
    }
}

const FORM: &str = "application/x-www-form-urlencoded";
const FORM_DATA: &str = "multipart/form-data";

impl Media {
    /// Whether a body of this type has to be there as a whole.
    pub(crate) fn is_looked_into(&self) -> bool {
        !matches!(self.form, Form::Opaque | Form::Unsupported)
    }

    /// Whether there is a schema that such a body cannot be held against.
    pub(crate) fn is_unsupported(&self) -> bool {
        matches!(self.form, Form::Unsupported)
    }

    /// Where a body differs, and from which rule.
    pub(crate) fn differences(&self, content_type: &str, body: &[u8]) -> Vec<(String, String)> {
        match &self.form {
            Form::Opaque | Form::Unsupported => Vec::new(),
            Form::Json(schema) => match serde_json::from_slice::<Value>(body) {
                Ok(value) => schema.differences(&value),
                Err(error) => {
                    let what =
                        if error.is_syntax() || error.is_eof() { "not JSON" } else { "not JSON that can be read" };
                    vec![(String::new(), format!("{what}, in line {} column {}", error.line(), error.column()))]
                }
            },
            Form::UrlEncoded(schema, kinds) => {
                let Ok(text) = std::str::from_utf8(body) else {
                    return vec![(String::new(), "not a form".to_owned())];
                };
                let fields = pairs(text);
                let each = || fields.iter().map(|(name, value)| (name.as_str(), value.as_str()));
                differences(schema, |reading| object(kinds, each(), reading))
            }
            Form::Multipart(schema, kinds) => match multipart::parts(content_type, body) {
                Some(parts) => differences(schema, |reading| of_parts(kinds, &parts, reading)),
                None => vec![(String::new(), "not a form".to_owned())],
            },
        }
    }
}

fn of_parts(kinds: &Kinds, parts: &[Part], reading: Reading) -> Value {
    let texts = parts.iter().filter_map(|part| match &part.value {
        PartValue::Text(text) => Some((part.name.as_str(), text.as_str())),
        PartValue::Json(_) => None,
    });
    let mut value = object(kinds, texts, reading);
    for part in parts {
        if let (PartValue::Json(json), Value::Object(fields)) = (&part.value, &mut value) {
            fields.insert(part.name.clone(), json.clone());
        }
    }
    value
}

/// Names and values of a query or form.
pub(crate) fn pairs(text: &str) -> Vec<(String, String)> {
    let decode = |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
    let parts = text.split('&').filter(|part| !part.is_empty()).take(FIELDS_MAX);
    parts
        .map(|part| match part.split_once('=') {
            Some((name, value)) => (decode(name), decode(value)),
            None => (decode(part), String::new()),
        })
        .collect()
}

fn essence(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Whether a schema says more of a value than that it is text or octets.
fn has_parts(document: &Document, at: &str) -> bool {
    let Ok((_, schema)) = document.follow(at) else { return false };
    let structured = |kind: &Value| matches!(kind.as_str(), Some("object" | "array"));
    let kinds = schema.get("type").map(|kind| kind.as_array().map_or(std::slice::from_ref(kind), Vec::as_slice));
    kinds.is_some_and(|kinds| kinds.iter().any(structured))
        || ["properties", "items", "allOf", "anyOf", "oneOf"].iter().any(|key| schema.get(key).is_some())
}

fn is_json(range: &str) -> bool {
    range == "application/json" || range == "text/json" || range.ends_with("+json")
}

/// Whether a table of the document is one.
pub(crate) fn table<'v>(value: &'v Value, key: &str) -> impl Iterator<Item = (&'v String, &'v Value)> {
    value.get(key).and_then(Value::as_object).into_iter().flat_map(Map::iter)
}
