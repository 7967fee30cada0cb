//! Checks a document against the JSON Schema of its spec: every unknown key, wrong type, bad value and missing key, in one
//! run and each in its place. serde would stop at the first.
//!
//! Does not build anything: `reader` does, from what is left when the findings are taken away.

use crate::{
    Document, Path, Reserved, nearest,
    node::{Entry, Node, NodeId, Span, Table, Value},
    report::{Level, Problem},
    shape::Shape,
    source::sounds_secret,
    trail::Trail,
};
use serde_json::Value as Json;

/// What a run of the linter found.
#[derive(Default)]
pub(crate) struct Findings {
    pub(crate) problems: Vec<Problem>,
    /// Nodes that cannot be read, each with its address.
    pub(crate) bad: Vec<(NodeId, Path)>,
    /// Texts that must not be shown.
    pub(crate) secrets: Vec<Span>,
}

/// Known words that a message lists.
const KNOWN_MAX: usize = 24;

pub(crate) fn lint(document: &Document, schema: &Json, reserved: &[Reserved]) -> Findings {
    let mut lint = Lint { document, root: schema, reserved, found: Findings::default() };
    if let Some(table) = document.root.as_table() {
        let shapes = Shape::alternatives(schema, schema);
        let Some(shape) = shapes.first() else { return lint.found };
        // `schema` and `include` are the loader's: it has checked them.
        lint.entries(table, std::slice::from_ref(shape), &Trail::Root, &["schema", "include"]);
        lint.required(&document.root, table, shape, &Trail::Root);
    }
    lint.found
}

struct Lint<'s> {
    document: &'s Document,
    root: &'s Json,
    reserved: &'s [Reserved],
    found: Findings,
}

