//! Percent encoding.

use super::unicode::UnicodeMap;
use super::{hex, hex_pair};

/// `%HH` and `+`; what is not valid stays as it is. The same reading as for form fields.
pub(super) fn decode(value: &[u8], out: &mut Vec<u8>) -> Option<()> {
    memchr::memchr2(b'%', b'+', value)?;
    out.reserve(value.len());
    decode_form(value, out);
    Some(())
}

/// Decodes a form field; says how many invalid escapes stood in it.
pub(crate) fn decode_form(value: &[u8], decoded: &mut Vec<u8>) -> usize {
    let (mut rest, mut invalid) = (value, 0);
    while let Some((byte, tail)) = rest.split_first() {
        rest = tail;
        match (byte, hex_pair(tail)) {
            (b'%', Some(pair)) => {
                decoded.push(pair);
                rest = tail.get(2..).unwrap_or_default();
            }
            (b'%', None) => {
                invalid += 1;
                decoded.push(b'%');
            }
            (b'+', _) => decoded.push(b' '),
            (other, _) => decoded.push(*other),
        }
    }
    invalid
}

/// Decodes a path: `+` is no space there.
pub(crate) fn decode_path(path: &[u8], decoded: &mut Vec<u8>) {
    let mut rest = path;
    while let Some((byte, tail)) = rest.split_first() {
        let pair = hex_pair(tail).filter(|_| *byte == b'%');
        decoded.push(pair.unwrap_or(*byte));
        rest = if pair.is_some() { tail.get(2..).unwrap_or_default() } else { tail };
    }
}

/// Also `%uHHHH`, as old IIS reads it.
pub(super) fn decode_unicode(value: &[u8], map: &UnicodeMap, out: &mut Vec<u8>) -> Option<()> {
    memchr::memchr2(b'%', b'+', value)?;
    out.reserve(value.len());
    let mut rest = value;
    while let Some((byte, tail)) = rest.split_first() {
        let (produced, taken) = match byte {
            b'%' => match tail.first() {
                Some(b'u' | b'U') => match code_unit(tail.get(1..).unwrap_or_default()) {
                    Some(unit) => (map.best_fit(unit), 5),
                    None => (b'%', 0),
                },
                Some(_) | None => hex_pair(tail).map_or((b'%', 0), |pair| (pair, 2)),
            },
            b'+' => (b' ', 0),
            other => (*other, 0),
        };
        out.push(produced);
        rest = tail.get(taken..).unwrap_or_default();
    }
    Some(())
}

/// Four hexadecimal digits.
pub(super) fn code_unit(text: &[u8]) -> Option<u16> {
    let digits = text.get(..4)?;
    digits.iter().try_fold(0u16, |unit, digit| Some(unit << 4 | u16::from(hex(*digit)?)))
}

/// Letters, digits and `*` stay, a space becomes `+`.
pub(super) fn encode(value: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| DIGITS.get(usize::from(nibble)).copied().unwrap_or(b'0');
    out.reserve(value.len());
    for byte in value {
        match byte {
            b' ' => out.push(b'+'),
            b'*' => out.push(b'*'),
            byte if byte.is_ascii_alphanumeric() => out.push(*byte),
            byte => out.extend([b'%', digit(byte >> 4), digit(byte & 15)]),
        }
    }
}

/// Whether every `%` begins a valid escape.
pub(crate) fn is_valid_percent_encoding(value: &[u8]) -> bool {
    memchr::memchr_iter(b'%', value).all(|at| hex_pair(value.get(at + 1..).unwrap_or_default()).is_some())
}
