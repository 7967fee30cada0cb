//! Patterns that no linear-time engine runs: look-around, back-references, atomic groups.
//!
//! A backtracking matcher that never visits the same place twice, with a budget of steps. Within the budget the answer is
//! exact; beyond it the value counts as a match, for a pattern must not be passed by making it slow.

mod parse;

use std::collections::HashSet;
use std::ops::Range;

use super::ByteSet;

/// Steps allowed for any value.
const STEPS: usize = 500_000;

/// Further steps for each byte of the value.
const STEPS_PER_BYTE: usize = 16;

/// ModSecurity keeps TX.0 to TX.9.
const GROUPS: usize = 10;

/// A compiled pattern.
#[derive(Debug, Clone)]
pub(super) struct Backtrack {
    program: Vec<Step>,
    /// Bytes a match can begin with; `None` when it can be empty or begin with anything.
    first: Option<ByteSet>,
    /// The groups that back-references name.
    referred: Vec<usize>,
}

/// One step; a step without a target goes on with the next.
#[derive(Debug, Clone)]
enum Step {
    Bytes(ByteSet),
    /// Tries the first, then the second.
    Split(usize, usize),
    Jump(usize),
    Save(usize),
    Assert(Assertion),
    BackReference {
        group: usize,
        case: Case,
    },
    /// The steps up to `end` are tried where it stands.
    Look {
        sense: Sense,
        behind: Vec<usize>,
        end: usize,
    },
    /// The steps up to `end` match once, for good.
    Atomic {
        end: usize,
    },
    Accept,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sense {
    Wanted,
    Unwanted,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Case {
    Sensitive,
    Ignored,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Assertion {
    Start,
    End,
    EndOrNewline,
    WordBoundary,
    NoWordBoundary,
}

type Groups = [Option<usize>; GROUPS * 2];

/// What a search found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    No,
    At(Vec<Option<Range<usize>>>),
    /// The steps are used up.
    Exhausted,
}

impl Backtrack {
    pub(super) fn compile(pattern: &str) -> Result<Self, String> {
        let (program, referred) = parse::parse(pattern.as_bytes())?;
        let mut pattern = Self { program, first: None, referred };
        let mut first = ByteSet::default();
        if pattern.first_bytes(0, &mut HashSet::new(), &mut first).is_some() {
            pattern.first = Some(first);
        }
        Ok(pattern)
    }

    /// Collects the bytes a match can begin with from one step on; `None` when there is no telling.
    fn first_bytes(&self, at: usize, seen: &mut HashSet<usize>, first: &mut ByteSet) -> Option<()> {
        if !seen.insert(at) {
            return Some(());
        }
        match self.program.get(at)? {
            Step::Bytes(set) => *first = first.union(*set),
            Step::Split(one, other) => {
                self.first_bytes(*one, seen, first)?;
                self.first_bytes(*other, seen, first)?;
            }
            Step::Jump(to) => self.first_bytes(*to, seen, first)?,
            Step::Save(_) | Step::Assert(_) => self.first_bytes(at + 1, seen, first)?,
            Step::Look { end, .. } => self.first_bytes(*end, seen, first)?,
            Step::BackReference { .. } | Step::Atomic { .. } | Step::Accept => return None,
        }
        Some(())
    }

    /// The leftmost match.
    pub(super) fn find(&self, value: &[u8]) -> Found {
        let steps = STEPS.saturating_add(value.len().saturating_mul(STEPS_PER_BYTE));
        let mut search = Search { pattern: self, value, steps, seen: HashSet::new() };
        for start in 0..=value.len() {
            if self.first.is_some_and(|first| value.get(start).is_none_or(|byte| !first.contains(*byte))) {
                continue;
            }
            let mut groups = Groups::default();
            match search.run(0, start, &mut groups, None) {
                Ok(Some(end)) => {
                    let group = |pair: &[Option<usize>]| match pair {
                        [Some(from), Some(to)] => Some(*from..*to),
                        _ => None,
                    };
                    let mut found: Vec<_> = groups.chunks(2).map(group).collect();
                    if let Some(whole) = found.first_mut() {
                        *whole = Some(start..end);
                    }
                    return Found::At(found);
                }
                Ok(None) => {}
                Err(Exhausted) => return Found::Exhausted,
            }
        }
        Found::No
    }
}

struct Exhausted;

/// A place in a search: step, position, and what the back-references would see.
type Place = (usize, usize, [Option<usize>; 4]);

struct Search<'v> {
    pattern: &'v Backtrack,
    value: &'v [u8],
    steps: usize,
    /// Places from which no match is to be had.
    seen: HashSet<Place>,
}

enum Job {
    Go { at: usize, position: usize },
    Restore { slot: usize, old: Option<usize> },
}

impl Search<'_> {
    /// Runs from a step to `Accept`, or to the end of the group that `end` names; gives the position reached.
    fn run(
        &mut self,
        from: usize,
        start: usize,
        groups: &mut Groups,
        end: Option<usize>,
    ) -> Result<Option<usize>, Exhausted> {
        let mut jobs = vec![Job::Go { at: from, position: start }];
        while let Some(job) = jobs.pop() {
            let (mut at, mut position) = match job {
                Job::Go { at, position } => (at, position),
                Job::Restore { slot, old } => {
                    if let Some(place) = groups.get_mut(slot) {
                        *place = old;
                    }
                    continue;
                }
            };
            loop {
                if end == Some(at) {
                    return Ok(Some(position));
                }
                self.steps = self.steps.checked_sub(1).ok_or(Exhausted)?;
                let Some(step) = self.pattern.program.get(at) else { break };
                // Only where paths divide can a place be reached twice.
                if matches!(step, Step::Split(..)) && !self.seen.insert((at, position, self.referred(groups))) {
                    break;
                }
                match step {
                    Step::Accept => return Ok(Some(position)),
                    Step::Bytes(set) => match self.value.get(position) {
                        Some(byte) if set.contains(*byte) => position += 1,
                        Some(_) | None => break,
                    },
                    Step::Split(first, second) => {
                        jobs.push(Job::Go { at: *second, position });
                        at = *first;
                        continue;
                    }
                    Step::Jump(to) => {
                        at = *to;
                        continue;
                    }
                    Step::Save(slot) => {
                        if let Some(place) = groups.get_mut(*slot) {
                            jobs.push(Job::Restore { slot: *slot, old: place.replace(position) });
                        }
                    }
                    Step::Assert(assertion) if self.holds(*assertion, position) => {}
                    Step::Assert(_) => break,
                    Step::BackReference { group, case } => match self.refer(*group, *case, position, groups) {
                        Some(after) => position = after,
                        None => break,
                    },
                    Step::Look { sense, behind, end } => {
                        let found = self.look(at + 1, *end, behind, position, groups)?;
                        if found != (*sense == Sense::Wanted) {
                            break;
                        }
                        at = *end;
                        continue;
                    }
                    Step::Atomic { end } => match self.nested(at + 1, *end, position, groups)? {
                        Some(after) => {
                            position = after;
                            at = *end;
                            continue;
                        }
                        None => break,
                    },
                }
                at += 1;
            }
        }
        Ok(None)
    }

