//! Escapes of JavaScript, CSS, HTML, C and SQL.

use super::unicode::low_byte;
use super::url::code_unit;
use super::{hex, hex_pair, is_space};

/// Runs `step` at every backslash; it gives the bytes to write and how much of the text after the backslash it took.
fn at_backslashes(value: &[u8], out: &mut Vec<u8>, step: impl Fn(&[u8], &mut Vec<u8>) -> usize) -> Option<()> {
    memchr::memchr(b'\\', value)?;
    out.reserve(value.len());
    let mut rest = value;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        out.extend(rest.get(..at).unwrap_or_default());
        let after = rest.get(at + 1..).unwrap_or_default();
        let taken = step(after, out);
        rest = after.get(taken..).unwrap_or_default();
    }
    out.extend(rest);
    Some(())
}

fn control_letter(letter: u8) -> Option<u8> {
    Some(match letter {
        b'a' => 0x07,
        b'b' => 0x08,
        b'f' => 0x0c,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'v' => 0x0b,
        _ => return None,
    })
}

/// `\uHHHH`, `\xHH`, octal, letters; any other escaped byte stands for itself.
pub(super) fn js_decode(value: &[u8], out: &mut Vec<u8>) -> Option<()> {
    at_backslashes(value, out, |after, out| {
        let Some(first) = after.first() else {
            out.push(b'\\');
            return 0;
        };
        let digits = after.get(1..).unwrap_or_default();
        match first {
            b'u' if code_unit(digits).is_some() => {
                out.extend(code_unit(digits).map(low_byte));
                5
            }
            b'x' if hex_pair(digits).is_some() => {
                out.extend(hex_pair(digits));
                3
            }
            b'0'..=b'7' => {
                let (byte, taken) = octal(after);
                out.push(byte);
                taken
            }
            other => {
                out.push(control_letter(*other).unwrap_or(*other));
                1
            }
        }
    })
}

/// Up to three octal digits; only two when three would pass 255.
fn octal(text: &[u8]) -> (u8, usize) {
    let digits = text.iter().take(3).take_while(|byte| matches!(byte, b'0'..=b'7')).count();
    let digits = if digits == 3 && text.first().is_some_and(|first| *first > b'3') { 2 } else { digits };
    let value = text.iter().take(digits).fold(0u8, |value, digit| value << 3 | (digit & 7));
    (value, digits)
}

/// Up to six hexadecimal digits and one white space; an escaped newline vanishes.
pub(super) fn css_decode(value: &[u8], out: &mut Vec<u8>) -> Option<()> {
    at_backslashes(value, out, |after, out| {
        let digits = after.iter().take(6).take_while(|byte| hex(**byte).is_some()).count();
        if digits == 0 {
            // An escaped newline and a last backslash are dropped; anything else stands for itself.
            out.extend(after.first().filter(|byte| **byte != b'\n'));
            return usize::from(!after.is_empty());
        }
        let nibbles = after.get(..digits).unwrap_or_default();
        let point = nibbles.iter().fold(0u32, |point, digit| point << 4 | u32::from(hex(*digit).unwrap_or(0)));
        let [_, plane, high, low] = point.to_be_bytes();
        let full_width = plane == 0 && high == 0xff && digits >= 4;
        out.push(if full_width { low_byte(u16::from_be_bytes([high, low])) } else { low });
        digits + usize::from(after.get(digits).is_some_and(|byte| is_space(*byte)))
    })
}

