//! Finds which literals of a set occur in a text, whatever their case.
//!
//! An automaton of thousands of literals takes megabytes, and each byte of a text waits for a line of memory that the one
//! before it named. Here each byte asks one bit of a map that stays in the first cache, and no byte waits for another: whether the
//! last three bytes, told apart in 64 classes, are the rarest three of a literal. Where they are, the literals are compared.

use super::factors::{WINDOW_BYTES, weight};
use crate::operator::ByteSet;
use std::collections::BTreeMap;

/// Bits of a class of bytes.
const CLASS_BITS: usize = 6;
const CLASSES: usize = 1 << CLASS_BITS;
/// Three classes.
const GRAM_BITS: usize = 3 * CLASS_BITS;
const GRAMS: usize = 1 << GRAM_BITS;
const WORDS: usize = GRAMS / 64;

/// The class of each byte: letters without their case, digits in three groups, every other printable character on its own,
/// the control characters (and what stands before a text) together, and all that is not ASCII.
const CLASS: [u8; 256] = {
    let mut classes = [0; 256];
    let (mut byte, mut next) = (0, 30);
    while byte < 256 {
        let at = byte as u8;
        classes[byte] = match at {
            b'a'..=b'z' => at - b'a' + 1,
            b'A'..=b'Z' => at - b'A' + 1,
            b'0'..=b'9' => 27 + (at - b'0') / 4,
            b' '..=b'~' => {
                next += 1;
                next - 1
            }
            0x80.. => 63,
            _ => 0,
        };
        byte += 1;
    }
    assert!(next == 63, "every class has its place");
    classes
};

/// A set of literals, each with the numbers that belong to it.
#[derive(Debug)]
pub(super) struct Grams {
    /// Single bytes need no search: the bytes of a text are known.
    singles: Vec<(ByteSet, Box<[u16]>)>,
    single_bytes: ByteSet,
    /// Whom each literal belongs to.
    owners: Vec<Box<[u16]>>,
    /// Which grams are the key of a literal.
    map: Box<[u64; WORDS]>,
    /// How many bits of the map are set before each word.
    before: Box<[u32]>,
    /// For each gram that is set, from where on its literals stand in `entries`; one more at the end.
    starts: Box<[u32]>,
    entries: Box<[Entry]>,
}

/// A literal as it stands at a key: all that a comparison needs, so that one line of memory serves several.
#[derive(Debug, Clone, Copy)]
struct Entry {
    /// Its bytes, the first one lowest, in lower case.
    wanted: u64,
    /// What makes a letter of a text one of lower case, where `wanted` has a letter.
    fold: u64,
    /// Its place in `owners`.
    number: u32,
    length: u8,
    /// How many of its bytes have passed when its key has.
    passed: u8,
}

const _: () = assert!(WINDOW_BYTES < size_of::<u64>(), "a literal is compared as one number");

impl Grams {
    /// `owners` by literal; literals are in lower case.
    pub(super) fn new(owners: BTreeMap<&[u8], Vec<u16>>) -> Self {
        let mut this = Self {
            singles: Vec::new(),
            single_bytes: ByteSet::default(),
            owners: Vec::new(),
            map: vec![0; WORDS].try_into().unwrap_or_else(|_| Box::new([0; WORDS])),
            before: Box::default(),
            starts: Box::default(),
            entries: Box::default(),
        };
        let mut lists: BTreeMap<usize, Vec<Entry>> = BTreeMap::new();
        for (text, owners) in owners {
            // The beginning of a longer one stands for it: what is found is a candidate, no more.
            let text = text.get(..WINDOW_BYTES).unwrap_or(text);
            let owners = owners.into_boxed_slice();
            if let [byte] = text {
                let both = ByteSet::of(&[*byte]).fold_case();
                this.single_bytes = this.single_bytes.union(both);
                this.singles.push((both, owners));
                continue;
            }
            let number = u32::try_from(this.owners.len()).unwrap_or(u32::MAX);
            match text {
                [first, second] => {
                    // Whatever stands before it.
                    for any in 0..CLASSES {
                        let gram = any << (2 * CLASS_BITS) | class(*first) << CLASS_BITS | class(*second);
                        lists.entry(gram).or_default().push(Entry::new(text, 2, number));
                    }
                }
                _ => {
                    let keys = text.windows(3).enumerate().filter_map(|(at, key)| Some((at, key, gram(key)?)));
                    // Rare ones first, and such as few others have.
                    let rarity = |key: &[u8], gram: usize| {
                        i64::from(weight(key)) * 2
                            - lists.get(&gram).map_or(0, |list| i64::try_from(list.len()).unwrap_or(i64::MAX / 2))
                    };
                    let Some((at, _, gram)) = keys.max_by_key(|(_, key, gram)| rarity(key, *gram)) else { continue };
                    lists.entry(gram).or_default().push(Entry::new(text, at + 3, number));
                }
            }
            this.owners.push(owners);
        }
        this.index(&lists);
        this
    }

