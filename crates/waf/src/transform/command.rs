//! What shells and interpreters skip: quoting marks and comments.

/// Removes `\ " ' ^`, turns `, ;` and runs of white space into one space, drops spaces before `/` and `(`, lowers case.
pub(super) fn cmd_line(value: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let plain = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'.');
    if value.iter().all(plain) {
        return None;
    }
    out.reserve(value.len());
    let mut space = false;
    for byte in value {
        match byte {
            b'\\' | b'"' | b'\'' | b'^' => {}
            b' ' | b',' | b';' | b'\t' | b'\r' | b'\n' => {
                if !space {
                    out.push(b' ');
                    space = true;
                }
            }
            b'/' | b'(' => {
                if space {
                    out.pop();
                }
                space = false;
                out.push(*byte);
            }
            other => {
                out.push(other.to_ascii_lowercase());
                space = false;
            }
        }
    }
    Some(())
}

/// Every `/* ... */` becomes one space, also one that never ends.
pub(super) fn replace_comments(value: &[u8], out: &mut Vec<u8>) -> Option<()> {
    memchr::memmem::find(value, b"/*")?;
    out.reserve(value.len());
    let mut rest = value;
    while let Some(start) = memchr::memmem::find(rest, b"/*") {
        out.extend(rest.get(..start).unwrap_or_default());
        out.push(b' ');
        let inside = rest.get(start + 2..).unwrap_or_default();
        rest = memchr::memmem::find(inside, b"*/").and_then(|end| inside.get(end + 2..)).unwrap_or_default();
    }
    out.extend(rest);
    Some(())
}

/// Removes the marks themselves: `/*`, `*/`, `<!--`, `-->`, `--` and `#`.
pub(super) fn remove_comment_marks(value: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let suspicious = |byte: &u8| matches!(byte, b'*' | b'-' | b'#');
    if !value.iter().any(suspicious) {
        return None;
    }
    out.reserve(value.len());
    let mut rest = value;
    while let Some((first, tail)) = rest.split_first() {
        rest = match (first, tail) {
            (b'<', [b'!', b'-', b'-', after @ ..]) | (b'-', [b'-', b'>', after @ ..]) => after,
            (b'/', [b'*', after @ ..]) | (b'*', [b'/', after @ ..]) | (b'-', [b'-', after @ ..]) => after,
            (b'#', _) => tail,
            _ => {
                out.push(*first);
                tail
            }
        };
    }
    Some(())
}

/// Removes comments with their text; an open one, `--` and `#` end the value with a space.
pub(super) fn remove_comments(value: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let suspicious = |byte: &u8| matches!(byte, b'/' | b'-' | b'#' | b'<');
    if !value.iter().any(suspicious) {
        return None;
    }
    out.reserve(value.len());
    let mut rest = value;
    while let Some((first, tail)) = rest.split_first() {
        let comment =
            [(&b"/*"[..], &b"*/"[..]), (b"<!--", b"-->")].into_iter().find(|(open, _)| rest.starts_with(open));
        if let Some((open, close)) = comment {
            let inside = rest.get(open.len()..).unwrap_or_default();
            match memchr::memmem::find(inside, close) {
                Some(end) => rest = inside.get(end + close.len()..).unwrap_or_default(),
                None => {
                    out.push(b' ');
                    break;
                }
            }
        } else if rest.starts_with(b"--") || *first == b'#' {
            out.push(b' ');
            break;
        } else {
            out.push(*first);
            rest = tail;
        }
    }
    Some(())
}
