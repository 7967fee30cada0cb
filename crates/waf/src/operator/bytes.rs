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

    pub(crate) fn contains(&self, byte: u8) -> bool {
        self.0.get(usize::from(byte >> 6)).is_some_and(|word| word >> (byte & 63) & 1 == 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_inclusive() {
        let set = ByteSet::parse("0, 38,44-46,255").unwrap();
        let members: Vec<u8> = (0..=255).filter(|byte| set.contains(*byte)).collect();
        assert_eq!(members, [0, 38, 44, 45, 46, 255]);
        for wrong in ["256", "a-b", "9-1"] {
            assert!(ByteSet::parse(wrong).is_err(), "{wrong}");
        }
    }
}
