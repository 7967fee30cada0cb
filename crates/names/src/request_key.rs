//! What requests are counted or spread by: `"client_ip"`, `"header:x-tenant"`, or several of them together.

use crate::{
    HeaderName,
    text::{ParseError, text_type},
};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de};
use std::{fmt, str::FromStr};

/// One fact of a request.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum KeyPart {
    ClientIp,
    Host,
    Path,
    Method,
    /// The verified client certificate's name.
    Identity,
    /// Who an API key or password stands for.
    Consumer,
    /// Where the client's address is.
    Country,
    Header(HeaderName),
    Cookie(String),
    Query(String),
    /// Of a verified token.
    Claim(String),
}

text_type!(
    KeyPart,
    format = "key-part",
    expects = "\"client_ip\", \"host\", \"path\", \"method\", \"identity\", \"consumer\", \"country\", \"header:NAME\", \"cookie:NAME\", \"query:NAME\" or \"claim:NAME\""
);

impl FromStr for KeyPart {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong = || ParseError::new(Self::EXPECTS, text);
        let Some((kind, name)) = text.split_once(':') else {
            return Ok(match text {
                "client_ip" => Self::ClientIp,
                "host" => Self::Host,
                "path" => Self::Path,
                "method" => Self::Method,
                "identity" => Self::Identity,
                "consumer" => Self::Consumer,
                "country" => Self::Country,
                _ => return Err(wrong()),
            });
        };
        if name.is_empty() || !name.bytes().all(|octet| octet.is_ascii_graphic()) {
            return Err(wrong().because("the name after `:` is missing or has characters that it cannot have"));
        }
        Ok(match kind {
            "header" => Self::Header(name.parse().map_err(|_| wrong().because("that is no header name"))?),
            "cookie" => Self::Cookie(name.to_owned()),
            "query" => Self::Query(name.to_owned()),
            "claim" => Self::Claim(name.to_owned()),
            _ => return Err(wrong()),
        })
    }
}

impl fmt::Display for KeyPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClientIp => f.write_str("client_ip"),
            Self::Host => f.write_str("host"),
            Self::Path => f.write_str("path"),
            Self::Method => f.write_str("method"),
            Self::Identity => f.write_str("identity"),
            Self::Consumer => f.write_str("consumer"),
            Self::Country => f.write_str("country"),
            Self::Header(name) => write!(f, "header:{name}"),
            Self::Cookie(name) => write!(f, "cookie:{name}"),
            Self::Query(name) => write!(f, "query:{name}"),
            Self::Claim(name) => write!(f, "claim:{name}"),
        }
    }
}

/// One part, or a list of parts that count together. Never empty.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(into = "Vec<KeyPart>")]
pub struct RequestKey(Vec<KeyPart>);

/// More parts than this name nothing that anybody wants to count.
const PARTS_MAX: usize = 8;

impl RequestKey {
    pub fn parts(&self) -> &[KeyPart] {
        &self.0
    }
}

impl From<KeyPart> for RequestKey {
    fn from(part: KeyPart) -> Self {
        Self(vec![part])
    }
}

impl From<RequestKey> for Vec<KeyPart> {
    fn from(key: RequestKey) -> Self {
        key.0
    }
}

impl<'de> Deserialize<'de> for RequestKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = RequestKey;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}, or a list of them", KeyPart::EXPECTS)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<RequestKey, E> {
                text.parse::<KeyPart>().map(RequestKey::from).map_err(E::custom)
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<RequestKey, A::Error> {
                let mut parts = Vec::new();
                while let Some(part) = list.next_element()? {
                    parts.push(part);
                }
                if parts.is_empty() || parts.len() > PARTS_MAX {
                    return Err(de::Error::custom(format!("a key has 1 to {PARTS_MAX} parts")));
                }
                Ok(RequestKey(parts))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for RequestKey {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "RequestKey".into()
    }
    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let part = generator.subschema_for::<KeyPart>();
        schemars::json_schema!({
            "anyOf": [part.clone(), { "type": "array", "items": part, "minItems": 1, "maxItems": PARTS_MAX }]
        })
    }
}

impl fmt::Display for RequestKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, part) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{part}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_one_part_or_a_list() {
        for (json, shown) in [
            (r#""client_ip""#, "client_ip"),
            (r#""header:X-Tenant""#, "header:x-tenant"),
            (r#"["claim:sub","path"]"#, "claim:sub,path"),
        ] {
            assert_eq!(serde_json::from_str::<RequestKey>(json).unwrap().to_string(), shown);
        }
        for bad in
            [r#""ip""#, r#""header:""#, r#""header:a b""#, r#""cookie:""#, "[]", r#"["x"]"#, "7", r#""claim:a b""#]
        {
            assert!(serde_json::from_str::<RequestKey>(bad).is_err(), "{bad}");
        }
    }
}
