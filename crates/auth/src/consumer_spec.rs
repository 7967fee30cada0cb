//! `[consumer.NAME]`.

use portcullis_names::SecretRef;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A client with credentials of its own. Only hashes of them are ever written down.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub struct ConsumerSpec {
    /// API keys; several, so that one can be replaced without a gap.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keys: Option<Vec<ConsumerKeySpec>>,
    /// One user name and password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub basic: Option<ConsumerBasicSpec>,
    /// For `auth.groups`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub groups: Option<Vec<String>>,
}

/// One API key.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub struct ConsumerKeySpec {
    /// The SHA-256 of the key, as 64 hexadecimal digits: `printf %s KEY | sha256sum`. Keys must be random, 128 bits or more.
    pub sha256: SecretRef,
}

/// A user name and password (RFC 7617).
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub struct ConsumerBasicSpec {
    /// Without a colon.
    pub username: String,
    /// `$argon2id$…` (PHC string) or `$2b$…` (bcrypt).
    pub password_hash: SecretRef,
}
