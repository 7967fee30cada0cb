//! Checks a document against the JSON Schema of its spec: every unknown key, wrong type, bad value and missing key, in one
//! run and each in its place. serde would stop at the first.

use crate::{
    Context, Document, Path, Report,
    document::Target,
    nearest,
    node::{Node, Span, Value},
    report::{Level, Problem},
};
use serde_json::Value as Json;
use std::sync::Arc;

/// A key or value that the language has and this version does not: `route.*.waf`, `listener.*.protocol=udp`.
#[derive(Debug, Clone, Copy)]
pub struct Reserved(pub &'static str);

impl Reserved {
    fn is(&self, path: &Path, value: Option<&str>) -> bool {
        let (pattern, wanted) = match self.0.split_once('=') {
            Some((pattern, wanted)) => (pattern, Some(wanted)),
            None => (self.0, None),
        };
        if wanted != value {
            return false;
        }
        let text = path.to_string();
        let mut have = text.split(['.', '[']).filter(|part| !part.ends_with(']'));
        let mut want = pattern.split('.');
        loop {
            match (want.next(), have.next()) {
                (None, None) => return true,
                (Some("*"), Some(_)) => {}
                (Some(want), Some(have)) if want == have => {}
                _ => return false,
            }
        }
    }
}

impl Document {
    /// Checks the whole document against the schema of `S`, then reads it. The report has every mistake; the spec is
    /// there only when it has no error.
    pub fn read<S>(self: &Arc<Self>, report: Report, reserved: &[Reserved]) -> (Option<S>, Context)
    where
        S: serde::de::DeserializeOwned + schemars::JsonSchema,
    {
        let schema = crate::schema::<S>();
        let mut lint = Lint { document: self, root: &schema, reserved, problems: Vec::new() };
        lint.node(&self.root, &[&schema], &Path::root());
        let problems = lint.problems;
        let mut cx = Context::new(self.clone(), report);
        for problem in problems {
            cx.adopt(problem);
        }
        if cx.report().has_errors() {
            return (None, cx);
        }
        match serde_json::from_value(self.to_json()) {
            Ok(spec) => (Some(spec), cx),
            Err(error) => {
                // The schema is derived from the spec, so this is a rule that only the spec's own reader knows.
                cx.error(&Path::root(), error.to_string());
                (None, cx)
            }
        }
    }
}

impl Context {
    fn adopt(&mut self, problem: Problem) {
        let at = problem.path.clone();
        let added = self.error(&at, problem.message);
        added.level = problem.level;
        added.help = problem.help;
        added.span = problem.span;
    }
}

struct Lint<'s> {
    document: &'s Document,
    root: &'s Json,
    reserved: &'s [Reserved],
    problems: Vec<Problem>,
}

