//! `[route.X]` and `[route.X.rule.R]` as the operator writes them.

use crate::{
    Coding, CorsSpec, FaultSpec, GuardSpecs, HeaderEditsSpec, MatchSpec, PathSpec, RedirectSpec, Relaxable,
    RespondSpec, RetrySpec, RouteWafSpec, SecurityHeaders,
};
use portcullis_auth::{AuthzSpec, IpRulesSpec, RuleAuthSpec};
use portcullis_limit::{ConcurrencySpec, RateLimitRefs};
use portcullis_names::{HostPattern, ObjectName, Percent, TimeSpan};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Which requests, and what happens to them. A route with rules lends them what they do not say themselves.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteSpec {
    /// Default: every http and https listener.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listeners: Option<Vec<String>>,
    /// Default: any host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<HostPattern>,
    #[serde(default, rename = "match", skip_serializing_if = "Option::is_none")]
    pub matches: Option<MatchSpec>,
    /// Short for `match.path`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathSpec>,
    /// Decides between rules that are equally specific; the higher wins (default 0).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<String>,
    /// Upstreams by weight.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub split: Option<BTreeMap<ObjectName, u32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redirect: Option<RedirectSpec>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub respond: Option<RespondSpec>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rewrite: Option<RewriteSpec>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_headers: Option<HeaderEditsSpec>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_headers: Option<HeaderEditsSpec>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mirror: Option<MirrorSpec>,
    /// Longest wait for the upstream's response head, and for more of its body (default 60s).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<TimeSpan>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetrySpec>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<FaultSpec>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cors: Option<CorsSpec>,
    /// Codings for those who accept them, the preferred one first (default none).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compress: Option<Vec<Coding>>,
    /// Default off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub security_headers: Option<SecurityHeaders>,
    /// Whose requests are taken at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip: Option<IpRulesSpec>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimitRefs>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth: Option<RuleAuthSpec>,
    /// Somebody else who is asked whether the request may pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authz: Option<AuthzSpec>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waf: Option<RouteWafSpec>,
    /// A `[privacy.NAME]`; those of all levels apply.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub privacy: Option<String>,
    /// An `[api.NAME]`; requests fit those of all levels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api: Option<String>,
    /// Requests at a time; more are refused at once (503).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<ConcurrencySpec>,
    /// Checks that the levels above demand and this one is let off.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub relax: Vec<Relaxable>,
    /// What rules may relax.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub may_relax: Vec<Relaxable>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rule: BTreeMap<ObjectName, RuleSpec>,
}

/// One named rule of a route. What it does not say it takes from the route.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RuleSpec {
    #[serde(default, rename = "match", skip_serializing_if = "Option::is_none")]
    pub matches: Option<MatchSpec>,
    /// Short for `match.path`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathSpec>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub split: Option<BTreeMap<ObjectName, u32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redirect: Option<RedirectSpec>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub respond: Option<RespondSpec>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rewrite: Option<RewriteSpec>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_headers: Option<HeaderEditsSpec>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_headers: Option<HeaderEditsSpec>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mirror: Option<MirrorSpec>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<TimeSpan>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetrySpec>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<FaultSpec>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cors: Option<CorsSpec>,
    /// Codings for those who accept them, the preferred one first (default none).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compress: Option<Vec<Coding>>,
    /// Default off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub security_headers: Option<SecurityHeaders>,
    /// Whose requests are taken at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip: Option<IpRulesSpec>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimitRefs>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth: Option<RuleAuthSpec>,
    /// Somebody else who is asked whether the request may pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authz: Option<AuthzSpec>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waf: Option<RouteWafSpec>,
    /// A `[privacy.NAME]`; those of all levels apply.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub privacy: Option<String>,
    /// An `[api.NAME]`; requests fit those of all levels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api: Option<String>,
    /// Requests at a time; more are refused at once (503).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<ConcurrencySpec>,
    /// Checks that the levels above demand and this one is let off.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub relax: Vec<Relaxable>,
}

impl RouteSpec {
    pub(crate) fn guards(&self) -> GuardSpecs<'_> {
        GuardSpecs {
            ip: self.ip.as_ref(),
            rate_limit: self.rate_limit.as_ref(),
            auth: self.auth.as_ref(),
            authz: self.authz.as_ref(),
            concurrency: self.concurrency,
            waf: self.waf.as_ref(),
            privacy: self.privacy.as_deref(),
            api: self.api.as_deref(),
            relax: &self.relax,
            may_relax: &self.may_relax,
        }
    }
}

impl RuleSpec {
    pub(crate) fn guards(&self) -> GuardSpecs<'_> {
        GuardSpecs {
            ip: self.ip.as_ref(),
            rate_limit: self.rate_limit.as_ref(),
            auth: self.auth.as_ref(),
            authz: self.authz.as_ref(),
            concurrency: self.concurrency,
            waf: self.waf.as_ref(),
            privacy: self.privacy.as_deref(),
            api: self.api.as_deref(),
            relax: &self.relax,
            may_relax: &[],
        }
    }
}

/// What the upstream is asked for instead.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RewriteSpec {
    /// Replaces the matched path prefix.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// Replaces the whole path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Replaces Host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<HostPattern>,
}

/// A copy of each request to somebody whose answer does not matter.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MirrorSpec {
    pub upstream: String,
    /// Default 100%.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percent: Option<Percent>,
}
