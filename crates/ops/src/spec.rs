//! `[process]`, `[admin]` and `[telemetry]` as the operator writes them.

use crate::{OverloadSpec, TracingSpec};
use portcullis_names::{ListenAddress, Percent, TimeSpan};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de};
use std::{num::NonZeroU32, path::PathBuf};

#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProcessSpec {
    /// Cores that serve (default "auto": all that the process may use). Cannot change while running.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<Threads>,
    /// How long requests in flight may take to end (default 30s).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain: Option<TimeSpan>,
    /// How long WebSockets and h2 streams on a removed listener may last (default 1h).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream_drain: Option<TimeSpan>,
    /// Client connections of the process (default 100 000).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<NonZeroU32>,
    /// Socket over which a new binary takes the listeners over (default unix:run/upgrade.sock). Cannot change while running.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upgrade: Option<ListenAddress>,
    /// When requests are turned away so that memory and CPU do not give out (default: memory, at 95% of the limit of the
    /// control group if that has one).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overload: Option<OverloadSpec>,
}

/// `"auto"` or a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Threads {
    Auto,
    #[serde(untagged)]
    Count(NonZeroU32),
}

#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AdminSpec {
    /// Default unix:run/admin.sock. Cannot change while running.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<ListenAddress>,
}

#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TelemetrySpec {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_log: Option<AccessLogSpec>,
    /// A line for each exchange that the WAF has something to say about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit_log: Option<AuditLogSpec>,
    /// A line for each DNS query (default: none).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query_log: Option<QueryLogSpec>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<MetricsSpec>,
    /// A span for each exchange that is sampled (default: none).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tracing: Option<TracingSpec>,
}

#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct QueryLogSpec {
    /// Default stdout.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<AccessLogTarget>,
    /// Share of queries that are told (default 100%).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample: Option<Percent>,
}

#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AuditLogSpec {
    /// Default stdout.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<AccessLogTarget>,
}

#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AccessLogSpec {
    /// Default stdout.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<AccessLogTarget>,
    /// Default json.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<LogFormat>,
    /// Share of successful requests that are written; failures always are (default 100%).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample: Option<Percent>,
    /// Fields to write; default all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fields: Option<Vec<String>>,
    /// Query parameters whose values are blotted out (default: token, key, password, secret, code).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mask: Option<Vec<String>>,
}

/// `"stdout"`, `"stderr"`, `"off"` or `{ file = "path" }`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AccessLogTarget {
    Stdout,
    Stderr,
    Off,
    File(PathBuf),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Json,
    Text,
}

#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MetricsSpec {
    /// Where `GET /metrics` is answered besides the admin socket. Cannot change while running.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<ListenAddress>,
}

impl<'de> Deserialize<'de> for Threads {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Threads;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("\"auto\" or a number of threads")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Threads, E> {
                if text == "auto" { Ok(Threads::Auto) } else { Err(E::invalid_value(de::Unexpected::Str(text), &self)) }
            }
            fn visit_u64<E: de::Error>(self, count: u64) -> Result<Threads, E> {
                let count = u32::try_from(count).ok().and_then(NonZeroU32::new);
                count.map(Threads::Count).ok_or_else(|| E::custom("at least one thread is needed"))
            }
            fn visit_i64<E: de::Error>(self, count: i64) -> Result<Threads, E> {
                self.visit_u64(u64::try_from(count).unwrap_or(0))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for Threads {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Threads".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "anyOf": [{ "type": "string", "enum": ["auto"] }, { "type": "integer", "minimum": 1, "maximum": 256 }] })
    }
}

impl<'de> Deserialize<'de> for AccessLogTarget {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = AccessLogTarget;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("\"stdout\", \"stderr\", \"off\" or { file = \"path\" }")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<AccessLogTarget, E> {
                match text {
                    "stdout" => Ok(AccessLogTarget::Stdout),
                    "stderr" => Ok(AccessLogTarget::Stderr),
                    "off" => Ok(AccessLogTarget::Off),
                    _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }
            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<AccessLogTarget, A::Error> {
                match map.next_entry::<String, PathBuf>()? {
                    Some((key, path)) if key == "file" => Ok(AccessLogTarget::File(path)),
                    _ => Err(de::Error::custom("expected { file = \"path\" }")),
                }
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for AccessLogTarget {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "AccessLogTarget".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "anyOf": [{ "type": "string", "enum": ["stdout", "stderr", "off"] }, {
            "type": "object", "properties": { "file": { "type": "string" } }, "required": ["file"], "additionalProperties": false }] })
    }
}
