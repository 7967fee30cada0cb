//! `/^_ga(?:_|$)/`: a pattern for the names of members, in any case.
//!
//! Most names fail at their first letters, which are compared without the engine: a rule about a few members of TX asks for
//! the name of every one.

use regex::bytes::{Regex, RegexBuilder};
use regex_syntax::hir::{Class, Hir, HirKind, Look};

/// A compiled pattern.
#[derive(Debug, Clone)]
pub(crate) struct NamePattern {
    regex: Regex,
    /// Whatever matches begins with this, in any case.
    prefix: Box<[u8]>,
    /// Whether whatever begins so matches.
    is_whole: bool,
    /// What matches is at least this long.
    least_bytes: usize,
}

impl NamePattern {
    pub(crate) fn parse(pattern: &str) -> Result<Self, String> {
        let translated = crate::operator::translate(pattern.as_bytes())?;
        let regex = RegexBuilder::new(&translated)
            .unicode(false)
            .case_insensitive(true)
            .dot_matches_new_line(true)
            .build()
            .map_err(|error| format!("member pattern /{pattern}/: {error}"))?;
        let parsed = regex_syntax::ParserBuilder::new()
            .unicode(false)
            .utf8(false)
            .case_insensitive(true)
            .dot_matches_new_line(true)
            .build()
            .parse(&translated);
        let (mut prefix, mut is_whole, mut least_bytes) = (Vec::new(), false, 0);
        // What cannot be looked into is left to the engine.
        if let Ok(parsed) = parsed {
            least_bytes = parsed.properties().minimum_len().unwrap_or(0);
            is_whole = begin(&parsed, &mut prefix);
        }
        Ok(Self { regex, prefix: prefix.into(), is_whole, least_bytes })
    }

    /// The pattern as the engine takes it.
    #[cfg(test)]
    pub(super) fn as_str(&self) -> &str {
        self.regex.as_str()
    }

    #[inline]
    pub(crate) fn is_match(&self, name: &[u8]) -> bool {
        name.len() >= self.least_bytes
            && name.get(..self.prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(&self.prefix))
            && (self.is_whole || self.regex.is_match(name))
    }
}

/// Writes the letters that stand behind `^` into `prefix`; true when nothing else is asked for.
fn begin(parsed: &Hir, prefix: &mut Vec<u8>) -> bool {
    let HirKind::Concat(parts) = parsed.kind() else { return false };
    let Some((HirKind::Look(Look::Start), rest)) = parts.split_first().map(|(first, rest)| (first.kind(), rest)) else {
        return false;
    };
    rest.iter().all(|part| letters(part, prefix))
}

/// Adds the one text that a part stands for, in any case; false when it may stand for others.
fn letters(part: &Hir, prefix: &mut Vec<u8>) -> bool {
    match part.kind() {
        // A letter that stands for itself alone is as good: what is compared in any case admits more, never less.
        HirKind::Literal(literal) => {
            prefix.extend_from_slice(&literal.0);
            !literal.0.iter().any(u8::is_ascii_alphabetic)
        }
        HirKind::Class(Class::Bytes(class)) => match class.ranges() {
            [upper, lower]
                if upper.len() == 1 && lower.len() == 1 && upper.start().to_ascii_lowercase() == lower.start() =>
            {
                prefix.push(lower.start());
                true
            }
            _ => false,
        },
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_compared_first_changes_no_answer() {
        let patterns = [
            "^header_name_920450_",
            "^_ga(?:_|$)",
            "MULTIPART_HEADERS_CONTENT_TYPES_*",
            "^sess",
            "^(?-i:ab)c",
            "x",
            "^",
            "^a|^b",
            "^a?b",
            "^[ab]c",
            "^a.c$",
        ];
        let names = [
            "",
            "a",
            "ab",
            "abc",
            "ABC",
            "aBC",
            "ABc",
            "abC",
            "b",
            "bc",
            "ac",
            "a.c",
            "axc",
            "x",
            "X",
            "sess",
            "SESSION",
            "asess",
            "_ga",
            "_ga_1",
            "_gac",
            "header_name_920450_host",
            "Header_Name_920450_",
            "header_name_92045",
            "multipart_headers_content_type",
            "multipart_headers_content_types",
            "a_multipart_headers_content_types_0",
        ];
        for pattern in patterns {
            let compiled = NamePattern::parse(pattern).unwrap();
            let plain = RegexBuilder::new(pattern).unicode(false).case_insensitive(true).build().unwrap();
            for name in names {
                assert_eq!(compiled.is_match(name.as_bytes()), plain.is_match(name.as_bytes()), "/{pattern}/ {name}");
            }
        }
        let whole = |pattern: &str| NamePattern::parse(pattern).map(|pattern| pattern.is_whole);
        assert_eq!((whole("^header_1_"), whole("^_ga(?:_|$)")), (Ok(true), Ok(false)));
    }
}