    fn index(&mut self, lists: &BTreeMap<usize, Vec<Entry>>) {
        for gram in lists.keys() {
            if let Some(word) = self.map.get_mut(gram / 64) {
                *word |= 1 << (gram % 64);
            }
        }
        let mut count = 0;
        let before = self.map.iter().map(|word| {
            count += word.count_ones();
            count - word.count_ones()
        });
        self.before = before.collect();
        let mut end = 0;
        let ends = lists.values().map(|list| {
            end += u32::try_from(list.len()).unwrap_or(0);
            end
        });
        self.starts = std::iter::once(0).chain(ends).collect();
        self.entries = lists.values().flatten().copied().collect();
    }

    /// Tells the owners of every literal that occurs, some of them more than once; `present` are the bytes of the text.
    #[inline]
    pub(super) fn each_match(&self, text: &[u8], present: ByteSet, mut found: impl FnMut(&[u16])) {
        if self.single_bytes.meets(present) {
            for (_, owners) in self.singles.iter().filter(|(bytes, _)| bytes.meets(present)) {
                found(owners);
            }
        }
        let last = last_bytes(text);
        let mut gram = 0;
        for (at, byte) in text.iter().enumerate() {
            gram = (gram << CLASS_BITS | class(*byte)) & (GRAMS - 1);
            let word = self.map[gram / 64];
            if word >> (gram % 64) & 1 == 1 {
                self.compare(text, last, at, gram, &mut found);
            }
        }
    }

    /// The literals whose key ends at `at`.
    #[inline(never)]
    fn compare(&self, text: &[u8], last: u64, at: usize, gram: usize, found: &mut impl FnMut(&[u16])) {
        let below = self.map[gram / 64] & ((1 << (gram % 64)) - 1);
        let rank = self.before.get(gram / 64).copied().unwrap_or(0) + below.count_ones();
        let place = |rank: u32| self.starts.get(rank as usize).copied().unwrap_or(0) as usize;
        for entry in self.entries.get(place(rank)..place(rank + 1)).unwrap_or_default() {
            let Some(start) = (at + 1).checked_sub(usize::from(entry.passed)) else { continue };
            if entry.is_at(bytes_from(text, last, start)) && start + usize::from(entry.length) <= text.len() {
                found(self.owners.get(entry.number as usize).map_or(&[], |owners| owners));
            }
        }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let owners: usize = self.owners.iter().map(|owners| size_of_val(&**owners)).sum();
        owners
            + self.owners.len() * size_of::<Box<[u16]>>()
            + size_of_val(&*self.map)
            + size_of_val(&*self.before)
            + size_of_val(&*self.starts)
            + size_of_val(&*self.entries)
    }
}

impl Entry {
    fn new(text: &[u8], passed: usize, number: u32) -> Self {
        let (mut wanted, mut fold) = (0, 0);
        for (place, byte) in text.iter().enumerate() {
            wanted |= u64::from(*byte) << (8 * place);
            fold |= if byte.is_ascii_lowercase() { 0x20 << (8 * place) } else { 0 };
        }
        let small = |count: usize| u8::try_from(count).unwrap_or(u8::MAX);
        Self { wanted, fold, number, length: small(text.len()), passed: small(passed) }
    }

