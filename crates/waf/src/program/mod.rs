//! The compiled rule set: immutable, shared by every transaction.

mod compile;
mod draft;
mod operator;
pub(crate) mod rule;
pub(crate) mod rule_set;
pub(crate) mod settings;

pub(crate) use compile::compile;

use crate::error::Note;
use crate::seclang::action::Phase;
use rule::Rule;
use settings::Settings;

/// Everything a transaction runs by.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) settings: Settings,
    /// Heads and links in file order; the links of a chain follow its head.
    pub(crate) rules: Vec<Rule>,
    phases: [Vec<Entry>; 5],
    pub(crate) notes: Vec<Note>,
}

/// A head in its phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) rule: usize,
    /// Where in the phase `skip` and `skipAfter` lead.
    pub(crate) skip_to: Option<usize>,
}

impl Program {
    pub(crate) fn phase(&self, phase: Phase) -> &[Entry] {
        self.phases.get(phase.index()).map_or(&[], Vec::as_slice)
    }

    /// A head and its links.
    pub(crate) fn chain(&self, head: usize) -> &[Rule] {
        let rules = self.rules.get(head..).unwrap_or_default();
        let links = rules.iter().take_while(|rule| rule.actions.chained).count();
        rules.get(..=links).unwrap_or(rules)
    }
}
