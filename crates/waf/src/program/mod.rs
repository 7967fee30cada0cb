//! The compiled rule set: immutable, shared by every transaction.

mod compile;
mod draft;
mod operator;
pub(crate) mod rule;
pub(crate) mod rule_set;
pub(crate) mod settings;
pub(crate) mod tx_names;

pub(crate) use compile::compile;

use crate::accelerate::{Accelerator, ContentId};
use crate::body::FileContents;
use crate::error::Note;
use crate::seclang::action::Phase;
use crate::seclang::target::Slot;
use rule::Rule;
use settings::Settings;
use tx_names::TxNames;

/// Everything a transaction runs by.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) settings: Settings,
    /// Heads and links in file order; the links of a chain follow its head.
    pub(crate) rules: Vec<Rule>,
    phases: [Vec<Entry>; 5],
    pub(crate) notes: Vec<Note>,
    pub(crate) tx_names: TxNames,
    pub(crate) accelerator: Accelerator,
    /// Kept only where a rule looks: most rule sets judge files by their names.
    pub(crate) file_contents: FileContents,
}

/// A head in its phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) rule: usize,
    /// Where in the phase `skip` and `skipAfter` lead.
    pub(crate) skip_to: Option<usize>,
    /// Set for rules that only compare a member of TX and skip.
    pub(crate) gate: Option<Gate>,
    /// Set for rules that the prefilter knows.
    pub(crate) content: Option<ContentId>,
}

/// `TX:level "@lt 2"` without effects: it matches while the level is below a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gate {
    pub(crate) slot: Slot,
    pub(crate) below: i64,
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
