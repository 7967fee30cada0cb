//! Paths without their detours.

/// Collapses `//`, `/./` and `x/..`; a leading `..` of a relative path stays.
pub(super) fn normalize(value: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let plain = !value.starts_with(b".")
        && memchr::memmem::find(value, b"//").is_none()
        && memchr::memmem::find(value, b"/.").is_none();
    if plain {
        return None;
    }
    let start = out.len();
    let absolute = value.starts_with(b"/");
    if absolute {
        out.push(b'/');
    }
    // Where the parts begin, and where the last `..` that stays ends.
    let root = out.len();
    let mut floor = root;
    let mut last: &[u8] = b"";
    for part in value.split(|byte| *byte == b'/') {
        last = part;
        match part {
            b"" | b"." => {}
            b".." if out.len() > floor => {
                let kept = out.get(floor..).unwrap_or_default();
                let cut = memchr::memrchr(b'/', kept).map_or(floor, |at| floor + at);
                out.truncate(cut);
            }
            b".." if absolute => {}
            _ => {
                if out.len() > root {
                    out.push(b'/');
                }
                out.extend_from_slice(part);
                if part == b".." {
                    floor = out.len();
                }
            }
        }
    }
    if last.is_empty() && out.len() > start + usize::from(absolute) {
        out.push(b'/');
    }
    Some(())
}

/// Backslashes first become slashes.
pub(super) fn normalize_windows(value: &[u8], out: &mut Vec<u8>) -> Option<()> {
    if !value.contains(&b'\\') {
        return normalize(value, out);
    }
    let slashes: Vec<u8> = value.iter().map(|byte| if *byte == b'\\' { b'/' } else { *byte }).collect();
    if normalize(&slashes, out).is_none() {
        out.extend_from_slice(&slashes);
    }
    Some(())
}
