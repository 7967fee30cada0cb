//! The core of the egress gateway: who may leave, to where, by which address, with which secret, and how much.
//!
//! Decisions come first and are plain functions of configuration, facts, `now` and draws; behind them stand three thin
//! effects: [`Resolver`], [`dial`] with [`relay`], and [`Tokens`]. Deliberately absent: listeners, engines, TLS
//! handshakes, logs and metrics. They are the caller's, which wires this in.
//!
//! # At start and at each reload
//!
//! 1. [`Credentials::compile`], then [`EgressPolicy::compile`] with the names of the credentials, then
//!    [`EgressPolicy::carry_over`] for the counts of rules.
//! 2. [`OwnAddresses::new`] from the interfaces and *all* bound sockets, admin too; [`AddressPolicy::new`] with
//!    [`EgressPolicy::denied_addresses`].
//! 3. Made once and kept over reloads: [`Resolver`], [`Quotas`], [`Tokens`], [`PipePool`].
//! 4. Every open tunnel's [`LiveFlow::standing`] under the new policy; `Ends` is cut within the drain window, by the
//!    `cut` future of its [`relay`].
//!
//! # In the order of a flow
//!
//! 1. The way in. Explicit: `portcullis_wire::proxy_request` or `portcullis_wire::socks5`, then [`Target::parse`]
//!    (CONNECT, of h2 its `:authority`), [`Target::parse_with_default`] (absolute form), or [`Host::parse_bare`] with [`Target::new`] (a name of
//!    SOCKS). Transparent or by SNI: [`sniff`], then [`Host::parse_bare`] on the SNI, or Host of the first request; the
//!    client's own destination address is for the log ([`Resolved::contains`]) and is never dialled.
//! 2. [`EgressPolicy::decide`] and [`EgressPolicy::count`]; [`Decision::permit`] gives the [`Permit`] to go on with, or
//!    the [`Reason`] for a [`Refusal`]. In a clear-text flow each request is decided about anew, with [`Request::Seen`].
//! 3. [`Quotas::admit`], and for a tunnel [`Quotas::open_tunnel`], whose place is held to its end.
//! 4. [`Resolver::resolve`] on the permit's target, [`Resolved::checked`] with [`Permit::dial_port`] and
//!    [`Permit::private_ranges`], [`dial`]. Only [`Checked`] can be dialled.
//! 5. A CONNECT or SOCKS request is answered. The first octets are peeked, at most [`SNIFF_MAX`], and [`sniff`]ed; when
//!    none come in the time that clients have, that is [`FirstOctets::Silence`].
//! 6. [`bind`] compares all names; `Refused` closes both sides before an octet is passed on; `Reported` is counted.
//!    Where requests are seen, [`Bound::check_host`] for each of them.
//! 7. [`Credentials::of`] and [`Credential::apply`] on the request as it goes out; [`Tokens::bearer`] where it says so.
//! 8. Tunnels: [`relay`], whose `cut` ends at [`Permit::grant_end`], at a new policy, or when [`Quotas::spend`] on the
//!    growth of [`Moved`] refuses. What was peeked is written to the destination first.
//! 9. Under a rule that reports: [`Learned::observe`].
//!
//! A redirect that this gateway follows itself starts again at 2 with the new target: nothing is carried over.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod access_rule;
mod address_class;
mod address_policy;
mod binding;
mod budget;
mod caller;
mod credential;
mod decision;
mod destination;
mod destination_spec;
mod dial;
mod dns_cache;
mod explanation;
mod flights;
mod host;
mod host_index;
mod host_rule;
mod learned;
mod live_flow;
mod parent;
mod policy;
mod pools;
mod protocol;
mod quota;
mod reason;
mod refusal;
mod request_match;
mod resolved;
mod resolver;
#[cfg(test)]
mod sample;
mod scratch;
mod splice;

pub use access_rule::{RuleCounts, RuleOutcome};
pub use address_class::{AddressClass, SpecialRange, classify};
pub use address_policy::{AddressPolicy, AddressRefusal, Checked, OwnAddresses, PrivateRanges};
pub use binding::{Bind, Binding, Bound, EchPolicy, HostVerdict, bind, compare_inspected};
pub use caller::{Caller, CallerName, CallerPattern, NotACaller};
pub use credential::{
    Application, AwsSigV4Spec, BasicCredentialSpec, Credential, CredentialSpec, Credentials, HeaderChanges,
    HeaderCredentialSpec, JwtAlgorithm, OAuth2Spec, Payload, Secret, SignedJwtSpec, SignedParts, TokenClient,
    TokenError, TokenSource, Tokens, UnsignedPayload,
};
pub use decision::{Decision, Permit, Verdict};
pub use destination::Destination;
pub use destination_spec::{BudgetSpec, DestinationRateSpec, DestinationSpec, SharedBy, TlsMode, TunnelsSpec};
pub use dial::{DialLimits, Dialled, FirstWord, dial, dial_one, in_turns};
pub use explanation::{Considered, Explanation};
pub use host::{DnsName, Host, Target};
pub use host_rule::{HostRule, HostRuleError};
pub use learned::Learned;
pub use live_flow::{FlowStanding, LiveFlow};
pub use parent::{Asks, Parent, ParentSpec, ParentTrouble};
pub use policy::{EgressPolicy, Facts};
pub use pools::{Ejected, Pools};
pub use protocol::{Ech, FirstOctets, Hello, Protocol, SNIFF_MAX, sniff};
pub use quota::{QuotaPlan, QuotaRefusal, Quotas, TunnelPlace};
pub use reason::Reason;
pub use refusal::{PROBLEM_JSON, Refusal};
pub use request_match::Request;
pub use resolved::Resolved;
pub use resolver::{AnswerTable, Resolver, ResolverError};
pub use scratch::{Copied, poll_copy};
pub use splice::{Moved, PipePool, TunnelEnd, relay};
