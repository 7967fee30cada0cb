//! `auth = { … }` on routes and rules.

use portcullis_names::{HeaderName, SanPattern};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser::SerializeSeq};
use std::collections::BTreeMap;

/// Who may pass. `jwt`, `api_key` and `basic` are ways to say who one is, of which one must be used and be right;
/// `client_cert` must hold besides.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub struct RuleAuthSpec {
    /// An `[identity.NAME]` whose tokens are taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwt: Option<String>,
    /// Where the token is (default: `Authorization: Bearer`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<TokenPlaceSpec>,
    /// What the token must say: of `scope` all values, of any other claim one of the values.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub require: Option<BTreeMap<String, ClaimValues>>,
    /// Keys of `[consumer.NAME]` are taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key: Option<ApiKeySpec>,
    /// User names and passwords of `[consumer.NAME]` are taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub basic: Option<BasicSpec>,
    /// The consumer, or the token's claim `groups`, must have one of these.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub groups: Option<Vec<String>>,
    /// The connection's client certificate, verified by the listener.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_cert: Option<ClientCertSpec>,
}

/// Places for a token, looked at in this order: header, cookie, query. The first that has something decides.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub struct TokenPlaceSpec {
    /// `Bearer ` in front of the token is optional, except in `authorization`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<HeaderName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cookie: Option<String>,
    /// Queries end up in logs and histories (RFC 6750 §5.3): only where nothing else is possible.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
}

/// Where the API key is: exactly one place.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub struct ApiKeySpec {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<HeaderName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cookie: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
}

/// User name and password (RFC 7617).
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub struct BasicSpec {
    /// What a browser shows (default "restricted").
    #[serde(skip_serializing_if = "Option::is_none")]
    pub realm: Option<String>,
}

/// What a client certificate must say.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub struct ClientCertSpec {
    /// The verified certificate must have one of these names.
    #[schemars(length(min = 1))]
    pub san: Vec<SanPattern>,
}

/// `"gold"` or `["gold", "silver"]`. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimValues(Vec<String>);

impl ClaimValues {
    pub fn texts(&self) -> &[String] {
        &self.0
    }
}

const EXPECTS: &str = "a text, or a list of texts";

impl<'de> Deserialize<'de> for ClaimValues {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = ClaimValues;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(EXPECTS)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<ClaimValues, E> {
                Ok(ClaimValues(vec![text.to_owned()]))
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<ClaimValues, A::Error> {
                let mut texts = Vec::new();
                while let Some(text) = list.next_element()? {
                    texts.push(text);
                }
                if texts.is_empty() {
                    return Err(de::Error::custom("an empty list would let nobody pass, or everybody"));
                }
                Ok(ClaimValues(texts))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl Serialize for ClaimValues {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if let [one] = self.0.as_slice() {
            return serializer.serialize_str(one);
        }
        let mut list = serializer.serialize_seq(Some(self.0.len()))?;
        for text in &self.0 {
            list.serialize_element(text)?;
        }
        list.end()
    }
}

impl JsonSchema for ClaimValues {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ClaimValues".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "x-expects": EXPECTS,
            "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" }, "minItems": 1 }]
        })
    }
}
