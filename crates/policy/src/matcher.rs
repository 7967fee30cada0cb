//! The conditions of a rule: as written, and compiled.

use crate::RequestView;
use portcullis_auth::AuthRule;
use portcullis_config::{Context, Path};
use portcullis_names::{Cidr, CidrSet, Country, HeaderName, Method, SanPattern};
use regex::{Regex, RegexBuilder};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de};
use std::{collections::BTreeMap, sync::Arc};

/// `match = { … }`: all of it must hold.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MatchSpec {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathSpec>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<Method>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<HeaderName, ValueSpec>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub query: BTreeMap<String, ValueSpec>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub cookies: BTreeMap<String, ValueSpec>,
    /// The client's address is in one of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub source: Vec<Cidr>,
    /// The client's certificate carries one of these names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub identity: Vec<SanPattern>,
    /// The client's address is in one of these, by the database of `[geo]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub country: Vec<Country>,
    /// Of the verified token that the rule's `auth.jwt` takes. Where there is none, or it is not good, nothing matches.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub claims: BTreeMap<String, ValueSpec>,
}

/// `"/api"` is a segment prefix; `{ exact = … }` and `{ regex = … }` are the other kinds.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PathSpec {
    Prefix(String),
    Exact(String),
    Regex(String),
}

/// `"value"` is exact; `{ regex = … }` and `{ present = true }` are the other kinds.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ValueSpec {
    Exact(String),
    Regex(String),
    Present(bool),
}

/// The two forms of a match word, by one visitor: serde's untagged enums lose place and reason.
macro_rules! short_or_table {
    ($type:ident, $inner:ident { $($key:literal => $variant:ident($value:ty)),* }, short = $short:ident, expects = $expects:literal, schema = $schema:tt) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Visitor;
                impl<'de> de::Visitor<'de> for Visitor {
                    type Value = $type;
                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str($expects)
                    }
                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$type, E> {
                        Ok($type::$short(text.to_owned()))
                    }
                    fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<$type, A::Error> {
                        let wrong = || de::Error::custom(concat!("expected ", $expects));
                        let key: String = map.next_key()?.ok_or_else(wrong)?;
                        let value = match key.as_str() {
                            $($key => $type::$variant(map.next_value::<$value>()?),)*
                            _ => return Err(wrong()),
                        };
                        if map.next_key::<String>()?.is_some() { Err(wrong()) } else { Ok(value) }
                    }
                }
                deserializer.deserialize_any(Visitor)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!($schema)
            }
        }
    };
}

short_or_table!(PathSpec, Inner { "prefix" => Prefix(String), "exact" => Exact(String), "regex" => Regex(String) },
    short = Prefix, expects = "\"/prefix\", { exact = \"/path\" } or { regex = \"^/…\" }",
    schema = { "anyOf": [{ "type": "string", "description": "a path prefix in whole segments" }, {
        "type": "object", "additionalProperties": false, "minProperties": 1, "maxProperties": 1,
        "properties": { "prefix": { "type": "string" }, "exact": { "type": "string" }, "regex": { "type": "string" } } }] });

short_or_table!(ValueSpec, Inner { "exact" => Exact(String), "regex" => Regex(String), "present" => Present(bool) },
    short = Exact, expects = "\"value\", { regex = \"…\" } or { present = true }",
    schema = { "anyOf": [{ "type": "string", "description": "the exact value" }, {
        "type": "object", "additionalProperties": false, "minProperties": 1, "maxProperties": 1,
        "properties": { "exact": { "type": "string" }, "regex": { "type": "string" }, "present": { "type": "boolean" } } }] });

/// The path condition, compiled.
#[derive(Debug, Clone)]
pub(crate) enum PathMatch {
    Exact(String),
    /// Without a trailing slash; empty stands for `/`, which is every path.
    Prefix(String),
    Regex(Regex),
}

#[derive(Debug, Clone)]
pub(crate) enum ValueMatch {
    Exact(String),
    Regex(Regex),
    Present(bool),
}

