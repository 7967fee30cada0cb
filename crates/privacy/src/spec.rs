//! `[privacy.NAME]` as the operator writes it.

use portcullis_names::ObjectName;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de};

/// What is looked for in what passes, and what is done about it.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PrivacySpec {
    /// card, iban, us_ssn, or patterns: { name = "badge", regex = "\\bB[0-9]{7}\\b" }.
    #[schemars(length(min = 1, max = 32))]
    pub detect: Vec<DetectorSpec>,
    /// Default log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<PrivacyAction>,
    /// Of requests instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<PrivacyAction>,
    /// Of responses instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response: Option<PrivacyAction>,
}

/// From the mildest to the strictest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PrivacyAction {
    /// Nobody looks.
    Off,
    /// It is counted and told, and passes.
    Log,
    /// It is covered by asterisks.
    Mask,
    /// The request or response does not pass.
    Block,
}

impl PrivacyAction {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Log => "log",
            Self::Mask => "mask",
            Self::Block => "block",
        }
    }
}

/// A word, or a pattern with a name.
#[derive(Debug, Clone)]
pub enum DetectorSpec {
    Card,
    Iban,
    UsSsn,
    Custom { name: ObjectName, regex: String },
}

#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CustomTable {
    /// For metrics and log lines.
    name: ObjectName,
    /// Of at most 256 octets on one line.
    regex: String,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Word {
    Card,
    Iban,
    UsSsn,
}

const EXPECTS: &str = "card, iban, us_ssn, or { name, regex }";

impl<'de> Deserialize<'de> for DetectorSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = DetectorSpec;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(EXPECTS)
            }
            fn visit_str<E: de::Error>(self, word: &str) -> Result<DetectorSpec, E> {
                Ok(match Word::deserialize(de::value::StrDeserializer::new(word))? {
                    Word::Card => DetectorSpec::Card,
                    Word::Iban => DetectorSpec::Iban,
                    Word::UsSsn => DetectorSpec::UsSsn,
                })
            }
            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<DetectorSpec, A::Error> {
                let table = CustomTable::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Ok(DetectorSpec::Custom { name: table.name, regex: table.regex })
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl Serialize for DetectorSpec {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Card => serializer.serialize_str("card"),
            Self::Iban => serializer.serialize_str("iban"),
            Self::UsSsn => serializer.serialize_str("us_ssn"),
            Self::Custom { name, regex } => {
                CustomTable { name: name.clone(), regex: regex.clone() }.serialize(serializer)
            }
        }
    }
}

impl JsonSchema for DetectorSpec {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "DetectorSpec".into()
    }
    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let word = generator.subschema_for::<Word>();
        let table = generator.subschema_for::<CustomTable>();
        schemars::json_schema!({ "x-expects": EXPECTS, "anyOf": [word, table] })
    }
}
