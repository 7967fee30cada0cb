//! Decides about one request: which rule it falls under, and what is done to it. Pure: no sockets, no clock, no engine.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod client_ip;
mod compress;
mod cors;
mod edits;
mod explain;
mod fault;
mod forwarded;
mod geo;
mod guards;
mod hop_by_hop;
mod ids;
mod key;
mod matcher;
mod normalise;
mod plan;
mod redirect;
mod refusal;
mod relaxable;
mod request;
mod retry;
mod rule_builder;
mod security_headers;
mod spec;
mod table;
mod template;
mod trace_context;
mod waf;
mod wanted;

pub use client_ip::{ClientIp, ClientIpHeader, ClientIpSpec};
pub use compress::{Coding, Compressible};
pub use cors::{Cors, CorsSpec};
pub use edits::{HeaderEdits, HeaderEditsSpec, HeaderSink};
pub use explain::{Candidate, Explanation};
pub use fault::{AbortSpec, DelaySpec, Fault, FaultSpec};
pub use forwarded::{Forwarding, write_forwarded};
pub use geo::{Geo, GeoSpec};
pub use guards::{CarriedGuards, Cleared, Gate, Guard, GuardSpecs, Guards, KnownGuards, Level, Slots, write_limit_key};
pub use hop_by_hop::is_hop_by_hop;
pub use ids::{ListenerId, UpstreamId};
pub use key::write_key;
pub use matcher::{MatchSpec, PathSpec, ValueSpec, cookie_value};
pub use normalise::{PathRefusal, normalise_path};
pub use plan::{Action, Mirror, Plan, Rewrite, Split};
pub use redirect::{Redirect, RedirectSpec, Respond, RespondSpec};
pub use refusal::{Reason, Side};
pub use relaxable::Relaxable;
pub use request::{Facts, IdentityFacts, RequestView, Scheme};
pub use retry::{Body, Failed, Retry, RetryMethods, RetryOn, RetrySpec};
pub use security_headers::SecurityHeaders;
pub use spec::{MirrorSpec, RewriteSpec, RouteSpec, RuleSpec};
pub use table::{Known, Lookup, RouteDefaults, RouteTable};
pub use trace_context::TraceContext;
pub use waf::{RouteWafSpec, WafExclusionSpec, WafMode, WafScoreSpec, WafShadowSpec, WafWish};
pub use wanted::Wanted;
