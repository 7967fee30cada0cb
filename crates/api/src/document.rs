//! An OpenAPI document as data, with the line of everything in it.

use saphyr_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Number, Value};
use std::collections::{BTreeMap, HashMap};

/// Read and unfolded, not yet understood.
#[derive(Debug)]
pub(crate) struct Document {
    pub(crate) value: Value,
    /// By JSON pointer.
    lines: BTreeMap<String, usize>,
}

/// What is wrong with it, and in which line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) line: usize,
    pub(crate) what: String,
}

/// The largest public documents have some 3 MiB.
pub(crate) const OCTETS_MAX: usize = 4 << 20;
/// Everything with its aliases unfolded: ten lines of YAML can mean billions.
const NODES_MAX: usize = 1_000_000;
const DEPTH_MAX: usize = 100;
/// References that lead from one to the next.
const REFERENCES_MAX: usize = 32;

impl Document {
    pub(crate) fn parse(octets: &[u8]) -> Result<Self, Fault> {
        if octets.len() > OCTETS_MAX {
            return Err(Fault { line: 1, what: format!("larger than {} MiB", OCTETS_MAX >> 20) });
        }
        let text = std::str::from_utf8(octets).map_err(|error| {
            let before = octets.get(..error.valid_up_to()).unwrap_or_default();
            Fault { line: before.iter().filter(|octet| **octet == b'\n').count() + 1, what: "not UTF-8".to_owned() }
        })?;
        if text.trim_start().starts_with('{') {
            let value: Value =
                serde_json::from_str(text).map_err(|error| Fault { line: error.line(), what: error.to_string() })?;
            // JSON is YAML but for some corners, and in those only the line of a later complaint is lost.
            let lines = Reader::read(text).map(|(_, lines)| lines).unwrap_or_default();
            return Ok(Self { value, lines });
        }
        let (value, lines) = Reader::read(text)?;
        Ok(Self { value, lines })
    }

    /// Of a place, or of the nearest one around it.
    pub(crate) fn line(&self, pointer: &str) -> usize {
        let mut pointer = pointer;
        loop {
            if let Some(line) = self.lines.get(pointer) {
                return *line;
            }
            match pointer.rfind('/') {
                Some(at) => pointer = pointer.get(..at).unwrap_or_default(),
                None => return 1,
            }
        }
    }

    pub(crate) fn fault(&self, pointer: &str, what: impl Into<String>) -> Fault {
        Fault { line: self.line(pointer), what: what.into() }
    }

    /// What is at a place, once its references are followed: where it is, and itself.
    pub(crate) fn follow(&self, pointer: &str) -> Result<(String, &Value), Fault> {
        let mut at = pointer.to_owned();
        for _ in 0..REFERENCES_MAX {
            let value = self.value.pointer(&at).ok_or_else(|| self.fault(pointer, format!("`{at}` is not there")))?;
            let Some(reference) = value.get("$ref") else { return Ok((at, value)) };
            at = self.target(&at, reference)?;
        }
        Err(self.fault(pointer, format!("more than {REFERENCES_MAX} references lead on from here, or in a circle")))
    }

    /// Where a reference at `at` leads.
    fn target(&self, at: &str, reference: &Value) -> Result<String, Fault> {
        let text = reference.as_str().ok_or_else(|| self.fault(at, "a `$ref` is a text"))?;
        let Some(pointer) = text.strip_prefix('#') else {
            return Err(self.fault(at, format!("`{text}` leads out of the document: only `#/…` is followed")));
        };
        let pointer = percent_encoding::percent_decode_str(pointer).decode_utf8_lossy().into_owned();
        if self.value.pointer(&pointer).is_none() {
            return Err(self.fault(at, format!("`{text}` leads nowhere")));
        }
        Ok(pointer)
    }

    /// References anywhere that lead nowhere, out of the document or too far.
    pub(crate) fn check_references(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        self.walk(&self.value, &mut String::new(), &mut faults);
        faults
    }

