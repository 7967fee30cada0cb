//! The `Content-Disposition` of a part of a form.

use super::MultipartFlags;

/// The field's name and the file's, when given.
pub(crate) type Names = (Option<Vec<u8>>, Option<Vec<u8>>);

/// Reads `form-data; name="a"; filename="b"`.
///
/// # Errors
/// What makes the part unreadable; smaller faults raise flags.
pub(crate) fn read(value: &[u8], flags: &mut MultipartFlags) -> Result<Names, &'static str> {
    let kind = value.get(..9).filter(|kind| kind.eq_ignore_ascii_case(b"form-data"));
    kind.ok_or("the Content-Disposition of a part is not form-data")?;
    let mut rest = value.get(9..).unwrap_or_default().trim_ascii_start();
    let (mut name, mut file_name) = (None, None);
    while !rest.is_empty() {
        match rest.strip_prefix(b";") {
            Some(after) => rest = after.trim_ascii_start(),
            None => flags.missing_semicolon = true,
        }
        if rest.is_empty() {
            break;
        }
        let end = rest
            .iter()
            .position(|byte| matches!(byte, b'=' | b';') || byte.is_ascii_whitespace())
            .unwrap_or(rest.len());
        let (key, after) = rest.split_at(end);
        let after = after.trim_ascii_start().strip_prefix(b"=").ok_or("a parameter of a part has no value")?;
        let (text, after) = parameter(after.trim_ascii_start(), flags)?;
        let place = match key.to_ascii_lowercase().as_slice() {
            b"name" => &mut name,
            b"filename" => &mut file_name,
            b"filename*" => {
                flags.invalid_part = true;
                &mut None
            }
            _ => &mut None,
        };
        if place.replace(text).is_some() {
            flags.invalid_part = true;
            return Err("a part is named twice");
        }
        rest = after.trim_ascii_start();
    }
    Ok((name, file_name))
}

/// A quoted or bare value, and what follows it.
fn parameter<'v>(text: &'v [u8], flags: &mut MultipartFlags) -> Result<(Vec<u8>, &'v [u8]), &'static str> {
    // Readers differ on single quotes: some take them as part of the name, some as quotes.
    flags.invalid_quoting |= text.starts_with(b"'");
    let Some(quoted) = text.strip_prefix(b"\"") else {
        let end = text.iter().position(|byte| *byte == b';' || byte.is_ascii_whitespace()).unwrap_or(text.len());
        let (value, after) = text.split_at(end);
        flags.invalid_quoting |= value.contains(&b'"');
        return Ok((value.to_vec(), after));
    };
    let mut value = Vec::new();
    let mut bytes = quoted.iter().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'"' => {
                let after = quoted.get(at + 1..).unwrap_or_default();
                flags.invalid_quoting |= after.first().is_some_and(|byte| *byte != b';' && !byte.is_ascii_whitespace());
                return Ok((value, after));
            }
            b'\\' => match quoted.get(at + 1) {
                Some(escaped @ (b'"' | b'\\')) => {
                    value.push(*escaped);
                    bytes.next();
                }
                // Internet Explorer sends whole paths: the backslash is part of the name.
                Some(_) | None => value.push(b'\\'),
            },
            other => value.push(*other),
        }
    }
    flags.invalid_quoting = true;
    Err("the quotes of a parameter are not closed")
}
