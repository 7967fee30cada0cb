//! `@detectSQLi` and `@detectXSS` through libinjection's tokenizer.

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{Captured, sql};

/// The fingerprint when the value reads like SQL.
pub(super) fn sqli(value: &[u8]) -> Option<Captured> {
    let value = shortened(value);
    guarded(|| sql::detect(&value).map(|fingerprint| Captured::Text(fingerprint.as_bytes().to_vec())))
}

/// The value itself when it reads like script.
pub(super) fn xss(value: &[u8]) -> Option<Captured> {
    guarded(|| {
        let whole = Some(0..value.len());
        libinjectionrs::detect_xss(value).is_injection().then(|| Captured::Groups(vec![whole]))
    })
}

/// At each dot of a word, and each backtick in it, the tokenizer looks the word up as far as it has read: `a.a.a.…` costs the square
/// of its length. The longest host name has 253 bytes; what a longer word with dots holds beyond this many is left out.
const DOTTED_WORD_BYTES: usize = 256;

/// Whether something of the value is left out.
pub(crate) fn is_shortened(value: &[u8]) -> bool {
    matches!(shortened(value), Cow::Owned(_))
}

fn shortened(value: &[u8]) -> Cow<'_, [u8]> {
    if value.len() <= DOTTED_WORD_BYTES || !value.iter().any(|byte| matches!(byte, b'.' | b'`')) {
        return Cow::Borrowed(value);
    }
    let mut short: Vec<u8> = Vec::new();
    let mut copied = 0;
    let mut start = 0;
    let mut pieces = value.split(|byte| ENDS_WORD.contains(byte)).peekable();
    while let Some(word) = pieces.next() {
        let end = start + word.len();
        if let Some((kept, left_out)) = word.split_at_checked(DOTTED_WORD_BYTES)
            && !left_out.is_empty()
            && word.iter().any(|byte| matches!(byte, b'.' | b'`'))
        {
            short.extend_from_slice(value.get(copied..start + kept.len()).unwrap_or_default());
            copied = end;
        }
        // One byte stands between two words.
        start = end + usize::from(pieces.peek().is_some());
    }
    if copied == 0 {
        return Cow::Borrowed(value);
    }
    short.extend_from_slice(value.get(copied..).unwrap_or_default());
    Cow::Owned(short)
}

/// Where the tokenizer ends a word.
const ENDS_WORD: &[u8] = b" []{}<>:\\?=@!#~+-*/&|^%(),';\t\n\x0b\x0c\r\"\xa0\0";

/// The tokenizer is a port of C that indexes freely. A panic in it is not the client's way past the rule: a value it
/// cannot read counts as a match (fail closed).
fn guarded(detect: impl FnOnce() -> Option<Captured>) -> Option<Captured> {
    catch_unwind(AssertUnwindSafe(detect)).unwrap_or(Some(Captured::Undecided))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn only_the_ends_of_long_dotted_words_are_left_out() {
        let dotted = "a.".repeat(200);
        let kept = dotted.get(..DOTTED_WORD_BYTES).unwrap();
        for (value, expected) in [
            ("1' or '1'='1".to_owned(), None),
            ("x".repeat(1000), None),
            (format!("{} a.b", "x".repeat(1000)), None),
            (dotted.clone(), Some(kept.to_owned())),
            (format!("1 {dotted}' or 1=1--"), Some(format!("1 {kept}' or 1=1--"))),
            (format!("{dotted} {dotted} z"), Some(format!("{kept} {kept} z"))),
        ] {
            let short = shortened(value.as_bytes());
            assert_eq!(matches!(short, Cow::Owned(_)), expected.is_some(), "{value}");
            assert_eq!(short, expected.unwrap_or(value.clone()).as_bytes());
        }
        assert!(sqli(format!("{dotted}' or 1=1--").as_bytes()).is_some());
    }

    #[test]
    fn no_input_costs_the_square_of_its_length() {
        const BYTES: usize = 1 << 17;
        let units: [&[u8]; 40] = [
            b"a.",
            b"a`",
            b"select.",
            b"select`",
            b".",
            b"`",
            b"'",
            b"''",
            b"\\'",
            b"\\",
            b"\"",
            b"/*",
            b"*/",
            b"--",
            b"-- \n",
            b"#",
            b"@",
            b"@@",
            b"@`",
            b"$",
            b"$a$",
            b"$$",
            b"q'(",
            b"nq'[",
            b"x'a",
            b"b'0",
            b"u&'",
            b"e'",
            b"[",
            b"{",
            b"(",
            b"((1",
            b"0x",
            b"1e",
            b"1.",
            b"+",
            b"<a b=c ",
            b"<!--",
            b"<a href=\"java\n",
            b"&#x6a;",
        ];
        for unit in units {
            let value = unit.repeat(BYTES / unit.len());
            for (name, detect) in [("sqli", sqli as fn(&[u8]) -> Option<Captured>), ("xss", xss)] {
                let began = Instant::now();
                detect(&value);
                let took = began.elapsed();
                // In a build without optimisation; the square of this length would take minutes.
                assert!(took < Duration::from_secs(4), "{name} {unit:?} {took:?}");
            }
        }
    }
}