    fn walk(&self, value: &Value, at: &mut String, faults: &mut Vec<Fault>) {
        let length = at.len();
        match value {
            Value::Object(entries) => {
                // Examples may show anything.
                if entries.get("$ref").is_some_and(Value::is_string) && !at.contains("/example") {
                    faults.extend(self.follow(at).err());
                }
                for (key, inner) in entries {
                    at.push('/');
                    at.push_str(&escape(key));
                    self.walk(inner, at, faults);
                    at.truncate(length);
                }
            }
            Value::Array(items) => {
                for (index, inner) in items.iter().enumerate() {
                    at.push('/');
                    at.push_str(&index.to_string());
                    self.walk(inner, at, faults);
                    at.truncate(length);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
}

/// A key as part of a JSON pointer (RFC 6901 §3).
pub(crate) fn escape(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// Puts a tree together from a parser's events.
struct Reader {
    open: Vec<Open>,
    /// Each with its number of nodes.
    anchors: HashMap<usize, (Value, usize)>,
    lines: BTreeMap<String, usize>,
    nodes: usize,
    root: Option<Value>,
}

struct Open {
    anchor: usize,
    began: usize,
    pointer: String,
    what: Container,
}

enum Container {
    List(Vec<Value>),
    /// With the key whose value comes next.
    Table(Map<String, Value>, Option<String>),
}

impl Reader {
    fn read(text: &str) -> Result<(Value, BTreeMap<String, usize>), Fault> {
        let mut reader =
            Self { open: Vec::new(), anchors: HashMap::new(), lines: BTreeMap::new(), nodes: 0, root: None };
        for event in Parser::new_from_str(text) {
            let (event, span) =
                event.map_err(|error| Fault { line: error.marker().line(), what: error.info().to_owned() })?;
            let line = span.start.line();
            reader.event(event, line).map_err(|what| Fault { line, what })?;
        }
        let root = reader.root.ok_or_else(|| Fault { line: 1, what: "the document is empty".to_owned() })?;
        Ok((root, reader.lines))
    }

    fn event(&mut self, event: Event<'_>, line: usize) -> Result<(), String> {
        match event {
            Event::Scalar(text, style, anchor, _) => {
                if let Some(Open { what: Container::Table(_, key @ None), .. }) = self.open.last_mut() {
                    if style == ScalarStyle::Plain && text == "<<" {
                        return Err("merge keys (`<<`) are not read: use `$ref`".to_owned());
                    }
                    *key = Some(text.into_owned());
                    self.note_line(line);
                    return Ok(());
                }
                let value = if style == ScalarStyle::Plain { plain(&text) } else { Value::String(text.into_owned()) };
                self.complete(value, anchor, 1, line)
            }
            Event::SequenceStart(anchor, _) => self.begin(Container::List(Vec::new()), anchor, line),
            Event::MappingStart(anchor, _) => self.begin(Container::Table(Map::new(), None), anchor, line),
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(open) = self.open.pop() else { return Ok(()) };
                let count = self.nodes - open.began + 1;
                let value = match open.what {
                    Container::List(items) => Value::Array(items),
                    Container::Table(entries, _) => Value::Object(entries),
                };
                self.complete(value, open.anchor, count, line)
            }
            Event::Alias(anchor) => {
                let (value, count) = self.anchors.get(&anchor).cloned().ok_or("an alias of nothing")?;
                self.nodes += count;
                self.complete(value, 0, count, line)
            }
            Event::DocumentStart(_) if self.root.is_some() => Err("a second document in the same file".to_owned()),
            Event::DocumentStart(_) | Event::DocumentEnd | Event::StreamStart | Event::StreamEnd | Event::Nothing => {
                Ok(())
            }
        }
    }

    fn begin(&mut self, what: Container, anchor: usize, line: usize) -> Result<(), String> {
        if let Some(Open { what: Container::Table(_, None), .. }) = self.open.last() {
            return Err("a key is a text".to_owned());
        }
        if self.open.len() >= DEPTH_MAX {
            return Err(format!("nested deeper than {DEPTH_MAX}"));
        }
        let pointer = self.place();
        self.lines.entry(pointer.clone()).or_insert(line);
        self.open.push(Open { anchor, began: self.nodes, pointer, what });
        Ok(())
    }

    fn complete(&mut self, value: Value, anchor: usize, count: usize, line: usize) -> Result<(), String> {
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            return Err(format!("more than {NODES_MAX} values, aliases unfolded"));
        }
        if anchor > 0 {
            self.anchors.insert(anchor, (value.clone(), count));
        }
        let place = self.place();
        self.lines.entry(place).or_insert(line);
        match self.open.last_mut().map(|open| &mut open.what) {
            None => self.root = Some(value),
            Some(Container::List(items)) => items.push(value),
            Some(Container::Table(entries, key)) => {
                let key = key.take().ok_or("a key is a text")?;
                if entries.contains_key(&key) {
                    return Err(format!("`{key}` is given twice"));
                }
                entries.insert(key, value);
            }
        }
        Ok(())
    }

    /// Of the value that comes next.
    fn place(&self) -> String {
        match self.open.last() {
            None => String::new(),
            Some(Open { pointer, what: Container::List(items), .. }) => format!("{pointer}/{}", items.len()),
            Some(Open { pointer, what: Container::Table(_, key), .. }) => {
                format!("{pointer}/{}", escape(key.as_deref().unwrap_or_default()))
            }
        }
    }

    /// A value's line is its key's.
    fn note_line(&mut self, line: usize) {
        let place = self.place();
        self.lines.insert(place, line);
    }
}

/// YAML 1.2 core schema.
fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    if let Ok(integer) = text.parse::<i64>() {
        return Value::Number(integer.into());
    }
    let numeric = text.starts_with(|first: char| first.is_ascii_digit() || matches!(first, '-' | '+' | '.'));
    match text.parse::<f64>().ok().filter(|_| numeric).and_then(Number::from_f64) {
        Some(number) => Value::Number(number),
        None => Value::String(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn yaml_and_json_are_read_with_their_lines() {
        let yaml =
            "openapi: 3.1.0\npaths:\n  /a/b:\n    get: &op\n      tags: [x, 'y', 1, 1.5, true, ~]\n    post: *op\n";
        let document = Document::parse(yaml.as_bytes()).unwrap();
        let operation = json!({ "tags": ["x", "y", 1, 1.5, true, null] });
        assert_eq!(
            document.value,
            json!({ "openapi": "3.1.0", "paths": { "/a/b": { "get": operation, "post": operation } } })
        );
        for (pointer, line) in
            [("", 1), ("/paths", 2), ("/paths/~1a~1b/get", 4), ("/paths/~1a~1b/get/tags/2", 5), ("/nowhere", 1)]
        {
            assert_eq!(document.line(pointer), line, "{pointer}");
        }
        let json_text = "{\n \"a\": {\n  \"b\": [1,\n 2]\n }\n}";
        let document = Document::parse(json_text.as_bytes()).unwrap();
        assert_eq!((document.value.clone(), document.line("/a/b")), (json!({ "a": { "b": [1, 2] } }), 3));
    }

    #[test]
    fn what_cannot_be_read_is_told_with_its_line() {
        let bomb = {
            let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
            for n in 1..9 {
                let list = vec![format!("*a{}", n - 1); 10].join(", ");
                text.push_str(&format!("a{n}: &a{n} [{list}]\n"));
            }
            text
        };
        for (text, line, what) in [
            ("a: 1\na: 2\n", 2, "given twice"),
            ("a:\n  - [\n", 3, ""),
            ("{\"a\": 1,\n}", 2, "trailing comma"),
            ("a: 1\n---\nb: 2\n", 2, "second document"),
            ("a: &x {b: 1}\nc:\n  <<: *x\n", 3, "merge keys"),
            (&bomb, 6, "aliases unfolded"),
            (&"[".repeat(200), 1, "deeper"),
            ("", 1, "empty"),
        ] {
            let fault = Document::parse(text.as_bytes()).unwrap_err();
            assert!(fault.what.contains(what), "{text}: {fault:?}");
            assert!(fault.line == line || what.is_empty(), "{text}: {fault:?}");
        }
        assert_eq!(Document::parse(b"a: 1\nb: \xff").unwrap_err().line, 2);
    }

    #[test]
    fn references_are_followed_within_the_document_and_no_further_than_allowed() {
        let chain: String = (0..40).map(|n| format!("r{n}: {{ $ref: '#/r{}' }}\n", n + 1)).collect();
        for (text, what) in [
            ("a: { $ref: '#/b' }\n", "leads nowhere"),
            ("a: { $ref: 'other.yaml#/b' }\n", "out of the document"),
            ("a: { $ref: '#/b' }\nb: { $ref: '#/a' }\n", "circle"),
            (&format!("{chain}r40: 1\n"), "more than 32"),
        ] {
            let document = Document::parse(text.as_bytes()).unwrap();
            let faults = document.check_references();
            assert!(faults.iter().any(|fault| fault.what.contains(what)), "{text}: {faults:?}");
        }
        let document =
            Document::parse(b"a: { $ref: '#/x/b~1c' }\nx: { b/c: { d: 1 } }\nexample: { $ref: nowhere }\n").unwrap();
        assert_eq!(document.check_references(), []);
        assert_eq!(document.follow("/a").unwrap().0, "/x/b~1c");
    }
}
