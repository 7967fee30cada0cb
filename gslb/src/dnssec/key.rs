//! Private keys of zones: read, made, used.

use super::KeyRole;
use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What keys can sign with (RFC 8624 §3.1: the two that a zone should use).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Algorithm {
    #[serde(rename = "ecdsap256")]
    EcdsaP256Sha256,
    #[serde(rename = "ed25519")]
    Ed25519,
}

/// One key of a zone.
pub(crate) struct Key {
    pair: Pair,
    pub(crate) duty: Duty,
    pub(crate) algorithm: Algorithm,
    /// The data of its DNSKEY record.
    pub(crate) rdata: Vec<u8>,
    pub(crate) tag: u16,
}

/// What a key is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Duty {
    /// A DS may point to it (RFC 4034 §2.1.1).
    pub(crate) entry: bool,
    /// The parent is told of it: CDS, and the DS that is to be there.
    pub(crate) told: bool,
    /// Stands in the DNSKEY set.
    pub(crate) published: bool,
    /// Signs the keys.
    pub(crate) keys: bool,
    /// Signs all the rest.
    pub(crate) zone: bool,
}

enum Pair {
    Ecdsa(EcdsaKeyPair, SystemRandom),
    Ed25519(Ed25519KeyPair),
}

/// Why a key cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("not a private key in PEM (`-----BEGIN PRIVATE KEY-----`)")]
    Pem,
    #[error("neither an ECDSA P-256 nor an Ed25519 key in PKCS#8")]
    Kind,
    #[error("the key cannot be made")]
    Make,
}

/// RFC 4034 §2.1.1 and §2.1.2: a zone key, and one that a parent's DS may point to.
const FLAGS_ZONE: u16 = 256;
const FLAGS_ENTRY: u16 = 257;
const PEM_BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const PEM_END: &str = "-----END PRIVATE KEY-----";

impl Algorithm {
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::EcdsaP256Sha256 => 13,
            Self::Ed25519 => 15,
        }
    }

    /// As the document names it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::EcdsaP256Sha256 => "ecdsap256",
            Self::Ed25519 => "ed25519",
        }
    }
}

impl Duty {
    pub(crate) fn of(role: KeyRole) -> Self {
        let (entry, told, keys, zone) = match role {
            KeyRole::Csk => (true, true, true, true),
            KeyRole::Ksk => (true, true, true, false),
            KeyRole::Zsk => (false, false, false, true),
            KeyRole::Standby => (true, false, false, false),
        };
        Self { entry, told, published: true, keys, zone }
    }
}

impl Key {
    pub(crate) fn read(pem: &[u8], duty: Duty) -> Result<Self, KeyError> {
        let text = std::str::from_utf8(pem).map_err(|_| KeyError::Pem)?;
        let body = text.split_once(PEM_BEGIN).and_then(|(_, rest)| rest.split_once(PEM_END)).ok_or(KeyError::Pem)?.0;
        let body: String = body.split_ascii_whitespace().collect();
        let der = data_encoding::BASE64.decode(body.as_bytes()).map_err(|_| KeyError::Pem)?;
        let (algorithm, public, pair) =
            if let Ok(pair) = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der) {
                // RFC 6605 §4: the point without the octet that says it is not compressed.
                let public = pair.public_key().as_ref().get(1..).unwrap_or_default().to_vec();
                (Algorithm::EcdsaP256Sha256, public, Pair::Ecdsa(pair, SystemRandom::new()))
            } else if let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der) {
                (Algorithm::Ed25519, pair.public_key().as_ref().to_vec(), Pair::Ed25519(pair))
            } else {
                return Err(KeyError::Kind);
            };
        let flags = if duty.entry { FLAGS_ENTRY } else { FLAGS_ZONE };
        let rdata = [&flags.to_be_bytes()[..], &[3, algorithm.number()], &public].concat();
        let tag = tag(&rdata);
        Ok(Self { pair, duty, algorithm, rdata, tag })
    }

    /// Equal for keys that sign the same with the same.
    pub(crate) fn identity(&self) -> (&[u8], bool, bool) {
        (&self.rdata, self.duty.keys, self.duty.zone)
    }

    pub(crate) fn sign(&self, octets: &[u8]) -> Option<Vec<u8>> {
        match &self.pair {
            Pair::Ecdsa(pair, random) => pair.sign(random, octets).ok().map(|signature| signature.as_ref().to_vec()),
            Pair::Ed25519(pair) => Some(pair.sign(octets).as_ref().to_vec()),
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({} {:?} {:?})", self.tag, self.algorithm, self.duty)
    }
}

/// RFC 4034 appendix B.
fn tag(rdata: &[u8]) -> u16 {
    let sum = rdata.iter().enumerate().fold(0u32, |sum, (index, octet)| {
        sum.wrapping_add(if index % 2 == 0 { u32::from(*octet) << 8 } else { u32::from(*octet) })
    });
    (sum.wrapping_add(sum >> 16) & 0xffff) as u16
}

/// A new private key, as PEM.
pub fn generate_key(algorithm: Algorithm) -> Result<String, KeyError> {
    let random = SystemRandom::new();
    let der = match algorithm {
        Algorithm::EcdsaP256Sha256 => {
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).map(|der| der.as_ref().to_vec())
        }
        Algorithm::Ed25519 => Ed25519KeyPair::generate_pkcs8(&random).map(|der| der.as_ref().to_vec()),
    };
    let der = der.map_err(|_| KeyError::Make)?;
    let body = data_encoding::BASE64.encode(&der);
    let lines: Vec<_> = body.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    Ok(format!("{PEM_BEGIN}\n{}\n{PEM_END}\n", lines.join("\n")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_made_and_read_back() {
        for (algorithm, octets) in [(Algorithm::EcdsaP256Sha256, 64), (Algorithm::Ed25519, 32)] {
            let key = Key::read(generate_key(algorithm).unwrap().as_bytes(), Duty::of(KeyRole::Csk)).unwrap();
            assert_eq!((key.algorithm, key.rdata.len(), &key.rdata[..3]), (algorithm, 4 + octets, &[1, 1, 3][..]));
            assert_eq!(key.sign(b"x").unwrap().len(), 64);
        }
        assert_eq!(Key::read(b"x", Duty::of(KeyRole::Csk)).unwrap_err(), KeyError::Pem);
        let wrong = format!("{PEM_BEGIN}\nAAAA\n{PEM_END}");
        assert_eq!(Key::read(wrong.as_bytes(), Duty::of(KeyRole::Csk)).unwrap_err(), KeyError::Kind);
    }

    #[test]
    fn rfc4034_b_the_tag_of_a_known_key() {
        // RFC 8080 §6.1: key tag 3613.
        let public = data_encoding::BASE64.decode(b"l02Woi0iS8Aa25FQkUd9RMzZHJpBoRQwAQEX1SxZJA4=").unwrap();
        assert_eq!(tag(&[&[1, 1, 3, 15][..], &public].concat()), 3613);
    }
}
