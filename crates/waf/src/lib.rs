//! A web application firewall that runs SecLang rules, the OWASP Core Rule Set before all.
//!
//! Pure and synchronous: no sockets, no clock, no logging; files are read through [`Files`] at compilation only. The
//! semantics are those of ModSecurity 2, where versions differ.
//!
//! # From rules to a verdict
//!
//! 1. [`Waf::compile`] turns rule files into an immutable program, to be shared in an `Arc` by all threads and routes. Every
//!    error comes with file and line, all of them at once; [`Waf::notes`] names what was accepted but does less than
//!    elsewhere, [`Waf::lint`] what each rule costs.
//! 2. [`Waf::profile`] compiles what one route asks for: mode, paranoia, thresholds, exclusions. [`Waf::warm`] builds the
//!    prefilter for a paranoia level before the first request has to wait for it.
//! 3. [`Waf::begin`] (or, where a borrow will do, [`Waf::transaction_with`]) begins one request. The server calls, in this order:
//!
//! | call | phase |
//! |---|---|
//! | [`Transaction::request_line`], [`Transaction::request_header`]…, [`Transaction::request_headers_done`] | 1 |
//! | [`Transaction::request_body_chunk`]… if [`Transaction::wants_request_body`], [`Transaction::request_body_done`] | 2 |
//! | [`Transaction::response_line`], [`Transaction::response_header`]…, [`Transaction::response_headers_done`] | 3 |
//! | [`Transaction::response_body_chunk`]… if [`Transaction::wants_response_body`], [`Transaction::response_body_done`] | 4 |
//! | [`Transaction::finish`] | 5 |
//!
//! Each `…_done`, and each chunk beyond a limit, gives an [`Intervention`] when the transaction is to end there; only
//! `finish` is called after one, and a transaction that is dropped without it costs nothing more. `finish` gives the
//! [`Audit`]: matches with variable and excerpt, scores, what was [cut](Cut), the exclusions that applied, the work done, and
//! the trace if one was asked for. It serialises to one JSON object.
//!
//! ```
//! use portcullis_waf::{Connection, InMemory, ProfileSpec, Response, Source, Waf};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let text = r#"
//!     SecRuleEngine On
//!     SecRule ARGS "@rx (?i)<script" "id:1,phase:2,deny,status:403,t:urlDecodeUni,msg:'script in an argument'"
//! "#;
//! let source = Source::Text { name: "example".to_owned(), text: text.to_owned() };
//! let waf = Waf::compile(&[source], &InMemory::new()).map_err(|errors| errors[0].to_string())?;
//! let profile = waf.profile(&ProfileSpec::default()).map_err(|errors| errors[0].to_string())?;
//!
//! let connection = Connection {
//!     client: "192.0.2.7".parse()?,
//!     client_port: 40_000,
//!     server: "198.51.100.1".parse()?,
//!     server_port: 443,
//!     unique_id: "request-1".to_owned(),
//!     now: std::time::Duration::from_secs(1_800_000_000),
//! };
//! let mut transaction = waf.transaction_with(connection, &profile);
//! transaction.request_line(b"GET", b"/?q=%3Cscript%3E", b"HTTP/1.1");
//! transaction.request_header(b"host", b"shop.example.com");
//! assert!(transaction.request_headers_done().is_none());
//! let refused = transaction.request_body_done().ok_or("not refused")?;
//! assert_eq!(refused.response, Response::Deny { status: 403 });
//! assert_eq!(transaction.finish().matches[0].findings[0].variable, "ARGS:q");
//! # Ok(())
//! # }
//! ```
//!
//! # How it is fast, and stays right
//!
//! Before rules run, one pass over the values of the request finds the rules that can match at all: for each rule it is
//! known what a match must hold (a literal, or a byte of some set), in which form of the value (transformations are worked
//! out once and shared), at which paranoia level. Rules without a candidate are passed over; the others run as written, in
//! their order, on the candidates. The prefilter never decides a match, and a test compares the reports with and without it
//! over the Core Rule Set's suite and mutations of it.
//!
//! # What it may cost
//!
//! Every byte looked at is paid from an account that grows with the bytes received. When it is empty the rest is not
//! inspected, the report says so ([`Cut::Work`]), and a guarding engine refuses the request ([`Cause::Work`]). Numbers of
//! arguments, depths and sizes of bodies have limits of their own, set by the directives of ModSecurity.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod accelerate;
mod body;
mod error;
pub mod ftw;
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
use std::sync::Arc;
use std::time::Duration;

use program::Program;
use store::Store;
use transaction::held::Held;

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
        self.transaction(connection).with_profile(Held::Borrowed(profile))
    }

    /// Begins a transaction that holds its share of the rule set and the profile: for servers whose requests outlive
    /// every borrow, and whose rule sets are exchanged while requests run.
    #[must_use]
    pub fn begin(self: &Arc<Self>, connection: Connection, profile: Option<Arc<Profile>>) -> Transaction<'static> {
        let transaction = Transaction::new(Held::Shared(Arc::clone(self)), connection);
        match profile {
            Some(profile) => transaction.with_profile(Held::Shared(profile)),
            None => transaction,
        }
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
        Transaction::new(Held::Borrowed(self), connection)
    }
}
