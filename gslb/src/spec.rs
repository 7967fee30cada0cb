//! What the operator writes for DNS: `[dns]` and `[zone.X]`; `[public_service.X]` is in `steer`.

use crate::{
    dnssec::DnssecSpec,
    fleet::FleetSpec,
    steer::{GeoSpec, PublicServiceSpec},
};
use portcullis_names::{Cidr, ObjectName, Percent, Rate, SecretRef, TimeSpan};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, net::SocketAddr, num::NonZeroU32, path::PathBuf};

/// The tables of a document that this crate reads.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GslbSpec {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns: Option<DnsSpec>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub zone: BTreeMap<ObjectName, ZoneSpec>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub public_service: BTreeMap<ObjectName, PublicServiceSpec>,
    /// Share of queries that the log of the host is told (default all). The host's own tables say it.
    #[serde(skip)]
    pub logged: Option<Percent>,
    /// Where fetched zones are kept over restarts. The host's own tables say it.
    #[serde(skip)]
    pub state: Option<PathBuf>,
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
    /// Fetch the zone from another server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secondary: Option<SecondarySpec>,
    /// Give the zone to secondaries.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transfer: Option<TransferSpec>,
    /// Let clients change the zone (RFC 2136).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub update: Option<UpdateSpec>,
    /// Sign answers with these keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dnssec: Option<DnssecSpec>,
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

/// `[dns]`: how all DNS listeners of the process serve.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DnsSpec {
    /// Told to who asks for it (RFC 5001): names this node in a set. Default: nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nsid: Option<String>,
    /// Octets of the largest UDP reply (default 1232), 512 to 4096.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 512, max = 4096))]
    pub udp_size: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cookies: Option<CookiesSpec>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimitSpec>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp: Option<TcpSpec>,
    /// Shared secrets that messages may be signed with, by the name of the key.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tsig: BTreeMap<ObjectName, TsigSpec>,
    /// Tell a collector of queries and replies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dnstap: Option<DnstapSpec>,
    /// Where the place of a client is known from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub geo: Option<GeoSpec>,
    /// Other nodes whose word on members counts beside our own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fleet: Option<FleetSpec>,
}

/// `cookies = { secret = { file = "cookie.key" } }`: nodes with one secret know one another's cookies (RFC 9018).
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CookiesSpec {
    /// 32 hexadecimal digits. Default: made at random when the process starts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretRef>,
    /// Known as well, while nodes change from one secret to the next.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<SecretRef>,
}

/// `rate_limit = { responses = "100/s" }`: like replies for one network (/24, /56) over UDP.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RateLimitSpec {
    /// Default on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<RateLimitSwitch>,
    /// Like replies: of one name when there is data, of one zone when there is none (default 200/s).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub responses: Option<Rate>,
    /// Of those over the rate, every n-th is sent truncated, so that real clients come by TCP (default 2; 0: none).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slip: Option<u32>,
    /// Never limited.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exempt: Vec<Cidr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RateLimitSwitch {
    On,
    Off,
}

/// `dnstap = { to = "/run/dnstap.sock", sample = "10%" }`: a unix socket on which a collector speaks frame streams.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DnstapSpec {
    pub to: PathBuf,
    /// Default all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample: Option<Percent>,
}

/// `tcp = { max_connections = 1000 }`: caps of streams.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TcpSpec {
    /// Of one listener (default 1000).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<NonZeroU32>,
    /// Of one IPv4 address or IPv6 /56 (default 100).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_per_client: Option<NonZeroU32>,
    /// How long a connection may be silent after an answer (default 10s; a second when three quarters are in use).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<TimeSpan>,
    /// How long the first query may take, a TLS handshake alike (default 3s).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_timeout: Option<TimeSpan>,
    /// How long a client may take to read a reply (default 5s).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write_timeout: Option<TimeSpan>,
}

/// `[dns.tsig.NAME]`: a shared secret (RFC 8945).
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TsigSpec {
    /// Default hmac-sha256.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub algorithm: Option<TsigAlgorithm>,
    /// Base 64.
    pub secret: SecretRef,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum TsigAlgorithm {
    #[serde(rename = "hmac-sha256")]
    HmacSha256,
    #[serde(rename = "hmac-sha384")]
    HmacSha384,
    #[serde(rename = "hmac-sha512")]
    HmacSha512,
}

/// `secondary = { of = ["192.0.2.1:53"], key = "xfr" }`.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SecondarySpec {
    /// Servers that have it, asked in this order; their word of a change (NOTIFY) is taken.
    #[schemars(with = "Vec<String>")]
    pub of: Vec<SocketAddr>,
    /// A name of `[dns.tsig]`: sign what is asked, and take nothing that is not signed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<ObjectName>,
}

/// `transfer = { to = ["192.0.2.0/24"], keys = ["xfr"], notify = ["192.0.2.1:53"] }`. With both, both must hold.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TransferSpec {
    /// Who may have it, by address.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub to: Vec<Cidr>,
    /// Who may have it, by the key that the request is signed with: names of `[dns.tsig]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<ObjectName>,
    /// Told when the zone has changed (RFC 1996).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<String>")]
    pub notify: Vec<SocketAddr>,
}

/// `update = { keys = ["dhcp"] }`: what is sent is kept beside the zone and stays over reloads of what is written here.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UpdateSpec {
    /// The keys that a request must be signed with: names of `[dns.tsig]`.
    pub keys: Vec<ObjectName>,
    /// Where a request must come from as well (default: anywhere).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<Cidr>,
}
