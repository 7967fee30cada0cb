//! `@detectSQLi`: libinjection's answers, without its allocations.
//!
//! The tokenizer is that of `libinjectionrs`; looking words up, folding tokens and judging their fingerprint is done here,
//! with nothing on the heap. The crate's own detector is the oracle: a test compares the two over a fuzz corpus.

mod fold;
mod gate;
mod lexicon;

use libinjectionrs::sqli::{SqliFlags, Token, TokenType};

use fold::Folded;
pub(crate) use gate::may_be_sql;

/// The kinds of the tokens of a statement, as text: `1&sos`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fingerprint {
    text: [u8; fold::MOST + 1],
    len: usize,
}

impl Fingerprint {
    fn of(tokens: &[Token]) -> Self {
        let mut text = [0; fold::MOST + 1];
        for (place, token) in text.iter_mut().zip(tokens) {
            *place = u8::try_from(token.token_type.to_char()).unwrap_or(b'?');
        }
        let len = tokens.len().min(text.len());
        if text.contains(&b'X') {
            // A construct that only attacks use stands for the whole.
            return Self { text: *b"X\0\0\0\0\0", len: 1 };
        }
        Self { text, len }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.text.get(..self.len).unwrap_or_default()
    }
}

/// The fingerprint of a value that reads like part of an SQL statement: as it stands, or after an opening quote.
pub(super) fn detect(value: &[u8]) -> Option<Fingerprint> {
    if value.is_empty() {
        return None;
    }
    let ansi = |quote: SqliFlags| quote | SqliFlags::FLAG_SQL_ANSI;
    let mysql = |quote: SqliFlags| quote | SqliFlags::FLAG_SQL_MYSQL;
    let either = |quote: SqliFlags| {
        let first = fold::fold(value, ansi(quote));
        // MySQL takes other things for comments.
        judge(value, &first).or_else(|| {
            let again = first.reads_otherwise_in_mysql.then(|| fold::fold(value, mysql(quote)));
            judge(value, &again?)
        })
    };
    either(SqliFlags::FLAG_QUOTE_NONE)
        .or_else(|| value.contains(&b'\'').then(|| either(SqliFlags::FLAG_QUOTE_SINGLE))?)
        .or_else(|| {
            let folded = value.contains(&b'"').then(|| fold::fold(value, mysql(SqliFlags::FLAG_QUOTE_DOUBLE)));
            judge(value, &folded?)
        })
}

fn judge(value: &[u8], folded: &Folded) -> Option<Fingerprint> {
    let fingerprint = Fingerprint::of(folded.tokens());
    (lexicon::is_fingerprint(fingerprint.as_bytes()) && !is_harmless(value, folded, fingerprint)).then_some(fingerprint)
}

/// Fingerprints of few tokens are also those of ordinary text.
fn is_harmless(value: &[u8], folded: &Folded, fingerprint: Fingerprint) -> bool {
    let fingerprint = fingerprint.as_bytes();
    let comments = fingerprint.len() > 1 && fingerprint.ends_with(b"c");
    if comments && std::str::from_utf8(value).is_ok() && mentions_sp_password(value) {
        return false;
    }
    match (fingerprint, folded.tokens()) {
        ([_, kind], [first, second]) => is_harmless_pair(value, folded.read, *kind, first, second),
        ([_, _, _], [first, second, third]) => is_harmless_triple(fingerprint, folded.read, first, second, third),
        _ => false,
    }
}

/// A password of SQL Server's is not written to its log: who says so in a comment has something to hide.
fn mentions_sp_password(value: &[u8]) -> bool {
    const WORD: &[u8] = b"sp_password";
    value.windows(WORD.len()).any(|part| part.eq_ignore_ascii_case(WORD))
}

fn is_harmless_pair(value: &[u8], read: usize, kind: u8, first: &Token, second: &Token) -> bool {
    let [mark, ..] = second.val;
    let comments = second.token_type == TokenType::Comment;
    if kind == b'U' {
        // `1 union` and nothing folded away.
        return read == 2;
    }
    if mark == b'#' {
        return true;
    }
    match first.token_type {
        TokenType::Bareword if comments && mark != b'/' => return true,
        TokenType::Number if comments => return mark != b'/' && read <= 2 && !ends_in_comment(value, first.len),
        _ => {}
    }
    // `1--` ends a statement, `1-- foo` may be prose.
    second.len > 2 && mark == b'-'
}

/// Whether a comment, or the blank before it, stands where the number before it would end at the beginning of the value.
fn ends_in_comment(value: &[u8], at: usize) -> bool {
    let Some((next, rest)) = value.get(at..).and_then(<[u8]>::split_first) else { return false };
    // As in C, where characters are signed.
    let blank = *next <= b' ' || *next >= 0x80;
    blank || matches!((next, rest.first()), (b'/', Some(b'*')) | (b'-', Some(b'-')))
}

