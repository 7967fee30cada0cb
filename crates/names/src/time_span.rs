//! A length of time as the operator writes it: `"250ms"`, `"5s"`, `"1h"`.

use crate::text::{ParseError, text_type};
use std::{fmt, str::FromStr, time::Duration};

/// A duration with its unit in the text. Units: `ms`, `s`, `m`, `h`, `d`. Up to ten years, so that sums never overflow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimeSpan(Duration);

text_type!(
    TimeSpan,
    format = "time-span",
    expects = "a duration with a unit, like \"250ms\", \"5s\", \"2m\", \"1h\" or \"7d\""
);

impl TimeSpan {
    pub const fn from_millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    pub const fn from_secs(secs: u64) -> Self {
        Self(Duration::from_secs(secs))
    }

    pub const fn get(self) -> Duration {
        self.0
    }

    pub fn is_zero(self) -> bool {
        self.0.is_zero()
    }
}

const MAX: Duration = Duration::from_secs(10 * 366 * 86_400);

impl FromStr for TimeSpan {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong = || ParseError::new(Self::EXPECTS, text);
        let unit_at = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(|| wrong().because("the unit is missing"))?;
        let (digits, unit) = text.split_at(unit_at);
        let count: u64 = digits.parse().map_err(|_| wrong())?;
        let millis = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(wrong().because(format!("unknown unit `{unit}`"))),
        };
        let span = count.checked_mul(millis).map(Duration::from_millis).filter(|span| *span <= MAX);
        span.map(Self).ok_or_else(|| wrong().because("more than ten years"))
    }
}

impl fmt::Display for TimeSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        for (unit, size) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)] {
            if millis != 0 && millis.is_multiple_of(size) {
                return write!(f, "{}{unit}", millis / size);
            }
        }
        write!(f, "{millis}ms")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_scale_and_print_back_in_the_largest_that_fits() {
        for (text, millis, printed) in [
            ("250ms", 250, "250ms"),
            ("5s", 5_000, "5s"),
            ("120s", 120_000, "2m"),
            ("1h", 3_600_000, "1h"),
            ("7d", 604_800_000, "7d"),
            ("0s", 0, "0ms"),
        ] {
            let span: TimeSpan = text.parse().unwrap();
            assert_eq!(span.get(), Duration::from_millis(millis), "{text}");
            assert_eq!(span.to_string(), printed);
        }
    }

    #[test]
    fn what_has_no_unit_no_number_or_no_sense_is_refused() {
        for text in ["", "5", "s", "5 s", "-5s", "1.5s", "5sec", "99999999999999999999s", "4000d"] {
            assert!(text.parse::<TimeSpan>().is_err(), "{text}");
        }
    }
}
