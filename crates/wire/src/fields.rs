//! Header sections: where they end, and every line of them held to `name: value`.

use crate::{Cursor, Refusal};

/// Where one field stands in its buffer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Field {
    pub(crate) name: (usize, usize),
    pub(crate) value: (usize, usize),
}

/// The offset behind the empty line that ends the section, once it is there.
pub(crate) fn find_end(buf: &[u8], from: usize, cursor: &mut Cursor, limit: usize) -> Result<Option<usize>, Refusal> {
    let start = cursor.searched.max(from);
    for at in memchr::memchr_iter(b'\n', buf.get(start..).unwrap_or_default()).map(|at| at + start) {
        if at == 0 || buf.get(at - 1) != Some(&b'\r') {
            return Err(Refusal::BareLf);
        }
        if at >= limit {
            return Err(Refusal::HeadTooLarge);
        }
        cursor.searched = at + 1;
        if at >= from + 3 && buf.get(at - 3..at) == Some(b"\r\n\r") {
            return Ok(Some(at + 1));
        }
        if at == from + 1 {
            return Err(Refusal::EmptyLines);
        }
    }
    if buf.len() > limit {
        return Err(Refusal::HeadTooLarge);
    }
    cursor.searched = cursor.searched.max(buf.len().saturating_sub(1)).max(from);
    Ok(None)
}

/// Octets before the first CRLF.
pub(crate) fn line_len(buf: &[u8]) -> usize {
    memchr::memchr(b'\n', buf).map_or(buf.len(), |at| at.saturating_sub(1))
}

/// Calls `see` for every field between `from` and the section's `end`.
pub(crate) fn each(
    buf: &[u8],
    from: usize,
    end: usize,
    most: usize,
    mut see: impl FnMut(Field) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    let mut at = from;
    let mut count = 0;
    while at + 2 < end {
        let rest = buf.get(at..end).unwrap_or_default();
        let len = line_len(rest);
        count += 1;
        if count > most {
            return Err(Refusal::TooManyFields);
        }
        see(field(rest.get(..len).unwrap_or_default(), at)?)?;
        at += len + 2;
    }
    Ok(())
}

fn field(line: &[u8], at: usize) -> Result<Field, Refusal> {
    if matches!(line.first(), Some(b' ' | b'\t')) {
        return Err(Refusal::ObsFold);
    }
    let colon = line.iter().position(|b| !TOKEN[usize::from(*b)]).ok_or(Refusal::NoColon)?;
    match line.get(colon) {
        Some(b':') if colon > 0 => {}
        Some(b' ' | b'\t') => return Err(Refusal::SpaceBeforeColon),
        Some(b'\r') => return Err(Refusal::BareCr),
        _ => return Err(Refusal::BadFieldName),
    }
    let value = line.get(colon + 1..).unwrap_or_default();
    if let Some(bad) = value.iter().find(|b| !VALUE[usize::from(**b)]) {
        return Err(if *bad == b'\r' { Refusal::BareCr } else { Refusal::BadFieldValue });
    }
    let front = value.iter().take_while(|b| matches!(b, b' ' | b'\t')).count();
    let back = value.iter().rev().take_while(|b| matches!(b, b' ' | b'\t')).count();
    let start = at + colon + 1 + front;
    let end = (at + line.len()).saturating_sub(back).max(start);
    Ok(Field { name: (at, at + colon), value: (start, end) })
}

/// Digits only, and they fit (RFC 9110 §8.6; no list, no sign, no white space inside).
pub(crate) fn content_length(value: &[u8]) -> Result<u64, Refusal> {
    if value.is_empty() || value.len() > 19 {
        return Err(Refusal::BadContentLength);
    }
    value.iter().try_fold(0_u64, |length, digit| {
        if !digit.is_ascii_digit() {
            return Err(Refusal::BadContentLength);
        }
        length
            .checked_mul(10)
            .and_then(|length| length.checked_add(u64::from(digit - b'0')))
            .ok_or(Refusal::BadContentLength)
    })
}

/// RFC 9110 §5.6.2.
pub(crate) const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut octet = 0;
    while octet < 128 {
        let b = octet as u8;
        table[octet] = b.is_ascii_alphanumeric()
            || matches!(
                b,
                b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
            );
        octet += 1;
    }
    table
};

/// RFC 9110 §5.5: visible octets, space, tab, and obs-text.
const VALUE: [bool; 256] = {
    let mut table = [false; 256];
    let mut octet = 0;
    while octet < 256 {
        table[octet] = octet == 0x09 || (octet >= 0x20 && octet != 0x7f);
        octet += 1;
    }
    table
};

/// A trailer line: a field like any other, but none that frames, routes, authenticates or alters the message
/// (RFC 9110 §6.5.1), because a reader that merges trailers into the head would act on it.
pub(crate) fn trailer(line: &[u8]) -> Result<(), Refusal> {
    let field = field(line, 0).map_err(|_| Refusal::BadTrailer)?;
    let name = line.get(field.name.0..field.name.1).unwrap_or_default();
    let forbidden = FORBIDDEN_TRAILERS.iter().any(|forbidden| name.eq_ignore_ascii_case(forbidden.as_bytes()));
    if forbidden { Err(Refusal::BadTrailer) } else { Ok(()) }
}

const FORBIDDEN_TRAILERS: [&str; 20] = [
    "authorization",
    "cache-control",
    "connection",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "cookie",
    "expect",
    "forwarded",
    "host",
    "max-forwards",
    "proxy-authorization",
    "range",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-forwarded-for",
];
