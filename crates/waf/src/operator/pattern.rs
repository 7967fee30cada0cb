//! `@rx`: a PCRE pattern run by a linear-time engine on bytes, or by a bounded backtracker where it needs one.
//!
//! The dialect is ModSecurity 2's: `.` matches newlines, `^` and `$` mean the whole value, bytes are not characters.

use regex::bytes::{Regex, RegexBuilder};

use super::backtrack::{Backtrack, Found};
use super::{Capture, Captured, translate};

/// The largest compiled program; none of the Core Rule Set needs more than the engine's default of 10 MiB.
const PROGRAM_LIMIT_BYTES: usize = 32 << 20;

/// ModSecurity keeps TX.0 to TX.9.
const GROUPS: usize = 10;

/// A compiled pattern.
#[derive(Debug, Clone)]
pub(crate) struct Pattern {
    engine: Engine,
}

#[derive(Debug, Clone)]
enum Engine {
    Linear {
        regex: Regex,
        /// The pattern in the dialect of the `regex` crate.
        text: Box<str>,
    },
    Backtracking(Box<Backtrack>),
    /// `^.*$`: matches anything, as a whole.
    Anything,
}

impl Pattern {
    pub(crate) fn compile(text: &str) -> Result<Self, String> {
        if matches!(text, "^.*$" | ".*" | "^.*") {
            return Ok(Self { engine: Engine::Anything });
        }
        let translated = match translate(text.as_bytes()) {
            Ok(translated) => translated,
            // What the linear engine cannot say, the other one may.
            Err(error) => {
                let pattern = Backtrack::compile(text).map_err(|why| format!("{error}: {why}"))?;
                return Ok(Self { engine: Engine::Backtracking(Box::new(pattern)) });
            }
        };
        RegexBuilder::new(&translated)
            .unicode(false)
            .dot_matches_new_line(true)
            .size_limit(PROGRAM_LIMIT_BYTES)
            .build()
            .map(|regex| Self { engine: Engine::Linear { regex, text: translated.into() } })
            .map_err(|error| format!("pattern: {error}"))
    }

    /// Only what a linear engine can run.
    pub(crate) fn compile_linear(text: &str) -> Result<Self, String> {
        translate(text.as_bytes())?;
        Self::compile(text)
    }

    /// The pattern in the dialect of the `regex` crate, when a linear engine runs it.
    pub(crate) fn linear(&self) -> Option<&str> {
        match &self.engine {
            Engine::Linear { text, .. } => Some(text),
            Engine::Anything => Some("^.*$"),
            Engine::Backtracking(_) => None,
        }
    }

    pub(crate) fn is_match(&self, value: &[u8]) -> bool {
        match &self.engine {
            Engine::Linear { regex, .. } => regex.is_match(value),
            Engine::Backtracking(pattern) => pattern.find(value) != Found::No,
            Engine::Anything => true,
        }
    }

    pub(crate) fn test(&self, value: &[u8], capture: Capture) -> Option<Captured> {
        let regex = match &self.engine {
            Engine::Linear { regex, .. } => regex,
            Engine::Anything => return Some(Captured::Whole),
            Engine::Backtracking(pattern) => {
                return match pattern.find(value) {
                    Found::No => None,
                    Found::At(groups) => Some(Captured::Groups(groups)),
                    Found::Exhausted => Some(Captured::Undecided),
                };
            }
        };
        // The plain search has cheaper prefilters than the one that keeps positions, and most values match nothing.
        if !regex.is_match(value) {
            return None;
        }
        match capture {
            Capture::NotWanted => Some(Captured::Nothing),
            Capture::Wanted => {
                let groups = regex.captures(value)?;
                Some(Captured::Groups(
                    groups.iter().take(GROUPS).map(|group| group.map(|group| group.range())).collect(),
                ))
            }
        }
    }

    /// The first match that also passes `valid`. Only for patterns of [`Pattern::compile_linear`].
    pub(crate) fn find_valid(&self, value: &[u8], valid: impl Fn(&[u8]) -> bool) -> Option<Captured> {
        match &self.engine {
            Engine::Linear { regex, .. } => {
                let found = regex.find_iter(value).find(|found| valid(found.as_bytes()))?;
                Some(Captured::Groups(vec![Some(found.range())]))
            }
            Engine::Backtracking(_) | Engine::Anything => None,
        }
    }
}
