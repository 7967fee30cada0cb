//! White space and nulls.

use super::is_space;

pub(super) fn is_space_or_nbsp(byte: u8) -> bool {
    is_space(byte) || byte == 0xa0
}

pub(super) fn remove(value: &[u8], unwanted: impl Fn(u8) -> bool, out: &mut Vec<u8>) -> Option<()> {
    let first = value.iter().position(|byte| unwanted(*byte))?;
    let (kept, rest) = value.split_at(first);
    out.reserve(value.len());
    out.extend_from_slice(kept);
    out.extend(rest.iter().copied().filter(|byte| !unwanted(*byte)));
    Some(())
}

/// Runs of white space become one space.
pub(super) fn compress_whitespace(value: &[u8], out: &mut Vec<u8>) -> Option<()> {
    if !value.iter().any(|byte| is_space_or_nbsp(*byte)) {
        return None;
    }
    out.reserve(value.len());
    let mut inside = false;
    for byte in value {
        match is_space_or_nbsp(*byte) {
            true if inside => {}
            true => out.push(b' '),
            false => out.push(*byte),
        }
        inside = is_space_or_nbsp(*byte);
    }
    Some(())
}

pub(super) fn replace_nulls(value: &[u8], out: &mut Vec<u8>) -> Option<()> {
    memchr::memchr(0, value)?;
    out.extend(value.iter().map(|byte| if *byte == 0 { b' ' } else { *byte }));
    Some(())
}

/// Which ends of a value lose their white space.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ends {
    Left,
    Right,
    Both,
}

pub(super) fn trimmed(value: &[u8], ends: Ends, out: &mut Vec<u8>) -> Option<()> {
    let first = match ends {
        Ends::Left | Ends::Both => value.iter().position(|byte| !is_space(*byte)).unwrap_or(value.len()),
        Ends::Right => 0,
    };
    let last = match ends {
        Ends::Right | Ends::Both => value.iter().rposition(|byte| !is_space(*byte)).map_or(0, |at| at + 1),
        Ends::Left => value.len(),
    };
    let kept = value.get(first..last.max(first)).unwrap_or_default();
    (kept.len() != value.len()).then(|| out.extend_from_slice(kept))
}
