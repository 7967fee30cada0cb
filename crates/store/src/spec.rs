//! `[store.X]` as the operator writes it.

use crate::connection::{Node, StoreConfig};
use portcullis_config::{Context, Path};
use portcullis_names::{EndpointAddress, SecretRef, TimeSpan};
use portcullis_tls::{Certificates, Trusts, UpstreamTls, UpstreamTlsMode, UpstreamTlsSpec};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{borrow::Cow, fmt, time::Duration};

/// State that several processes share.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StoreSpec {
    pub valkey: ValkeySpec,
    /// What becomes of a request when the store gives no answer (default local).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_fail: Option<OnFail>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnFail {
    /// Each process counts for itself, by the same numbers.
    #[default]
    Local,
    /// It is let through uncounted.
    Allow,
    /// It is refused.
    Deny,
}

/// Valkey or Redis from version 5, a primary by itself or with replicas; not a cluster.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ValkeySpec {
    /// A primary and its replicas in any order: the one that takes writes is used.
    #[schemars(length(min = 1, max = 16))]
    pub nodes: Vec<EndpointAddress>,
    /// Default verify; off when no node is outside this host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<StoreTlsSpec>,
    /// Default: the store's default user. It needs `~portcullis:* +script|load +evalsha +time +get +set`, and `+select` for
    /// another database.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<SecretRef>,
    /// Default 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub database: Option<u16>,
    /// How long a request waits for the store, from 1ms to 10s (default 50ms).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<TimeSpan>,
}

/// `"off"`, `"verify"`, or a table as of an upstream; without `sni` a node's own address is verified.
#[derive(Debug, Clone)]
pub struct StoreTlsSpec(UpstreamTlsSpec);

const NODES_MAX: usize = 16;
const TIMEOUT: Duration = Duration::from_millis(50);
const TIMEOUT_MIN: Duration = Duration::from_millis(1);
const TIMEOUT_MAX: Duration = Duration::from_secs(10);

impl StoreSpec {
    pub fn compile(
        &self,
        certificates: &Certificates,
        trusts: &Trusts,
        at: &Path,
        cx: &mut Context,
    ) -> Option<StoreConfig> {
        self.valkey.compile(self.on_fail.unwrap_or_default(), certificates, trusts, &at.key("valkey"), cx)
    }
}

impl ValkeySpec {
    fn compile(
        &self,
        on_fail: OnFail,
        certificates: &Certificates,
        trusts: &Trusts,
        at: &Path,
        cx: &mut Context,
    ) -> Option<StoreConfig> {
        let nodes = self.nodes(certificates, trusts, at, cx);
        let timeout = self.timeout.map_or(TIMEOUT, TimeSpan::get);
        let timeout_fits = (TIMEOUT_MIN..=TIMEOUT_MAX).contains(&timeout);
        if !timeout_fits {
            cx.error(&at.key("timeout"), "a request waits for the store from 1ms to 10s");
        }
        let password = self.password.as_ref().map(|password| password_text(password, &at.key("password"), cx));
        let nameless = self.username.is_none() || self.password.is_some();
        if !nameless {
            cx.error(&at.key("username"), "a `username` is of no use without `password`")
                .help("add `password = { file = \"…\" }`, or leave both out");
        }
        let password = match password {
            None => None,
            Some(read) => Some(read?),
        };
        let (true, true, Some(nodes)) = (timeout_fits, nameless, nodes) else { return None };
        let (username, database) = (self.username.clone(), self.database.unwrap_or(0));
        Some(StoreConfig { nodes, username, password, database, timeout, on_fail })
    }

    fn nodes(&self, certificates: &Certificates, trusts: &Trusts, at: &Path, cx: &mut Context) -> Option<Vec<Node>> {
        if self.nodes.is_empty() || self.nodes.len() > NODES_MAX {
            cx.error(&at.key("nodes"), format!("a store has 1 to {NODES_MAX} nodes"));
            return None;
        }
        let inside = self.nodes.iter().all(is_on_this_host);
        let default = if inside { UpstreamTlsMode::Off } else { UpstreamTlsMode::Verify };
        let written = self.tls.clone().unwrap_or_else(|| default.into());
        let at_tls = if self.tls.is_some() { at.key("tls") } else { at.clone() };
        let towards = |address: &EndpointAddress| {
            let tls = UpstreamTls::compile(&written.towards(address), certificates, trusts, &at_tls, cx).ok()?;
            Some(Node::new(address.clone(), tls.as_ref()))
        };
        // Ends at the first mistake: it would be the same one for each node.
        self.nodes.iter().map(towards).collect()
    }
}

impl StoreTlsSpec {
    /// The name to verify is the node's own address, unless the operator gave one. A socket of this host has none: then
    /// `sni` must be given, and the compile step of upstreams says so.
    fn towards(&self, address: &EndpointAddress) -> UpstreamTlsSpec {
        let mut spec = self.0.clone();
        if spec.mode != Some(UpstreamTlsMode::Off)
            && spec.sni.is_none()
            && let EndpointAddress::Ip(address) = address
        {
            spec.sni = Some(address.ip().to_string());
        }
        spec
    }
}

impl From<UpstreamTlsMode> for StoreTlsSpec {
    fn from(mode: UpstreamTlsMode) -> Self {
        Self(UpstreamTlsSpec { mode: Some(mode), ..UpstreamTlsSpec::default() })
    }
}

fn is_on_this_host(address: &EndpointAddress) -> bool {
    match address {
        EndpointAddress::Ip(address) => address.ip().is_loopback(),
        EndpointAddress::Unix(_) => true,
    }
}

/// The last line break of a file is the editor's, not the password's. Neither message shows any of it.
fn password_text(password: &SecretRef, at: &Path, cx: &mut Context) -> Option<String> {
    let octets = cx.secret(at, password)?;
    let text = String::from_utf8(octets).ok().map(|text| text.trim_end_matches(['\r', '\n']).to_owned());
    let text = text.filter(|text| !text.is_empty());
    if text.is_none() {
        cx.error(at, "the password is empty or not UTF-8");
    }
    text
}

const EXPECTS: &str = "\"off\", \"verify\" or a table { mode, sni, trust, san, certificate }";

impl<'de> Deserialize<'de> for StoreTlsSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = StoreTlsSpec;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(EXPECTS)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<StoreTlsSpec, E> {
                match text {
                    "off" => Ok(UpstreamTlsMode::Off.into()),
                    "verify" => Ok(UpstreamTlsMode::Verify.into()),
                    _ => Err(E::custom(format!("`{text}` is not {EXPECTS}"))),
                }
            }
            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<StoreTlsSpec, A::Error> {
                UpstreamTlsSpec::deserialize(de::value::MapAccessDeserializer::new(map)).map(StoreTlsSpec)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl Serialize for StoreTlsSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl JsonSchema for StoreTlsSpec {
    fn schema_name() -> Cow<'static, str> {
        "StoreTlsSpec".into()
    }
    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let table = generator.subschema_for::<UpstreamTlsSpec>();
        schemars::json_schema!({ "anyOf": [{ "type": "string", "enum": ["off", "verify"] }, table] })
    }
}
