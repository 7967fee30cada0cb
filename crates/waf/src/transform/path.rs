//! Paths without their detours.

/// Collapses `//`, `/./` and `x/..`; a leading `..` of a relative path stays.
pub(super) fn normalize(value: &[u8]) -> Option<Vec<u8>> {
    let plain = !value.starts_with(b".")
        && memchr::memmem::find(value, b"//").is_none()
        && memchr::memmem::find(value, b"/.").is_none();
    if plain {
        return None;
    }
    let absolute = value.starts_with(b"/");
    let mut kept: Vec<&[u8]> = Vec::new();
    let mut last: &[u8] = b"";
    for part in value.split(|byte| *byte == b'/') {
        last = part;
        match part {
            b"" | b"." => {}
            b".." if !absolute && kept.last().is_none_or(|last| *last == b"..") => kept.push(part),
            b".." => {
                kept.pop();
            }
            _ => kept.push(part),
        }
    }
    let mut path = if absolute { b"/".to_vec() } else { Vec::new() };
    path.extend(kept.join(&b"/"[..]));
    if last.is_empty() && !kept.is_empty() {
        path.push(b'/');
    }
    Some(path)
}

/// Backslashes first become slashes.
pub(super) fn normalize_windows(value: &[u8]) -> Option<Vec<u8>> {
    if !value.contains(&b'\\') {
        return normalize(value);
    }
    let slashes: Vec<u8> = value.iter().map(|byte| if *byte == b'\\' { b'/' } else { *byte }).collect();
    Some(normalize(&slashes).unwrap_or(slashes))
}
