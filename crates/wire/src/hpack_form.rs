//! Reads the form of header blocks (RFC 7541), not their meaning: no table is kept and no field is made. Used for blocks
//! that the codec has refused, to tell those that cannot be decoded from those with a field that cannot be.

/// What is wrong with a block, as far as it alone can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// Nothing: what is left is an index of which only the tables know.
    Sound,
    /// It cannot be decoded.
    Broken,
    /// It can, to a name or value that is none (RFC 9113 §8.2.1, §8.3).
    Malformed,
}

/// The first thing that is wrong.
pub(crate) fn form(block: &[u8]) -> Form {
    let mut reader = Reader { rest: block, has_field: false };
    while !reader.rest.is_empty() {
        match reader.field() {
            Some(Form::Sound) => {}
            Some(other) => return other,
            None => return Form::Broken,
        }
    }
    Form::Sound
}

struct Reader<'a> {
    rest: &'a [u8],
    has_field: bool,
}

/// Pseudo-header fields of requests, and the one of answers, which is a field that can be decoded.
const PSEUDO: [&[u8]; 6] = [b":method", b":scheme", b":authority", b":path", b":protocol", b":status"];
/// Of the static table (RFC 7541 appendix A): fourteen pseudo-header fields, of which `:method` has these two.
const STATIC_PSEUDO: std::ops::RangeInclusive<usize> = 1..=14;
const STATIC_METHOD: std::ops::RangeInclusive<usize> = 2..=3;
/// SETTINGS_HEADER_TABLE_SIZE, of which we say nothing.
const TABLE_MOST: usize = 4_096;
/// RFC 7541 §5.1 leaves the limit of integers to whoever reads them: the codec's is this many octets behind the prefix.
const INTEGER_OCTETS: u32 = 4;

