//! Whether an octet of a JSON text is inside of a string: outside of one, an asterisk would be the end of the document's validity.

/// Follows a text that is known to be JSON.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct JsonStrings {
    inside: bool,
    escaped: bool,
}

impl JsonStrings {
    pub(crate) fn pass(&mut self, text: &[u8]) {
        let mut rest = text;
        if std::mem::take(&mut self.escaped) {
            match rest.split_first() {
                Some((_, after)) => rest = after,
                None => {
                    self.escaped = true;
                    return;
                }
            }
        }
        while let Some(at) = memchr::memchr2(b'"', b'\\', rest) {
            let skip = match rest.get(at) {
                Some(b'"') => {
                    self.inside = !self.inside;
                    1
                }
                // An escape takes the octet after it along.
                _ => 2,
            };
            match rest.get(at + skip..) {
                Some(after) => rest = after,
                None => {
                    self.escaped = true;
                    return;
                }
            }
        }
    }

    pub(crate) fn is_inside(self) -> bool {
        self.inside
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_followed_over_any_pieces() {
        for (text, inside) in [
            ("", false),
            ("{\"a", true),
            ("{\"a\":", false),
            ("{\"a\\\"b", true),
            ("{\"a\\\\\"", false),
            ("{\"a\\", true),
        ] {
            for piece in 1..4 {
                let mut strings = JsonStrings::default();
                text.as_bytes().chunks(piece).for_each(|chunk| strings.pass(chunk));
                assert_eq!(strings.is_inside(), inside, "{text} by {piece}");
            }
        }
    }
}