    /// Whether it stands at the beginning of `bytes`, the first one lowest.
    #[inline]
    fn is_at(&self, bytes: u64) -> bool {
        let own = (1 << (8 * u32::from(self.length))) - 1;
        (bytes | self.fold) & own == self.wanted
    }
}

/// The last eight bytes of a text, the first one lowest; nought stands for what is before its beginning.
#[inline]
fn last_bytes(text: &[u8]) -> u64 {
    match text.last_chunk::<8>() {
        Some(bytes) => u64::from_le_bytes(*bytes),
        None => text.iter().fold(0, |bytes, byte| bytes >> 8 | u64::from(*byte) << 56),
    }
}

/// Eight bytes from `start` on, which is within the text; nought stands for what is behind its end.
#[inline]
fn bytes_from(text: &[u8], last: u64, start: usize) -> u64 {
    match text.get(start..).and_then(|rest| rest.first_chunk::<8>()) {
        Some(bytes) => u64::from_le_bytes(*bytes),
        // 1 to 7 of them are behind the end, as `start` is not.
        None => last >> (8 * ((start + 8).saturating_sub(text.len()) & 7)),
    }
}

#[inline]
fn class(byte: u8) -> usize {
    usize::from(CLASS[usize::from(byte)])
}

fn gram(bytes: &[u8]) -> Option<usize> {
    let [first, second, third] = bytes else { return None };
    Some(class(*first) << (2 * CLASS_BITS) | class(*second) << CLASS_BITS | class(*third))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(literals: &[&str], text: &[u8]) -> Vec<u16> {
        let owners = literals.iter().zip(0..).map(|(literal, number)| (literal.as_bytes(), vec![number])).collect();
        let mut all = Vec::new();
        Grams::new(owners).each_match(text, ByteSet::of(text), |owners| all.extend(owners));
        all.sort_unstable();
        all.dedup();
        all
    }

    #[test]
    fn literals_of_every_length_are_found_wherever_they_stand() {
        let literals = ["'", "--", "or", "/*!", "sleep", "system", "\u{e9}"];
        for (text, expected) in [
            ("", &[][..]),
            ("a name", &[]),
            ("o'neil", &[0]),
            ("--", &[1]),
            ("x--", &[1]),
            ("OR", &[2]),
            ("for me", &[2]),
            ("/*!", &[3]),
            ("select/*!50000", &[3]),
            ("Sleep", &[4]),
            ("slee", &[]),
            ("leep", &[]),
            ("asleep--'", &[0, 1, 4]),
            ("SYSTEM or not", &[2, 5]),
            ("syste", &[]),
            ("caf\u{e9}", &[6]),
            ("caf\u{e8}", &[]),
        ] {
            assert_eq!(found(&literals, text.as_bytes()), expected, "{text}");
        }
    }

    /// Digits share classes, control characters and foreign letters do: what differs within one is compared.
    #[test]
    fn what_shares_a_class_is_told_apart() {
        assert_eq!(found(&["a0b", "1\r\n"], b"a1b 1\n\r"), [0; 0]);
        assert_eq!(found(&["a0b", "1\r\n"], b"a0b 1\r\n"), [0, 1]);
    }

    /// Against the plain way, over texts of few different bytes.
    #[test]
    fn it_finds_what_a_plain_search_finds() {
        let literals = ["ab", "bab", "aab'", "b", "abba", "'a'", "aaaaaa", "ba\u{0}", "a9"];
        let alphabet = b"abAB'\x009\xff";
        let mut random = 1u64;
        for _ in 0..4_000 {
            let mut text = Vec::new();
            for _ in 0..(random >> 60) {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                text.push(alphabet[(random >> 40) as usize % alphabet.len()]);
            }
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let low = text.to_ascii_lowercase();
            let plain = literals.iter().zip(0u16..);
            let plain = plain.filter(|(literal, _)| low.windows(literal.len()).any(|own| own == literal.as_bytes()));
            let mut plain: Vec<u16> = plain.map(|(_, number)| number).collect();
            plain.sort_unstable();
            assert_eq!(found(&literals, &text), plain, "{text:?}");
        }
    }
}
