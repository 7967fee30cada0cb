//! Code points that servers fold into single bytes, and UTF-8 written as `%u` escapes.

use std::collections::HashMap;

/// How code points beyond a byte are folded into one: the table of `SecUnicodeMapFile`.
#[derive(Debug, Clone, Default)]
pub(crate) struct UnicodeMap {
    table: HashMap<u16, u8>,
}

impl UnicodeMap {
    /// Reads the section of one code page: lines of `hhhh:bb` pairs after a line that begins with its number.
    pub(crate) fn parse(text: &str, code_page: u32) -> Result<Self, String> {
        let wanted = code_page.to_string();
        let mut lines = text.lines();
        lines
            .by_ref()
            .find(|line| line.split(|char: char| !char.is_ascii_digit()).next() == Some(wanted.as_str()))
            .ok_or_else(|| format!("the map holds no code page {code_page}"))?;
        let pairs = lines.next().unwrap_or_default().split_ascii_whitespace();
        let table = pairs
            .filter_map(|pair| pair.split_once(':'))
            .filter_map(|(from, to)| Some((u16::from_str_radix(from, 16).ok()?, u8::from_str_radix(to, 16).ok()?)))
            .collect();
        Ok(Self { table })
    }

    /// The byte a server would see. Without a table: full-width forms become ASCII, else the low byte counts.
    pub(crate) fn best_fit(&self, unit: u16) -> u8 {
        self.table.get(&unit).copied().unwrap_or_else(|| low_byte(unit))
    }
}

/// The low byte, with full-width ASCII (U+FF01 to U+FF5E) folded.
pub(super) fn low_byte(unit: u16) -> u8 {
    let [high, low] = unit.to_be_bytes();
    if high == 0xff && low > 0 && low < 0x5f { low.wrapping_add(0x20) } else { low }
}

/// Every valid sequence beyond ASCII becomes `%uhhhh`; bytes that are not UTF-8 stay.
pub(super) fn utf8_to_unicode(value: &[u8], out: &mut Vec<u8>) -> Option<()> {
    if value.is_ascii() {
        return None;
    }
    out.reserve(value.len());
    for chunk in value.utf8_chunks() {
        for char in chunk.valid().chars() {
            match u8::try_from(char) {
                Ok(byte) if byte.is_ascii() => out.push(byte),
                Ok(_) | Err(_) => out.extend(format!("%u{:04x}", u32::from(char)).bytes()),
            }
        }
        out.extend(chunk.invalid());
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_file_is_read_by_code_page() {
        let text = "(c) someone\n\n20127 (US-ASCII)\n00a0:20 0107:63\n\n1250\n00a1:21\n";
        let map = UnicodeMap::parse(text, 20127).unwrap();
        assert_eq!((map.best_fit(0x0107), map.best_fit(0x00a1), map.best_fit(0xff1c)), (b'c', 0xa1, b'<'));
        assert!(UnicodeMap::parse(text, 437).is_err());
    }
}
