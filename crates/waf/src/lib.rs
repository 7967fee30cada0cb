//! A web application firewall that runs SecLang rules, the OWASP Core Rule Set before all.
//!
//! [`Waf::compile`] turns rule text into an immutable program; [`Waf::transaction`] feeds one request and its response
//! through it. Pure and synchronous: no sockets, no clock, no logging; files are read through [`Files`] at compilation
//! only. The semantics are those of ModSecurity 2, where versions differ.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod error;
mod operator;
mod program;
mod seclang;
mod transform;

pub use error::{Note, Origin, SecLangError};
pub use seclang::action::{AuditMode, EngineMode, Phase, Severity};
pub use seclang::source::{Disk, Files, InMemory, Source};
