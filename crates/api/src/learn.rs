//! A document proposed from recorded traffic, for somebody to read and correct. Nothing here enforces anything.
//!
//! Access logs tell paths, methods, query parameters and statuses; bodies are not in them, and therefore not in the proposal.

use crate::content::pairs;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

/// Takes in requests, one after the other.
#[derive(Debug, Default)]
pub struct Learner {
    root: Node,
    taken: u64,
}

#[derive(Debug, Default)]
struct Node {
    literals: BTreeMap<String, Node>,
    parameter: Option<(Guess, Box<Node>)>,
    methods: BTreeMap<String, Seen>,
}

/// What was seen of one operation.
#[derive(Debug, Default)]
struct Seen {
    count: u64,
    statuses: BTreeSet<u16>,
    query: BTreeMap<String, (u64, Guess)>,
}

/// From the narrowest to the widest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Guess {
    Integer,
    Number,
    Boolean,
    Uuid,
    Text,
}

/// More names than this at one place of a path are values.
const LITERALS_MAX: usize = 30;
const DEPTH_MAX: usize = 20;
const NAMES_MAX: usize = 100;
/// Seen in each of so many requests, a parameter is taken to be required.
const CERTAIN: u64 = 20;

impl Learner {
    /// Only what was answered well is taken: what scanners ask for is no part of an API. Tells whether it was taken.
    pub fn add(&mut self, method: &str, path: &str, query: Option<&str>, status: u16) -> bool {
        if !(200..400).contains(&status) || !method.bytes().all(|octet| octet.is_ascii_uppercase()) {
            return false;
        }
        let mut node = &mut self.root;
        for segment in path.trim_start_matches('/').split('/').take(DEPTH_MAX) {
            node = node.child(segment);
        }
        let seen = node.methods.entry(method.to_owned()).or_default();
        seen.count += 1;
        seen.statuses.insert(status);
        let names: BTreeMap<String, String> = pairs(query.unwrap_or_default()).into_iter().collect();
        for (name, value) in names {
            if seen.query.len() < NAMES_MAX || seen.query.contains_key(&name) {
                let guess = Guess::of(&value);
                let known = seen.query.entry(name).or_insert((0, guess));
                *known = (known.0 + 1, known.1.or(guess));
            }
        }
        self.taken += 1;
        true
    }

    /// How many requests the proposal rests on.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// OpenAPI 3.1 in YAML.
    pub fn propose(&self, title: &str) -> String {
        let mut text = String::new();
        let _ = writeln!(
            text,
            "# Proposed from {} requests. Read it, correct it, and add bodies: logs do not have them.",
            self.taken
        );
        let _ = writeln!(text, "openapi: 3.1.0\ninfo:\n  title: {}\n  version: \"0\"\npaths:", quoted(title));
        if self.taken == 0 {
            text.truncate(text.trim_end().len());
            text.push_str(" {}\n");
        }
        self.root.write("", &mut Vec::new(), &mut text);
        text
    }
}

impl Node {
    fn child(&mut self, segment: &str) -> &mut Self {
        let guess = Guess::of(segment);
        let is_value = guess == Guess::Integer || guess == Guess::Uuid || is_token(segment);
        if !is_value && self.literals.len() >= LITERALS_MAX && !self.literals.contains_key(segment) {
            // So many different names: they are values after all.
            for (name, node) in std::mem::take(&mut self.literals) {
                self.value(Guess::of(&name)).merge(node);
            }
        }
        let too_many = self.literals.is_empty() && matches!(self.parameter, Some((Guess::Text, _)));
        if is_value || too_many { self.value(guess) } else { self.literals.entry(segment.to_owned()).or_default() }
    }

    fn value(&mut self, guess: Guess) -> &mut Self {
        let (known, node) = self.parameter.get_or_insert_with(|| (guess, Box::default()));
        *known = known.or(guess);
        node
    }

    fn merge(&mut self, other: Self) {
        for (name, node) in other.literals {
            self.literals.entry(name).or_default().merge(node);
        }
        if let Some((guess, node)) = other.parameter {
            self.value(guess).merge(*node);
        }
        for (method, seen) in other.methods {
            self.methods.entry(method).or_default().merge(seen);
        }
    }

