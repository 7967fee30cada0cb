//! Signature algorithms of tokens (RFC 7518 §3.1, RFC 8037). `none` is not one of them and has no spelling here.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a token may be signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize, JsonSchema)]
pub enum Algorithm {
    #[serde(rename = "RS256")]
    Rs256,
    #[serde(rename = "RS384")]
    Rs384,
    #[serde(rename = "RS512")]
    Rs512,
    #[serde(rename = "PS256")]
    Ps256,
    #[serde(rename = "PS384")]
    Ps384,
    #[serde(rename = "PS512")]
    Ps512,
    #[serde(rename = "ES256")]
    Es256,
    #[serde(rename = "ES384")]
    Es384,
    #[serde(rename = "ES512")]
    Es512,
    #[serde(rename = "EdDSA")]
    EdDsa,
    #[serde(rename = "HS256")]
    Hs256,
    #[serde(rename = "HS384")]
    Hs384,
    #[serde(rename = "HS512")]
    Hs512,
}

impl Algorithm {
    pub const ALL: &[Self] = &[
        Self::Rs256,
        Self::Rs384,
        Self::Rs512,
        Self::Ps256,
        Self::Ps384,
        Self::Ps512,
        Self::Es256,
        Self::Es384,
        Self::Es512,
        Self::EdDsa,
        Self::Hs256,
        Self::Hs384,
        Self::Hs512,
    ];

    /// By the name in a token's header or a key's `alg`; case matters (RFC 7515 §4.1.1).
    pub fn named(name: &str) -> Option<Self> {
        // RFC 9864 §2.2: the fully specified name of EdDSA over Ed25519, the only curve here.
        let name = if name == "Ed25519" { "EdDSA" } else { name };
        Self::ALL.iter().copied().find(|algorithm| algorithm.as_str() == name)
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Es512 => "ES512",
            Self::EdDsa => "EdDSA",
            Self::Hs256 => "HS256",
            Self::Hs384 => "HS384",
            Self::Hs512 => "HS512",
        }
    }

    /// `None` for what `jsonwebtoken` does not know.
    pub(crate) const fn backend(self) -> Option<jsonwebtoken::Algorithm> {
        use jsonwebtoken::Algorithm as Backend;
        Some(match self {
            Self::Rs256 => Backend::RS256,
            Self::Rs384 => Backend::RS384,
            Self::Rs512 => Backend::RS512,
            Self::Ps256 => Backend::PS256,
            Self::Ps384 => Backend::PS384,
            Self::Ps512 => Backend::PS512,
            Self::Es256 => Backend::ES256,
            Self::Es384 => Backend::ES384,
            Self::Es512 => return None,
            Self::EdDsa => Backend::EdDSA,
            Self::Hs256 => Backend::HS256,
            Self::Hs384 => Backend::HS384,
            Self::Hs512 => Backend::HS512,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written_and_nothing_else_is() {
        for algorithm in Algorithm::ALL {
            assert_eq!(Algorithm::named(algorithm.as_str()), Some(*algorithm));
            assert_eq!(serde_json::to_string(algorithm).unwrap(), format!("\"{}\"", algorithm.as_str()));
            assert_eq!(Algorithm::named(&algorithm.as_str().to_lowercase()), None);
        }
        for name in ["none", "None", "", "RS1", "ES256K", "HS256 ", "RS256\0", "Ed448"] {
            assert_eq!(Algorithm::named(name), None, "{name}");
        }
    }
}
