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
mod lint;
mod operator;
mod pairs;
mod profile;
mod program;
mod seclang;
mod store;
mod transaction;
mod transform;

pub use error::{Note, Origin, SecLangError};
pub use lint::{Filtering, RuleCost};
pub use profile::{ExcludedRules, ExclusionSpec, Profile, ProfileError, ProfileSpec};
pub use seclang::action::{AuditMode, EngineMode, Phase, Severity};
pub use seclang::source::{Disk, Files, InMemory, Source};
pub use transaction::Transaction;
pub use transaction::audit::{Audit, Cause, Cut, EXCERPT_BYTES, Finding, Intervention, Response, RuleMatch};
pub use transaction::facts::Connection;
pub use transaction::trace::{RuleTrace, TestTrace, TraceOutcome};

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

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

    /// Compiles what a route asks for.
    ///
    /// # Errors
    /// Everything that cannot be accepted.
    pub fn profile(&self, spec: &ProfileSpec) -> Result<Profile, Vec<ProfileError>> {
        Profile::compile(spec, &self.program)
    }

    /// Begins a transaction under a profile.
    #[must_use]
    pub fn transaction_with<'w>(&'w self, connection: Connection, profile: &'w Profile) -> Transaction<'w> {
        self.transaction(connection).with_profile(profile)
    }

    /// What each rule costs and what could be better about it, in file order.
    #[must_use]
    pub fn lint(&self) -> Vec<RuleCost> {
        lint::lint(&self.program)
    }

    /// Builds what the first request at these settings would otherwise have to wait for: the prefilter of a paranoia
    /// level. `tx` is what [`Transaction::set_tx`] will be given.
    pub fn warm(&self, tx: &[(&str, &str)]) {
        let nowhere = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let connection = Connection {
            client: nowhere,
            client_port: 0,
            server: nowhere,
            server_port: 0,
            unique_id: String::new(),
            now: Duration::ZERO,
        };
        let mut transaction = self.transaction(connection);
        transaction.set_mode(EngineMode::DetectionOnly);
        tx.iter().for_each(|(name, value)| transaction.set_tx(name, value));
        transaction.request_line(b"GET", b"/", b"HTTP/1.1");
        transaction.request_headers_done();
        transaction.request_body_done();
    }

    /// Bytes of memory that the prefilter takes, for the paranoia levels used so far.
    #[must_use]
    pub fn prefilter_bytes(&self) -> usize {
        self.program.accelerator.memory_bytes()
    }

    /// Begins a transaction.
    #[must_use]
    pub fn transaction(&self, connection: Connection) -> Transaction<'_> {
        Transaction::new(self, connection)
    }
}
