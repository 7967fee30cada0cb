//! A number of octets as the operator writes it: `"16KiB"`, `"10MiB"`.

use crate::text::{ParseError, text_type};
use std::{fmt, str::FromStr};

/// A size in octets. Units: `B`, `KiB`, `MiB`, `GiB`, `TiB` (powers of 1024) and `kB`, `MB`, `GB`, `TB` (powers of 1000).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(u64);

text_type!(ByteSize, format = "byte-size", expects = "a size with a unit, like \"512B\", \"16KiB\" or \"10MiB\"");

const UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("kB", 1_000),
    ("B", 1),
];

impl ByteSize {
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    pub const fn from_kib(kib: u64) -> Self {
        Self(kib << 10)
    }

    pub const fn from_mib(mib: u64) -> Self {
        Self(mib << 20)
    }

    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// For buffers: the size as `usize`, saturating where addresses are narrower.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl FromStr for ByteSize {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong = || ParseError::new(Self::EXPECTS, text);
        let unit_at = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(|| wrong().because("the unit is missing"))?;
        let (digits, unit) = text.split_at(unit_at);
        let count: u64 = digits.parse().map_err(|_| wrong())?;
        let Some((_, scale)) = UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(wrong().because(format!("unknown unit `{unit}`")));
        };
        count.checked_mul(*scale).map(Self).ok_or_else(|| wrong().because("too large"))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = UNITS
            .iter()
            .find(|(name, scale)| (name.contains('i') || *scale == 1) && self.0 != 0 && self.0.is_multiple_of(*scale));
        match unit {
            Some((name, scale)) => write!(f, "{}{name}", self.0 / scale),
            None => write!(f, "{}B", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_scale_by_their_unit() {
        for (text, bytes, printed) in [
            ("512B", 512, "512B"),
            ("16KiB", 16_384, "16KiB"),
            ("1kB", 1_000, "1000B"),
            ("10MiB", 10 << 20, "10MiB"),
            ("0B", 0, "0B"),
        ] {
            let size: ByteSize = text.parse().unwrap();
            assert_eq!((size.bytes(), size.to_string().as_str()), (bytes, printed), "{text}");
        }
        for text in ["", "16", "KiB", "16 KiB", "16k", "1.5MiB", "-1B", "99999999999TiB"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }
}
