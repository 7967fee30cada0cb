//! What all text types share: one error, one visitor, one schema, and the table of formats.

use std::fmt;

/// A text that is not of the grammar. `expects` says what would be; `why` says what is wrong, when more can be said.
///
/// The offending text is carried for messages; types that hold secrets never build this error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ParseError {
    pub expects: &'static str,
    pub found: String,
    pub why: Option<String>,
}

impl ParseError {
    pub(crate) fn new(expects: &'static str, found: &str) -> Self {
        Self { expects, found: clip(found), why: None }
    }

    pub(crate) fn because(mut self, why: impl Into<String>) -> Self {
        self.why = Some(why.into());
        self
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is not {}", self.found, self.expects)?;
        match &self.why {
            Some(why) => write!(f, ": {why}"),
            None => Ok(()),
        }
    }
}

/// Long input is shown by its first characters only: a message stays one line.
fn clip(text: &str) -> String {
    const SHOWN: usize = 60;
    match text.char_indices().nth(SHOWN) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text.to_owned(),
    }
}

/// Gives a `FromStr + Display` type its serde and JSON Schema faces, and its row in [`check_format`].
macro_rules! text_type {
    ($type:ty, format = $format:literal, expects = $expects:literal) => {
        impl $type {
            pub(crate) const FORMAT: &'static str = $format;
            pub(crate) const EXPECTS: &'static str = $expects;
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Visitor;
                impl serde::de::Visitor<'_> for Visitor {
                    type Value = $type;
                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str($expects)
                    }
                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$type, E> {
                        text.parse().map_err(E::custom)
                    }
                }
                deserializer.deserialize_str(Visitor)
            }
        }

        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl schemars::JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }
            fn inline_schema() -> bool {
                true
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "format": $format, "x-expects": $expects })
            }
        }
    };
}
pub(crate) use text_type;

/// Runs the parser behind a schema `format` over `text`. `None`: no such format here, nothing was checked.
pub fn check_format(format: &str, text: &str) -> Option<Result<(), ParseError>> {
    macro_rules! table {
        ($($type:ident),* $(,)?) => {
            match format {
                $(<crate::$type>::FORMAT => Some(text.parse::<crate::$type>().map(drop)),)*
                _ => None,
            }
        };
    }
    table!(
        ByteSize,
        Cidr,
        Country,
        EndpointAddress,
        HeaderName,
        HostPattern,
        KeyPart,
        ListenAddress,
        Method,
        ObjectName,
        Percent,
        Rate,
        SanPattern,
        SpiffeId,
        TimeRange,
        TimeSpan,
        TrustDomain,
    )
}