    fn referred(&self, groups: &Groups) -> [Option<usize>; 4] {
        let mut key = [None; 4];
        let slots = self.pattern.referred.iter().flat_map(|group| [group * 2, group * 2 + 1]);
        for (place, slot) in key.iter_mut().zip(slots) {
            *place = groups.get(slot).copied().flatten();
        }
        key
    }

    /// A part on its own: what was seen outside says nothing about it.
    fn nested(
        &mut self,
        from: usize,
        end: usize,
        position: usize,
        groups: &mut Groups,
    ) -> Result<Option<usize>, Exhausted> {
        let outside = std::mem::take(&mut self.seen);
        let reached = self.run(from, position, groups, Some(end));
        self.seen = outside;
        reached
    }

    fn look(
        &mut self,
        from: usize,
        end: usize,
        behind: &[usize],
        position: usize,
        groups: &mut Groups,
    ) -> Result<bool, Exhausted> {
        if behind.is_empty() {
            return Ok(self.nested(from, end, position, groups)?.is_some());
        }
        for length in behind {
            let Some(start) = position.checked_sub(*length) else { continue };
            if self.nested(from, end, start, groups)? == Some(position) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn refer(&self, group: usize, case: Case, position: usize, groups: &Groups) -> Option<usize> {
        let (from, to) = (groups.get(group * 2).copied()??, groups.get(group * 2 + 1).copied()??);
        let wanted = self.value.get(from..to)?;
        let after = position.checked_add(wanted.len())?;
        let there = self.value.get(position..after)?;
        let equal = match case {
            Case::Sensitive => there == wanted,
            Case::Ignored => there.eq_ignore_ascii_case(wanted),
        };
        equal.then_some(after)
    }

    fn holds(&self, assertion: Assertion, position: usize) -> bool {
        let word = |at: Option<usize>| {
            at.and_then(|at| self.value.get(at)).is_some_and(|byte| super::translate::is_word(*byte))
        };
        let boundary = || word(position.checked_sub(1)) != word(Some(position));
        let rest = self.value.get(position..).unwrap_or_default();
        match assertion {
            Assertion::Start => position == 0,
            Assertion::End => rest.is_empty(),
            Assertion::EndOrNewline => matches!(rest, [] | [b'\n']),
            Assertion::WordBoundary => boundary(),
            Assertion::NoWordBoundary => !boundary(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pattern: &str, cases: &[(&str, Option<&str>)]) {
        let compiled = Backtrack::compile(pattern).unwrap();
        for (value, expected) in cases {
            let found = match compiled.find(value.as_bytes()) {
                Found::At(groups) => groups[0].clone().map(|range| &value[range]),
                Found::No => None,
                Found::Exhausted => panic!("exhausted"),
            };
            assert_eq!(found, *expected, "{pattern} {value}");
        }
    }

    #[test]
    fn looking_around_takes_nothing() {
        check(r"<\?(?!xml)", &[("<?php", Some("<?")), ("<?xml <?=", Some("<?")), ("<?xml", None), ("<?", Some("<?"))]);
        check(r"a(?=b)", &[("ab", Some("a")), ("ac", None)]);
        check(
            r"(?<!&(?:[aA]uml)|&(?:amp));|['=]",
            &[("&auml;", None), ("&amp;x", None), (";", Some(";")), ("a='", Some("=")), ("uml;", Some(";"))],
        );
        check(r"(?<=a|bc)d", &[("ad", Some("d")), ("bcd", Some("d")), ("cd", None)]);
        check(r"^(?!a)\w+$", &[("abc", None), ("bca", Some("bca"))]);
    }

    #[test]
    fn groups_are_referred_to() {
        check(r"(\w+)=\1", &[("abc=abc", Some("abc=abc")), ("abc=abd", None), ("xab=ab", Some("ab=ab"))]);
        check(r"(?i)(a)x\1", &[("AXa", Some("AXa"))]);
        check(r"\b(\w+)\b\s*(?!\b\1\b)\w+", &[("a b", Some("a b")), ("a a", None)]);
    }

    #[test]
    fn repeats_take_and_give_as_in_pcre() {
        check(r"(?>a+)ab", &[("aaab", None)]);
        check(r"a++b", &[("aab", Some("aab"))]);
        check(r"a{2,3}?(?=a)", &[("aaaa", Some("aa"))]);
        check(r"(?:a|ab)(?:c|bcd)(?=$)", &[("abcd", Some("abcd"))]);
        check(r"(?:a*)*(?!b)", &[("aab", Some("a"))]);
        check(r"(?:)(?=x)", &[("ax", Some(""))]);
    }

    #[test]
    fn work_is_bounded_and_beyond_it_the_value_matches() {
        let slow = Backtrack::compile(r"(?:(?=.*.*.*.*x)a)*b").unwrap();
        assert_eq!(slow.find("a".repeat(3000).as_bytes()), Found::Exhausted);
        let fine = Backtrack::compile(r"(?:a|a)*(?!a)b").unwrap();
        assert_eq!(fine.find("a".repeat(3000).as_bytes()), Found::No);
    }

    #[test]
    fn what_cannot_be_bounded_is_refused() {
        for pattern in [r"(?<=a*)b", r"(?(1)a)", r"(?R)", r"(a)(?1)", "(a", "a)", "(?=a", r"(a)(b)(c)\1\2\3"] {
            assert!(Backtrack::compile(pattern).is_err(), "{pattern}");
        }
    }
}
