//! Where a secret is, never what it is: `{ env = "NAME" }`, `{ file = "path" }` or `{ command = ["/path/of/program", …] }`.

use crate::SecretCommand;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de};
use std::{fmt, path::PathBuf};

/// A reference to a secret. A plain string in its place is refused with a message that does not repeat it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SecretRef {
    /// An environment variable of this process.
    Env(String),
    /// A file, relative to the configuration file that names it. It is watched: a new value is used from then on.
    File(PathBuf),
    /// A program that prints it. It is run anew at every reading of the configuration.
    Command(SecretCommand),
}

const EXPECTS: &str =
    "a reference to a secret, { file = \"path\" }, { env = \"NAME\" } or { command = [\"/path/of/program\", …] }";

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
                let kind: String = map.next_key().map_err(|_| wrong())?.ok_or_else(wrong)?;
                let text = |map: &mut A| match map.next_value::<String>() {
                    Ok(text) if !text.is_empty() => Ok(text),
                    Ok(_) | Err(_) => Err(wrong()),
                };
                let secret = match kind.as_str() {
                    "env" => SecretRef::Env(text(&mut map)?),
                    "file" => SecretRef::File(text(&mut map)?.into()),
                    "command" => SecretRef::Command(map.next_value()?),
                    _ => return Err(wrong()),
                };
                if map.next_key::<String>()?.is_some() { Err(wrong()) } else { Ok(secret) }
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for SecretRef {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "SecretRef".into()
    }
    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "object",
            "x-expects": EXPECTS,
            "x-secret": true,
            "properties": {
                "env": { "type": "string", "minLength": 1, "description": "An environment variable of this process." },
                "file": {
                    "type": "string",
                    "minLength": 1,
                    "description": "A file, relative to the configuration file that names it. It is watched.",
                },
                "command": generator.subschema_for::<SecretCommand>(),
            },
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
        for bad in
            [r#"{"env":"A","file":"b"}"#, "{}", r#"{"vault":"x"}"#, r#"{"env":""}"#, "5", r#"{"command":"/bin/x"}"#]
        {
            assert!(serde_json::from_str::<SecretRef>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn each_kind_is_read_and_written_alike() {
        let command = SecretCommand::new(["/usr/bin/vault", "kv"].map(str::to_owned)).unwrap();
        for (text, secret) in [
            (r#"{"env":"A"}"#, SecretRef::Env("A".into())),
            (r#"{"file":"a.key"}"#, SecretRef::File("a.key".into())),
            (r#"{"command":["/usr/bin/vault","kv"]}"#, SecretRef::Command(command)),
        ] {
            assert_eq!(serde_json::from_str::<SecretRef>(text).unwrap(), secret);
            assert_eq!(serde_json::to_string(&secret).unwrap(), text);
        }
    }
}
