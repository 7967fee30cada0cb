//! The fields of a form with files (RFC 7578), as far as a schema says something about them.

use serde_json::Value;

/// One field, or one file.
#[derive(Debug, PartialEq)]
pub(crate) struct Part {
    pub(crate) name: String,
    pub(crate) value: PartValue,
}

#[derive(Debug, PartialEq)]
pub(crate) enum PartValue {
    Text(String),
    /// Of the type `application/json`.
    Json(Value),
}

/// Parts of one form that are looked at.
const PARTS_MAX: usize = 10_000;

/// `None`: it is no such form, or cut short.
pub(crate) fn parts(content_type: &str, body: &[u8]) -> Option<Vec<Part>> {
    let boundary = content_type.split(';').skip(1).find_map(|parameter| value_of(parameter, "boundary"))?;
    let delimiter = format!("\r\n--{boundary}");
    // The first delimiter may stand at the very beginning.
    let whole = [b"\r\n", body].concat();
    let mut parts = Vec::new();
    let mut rest = after(&whole, delimiter.as_bytes())?.1;
    loop {
        if rest.starts_with(b"--") {
            return Some(parts);
        }
        let (line, begun) = after(rest, b"\r\n")?;
        if !line.iter().all(u8::is_ascii_whitespace) || parts.len() >= PARTS_MAX {
            return None;
        }
        let (part, following) = after(begun, delimiter.as_bytes())?;
        parts.push(read(part)?);
        rest = following;
    }
}

fn read(part: &[u8]) -> Option<Part> {
    // A part without fields begins with the empty line itself, and has no name.
    let (head, content) = after(part, b"\r\n\r\n")?;
    let head = std::str::from_utf8(head).ok()?;
    let field = |name: &str| {
        let mut lines = head.split("\r\n").filter_map(|line| line.split_once(':'));
        lines.find(|(own, _)| own.trim().eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    };
    let disposition = field("content-disposition")?;
    let name = disposition.split(';').skip(1).find_map(|parameter| value_of(parameter, "name"))?;
    let kind = field("content-type").unwrap_or_default().split(';').next().unwrap_or_default().trim();
    let value = match kind.eq_ignore_ascii_case("application/json") {
        true => PartValue::Json(serde_json::from_slice(content).ok()?),
        false => PartValue::Text(String::from_utf8_lossy(content).into_owned()),
    };
    Some(Part { name: name.to_owned(), value })
}

/// What stands before and after the first occurrence.
fn after<'t>(text: &'t [u8], mark: &[u8]) -> Option<(&'t [u8], &'t [u8])> {
    let at = text.windows(mark.len()).position(|window| window == mark)?;
    Some((text.get(..at)?, text.get(at + mark.len()..)?))
}

/// `name="value"` or `name=value`. A semicolon inside of quotes ends the value early, and what is left has another name: such a form
/// differs from its schema, which is the safe side.
fn value_of<'p>(parameter: &'p str, name: &str) -> Option<&'p str> {
    let (own, value) = parameter.split_once('=')?;
    let value = value.trim().trim_matches('"');
    (own.trim().eq_ignore_ascii_case(name) && !value.is_empty()).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(name: &str, text: &str) -> Part {
        Part { name: name.to_owned(), value: PartValue::Text(text.to_owned()) }
    }

    #[test]
    fn forms_are_taken_apart() {
        let kind = "multipart/form-data; boundary=\"B\"";
        let body = b"--B\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n--B \r\ncontent-disposition: form-data; name=f; filename=\"x.bin\"\r\nContent-Type: application/octet-stream\r\n\r\n\r\n\r\n--B\r\nContent-Disposition: form-data; name=\"j\"\r\nContent-Type: application/json\r\n\r\n{\"x\":1}\r\n--B--\r\n";
        let json = Part { name: "j".to_owned(), value: PartValue::Json(serde_json::json!({"x": 1})) };
        assert_eq!(parts(kind, body), Some(vec![text("a", "1"), text("f", "\r\n"), json]));
        assert_eq!(parts(kind, b"--B--"), Some(vec![]));
    }

    #[test]
    fn what_is_no_form_is_none() {
        let kind = "multipart/form-data; boundary=B";
        for (kind, body) in [
            ("multipart/form-data", "--B--"),
            (kind, ""),
            (kind, "--B\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1"),
            (kind, "--B\r\nContent-Disposition: form-data\r\n\r\n1\r\n--B--"),
            (kind, "--B\r\n\r\n1\r\n--B--"),
            (kind, "--Bx\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n--B--"),
            (
                kind,
                "--B\r\nContent-Disposition: form-data; name=\"a\"\r\nContent-Type: application/json\r\n\r\n{\r\n--B--",
            ),
        ] {
            assert_eq!(parts(kind, body.as_bytes()), None, "{kind} {body}");
        }
    }
}
