//! The texts that a document was read from: where an octet is in lines and columns, and which octets are never shown.

use crate::{Place, node::Span};
use std::{
    ops::Range,
    path::{Path as FilePath, PathBuf},
};

/// The text of every file that was read.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    files: Vec<Source>,
}

#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) path: PathBuf,
    pub(crate) text: String,
    line_starts: Vec<usize>,
}

/// Whole lines of a source, ready to be shown: `line` is the number of the first one.
pub(crate) struct Excerpt {
    pub(crate) text: String,
    pub(crate) line: usize,
    /// Where the excerpt begins in its source.
    pub(crate) start: usize,
}

impl Sources {
    pub(crate) fn push(&mut self, path: &FilePath, text: String) {
        let line_starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        self.files.push(Source { path: path.to_owned(), text, line_starts });
    }

    pub(crate) fn len(&self) -> usize {
        self.files.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    pub(crate) fn get(&self, span: &Span) -> Option<&Source> {
        self.files.get(span.file)
    }

    pub(crate) fn place(&self, span: &Span) -> Option<Place> {
        let source = self.get(span)?;
        let line = source.line_of(span.range.start);
        let before = source.text.get(source.start_of(line)..span.range.start).unwrap_or_default();
        Some(Place { file: source.path.clone(), line, column: before.chars().count() + 1 })
    }
}

impl Source {
    /// Lines count from 1.
    pub(crate) fn line_of(&self, at: usize) -> usize {
        self.line_starts.partition_point(|start| *start <= at).max(1)
    }

    fn start_of(&self, line: usize) -> usize {
        self.line_starts.get(line.saturating_sub(1)).copied().unwrap_or(self.text.len())
    }

    /// The lines from one offset to another, with what is secret in them blotted out octet by octet, so that spans fit.
    pub(crate) fn excerpt(&self, range: Range<usize>, secrets: &[Range<usize>]) -> Excerpt {
        let line = self.line_of(range.start);
        let start = self.start_of(line);
        let end = self.start_of(self.line_of(range.end.max(range.start)) + 1);
        let shown = self.text.get(start..end).unwrap_or_default();
        let hides = |at: usize| secrets.iter().any(|secret| secret.contains(&at));
        let near = secrets.iter().any(|secret| secret.start < end && start < secret.end);
        let text = if near {
            let blot = |(at, c): (usize, char)| {
                let plain = matches!(c, '"' | '\'' | '\n' | '\r') || !hides(start + at);
                if plain { c.to_string() } else { "*".repeat(c.len_utf8()) }
            };
            shown.char_indices().map(blot).collect()
        } else {
            shown.to_owned()
        };
        Excerpt { text: text.trim_end_matches(['\n', '\r']).to_owned(), line, start }
    }

    /// What looks like a secret in a text that has no tree, because it is not TOML.
    pub(crate) fn likely_secrets(&self) -> Vec<Range<usize>> {
        let mut found = Vec::new();
        for (index, start) in self.line_starts.iter().enumerate() {
            let end = self.line_starts.get(index + 1).copied().unwrap_or(self.text.len());
            let line = self.text.get(*start..end).unwrap_or_default();
            let mut from = 0;
            // Inline tables have several keys on one line.
            while let Some(equals) = line.get(from..).and_then(|rest| rest.find('=')).map(|at| from + at) {
                let key = line.get(from..equals).unwrap_or_default();
                from = equals + 1;
                if !sounds_secret(key) {
                    continue;
                }
                let value = line.get(from..).unwrap_or_default().trim_start();
                // A reference names a place and is no secret; the inner keys follow on the same line.
                if value.starts_with('{') {
                    continue;
                }
                let long = ["\"\"\"", "'''"].into_iter().find(|quote| value.starts_with(quote));
                let stop = match long {
                    Some(quote) => {
                        let open = start + line.len() - value.len() + quote.len();
                        self.text.get(open..).and_then(|rest| rest.find(quote)).map_or(self.text.len(), |at| open + at)
                    }
                    None => end,
                };
                found.push(start + from..stop);
                break;
            }
        }
        found
    }
}

/// Whether a key is named like one that holds a secret.
pub(crate) fn sounds_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    let mut words = key.split(|c: char| !c.is_ascii_alphanumeric());
    ["secret", "passw", "token", "credential"].iter().any(|part| key.contains(part))
        || words.any(|word| matches!(word, "key" | "keys" | "apikey" | "pin" | "psk" | "pass"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        let mut sources = Sources::default();
        sources.push(FilePath::new("a.toml"), text.to_owned());
        sources.files.remove(0)
    }

    #[test]
    fn an_excerpt_is_whole_lines_with_secrets_blotted_out() {
        let source = source("a = 1\nkey = \"höhle\"\nb = 2\n");
        let secrets = std::slice::from_ref(&(12..20));
        let excerpt = source.excerpt(6..9, secrets);
        assert_eq!((excerpt.text.as_str(), excerpt.line, excerpt.start), ("key = \"******\"", 2, 6));
        assert_eq!(source.excerpt(0..0, secrets).text, "a = 1");
        assert_eq!(source.excerpt(900..950, &[]).text, "");
    }

    #[test]
    fn a_text_that_is_not_toml_still_hides_what_looks_secret() {
        for (text, hidden) in [
            ("key = \"hunter2\n", "hunter2"),
            ("x = { host = \"a\", client_secret = \"hunter2\" ]\n", "hunter2"),
            ("password = '''\nhunter2\n'''\nb = [\n", "hunter2"),
        ] {
            let source = source(text);
            let shown = source.excerpt(0..text.len(), &source.likely_secrets()).text;
            assert!(!shown.contains(hidden), "{shown}");
        }
        let source = source("key = { file = \"certs/a.key\" }\nhosts = [\"x\"\n");
        assert!(source.likely_secrets().is_empty());
    }

    #[test]
    fn keys_sound_secret_by_their_last_word() {
        for yes in ["key", "client_secret", "keys", "api_key", "Password", "token"] {
            assert!(sounds_secret(yes), "{yes}");
        }
        for no in ["keepalive", "monkey_bars", "path", "ping", "wieght", "upstream"] {
            assert!(!sounds_secret(no), "{no}");
        }
    }
}
