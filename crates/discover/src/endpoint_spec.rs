//! One item of a list of endpoints, in a document's `endpoints` or in a file.

use portcullis_names::EndpointAddress;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de};

/// `"10.0.0.11:8080"`, or a table that says more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
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
const WEIGHT_MAX: u32 = 65_535;
const PRIORITY_MAX: u32 = 127;
const ZONE_MAX: usize = 63;

impl EndpointTable {
    /// A document is checked against the schema; a file of endpoints only here.
    fn checked<E: de::Error>(self) -> Result<EndpointSpec, E> {
        let (weight, priority) = (self.weight.unwrap_or(1), self.priority.unwrap_or(0));
        if weight > WEIGHT_MAX {
            return Err(E::custom(format_args!("weight {weight} is more than {WEIGHT_MAX}")));
        }
        if priority > PRIORITY_MAX {
            return Err(E::custom(format_args!("priority {priority} is more than {PRIORITY_MAX}")));
        }
        if self.zone.as_ref().is_some_and(|zone| !(1..=ZONE_MAX).contains(&zone.chars().count())) {
            return Err(E::custom(format_args!("a zone has 1 to {ZONE_MAX} characters")));
        }
        Ok(EndpointSpec { address: self.address, weight, priority, zone: self.zone })
    }
}

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
                EndpointTable::deserialize(de::value::MapAccessDeserializer::new(map))?.checked()
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
