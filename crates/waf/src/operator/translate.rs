//! PCRE pattern text rewritten for the `regex` crate, so that it compiles and means the same bytes.
//!
//! Classes are worked out to sets of bytes and written back as ranges: the two dialects differ most inside `[...]`.
//! What has no equal (look-around, back-references, possessive repeats) is an error that names it.

use super::ByteSet;
use crate::transform::hex;

/// Rewrites a pattern. Non-ASCII text means its UTF-8 bytes, as in PCRE without `(*UTF)`.
pub(crate) fn translate(pattern: &[u8]) -> Result<String, String> {
    let mut translator = Translator::new(pattern);
    translator.run()?;
    Ok(translator.out)
}

pub(super) struct Translator<'p> {
    pub(super) rest: &'p [u8],
    out: String,
}

/// What an escape stands for.
pub(super) enum Escape {
    Byte(u8),
    Set(ByteSet),
    /// Kept as written: assertions.
    Assertion(&'static str),
}

impl<'p> Translator<'p> {
    pub(super) fn new(pattern: &'p [u8]) -> Self {
        Self { rest: pattern, out: String::with_capacity(pattern.len() * 2) }
    }

    pub(super) fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    pub(super) fn take(&mut self, prefix: &[u8]) -> bool {
        let stripped = self.rest.strip_prefix(prefix);
        self.rest = stripped.unwrap_or(self.rest);
        stripped.is_some()
    }

    fn run(&mut self) -> Result<(), String> {
        while let Some(byte) = self.next() {
            match byte {
                b'\\' if self.take(b"Q") => self.quoted_run(),
                b'\\' => match self.escape()? {
                    Escape::Byte(byte) => self.literal(byte),
                    Escape::Set(set) => self.class(&set, false),
                    Escape::Assertion(text) => self.out.push_str(text),
                },
                b'[' => self.bracket()?,
                b'(' => self.group()?,
                b'*' | b'+' | b'?' => self.quantifier(char::from(byte).to_string().as_str())?,
                b'{' => match counted(self.rest) {
                    Some(length) => {
                        let (count, rest) = self.rest.split_at(length);
                        self.rest = rest;
                        let count = String::from_utf8_lossy(count).into_owned();
                        self.quantifier(&format!("{{{count}"))?;
                    }
                    None => self.literal(b'{'),
                },
                b')' | b'|' | b'^' | b'$' | b'.' => self.out.push(char::from(byte)),
                other => self.literal(other),
            }
        }
        Ok(())
    }

    /// Writes a byte that stands for itself.
    fn literal(&mut self, byte: u8) {
        if byte.is_ascii_alphanumeric()
            || matches!(
                byte,
                b'_' | b' ' | b'"' | b'\'' | b'/' | b'<' | b'>' | b'=' | b':' | b';' | b',' | b'%' | b'!' | b'@' | b'`'
            )
        {
            self.out.push(char::from(byte));
        } else {
            self.out.push_str(&format!("\\x{byte:02x}"));
        }
    }

