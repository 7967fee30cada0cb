//! The examples under conf/ name every key of the language: what nobody has shown, nobody finds.

use crate::support::gateway::run_in;
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

/// Shown in a comment, with what keeps it from being in force there.
const IN_COMMENTS: [(&str, &str); 6] = [
    ("CertificateSpec", "ocsp"), // only a responder's answer passes the check
    ("HealthCheckSpec", "file"), // somebody else writes it
    ("HealthCheckSpec", "icmp"), // not every kernel permits it
    ("SecretRef", "env"),        // the check reads secrets
    ("ValkeySpec", "password"),  // beside it
    ("ValkeySpec", "username"),  // useless without a password
];

/// A type of the schema and one of its keys.
type Key = (String, String);

/// The schema, and what is looked for in it.
struct Language {
    schema: Value,
}

impl Language {
    fn definition<'s>(&'s self, schema: &'s Value, name: &str) -> (&'s Value, String) {
        match schema["$ref"].as_str().and_then(|reference| reference.rsplit('/').next()) {
            // A rule inherits from its route: what is shown of either is shown of both.
            Some("RouteSpec") => (&self.schema["$defs"]["RouteSpec"], "RuleSpec".to_owned()),
            Some(name) => (&self.schema["$defs"][name], name.to_owned()),
            None => (schema, name.to_owned()),
        }
    }

    /// All keys below `schema`.
    fn keys(&self, schema: &Value, name: &str, seen: &mut BTreeSet<String>, keys: &mut BTreeSet<Key>) {
        if let Some(reference) = schema["$ref"].as_str()
            && !seen.insert(reference.to_owned())
        {
            return;
        }
        let (schema, name) = self.definition(schema, name);
        for (key, value) in schema["properties"].as_object().into_iter().flatten() {
            keys.insert((name.clone(), key.clone()));
            self.keys(value, &name, seen, keys);
        }
        for inner in inner(schema) {
            self.keys(inner, &name, seen, keys);
        }
    }

    /// Takes away what `value` uses.
    fn used(&self, schema: &Value, name: &str, value: &Value, keys: &mut BTreeSet<Key>) {
        let (schema, name) = self.definition(schema, name);
        for either in ["anyOf", "oneOf", "allOf"] {
            for schema in schema[either].as_array().into_iter().flatten() {
                self.used(schema, &name, value, keys);
            }
        }
        for item in value.as_array().into_iter().flatten() {
            self.used(&schema["items"], &name, item, keys);
        }
        for (key, value) in value.as_object().into_iter().flatten() {
            match schema["properties"].get(key) {
                Some(schema) => {
                    keys.remove(&(name.clone(), key.clone()));
                    self.used(schema, &name, value, keys);
                }
                None => self.used(&schema["additionalProperties"], &name, value, keys),
            }
        }
    }
}

/// Schemas of alternatives, items and named objects.
fn inner(schema: &Value) -> impl Iterator<Item = &Value> {
    let alternatives = ["anyOf", "oneOf", "allOf"].into_iter().filter_map(|key| schema[key].as_array()).flatten();
    alternatives.chain([&schema["items"], &schema["additionalProperties"]]).filter(|inner| inner.is_object())
}

/// The texts of the examples by their names.
fn examples() -> BTreeMap<String, String> {
    let conf = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf");
    let folders = [conf.clone(), conf.join("conf.d"), conf.join("mesh")];
    let files = folders.iter().flat_map(|folder| std::fs::read_dir(folder).unwrap()).map(|entry| entry.unwrap().path());
    let files = files.filter(|path| path.extension().is_some_and(|extension| extension == "toml"));
    files.map(|path| (path.display().to_string(), std::fs::read_to_string(&path).unwrap())).collect()
}

#[tokio::test]
async fn every_key_of_the_language_is_shown_in_an_example() {
    let (code, schema) = run_in(Path::new("."), &["schema"]).await;
    assert_eq!(code, 0);
    let language = Language { schema: serde_json::from_str(&schema).unwrap() };
    let (mut keys, mut seen) = (BTreeSet::new(), BTreeSet::new());
    for (table, schema) in language.schema["properties"].as_object().unwrap() {
        keys.insert((String::new(), table.clone()));
        language.keys(schema, "", &mut seen, &mut keys);
    }
    assert!(keys.len() > 200, "{} keys", keys.len());
    let examples = examples();
    for (name, text) in &examples {
        let value: Value = toml::from_str(text).unwrap_or_else(|error| panic!("{name}: {error}"));
        language.used(&language.schema, "", &value, &mut keys);
    }
    let comments: Vec<&str> =
        examples.values().flat_map(|text| text.lines()).filter(|line| line.trim_start().starts_with('#')).collect();
    for (name, key) in IN_COMMENTS {
        let shown = comments.iter().any(|line| line.contains(&format!("{key} = ")));
        assert!(shown && keys.remove(&(name.to_owned(), key.to_owned())), "{name}.{key} is in no comment, or in force");
    }
    assert!(keys.is_empty(), "no example under conf/ has these: {keys:#?}");
}
