//! The string literals of a GraphQL document: what a client can put into one besides names that the schema knows.

use super::Contents;

/// Whether a text reads like a document rather than like any other value.
pub(crate) fn is_document(text: &[u8]) -> bool {
    let text = text.trim_ascii_start();
    text.starts_with(b"{")
        || [&b"query"[..], b"mutation", b"subscription", b"fragment"].iter().any(|word| text.starts_with(word))
}

/// Adds every string literal to the arguments, decoded: `<name>.literal_0` and so on.
pub(crate) fn read(document: &[u8], name: &[u8], most: usize, contents: &mut Contents) {
    let mut rest = document;
    let mut number = 0usize;
    while let Some(at) = memchr::memchr2(b'"', b'#', rest) {
        let after = rest.get(at..).unwrap_or_default();
        if after.starts_with(b"#") {
            // A comment ends with its line.
            let end = memchr::memchr2(b'\n', b'\r', after).unwrap_or(after.len());
            rest = after.get(end..).unwrap_or_default();
            continue;
        }
        if contents.args.len() >= most {
            contents.truncated = true;
            contents.error.get_or_insert_with(|| format!("GraphQL: more than {most} values"));
            return;
        }
        let mut value = Vec::new();
        rest = match after.strip_prefix(b"\"\"\"") {
            Some(block) => block_string(block, &mut value),
            None => string(after.get(1..).unwrap_or_default(), &mut value),
        };
        contents.args.push_with(
            |full| {
                full.extend_from_slice(name);
                full.extend(format!(".literal_{number}").bytes());
            },
            |text| text.extend_from_slice(&value),
        );
        number += 1;
    }
}

/// Reads up to the closing quotes; gives what follows.
fn block_string<'t>(text: &'t [u8], value: &mut Vec<u8>) -> &'t [u8] {
    let mut rest = text;
    while let Some((first, tail)) = rest.split_first() {
        if let Some(after) = rest.strip_prefix(b"\\\"\"\"") {
            value.extend_from_slice(b"\"\"\"");
            rest = after;
        } else if let Some(after) = rest.strip_prefix(b"\"\"\"") {
            return after;
        } else {
            value.push(*first);
            rest = tail;
        }
    }
    rest
}

fn string<'t>(text: &'t [u8], value: &mut Vec<u8>) -> &'t [u8] {
    let mut rest = text;
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        match first {
            b'"' | b'\n' => return rest,
            b'\\' => {
                let Some((escaped, tail)) = rest.split_first() else { return rest };
                rest = tail;
                match escaped {
                    b'n' => value.push(b'\n'),
                    b'r' => value.push(b'\r'),
                    b't' => value.push(b'\t'),
                    b'b' => value.push(0x08),
                    b'f' => value.push(0x0c),
                    b'u' => {
                        let digits = rest.get(..4).and_then(|digits| std::str::from_utf8(digits).ok());
                        let unit = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
                        let char = unit.and_then(char::from_u32).unwrap_or('?');
                        value.extend(char.encode_utf8(&mut [0; 4]).bytes());
                        rest = rest.get(4..).unwrap_or_default();
                    }
                    other => value.push(*other),
                }
            }
            other => value.push(*other),
        }
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_are_read_and_names_are_not() {
        let mut contents = Contents::default();
        let document = r#"query Q($a: Int) { user(name: "O'Brien \u003cb\u003e\n", bio: """block "x" \""" y""") { id # "no"
            posts(tag: "") } }"#;
        assert!(is_document(document.as_bytes()) && !is_document(b"plain text"));
        read(document.as_bytes(), b"json.query", 10, &mut contents);
        let found: Vec<_> = contents
            .args
            .iter()
            .map(|(name, value)| (String::from_utf8_lossy(name), String::from_utf8_lossy(value)))
            .collect();
        let expected = [
            ("json.query.literal_0", "O'Brien <b>\n"),
            ("json.query.literal_1", "block \"x\" \"\"\" y"),
            ("json.query.literal_2", ""),
        ];
        assert_eq!(found, expected.map(|(name, value)| (name.into(), value.into())));
        let mut few = Contents::default();
        read(br#"{a(x:"1",y:"2")"#, b"q", 1, &mut few);
        assert_eq!((few.args.len(), few.truncated), (1, true));
    }
}
