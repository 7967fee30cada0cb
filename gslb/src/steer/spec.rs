//! `[public_service.X]` and `[dns.geo]` as the operator writes them.

use super::{Area, MaintenanceSpec};
use portcullis_health::HealthCheckSpec;
use portcullis_names::{Cidr, ObjectName, Percent, TimeSpan};
use portcullis_tls::UpstreamTlsSpec;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de};
use std::{collections::BTreeMap, net::IpAddr, num::NonZeroU8, num::NonZeroU16, num::NonZeroU32, path::PathBuf};

/// A published name whose addresses are chosen by health, weight and place.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PublicServiceSpec {
    /// The name that clients ask for; in one of the zones. May begin with `*.`.
    pub host: String,
    pub sites: SitesSpec,
    /// How a site is chosen; several narrow the choice one after the other (default failover).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<Policies>,
    /// Sites in the order of preference, where the policy leaves several (default: by name).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fallback: Vec<ObjectName>,
    /// How `weighted` spreads (default client).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spread: Option<Spread>,
    /// Round trips from areas to sites, for `latency`: `{ "country:DE" = { eu = "20ms", us = "110ms" } }`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub latency: BTreeMap<Area, BTreeMap<ObjectName, TimeSpan>>,
    /// Sites within this of the nearest are alike to `latency` (default 10ms).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_tolerance: Option<TimeSpan>,
    /// Default 30s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<TimeSpan>,
    /// While the state of a member is undecided, or all are down (default: a quarter of `ttl`, at least 1s).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl_undecided: Option<TimeSpan>,
    /// How members are asked; without it they are up unless an operator says otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheckSpec>,
    /// The port that is checked (default 443 with `tls`, else 80).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<NonZeroU16>,
    /// Checks speak TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<UpstreamTlsSpec>,
    /// A member that comes back gets its share little by little over this time (default: at once).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow_start: Option<TimeSpan>,
    /// What is answered when no site is fit (default all).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub all_down: Option<AllDownSpec>,
    /// When more members than this fall within `withdraw_window`, health is not believed and all are answered (default 100%:
    /// always believed).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_withdraw: Option<Percent>,
    /// Default 1m.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub withdraw_window: Option<TimeSpan>,
    /// Which nodes of `[dns.fleet]` check the members, by name or by site (default: all).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub vantages: Vec<ObjectName>,
    /// What a member is taken for until somebody knows (default up).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initial: Option<Initial>,
    /// Services that this one needs: a site is fit only while their site of the same name is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<ObjectName>,
    /// The configuration alone decides: no order of an operator counts (default false).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub locked: Option<bool>,
    /// A site whose gateway carries more than this gives clients away to the others, little by little.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_target: Option<Percent>,
    /// Answer HTTPS questions as well, with hints of the addresses chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub https: Option<BindingSpec>,
    /// The same for SVCB, which names of other protocols have (RFC 9460 §2.3: `_dns.example.com`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub svcb: Option<BindingSpec>,
}

/// Sites by name.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct SitesSpec(pub BTreeMap<ObjectName, SiteSpec>);

/// `["192.0.2.1", "2001:db8::1"]`, `"upstream:NAME"`, or a table.
#[derive(Debug, Clone, Default, Serialize)]
pub struct SiteSpec {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<MemberSpec>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<ObjectName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cname: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub areas: Vec<Area>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub balance: Option<Balance>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<NonZeroU8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_up: Option<NonZeroU32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub maintenance: Vec<MaintenanceSpec>,
}

