//! JSON flattened to arguments: `{"a":[{"b":1}]}` becomes `json.a.array_0.b=1`.
//!
//! Repeated keys all count: a reader that keeps only one of them is how rules are passed by. Nesting is bounded and
//! costs no stack.

use super::Contents;

/// Reads a whole document. What was read before an error is kept.
pub(crate) fn read(text: &[u8], depth: usize, most: usize, contents: &mut Contents) {
    let mut reader = Reader { text, at: 0, path: b"json".to_vec(), open: Vec::new(), depth, most, contents };
    if let Err(error) = reader.document() {
        reader.contents.error = Some(format!("JSON: {error} at byte {}", reader.at));
    }
}

/// Names and values together may come to this many times the document, and to so many bytes more.
const PATH_SHARE: usize = 8;
const PATH_BYTES: usize = 65_536;

struct Reader<'t> {
    text: &'t [u8],
    at: usize,
    path: Vec<u8>,
    open: Vec<Open>,
    depth: usize,
    most: usize,
    contents: &'t mut Contents,
}

/// A container not yet closed.
struct Open {
    kind: Kind,
    /// How long the path was before its present member.
    path_bytes: usize,
}

enum Kind {
    Object,
    Array { next: usize },
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn document(&mut self) -> Result<(), String> {
        self.skip_space();
        if self.peek().is_none() {
            return Ok(());
        }
        self.value()?;
        while !self.open.is_empty() {
            self.skip_space();
            self.step()?;
        }
        self.skip_space();
        if self.peek().is_some() { Err("text after the document".to_owned()) } else { Ok(()) }
    }

    /// One member, or the end of the innermost container.
    fn step(&mut self) -> Result<(), String> {
        let Some(open) = self.open.last_mut() else { return Ok(()) };
        let path_bytes = open.path_bytes;
        let fresh = self.path.len() == path_bytes;
        let (close, object) = match open.kind {
            Kind::Object => (b'}', true),
            Kind::Array { .. } => (b']', false),
        };
        self.path.truncate(path_bytes);
        if self.take(close) {
            self.open.pop();
            // The parent's path still holds this container's name: that marks it as not fresh.
            return Ok(());
        }
        if !fresh && !self.take(b',') {
            return Err("expected a comma or the end of a container".to_owned());
        }
        self.skip_space();
        if object {
            if self.peek() != Some(b'"') {
                return Err("expected a key".to_owned());
            }
            let key = self.string()?;
            self.skip_space();
            if !self.take(b':') {
                return Err("expected a colon".to_owned());
            }
            self.path.push(b'.');
            self.path.extend(key);
        } else if let Some(Open { kind: Kind::Array { next }, .. }) = self.open.last_mut() {
            self.path.extend(format!(".array_{next}").bytes());
            *next += 1;
        }
        self.skip_space();
        self.value()
    }

    /// A scalar, or the beginning of a container.
    fn value(&mut self) -> Result<(), String> {
        match self.peek() {
            Some(b'{') => self.begin(Kind::Object),
            Some(b'[') => self.begin(Kind::Array { next: 0 }),
            Some(b'"') => {
                let text = self.string()?;
                self.add(&text)
            }
            Some(b't') => self.word(b"true"),
            Some(b'f') => self.word(b"false"),
            Some(b'n') => self.word(b"null"),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(_) | None => Err("expected a value".to_owned()),
        }
    }

    fn begin(&mut self, kind: Kind) -> Result<(), String> {
        if self.open.len() >= self.depth {
            self.contents.truncated = true;
            return Err(format!("nested more than {} deep", self.depth));
        }
        self.at += 1;
        self.open.push(Open { kind, path_bytes: self.path.len() });
        Ok(())
    }

    fn add(&mut self, value: &[u8]) -> Result<(), String> {
        if self.contents.args.len() >= self.most {
            self.contents.truncated = true;
            return Err(format!("more than {} values", self.most));
        }
        // Every value carries the path to it: deep ones with long keys would come to far more than was sent.
        if self.contents.args.combined_bytes() > self.text.len().saturating_mul(PATH_SHARE).saturating_add(PATH_BYTES) {
            self.contents.truncated = true;
            return Err("the paths of the values are too long".to_owned());
        }
        self.contents.args.push(&self.path, value);
        Ok(())
    }

    fn word(&mut self, word: &[u8]) -> Result<(), String> {
        if !self.text.get(self.at..).is_some_and(|rest| rest.starts_with(word)) {
            return Err("expected a value".to_owned());
        }
        self.at += word.len();
        self.add(word)
    }

