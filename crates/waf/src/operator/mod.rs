//! The operators: does this value match?
//!
//! Arguments are read once, at compilation; an argument with macros is filled in per evaluation by the caller, who hands
//! the text in. Nothing here looks at a transaction.

mod address;
mod backtrack;
mod bytes;
mod checks;
mod injection;
mod pattern;
mod phrases;
mod sql;
mod translate;

use std::net::IpAddr;
use std::ops::Range;

pub(crate) use address::AddressSet;
pub(crate) use bytes::ByteSet;
pub(crate) use checks::Identity;
pub(crate) use injection::is_shortened;
pub(crate) use pattern::Pattern;
pub(crate) use phrases::Phrases;
pub(crate) use sql::may_be_sql;
pub(crate) use translate::translate;

use crate::seclang::template::Template;

/// An operator with its argument.
#[derive(Debug)]
pub(crate) enum Operator {
    /// One whose argument is text, perhaps with macros.
    Text(TextTest, Template),
    Address(AddressSet),
    ByteRange(ByteSet),
    DetectSqli,
    DetectXss,
    Identity(Identity, Pattern),
    /// Never matches: what it asks for (GeoIP data, DNS lists) is not there.
    Never,
    Phrases(Phrases),
    Pattern(Pattern),
    /// A pattern with macros.
    PatternTemplate(Template),
    UnconditionalMatch,
    ValidateUrlEncoding,
    ValidateUtf8,
}

/// A comparison of a value with text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TextTest {
    BeginsWith,
    Contains,
    ContainsWord,
    EndsWith,
    Equal,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
    StringEqual,
    Within,
}

/// What a match captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Captured {
    /// The operator captures nothing.
    Nothing,
    /// Where in the value the groups stand, the whole match first.
    Groups(Vec<Option<Range<usize>>>),
    /// The whole value.
    Whole,
    /// Text that is not in the value.
    Text(Vec<u8>),
    /// The operator could not come to an answer; the rule counts as matched, negated or not: checks fail closed.
    Undecided,
}

/// Whether a caller wants to know what was captured; that costs more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Capture {
    Wanted,
    NotWanted,
}

impl Operator {
    /// Tests a value. `argument` is the filled-in text of [`Operator::Text`] and [`Operator::PatternTemplate`].
    pub(crate) fn test(&self, value: &[u8], argument: &[u8], capture: Capture) -> Option<Captured> {
        let plain = |matched: bool| matched.then_some(Captured::Nothing);
        match self {
            Self::Text(test, _) => plain(test.test(value, argument)),
            Self::Address(set) => plain(address::parse(value).is_some_and(|address: IpAddr| set.contains(address))),
            Self::ByteRange(allowed) => plain(!value.iter().all(|byte| allowed.contains(*byte))),
            Self::DetectSqli => injection::sqli(value),
            Self::DetectXss => injection::xss(value),
            Self::Identity(identity, pattern) => pattern.find_valid(value, |digits| identity.is_valid(digits)),
            Self::Never => None,
            Self::Phrases(phrases) => phrases.find(value).map(|range| Captured::Groups(vec![Some(range)])),
            Self::Pattern(pattern) => pattern.test(value, capture),
            Self::PatternTemplate(_) => Pattern::compile(&String::from_utf8_lossy(argument)).ok()?.test(value, capture),
            Self::UnconditionalMatch => Some(Captured::Nothing),
            Self::ValidateUrlEncoding => plain(!crate::transform::is_valid_percent_encoding(value)),
            Self::ValidateUtf8 => plain(std::str::from_utf8(value).is_err()),
        }
    }

    /// How much a byte of the value costs, against the plainest of tests.
    pub(crate) fn cost(&self) -> usize {
        match self {
            Self::Text(..) | Self::Address(_) | Self::ByteRange(_) | Self::Never | Self::UnconditionalMatch => 1,
            Self::ValidateUrlEncoding | Self::ValidateUtf8 | Self::Phrases(_) => 1,
            Self::Pattern(pattern) if pattern.linear().is_none() => 50,
            Self::Pattern(_) | Self::PatternTemplate(_) | Self::Identity(..) => 2,
            Self::DetectSqli | Self::DetectXss => 8,
        }
    }

    /// The text to be filled in before a test.
    pub(crate) fn template(&self) -> Option<&Template> {
        match self {
            Self::Text(_, template) | Self::PatternTemplate(template) => Some(template),
            Self::Address(_)
            | Self::ByteRange(_)
            | Self::DetectSqli
            | Self::DetectXss
            | Self::Identity(..)
            | Self::Never
            | Self::Phrases(_)
            | Self::Pattern(_)
            | Self::UnconditionalMatch
            | Self::ValidateUrlEncoding
            | Self::ValidateUtf8 => None,
        }
    }
}

impl TextTest {
    pub(crate) fn parse(name: &str) -> Option<Self> {
        Some(match name.to_ascii_lowercase().as_str() {
            "beginswith" => Self::BeginsWith,
            "contains" | "strmatch" => Self::Contains,
            "containsword" => Self::ContainsWord,
            "endswith" => Self::EndsWith,
            "eq" => Self::Equal,
            "gt" => Self::Greater,
            "ge" => Self::GreaterOrEqual,
            "lt" => Self::Less,
            "le" => Self::LessOrEqual,
            "streq" => Self::StringEqual,
            "within" => Self::Within,
            _ => return None,
        })
    }

