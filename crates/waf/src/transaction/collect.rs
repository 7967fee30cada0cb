//! The values one rule looks at, collected before it runs: a match may change what they came from.

use std::sync::Arc;

use super::values::Sink;
use crate::program::rule_set::RuleSet;
use crate::seclang::target::{Selector, Target};
use crate::seclang::variable::Variable;

/// The memory of a list for values that live elsewhere: an iterator over nothing is collected in place.
pub(super) fn emptied<'to>(mut list: Vec<Value<'_>>) -> Vec<Value<'to>> {
    list.clear();
    list.into_iter().map_while(|_| None).collect()
}

/// The values of one rule.
pub(super) struct Values<'t> {
    pub(super) list: Vec<Value<'t>>,
    pub(super) kept: Vec<u8>,
}

/// A value of a variable, with its member name if it is one of many.
#[derive(Debug, Clone, Copy)]
pub(super) struct Value<'t> {
    variable: Variable,
    member: Option<Bytes<'t>>,
    bytes: Bytes<'t>,
}

/// Text of the facts, or kept beside the list.
#[derive(Debug, Clone, Copy)]
enum Bytes<'t> {
    Fact(&'t [u8]),
    Kept { start: usize, end: usize },
}

/// A value to look at.
pub(super) struct View<'v> {
    variable: Variable,
    member: Option<&'v [u8]>,
    pub(super) bytes: &'v [u8],
}

impl<'t> Values<'t> {
    pub(super) fn keep(&mut self, variable: Variable, member: Option<&[u8]>, bytes: &[u8]) {
        let mut keep = |bytes: &[u8]| {
            let start = self.kept.len();
            self.kept.extend_from_slice(bytes);
            Bytes::Kept { start, end: self.kept.len() }
        };
        let (member, bytes) = (member.map(&mut keep), keep(bytes));
        self.list.push(Value { variable, member, bytes });
    }
}

impl<'t> Bytes<'t> {
    fn get<'v>(&self, kept: &'v [u8]) -> &'v [u8]
    where
        't: 'v,
    {
        match self {
            Self::Fact(bytes) => bytes,
            Self::Kept { start, end } => kept.get(*start..*end).unwrap_or_default(),
        }
    }
}

impl<'t> Value<'t> {
    pub(super) fn view<'v>(&self, kept: &'v [u8]) -> View<'v>
    where
        't: 'v,
    {
        View {
            variable: self.variable,
            member: self.member.as_ref().map(|member| member.get(kept)),
            bytes: self.bytes.get(kept),
        }
    }
}

impl View<'_> {
    /// `ARGS:q`.
    pub(super) fn write_name(&self, full: &mut Vec<u8>) {
        write_name(full, self.variable, self.member);
    }
}

pub(super) fn write_name(full: &mut Vec<u8>, variable: Variable, member: Option<&[u8]>) {
    full.extend_from_slice(variable.name().as_bytes());
    if let Some(member) = member {
        full.push(b':');
        full.extend_from_slice(member);
    }
}

/// What a rule does not look at, by its own text and by what other rules took from it.
#[derive(Clone, Copy)]
pub(super) struct Exclusions<'e> {
    pub(super) written: &'e [Target],
    pub(super) removed: &'e [Arc<(RuleSet, Target)>],
    pub(super) head: usize,
}

impl Exclusions<'_> {
    fn exclude(&self, variable: Variable, member: Option<&[u8]>) -> bool {
        if self.written.is_empty() && self.removed.is_empty() {
            return false;
        }
        let removed = self.removed.iter().filter(|removal| removal.0.contains(self.head)).map(|removal| &removal.1);
        self.written.iter().chain(removed).any(|target| {
            target.variable == variable
                && match member {
                    Some(member) => target.selector.admits(member),
                    None => matches!(target.selector, Selector::All),
                }
        })
    }
}

pub(super) struct Collect<'c, 't> {
    pub(super) values: &'c mut Values<'t>,
    pub(super) exclusions: Exclusions<'c>,
}

impl<'t> Sink<'t> for Collect<'_, 't> {
    fn fact(&mut self, variable: Variable, member: Option<&'t [u8]>, bytes: &'t [u8]) {
        if !self.exclusions.exclude(variable, member) {
            let (member, bytes) = (member.map(Bytes::Fact), Bytes::Fact(bytes));
            self.values.list.push(Value { variable, member, bytes });
        }
    }

    fn fleeting(&mut self, variable: Variable, member: Option<&[u8]>, bytes: &[u8]) {
        if !self.exclusions.exclude(variable, member) {
            self.values.keep(variable, member, bytes);
        }
    }
}

pub(super) struct Count<'c> {
    pub(super) count: usize,
    pub(super) exclusions: Exclusions<'c>,
}

impl<'t> Sink<'t> for Count<'_> {
    fn fact(&mut self, variable: Variable, member: Option<&'t [u8]>, bytes: &'t [u8]) {
        self.fleeting(variable, member, bytes);
    }

    fn fleeting(&mut self, variable: Variable, member: Option<&[u8]>, _: &[u8]) {
        self.count += usize::from(!self.exclusions.exclude(variable, member));
    }
}
