//! Schemas of a document, compiled. References lead into the document and nowhere else; patterns run in linear time.

use crate::document::{Document, Fault};
use jsonschema::{PatternOptions, Registry, Validator};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

/// Makes validators of one document's schemas.
#[derive(Debug)]
pub(crate) struct Schemas {
    registry: Registry<'static>,
}

/// One of them.
#[derive(Debug)]
pub(crate) struct Schema {
    validator: Validator,
}

const BASE: &str = "urn:portcullis:api";
/// RFC 6901 §6: a pointer in a URI's fragment.
const FRAGMENT: AsciiSet = NON_ALPHANUMERIC.remove(b'/').remove(b'~').remove(b'-').remove(b'_').remove(b'.');
/// Differences told of one value.
const TOLD_MAX: usize = 5;
const PATTERN_MAX: usize = 1 << 20;

impl Schemas {
    pub(crate) fn new(document: &Document) -> Result<Self, Fault> {
        let mut value = document.value.clone();
        let old = value.get("openapi").and_then(Value::as_str).is_some_and(|version| version.starts_with("3.0"));
        if old {
            modernise(&mut value);
        }
        let registry = Registry::new().add(BASE, value).and_then(|builder| builder.prepare());
        let registry = registry.map_err(|error| document.fault("", error.to_string()))?;
        Ok(Self { registry })
    }

    /// The schema at a place of the document.
    pub(crate) fn compile(&self, document: &Document, pointer: &str) -> Result<Schema, Fault> {
        let reference = json!({ "$ref": format!("{BASE}#{}", utf8_percent_encode(pointer, &FRAGMENT)) });
        let validator = jsonschema::options()
            .offline()
            .with_registry(&self.registry)
            .with_pattern_options(PatternOptions::regex().size_limit(PATTERN_MAX))
            .should_validate_formats(true)
            .should_ignore_unknown_formats(true)
            .build(&reference)
            .map_err(|error| document.fault(pointer, format!("the schema cannot be used: {error}")))?;
        Ok(Schema { validator })
    }
}

impl Schema {
    pub(crate) fn accepts(&self, value: &Value) -> bool {
        self.validator.is_valid(value)
    }

    /// Where a value differs and from which rule, without the value.
    pub(crate) fn differences(&self, value: &Value) -> Vec<(String, String)> {
        let each = self.validator.iter_errors(value).take(TOLD_MAX);
        each.map(|error| (error.instance_path().to_string(), error.masked().to_string())).collect()
    }
}

/// From OpenAPI 3.0's dialect of JSON Schema to today's: `nullable`, and limits that are excluded by a flag.
fn modernise(value: &mut Value) {
    match value {
        Value::Object(entries) => {
            if entries.get("nullable") == Some(&Value::Bool(true)) {
                if let Some(Value::String(kind)) = entries.get("type").cloned() {
                    entries.insert("type".to_owned(), json!([kind, "null"]));
                }
                if let Some(Value::Array(words)) = entries.get_mut("enum")
                    && !words.contains(&Value::Null)
                {
                    words.push(Value::Null);
                }
            }
            for (flag, limit) in [("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")] {
                match entries.get(flag) {
                    Some(Value::Bool(true)) => {
                        let limit = entries.remove(limit);
                        entries.remove(flag);
                        entries.extend(limit.map(|limit| (flag.to_owned(), limit)));
                    }
                    Some(Value::Bool(false)) => drop(entries.remove(flag)),
                    _ => {}
                }
            }
            entries.values_mut().for_each(modernise);
        }
        Value::Array(items) => items.iter_mut().for_each(modernise),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_old_dialect_means_what_it_meant() {
        let text = "openapi: 3.0.3\nx:\n  type: integer\n  nullable: true\n  minimum: 3\n  exclusiveMinimum: true\n";
        let document = Document::parse(text.as_bytes()).unwrap();
        let schema = Schemas::new(&document).unwrap().compile(&document, "/x").unwrap();
        for (value, accepted) in [(json!(4), true), (json!(null), true), (json!(3), false), (json!("4"), false)] {
            assert_eq!(schema.accepts(&value), accepted, "{value}");
        }
    }

    #[test]
    fn differences_tell_the_place_and_not_the_value() {
        let text = "openapi: 3.1.0\nx:\n  type: object\n  required: [id]\n  properties:\n    id: { type: integer }\n    mail: { type: string, format: email, pattern: '^[a-z@.]{1,20}$' }\n";
        let document = Document::parse(text.as_bytes()).unwrap();
        let schema = Schemas::new(&document).unwrap().compile(&document, "/x").unwrap();
        let differences = schema.differences(&json!({ "id": "secret-value", "mail": "SECRET" }));
        assert!(differences.iter().any(|(place, _)| place == "/id"), "{differences:?}");
        assert!(differences.iter().all(|(_, message)| !message.to_lowercase().contains("secret")), "{differences:?}");
        assert!(schema.accepts(&json!({ "id": 1, "mail": "a@b.test" })));
    }

    #[test]
    fn a_pattern_that_looks_around_is_refused_with_its_line() {
        let text = "openapi: 3.1.0\nx:\n  type: string\n  pattern: '(?=a)b'\n";
        let document = Document::parse(text.as_bytes()).unwrap();
        let fault = Schemas::new(&document).unwrap().compile(&document, "/x").unwrap_err();
        assert!(fault.line == 2 && fault.what.contains("cannot be used"), "{fault:?}");
    }
}