/// The other conditions, compiled.
#[derive(Debug, Clone, Default)]
pub(crate) struct Conditions {
    pub(crate) methods: Vec<String>,
    pub(crate) headers: Vec<(String, ValueMatch)>,
    pub(crate) query: Vec<(String, ValueMatch)>,
    pub(crate) cookies: Vec<(String, ValueMatch)>,
    pub(crate) source: Option<CidrSet>,
    pub(crate) identity: Vec<SanPattern>,
    pub(crate) country: Vec<Country>,
    /// Of a token that the rule itself takes.
    pub(crate) claims: Option<(Arc<AuthRule>, Vec<(String, ValueMatch)>)>,
}

/// A program of this size matches in linear time all the same (the engine has no backtracking).
const REGEX_SIZE: usize = 1 << 20;

pub(crate) fn compile_regex(pattern: &str, at: &Path, cx: &mut Context) -> Option<Regex> {
    match RegexBuilder::new(pattern).size_limit(REGEX_SIZE).build() {
        Ok(regex) => Some(regex),
        Err(error) => {
            let last =
                error.to_string().lines().last().unwrap_or_default().trim().trim_start_matches("error: ").to_owned();
            cx.error(at, format!("`{pattern}` is not a regular expression: {last}"));
            None
        }
    }
}

impl PathSpec {
    pub(crate) fn compile(&self, at: &Path, cx: &mut Context) -> Option<PathMatch> {
        let (text, key) = match self {
            Self::Prefix(text) => (text, "prefix"),
            Self::Exact(text) => (text, "exact"),
            Self::Regex(pattern) => return compile_regex(pattern, &at.key("regex"), cx).map(PathMatch::Regex),
        };
        let normal = match crate::normalise_path(text) {
            Ok(normal) => normal,
            Err(_) => {
                cx.error(at, format!("`{text}` is not a path")).help("a path begins with `/`");
                return None;
            }
        };
        if normal != text.as_str() {
            cx.error(&at.key(key), format!("`{text}` can never match: requests are normalised to `{normal}`"));
            return None;
        }
        Some(match self {
            Self::Exact(_) => PathMatch::Exact(text.clone()),
            _ => PathMatch::Prefix(text.trim_end_matches('/').to_owned()),
        })
    }
}

impl ValueSpec {
    fn compile(&self, at: &Path, cx: &mut Context) -> Option<ValueMatch> {
        match self {
            Self::Exact(value) => Some(ValueMatch::Exact(value.clone())),
            Self::Regex(pattern) => compile_regex(pattern, &at.key("regex"), cx).map(ValueMatch::Regex),
            Self::Present(present) => Some(ValueMatch::Present(*present)),
        }
    }
}

impl MatchSpec {
    pub(crate) fn compile(&self, at: &Path, cx: &mut Context) -> Conditions {
        let mut values = |key: &str, map: Vec<(&str, &ValueSpec)>| -> Vec<(String, ValueMatch)> {
            let at = at.key(key);
            map.into_iter()
                .filter_map(|(name, value)| Some((name.to_owned(), value.compile(&at.key(name), cx)?)))
                .collect()
        };
        Conditions {
            methods: self.methods.iter().map(|method| method.as_str().to_owned()).collect(),
            headers: values("headers", self.headers.iter().map(|(name, value)| (name.as_str(), value)).collect()),
            query: values("query", self.query.iter().map(|(name, value)| (name.as_str(), value)).collect()),
            cookies: values("cookies", self.cookies.iter().map(|(name, value)| (name.as_str(), value)).collect()),
            source: (!self.source.is_empty()).then(|| CidrSet::new(&self.source)),
            identity: self.identity.clone(),
            country: self.country.clone(),
            claims: None,
        }
    }
}