impl Reader<'_> {
    /// One representation (RFC 7541 §6); `None` when it is none.
    fn field(&mut self) -> Option<Form> {
        let first = *self.rest.first()?;
        if first & 0xe0 == 0x20 {
            let size = self.integer(5)?;
            return (size <= TABLE_MOST && !self.has_field).then_some(Form::Sound);
        }
        self.has_field = true;
        if first & 0x80 != 0 {
            return (self.integer(7)? != 0).then_some(Form::Sound);
        }
        let index = self.integer(if first & 0x40 != 0 { 6 } else { 4 })?;
        let name = if index == 0 { Some(self.string()?) } else { None };
        let value = self.string()?;
        let name_fits = name.as_deref().is_none_or(is_name);
        let is_method = STATIC_METHOD.contains(&index) || name.as_deref() == Some(b":method");
        let is_pseudo = STATIC_PSEUDO.contains(&index) || name.as_deref().is_some_and(|name| name.starts_with(b":"));
        let value_fits = match value.as_slice() {
            method if is_method => !method.is_empty() && method.iter().all(is_token),
            text if is_pseudo => std::str::from_utf8(text).is_ok(),
            value => value.iter().all(|octet| *octet == b'\t' || (*octet >= 0x20 && *octet != 0x7f)),
        };
        Some(if name_fits && value_fits { Form::Sound } else { Form::Malformed })
    }

    fn integer(&mut self, prefix: u32) -> Option<usize> {
        let most = (1_usize << prefix) - 1;
        let mut value = usize::from(self.octet()?) & most;
        if value < most {
            return Some(value);
        }
        for place in 0..INTEGER_OCTETS {
            let octet = self.octet()?;
            value += usize::from(octet & 0x7f) << (place * 7);
            if octet & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn octet(&mut self) -> Option<u8> {
        let (octet, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*octet)
    }

    fn string(&mut self) -> Option<Vec<u8>> {
        let packed = self.rest.first()? & 0x80 != 0;
        let length = self.integer(7)?;
        let (text, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        if packed { unpack(text) } else { Some(text.to_vec()) }
    }
}

fn is_name(name: &[u8]) -> bool {
    match name {
        [b':', ..] => PSEUDO.contains(&name),
        [] => false,
        _ => name.iter().all(|octet| is_token(octet) && !octet.is_ascii_uppercase()),
    }
}

/// RFC 9110 §5.6.2.
fn is_token(octet: &u8) -> bool {
    octet.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(octet)
}

/// Huffman's code (RFC 7541 §5.2). It is a canonical one: the codes of one length follow each other in the order of their
/// symbols, and so the lengths say all.
fn unpack(packed: &[u8]) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    let (mut code, mut length) = (0_u32, 0_usize);
    for bit in packed.iter().flat_map(|octet| (0..8).rev().map(move |at| u32::from(octet >> at & 1))) {
        (code, length) = (code << 1 | bit, length + 1);
        if let Some(symbol) = symbol(code, length) {
            // The 257th is the end, which must not be there.
            text.push(u8::try_from(symbol).ok()?);
            (code, length) = (0, 0);
        }
    }
    // Padding is the begin of the end's code, and less than an octet.
    (length < 8 && code == (1 << length) - 1).then_some(text)
}

/// What has this code; `None` when it is the begin of a longer one.
fn symbol(code: u32, length: usize) -> Option<usize> {
    let count = |of: usize| LENGTHS.iter().filter(|length| usize::from(**length) == of).count();
    let first = (1..length).fold(0, |first, shorter| (first + count(shorter)) << 1);
    let nth = usize::try_from(code).ok()?.checked_sub(first)?;
    let mut same = (0..).zip(LENGTHS).filter(|(_, of)| usize::from(*of) == length);
    same.nth(nth).map(|(symbol, _)| symbol)
}

/// RFC 7541 appendix B: how many bits each octet has, and the end.
#[rustfmt::skip]
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc7541_c_strings_are_unpacked() {
        for (packed, text) in [
            ("", ""),
            ("f1e3c2e5f23a6ba0ab90f4ff", "www.example.com"),
            ("a8eb10649cbf", "no-cache"),
            ("25a849e95ba97d7f", "custom-key"),
            ("25a849e95bb8e8b4bf", "custom-value"),
            ("aec3771a4b", "private"),
            ("d07abe941054d444a8200595040b8166e082a62d1bff", "Mon, 21 Oct 2013 20:13:21 GMT"),
        ] {
            let octets: Vec<u8> =
                (0..packed.len()).step_by(2).map(|at| u8::from_str_radix(&packed[at..at + 2], 16).unwrap()).collect();
            assert_eq!(unpack(&octets).as_deref(), Some(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_block_is_told() {
        let cases: &[(&[u8], Form)] = &[
            (&[], Form::Sound),
            (&[0x82, 0x86, 0x84, 0x41, 1, b'a'], Form::Sound),
            (&[0x20, 0x3f, 0xe1, 0x1f, 0x82], Form::Sound),
            (&[0x82, 0x20], Form::Broken),
            (&[0x3f, 0xe2, 0x1f], Form::Broken),
            (&[0x80], Form::Broken),
            (&[0xff], Form::Broken),
            (&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f], Form::Broken),
            (&[0, 1, b'x'], Form::Broken),
            (&[0, 1, b'x', 9, b'v'], Form::Broken),
            (&[0, 1, b'x', 0x81, 0x18], Form::Broken),
            (&[0, 1, b'x', 0x82, 0x1f, 0xff], Form::Broken),
            (&[0, 1, b'x', 0x84, 0xff, 0xff, 0xff, 0xff], Form::Broken),
            (&[0, 1, b'x', 0x81, 0x1f], Form::Sound),
            (&[0, 1, b'X', 1, b'v'], Form::Malformed),
            (&[0, 0, 1, b'v'], Form::Malformed),
            (&[0, 1, b':', 1, b'v'], Form::Malformed),
            (&[0x40, 1, b'x', 1, b'\n'], Form::Malformed),
            (&[0x10, 1, b'x', 1, b'\t'], Form::Sound),
            (&[0x42, 1, b' '], Form::Malformed),
            (&[0x44, 1, 0xff], Form::Malformed),
            (&[0, 1, b'X', 1, b'v', 0x80], Form::Malformed),
            (&[0x80, 0, 1, b'X', 1, b'v'], Form::Broken),
        ];
        for (block, expected) in cases {
            assert_eq!(form(block), *expected, "{block:x?}");
        }
    }
}
