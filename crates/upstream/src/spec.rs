//! `[upstream.X]` as the operator writes it.

use crate::{BalanceSpec, CircuitBreakerSpec, RetryBudgetSpec, StickySpec};
use portcullis_health::{HealthCheckSpec, OutlierSpec};
use portcullis_names::{EndpointAddress, Percent, TimeSpan};
use portcullis_tls::UpstreamTlsSpec;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de};
use std::num::NonZeroU32;

/// A pool of endpoints and all policy towards it.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UpstreamSpec {
    #[schemars(length(min = 1))]
    pub endpoints: Vec<EndpointSpec>,
    /// Default h1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<HttpProtocol>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<UpstreamTlsSpec>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub balance: Option<BalanceSpec>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sticky: Option<StickySpec>,
    /// TCP connection and, after it, TLS handshake (default 2s each).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_timeout: Option<TimeSpan>,
    /// Longest silence of the endpoint (default 60s).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_timeout: Option<TimeSpan>,
    /// Longest time in which the endpoint takes nothing (default 60s).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write_timeout: Option<TimeSpan>,
    /// How long an unused connection is kept (default 60s).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<TimeSpan>,
    /// Concurrent streams on one h2 connection (default 100).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub streams: Option<NonZeroU32>,
    /// Begin each connection with a PROXY header that names the client. Such connections are not shared or kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<ProxyProtocolVersion>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheckSpec>,
    /// With fewer endpoints up than this, health is not believed (default 50%).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub panic_threshold: Option<Percent>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outlier: Option<OutlierSpec>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub circuit_breaker: Option<CircuitBreakerSpec>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_budget: Option<RetryBudgetSpec>,
    /// The upstream that is asked when none of these endpoints may be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fallback: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum HttpProtocol {
    H1,
    /// Over TLS.
    H2,
    /// In clear, with prior knowledge.
    H2c,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ProxyProtocolVersion {
    V1,
    V2,
}

/// `"10.0.0.11:8080"`, or a table that says more.
#[derive(Debug, Clone, Serialize)]
pub struct EndpointSpec {
    pub address: EndpointAddress,
    pub weight: u32,
    pub priority: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct EndpointTable {
    address: EndpointAddress,
    /// Share of requests (default 1); 0 takes none.
    #[schemars(range(max = 65535))]
    weight: Option<u32>,
    /// 0 is asked first, the next ones as far as those before cannot carry the load (default 0).
    #[schemars(range(max = 127))]
    priority: Option<u32>,
    /// Where it is, to be compared with `site.zone`.
    #[schemars(length(min = 1, max = 63))]
    zone: Option<String>,
}

const EXPECTS: &str = "\"address:port\" or { address, weight, priority, zone }";

impl<'de> Deserialize<'de> for EndpointSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = EndpointSpec;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(EXPECTS)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<EndpointSpec, E> {
                Ok(EndpointSpec { address: text.parse().map_err(E::custom)?, weight: 1, priority: 0, zone: None })
            }
            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<EndpointSpec, A::Error> {
                let table = EndpointTable::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Ok(EndpointSpec {
                    address: table.address,
                    weight: table.weight.unwrap_or(1),
                    priority: table.priority.unwrap_or(0),
                    zone: table.zone,
                })
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for EndpointSpec {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "EndpointSpec".into()
    }
    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let short = generator.subschema_for::<EndpointAddress>();
        let table = generator.subschema_for::<EndpointTable>();
        schemars::json_schema!({ "anyOf": [short, table] })
    }
}