impl MatchSpec {
    /// Adds what is asked of the claims of a token that `rule` takes.
    pub(crate) fn compile_claims(
        &self,
        rule: Option<&Arc<AuthRule>>,
        conditions: &mut Conditions,
        at: &Path,
        cx: &mut Context,
    ) {
        if self.claims.is_empty() {
            return;
        }
        let at = at.key("claims");
        let claims =
            self.claims.iter().filter_map(|(name, value)| Some((name.clone(), value.compile(&at.key(name), cx)?)));
        let claims = claims.collect();
        match rule {
            Some(rule) => conditions.claims = Some((rule.clone(), claims)),
            None => {
                cx.error(&at, "no token is taken here whose claims could be matched")
                    .help("add `auth.jwt = \"NAME\"` to this rule or its route");
            }
        }
    }
}

impl PathMatch {
    pub(crate) fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == path,
            Self::Prefix(prefix) => {
                path.strip_prefix(prefix.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            Self::Regex(regex) => regex.is_match(path),
        }
    }
}

impl ValueMatch {
    fn matches(&self, value: Option<&[u8]>) -> bool {
        match (self, value) {
            (Self::Present(present), value) => value.is_some() == *present,
            (Self::Exact(exact), Some(value)) => exact.as_bytes() == value,
            (Self::Regex(regex), Some(value)) => std::str::from_utf8(value).is_ok_and(|value| regex.is_match(value)),
            (Self::Exact(_) | Self::Regex(_), None) => false,
        }
    }
}

impl Conditions {
    /// The first condition that does not hold, by name; `None` when all do.
    pub(crate) fn failing(&self, request: &impl RequestView) -> Option<&'static str> {
        if !self.methods.is_empty() && !self.methods.iter().any(|method| method == request.method()) {
            return Some("method");
        }
        if !self.headers.iter().all(|(name, value)| value.matches(request.header(name))) {
            return Some("header");
        }
        if !self.query.iter().all(|(name, value)| value.matches(query_value(request.query(), name).map(str::as_bytes)))
        {
            return Some("query");
        }
        if !self.cookies.iter().all(|(name, value)| value.matches(cookie_value(request.header("cookie"), name))) {
            return Some("cookie");
        }
        if self.source.as_ref().is_some_and(|source| !source.contains(request.client_ip())) {
            return Some("source");
        }
        if !self.identity.is_empty() {
            let holds = request.identity().is_some_and(|identity| {
                self.identity.iter().any(|pattern| {
                    identity.uris.iter().any(|uri| pattern.matches_uri(uri))
                        || identity.dns.iter().any(|name| pattern.matches_dns(name))
                })
            });
            if !holds {
                return Some("identity");
            }
        }
        if !self.country.is_empty() {
            let country = request.country();
            if !self.country.iter().any(|own| Some(own.as_str()) == country) {
                return Some("country");
            }
        }
        // Last: it may cost a signature check.
        if let Some((rule, claims)) = &self.claims {
            let token = request.token(rule);
            let claim = |name: &str| token.as_ref().and_then(|token| token.claim(name));
            if !claims.iter().all(|(name, value)| value.matches(claim(name).as_deref().map(str::as_bytes))) {
                return Some("claim");
            }
        }
        None
    }

    /// How much is asked, in the order of the Gateway API, then ours: cookies, source, identity, country, claims.
    pub(crate) fn specificity(&self) -> [usize; 8] {
        [
            usize::from(!self.methods.is_empty()),
            self.headers.len(),
            self.query.len(),
            self.cookies.len(),
            usize::from(self.source.is_some()),
            usize::from(!self.identity.is_empty()),
            usize::from(!self.country.is_empty()),
            self.claims.as_ref().map_or(0, |(_, claims)| claims.len()),
        ]
    }
}

/// The first value of a query parameter, as it stands.
pub(crate) fn query_value<'q>(query: Option<&'q str>, name: &str) -> Option<&'q str> {
    query?.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then_some(value)
    })
}

/// RFC 6265 §4.2.1.
/// The value of a cookie in a Cookie field.
pub fn cookie_value<'c>(cookies: Option<&'c [u8]>, name: &str) -> Option<&'c [u8]> {
    cookies?.split(|octet| *octet == b';').find_map(|pair| {
        let pair = pair.trim_ascii_start();
        let value = pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
        Some(value.trim_ascii_end())
    })
}
