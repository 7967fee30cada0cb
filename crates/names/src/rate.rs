//! Events per time as the operator writes it: `"100/s"`, `"10000/h"`.

use crate::text::{ParseError, text_type};
use std::{fmt, num::NonZeroU64, str::FromStr, time::Duration};

/// So many events in one unit of time (`s`, `m`, `h`, `d`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rate {
    count: NonZeroU64,
    per_seconds: u32,
}

text_type!(Rate, format = "rate", expects = "a rate like \"100/s\", \"600/m\" or \"10000/h\"");

impl Rate {
    pub fn count(self) -> NonZeroU64 {
        self.count
    }

    pub fn per(self) -> Duration {
        Duration::from_secs(u64::from(self.per_seconds))
    }

    pub fn per_second(self) -> f64 {
        self.count.get() as f64 / f64::from(self.per_seconds)
    }
}

const UNITS: [(&str, u32); 4] = [("s", 1), ("m", 60), ("h", 3_600), ("d", 86_400)];

impl FromStr for Rate {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong = || ParseError::new(Self::EXPECTS, text);
        let (count, unit) = text.split_once('/').ok_or_else(|| wrong().because("the unit is missing"))?;
        if !count.bytes().all(|b| b.is_ascii_digit()) {
            return Err(wrong());
        }
        let count = count
            .parse::<u64>()
            .ok()
            .and_then(NonZeroU64::new)
            .ok_or_else(|| wrong().because("the count must be at least 1"))?;
        let (_, per_seconds) = UNITS
            .iter()
            .find(|(name, _)| *name == unit)
            .ok_or_else(|| wrong().because(format!("unknown unit `{unit}`")))?;
        Ok(Self { count, per_seconds: *per_seconds })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = UNITS.iter().find(|(_, seconds)| *seconds == self.per_seconds).map_or("s", |(name, _)| name);
        write!(f, "{}/{unit}", self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_need_a_count_and_a_known_unit() {
        let rate: Rate = "600/m".parse().unwrap();
        assert_eq!((rate.per_second(), rate.to_string().as_str()), (10.0, "600/m"));
        for text in ["", "100", "0/s", "/s", "+1/s", "1/w", "1.5/s"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }
}
