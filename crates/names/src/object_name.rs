//! The name of a configured object: `shop` in `[route.shop]`.

use crate::text::{ParseError, text_type};
use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

/// Letters, digits, `-` and `_`, 1 to 63 of them: safe as a metric label, in a path and in a log line. Clones share.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName(Arc<str>);

text_type!(ObjectName, format = "object-name", expects = "a name of letters, digits, `-` and `_`, at most 63 of them");

impl ObjectName {
    const MAX: usize = 63;

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ObjectName {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let fits = (1..=Self::MAX).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
        if fits { Ok(Self(text.into())) } else { Err(ParseError::new(Self::EXPECTS, text)) }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for ObjectName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_and_plain() {
        for good in ["shop", "shop-v2", "A_1", &"x".repeat(63)] {
            assert!(good.parse::<ObjectName>().is_ok(), "{good}");
        }
        for bad in ["", "a b", "a.b", "é", "a/b", &"x".repeat(64)] {
            assert!(bad.parse::<ObjectName>().is_err(), "{bad}");
        }
    }
}
