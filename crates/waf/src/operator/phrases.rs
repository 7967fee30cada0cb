//! Many phrases at once, in any case: `@pm` and `@pmFromFile`.

use std::ops::Range;

use aho_corasick::{AhoCorasick, MatchKind};

/// A compiled set of phrases.
#[derive(Debug)]
pub(crate) struct Phrases {
    automaton: AhoCorasick,
    list: Vec<Box<[u8]>>,
}

impl Phrases {
    /// Phrases separated by white space; `|41 42|` spells bytes.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let spelled = hex_runs(text.as_bytes())?;
        Self::build(spelled.split(u8::is_ascii_whitespace).filter(|phrase| !phrase.is_empty()))
    }

    /// One phrase per line; blank lines and those that begin with `#` are skipped.
    pub(crate) fn parse_lines<'a>(files: impl IntoIterator<Item = &'a [u8]>) -> Result<Self, String> {
        let lines = files.into_iter().flat_map(|file| file.split(|byte| *byte == b'\n'));
        Self::build(lines.map(<[u8]>::trim_ascii).filter(|line| !line.is_empty() && !line.starts_with(b"#")))
    }

    /// The phrases as written.
    pub(crate) fn list(&self) -> impl Iterator<Item = &[u8]> {
        self.list.iter().map(|phrase| &**phrase)
    }

    fn build<'a>(phrases: impl Iterator<Item = &'a [u8]>) -> Result<Self, String> {
        let list: Vec<Box<[u8]>> = phrases.map(Box::from).collect();
        AhoCorasick::builder()
            .ascii_case_insensitive(true)
            .match_kind(MatchKind::LeftmostLongest)
            .build(list.iter())
            .map(|automaton| Self { automaton, list })
            .map_err(|error| error.to_string())
    }

    pub(crate) fn find(&self, value: &[u8]) -> Option<Range<usize>> {
        self.automaton.find(value).map(|found| found.range())
    }
}

/// Replaces `|41 42|` by the bytes it spells.
fn hex_runs(text: &[u8]) -> Result<Vec<u8>, String> {
    let mut parts = text.split(|byte| *byte == b'|');
    let mut spelled = parts.next().unwrap_or_default().to_vec();
    while let (Some(run), Some(rest)) = (parts.next(), parts.next()) {
        let digits: Vec<u8> = run.iter().copied().filter(|byte| *byte != b' ').collect();
        let pairs = digits.chunks(2).map(crate::transform::hex_pair).collect::<Option<Vec<u8>>>();
        spelled.extend(pairs.ok_or("bytes between | and | must be pairs of hexadecimal digits")?);
        spelled.extend(rest);
    }
    Ok(spelled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phrases_are_found_in_any_case() {
        let phrases = Phrases::parse("select  UNION |41 42|c").unwrap();
        let cases =
            [("a Union b", Some(2..7)), ("SELECT", Some(0..6)), ("xabc", Some(1..4)), ("sel", None), ("", None)];
        for (value, expected) in cases {
            assert_eq!(phrases.find(value.as_bytes()), expected, "{value}");
        }
        let file: &[u8] = b"# comment\n\n  .git/config \r\nnode modules\n";
        let phrases = Phrases::parse_lines([file]).unwrap();
        assert_eq!(phrases.find(b"/.GIT/config"), Some(1..12));
        assert_eq!(phrases.find(b"node modules"), Some(0..12));
        assert_eq!(phrases.find(b"# comment"), None);
    }
}