impl<'s> Lint<'s> {
    fn node(&mut self, node: &Node, schemas: &[&'s Json], at: &Path) {
        let alternatives: Vec<&Json> = schemas.iter().flat_map(|schema| resolve(self.root, schema)).collect();
        if alternatives
            .iter()
            .any(|schema| schema.as_bool() == Some(true) || schema.as_object().is_some_and(serde_json::Map::is_empty))
        {
            return;
        }
        let fitting: Vec<&Json> = alternatives.iter().copied().filter(|schema| takes(schema, node)).collect();
        if fitting.is_empty() {
            return self.wrong_type(node, &alternatives, at);
        }
        match &node.value {
            Value::Table(_) => self.table(node, &fitting, at),
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    let inner: Vec<&Json> = fitting.iter().filter_map(|schema| schema.get("items")).collect();
                    if !inner.is_empty() {
                        self.node(item, &inner, &at.index(index));
                    }
                }
                let least = fitting.iter().filter_map(|schema| schema.get("minItems")?.as_u64()).min().unwrap_or(0);
                if (items.len() as u64) < least {
                    self.error(&node.span, at, format!("`{at}` needs at least {least}"));
                }
            }
            Value::String(text) => self.string(node, text, &fitting, at),
            Value::Integer(integer) => self.integer(node, *integer, &fitting, at),
            Value::Float(_) | Value::Bool(_) | Value::Date => {}
        }
    }

    fn table(&mut self, node: &Node, schemas: &[&'s Json], at: &Path) {
        let Value::Table(table) = &node.value else { return };
        let known: Vec<&str> = {
            let properties = schemas.iter().filter_map(|schema| schema.get("properties")?.as_object());
            let mut known: Vec<&str> =
                properties.flat_map(|properties| properties.keys().map(String::as_str)).collect();
            known.sort_unstable();
            known.dedup();
            known
        };
        let mut meant = Vec::new();
        for (key, entry) in table {
            let here = at.key(key);
            let named: Vec<&Json> = schemas.iter().filter_map(|schema| schema.get("properties")?.get(key)).collect();
            let open: Vec<&Json> = schemas
                .iter()
                .filter_map(|schema| schema.get("additionalProperties"))
                .filter(|open| open.is_object() || open.as_bool() == Some(true))
                .collect();
            if self.reserved.iter().any(|reserved| reserved.is(&here, None)) {
                self.error(&entry.key, &here, format!("`{key}` is not supported by this version"));
            } else if !named.is_empty() {
                self.node(&entry.node, &named, &here);
            } else if !open.is_empty() {
                self.key(&entry.key, key, schemas, &here);
                self.node(&entry.node, &open, &here);
            } else {
                let place = if at.to_string().is_empty() { "at the top".to_owned() } else { format!("in [{at}]") };
                let problem =
                    self.error(&entry.key, &here, format!("unknown key `{key}` {place}; known: {}", known.join(", ")));
                if let Some(best) = nearest(key, known.iter().copied()) {
                    problem.help(format!("did you mean `{best}`?"));
                    meant.push(best);
                }
            }
        }
        let required = schemas.first().and_then(|schema| schema.get("required")?.as_array()).into_iter().flatten();
        for key in required.filter_map(Json::as_str).filter(|key| !table.contains_key(*key) && !meant.contains(key)) {
            let span = self.document.span(at, Target::Key).unwrap_or_else(|| node.span.clone());
            self.error(&span, at, format!("`{key}` is missing in [{at}]"));
        }
        let (least, most) = (bound(schemas, "minProperties"), bound(schemas, "maxProperties"));
        let count = table.len() as u64;
        if least.is_some_and(|least| count < least) || most.is_some_and(|most| count > most) {
            let span = self.document.span(at, Target::Key).unwrap_or_else(|| node.span.clone());
            self.error(&span, at, format!("[{at}] takes exactly one of {}", known.join(", ")));
        }
    }

    /// Names of objects have a grammar of their own.
    fn key(&mut self, span: &Span, key: &str, schemas: &[&Json], at: &Path) {
        let format = schemas
            .iter()
            .find_map(|schema| schema.get("propertyNames")?.get("format")?.as_str())
            .unwrap_or("object-name");
        let is_header = at.to_string().contains("headers.")
            || at.to_string().contains("query.")
            || at.to_string().contains("cookies.");
        if format == "object-name" && is_header {
            return;
        }
        if let Some(Err(error)) = portcullis_names::check_format(format, key) {
            self.error(span, at, error.to_string());
        }
    }

    fn string(&mut self, node: &Node, text: &str, schemas: &[&Json], at: &Path) {
        let values: Vec<&str> = schemas.iter().flat_map(|schema| constants(schema)).collect();
        let free = schemas.iter().any(|schema| constants(schema).is_empty());
        if values.contains(&text) {
            return;
        }
        if !free {
            if self.reserved.iter().any(|reserved| reserved.is(at, Some(text))) {
                self.error(&node.span, at, format!("`{text}` is not supported by this version"));
                return;
            }
            let problem = self.error(&node.span, at, format!("`{text}` is not one of {}", values.join(", ")));
            if let Some(best) = nearest(text, values.iter().copied()) {
                problem.help(format!("did you mean `{best}`?"));
            }
            return;
        }
        let formats: Vec<&str> = schemas.iter().filter_map(|schema| schema.get("format")?.as_str()).collect();
        let mut errors = formats.iter().filter_map(|format| portcullis_names::check_format(format, text)?.err());
        // With several grammars one that fits is enough.
        let passes = schemas.iter().any(|schema| schema.get("format").is_none() && constants(schema).is_empty())
            || formats.iter().any(|format| !matches!(portcullis_names::check_format(format, text), Some(Err(_))));
        if !passes && let Some(error) = errors.next() {
            self.error(&node.span, at, error.to_string());
        }
    }

    fn integer(&mut self, node: &Node, integer: i64, schemas: &[&Json], at: &Path) {
        let fits = |schema: &&Json| {
            let least = schema.get("minimum").and_then(Json::as_i64).unwrap_or(i64::MIN);
            let most = schema.get("maximum").and_then(Json::as_i64).unwrap_or(i64::MAX);
            (least..=most).contains(&integer)
        };
        if schemas.iter().any(fits) {
            return;
        }
        let (least, most) = (
            schemas.iter().find_map(|schema| schema.get("minimum")?.as_i64()),
            schemas.iter().find_map(|schema| schema.get("maximum")?.as_i64()),
        );
        let range = match (least, most) {
            (Some(least), Some(most)) => format!("from {least} to {most}"),
            (Some(least), None) => format!("of at least {least}"),
            (None, Some(most)) => format!("of at most {most}"),
            (None, None) => String::new(),
        };
        self.error(&node.span, at, format!("`{at}` takes a number {range}, not {integer}"));
    }

    fn wrong_type(&mut self, node: &Node, alternatives: &[&Json], at: &Path) {
        let secret = alternatives.iter().any(|schema| schema.get("x-secret").is_some());
        if secret && matches!(node.value, Value::String(_)) {
            let problem = self.error(&node.span, at, "a secret is never written here in plain text".to_owned());
            problem.help("refer to it: { file = \"path\" } or { env = \"NAME\" }");
            return;
        }
        let mut expected: Vec<String> = alternatives.iter().map(|schema| expectation(schema)).collect();
        expected.dedup();
        self.error(&node.span, at, format!("`{at}` takes {}, not {}", expected.join(" or "), node.kind()));
    }

    fn error(&mut self, span: &Span, at: &Path, message: String) -> &mut Problem {
        self.problems.push(Problem { span: Some(span.clone()), ..Problem::new(Level::Error, at.clone(), message) });
        self.problems.last_mut().expect("pushed on the line above")
    }
}

