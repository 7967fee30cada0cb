//! `dnssec = { … }` of a zone as the operator writes it.

use super::Algorithm;
use portcullis_names::{SecretRef, TimeSpan};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// `dnssec = { keys = [{ secret = { file = "example.key" } }] }`.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DnssecSpec {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1))]
    pub keys: Vec<DnssecKeySpec>,
    /// Make keys here and replace them in time, instead of `keys`. For one primary: its secondaries take the signed zone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub automatic: Option<AutomaticKeysSpec>,
    /// How it is proved that something is not there (default nsec).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub denial: Option<DenialSpec>,
    /// How long signatures hold (default 14d). They are made anew in the last third of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validity: Option<TimeSpan>,
    /// Publish CDS and CDNSKEY for the parent to fetch (RFC 7344; default off, with `automatic` on).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cds: Option<CdsSpec>,
}

/// `automatic = { keys = "ksk_zsk", zsk_lifetime = "30d", entry_lifetime = "365d", parent = ["192.0.2.1:53"] }`.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AutomaticKeysSpec {
    /// Default csk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keys: Option<KeySchemeSpec>,
    /// Of keys that are made (default ecdsap256). With `parent`, another one takes over by steps, in which both sign.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub algorithm: Option<Algorithm>,
    /// How long a zsk signs (default 30d).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zsk_lifetime: Option<TimeSpan>,
    /// How long a csk or ksk signs (default: for ever, as the parent takes part in the change). Needs `parent`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entry_lifetime: Option<TimeSpan>,
    /// Servers of the parent zone. They are asked for the DS: a key is given up when all of them have the next one's, an algorithm
    /// when none of them has a DS of it any more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<String>")]
    pub parent: Vec<SocketAddr>,
    /// How long the parent's DS may be cached (default 1d).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent_ttl: Option<TimeSpan>,
    /// Until all servers of a zone, ours or the parent's, have a change (default 1h).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub propagation: Option<TimeSpan>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KeySchemeSpec {
    /// One key signs all.
    Csk,
    /// One signs the keys, and one, that changes without the parent, the rest.
    KskZsk,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CdsSpec {
    On,
    Off,
}

/// A key of a zone.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DnssecKeySpec {
    /// A private key, ECDSA P-256 or Ed25519, as PKCS#8 in PEM.
    pub secret: SecretRef,
    /// Default csk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<KeyRole>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KeyRole {
    /// Signs all.
    Csk,
    /// Signs the keys.
    Ksk,
    /// Signs all but the keys.
    Zsk,
    /// Is only published: the next key, before it signs (RFC 6781 §4.1.1.1).
    Standby,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DenialSpec {
    /// A chain of names (RFC 4034). Cheap under floods; who wants can list the zone.
    Nsec,
    /// A chain of hashed names, without salt and iterations (RFC 9276).
    Nsec3,
    /// Each name denied by itself (RFC 9824): nothing can be listed, and each absent name costs a signature.
    Compact,
}
