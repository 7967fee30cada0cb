//! An HTTP method as written in a match.

use crate::text::{ParseError, text_type};
use std::{fmt, str::FromStr};

/// A method token (RFC 9110 §9.1). Methods are case-sensitive, so lower case is refused: it is nearly always a slip.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Method(String);

text_type!(Method, format = "method", expects = "an HTTP method in capitals, like \"GET\" or \"PROPFIND\"");

impl Method {
    const MAX: usize = 32;

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Method {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let fits = (1..=Self::MAX).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_uppercase() || matches!(b, b'-' | b'_'));
        if fits { Ok(Self(text.to_owned())) } else { Err(ParseError::new(Self::EXPECTS, text)) }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