    fn quoted_run(&mut self) {
        let end = memchr::memmem::find(self.rest, b"\\E");
        let (run, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest.strip_prefix(b"\\E").unwrap_or(rest);
        run.iter().for_each(|byte| self.literal(*byte));
    }

    fn quantifier(&mut self, text: &str) -> Result<(), String> {
        self.out.push_str(text);
        if self.take(b"?") {
            self.out.push('?');
        } else if self.rest.starts_with(b"+") {
            return Err(unsupported("possessive repeats (a++)"));
        }
        Ok(())
    }

    fn group(&mut self) -> Result<(), String> {
        if !self.take(b"?") {
            if self.rest.starts_with(b"*") {
                return Err(unsupported("control verbs such as (*UTF)"));
            }
            self.out.push('(');
            return Ok(());
        }
        if self.take(b"#") {
            let end = memchr::memchr(b')', self.rest).map_or(self.rest.len(), |at| at + 1);
            self.rest = self.rest.get(end..).unwrap_or_default();
            return Ok(());
        }
        if [&b"="[..], b"!", b"<=", b"<!"].iter().any(|mark| self.rest.starts_with(mark)) {
            return Err(unsupported("look-ahead and look-behind"));
        }
        if [&b">"[..], b"|", b"(", b"R", b"&", b"P=", b"P>", b"C"].iter().any(|mark| self.rest.starts_with(mark)) {
            return Err(unsupported("atomic groups, conditions and recursion"));
        }
        if self.take(b"'") {
            let end = memchr::memchr(b'\'', self.rest).unwrap_or(self.rest.len());
            let (name, rest) = self.rest.split_at(end);
            self.rest = rest.get(1..).unwrap_or_default();
            self.out.push_str(&format!("(?<{}>", String::from_utf8_lossy(name)));
            return Ok(());
        }
        // `(?i)`, `(?i:`, `(?:`, `(?<name>`, `(?P<name>`: the same in both.
        let end =
            self.rest.iter().position(|byte| matches!(byte, b')' | b':' | b'>')).ok_or("a group is never closed")?;
        let (head, rest) = self.rest.split_at(end + 1);
        self.rest = rest;
        self.out.push_str(&format!("(?{}", String::from_utf8_lossy(head)));
        Ok(())
    }

    /// Reads what follows a backslash.
    pub(super) fn escape(&mut self) -> Result<Escape, String> {
        let byte = self.next().ok_or("the pattern ends in a backslash")?;
        Ok(match byte {
            b'b' => Escape::Assertion("\\b"),
            b'B' => Escape::Assertion("\\B"),
            b'A' | b'G' => Escape::Assertion("\\A"),
            b'z' => Escape::Assertion("\\z"),
            b'Z' => Escape::Assertion("(?:\\n?\\z)"),
            b'R' => Escape::Assertion("(?:\\r\\n|[\\n\\x0b\\x0c\\r\\x85])"),
            b'K' | b'X' | b'C' | b'p' | b'P' | b'k' | b'g' => {
                return Err(unsupported(&format!("\\{}", char::from(byte))));
            }
            b'1'..=b'9' => {
                return self.numbered(byte);
            }
            _ => self.shared_escape(byte)?,
        })
    }

    /// Outside a class `\1` is a back-reference; PCRE reads three octal digits as a byte.
    fn numbered(&mut self, first: u8) -> Result<Escape, String> {
        let octal = |byte: &u8| matches!(byte, b'0'..=b'7');
        match self.rest {
            [second, third, rest @ ..] if first <= b'3' && octal(second) && octal(third) => {
                self.rest = rest;
                Ok(Escape::Byte((first & 7) << 6 | (second & 7) << 3 | (third & 7)))
            }
            _ => Err(unsupported("back-references")),
        }
    }

    /// Escapes that mean the same inside and outside a class.
    fn shared_escape(&mut self, byte: u8) -> Result<Escape, String> {
        Ok(match byte {
            b'd' => Escape::Set(set_of(|byte| byte.is_ascii_digit())),
            b'D' => Escape::Set(set_of(|byte| !byte.is_ascii_digit())),
            b'w' => Escape::Set(set_of(is_word)),
            b'W' => Escape::Set(set_of(|byte| !is_word(byte))),
            b's' => Escape::Set(set_of(crate::transform::is_space)),
            b'S' => Escape::Set(set_of(|byte| !crate::transform::is_space(byte))),
            b'h' => Escape::Set(set_of(is_horizontal)),
            b'H' => Escape::Set(set_of(|byte| !is_horizontal(byte))),
            b'v' => Escape::Set(set_of(is_vertical)),
            b'V' => Escape::Set(set_of(|byte| !is_vertical(byte))),
            b'N' => Escape::Set(set_of(|byte| byte != b'\n')),
            b'a' => Escape::Byte(0x07),
            b'e' => Escape::Byte(0x1b),
            b'f' => Escape::Byte(0x0c),
            b'n' => Escape::Byte(b'\n'),
            b'r' => Escape::Byte(b'\r'),
            b't' => Escape::Byte(b'\t'),
            b'c' => Escape::Byte(self.next().ok_or("\\c needs a letter")?.to_ascii_uppercase() ^ 0x40),
            b'x' => Escape::Byte(self.hexadecimal()?),
            b'0' => Escape::Byte(self.octal(0, 2)),
            b'E' => Escape::Assertion(""),
            other if other.is_ascii_alphanumeric() => {
                return Err(unsupported(&format!("\\{}", char::from(other))));
            }
            other => Escape::Byte(other),
        })
    }

    fn octal(&mut self, start: u8, most: usize) -> u8 {
        let digits = self.rest.iter().take(most).take_while(|byte| matches!(byte, b'0'..=b'7')).count();
        let (digits, rest) = self.rest.split_at(digits);
        self.rest = rest;
        digits.iter().fold(start, |value, digit| value << 3 | (digit & 7))
    }

    /// `\xH`, `\xHH` or `\x{HH}`; a code point in braces is a byte here.
    fn hexadecimal(&mut self) -> Result<u8, String> {
        if self.take(b"{") {
            let end = memchr::memchr(b'}', self.rest).ok_or("\\x{ is never closed")?;
            let (digits, rest) = self.rest.split_at(end);
            self.rest = rest.get(1..).unwrap_or_default();
            let text = String::from_utf8_lossy(digits);
            return u8::from_str_radix(&text, 16).map_err(|_| format!("\\x{{{text}}} is not one byte"));
        }
        let digits = self.rest.iter().take(2).take_while(|byte| hex(**byte).is_some()).count();
        let (digits, rest) = self.rest.split_at(digits);
        self.rest = rest;
        Ok(digits.iter().fold(0u8, |value, digit| value << 4 | hex(*digit).unwrap_or(0)))
    }

    /// A bracket class, up to its end.
    fn bracket(&mut self) -> Result<(), String> {
        let (set, negated) = self.bracket_set()?;
        self.class(&set, negated);
        Ok(())
    }

    /// The members of a bracket class, and whether those are the ones it excludes.
    pub(super) fn bracket_set(&mut self) -> Result<(ByteSet, bool), String> {
        let negated = self.take(b"^");
        let mut set = ByteSet::default();
        let mut first = true;
        loop {
            let byte = self.next().ok_or("a class ([...]) is never closed")?;
            if byte == b']' && !first {
                break;
            }
            first = false;
            match self.class_item(byte)? {
                Escape::Byte(low) => {
                    let high = self.range_end()?.unwrap_or(low);
                    if high < low {
                        return Err(format!("class range \\x{low:02x}-\\x{high:02x} ends before it begins"));
                    }
                    (low..=high).for_each(|byte| set.insert(byte));
                }
                Escape::Set(members) => {
                    (0..=255).filter(|byte| members.contains(*byte)).for_each(|byte| set.insert(byte))
                }
                Escape::Assertion(_) => {}
            }
        }
        Ok((set, negated))
    }

    fn class_item(&mut self, byte: u8) -> Result<Escape, String> {
        match byte {
            b'\\' => {
                let byte = self.next().ok_or("the pattern ends in a backslash")?;
                match byte {
                    b'b' => Ok(Escape::Byte(0x08)),
                    b'1'..=b'7' => Ok(Escape::Byte(self.octal(byte & 7, 2))),
                    _ => self.shared_escape(byte),
                }
            }
            b'[' if self.rest.starts_with(b":") => {
                let Some(end) = memchr::memmem::find(self.rest, b":]") else { return Ok(Escape::Byte(b'[')) };
                let name = self.rest.get(1..end).unwrap_or_default();
                match posix(name) {
                    Some(set) => {
                        self.rest = self.rest.get(end + 2..).unwrap_or_default();
                        Ok(Escape::Set(set))
                    }
                    None => Ok(Escape::Byte(b'[')),
                }
            }
            other => Ok(Escape::Byte(other)),
        }
    }

    /// The upper end, when a range follows; a `-` before `]` or before a set stands for itself.
    fn range_end(&mut self) -> Result<Option<u8>, String> {
        let before = self.rest;
        if !self.take(b"-") || self.rest.starts_with(b"]") {
            self.rest = before;
            return Ok(None);
        }
        let byte = self.next().ok_or("a class ([...]) is never closed")?;
        match self.class_item(byte)? {
            Escape::Byte(high) => Ok(Some(high)),
            Escape::Set(_) | Escape::Assertion(_) => {
                self.rest = before;
                Ok(None)
            }
        }
    }

    /// Writes a set as ranges. An empty one keeps its meaning: it matches nothing.
    fn class(&mut self, set: &ByteSet, negated: bool) {
        let mut ranges: Vec<(u8, u8)> = Vec::new();
        for byte in (0..=255u8).filter(|byte| set.contains(*byte)) {
            match ranges.last_mut() {
                Some((_, high)) if high.checked_add(1) == Some(byte) => *high = byte,
                Some(_) | None => ranges.push((byte, byte)),
            }
        }
        self.out.push_str(if negated { "[^" } else { "[" });
        for (low, high) in ranges {
            self.out.push_str(&format!("\\x{low:02x}-\\x{high:02x}"));
        }
        self.out.push(']');
    }
}

/// The length of a count after `{`, its brace included.
pub(super) fn counted(text: &[u8]) -> Option<usize> {
    let end = memchr::memchr(b'}', text)?;
    let inside = text.get(..end)?;
    let mut bounds = inside.split(|byte| *byte == b',');
    let digits = |text: &[u8]| !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let low = digits(bounds.next()?);
    let high = bounds.next().is_none_or(|high| high.is_empty() || digits(high));
    (low && high && bounds.next().is_none()).then_some(end + 1)
}

fn unsupported(what: &str) -> String {
    format!("{what} cannot be matched in linear time and are not supported")
}

fn set_of(member: impl Fn(u8) -> bool) -> ByteSet {
    let mut set = ByteSet::default();
    (0..=255).filter(|byte| member(*byte)).for_each(|byte| set.insert(byte));
    set
}

pub(super) fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn is_horizontal(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | 0xa0)
}

fn is_vertical(byte: u8) -> bool {
    matches!(byte, b'\n' | 0x0b | 0x0c | b'\r' | 0x85)
}

/// `alpha` or `^alpha`.
fn posix(name: &[u8]) -> Option<ByteSet> {
    let (negated, name) = name.strip_prefix(b"^").map_or((false, name), |name| (true, name));
    let member: fn(&u8) -> bool = match name {
        b"alpha" => u8::is_ascii_alphabetic,
        b"digit" => u8::is_ascii_digit,
        b"alnum" => u8::is_ascii_alphanumeric,
        b"upper" => u8::is_ascii_uppercase,
        b"lower" => u8::is_ascii_lowercase,
        b"punct" => u8::is_ascii_punctuation,
        b"cntrl" => u8::is_ascii_control,
        b"graph" => u8::is_ascii_graphic,
        b"print" => |byte| byte.is_ascii_graphic() || *byte == b' ',
        b"xdigit" => u8::is_ascii_hexdigit,
        b"space" => |byte| crate::transform::is_space(*byte),
        b"blank" => |byte| matches!(byte, b' ' | b'\t'),
        b"word" => |byte| is_word(*byte),
        b"ascii" => u8::is_ascii,
        _ => return None,
    };
    Some(set_of(|byte| member(&byte) != negated))
}

#[cfg(test)]
mod tests {
    use super::super::{Capture, Pattern};

