//! Egress.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod access_rule;
mod access_spec;
mod address_class;
mod address_policy;
mod binding;
mod budget;
mod caller;
mod decision;
mod destination;
mod destination_spec;
mod explanation;
mod host;
mod host_index;
mod host_rule;
mod policy;
mod protocol;
mod quota;
mod reason;
mod request_match;
mod resolved;
#[cfg(test)]
mod sample;

pub use access_rule::{RuleCounts, RuleOutcome};
pub use access_spec::{AccessAction, AccessMatchSpec, AccessSpec};
pub use address_class::{AddressClass, SpecialRange, classify};
pub use address_policy::{AddressPolicy, AddressRefusal, Checked, OwnAddresses, PrivateRanges};
pub use binding::{Bind, Binding, Bound, EchPolicy, HostVerdict, bind};
pub use caller::{Caller, CallerName, CallerPattern, NotACaller};
pub use decision::{Decision, Permit, Verdict};
pub use destination::Destination;
pub use destination_spec::{BudgetSpec, DestinationRateSpec, DestinationSpec, SharedBy, TlsMode, TunnelsSpec};
pub use explanation::{Considered, Explanation};
pub use host::{DnsName, Host, Target};
pub use host_rule::{HostRule, HostRuleError};
pub use policy::{EgressPolicy, Facts};
pub use protocol::{Ech, FirstOctets, Hello, Protocol, SNIFF_MAX, sniff};
pub use quota::{QuotaPlan, QuotaRefusal, Quotas, TunnelPlace};
pub use reason::Reason;
pub use request_match::Request;
pub use resolved::Resolved;

mod dial;
mod dns_cache;
mod flights;
mod learned;
mod live_tunnel;
mod refusal;
mod resolver;
mod splice;

pub use dial::{DialLimits, Dialled, dial, in_turns};
pub use learned::Learned;
pub use live_tunnel::{LiveTunnel, TunnelStanding};
pub use refusal::{PROBLEM_JSON, Refusal};
pub use resolver::{AnswerTable, Resolver, ResolverError};
pub use splice::{Moved, PipePool, TunnelEnd, relay};
