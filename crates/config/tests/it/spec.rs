//! A small language with one of everything that a spec can be made of.

use portcullis_config::{Context, Document, Reserved};
use portcullis_names::{EndpointAddress, HeaderName, HostPattern, ObjectName, SecretRef, TimeSpan};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de};
use std::{collections::BTreeMap, fmt, num::NonZeroU32, sync::Arc};

#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Spec {
    pub(crate) process: Option<Process>,
    #[serde(default)]
    pub(crate) certificate: BTreeMap<ObjectName, Certificate>,
    #[serde(default)]
    pub(crate) listener: BTreeMap<ObjectName, Listener>,
    #[serde(default)]
    pub(crate) upstream: BTreeMap<ObjectName, Upstream>,
    #[serde(default)]
    pub(crate) route: BTreeMap<ObjectName, Route>,
}

#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Process {
    pub(crate) threads: Option<u16>,
    pub(crate) drain: Option<TimeSpan>,
}

#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Certificate {
    pub(crate) cert: String,
    pub(crate) key: SecretRef,
}

#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Listener {
    pub(crate) address: String,
    pub(crate) protocol: Option<Protocol>,
    pub(crate) source: Option<Source>,
}

#[derive(Debug, Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Protocol {
    Http,
    /// Documented, so that schemars writes it as a constant of its own.
    Https,
    Tcp,
}

/// Externally tagged.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Source {
    Anywhere,
    Header(HeaderName),
    Chain { trusted: u8 },
}

#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Upstream {
    #[schemars(length(min = 1))]
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) connect_timeout: Option<TimeSpan>,
    pub(crate) check: Option<Check>,
    pub(crate) ratio: Option<f64>,
}

/// Internally tagged.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum Check {
    Http { path: String },
    Tcp { send: Option<String> },
}

/// `"address:port"`, or a table.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Endpoint {
    pub(crate) address: EndpointAddress,
    pub(crate) weight: Option<NonZeroU32>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct EndpointTable {
    address: EndpointAddress,
    weight: Option<NonZeroU32>,
}

impl<'de> Deserialize<'de> for Endpoint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Endpoint;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"address:port\" or { address, weight }")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Endpoint, E> {
                Ok(Endpoint { address: text.parse().map_err(E::custom)?, weight: None })
            }
            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Endpoint, A::Error> {
                let table = EndpointTable::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Ok(Endpoint { address: table.address, weight: table.weight })
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for Endpoint {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Endpoint".into()
    }
    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let short = generator.subschema_for::<EndpointAddress>();
        let table = generator.subschema_for::<EndpointTable>();
        schemars::json_schema!({ "anyOf": [short, table] })
    }
}

#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Route {
    #[serde(default)]
    pub(crate) hosts: Vec<HostPattern>,
    pub(crate) upstream: Option<String>,
    pub(crate) timeout: Option<TimeSpan>,
    #[serde(default)]
    pub(crate) headers: BTreeMap<HeaderName, String>,
    #[serde(default)]
    pub(crate) rule: BTreeMap<ObjectName, Route>,
}

pub(crate) const RESERVED: &[Reserved] =
    &[Reserved("identity"), Reserved("route.*.waf"), Reserved("listener.*.protocol=udp")];

/// Checks a text against [`Spec`].
pub(crate) fn read(text: &str) -> (Option<Spec>, Context) {
    let (document, report) = Document::parse("edge.toml", text);
    Arc::new(document).read(report, RESERVED)
}
