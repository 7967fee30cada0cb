//! What a transaction has to tell: interventions, matches and scores.

use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::trace::{RuleTrace, TraceOutcome};
use crate::seclang::action::{Phase, Severity};

/// How a rule ends a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// This rule says so.
    Rule(u32),
    /// The request body is larger than `SecRequestBodyLimit`.
    RequestBodyLimit,
    /// The response body is larger than `SecResponseBodyLimit`.
    ResponseBodyLimit,
    /// The transaction costs more work than its size earns.
    Work,
}

/// The end of a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Intervention {
    /// What the client gets.
    pub response: Response,
    /// Why.
    pub cause: Cause,
    /// When it was decided.
    pub phase: Phase,
}

/// A value that matched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// `ARGS:q`.
    pub variable: String,
    /// The value after transformations, cut to [`EXCERPT_BYTES`]; written as text, what is not UTF-8 replaced.
    #[serde(serialize_with = "lossy")]
    pub excerpt: Vec<u8>,
    /// `logdata` filled in; empty when the rule has none.
    pub data: String,
}

/// The longest excerpt kept of a value.
pub const EXCERPT_BYTES: usize = 256;

/// The findings kept of one rule.
pub(crate) const FINDINGS: usize = 16;

/// A rule, or whole chain, that matched and is to be logged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
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
    #[serde(serialize_with = "list")]
    pub tags: Arc<[Box<str>]>,
    /// The rule's version.
    pub version: Option<Box<str>>,
    /// `file:line`.
    pub place: String,
    /// What it added to the score.
    pub score: i64,
    /// The values that matched; the first ones, when there are many.
    pub findings: Vec<Finding>,
}

/// The whole report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Audit {
    /// Rules that matched, in order.
    pub matches: Vec<RuleMatch>,
    /// The numbers in TX whose names speak of a score, sorted by name; empty when nothing matched.
    #[serde(serialize_with = "map")]
    pub scores: Vec<(String, i64)>,
    /// What was not inspected, and why.
    pub cut: Vec<Cut>,
    /// The exclusions of the profile whose path and method were those of the request, by their place in the list.
    pub exclusions: Vec<usize>,
    /// What evaluation cost, in bytes looked at.
    pub work: u64,
    /// What ended the transaction.
    pub intervention: Option<Intervention>,
    /// In detection: the first rule that would have ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub would_refuse: Option<u32>,
    /// Whether the audit settings call for a line about this transaction.
    pub relevant: bool,
    /// What became of every rule, when [`Transaction::trace`](crate::Transaction::trace) asked for it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub trace: Vec<RuleTrace>,
}

impl Audit {
    /// Whether the rules are against it, whatever they may do about it.
    #[must_use]
    pub fn objects(&self) -> bool {
        self.intervention.is_some() || self.would_refuse.is_some()
    }

    /// Rules that nearly matched: at least one test of the chain did, the whole did not. Needs a trace.
    pub fn near_misses(&self) -> impl Iterator<Item = &RuleTrace> {
        let nearly =
            |rule: &&RuleTrace| rule.outcome == TraceOutcome::NotMatched && rule.tests.iter().any(|test| test.matched);
        self.trace.iter().filter(nearly)
    }
}

/// A part of a transaction that rules did not see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cut {
    /// The request body beyond its limit.
    RequestBody,
    /// The response body beyond its limit.
    ResponseBody,
    /// Arguments, members, cookies or parts beyond their number.
    Arguments,
    /// Of uploaded files, what lies between their first 16 KiB and their last 4, or beyond 256 KiB of all of them.
    Files,
    /// A body whose content encoding is not known, or is not what it says.
    Encoding,
    /// The ends of words of more than 256 bytes with dots or backticks, which `@detectSQLi` left out.
    Words,
    /// Tests not made: the transaction cost more than its size earns.
    Work {
        /// How many.
        tests: u64,
    },
}

impl Cut {
    /// A word for it, of a closed set.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RequestBody => "request_body",
            Self::ResponseBody => "response_body",
            Self::Arguments => "arguments",
            Self::Files => "files",
            Self::Encoding => "encoding",
            Self::Words => "words",
            Self::Work { .. } => "work",
        }
    }

    /// Whether the rules lost sight of something that honest clients do not send; large bodies they do.
    #[must_use]
    pub fn is_odd(self) -> bool {
        match self {
            Self::RequestBody | Self::ResponseBody | Self::Files => false,
            Self::Arguments | Self::Encoding | Self::Words | Self::Work { .. } => true,
        }
    }
}

fn lossy<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&String::from_utf8_lossy(bytes))
}

fn list<S: Serializer>(texts: &Arc<[Box<str>]>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(texts.iter())
}

fn map<S: Serializer>(pairs: &[(String, i64)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(pairs.iter().map(|(name, number)| (name, number)))
}
