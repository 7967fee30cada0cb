//! What the operator writes for DNS: `[zone.X]`.

use portcullis_names::{ObjectName, TimeSpan};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::PathBuf};

/// The tables of a document that this crate reads.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GslbSpec {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub zone: BTreeMap<ObjectName, ZoneSpec>,
}

/// `[zone.X]`: a zone from a zone file, from lines in the document, or both.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ZoneSpec {
    /// The apex: `gslb.example.com`.
    pub name: String,
    /// A zone file (RFC 1035), relative to this file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// Lines as a zone file has them: `"www 60 A 192.0.2.1"`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub records: Vec<String>,
    /// Time to live of records that give none (default 5m).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<TimeSpan>,
    /// The SOA, when no record gives it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub soa: Option<SoaSpec>,
    /// Name servers of the zone, when no record gives them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ns: Vec<String>,
}

/// `soa = { mname = "ns1.example.com", rname = "noc.example.com" }`.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SoaSpec {
    /// The primary name server.
    pub mname: String,
    /// The mailbox of who is responsible, `noc.example.com` or `noc@example.com`.
    pub rname: String,
    /// Default: the time of the change, in seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<u32>,
    /// Default 1h.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh: Option<TimeSpan>,
    /// Default 15m.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<TimeSpan>,
    /// Default 7d.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expire: Option<TimeSpan>,
    /// How long an absence is believed (RFC 2308; default 1m).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minimum: Option<TimeSpan>,
}
