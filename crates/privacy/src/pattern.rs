//! A pattern of the operator's own, held to what can be searched for in a stream: of bounded length, and within one line.

use crate::boundary::Search;
use regex_automata::{Input, meta};
use regex_syntax::hir::{Class, ClassBytes, ClassBytesRange, Hir, HirKind, Look};
use std::fmt;

/// Compiled once.
#[derive(Clone)]
pub(crate) struct Pattern {
    regex: meta::Regex,
    longest: usize,
}

/// So much of a body is held back at most while a match may go on.
pub(crate) const LENGTH_MAX: usize = 256;
/// What compiling one may cost in memory.
const SIZE_MAX: usize = 2 << 20;

impl Pattern {
    /// The error says what is wrong with it, and the way out.
    pub(crate) fn compile(text: &str) -> Result<Self, (String, &'static str)> {
        let parsed = regex_syntax::ParserBuilder::new().unicode(false).utf8(false).build().parse(text);
        let hir = parsed.map_err(|error| {
            let what = error.to_string();
            (
                what.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned(),
                "letters beyond ASCII can only be written outside of classes",
            )
        })?;
        let hir = within_a_line(&hir).ok_or_else(|| {
            ("the pattern spans lines".to_owned(), "what is searched for in a stream stands on one line")
        })?;
        let properties = hir.properties();
        if properties.look_set().contains(Look::Start) || properties.look_set().contains(Look::End) {
            return Err((
                "`^` and `$` mean the beginning and end of a body, which comes in pieces".to_owned(),
                "use `\\b`, or `(?m)` for those of lines",
            ));
        }
        if properties.minimum_len() == Some(0) {
            return Err((
                "the pattern matches nothing at all, which is everywhere".to_owned(),
                "require at least one character",
            ));
        }
        let longest = match properties.maximum_len() {
            Some(longest) if longest <= LENGTH_MAX => longest,
            Some(longest) => {
                return Err((
                    format!("a match can have {longest} octets, and {LENGTH_MAX} are the most"),
                    "give a lower bound: {1,32}",
                ));
            }
            None => {
                return Err(("a match has no longest length".to_owned(), "give bounds instead of `*` and `+`: {0,32}"));
            }
        };
        let config = meta::Config::new().nfa_size_limit(Some(SIZE_MAX)).utf8_empty(false);
        let regex = meta::Builder::new()
            .configure(config)
            .build_from_hir(&hir)
            .map_err(|error| (error.to_string(), "make it smaller"))?;
        Ok(Self { regex, longest })
    }

    pub(crate) fn search(&self, text: &[u8], from: usize, end: bool) -> Search {
        // From a place before here every match is decided: it ends with its line, or there is room for the longest one and
        // for the octet after it.
        let decided = if end {
            text.len()
        } else {
            let line = memchr::memrchr(b'\n', text).map_or(0, |at| at + 1);
            line.max(text.len().saturating_sub(self.longest))
        };
        if decided <= from {
            return Search::ClearUpTo(from);
        }
        match self.regex.search(&Input::new(text).span(from..text.len())) {
            Some(found) if found.start() < decided => Search::Found(found.start(), found.end()),
            _ => Search::ClearUpTo(decided),
        }
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pattern").field("longest", &self.longest).finish_non_exhaustive()
    }
}

/// The same without the end of a line in any of its classes; `None` when it is demanded.
fn within_a_line(hir: &Hir) -> Option<Hir> {
    Some(match hir.kind() {
        HirKind::Empty => Hir::empty(),
        HirKind::Look(look) => Hir::look(*look),
        HirKind::Literal(literal) if literal.0.contains(&b'\n') => return None,
        HirKind::Literal(literal) => Hir::literal(literal.0.clone()),
        HirKind::Class(Class::Bytes(class)) => {
            let mut class = class.clone();
            class.difference(&ClassBytes::new([ClassBytesRange::new(b'\n', b'\n')]));
            if class.ranges().is_empty() {
                return None;
            }
            Hir::class(Class::Bytes(class))
        }
        HirKind::Class(Class::Unicode(class)) => {
            let mut class = class.clone();
            let line = regex_syntax::hir::ClassUnicodeRange::new('\n', '\n');
            class.difference(&regex_syntax::hir::ClassUnicode::new([line]));
            if class.ranges().is_empty() {
                return None;
            }
            Hir::class(Class::Unicode(class))
        }
        HirKind::Repetition(repetition) => {
            let mut own = repetition.clone();
            own.sub = Box::new(within_a_line(&repetition.sub)?);
            Hir::repetition(own)
        }
        HirKind::Capture(capture) => within_a_line(&capture.sub)?,
        HirKind::Concat(parts) => Hir::concat(parts.iter().map(within_a_line).collect::<Option<_>>()?),
        HirKind::Alternation(parts) => Hir::alternation(parts.iter().map(within_a_line).collect::<Option<_>>()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_searched_for_in_a_stream_is_refused() {
        for (text, message) in [
            ("B[0-9", "unclosed character class"),
            ("B[0-9]+", "no longest length"),
            ("B[0-9]{300}", "301 octets"),
            ("^B", "beginning and end"),
            ("x?", "everywhere"),
            ("a\\nb", "spans lines"),
            ("[a-z]{200}[a-z]{99}", "299 octets"),
        ] {
            let (error, _) = Pattern::compile(text).unwrap_err();
            assert!(error.contains(message), "{text}: {error}");
        }
    }

    #[test]
    fn matches_stay_within_their_line() {
        let pattern = Pattern::compile("\\bB[^x]{2,7}z").unwrap();
        assert_eq!(pattern.search(b"B12\n34z B12z ", 0, true), Search::Found(8, 12));
        assert_eq!(pattern.search(b"aB12z", 0, true), Search::ClearUpTo(5));
        assert_eq!(pattern.search(b"quite some text without any\nB", 0, false), Search::ClearUpTo(28));
    }
}
