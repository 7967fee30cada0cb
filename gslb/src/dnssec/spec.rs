//! `dnssec = { … }` of a zone as the operator writes it.

use portcullis_names::{SecretRef, TimeSpan};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `dnssec = { keys = [{ secret = { file = "example.key" } }] }`.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DnssecSpec {
    #[schemars(length(min = 1))]
    pub keys: Vec<DnssecKeySpec>,
    /// How it is proved that something is not there (default nsec).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub denial: Option<DenialSpec>,
    /// How long signatures hold (default 14d). They are made anew in the last third of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validity: Option<TimeSpan>,
    /// Publish CDS and CDNSKEY for the parent to fetch (RFC 7344; default off).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cds: Option<CdsSpec>,
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
