//! Where a secret is, never what it is: `{ env = "NAME" }` or `{ file = "path" }`.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de};
use std::{fmt, path::PathBuf};

/// A reference to a secret. A plain string in its place is refused with a message that does not repeat it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SecretRef {
    /// An environment variable of this process.
    Env(String),
    /// A file, relative to the configuration file that names it.
    File(PathBuf),
}

const EXPECTS: &str = "a reference to a secret, { file = \"path\" } or { env = \"NAME\" }";

impl<'de> Deserialize<'de> for SecretRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = SecretRef;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(EXPECTS)
            }
            // serde's own message would print the value.
            fn visit_str<E: de::Error>(self, _: &str) -> Result<SecretRef, E> {
                Err(E::custom(format!("secrets are never written here; use {EXPECTS}")))
            }
            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<SecretRef, A::Error> {
                let wrong = || de::Error::custom(format!("expected {EXPECTS}"));
                let (kind, place): (String, String) = map.next_entry().map_err(|_| wrong())?.ok_or_else(wrong)?;
                if map.next_key::<String>()?.is_some() || place.is_empty() {
                    return Err(wrong());
                }
                match kind.as_str() {
                    "env" => Ok(SecretRef::Env(place)),
                    "file" => Ok(SecretRef::File(place.into())),
                    _ => Err(wrong()),
                }
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for SecretRef {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "SecretRef".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "object",
            "x-expects": EXPECTS,
            "x-secret": true,
            "properties": { "env": { "type": "string", "minLength": 1 }, "file": { "type": "string", "minLength": 1 } },
            "additionalProperties": false,
            "minProperties": 1,
            "maxProperties": 1,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_in_plain_text_is_refused_without_being_repeated() {
        let error = serde_json::from_str::<SecretRef>("\"hunter2\"").unwrap_err().to_string();
        assert!(error.contains("{ env") && !error.contains("hunter2"), "{error}");
        for bad in [r#"{"env":"A","file":"b"}"#, "{}", r#"{"vault":"x"}"#, r#"{"env":""}"#, "5"] {
            assert!(serde_json::from_str::<SecretRef>(bad).is_err(), "{bad}");
        }
        assert_eq!(serde_json::from_str::<SecretRef>(r#"{"env":"A"}"#).unwrap(), SecretRef::Env("A".into()));
    }
}
