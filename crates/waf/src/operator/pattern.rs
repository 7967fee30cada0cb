//! `@rx`: a PCRE pattern run by a linear-time engine on bytes.
//!
//! The dialect is ModSecurity 2's: `.` matches newlines, `^` and `$` mean the whole value, bytes are not characters.

use regex::bytes::{Regex, RegexBuilder};

use super::{Capture, Captured, translate};

/// The largest compiled program; none of the Core Rule Set needs more than the engine's default of 10 MiB.
const PROGRAM_LIMIT_BYTES: usize = 32 << 20;

/// ModSecurity keeps TX.0 to TX.9.
const GROUPS: usize = 10;

/// A compiled pattern.
#[derive(Debug, Clone)]
pub(crate) struct Pattern {
    regex: Regex,
}

impl Pattern {
    pub(crate) fn compile(text: &str) -> Result<Self, String> {
        RegexBuilder::new(&translate(text.as_bytes())?)
            .unicode(false)
            .dot_matches_new_line(true)
            .size_limit(PROGRAM_LIMIT_BYTES)
            .build()
            .map(|regex| Self { regex })
            .map_err(|error| format!("pattern: {error}"))
    }

    pub(crate) fn is_match(&self, value: &[u8]) -> bool {
        self.regex.is_match(value)
    }

    pub(crate) fn test(&self, value: &[u8], capture: Capture) -> Option<Captured> {
        match capture {
            Capture::NotWanted => self.is_match(value).then_some(Captured::Nothing),
            Capture::Wanted => {
                // The plain search has cheaper prefilters than the one that keeps positions, and most values match nothing.
                if !self.is_match(value) {
                    return None;
                }
                let groups = self.regex.captures(value)?;
                Some(Captured::Groups(
                    groups.iter().take(GROUPS).map(|group| group.map(|group| group.range())).collect(),
                ))
            }
        }
    }

    /// The first match that also passes `valid`.
    pub(crate) fn find_valid(&self, value: &[u8], valid: impl Fn(&[u8]) -> bool) -> Option<Captured> {
        let found = self.regex.find_iter(value).find(|found| valid(found.as_bytes()))?;
        Some(Captured::Groups(vec![Some(found.range())]))
    }
}
