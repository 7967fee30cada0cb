//! What shells and interpreters skip: quoting marks and comments.

/// Removes `\ " ' ^`, turns `, ;` and runs of white space into one space, drops spaces before `/` and `(`, lowers case.
pub(super) fn cmd_line(value: &[u8]) -> Option<Vec<u8>> {
    let plain = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'.');
    if value.iter().all(plain) {
        return None;
    }
    let mut line = Vec::with_capacity(value.len());
    let mut space = false;
    for byte in value {
        match byte {
            b'\\' | b'"' | b'\'' | b'^' => {}
            b' ' | b',' | b';' | b'\t' | b'\r' | b'\n' => {
                if !space {
                    line.push(b' ');
                    space = true;
                }
            }
            b'/' | b'(' => {
                if space {
                    line.pop();
                }
                space = false;
                line.push(*byte);
            }
            other => {
                line.push(other.to_ascii_lowercase());
                space = false;
            }
        }
    }
    Some(line)
}

/// Every `/* ... */` becomes one space, also one that never ends.
pub(super) fn replace_comments(value: &[u8]) -> Option<Vec<u8>> {
    memchr::memmem::find(value, b"/*")?;
    let mut kept = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some(start) = memchr::memmem::find(rest, b"/*") {
        kept.extend(rest.get(..start).unwrap_or_default());
        kept.push(b' ');
        let inside = rest.get(start + 2..).unwrap_or_default();
        rest = memchr::memmem::find(inside, b"*/").and_then(|end| inside.get(end + 2..)).unwrap_or_default();
    }
    kept.extend(rest);
    Some(kept)
}

/// Removes the marks themselves: `/*`, `*/`, `<!--`, `-->`, `--` and `#`.
pub(super) fn remove_comment_marks(value: &[u8]) -> Option<Vec<u8>> {
    let suspicious = |byte: &u8| matches!(byte, b'*' | b'-' | b'#');
    if !value.iter().any(suspicious) {
        return None;
    }
    let mut kept = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some((first, tail)) = rest.split_first() {
        rest = match (first, tail) {
            (b'<', [b'!', b'-', b'-', after @ ..]) | (b'-', [b'-', b'>', after @ ..]) => after,
            (b'/', [b'*', after @ ..]) | (b'*', [b'/', after @ ..]) | (b'-', [b'-', after @ ..]) => after,
            (b'#', _) => tail,
            _ => {
                kept.push(*first);
                tail
            }
        };
    }
    Some(kept)
}

/// Removes comments with their text; an open one, `--` and `#` end the value with a space.
pub(super) fn remove_comments(value: &[u8]) -> Option<Vec<u8>> {
    let suspicious = |byte: &u8| matches!(byte, b'/' | b'-' | b'#' | b'<');
    if !value.iter().any(suspicious) {
        return None;
    }
    let mut kept = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some((first, tail)) = rest.split_first() {
        let comment =
            [(&b"/*"[..], &b"*/"[..]), (b"<!--", b"-->")].into_iter().find(|(open, _)| rest.starts_with(open));
        if let Some((open, close)) = comment {
            let inside = rest.get(open.len()..).unwrap_or_default();
            match memchr::memmem::find(inside, close) {
                Some(end) => rest = inside.get(end + close.len()..).unwrap_or_default(),
                None => {
                    kept.push(b' ');
                    break;
                }
            }
        } else if rest.starts_with(b"--") || *first == b'#' {
            kept.push(b' ');
            break;
        } else {
            kept.push(*first);
            rest = tail;
        }
    }
    Some(kept)
}
