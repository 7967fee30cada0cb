//! SecLang text cut into statements: a directive's name, its words and the line it began on.
//!
//! Knows continuation lines, comments and quotes, but no directive by name.

use std::sync::Arc;

use crate::error::{Origin, Problems};

/// One directive with its arguments, quotes removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Statement {
    pub(crate) origin: Origin,
    pub(crate) name: String,
    pub(crate) words: Vec<String>,
}

/// Cuts a whole file.
pub(crate) fn statements(file: &Arc<str>, text: &str, problems: &mut Problems) -> Vec<Statement> {
    let mut found = Vec::new();
    for (line, logical) in logical_lines(text) {
        let origin = Origin { file: Arc::clone(file), line };
        match words(&logical) {
            Ok(mut words) if !words.is_empty() => {
                let name = words.remove(0);
                found.push(Statement { origin, name, words });
            }
            Ok(_) => {}
            Err(message) => problems.error(&origin, message),
        }
    }
    found
}

/// Lines joined at a trailing backslash, without blank lines and comments.
///
/// A comment ends with its line even when that ends in a backslash: a commented-out directive must not swallow the
/// live one after it.
fn logical_lines(text: &str) -> Vec<(u32, String)> {
    let mut found = Vec::new();
    let mut open: Option<(u32, String)> = None;
    for (number, line) in (1u32..).zip(text.lines()) {
        let line = line.strip_suffix('\r').unwrap_or(line);
        if open.is_none() && (line.trim().is_empty() || line.trim_start().starts_with('#')) {
            continue;
        }
        let (first, mut joined) = open.take().unwrap_or((number, String::new()));
        match line.trim_end().strip_suffix('\\') {
            Some(kept) => {
                joined.push_str(kept);
                open = Some((first, joined));
            }
            None => {
                joined.push_str(line);
                found.push((first, joined));
            }
        }
    }
    found.extend(open);
    found
}

/// Splits at white space; a word that opens with a quote ends at the same quote.
///
/// Only an escaped quote is unescaped. `\\` stays two bytes: the rules in the field are written for readers that leave
/// regular expressions alone.
fn words(line: &str) -> Result<Vec<String>, String> {
    let mut found = Vec::new();
    let mut rest = line.trim_start();
    while let Some(first) = rest.chars().next() {
        let (word, tail) = match first {
            '"' | '\'' => quoted(rest.get(1..).unwrap_or_default(), first)
                .ok_or_else(|| format!("a quote ({first}) is never closed; a line may lack its trailing backslash"))?,
            _ => {
                let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
                let (word, tail) = rest.split_at(end);
                (word.to_owned(), tail)
            }
        };
        found.push(word);
        rest = tail.trim_start();
    }
    Ok(found)
}

fn quoted(text: &str, quote: char) -> Option<(String, &str)> {
    let mut word = String::new();
    let mut chars = text.char_indices().peekable();
    while let Some((at, char)) = chars.next() {
        match char {
            '\\' => match chars.next() {
                Some((_, next)) if next == quote => word.push(next),
                Some((_, next)) => word.extend(['\\', next]),
                None => return None,
            },
            _ if char == quote => return text.get(at + char.len_utf8()..).map(|rest| (word, rest)),
            _ => word.push(char),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> (Vec<(u32, String, Vec<String>)>, Vec<String>) {
        let mut problems = Problems::default();
        let found = statements(&Arc::from("t.conf"), text, &mut problems);
        let found = found.into_iter().map(|s| (s.origin.line, s.name, s.words)).collect();
        (found, problems.errors.iter().map(ToString::to_string).collect())
    }

    #[track_caller]
    fn check(text: &str, expected: &[&str]) {
        let (found, errors) = parse(text);
        assert_eq!(errors, Vec::<String>::new());
        let (_, name, words) = found.into_iter().next().unwrap();
        assert_eq!(std::iter::once(name).chain(words).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn words_are_split_and_unquoted() {
        check("SecRuleEngine On", &["SecRuleEngine", "On"]);
        check("  SecMarker\t\"END X\"  ", &["SecMarker", "END X"]);
        check(r#"SecRule A "@rx a\"b" "id:1""#, &["SecRule", "A", "@rx a\"b", "id:1"]);
        check(r#"SecRule A "@rx a\\b\d" "id:1""#, &["SecRule", "A", r"@rx a\\b\d", "id:1"]);
        check("SecRule A \\\n  \"@rx x\" \\\n  \"id:1,\\\n  phase:2\"", &["SecRule", "A", "@rx x", "id:1,  phase:2"]);
        check("SecRule A \\\r\n  \"@rx x\" \\\r\n \"id:1\"\r\n", &["SecRule", "A", "@rx x", "id:1"]);
        check("SecMarker 'a b'", &["SecMarker", "a b"]);
    }

    #[test]
    fn a_comment_ends_with_its_line() {
        let (found, errors) = parse("# a \\\nSecRuleEngine On\n\n  # b\nSecMarker X");
        assert_eq!(errors, Vec::<String>::new());
        assert_eq!(
            found.iter().map(|(line, name, _)| (*line, name.as_str())).collect::<Vec<_>>(),
            [(2, "SecRuleEngine"), (5, "SecMarker")]
        );
    }

    #[test]
    fn an_open_quote_is_an_error_with_its_line() {
        let (_, errors) = parse("\nSecMarker \"x\nSecRuleEngine On");
        assert_eq!(errors, ["t.conf:2: a quote (\") is never closed; a line may lack its trailing backslash"]);
    }
}
