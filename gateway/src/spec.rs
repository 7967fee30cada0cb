//! The whole document as the operator writes it.

use crate::{sidecar::SidecarSpec, waf_sets::WafSetSpec};
use portcullis_api::ApiSpec;
use portcullis_auth::{AuthzSpec, ConsumerSpec, IdentitySpec, IpRulesSpec, RuleAuthSpec};
use portcullis_config::Reserved;
use portcullis_discover::DiscoverySpec;
use portcullis_egress::{CredentialSpec, DestinationSpec};
use portcullis_gslb::{DnsSpec, PublicServiceSpec, ZoneSpec};
use portcullis_limit::{ConcurrencySpec, RateLimitRefs, RateLimitSpec};
use portcullis_mesh::{MtlsSpec, ServiceSpec, WorkloadSpec};
use portcullis_names::{ObjectName, TimeSpan};
use portcullis_ops::{AdminSpec, ProcessSpec, TelemetrySpec};
use portcullis_policy::{AccessSpec, GeoSpec, GuardSpecs, Relaxable, RouteSpec, RouteWafSpec, SecurityHeaders};
use portcullis_privacy::PrivacySpec;
use portcullis_proxy::{EgressSpec, TcpRouteSpec, TlsRouteSpec, listen::ListenerSpec};
use portcullis_rollout::{RolloutSpec, SloSpec};
use portcullis_store::StoreSpec;
use portcullis_tls::{CertificateSpec, TlsVersion, TrustSpec};
use portcullis_upstream::UpstreamSpec;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One document; named tables, in any order.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// Version of the language.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schema: Option<SchemaVersion>,
    /// Files to merge, as patterns relative to this file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub include: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<ProcessSpec>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub site: Option<SiteSpec>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin: Option<AdminSpec>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub telemetry: Option<TelemetrySpec>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub defaults: Option<DefaultsSpec>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub certificate: BTreeMap<ObjectName, CertificateSpec>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub trust: BTreeMap<ObjectName, TrustSpec>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub listener: BTreeMap<ObjectName, ListenerSpec>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub upstream: BTreeMap<ObjectName, UpstreamSpec>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub route: BTreeMap<ObjectName, RouteSpec>,
    /// Where addresses are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub geo: Option<GeoSpec>,
    /// Rule sets.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub waf: BTreeMap<ObjectName, WafSetSpec>,
    /// What APIs promise, by their documents.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub api: BTreeMap<ObjectName, ApiSpec>,
    /// Personal data that is looked for in what passes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub privacy: BTreeMap<ObjectName, PrivacySpec>,
    /// How endpoints are looked for.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub discovery: BTreeMap<ObjectName, DiscoverySpec>,
    /// Who issues the tokens that are taken.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub identity: BTreeMap<ObjectName, IdentitySpec>,
    /// Who calls, by API key or password.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub consumer: BTreeMap<ObjectName, ConsumerSpec>,
    /// Limits that several rules share.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rate_limit: BTreeMap<ObjectName, RateLimitSpec>,
    /// State that several processes share.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub store: BTreeMap<ObjectName, StoreSpec>,
    /// What a route promises.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub slo: BTreeMap<ObjectName, SloSpec>,
    /// From one version to the next, by steps.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rollout: BTreeMap<ObjectName, RolloutSpec>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tcp_route: BTreeMap<ObjectName, TcpRouteSpec>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tls_route: BTreeMap<ObjectName, TlsRouteSpec>,
    /// How all DNS listeners serve.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns: Option<DnsSpec>,
    /// What DNS listeners are asked about.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub zone: BTreeMap<ObjectName, ZoneSpec>,
    /// Names whose addresses follow health, weight and place.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub public_service: BTreeMap<ObjectName, PublicServiceSpec>,
    /// What holds for everything that goes out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress: Option<EgressSpec>,
    /// Parties outside.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub destination: BTreeMap<ObjectName, DestinationSpec>,
    /// Who may reach what.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub access: BTreeMap<ObjectName, AccessSpec>,
    /// Whose sidecar this is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload: Option<WorkloadSpec>,
    /// What the sidecar does for its application beside carrying its connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sidecar: Option<SidecarSpec>,
    /// How much of the mesh's encryption is demanded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtls: Option<MtlsSpec>,
    /// Services of global namespaces.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub service: BTreeMap<ObjectName, ServiceSpec>,
    /// What the gateway adds to requests that go out.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub credential: BTreeMap<ObjectName, CredentialSpec>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum SchemaVersion {
    #[serde(rename = "1")]
    V1,
}

/// Where this process runs.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SiteSpec {
    /// Compared with the `zone` of endpoints by `balance.locality`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub zone: Option<String>,
}

/// What listeners, routes and upstreams take when they say nothing.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DefaultsSpec {
    /// Of routes (60s).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<TimeSpan>,
    /// Of upstreams (2s).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_timeout: Option<TimeSpan>,
    /// Of listeners.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<DefaultTlsSpec>,
    /// Of routes (off).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub security_headers: Option<SecurityHeaders>,
    /// Whose requests any route takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip: Option<IpRulesSpec>,
    /// What every request must show.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth: Option<RuleAuthSpec>,
    /// Who is asked about every request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authz: Option<AuthzSpec>,
    /// Of every route, all of them together where it is a table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimitRefs>,
    /// Of every route.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waf: Option<RouteWafSpec>,
    /// A `[privacy.NAME]` for every route.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub privacy: Option<String>,
    /// An `[api.NAME]` for every route.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api: Option<String>,
    /// Requests at a time, of all routes together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<ConcurrencySpec>,
    /// Checks that routes and rules may be let off.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub may_relax: Vec<Relaxable>,
}

impl DefaultsSpec {
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
            relax: &[],
            may_relax: &self.may_relax,
        }
    }
}

#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DefaultTlsSpec {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_version: Option<TlsVersion>,
}

/// What the language has and this version does not.
pub const RESERVED: &[Reserved] = &[
    Reserved("site.region"),
    Reserved("site.sub_zone"),
    Reserved("site.cluster"),
    Reserved("site.labels"),
    Reserved("workspace"),
    Reserved("guardrail"),
    Reserved("identity.*.oidc"),
    Reserved("consumer.*.plan"),
    Reserved("discovery.*.consul"),
    Reserved("udp_route"),
    Reserved("process.user"),
    Reserved("admin.role"),
    Reserved("telemetry.tracing.propagate"),
    Reserved("telemetry.tap"),
    Reserved("telemetry.metrics.histogram"),
    Reserved("telemetry.metrics.max_series"),
    Reserved("certificate.*.acme"),
    Reserved("listener.*.tls.early_data"),
    Reserved("listener.*.protocol=udp"),
    Reserved("listener.*.protocol=h3"),
    Reserved("upstream.*.discover.consul"),
    Reserved("upstream.*.discover.kubernetes"),
    Reserved("upstream.*.discover.tag"),
    Reserved("route.*.hedge"),
    Reserved("route.*.cache"),
    Reserved("route.*.match.when"),
    Reserved("route.*.rule.*.hedge"),
    Reserved("route.*.rule.*.cache"),
    Reserved("route.*.rule.*.match.when"),
];
