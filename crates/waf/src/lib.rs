//! A web application firewall that runs SecLang rules, the OWASP Core Rule Set before all.
//!
//! [`Waf::compile`] turns rule text into an immutable program; [`Waf::transaction`] feeds one request and its response
//! through it. Pure and synchronous: no sockets, no clock, no logging; files are read through [`Files`] at compilation
//! only. The semantics are those of ModSecurity 2, where versions differ.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod accelerate;
mod body;
mod error;
mod operator;
mod pairs;
mod program;
mod seclang;
mod store;
mod transaction;
mod transform;

pub use error::{Note, Origin, SecLangError};
pub use seclang::action::{AuditMode, EngineMode, Phase, Severity};
pub use seclang::source::{Disk, Files, InMemory, Source};
pub use transaction::Transaction;
pub use transaction::audit::{Audit, Cause, EXCERPT_BYTES, Finding, Intervention, Response, RuleMatch};
pub use transaction::facts::Connection;
pub use transaction::trace::{RuleTrace, TestTrace, TraceOutcome};

use program::Program;
use store::Store;

/// A compiled rule set with its persistent collections. Share it in an `Arc`.
#[derive(Debug)]
pub struct Waf {
    program: Program,
    store: Store,
}

impl Waf {
    /// Compiles rule files and texts, in order.
    ///
    /// # Errors
    /// Everything that cannot be accepted, each with file and line.
    pub fn compile(sources: &[Source], files: &dyn Files) -> Result<Self, Vec<SecLangError>> {
        Ok(Self { program: program::compile(sources, files)?, store: Store::default() })
    }

    /// What was accepted but does less than in ModSecurity.
    #[must_use]
    pub fn notes(&self) -> &[Note] {
        &self.program.notes
    }

    /// How many rules there are; a chain counts once.
    #[must_use]
    pub fn rule_count(&self) -> usize {
        Phase::ALL.iter().map(|phase| self.program.phase(*phase).len()).sum()
    }

    /// Begins a transaction.
    #[must_use]
    pub fn transaction(&self, connection: Connection) -> Transaction<'_> {
        Transaction::new(self, connection)
    }
}
