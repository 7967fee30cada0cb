//! What became of every rule: the answer to "why was this refused" and to "why was it not".

use crate::program::rule::Rule;
use crate::seclang::action::Phase;
use crate::seclang::template::Template;

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
    /// `file:line`.
    pub place: String,
    /// `msg`, with `…` for what would be filled in.
    pub message: String,
    /// Rules in the chain; 1 for a rule on its own.
    pub links: usize,
    /// When it was its turn.
    pub phase: Phase,
    /// What came of it.
    pub outcome: TraceOutcome,
    /// The tests made, in order; the first ones, when there are many.
    pub tests: Vec<TestTrace>,
    /// Tests that were made but are not in the list.
    pub more: usize,
    /// The scores it changed, and by how much.
    pub scores: Vec<(String, i64)>,
}

/// Every member of TX that speaks of a score.
pub(super) type Scores = Vec<(String, i64)>;

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
    /// A rule whose turn it is; `chain` begins with its head.
    pub(super) fn begin(&mut self, chain: &[Rule], outcome: TraceOutcome) {
        let Some(head) = chain.first().filter(|_| self.rules.len() < RULES) else { return };
        self.rules.push(RuleTrace {
            rule: head.id,
            place: head.origin.to_string(),
            message: head.actions.message.as_ref().map(Template::outline).unwrap_or_default(),
            links: chain.len(),
            phase: head.phase,
            outcome,
            tests: Vec::new(),
            more: 0,
            scores: Vec::new(),
        });
    }

    /// What the rule at hand did to the scores.
    pub(super) fn scores(&mut self, before: &Scores, after: Scores) {
        let Some(rule) = self.rules.last_mut() else { return };
        let old = |name: &str| before.iter().find(|(known, _)| known == name).map_or(0, |(_, score)| *score);
        let changes = after.into_iter().map(|(name, score)| (old(&name), name, score));
        let changes = changes.map(|(old, name, score)| (name, score.saturating_sub(old)));
        rule.scores = changes.filter(|(_, change)| *change != 0).collect();
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