/// C escapes; an invalid one stays, backslash and all.
pub(super) fn escape_seq_decode(value: &[u8], out: &mut Vec<u8>) -> Option<()> {
    at_backslashes(value, out, |after, out| {
        let Some(first) = after.first() else {
            out.push(b'\\');
            return 0;
        };
        match first {
            b'\\' | b'?' | b'\'' | b'"' => {
                out.push(*first);
                1
            }
            b'x' | b'X' if hex_pair(after.get(1..).unwrap_or_default()).is_some() => {
                out.extend(hex_pair(after.get(1..).unwrap_or_default()));
                3
            }
            b'0'..=b'7' => {
                let digits = after.iter().take(3).take_while(|byte| matches!(byte, b'0'..=b'7')).count();
                let value = after.iter().take(digits).fold(0u32, |value, digit| value << 3 | u32::from(digit & 7));
                out.push((value & 0xff) as u8);
                digits
            }
            other => match control_letter(*other) {
                Some(control) => {
                    out.push(control);
                    1
                }
                None => {
                    out.extend([b'\\', *other]);
                    1
                }
            },
        }
    })
}

/// `&#DD;`, `&#xHH;` and the five names ModSecurity knows, each also without its semicolon.
pub(super) fn html_entity_decode(value: &[u8], out: &mut Vec<u8>) -> Option<()> {
    memchr::memchr(b'&', value)?;
    out.reserve(value.len());
    let mut rest = value;
    while let Some(at) = memchr::memchr(b'&', rest) {
        out.extend(rest.get(..at).unwrap_or_default());
        let after = rest.get(at + 1..).unwrap_or_default();
        let taken = match entity(after) {
            Some((byte, taken)) => {
                out.push(byte);
                taken + usize::from(after.get(taken) == Some(&b';'))
            }
            None => {
                out.push(b'&');
                0
            }
        };
        rest = after.get(taken..).unwrap_or_default();
    }
    out.extend(rest);
    Some(())
}

const ENTITIES: [(&[u8], u8); 5] = [(b"quot", b'"'), (b"amp", b'&'), (b"lt", b'<'), (b"gt", b'>'), (b"nbsp", 0xa0)];

fn entity(text: &[u8]) -> Option<(u8, usize)> {
    match text {
        [b'#', b'x' | b'X', digits @ ..] => number(digits, 16).map(|(byte, taken)| (byte, taken + 2)),
        [b'#', digits @ ..] => number(digits, 10).map(|(byte, taken)| (byte, taken + 1)),
        _ => {
            let name = text.iter().take_while(|byte| byte.is_ascii_alphanumeric()).count();
            let name = text.get(..name)?;
            let (_, byte) = ENTITIES.into_iter().find(|(known, _)| known.eq_ignore_ascii_case(name))?;
            Some((byte, name.len()))
        }
    }
}

/// Any number of digits; the low byte counts, as the C code truncates.
fn number(text: &[u8], radix: u32) -> Option<(u8, usize)> {
    let taken = text.iter().take_while(|byte| char::from(**byte).is_digit(radix)).count();
    let digits = text.get(..taken).filter(|digits| !digits.is_empty())?;
    // `strtol` saturates at LONG_MAX, whose low byte is 0xff.
    let value = digits.iter().try_fold(0i64, |value, digit| {
        value.checked_mul(i64::from(radix))?.checked_add(i64::from(char::from(*digit).to_digit(radix)?))
    });
    Some(((value.unwrap_or(i64::MAX) & 0xff) as u8, taken))
}

/// `0xHHHH` becomes its bytes.
pub(super) fn sql_hex_decode(value: &[u8], out: &mut Vec<u8>) -> Option<()> {
    memchr::memmem::find(value, b"0x").or_else(|| memchr::memmem::find(value, b"0X"))?;
    out.reserve(value.len());
    let mut rest = value;
    while let Some((first, tail)) = rest.split_first() {
        let digits = match (first, tail) {
            (b'0', [b'x' | b'X', digits @ ..]) if hex_pair(digits).is_some() => digits,
            _ => {
                out.push(*first);
                rest = tail;
                continue;
            }
        };
        rest = digits;
        while let Some(byte) = hex_pair(rest) {
            out.push(byte);
            rest = rest.get(2..).unwrap_or_default();
        }
    }
    Some(())
}