    /// Compares a value with the filled-in argument.
    pub(crate) fn test(self, value: &[u8], argument: &[u8]) -> bool {
        let numbers = || (integer(value), integer(argument));
        let within = |haystack: &[u8], needle: &[u8]| match haystack.len() {
            // A searcher takes longer to build than a short text to search.
            0..=SHORT => needle.is_empty() || haystack.windows(needle.len()).any(|part| part == needle),
            _ => memchr::memmem::find(haystack, needle).is_some(),
        };
        match self {
            Self::BeginsWith => value.starts_with(argument),
            Self::Contains => within(value, argument),
            Self::ContainsWord => contains_word(value, argument),
            Self::EndsWith => value.ends_with(argument),
            Self::Equal => numbers().0 == numbers().1,
            Self::Greater => numbers().0 > numbers().1,
            Self::GreaterOrEqual => numbers().0 >= numbers().1,
            Self::Less => numbers().0 < numbers().1,
            Self::LessOrEqual => numbers().0 <= numbers().1,
            Self::StringEqual => value == argument,
            Self::Within => within(argument, value),
        }
    }
}

/// Texts up to so many bytes are searched without a searcher.
const SHORT: usize = 64;

/// A number as C's `atoi` reads it: leading white space, a sign, digits, then anything; no digits are zero.
pub(crate) fn integer(text: &[u8]) -> i64 {
    let text = text.trim_ascii_start();
    let (negative, digits) = match text.split_first() {
        Some((b'-', rest)) => (true, rest),
        Some((b'+', rest)) => (false, rest),
        Some(_) | None => (false, text),
    };
    let digits = digits.iter().take_while(|byte| byte.is_ascii_digit());
    let value = digits.fold(0i64, |value, digit| value.saturating_mul(10).saturating_add(i64::from(digit & 15)));
    if negative { value.saturating_neg() } else { value }
}

fn contains_word(value: &[u8], word: &[u8]) -> bool {
    let boundary = |byte: Option<&u8>| byte.is_none_or(|byte| !byte.is_ascii_alphanumeric() && *byte != b'_');
    word.is_empty()
        || memchr::memmem::find_iter(value, word).any(|at| {
            boundary(at.checked_sub(1).and_then(|before| value.get(before))) && boundary(value.get(at + word.len()))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(test: TextTest, cases: &[(&str, &str, bool)]) {
        for (value, argument, expected) in cases {
            assert_eq!(test.test(value.as_bytes(), argument.as_bytes()), *expected, "{test:?} {value} {argument}");
        }
    }

    #[test]
    fn texts_are_compared() {
        check(TextTest::BeginsWith, &[("abc", "ab", true), ("abc", "b", false), ("", "", true), ("a", "", true)]);
        check(TextTest::Contains, &[("abc", "b", true), ("abc", "B", false), ("abc", "", true)]);
        check(
            TextTest::ContainsWord,
            &[("a select b", "select", true), ("selected", "select", false), ("x.select", "select", true)],
        );
        check(TextTest::EndsWith, &[("abc", "bc", true), ("abc", "b", false), ("abc", "", true)]);
        check(TextTest::StringEqual, &[("a", "a", true), ("a", "A", false)]);
        check(TextTest::Within, &[("GET", "GET POST", true), ("", "GET", true), ("PUT", "GET POST", false)]);
    }

    #[test]
    fn numbers_are_compared_as_atoi_reads_them() {
        check(
            TextTest::Equal,
            &[("10", "10", true), ("", "0", true), ("x", "0", true), ("5abc", "5", true), (" 7", "7", true)],
        );
        check(TextTest::Less, &[("-1", "0", true), ("2", "10", true), ("10", "10", false)]);
        check(TextTest::GreaterOrEqual, &[("10", "10", true), ("9", "10", false)]);
        check(TextTest::Greater, &[("99999999999999999999", "1", true)]);
        check(TextTest::LessOrEqual, &[("1", "1", true)]);
    }

    #[test]
    fn validators_match_what_is_invalid() {
        let test = |operator: &Operator, value: &[u8]| operator.test(value, b"", Capture::NotWanted).is_some();
        for (value, expected) in [(&b"a%20b"[..], false), (b"a%2", true), (b"a%zz", true), (b"%", true), (b"", false)] {
            assert_eq!(test(&Operator::ValidateUrlEncoding, value), expected);
        }
        for (value, expected) in
            [("é".as_bytes(), false), (b"\xc0\xaf", true), (b"\xff", true), (b"\xed\xa0\x80", true)]
        {
            assert_eq!(test(&Operator::ValidateUtf8, value), expected);
        }
        let range = Operator::ByteRange(ByteSet::parse("32-126,9").unwrap());
        for (value, expected) in [(&b"abc\t"[..], false), (b"a\x01", true), (b"\xff", true), (b"", false)] {
            assert_eq!(test(&range, value), expected);
        }
    }

    #[test]
    fn injections_are_recognised() {
        let test = |operator: &Operator, value: &[u8]| operator.test(value, b"", Capture::Wanted);
        assert_eq!(test(&Operator::DetectSqli, b"1' or '1'='1"), Some(Captured::Text(b"s&sos".to_vec())));
        assert_eq!(test(&Operator::DetectSqli, b"plain words"), None);
        assert!(test(&Operator::DetectXss, b"<script>alert(1)</script>").is_some());
        assert_eq!(test(&Operator::DetectXss, b"a < b"), None);
    }
}