    fn number(&mut self) -> Result<(), String> {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let length =
            rest.iter().take_while(|byte| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E')).count();
        let digits = rest.get(..length).unwrap_or_default();
        if !std::str::from_utf8(digits).is_ok_and(|digits| digits.parse::<f64>().is_ok()) {
            return Err("expected a number".to_owned());
        }
        self.at += length;
        let digits = digits.to_vec();
        self.add(&digits)
    }

    /// A string, escapes decoded.
    fn string(&mut self) -> Result<Vec<u8>, String> {
        self.at += 1;
        let mut decoded = Vec::new();
        loop {
            let rest = self.text.get(self.at..).unwrap_or_default();
            let plain = memchr::memchr2(b'"', b'\\', rest).ok_or("a string is never closed")?;
            let (run, _) = rest.split_at(plain);
            if run.iter().any(|byte| *byte < 0x20) {
                return Err("a control character in a string".to_owned());
            }
            std::str::from_utf8(run).map_err(|_| "a string that is not UTF-8")?;
            decoded.extend(run);
            self.at += plain;
            if self.take(b'"') {
                return Ok(decoded);
            }
            self.at += 1;
            self.escape(&mut decoded)?;
        }
    }

    fn escape(&mut self, decoded: &mut Vec<u8>) -> Result<(), String> {
        let byte = self.peek().ok_or("a string is never closed")?;
        self.at += 1;
        decoded.push(match byte {
            b'"' | b'\\' | b'/' => byte,
            b'b' => 0x08,
            b'f' => 0x0c,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                let char = self.code_point()?;
                decoded.extend(char.encode_utf8(&mut [0; 4]).bytes());
                return Ok(());
            }
            _ => return Err("an unknown escape in a string".to_owned()),
        });
        Ok(())
    }

    /// Four digits, or two surrogates; a lone one becomes `?`, as yajl has it.
    fn code_point(&mut self) -> Result<char, String> {
        let first = self.code_unit()?;
        if (0xd800..0xdc00).contains(&first) && self.text.get(self.at..).is_some_and(|rest| rest.starts_with(b"\\u")) {
            self.at += 2;
            let second = self.code_unit()?;
            return Ok(char::decode_utf16([first, second]).next().and_then(Result::ok).unwrap_or('?'));
        }
        Ok(char::from_u32(u32::from(first)).unwrap_or('?'))
    }

    fn code_unit(&mut self) -> Result<u16, String> {
        let digits = self.text.get(self.at..self.at + 4).and_then(|digits| std::str::from_utf8(digits).ok());
        let unit = digits.and_then(|digits| u16::from_str_radix(digits, 16).ok());
        self.at += 4;
        unit.ok_or_else(|| "\\u needs four hexadecimal digits".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str, error: Option<&str>) {
        let mut contents = Contents::default();
        read(text.as_bytes(), 4, 6, &mut contents);
        let one = |(name, value): (&[u8], &[u8])| {
            format!("{}={}", String::from_utf8_lossy(name), String::from_utf8_lossy(value))
        };
        assert_eq!(contents.args.iter().map(one).collect::<Vec<_>>().join("|"), expected, "{text}");
        assert_eq!(contents.error.as_deref(), error, "{text}");
    }

    #[test]
    fn documents_are_flattened() {
        check(r#"{"a":1,"b":{"c":"x"}}"#, "json.a=1|json.b.c=x", None);
        check(r#"{"a":[{"b":1},[2]], "c" : null}"#, "json.a.array_0.b=1|json.a.array_1.array_0=2|json.c=null", None);
        check(r#"["x",true,-1.5e3]"#, "json.array_0=x|json.array_1=true|json.array_2=-1.5e3", None);
        check(r#"{"a":1,"a":2}"#, "json.a=1|json.a=2", None);
        check(r#"{"":"e"}"#, "json.=e", None);
        check(" \"top\" ", "json=top", None);
        check("{}", "", None);
        check("", "", None);
        check("[[],{}]", "", None);
        check(r#""\u0041\n\ud83d\ude00\/\ud800""#, "json=A\n😀/?", None);
    }

    #[test]
    fn what_is_wrong_is_named_and_the_rest_kept() {
        check(r#"{"a":1,"#, "json.a=1", Some("JSON: expected a key at byte 7"));
        check(r#"{"a":1 "b":2}"#, "json.a=1", Some("JSON: expected a comma or the end of a container at byte 7"));
        check("[1] x", "json.array_0=1", Some("JSON: text after the document at byte 4"));
        check("[[[[[1]]]]]", "", Some("JSON: nested more than 4 deep at byte 4"));
        check(
            "[1,2,3,4,5,6,7]",
            "json.array_0=1|json.array_1=2|json.array_2=3|json.array_3=4|json.array_4=5|json.array_5=6",
            Some("JSON: more than 6 values at byte 14"),
        );
        check("\"a\u{1}\"", "", Some("JSON: a control character in a string at byte 1"));
        check("[1,]", "json.array_0=1", Some("JSON: expected a value at byte 3"));
        check("{,}", "", Some("JSON: expected a key at byte 1"));
        check("tru", "", Some("JSON: expected a value at byte 0"));
        let deep = format!("{{\"{}\":[{}1]}}", "k".repeat(20_000), "1,".repeat(2_000));
        let mut contents = Contents::default();
        read(deep.as_bytes(), 4, 10_000, &mut contents);
        assert_eq!(
            contents.error.map(|error| error[..43].to_owned()),
            Some("JSON: the paths of the values are too long ".to_owned())
        );
        assert!(contents.args.combined_bytes() < 9 * deep.len() + 100_000);
    }
}
