//! What became of every rule: the answer to "why was this refused" and to "why was it not".

use crate::seclang::action::Phase;

use super::audit::EXCERPT_BYTES;

/// Tests kept of one rule.
const TESTS: usize = 64;

/// Rules kept of one transaction.
const RULES: usize = 20_000;

/// A rule, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct RuleTrace {
    /// The rule's id; of a chain, the head's.
    pub rule: u32,
    /// When it was its turn.
    pub phase: Phase,
    /// What came of it.
    pub outcome: TraceOutcome,
    /// The tests made, in order; the first ones, when there are many.
    pub tests: Vec<TestTrace>,
    /// Tests that were made but are not in the list.
    pub more: usize,
}

/// What came of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TraceOutcome {
    /// It matched, with all its links.
    Matched,
    /// It was run and did not match.
    NotMatched,
    /// Another rule, or an exclusion, took it out of this transaction.
    Removed,
    /// The prefilter found nothing in the transaction that it could match.
    RuledOut,
}

/// One value before one rule or link.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct TestTrace {
    /// Zero for the head of a chain, then its links.
    pub link: usize,
    /// `ARGS:q`.
    pub variable: String,
    /// The value after transformations, cut to [`EXCERPT_BYTES`]; bytes that are not UTF-8 are replaced.
    pub value: String,
    /// Whether the rule, or link, matched it.
    pub matched: bool,
}

/// The trace of one transaction in the making.
#[derive(Debug, Default)]
pub(super) struct Tracer {
    rules: Vec<RuleTrace>,
}

impl Tracer {
    pub(super) fn begin(&mut self, rule: u32, phase: Phase, outcome: TraceOutcome) {
        if self.rules.len() < RULES {
            self.rules.push(RuleTrace { rule, phase, outcome, tests: Vec::new(), more: 0 });
        }
    }

    pub(super) fn end(&mut self, outcome: TraceOutcome) {
        if let Some(rule) = self.rules.last_mut() {
            rule.outcome = outcome;
        }
    }

    pub(super) fn test(&mut self, link: usize, variable: &[u8], value: &[u8], matched: bool) {
        let Some(rule) = self.rules.last_mut() else { return };
        if rule.tests.len() >= TESTS {
            rule.more += 1;
            return;
        }
        let variable = String::from_utf8_lossy(variable).into_owned();
        let value = String::from_utf8_lossy(value.get(..EXCERPT_BYTES).unwrap_or(value)).into_owned();
        rule.tests.push(TestTrace { link, variable, value, matched });
    }

    pub(super) fn finish(self) -> Vec<RuleTrace> {
        self.rules
    }
}