/// What a member is taken for until somebody knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Initial {
    /// A start must not wait for checks.
    Up,
    Down,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SiteTable {
    /// Addresses of the site.
    #[serde(default)]
    members: Vec<MemberSpec>,
    /// Take the addresses and the health of this upstream's endpoints: its probes, and what its real requests showed.
    upstream: Option<ObjectName>,
    /// Answer with this name in place of addresses; members are then only checked.
    cname: Option<String>,
    /// Share of clients under `weighted` (default 1; 0 takes none while another is fit).
    #[schemars(range(max = 65535))]
    weight: Option<u32>,
    /// Whom the site serves under `geo`; `"*"` is everybody whom no other site serves.
    #[serde(default)]
    areas: Vec<Area>,
    /// How members are chosen (default all).
    balance: Option<Balance>,
    /// Addresses of each family in one answer (default: 8 for all, 1 for others), up to 16.
    #[schemars(range(max = 16))]
    count: Option<NonZeroU8>,
    /// Members that must be up for the site to be fit (default 1).
    min_up: Option<NonZeroU32>,
    /// When the site or a member of it is drained.
    #[serde(default)]
    maintenance: Vec<MaintenanceSpec>,
}

/// `"192.0.2.1"`, or a table.
#[derive(Debug, Clone, Serialize)]
pub struct MemberSpec {
    pub address: IpAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct MemberTable {
    #[schemars(with = "String")]
    address: IpAddr,
    /// Share under `weighted` (default 1).
    #[schemars(range(max = 65535))]
    weight: Option<u32>,
}

/// How a site is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// Sites whose areas hold the client, the narrowest first.
    Geo,
    /// Sites near the client by the table.
    Latency,
    /// By the sites' weights.
    Weighted,
    /// One after the other.
    RoundRobin,
    /// The first of `fallback` that is fit.
    Failover,
}

impl Policy {
    /// As the configuration spells it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Geo => "geo",
            Self::Latency => "latency",
            Self::Weighted => "weighted",
            Self::RoundRobin => "round_robin",
            Self::Failover => "failover",
        }
    }
}

/// One policy, or several that narrow one after the other: `["geo", "weighted"]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Policies(pub Vec<Policy>);

/// What `weighted` draws by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Spread {
    /// By the client's network: the same one gets the same answer, and a change of weights moves only the share it must.
    Client,
    /// By chance, each time anew.
    Random,
}

/// How members of a site are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    All,
    Weighted,
    RoundRobin,
    /// In the order written.
    Failover,
}

/// What is answered when no site is fit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AllDownSpec {
    /// As if all were up: it may be the checks that fail.
    All,
    /// What was up last.
    LastKnown,
    /// No address (NODATA).
    Empty,
    Refuse,
    /// A page that says sorry.
    Addresses(Vec<IpAddr>),
    /// This site, whatever its state.
    Site(ObjectName),
}

/// `https = { alpn = ["h2", "h3"] }`: how clients bind to a service (RFC 9460).
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BindingSpec {
    /// Protocols that the members speak, like h2 and h3.
    pub alpn: Vec<String>,
    /// When it is not the protocol's own, like 443 of HTTPS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<NonZeroU16>,
    /// Encrypted Client Hello, as base 64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ech: Option<String>,
}

/// `[dns.geo]`: where the place of a client is known from.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GeoSpec {
    /// Databases in MaxMind's format, of whatever maker.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub databases: Vec<GeoDatabaseSpec>,
    /// Named lists of networks: `nets = { office = ["10.0.0.0/8"] }`, for the area `nets:office`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub nets: BTreeMap<ObjectName, Vec<Cidr>>,
}

/// A database and where its records have what.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GeoDatabaseSpec {
    pub file: PathBuf,
    /// Default `country.iso_code`, else `country_code`, else `country`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub country: Option<String>,
    /// Default `continent.code`, else `continent_code`, else that of the country.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub continent: Option<String>,
    /// Default `subdivisions.0.iso_code`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subdivision: Option<String>,
    /// Default `autonomous_system_number`, else `asn`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asn: Option<String>,
}

