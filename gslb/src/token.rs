//! The text of a zone file cut into entries and tokens (RFC 1035 §5.1): comments, quotes, escapes, parentheses. Knows no records.

use crate::name::unescape;

/// One word of an entry, its escapes left in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) text: Vec<u8>,
    pub(crate) quoted: bool,
    /// Both from 1.
    pub(crate) line: usize,
    pub(crate) column: usize,
}

/// What stands on one line, or on several between parentheses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) line: usize,
    /// The line begins with a blank: the owner is the one before.
    pub(crate) indented: bool,
    pub(crate) tokens: Vec<Token>,
}

/// A text that cannot be cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TokenError {
    pub(crate) line: usize,
    pub(crate) column: usize,
    pub(crate) message: &'static str,
}

/// Tokens of one entry. A TXT record of the largest size has fewer.
const TOKENS_MAX: usize = 4_096;

impl Token {
    pub(crate) fn str(&self) -> Option<&str> {
        std::str::from_utf8(&self.text).ok()
    }

    /// The octets that are meant; `None` for a broken escape.
    pub(crate) fn unescaped(&self) -> Option<Vec<u8>> {
        let mut out = Vec::with_capacity(self.text.len());
        let mut rest = self.text.iter().copied();
        while let Some(octet) = rest.next() {
            out.push(if octet == b'\\' { unescape(&mut rest)? } else { octet });
        }
        Some(out)
    }
}

/// Cuts a text into entries.
#[derive(Debug)]
pub(crate) struct Tokens<'t> {
    text: &'t [u8],
    at: usize,
    line: usize,
    line_start: usize,
}

impl<'t> Tokens<'t> {
    pub(crate) fn new(text: &'t [u8]) -> Self {
        Self { text, at: 0, line: 1, line_start: 0 }
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn wrong(&self, message: &'static str) -> TokenError {
        TokenError { line: self.line, column: self.at - self.line_start + 1, message }
    }

    fn newline(&mut self) {
        self.at += 1;
        self.line += 1;
        self.line_start = self.at;
    }

    fn skip_line(&mut self) {
        while self.peek().is_some_and(|b| b != b'\n') {
            self.at += 1;
        }
    }

    /// The next entry that has a token.
    fn entry(&mut self) -> Result<Option<Entry>, TokenError> {
        let mut entry = Entry { line: self.line, ..Entry::default() };
        let mut parentheses = 0usize;
        loop {
            let Some(octet) = self.peek() else {
                if parentheses > 0 {
                    return Err(self.wrong("a parenthesis is not closed"));
                }
                return Ok((!entry.tokens.is_empty()).then_some(entry));
            };
            match octet {
                b'\n' => {
                    self.newline();
                    if parentheses == 0 {
                        if !entry.tokens.is_empty() {
                            return Ok(Some(entry));
                        }
                        entry = Entry { line: self.line, ..Entry::default() };
                    }
                }
                b' ' | b'\t' | b'\r' => {
                    entry.indented |= self.at == self.line_start && entry.tokens.is_empty() && parentheses == 0;
                    self.at += 1;
                }
                b';' => self.skip_line(),
                b'(' => {
                    parentheses += 1;
                    self.at += 1;
                }
                b')' => {
                    parentheses = parentheses.checked_sub(1).ok_or_else(|| self.wrong("`)` without `(`"))?;
                    self.at += 1;
                }
                _ => {
                    if entry.tokens.len() >= TOKENS_MAX {
                        return Err(self.wrong("too many words in one entry"));
                    }
                    let token = self.token()?;
                    entry.tokens.push(token);
                }
            }
        }
    }

    fn token(&mut self) -> Result<Token, TokenError> {
        let mut token = Token {
            text: Vec::new(),
            quoted: self.peek() == Some(b'"'),
            line: self.line,
            column: self.at - self.line_start + 1,
        };
        if token.quoted {
            self.quoted(&mut token.text)?;
            return Ok(token);
        }
        while let Some(octet) = self.peek() {
            match octet {
                b' ' | b'\t' | b'\r' | b'\n' | b';' | b'(' | b')' => break,
                // `alpn="h2,h3"` is one word (RFC 9460 §2.1).
                b'"' if token.text.last() == Some(&b'=') => self.quoted(&mut token.text)?,
                b'"' => break,
                b'\\' => self.escape(&mut token.text)?,
                _ => {
                    token.text.push(octet);
                    self.at += 1;
                }
            }
        }
        Ok(token)
    }

    fn escape(&mut self, out: &mut Vec<u8>) -> Result<(), TokenError> {
        let next = self.text.get(self.at + 1).copied().filter(|b| *b != b'\n');
        let next = next.ok_or_else(|| self.wrong("a `\\` at the end of the line"))?;
        out.extend([b'\\', next]);
        self.at += 2;
        Ok(())
    }

    fn quoted(&mut self, out: &mut Vec<u8>) -> Result<(), TokenError> {
        let open = self.wrong("a quote is not closed");
        self.at += 1;
        loop {
            match self.peek() {
                None | Some(b'\n') => return Err(open),
                Some(b'"') => break,
                Some(b'\\') => self.escape(out)?,
                Some(octet) => {
                    out.push(octet);
                    self.at += 1;
                }
            }
        }
        self.at += 1;
        Ok(())
    }
}

impl Iterator for Tokens<'_> {
    type Item = Result<Entry, TokenError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.entry() {
            Ok(entry) => entry.map(Ok),
            Err(error) => {
                // One broken line is one error; the next line is read again.
                self.skip_line();
                Some(Err(error))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<Vec<String>> {
        let word = |token: &Token| String::from_utf8(token.text.clone()).unwrap();
        Tokens::new(text.as_bytes())
            .map(|entry| match entry {
                Ok(entry) => entry.tokens.iter().map(word).collect(),
                Err(error) => vec![format!("{}:{} {}", error.line, error.column, error.message)],
            })
            .collect()
    }

    #[test]
    fn rfc1035_5_1_entries_are_lines_unless_in_parentheses() {
        for (text, expected) in [
            ("a b\nc", vec![vec!["a", "b"], vec!["c"]]),
            ("a ( b ; note\n c )\nd", vec![vec!["a", "b", "c"], vec!["d"]]),
            ("\n ; only a note\n\n", vec![]),
            ("t \"x y\" \"\\\"z;\"", vec![vec!["t", "x y", "\\\"z;"]]),
            ("a\\;b a\\ b", vec![vec!["a\\;b", "a\\ b"]]),
            ("k alpn=\"h2,h3\" port=1", vec![vec!["k", "alpn=h2,h3", "port=1"]]),
            ("a \"b\nc", vec![vec!["1:3 a quote is not closed"], vec!["c"]]),
            ("a (b", vec![vec!["1:5 a parenthesis is not closed"]]),
            ("a )\nb", vec![vec!["1:3 `)` without `(`"], vec!["b"]]),
            ("a\r\nb\r\n", vec![vec!["a"], vec!["b"]]),
        ] {
            assert_eq!(words(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_blank_at_the_start_of_a_line_is_told() {
        let told: Vec<_> = Tokens::new(b"a b\n c\n(\n d )").map(|entry| entry.unwrap()).collect();
        assert_eq!(
            told.iter().map(|entry| (entry.line, entry.indented)).collect::<Vec<_>>(),
            [(1, false), (2, true), (3, false)]
        );
    }
}
