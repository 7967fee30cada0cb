//! Octets that must not be seen: wiped when dropped, and with a `Debug` that shows nothing.

use std::fmt;
use zeroize::Zeroizing;

/// There is no `Display`, `Serialize` or `PartialEq`. Who needs the octets says [`Secret::expose`], which greps well.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    pub fn new(octets: Vec<u8>) -> Self {
        Self(Zeroizing::new(octets))
    }

    /// As read from a file or variable: editors end files with a line break, which no secret has.
    pub(crate) fn from_config(octets: Vec<u8>) -> Self {
        let octets = Zeroizing::new(octets);
        let end = octets.strip_suffix(b"\n").unwrap_or(&octets);
        let end = end.strip_suffix(b"\r").unwrap_or(end);
        Self(Zeroizing::new(end.to_vec()))
    }

    pub(crate) fn concat(parts: &[&[u8]]) -> Self {
        // One allocation of the right size: a vector that grows leaves copies behind.
        let mut octets = Zeroizing::new(Vec::with_capacity(parts.iter().map(|part| part.len()).sum()));
        parts.iter().for_each(|part| octets.extend_from_slice(part));
        Self(octets)
    }

    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Whether it can stand in a header field (RFC 9110 §5.5).
    pub(crate) fn is_field_value(&self) -> bool {
        let trimmed = !self.0.is_empty() && self.0.trim_ascii().len() == self.0.len();
        trimmed && self.0.iter().all(|b| (0x20..0x7f).contains(b) || *b >= 0x80)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}
