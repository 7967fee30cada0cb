//! What a transaction has to tell: interventions, matches and scores.

use std::sync::Arc;

use super::trace::RuleTrace;
use crate::seclang::action::{Phase, Severity};

/// How a rule ends a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response {
    /// An answer with this status.
    Deny {
        /// 403 unless the rule says otherwise.
        status: u16,
    },
    /// The connection is closed without an answer.
    Drop,
    /// Another place.
    Redirect {
        /// 302 unless the rule says otherwise.
        status: u16,
        /// The `Location`.
        location: String,
    },
}

/// Why the transaction must end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// This rule says so.
    Rule(u32),
    /// The request body is larger than `SecRequestBodyLimit`.
    RequestBodyLimit,
    /// The response body is larger than `SecResponseBodyLimit`.
    ResponseBodyLimit,
}

/// The end of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intervention {
    /// What the client gets.
    pub response: Response,
    /// Why.
    pub cause: Cause,
    /// When it was decided.
    pub phase: Phase,
}

/// A value that matched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// `ARGS:q`.
    pub variable: String,
    /// The value after transformations, cut to [`EXCERPT_BYTES`].
    pub excerpt: Vec<u8>,
    /// `logdata` filled in; empty when the rule has none.
    pub data: String,
}

/// The longest excerpt kept of a value.
pub const EXCERPT_BYTES: usize = 256;

/// The findings kept of one rule.
pub(crate) const FINDINGS: usize = 16;

/// A rule, or whole chain, that matched and is to be logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleMatch {
    /// The rule's id.
    pub id: u32,
    /// When it matched.
    pub phase: Phase,
    /// `msg` filled in.
    pub message: String,
    /// How bad the rule holds it to be.
    pub severity: Option<Severity>,
    /// The rule's tags.
    pub tags: Arc<[Box<str>]>,
    /// The rule's version.
    pub version: Option<Box<str>>,
    /// `file:line`.
    pub place: String,
    /// The values that matched; the first ones, when there are many.
    pub findings: Vec<Finding>,
}

/// The whole report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    /// Rules that matched, in order.
    pub matches: Vec<RuleMatch>,
    /// The numbers in TX whose names speak of a score, sorted by name.
    pub scores: Vec<(String, i64)>,
    /// What ended the transaction.
    pub intervention: Option<Intervention>,
    /// Whether the audit settings call for a line about this transaction.
    pub relevant: bool,
    /// What became of every rule, when [`Transaction::trace`](crate::Transaction::trace) asked for it.
    pub trace: Vec<RuleTrace>,
}