impl<'de> Deserialize<'de> for SiteSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = SiteSpec;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a list of addresses, \"upstream:NAME\", or a table with `members`, `upstream` or `cname`")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<SiteSpec, E> {
                let name =
                    text.strip_prefix("upstream:").ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))?;
                let upstream = Some(name.parse().map_err(E::custom)?);
                Ok(SiteSpec { upstream, ..SiteSpec::default() })
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, seq: A) -> Result<SiteSpec, A::Error> {
                let members = Vec::deserialize(de::value::SeqAccessDeserializer::new(seq))?;
                Ok(SiteSpec { members, ..SiteSpec::default() })
            }
            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<SiteSpec, A::Error> {
                let table = SiteTable::deserialize(de::value::MapAccessDeserializer::new(map))?;
                let SiteTable { members, upstream, cname, weight, areas, balance, count, min_up, maintenance } = table;
                Ok(SiteSpec { members, upstream, cname, weight, areas, balance, count, min_up, maintenance })
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl<'de> Deserialize<'de> for MemberSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = MemberSpec;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an address, or { address, weight }")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<MemberSpec, E> {
                let address = text.parse().map_err(|_| E::custom(format!("`{text}` is not an IP address")))?;
                Ok(MemberSpec { address, weight: None })
            }
            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<MemberSpec, A::Error> {
                let MemberTable { address, weight } =
                    MemberTable::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Ok(MemberSpec { address, weight })
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl<'de> Deserialize<'de> for Policies {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Policies;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a policy, or a list of them")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Policies, E> {
                Policy::deserialize(de::value::StrDeserializer::new(text)).map(|policy| Policies(vec![policy]))
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, seq: A) -> Result<Policies, A::Error> {
                Vec::deserialize(de::value::SeqAccessDeserializer::new(seq)).map(Policies)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl<'de> Deserialize<'de> for AllDownSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = AllDownSpec;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(ALL_DOWN)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<AllDownSpec, E> {
                match text {
                    "all" => Ok(AllDownSpec::All),
                    "last_known" => Ok(AllDownSpec::LastKnown),
                    "empty" => Ok(AllDownSpec::Empty),
                    "refuse" => Ok(AllDownSpec::Refuse),
                    _ => Err(E::custom(format!("expected {ALL_DOWN}"))),
                }
            }
            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<AllDownSpec, A::Error> {
                let table = AllDownTable::deserialize(de::value::MapAccessDeserializer::new(map))?;
                match (table.addresses, table.site) {
                    (Some(addresses), None) => Ok(AllDownSpec::Addresses(addresses)),
                    (None, Some(site)) => Ok(AllDownSpec::Site(site)),
                    _ => Err(de::Error::custom("expected one of `addresses` and `site`")),
                }
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

const ALL_DOWN: &str = "\"all\", \"last_known\", \"empty\", \"refuse\", { addresses = […] } or { site = \"…\" }";

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct AllDownTable {
    #[schemars(with = "Option<Vec<String>>")]
    addresses: Option<Vec<IpAddr>>,
    site: Option<ObjectName>,
}

/// `anyOf` of a short form and a table.
macro_rules! double_form {
    ($type:ident, $generator:ident => $short:expr, $long:expr) => {
        impl JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }
            fn json_schema($generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
                let (short, long) = ($short, $long);
                schemars::json_schema!({ "anyOf": [short, long] })
            }
        }
    };
}

impl JsonSchema for SiteSpec {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "SiteSpec".into()
    }
    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let (list, table) = (generator.subschema_for::<Vec<MemberSpec>>(), generator.subschema_for::<SiteTable>());
        schemars::json_schema!({ "anyOf": [{ "type": "string" }, list, table] })
    }
}

double_form!(MemberSpec, g => g.subschema_for::<String>(), g.subschema_for::<MemberTable>());
double_form!(Policies, g => g.subschema_for::<Policy>(), g.subschema_for::<Vec<Policy>>());
double_form!(
    AllDownSpec,
    g => schemars::json_schema!({ "type": "string", "enum": ["all", "last_known", "empty", "refuse"] }),
    g.subschema_for::<AllDownTable>()
);
