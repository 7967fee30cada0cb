//! `health_check.body`: what an answer's body has to say.

use portcullis_config::{Context, Path};
use portcullis_names::ByteSize;
use regex::bytes::{Regex, RegexBuilder};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de};

/// `"ok"`, the text that the body must contain, or a table that says more.
#[derive(Debug, Clone, Default, Serialize)]
pub struct BodySpec {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contains: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub regex: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub within: Option<ByteSize>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct BodyTable {
    /// The text that the body must contain.
    contains: Option<String>,
    /// The expression that must match somewhere in the body.
    regex: Option<String>,
    /// Only the body's beginning of this length is read (default 16KiB).
    within: Option<ByteSize>,
}

/// Compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BodyRule {
    wanted: Wanted,
    /// Bytes of the body that are read.
    pub(crate) within: usize,
}

#[derive(Debug, Clone)]
enum Wanted {
    Text(String),
    Expression(Regex),
}

const WITHIN: u64 = 16 << 10;
/// Read for every endpoint at every interval.
const WITHIN_MAX: u64 = 1 << 20;
/// Of the compiled expression.
const REGEX_BYTES_MAX: usize = 1 << 20;

impl BodySpec {
    /// `None`: the report says why not.
    pub(crate) fn compile(&self, at: &Path, cx: &mut Context) -> Option<BodyRule> {
        let within = self.within.map_or(WITHIN, ByteSize::bytes);
        if within == 0 || within > WITHIN_MAX {
            cx.error(&at.key("within"), "1B to 1MiB of the body are looked at");
        }
        let wanted = match (&self.contains, &self.regex) {
            (Some(text), None) if text.is_empty() => {
                cx.error(at, "every body contains nothing").help("say what the body of a healthy endpoint contains");
                return None;
            }
            (Some(text), None) => Wanted::Text(text.clone()),
            (None, Some(pattern)) => match RegexBuilder::new(pattern).size_limit(REGEX_BYTES_MAX).build() {
                Ok(regex) => Wanted::Expression(regex),
                Err(error) => {
                    cx.error(&at.key("regex"), format!("not an expression that can be used: {error}"));
                    return None;
                }
            },
            (None, None) => {
                cx.error_at_key(at, "the body is asked for nothing: give `contains` or `regex`");
                return None;
            }
            (Some(_), Some(_)) => {
                cx.error_at_key(at, "`contains` and `regex` exclude one another");
                return None;
            }
        };
        Some(BodyRule { wanted, within: usize::try_from(within).ok()? })
    }
}

impl BodyRule {
    pub(crate) fn is_met(&self, body: &[u8]) -> bool {
        match &self.wanted {
            Wanted::Text(text) => body.windows(text.len()).any(|window| window == text.as_bytes()),
            Wanted::Expression(regex) => regex.is_match(body),
        }
    }
}

impl PartialEq for Wanted {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Text(one), Self::Text(two)) => one == two,
            (Self::Expression(one), Self::Expression(two)) => one.as_str() == two.as_str(),
            (Self::Text(_) | Self::Expression(_), _) => false,
        }
    }
}

impl Eq for Wanted {}

impl<'de> Deserialize<'de> for BodySpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = BodySpec;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a text that the body contains, or { contains, regex, within }")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<BodySpec, E> {
                Ok(BodySpec { contains: Some(text.to_owned()), regex: None, within: None })
            }
            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<BodySpec, A::Error> {
                let table = BodyTable::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Ok(BodySpec { contains: table.contains, regex: table.regex, within: table.within })
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for BodySpec {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "BodySpec".into()
    }
    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let table = generator.subschema_for::<BodyTable>();
        schemars::json_schema!({ "anyOf": [{ "type": "string" }, table] })
    }
}
