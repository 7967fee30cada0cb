//! The edge gateway: composes listeners, policy, upstreams and the pipeline into a service with one document.
//!
//! `spec` is what the operator wrote, `compile` what it means, [`Gateway`] what runs it.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod admin;
mod api_sets;
mod compile;
mod compile_guards;
mod compile_listeners;
mod dns;
mod dns_admin;
mod dns_board;
mod dns_listeners;
mod dns_orders;
mod dns_questions;
mod dns_signals;
mod effective;
mod egress;
mod egress_explain;
mod explain;
mod gateway;
mod listeners;
mod mesh;
mod privacy_sets;
mod release_board;
mod sidecar;
mod spec;
mod waf_sets;

pub use compile::{Compiled, CompiledListener, check};
pub use dns::{Dns, DnsListener};
pub use dns_questions::{DnsQuestion, Moved, Replay, ReplayedQuery};
pub use egress_explain::{EgressQuestion, explain_egress};
pub use explain::{Question, WafView, explain, waf_of};
pub use gateway::{Gateway, StartError, Stop};
pub use sidecar::{SidecarPlan, SidecarSpec};
pub use spec::{DefaultsSpec, RESERVED, Spec};
pub use waf_sets::{RuleProblems, compile_rules};
