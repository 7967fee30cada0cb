//! The name of a header field, in lower case.

use crate::text::{ParseError, text_type};
use std::{fmt, str::FromStr};

/// A field name (RFC 9110 §5.1), kept in lower case: names compare without case, and h2 sends them so.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HeaderName(String);

text_type!(HeaderName, format = "header-name", expects = "a header field name, like \"x-request-id\"");

impl HeaderName {
    const MAX: usize = 128;

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for HeaderName {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        // RFC 9110 §5.6.2: token.
        let tchar = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        let fits = (1..=Self::MAX).contains(&text.len()) && text.bytes().all(tchar);
        if fits { Ok(Self(text.to_ascii_lowercase())) } else { Err(ParseError::new(Self::EXPECTS, text)) }
    }
}

impl fmt::Display for HeaderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn field_names_are_tokens_in_lower_case() {
        assert_eq!("X-Request-ID".parse::<HeaderName>().unwrap().as_str(), "x-request-id");
        for bad in ["", "x y", "x:", "é", ":path"] {
            assert!(bad.parse::<HeaderName>().is_err(), "{bad}");
        }
    }
}