impl<'s> Lint<'s> {
    fn node(&mut self, node: &Node, schemas: &[&'s Json], at: &Trail<'_>) {
        let shapes: Vec<_> = schemas.iter().flat_map(|schema| Shape::alternatives(self.root, schema)).collect();
        if shapes.iter().any(Shape::is_open) {
            return;
        }
        let fitting: Vec<_> = shapes.iter().copied().filter(|shape| shape.takes(node)).collect();
        if fitting.is_empty() {
            return self.wrong_type(node, &shapes, at);
        }
        match &node.value {
            Value::Table(table) => self.table(node, table, &fitting, at),
            Value::Array(items) => self.array(node, items, &fitting, at),
            Value::String(text) => self.string(node, text, &fitting, at),
            Value::Integer(integer) => self.number(node, *integer as f64, &fitting, at),
            Value::Float(float) => self.number(node, *float, &fitting, at),
            Value::Bool(_) | Value::Date => {}
        }
    }

    fn table(&mut self, node: &Node, table: &Table, shapes: &[Shape<'s>], at: &Trail<'_>) {
        let [only] = shapes else { return self.one_of_several(node, table, shapes, at) };
        self.entries(table, std::slice::from_ref(only), at, &[]);
        self.required(node, table, only, at);
        let (least, most) = (only.count("minProperties"), only.count("maxProperties"));
        let (known, unknown): (Vec<_>, Vec<_>) =
            table.keys().partition(|key| only.property(key).is_some() || only.others().is_some());
        let count = known.len() as u64;
        // An unknown key is reported already, and was most likely meant to be the missing one.
        let too_few = unknown.is_empty() && least.is_some_and(|least| count < least);
        if too_few || most.is_some_and(|most| count > most) {
            let keys: Vec<_> = only.properties().map(|(key, _)| key).collect();
            let wanted = match (least, most, keys.as_slice()) {
                (Some(1), Some(1), [_, ..]) => format!("exactly one of {}", keys.join(", ")),
                (Some(least), _, _) if count < least => {
                    format!("at least {least} {}", plural(least, "entry", "entries"))
                }
                (_, most, _) => format!("at most {} entries", most.unwrap_or_default()),
            };
            self.fault(&self.header(node, at), node.id, at, format!("`{at}`: expected {wanted}, found {count}"));
        }
    }

    /// Several kinds of tables are possible here: the tag or the only key of each tells which one is meant.
    fn one_of_several(&mut self, node: &Node, table: &Table, shapes: &[Shape<'s>], at: &Trail<'_>) {
        if shapes.iter().all(|shape| shape.variant_key().is_some()) {
            return self.by_variant_key(node, table, shapes, at);
        }
        let tag = shapes.first().and_then(|first| {
            first.properties().map(|(key, _)| key).find(|key| shapes.iter().all(|shape| shape.tag(key).is_some()))
        });
        if let Some(tag) = tag {
            return self.by_tag(node, table, shapes, tag, at);
        }
        // The alternative with the fewest mistakes is the one that was meant.
        let before = std::mem::take(&mut self.found);
        let trials = shapes.iter().map(|shape| {
            self.table(node, table, std::slice::from_ref(shape), at);
            std::mem::take(&mut self.found)
        });
        let best = trials.min_by_key(|found| found.problems.len()).unwrap_or_default();
        self.found = before;
        self.found.problems.extend(best.problems);
        self.found.bad.extend(best.bad);
        self.found.secrets.extend(best.secrets);
    }

    fn by_variant_key(&mut self, node: &Node, table: &Table, shapes: &[Shape<'s>], at: &Trail<'_>) {
        self.entries(table, shapes, at, &[]);
        let keys: Vec<_> = shapes.iter().filter_map(Shape::variant_key).collect();
        let count = table.keys().filter(|key| keys.contains(&key.as_str())).count();
        // An unknown key was most likely meant to be the one.
        if count > 1 || table.is_empty() {
            let message = format!("`{at}`: expected exactly one of {}, found {count}", keys.join(", "));
            self.fault(&self.header(node, at), node.id, at, message);
        }
    }

    fn by_tag(&mut self, node: &Node, table: &Table, shapes: &[Shape<'s>], tag: &'s str, at: &Trail<'_>) {
        let tags: Vec<_> = shapes.iter().filter_map(|shape| shape.tag(tag)).collect();
        let Some(entry) = table.get(tag) else {
            let message = format!("`{tag}` is missing in `{at}` (one of {})", tags.join(", "));
            return self.fault(&self.header(node, at), node.id, at, message);
        };
        let chosen = match &entry.node.value {
            Value::String(text) => shapes.iter().find(|shape| shape.tag(tag) == Some(text)),
            _ => None,
        };
        match chosen {
            Some(shape) => self.table(node, table, std::slice::from_ref(shape), at),
            None => {
                let properties: Vec<_> = shapes.iter().filter_map(|shape| shape.property(tag)).collect();
                self.node(&entry.node, &properties, &at.key(tag));
            }
        }
    }

    fn entries(&mut self, table: &Table, shapes: &[Shape<'s>], at: &Trail<'_>, skipped: &[&str]) {
        for (key, entry) in table.iter().filter(|(key, _)| !skipped.contains(&key.as_str())) {
            let here = at.key(key);
            let named: Vec<_> = shapes.iter().filter_map(|shape| shape.property(key)).collect();
            if !named.is_empty() {
                self.node(&entry.node, &named, &here);
                continue;
            }
            let open: Vec<_> = shapes.iter().filter_map(Shape::others).collect();
            if open.is_empty() {
                self.unknown_key(key, entry, shapes, at, &here);
                continue;
            }
            // Without a format in the schema the reader holds keys to their type.
            let format = shapes.iter().find_map(Shape::key_format);
            match format.and_then(|format| portcullis_names::check_format(format, key)) {
                Some(Err(error)) => self.fault(&entry.key, entry.node.id, &here, error.to_string()),
                Some(Ok(())) | None => self.node(&entry.node, &open, &here),
            }
        }
    }

    fn unknown_key(&mut self, key: &str, entry: &Entry, shapes: &[Shape<'s>], at: &Trail<'_>, here: &Trail<'_>) {
        let secret_table = shapes.iter().any(Shape::is_secret);
        if self.reserved.iter().any(|reserved| reserved.is_key(here)) {
            self.hide_entry(secret_table, key, &entry.node);
            return self.fault(&entry.key, entry.node.id, here, format!("`{key}` is not supported by this version"));
        }
        let mut known: Vec<_> = shapes.iter().flat_map(Shape::properties).map(|(key, _)| key).collect();
        known.sort_unstable();
        known.dedup();
        let best = nearest(key, known.iter().copied());
        let meant_secret = best.and_then(|best| shapes.iter().find_map(|shape| shape.property(best)));
        let meant_secret = meant_secret.is_some_and(|schema| self.is_secret(schema));
        self.hide_entry(secret_table || meant_secret, key, &entry.node);
        let place = if at.is_root() { "at the top".to_owned() } else { format!("in `{at}`") };
        let message = format!("unknown key `{key}` {place}; known: {}", listed(&known));
        self.fault(&entry.key, entry.node.id, here, message);
        if let Some(best) = best {
            self.help(format!("did you mean `{best}`?"));
        }
    }

    fn required(&mut self, node: &Node, table: &Table, shape: &Shape<'s>, at: &Trail<'_>) {
        // In a file that is not TOML the missing key may stand where the parser lost its way.
        if self.document.torn {
            return;
        }
        for key in shape.required().filter(|key| !table.contains_key(*key)) {
            let place = if at.is_root() { "at the top".to_owned() } else { format!("in `{at}`") };
            let misspelt = table.keys().any(|have| shape.property(have).is_none() && nearest(have, [key]).is_some());
            if misspelt {
                // The unknown key is reported with this one as its help; saying it twice helps nobody.
                self.found.bad.push((node.id, at.path()));
                continue;
            }
            self.fault(&self.header(node, at), node.id, at, format!("`{key}` is missing {place}"));
        }
    }

    fn array(&mut self, node: &Node, items: &[Node], shapes: &[Shape<'s>], at: &Trail<'_>) {
        for (index, item) in items.iter().enumerate() {
            let inner: Vec<_> = shapes.iter().filter_map(|shape| shape.items(index)).collect();
            if !inner.is_empty() {
                self.node(item, &inner, &at.index(index));
            }
        }
        let count = items.len() as u64;
        let fits = |shape: &Shape<'_>| {
            shape.count("minItems").is_none_or(|least| count >= least)
                && shape.count("maxItems").is_none_or(|most| count <= most)
        };
        if !shapes.iter().any(fits) {
            let least = shapes.iter().find_map(|shape| shape.count("minItems")).filter(|least| count < *least);
            let wanted = match (least, shapes.iter().find_map(|shape| shape.count("maxItems"))) {
                (Some(least), _) => format!("at least {least} {}", plural(least, "item", "items")),
                (None, most) => format!("at most {} items", most.unwrap_or_default()),
            };
            self.fault(&node.span, node.id, at, format!("`{at}`: expected {wanted}, found {count}"));
        }
    }

    fn string(&mut self, node: &Node, text: &str, shapes: &[Shape<'s>], at: &Trail<'_>) {
        let values: Vec<_> = shapes.iter().flat_map(Shape::constants).collect();
        if values.contains(&text) {
            return;
        }
        let free: Vec<_> = shapes.iter().filter(|shape| shape.constants().is_empty()).collect();
        if free.is_empty() {
            return self.not_one_of(node, text, &values, at);
        }
        // With several grammars one that fits is enough.
        let mut failure = None;
        for shape in free {
            match self.check_text(shape, text) {
                Ok(()) => return,
                Err(why) => failure = Some(why),
            }
        }
        if let Some(why) = failure {
            self.fault(&node.span, node.id, at, format!("`{at}`: {why}"));
            if let Some(best) = nearest(text, values.iter().copied()) {
                self.help(format!("did you mean `{best}`?"));
            }
        }
    }

    fn check_text(&self, shape: &Shape<'_>, text: &str) -> Result<(), String> {
        let count = text.chars().count() as u64;
        if let Some(least) = shape.count("minLength").filter(|least| count < *least) {
            return Err(format!(
                "expected at least {least} {}, found {count}",
                plural(least, "character", "characters")
            ));
        }
        if let Some(most) = shape.count("maxLength").filter(|most| count > *most) {
            return Err(format!("expected at most {most} characters, found {count}"));
        }
        match shape.format().and_then(|format| portcullis_names::check_format(format, text)) {
            Some(Err(error)) => Err(error.to_string()),
            Some(Ok(())) | None => Ok(()),
        }
    }

    fn not_one_of(&mut self, node: &Node, text: &str, values: &[&str], at: &Trail<'_>) {
        if self.reserved.iter().any(|reserved| reserved.is_value(at, text)) {
            return self.fault(&node.span, node.id, at, format!("`{text}` is not supported by this version"));
        }
        self.fault(&node.span, node.id, at, format!("`{at}`: `{}` is not one of {}", clip(text), listed(values)));
        if let Some(best) = nearest(text, values.iter().copied()) {
            self.help(format!("did you mean `{best}`?"));
        }
    }

    fn number(&mut self, node: &Node, number: f64, shapes: &[Shape<'s>], at: &Trail<'_>) {
        let fits = |shape: &Shape<'_>| {
            let (least, most) = shape.range();
            least.is_none_or(|least| number >= least) && most.is_none_or(|most| number <= most) && !number.is_nan()
        };
        if shapes.iter().any(fits) {
            return;
        }
        let range = match shapes.first().map(Shape::range) {
            Some((Some(least), Some(most))) => format!(" from {least} to {most}"),
            Some((Some(least), None)) => format!(" of at least {least}"),
            Some((None, Some(most))) => format!(" of at most {most}"),
            Some((None, None)) | None => String::new(),
        };
        self.fault(&node.span, node.id, at, format!("`{at}`: expected a number{range}, found {number}"));
    }

    fn wrong_type(&mut self, node: &Node, shapes: &[Shape<'s>], at: &Trail<'_>) {
        let secret = shapes.iter().any(Shape::is_secret);
        self.hide_if(secret, node);
        if secret && matches!(node.value, Value::String(_)) {
            self.fault(&node.span, node.id, at, format!("`{at}`: a secret is never written here in plain text"));
            return self.help(
                "refer to it: { file = \"path\" }, { env = \"NAME\" } or { command = [\"/path/of/program\"] }"
                    .to_owned(),
            );
        }
        let mut expected: Vec<String> = Vec::new();
        for shape in shapes {
            let one = shape.expectation();
            if !expected.contains(&one) {
                expected.push(one);
            }
        }
        // A number may be somebody's pin: where a secret is due nothing is repeated.
        let found = if secret { "something else".to_owned() } else { node.describe() };
        let span = if node.as_table().is_some() { self.header(node, at) } else { node.span.clone() };
        self.fault(&span, node.id, at, format!("`{at}`: expected {}, found {found}", expected.join(" or ")));
    }

    fn is_secret(&self, schema: &'s Json) -> bool {
        Shape::alternatives(self.root, schema).iter().any(Shape::is_secret)
    }

    /// Blots out every text below a node.
    fn hide_if(&mut self, secret: bool, node: &Node) {
        if !secret {
            return;
        }
        match &node.value {
            Value::String(_) | Value::Integer(_) | Value::Float(_) => self.found.secrets.push(node.span.clone()),
            Value::Array(items) => items.iter().for_each(|item| self.hide_if(true, item)),
            Value::Table(table) => table.values().for_each(|entry| self.hide_if(true, &entry.node)),
            Value::Bool(_) | Value::Date => {}
        }
    }

    /// Blots out what is under a key that the schema does not know, as far as its names tell.
    fn hide_entry(&mut self, secret: bool, key: &str, node: &Node) {
        if secret || sounds_secret(key) {
            return self.hide_if(true, node);
        }
        match &node.value {
            Value::Table(table) => table.iter().for_each(|(key, entry)| self.hide_entry(false, key, &entry.node)),
            Value::Array(items) => items.iter().for_each(|item| self.hide_entry(false, "", item)),
            _ => {}
        }
    }

    /// Where to point for a whole table: its name in its header; its body would underline pages.
    fn header(&self, node: &Node, at: &Trail<'_>) -> Span {
        self.document.span(&at.path(), crate::document::Target::Key).unwrap_or_else(|| node.span.clone())
    }

    fn fault(&mut self, span: &Span, node: NodeId, at: &Trail<'_>, message: String) {
        let path = at.path();
        self.found.bad.push((node, path.clone()));
        self.found.problems.push(Problem { span: Some(span.clone()), ..Problem::new(Level::Error, path, message) });
    }

    /// The way out of the fault before.
    fn help(&mut self, text: String) {
        if let Some(problem) = self.found.problems.last_mut() {
            problem.help = Some(text);
        }
    }
}

fn listed(known: &[&str]) -> String {
    match known.get(..KNOWN_MAX) {
        Some(shown) if known.len() > KNOWN_MAX => format!("{}, … {} in all", shown.join(", "), known.len()),
        _ => known.join(", "),
    }
}

fn plural(count: u64, one: &'static str, several: &'static str) -> &'static str {
    if count == 1 { one } else { several }
}

fn clip(text: &str) -> String {
    const SHOWN: usize = 60;
    match text.char_indices().nth(SHOWN) {
        Some((cut, _)) => format!("{}…", text.get(..cut).unwrap_or_default()),
        None => text.to_owned(),
    }
}