    #[track_caller]
    fn check(pattern: &str, cases: &[(&[u8], bool)]) {
        let compiled = Pattern::compile(pattern).unwrap();
        for (value, expected) in cases {
            let matched = compiled.test(value, Capture::NotWanted).is_some();
            assert_eq!(matched, *expected, "{pattern} {}", value.escape_ascii());
        }
    }

    #[test]
    fn bytes_are_not_characters() {
        check(r"^\x{c2}\x{b4}", &[(b"\xc2\xb4", true), ("Â´".as_bytes(), false)]);
        check(r"^[\x{7f}-\x{ff}]$", &[(b"\xff", true), (b"a", false)]);
        check("é", &["é".as_bytes(), b"\xe9"].map(|value| (value, value.len() == 2)));
        check("^[é]$", &[(b"\xc3", true), (b"\xa9", true), ("é".as_bytes(), false)]);
        check(r"^.$", &[(b"\xff", true), (b"\n", true), (b"ab", false)]);
        check(r"(?i)É", &[("É".as_bytes(), true), ("é".as_bytes(), false)]);
    }

    #[test]
    fn classes_are_pcre_classes() {
        check(r"^[[a]+$", &[(b"[a", true), (b"b", false)]);
        check(r"^[a&&b]+$", &[(b"a&b", true)]);
        check(r"^[a~~b+--c]$", &[(b"~", true), (b"b", true), (b",", true), (b".", false)]);
        check(r"^[]a]+$", &[(b"]a", true)]);
        check(r"^[^]a]+$", &[(b"]", false), (b"b", true)]);
        check(r"^[\w-.]+$", &[(b"a-.", true), (b"+", false)]);
        check(r"^[a-]+$", &[(b"a-", true)]);
        check(r"^[[:alpha:]_]+$", &[(b"a_", true), (b"1", false)]);
        check(r"^[[:^digit:]]+$", &[(b"a", true), (b"1", false)]);
        check(r"^[\b\101\x4\]]+$", &[(b"\x08A\x04]", true)]);
        check(r"(?i)^[^a]$", &[(b"A", false), (b"b", true)]);
        check(r"[\s\S]", &[(b"\xff", true)]);
    }

