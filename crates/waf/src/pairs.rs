//! Names with values in two allocations, however many there are: arguments, headers, cookies, parts.

use std::ops::Range;

/// An ordered multimap of bytes to bytes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pairs {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

#[derive(Debug, Clone)]
struct Entry {
    name: Range<usize>,
    value: Range<usize>,
}

impl Pairs {
    pub(crate) fn push(&mut self, name: &[u8], value: &[u8]) {
        let name = self.store(|bytes| bytes.extend_from_slice(name));
        let value = self.store(|bytes| bytes.extend_from_slice(value));
        self.entries.push(Entry { name, value });
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.entries.clear();
    }

    /// Bytes of memory held.
    pub(crate) fn kept_bytes(&self) -> usize {
        self.bytes.capacity() + self.entries.capacity() * size_of::<Entry>()
    }

    /// The pair at an index.
    pub(crate) fn at(&self, index: usize) -> Option<(&[u8], &[u8])> {
        let entry = self.entries.get(index)?;
        Some((self.bytes.get(entry.name.clone())?, self.bytes.get(entry.value.clone())?))
    }

    /// Adds a pair whose parts are written by the closures; they must only append.
    pub(crate) fn push_with(&mut self, name: impl FnOnce(&mut Vec<u8>), value: impl FnOnce(&mut Vec<u8>)) {
        let name = self.store(name);
        let value = self.store(value);
        self.entries.push(Entry { name, value });
    }

    fn store(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Range<usize> {
        let start = self.bytes.len();
        write(&mut self.bytes);
        start..self.bytes.len()
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let part = |range: &Range<usize>| self.bytes.get(range.clone()).unwrap_or_default();
        self.entries.iter().map(move |entry| (part(&entry.name), part(&entry.value)))
    }

    /// The first value of a name, in any case.
    pub(crate) fn get(&self, name: &[u8]) -> Option<&[u8]> {
        self.iter().find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// The sizes of all names and values together.
    pub(crate) fn combined_bytes(&self) -> usize {
        self.bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_repeats_are_kept() {
        let mut pairs = Pairs::default();
        pairs.push(b"A", b"1");
        pairs.push_with(|name| name.extend(b"b"), |value| value.extend(b"22"));
        pairs.push(b"a", b"3");
        assert_eq!(pairs.iter().collect::<Vec<_>>(), [(&b"A"[..], &b"1"[..]), (b"b", b"22"), (b"a", b"3")]);
        assert_eq!(
            (pairs.get(b"a"), pairs.get(b"x"), pairs.len(), pairs.combined_bytes()),
            (Some(&b"1"[..]), None, 3, 7)
        );
    }
}
