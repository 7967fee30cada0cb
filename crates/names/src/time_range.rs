//! A shortest and a longest time: `"25ms..250ms"`.

use crate::{
    TimeSpan,
    text::{ParseError, text_type},
};
use std::{fmt, str::FromStr, time::Duration};

/// From one time to another that is not shorter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TimeRange {
    from: TimeSpan,
    to: TimeSpan,
}

text_type!(TimeRange, format = "time-range", expects = "two times like \"25ms..250ms\"");

impl TimeRange {
    pub fn from(self) -> Duration {
        self.from.get()
    }

    pub fn to(self) -> Duration {
        self.to.get()
    }
}

impl FromStr for TimeRange {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong = || ParseError::new(Self::EXPECTS, text);
        let (from, to) = text.split_once("..").ok_or_else(wrong)?;
        let range = Self { from: from.parse().map_err(|_| wrong())?, to: to.parse().map_err(|_| wrong())? };
        if range.from() > range.to() {
            return Err(wrong().because("the first is longer than the second"));
        }
        Ok(range)
    }
}

impl fmt::Display for TimeRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.from, self.to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_go_upwards() {
        let range: TimeRange = "25ms..250ms".parse().unwrap();
        assert_eq!((range.from().as_millis(), range.to().as_millis()), (25, 250));
        assert_eq!(range.to_string(), "25ms..250ms");
        for bad in ["", "25ms", "25ms..", "..1s", "1s..1ms", "1..2", "1s...2s"] {
            assert!(bad.parse::<TimeRange>().is_err(), "{bad}");
        }
    }
}
