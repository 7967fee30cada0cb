//! The whole configuration with every default filled in, each value with the place it comes from.

use crate::{
    Document, Path, Place,
    path::{Quoted, quote},
};
use serde_json::Value;

/// Prints resolved data as TOML 1.0, one value a line with `# file:line` or `# default` behind it.
pub fn effective(resolved: &Value, document: &Document) -> String {
    effective_with(resolved, document, |_| None)
}

/// Like [`effective`]; `inherited` says from which other path a value that was not written itself was taken.
pub fn effective_with(resolved: &Value, document: &Document, inherited: impl Fn(&Path) -> Option<Path>) -> String {
    let mut printer = Printer { document, inherited, text: String::new() };
    printer.table(resolved, &Path::root());
    printer.text
}

struct Printer<'d, I> {
    document: &'d Document,
    inherited: I,
    text: String,
}

impl<I: Fn(&Path) -> Option<Path>> Printer<'_, I> {
    fn table(&mut self, value: &Value, at: &Path) {
        let Value::Object(entries) = value else { return };
        let is_table = |value: &Value| matches!(value, Value::Object(inner) if !inner.is_empty());
        let mut headed = *at == Path::root();
        for (key, inner) in entries.iter().filter(|(_, inner)| !is_table(inner) && !inner.is_null()) {
            if !headed {
                let gap = if self.text.is_empty() { "" } else { "\n" };
                self.text.push_str(&format!("{gap}[{at}]\n"));
                headed = true;
            }
            let origin = self.origin(&at.key(key));
            self.text.push_str(&format!("{} = {}  # {origin}\n", Quoted(key), inline(inner)));
        }
        for (key, inner) in entries.iter().filter(|(_, inner)| is_table(inner)) {
            self.table(inner, &at.key(key));
        }
    }

    fn origin(&self, at: &Path) -> String {
        if let Some(place) = written(self.document, at) {
            return format!("{}:{}", place.file.display(), place.line);
        }
        let inherited = (self.inherited)(at).and_then(|other| Some((written(self.document, &other)?, other)));
        match inherited {
            Some((place, other)) => format!("{}:{} ({other})", place.file.display(), place.line),
            None => "default".to_owned(),
        }
    }
}

/// Where exactly this was written; `None` when it was not.
fn written(document: &Document, at: &Path) -> Option<Place> {
    document.has(at).then(|| document.place(at)).flatten()
}

/// TOML 1.0: one line, no trailing commas.
fn inline(value: &Value) -> String {
    match value {
        Value::Array(items) => format!("[{}]", items.iter().map(inline).collect::<Vec<_>>().join(", ")),
        Value::Object(entries) => {
            let parts = entries.iter().filter(|(_, value)| !value.is_null());
            let parts: Vec<_> = parts.map(|(key, value)| format!("{} = {}", Quoted(key), inline(value))).collect();
            if parts.is_empty() { "{}".to_owned() } else { format!("{{ {} }}", parts.join(", ")) }
        }
        Value::String(text) => quote(text),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_value_is_printed_with_its_origin() {
        let (document, _) = Document::parse(
            "edge.toml",
            "[defaults]\ntimeout = \"9s\"\n[route.shop]\nhosts = [\"a\"]\nheaders.\"x.y\" = \"1\"\n",
        );
        let resolved = json!({
            "process": { "threads": 2, "key": { "env": "KEY" } },
            "route": { "shop": { "hosts": ["a"], "timeout": "9s", "headers": { "x.y": "1" }, "none": null, "split": {} } },
        });
        let text = effective_with(&resolved, &document, |at| {
            at.to_string().ends_with(".timeout").then(|| Path::root().key("defaults").key("timeout"))
        });
        for line in [
            "[process]",
            "threads = 2  # default",
            "[process.key]",
            "env = \"KEY\"  # default",
            "[route.shop]",
            "hosts = [\"a\"]  # edge.toml:4",
            "timeout = \"9s\"  # edge.toml:2 (defaults.timeout)",
            "split = {}  # default",
            "[route.shop.headers]",
            "\"x.y\" = \"1\"  # edge.toml:5",
        ] {
            assert!(text.lines().any(|have| have == line), "{line} in\n{text}");
        }
        assert!(!text.contains("none"), "{text}");
    }

    #[test]
    fn what_is_printed_is_toml_that_says_the_same() {
        let values = json!({ "t": {
            "quotes": "a\"b'c\\d", "lines": "a\nb\r\nc\td", "control": "\u{7f}\u{1}", "empty": "", "float": 1.5, "whole": 2.0,
            "large": 1e300, "negative": -5, "list": [{ "a b": [1, true] }, "x"], "unicode": "ö # = [", "triple": "'''\"\"\"",
        } });
        let text = effective(&values, &Document::default());
        let (document, report) = Document::parse("printed.toml", &text);
        assert!(report.is_empty(), "{:?}\n{text}", report.lines());
        assert_eq!(document.to_json(), values, "{text}");
    }
}
