//! What a verified token says, as text for routing, limits, headers and logs.

use serde_json::{Map, Value};
use std::borrow::Cow;

/// The claims of a token whose signature, issuer, audience and time were found right.
#[derive(Debug, Clone, PartialEq)]
pub struct Claims {
    object: Map<String, Value>,
    /// Seconds since 1970.
    expires: i64,
}

impl Claims {
    pub(crate) fn new(object: Map<String, Value>, expires: i64) -> Self {
        Self { object, expires }
    }

    /// All of them.
    pub fn object(&self) -> &Map<String, Value> {
        &self.object
    }

    /// `exp`, in seconds since 1970.
    pub fn expires(&self) -> i64 {
        self.expires
    }

    pub fn subject(&self) -> Option<&str> {
        self.object.get("sub")?.as_str()
    }

    /// A claim as text: numbers and booleans as JSON writes them, the members of a list joined by commas. `a.b` is the claim
    /// of that very name if there is one, else `b` inside `a`. Objects, `null`, lists of objects and lists with a comma in a
    /// member have no text: `["a,b"]` must not look like `["a","b"]` to whoever reads it.
    ///
    /// The text is as the issuer wrote it, line breaks included: who puts it into a field or a log checks it.
    pub fn claim(&self, name: &str) -> Option<Cow<'_, str>> {
        match self.value(name)? {
            Value::Array(items) => {
                let texts = items.iter().map(scalar).collect::<Option<Vec<_>>>()?;
                let ambiguous = texts.iter().any(|text| text.contains(','));
                (!ambiguous).then(|| Cow::Owned(texts.join(",")))
            }
            value => scalar(value),
        }
    }

    /// Whether the claim is `wanted`, or a list that has it.
    pub fn has(&self, name: &str, wanted: &str) -> bool {
        match self.value(name) {
            Some(Value::Array(items)) => items.iter().any(|item| scalar(item).is_some_and(|text| text == wanted)),
            Some(value) => scalar(value).is_some_and(|text| text == wanted),
            None => false,
        }
    }

    /// What the token permits: `scope`, a text with blanks (RFC 8693 §4.2) or a list, else `scp` (Entra, Okta).
    pub fn scopes(&self) -> impl Iterator<Item = &str> {
        let granted = self.object.get("scope").or_else(|| self.object.get("scp"));
        let (text, list) = match granted {
            Some(Value::String(text)) => (text.as_str(), [].as_slice()),
            Some(Value::Array(items)) => ("", items.as_slice()),
            _ => ("", [].as_slice()),
        };
        let words = text.split(' ').filter(|word| !word.is_empty());
        words.chain(list.iter().filter_map(Value::as_str))
    }

    pub(crate) fn is_present(&self, name: &str) -> bool {
        self.value(name).is_some_and(|value| !value.is_null())
    }

    fn value(&self, name: &str) -> Option<&Value> {
        lookup(&self.object, name)
    }
}

fn lookup<'c>(object: &'c Map<String, Value>, name: &str) -> Option<&'c Value> {
    // Names with dots exist: `https://example.com/roles`.
    if let Some(value) = object.get(name) {
        return Some(value);
    }
    let mut parts = name.split('.');
    let mut value = object.get(parts.next()?)?;
    for part in parts {
        value = value.as_object()?.get(part)?;
    }
    Some(value)
}

fn scalar(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::String(text) => Some(Cow::Borrowed(text)),
        Value::Number(number) => Some(Cow::Owned(number.to_string())),
        Value::Bool(true) => Some(Cow::Borrowed("true")),
        Value::Bool(false) => Some(Cow::Borrowed("false")),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(json: &str) -> Claims {
        Claims::new(crate::json_object::parse_object(json.as_bytes()).unwrap(), 0)
    }

    #[test]
    fn a_claim_is_read_as_text() {
        let claims = claims(
            r#"{"sub":"u1","n":7,"f":1.5,"t":true,"x":false,"nil":null,"l":["a","b",3],"mixed":["a",{}],"comma":["a","b,c"],"e":[],
                "o":{"p":{"q":"deep"},"l":[1,2]},"https://x.example/role":"admin","a.b":"flat","a":{"b":"nested","c":"nested"}}"#,
        );
        for (name, text) in [
            ("sub", Some("u1")),
            ("n", Some("7")),
            ("f", Some("1.5")),
            ("t", Some("true")),
            ("x", Some("false")),
            ("nil", None),
            ("l", Some("a,b,3")),
            ("mixed", None),
            ("comma", None),
            ("e", Some("")),
            ("o", None),
            ("o.p", None),
            ("o.p.q", Some("deep")),
            ("o.l", Some("1,2")),
            ("o.p.q.r", None),
            ("https://x.example/role", Some("admin")),
            ("a.b", Some("flat")),
            ("a.c", Some("nested")),
            ("", None),
            (".", None),
            ("sub.", None),
            ("absent", None),
        ] {
            assert_eq!(claims.claim(name).as_deref(), text, "{name}");
        }
    }

    #[test]
    fn a_claim_has_a_value_or_a_list_with_it() {
        let claims = claims(r#"{"tier":"gold","groups":["a","b"],"n":1,"ok":true,"o":{"g":["x"]},"csv":"a,b"}"#);
        for (name, wanted, has) in [
            ("tier", "gold", true),
            ("tier", "gol", false),
            ("tier", "Gold", false),
            ("groups", "a", true),
            ("groups", "a,b", false),
            ("n", "1", true),
            ("ok", "true", true),
            ("o.g", "x", true),
            ("csv", "a", false),
            ("absent", "", false),
        ] {
            assert_eq!(claims.has(name, wanted), has, "{name} {wanted}");
        }
    }

    #[test]
    fn scopes_are_words_or_a_list() {
        for (json, scopes) in [
            (r#"{"scope":"read write"}"#, vec!["read", "write"]),
            (r#"{"scope":"  read  "}"#, vec!["read"]),
            (r#"{"scope":["read","write"]}"#, vec!["read", "write"]),
            (r#"{"scp":["read"]}"#, vec!["read"]),
            (r#"{"scp":"read write"}"#, vec!["read", "write"]),
            (r#"{"scope":"a","scp":"b"}"#, vec!["a"]),
            (r#"{"scope":""}"#, vec![]),
            (r#"{"scope":7}"#, vec![]),
            (r#"{"scope":["a b",1]}"#, vec!["a b"]),
            ("{}", vec![]),
        ] {
            assert_eq!(claims(json).scopes().collect::<Vec<_>>(), scopes, "{json}");
        }
    }
}