    fn write(&self, path: &str, parameters: &mut Vec<Guess>, text: &mut String) {
        if !self.methods.is_empty() {
            let _ = writeln!(text, "  {}:", quoted(if path.is_empty() { "/" } else { path }));
            for (method, seen) in &self.methods {
                let _ = writeln!(text, "    {}:", method.to_ascii_lowercase());
                seen.write(parameters, text);
            }
        }
        for (name, node) in &self.literals {
            node.write(&format!("{path}/{name}"), parameters, text);
        }
        if let Some((guess, node)) = &self.parameter {
            parameters.push(*guess);
            node.write(&format!("{path}/{{p{}}}", parameters.len()), parameters, text);
            parameters.pop();
        }
    }
}

impl Seen {
    fn merge(&mut self, other: Self) {
        self.count += other.count;
        self.statuses.extend(other.statuses);
        for (name, (count, guess)) in other.query {
            let known = self.query.entry(name).or_insert((0, guess));
            *known = (known.0 + count, known.1.or(guess));
        }
    }

    fn write(&self, path: &[Guess], text: &mut String) {
        if !path.is_empty() || !self.query.is_empty() {
            text.push_str("      parameters:\n");
        }
        for (index, guess) in path.iter().enumerate() {
            let schema = guess.schema();
            let _ = writeln!(text, "        - {{ name: p{}, in: path, required: true, schema: {schema} }}", index + 1);
        }
        for (name, (count, guess)) in &self.query {
            let required = if *count == self.count && *count >= CERTAIN { "required: true, " } else { "" };
            let (name, schema) = (quoted(name), guess.schema());
            let _ = writeln!(text, "        - {{ name: {name}, in: query, {required}schema: {schema} }}");
        }
        text.push_str("      responses:\n");
        for status in &self.statuses {
            let _ = writeln!(text, "        \"{status}\": {{ description: seen }}");
        }
    }
}

impl Guess {
    fn of(text: &str) -> Self {
        let is_uuid = text.len() == 36
            && text.bytes().enumerate().all(|(at, octet)| match at {
                8 | 13 | 18 | 23 => octet == b'-',
                _ => octet.is_ascii_hexdigit(),
            });
        match text {
            "true" | "false" => Self::Boolean,
            _ if is_uuid => Self::Uuid,
            _ if text.parse::<i64>().is_ok() && !text.starts_with('+') => Self::Integer,
            _ if text.starts_with(|first: char| first.is_ascii_digit()) && text.parse::<f64>().is_ok() => Self::Number,
            _ => Self::Text,
        }
    }

    fn or(self, other: Self) -> Self {
        match (self, other) {
            (own, other) if own == other => own,
            (Self::Integer | Self::Number, Self::Integer | Self::Number) => Self::Number,
            _ => Self::Text,
        }
    }

    fn schema(self) -> &'static str {
        match self {
            Self::Integer => "{ type: integer }",
            Self::Number => "{ type: number }",
            Self::Boolean => "{ type: boolean }",
            Self::Uuid => "{ type: string, format: uuid }",
            Self::Text => "{ type: string }",
        }
    }
}

/// Long and made of hexadecimal digits: nobody's name for anything.
fn is_token(segment: &str) -> bool {
    segment.len() >= 16 && segment.bytes().all(|octet| octet.is_ascii_hexdigit())
}

/// JSON's texts are YAML's.
fn quoted(text: &str) -> String {
    serde_json::Value::String(text.to_owned()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::Document;

    #[test]
    fn a_proposal_has_what_was_seen_and_is_a_document() {
        let mut learner = Learner::default();
        for id in 0..40 {
            assert!(learner.add("GET", &format!("/pets/{id}"), Some("verbose=true&page=1"), 200));
            assert!(learner.add("GET", &format!("/users/name{id}/pets"), None, 200));
        }
        learner.add("POST", "/pets", None, 201);
        learner.add("GET", "/pets/1", Some("verbose=no"), 304);
        assert!(!learner.add("GET", "/wp-admin", None, 404) && !learner.add("get", "/x", None, 200));
        let text = learner.propose("shop \"one\"");
        for line in [
            "  \"/pets\":\n    post:\n      responses:\n        \"201\": { description: seen }\n",
            "  \"/pets/{p1}\":\n    get:\n      parameters:\n        - { name: p1, in: path, required: true, schema: { type: integer } }\n",
            "- { name: \"page\", in: query, schema: { type: integer } }",
            "- { name: \"verbose\", in: query, required: true, schema: { type: string } }",
            "  \"/users/{p1}/pets\":\n",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        assert!(!text.contains("wp-admin") && !text.contains("name3"));
        let document = Document::parse(text.as_bytes()).unwrap();
        assert_eq!(document.check_references(), []);
        assert!(Document::parse(Learner::default().propose("x").as_bytes()).is_ok());
    }
}