    #[test]
    fn escapes_are_pcre_escapes() {
        check(r"^\h\v$", &[(b"\t\x0b", true), (b"\xa0\n", true), (b"aa", false)]);
        check(r"^\e\a\cA\0$", &[(b"\x1b\x07\x01\0", true)]);
        check(r"^\<\>\-\/\ \#\'$", &[(b"<>-/ #'", true)]);
        check(r"^\Qa.b\E.$", &[(b"a.bc", true), (b"axbc", false)]);
        check(r"^\s$", &[(b"\x0b", true), (b"\xa0", false)]);
        check(r"a\Z", &[(b"a\n", true), (b"ab", false)]);
        check("a$", &[(b"a\n", false), (b"a", true)]);
        check(r"a{,2}{b}{1}", &[(b"a{,2}{b}", true)]);
        check(r"^\*+$", &[(b"***", true)]);
        check(r"^(?#note)x", &[(b"x", true)]);
    }

    #[test]
    fn what_has_no_equal_is_refused() {
        for pattern in [r"(?=a)b", r"(?<!a)b", r"(a)\1", r"a++", r"(?>a)", r"a*+", r"\p{L}", "[a", "a\\"] {
            assert!(Pattern::compile_linear(pattern).is_err(), "{pattern}");
        }
    }
}
