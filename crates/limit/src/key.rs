//! What one request is counted under: the values of a limit's key parts, as bytes.

/// Each part with its length, so that no two lists of parts are written alike. Kept and refilled from request to request.
///
/// A part that a request lacks is a value of its own: all requests that lack it count together. Leaving a header field out
/// is therefore no way around a limit by that field.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Key(Vec<u8>);

impl Key {
    pub fn clear(&mut self) {
        self.0.clear();
    }

    pub fn push(&mut self, part: Option<&[u8]>) {
        let Some(part) = part else { return self.0.push(0) };
        self.0.push(1);
        self.0.extend_from_slice(&(part.len() as u64).to_le_bytes());
        self.0.extend_from_slice(part);
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl<'p> FromIterator<Option<&'p [u8]>> for Key {
    fn from_iter<I: IntoIterator<Item = Option<&'p [u8]>>>(parts: I) -> Self {
        let mut key = Self::default();
        parts.into_iter().for_each(|part| key.push(part));
        key
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_lists_of_parts_are_one_key() {
        let parts: [&[Option<&[u8]>]; 7] = [
            &[],
            &[None],
            &[Some(b"")],
            &[Some(b"ab"), Some(b"c")],
            &[Some(b"a"), Some(b"bc")],
            &[Some(b"abc")],
            &[None, Some(b"abc")],
        ];
        let keys: std::collections::HashSet<Key> = parts.iter().map(|parts| parts.iter().copied().collect()).collect();
        assert_eq!(keys.len(), parts.len());
    }
}
