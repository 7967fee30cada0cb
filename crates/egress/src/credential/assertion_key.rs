//! A private key that signs assertions (RFC 7515 compact form).

use super::{JwtAlgorithm, Secret};
use aws_lc_rs::{
    rand::SystemRandom,
    signature::{self, EcdsaKeyPair, Ed25519KeyPair, RsaKeyPair},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use rustls_pki_types::{PrivatePkcs8KeyDer, pem::PemObject};
use serde_json::json;

pub(crate) enum AssertionKey {
    Rs256(Box<RsaKeyPair>),
    Es256(Box<EcdsaKeyPair>),
    EdDsa(Box<Ed25519KeyPair>),
}

impl AssertionKey {
    /// From PEM with PKCS #8; `None` for anything else, and for a key of another algorithm.
    pub(crate) fn read(algorithm: JwtAlgorithm, pem: &Secret) -> Option<Self> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.expose()).ok()?;
        let der = der.secret_pkcs8_der();
        match algorithm {
            JwtAlgorithm::RS256 => RsaKeyPair::from_pkcs8(der).ok().map(|key| Self::Rs256(Box::new(key))),
            JwtAlgorithm::ES256 => EcdsaKeyPair::from_pkcs8(&signature::ECDSA_P256_SHA256_FIXED_SIGNING, der)
                .ok()
                .map(|key| Self::Es256(Box::new(key))),
            JwtAlgorithm::EdDSA => Ed25519KeyPair::from_pkcs8(der).ok().map(|key| Self::EdDsa(Box::new(key))),
        }
    }

    /// `None` if the signer fails, which it does only for want of randomness.
    pub(crate) fn sign(&self, key_id: Option<&str>, claims: &serde_json::Value) -> Option<Secret> {
        let mut header = json!({ "alg": self.name(), "typ": "JWT" });
        if let (Some(key_id), Some(members)) = (key_id, header.as_object_mut()) {
            members.insert("kid".to_owned(), key_id.into());
        }
        let encode = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", encode(&header), encode(claims));
        let signature = self.signature(message.as_bytes())?;
        Some(Secret::new(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)).into_bytes()))
    }

    fn signature(&self, message: &[u8]) -> Option<Vec<u8>> {
        let random = SystemRandom::new();
        match self {
            Self::Rs256(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(&signature::RSA_PKCS1_SHA256, &random, message, &mut signature).ok()?;
                Some(signature)
            }
            Self::Es256(key) => key.sign(&random, message).ok().map(|signature| signature.as_ref().to_vec()),
            Self::EdDsa(key) => Some(key.sign(message).as_ref().to_vec()),
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Rs256(_) => "RS256",
            Self::Es256(_) => "ES256",
            Self::EdDsa(_) => "EdDSA",
        }
    }
}
