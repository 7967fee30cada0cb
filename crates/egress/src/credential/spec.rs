//! `[credential.X]` as the operator writes it.

use portcullis_names::{Cidr, HeaderName, Method, ObjectName, SecretRef};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the gateway adds to requests, and of which ones. Exactly one kind. What the client sent in its place is removed.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub struct CredentialSpec {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<HeaderCredentialSpec>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub basic: Option<BasicCredentialSpec>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oauth2: Option<OAuth2Spec>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aws_sigv4: Option<AwsSigV4Spec>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signed_jwt: Option<SignedJwtSpec>,
    /// A `[certificate.X]` that is shown to the destination.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_certificate: Option<ObjectName>,
    /// Callers it is for, as in `access.*.from` (default all that reach the destination).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<Vec<String>>,
    /// Default all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub methods: Option<Vec<Method>>,
    /// Prefixes of whole segments (default all).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paths: Option<Vec<String>>,
    /// Fields of the client that are removed besides `authorization` and the one that is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strip: Option<Vec<HeaderName>>,
}

/// `header = { name = "authorization", prefix = "Bearer ", value = { file = "…" } }`.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub struct HeaderCredentialSpec {
    pub name: HeaderName,
    /// In front of the value (default nothing).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    pub value: SecretRef,
}

/// RFC 7617.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub struct BasicCredentialSpec {
    pub user: String,
    pub password: SecretRef,
}

/// Client credentials (RFC 6749 §4.4).
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub struct OAuth2Spec {
    pub token_url: String,
    pub client_id: String,
    pub client_secret: SecretRef,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scopes: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
    /// Ranges outside the public internet that the token URL's host may resolve to (default none).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub private_addresses: Option<Vec<Cidr>>,
}

/// A signed JWT that is exchanged for a token (RFC 7523 §2.1).
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub struct SignedJwtSpec {
    pub token_url: String,
    pub issuer: String,
    /// Default the issuer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// Default the token URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
    /// PEM, PKCS #8.
    pub key: SecretRef,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
    pub algorithm: JwtAlgorithm,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scopes: Option<Vec<String>>,
    /// Ranges outside the public internet that the token URL's host may resolve to (default none).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub private_addresses: Option<Vec<Cidr>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum JwtAlgorithm {
    RS256,
    ES256,
    EdDSA,
}

/// AWS Signature Version 4.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub struct AwsSigV4Spec {
    pub access_key_id: String,
    pub secret_access_key: SecretRef,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_token: Option<SecretRef>,
    pub region: String,
    /// Like `s3` or `execute-api`.
    pub service: String,
    /// Whether a body that is longer than 64 KiB, or of a length that is not known ahead, goes out as UNSIGNED-PAYLOAD; if not, such
    /// a request is refused (default true with a service of S3, which takes it over TLS, else false).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unsigned_payload: Option<bool>,
}