fn bound(schemas: &[&Json], key: &str) -> Option<u64> {
    schemas.first().and_then(|schema| schema.get(key)?.as_u64())
}

/// Follows references and alternatives down to plain schemas.
fn resolve<'s>(root: &'s Json, schema: &'s Json) -> Vec<&'s Json> {
    if let Some(target) = schema.get("$ref").and_then(Json::as_str) {
        return target
            .strip_prefix('#')
            .and_then(|pointer| root.pointer(pointer))
            .map_or_else(Vec::new, |inner| resolve(root, inner));
    }
    match schema.get("anyOf").or(schema.get("oneOf")).and_then(Json::as_array) {
        // serde spells a documented enum as oneOf constants; `null` stands for an absent Option, which TOML writes by absence.
        Some(inner) => inner
            .iter()
            .flat_map(|inner| resolve(root, inner))
            .filter(|inner| inner.get("type").and_then(Json::as_str) != Some("null"))
            .collect(),
        None => vec![schema],
    }
}

fn types(schema: &Json) -> Vec<&str> {
    match schema.get("type") {
        Some(Json::String(one)) => vec![one.as_str()],
        Some(Json::Array(several)) => several.iter().filter_map(Json::as_str).filter(|name| *name != "null").collect(),
        _ if schema.get("const").is_some_and(Json::is_string) || schema.get("enum").is_some() => vec!["string"],
        _ => Vec::new(),
    }
}

fn takes(schema: &Json, node: &Node) -> bool {
    let name = match &node.value {
        Value::String(_) => "string",
        Value::Integer(_) => "integer",
        Value::Float(_) => "number",
        Value::Bool(_) => "boolean",
        Value::Array(_) => "array",
        Value::Table(_) => "object",
        Value::Date => return false,
    };
    types(schema).iter().any(|have| *have == name || (*have == "number" && name == "integer"))
}

fn constants(schema: &Json) -> Vec<&str> {
    let several = schema.get("enum").and_then(Json::as_array).into_iter().flatten();
    several.chain(schema.get("const")).filter_map(Json::as_str).collect()
}

/// What a schema wants, in words.
fn expectation(schema: &Json) -> String {
    // A field's own documentation is the schema's `description`; what the type wants is told apart from it.
    if let Some(expects) = schema.get("x-expects").and_then(Json::as_str) {
        return expects.to_owned();
    }
    match types(schema).first().copied() {
        Some("string") => match constants(schema).as_slice() {
            [] => "a string".to_owned(),
            values => format!("one of {}", values.join(", ")),
        },
        Some("integer") => "an integer".to_owned(),
        Some("number") => "a number".to_owned(),
        Some("boolean") => "true or false".to_owned(),
        Some("array") => "an array".to_owned(),
        Some("object") => "a table".to_owned(),
        _ => "something else".to_owned(),
    }
}
