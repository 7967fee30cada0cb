//! A share as the operator writes it: `"5%"`, `"0.1%"`.

use crate::text::{ParseError, text_type};
use std::{fmt, str::FromStr};

/// A share from 0 % to 100 %, held in millionths so that it compares and hashes exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Percent(u32);

text_type!(Percent, format = "percent", expects = "a percentage from \"0%\" to \"100%\", like \"5%\" or \"0.1%\"");

impl Percent {
    pub const ALL: Self = Self(1_000_000);
    pub const NONE: Self = Self(0);

    pub const fn from_whole(percent: u32) -> Self {
        assert!(percent <= 100, "a percentage is at most 100");
        Self(percent * 10_000)
    }

    /// The share as a fraction of one.
    /// In millionths: what an atomic can hold.
    pub const fn millionths(self) -> u32 {
        self.0
    }

    /// Back from [`Percent::millionths`]; more than the whole is the whole.
    pub const fn from_millionths(millionths: u32) -> Self {
        if millionths > Self::ALL.0 { Self::ALL } else { Self(millionths) }
    }

    pub fn fraction(self) -> f64 {
        f64::from(self.0) / 1e6
    }

    /// Whether a uniform draw from all of `u64` falls into this share.
    pub fn takes(self, draw: u64) -> bool {
        draw % 1_000_000 < u64::from(self.0)
    }
}

impl FromStr for Percent {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong = || ParseError::new(Self::EXPECTS, text);
        let number = text.strip_suffix('%').ok_or_else(|| wrong().because("the `%` is missing"))?;
        if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
            return Err(wrong());
        }
        let value: f64 = number.parse().map_err(|_| wrong())?;
        if value > 100.0 {
            return Err(wrong().because("more than 100%"));
        }
        // The cast holds: the value is between 0 and 100.
        Ok(Self((value * 10_000.0).round() as u32))
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", f64::from(self.0) / 1e4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_parse_print_and_take_their_part_of_draws() {
        for (text, millionths) in [("0%", 0), ("5%", 50_000), ("0.1%", 1_000), ("100%", 1_000_000), ("12.5%", 125_000)]
        {
            let share: Percent = text.parse().unwrap();
            assert_eq!((share.0, share.to_string().as_str()), (millionths, text));
        }
        for text in ["", "5", "%", "101%", "-1%", "5 %", "1e1%", "nan%"] {
            assert!(text.parse::<Percent>().is_err(), "{text}");
        }
        assert!(Percent::ALL.takes(u64::MAX) && !Percent::NONE.takes(0));
    }
}