fn is_harmless_triple(fingerprint: &[u8], read: usize, first: &Token, second: &Token, third: &Token) -> bool {
    match fingerprint {
        b"sos" | b"s&s" => {
            // `…foo" + "bar…`
            let joins = first.str_open == 0 && third.str_close == 0 && first.str_close == third.str_open;
            return !joins;
        }
        // `sexy and 17`
        b"s&n" | b"n&1" | b"1&1" | b"1&v" | b"1&s" if read == 3 => return true,
        _ => {}
    }
    second.token_type == TokenType::Keyword && (second.len < 5 || !second.val.starts_with(b"INTO"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use libinjectionrs::SqliState;

    fn oracle(value: &[u8]) -> Option<Vec<u8>> {
        let mut state = SqliState::new(value, SqliFlags::FLAG_NONE);
        state.detect().then(|| state.fingerprint.iter().copied().take_while(|byte| *byte != 0).collect())
    }

    #[track_caller]
    fn agree(value: &[u8]) -> bool {
        let (own, theirs) = (detect(value), oracle(value));
        assert_eq!(
            own.as_ref().map(Fingerprint::as_bytes).map(<[u8]>::escape_ascii).map(|text| text.to_string()),
            theirs.as_deref().map(<[u8]>::escape_ascii).map(|text| text.to_string()),
            "{}",
            value.escape_ascii()
        );
        own.is_some()
    }

    const PIECES: [&str; 128] = [
        "1",
        "a",
        "or",
        "union",
        "select",
        "from",
        "users",
        " ",
        " ",
        " ",
        "\t",
        "\n",
        "-",
        "--",
        "-- ",
        "/*",
        "*/",
        "=",
        "<",
        ">",
        ",",
        ".",
        ";",
        "and",
        "not",
        "null",
        "like",
        "0x1f",
        "1.5e3",
        "e",
        "x",
        "%",
        "!",
        "&&",
        "||",
        ":",
        "[",
        "]",
        "{",
        "}",
        "?",
        "^",
        "~",
        "+",
        "\x0b",
        "\u{a0}",
        "case",
        "when",
        "then",
        "end",
        "sleep",
        "if",
        "IF",
        "date",
        "current",
        "group",
        "by",
        "order",
        "having",
        "1limit",
        "drop",
        "table",
        "t1",
        "with",
        "as",
        "where",
        "is",
        "mod",
        "left",
        "count",
        "on",
        "into",
        "outfile",
        "INTO",
        "for",
        "index",
        "asc",
        "'",
        "'",
        "\"",
        "\"",
        "`",
        "(",
        "(",
        ")",
        ")",
        "#",
        "@",
        "@@",
        "$",
        "$$",
        "\\",
        "\\'",
        "''",
        "::",
        "int",
        "in",
        "in boolean mode",
        "not in",
        "user",
        "user_id",
        "database",
        "password",
        "current_user",
        "collate",
        "latin1_bin",
        "q'(",
        ")'",
        "n'",
        "x'1f'",
        "b'01'",
        "u&'",
        "e'",
        "sp_password",
        "waitfor",
        "delay",
        "exec",
        "declare",
        "/*!",
        "{x",
        "{``",
        "@`",
        "<=>",
        "!!",
        "!=",
        "1d",
        "é",
        "convert",
    ];

    /// Over statements put together at random, and bytes at random.
    #[test]
    fn the_answers_are_those_of_libinjection() {
        // A fixed generator (Knuth's constants): the test is the same every time.
        let mut seed = 7u64;
        let mut draw = |most: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as usize % most
        };
        let mut found = 0;
        let rounds = std::env::var("PORTCULLIS_MUTATIONS").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
        for _ in 0..rounds * 60_000 {
            let value: String = (0..1 + draw(11)).map(|_| PIECES[draw(PIECES.len())]).collect();
            let value = if draw(3) == 0 { value.to_uppercase() } else { value };
            found += usize::from(agree(value.as_bytes()));
        }
        for _ in 0..rounds * 20_000 {
            let value: Vec<u8> = (0..draw(14)).map(|_| draw(256) as u8).collect();
            agree(&value);
        }
        assert!(found > 2_000, "{found}");
    }

    #[test]
    fn ordinary_and_hostile_values_are_told_apart() {
        for (value, expected) in [
            ("1' or '1'='1", Some("s&sos")),
            ("1 union select 2", Some("1UE1")),
            ("Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0", None),
            ("", None),
            ("1 and 1", None),
            ("{``.``.id}", Some("X")),
            ("1--", Some("1c")),
        ] {
            let found = detect(value.as_bytes());
            let text = found.as_ref().map(|found| String::from_utf8_lossy(found.as_bytes()));
            assert_eq!(text.as_deref(), expected, "{value}");
            agree(value.as_bytes());
        }
    }
}
