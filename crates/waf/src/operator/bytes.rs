//! A set of bytes, for `@validateByteRange`.

/// Which of the 256 bytes are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct ByteSet([u64; 4]);

impl ByteSet {
    /// Reads `9,10,32-126`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut set = Self::default();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (low, high) = part.split_once('-').unwrap_or((part, part));
            let bound = |text: &str| {
                text.trim().parse::<u8>().map_err(|_| format!("\"{part}\" is not a range of bytes from 0 to 255"))
            };
            let (low, high) = (bound(low)?, bound(high)?);
            if low > high {
                return Err(format!("range {part} ends before it begins"));
            }
            (low..=high).for_each(|byte| set.insert(byte));
        }
        Ok(set)
    }

    pub(crate) fn insert(&mut self, byte: u8) {
        if let Some(word) = self.0.get_mut(usize::from(byte >> 6)) {
            *word |= 1 << (byte & 63);
        }
    }

    /// All bytes but letters, digits and `_`.
    pub(crate) const OUTSIDE_WORDS: Self = Self([!0x03ff_0000_0000_0000, !0x07ff_fffe_87ff_fffe, u64::MAX, u64::MAX]);

    /// Those that are not in another set.
    pub(crate) fn without(self, other: Self) -> Self {
        let [a, b, c, d] = self.0;
        let [e, f, g, h] = other.0;
        Self([a & !e, b & !f, c & !g, d & !h])
    }

    /// Every byte that is not in this set.
    pub(crate) fn inverse(self) -> Self {
        Self(self.0.map(|word| !word))
    }

    /// With both cases of every letter in it.
    pub(crate) fn fold_case(mut self) -> Self {
        for lower in b'a'..=b'z' {
            let upper = lower.to_ascii_uppercase();
            if self.contains(lower) || self.contains(upper) {
                self.insert(lower);
                self.insert(upper);
            }
        }
        self
    }

    pub(crate) fn union(self, other: Self) -> Self {
        let [a, b, c, d] = self.0;
        let [e, f, g, h] = other.0;
        Self([a | e, b | f, c | g, d | h])
    }

    pub(crate) fn common(self, other: Self) -> Self {
        self.without(other.inverse())
    }

    /// Whether a byte is in both.
    #[inline]
    pub(crate) fn meets(self, other: Self) -> bool {
        let [a, b, c, d] = self.0;
        let [e, f, g, h] = other.0;
        (a & e) | (b & f) | (c & g) | (d & h) != 0
    }

    /// The bytes that occur in a text.
    pub(crate) fn of(text: &[u8]) -> Self {
        if !text.is_ascii() {
            let mut set = Self::default();
            text.iter().for_each(|byte| set.insert(*byte));
            return set;
        }
        // Two words in registers, without a branch: every value of every request comes through here.
        let (mut low, mut high) = (0u64, 0u64);
        for byte in text {
            let [of_low, of_high] = ASCII[usize::from(byte & 127)];
            low |= of_low;
            high |= of_high;
        }
        Self([low, high, 0, 0])
    }

    pub(crate) fn contains(&self, byte: u8) -> bool {
        self.0.get(usize::from(byte >> 6)).is_some_and(|word| word >> (byte & 63) & 1 == 1)
    }
}

/// The bit of each ASCII character in the lower two words of a set.
const ASCII: [[u64; 2]; 128] = {
    let mut bits = [[0; 2]; 128];
    let mut byte = 0;
    while byte < 128 {
        bits[byte][byte >> 6] = 1 << (byte & 63);
        byte += 1;
    }
    bits
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_inclusive() {
        let set = ByteSet::parse("0, 38,44-46,255").unwrap();
        let members: Vec<u8> = (0..=255).filter(|byte| set.contains(*byte)).collect();
        assert_eq!(members, [0, 38, 44, 45, 46, 255]);
        let words = ByteSet::OUTSIDE_WORDS.inverse();
        assert!((0..=255u8).all(|byte| words.contains(byte) == (byte.is_ascii_alphanumeric() || byte == b'_')));
        for text in [&b""[..], b"az@[`?{\x7f\0", "é~€".as_bytes(), b"\xff\x80"] {
            assert!((0..=255u8).all(|byte| ByteSet::of(text).contains(byte) == text.contains(&byte)));
        }
        for wrong in ["256", "a-b", "9-1"] {
            assert!(ByteSet::parse(wrong).is_err(), "{wrong}");
        }
    }
}
