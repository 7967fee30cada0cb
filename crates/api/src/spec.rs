//! `[api.NAME]` as the operator writes it.

use portcullis_names::ByteSize;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A document, and how messages are held against it.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ApiSpec {
    /// An OpenAPI 3.0 or 3.1 document, in JSON or YAML, of at most 4 MiB.
    pub openapi: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validate: Option<ValidateSpec>,
    /// Bodies that have a schema are held and looked at up to this size, and larger ones are violations (default 1MiB, at most 16MiB).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<ByteSize>,
}

/// What is done about violations of each kind.
#[derive(Debug, Clone, Copy, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ValidateSpec {
    /// Parameters, content type and body of a request (default log).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<ApiMode>,
    /// Status, content type and body of a response (default off).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response: Option<ApiMode>,
    /// Paths, methods and query parameters that the document does not know (default log).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unknown: Option<ApiMode>,
    /// Bodies with a schema in a format that is not looked into, such as XML (default log); where their direction is looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unsupported: Option<ApiMode>,
}

/// From the mildest to the strictest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ApiMode {
    /// Nobody looks.
    Off,
    /// It is counted and told, and passes.
    Log,
    /// The request or response does not pass.
    Block,
}

impl ApiMode {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Log => "log",
            Self::Block => "block",
        }
    }
}
