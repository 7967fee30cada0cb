//! The keys of an issuer (RFC 7517), each with the algorithms that its type allows. A token never says what its key may do.

use crate::{Algorithm, json_object::parse_object};
use aws_lc_rs::signature::{ECDSA_P521_SHA512_FIXED, UnparsedPublicKey};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::DecodingKey;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

/// Keys that verify signatures. Immutable; a rotation is another set.
#[derive(Clone)]
pub struct KeySet {
    keys: Vec<Key>,
    /// Of the text that it was read from: the same set fetched again changes nothing.
    digest: [u8; 32],
}

#[derive(Clone)]
pub(crate) struct Key {
    id: Option<String>,
    algorithms: Vec<Algorithm>,
    material: Material,
}

#[derive(Clone)]
enum Material {
    Library(DecodingKey),
    /// A point of P-521, uncompressed, which `jsonwebtoken` does not know.
    P521(Vec<u8>),
}

/// Where a key set came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyOrigin {
    /// A file of the operator; it may hold shared secrets.
    File,
    /// Published by an issuer. What everybody can read is no shared secret.
    Network,
}

/// Why a key set cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    #[error("not a JSON Web Key Set, an object with a list `keys` and no name twice (RFC 7517 §5)")]
    NotASet,
    #[error("{0} keys; at most {KEYS_MAX} are taken")]
    TooManyKeys(usize),
    #[error("no key in it can verify signatures: {0}")]
    NoUsableKey(String),
}

/// More keys than any issuer rotates through.
const KEYS_MAX: usize = 100;
/// Longer ids are refused in tokens as well.
pub(crate) const KID_MAX_BYTES: usize = 128;
/// A token without `kid` is tried against this many keys, so that it cannot cost a hundred RSA operations.
const TRIES_WITHOUT_KID: usize = 4;

/// What a token's header asks for.
pub(crate) enum Lookup<'s> {
    Try(Vec<&'s Key>),
    UnknownKey,
    AlgorithmNotAllowed,
}

impl KeySet {
    /// Reads a set. Keys of unknown types, for encryption, or too weak are left out (RFC 7517 §5).
    pub fn parse(text: &[u8], origin: KeyOrigin) -> Result<Self, KeySetError> {
        let mut object = parse_object(text).ok_or(KeySetError::NotASet)?;
        let Some(Value::Array(entries)) = object.remove("keys") else { return Err(KeySetError::NotASet) };
        if entries.len() > KEYS_MAX {
            return Err(KeySetError::TooManyKeys(entries.len()));
        }
        let mut keys = Vec::new();
        let mut left_out = "the list is empty".to_owned();
        for entry in &entries {
            let read = entry.as_object().ok_or("a key is no object").and_then(|jwk| Key::read(jwk, origin));
            match read {
                Ok(key) => keys.push(key),
                Err(why) => left_out = why.to_owned(),
            }
        }
        if keys.is_empty() {
            return Err(KeySetError::NoUsableKey(left_out));
        }
        Ok(Self { keys, digest: Sha256::digest(text).into() })
    }

    pub fn len(&self) -> usize {
        self.keys.len()
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whether some key is a secret shared with the issuer.
    pub fn has_secrets(&self) -> bool {
        self.keys.iter().any(|key| key.algorithms.contains(&Algorithm::Hs256))
    }

    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.digest == other.digest
    }

    pub(crate) fn knows(&self, algorithm: Algorithm) -> bool {
        self.keys.iter().any(|key| key.algorithms.contains(&algorithm))
    }

    pub(crate) fn lookup(&self, kid: Option<&str>, algorithm: Algorithm) -> Lookup<'_> {
        let named: Vec<&Key> = match kid {
            Some(kid) => self.keys.iter().filter(|key| key.id.as_deref() == Some(kid)).collect(),
            None => self.keys.iter().collect(),
        };
        if named.is_empty() {
            return Lookup::UnknownKey;
        }
        let mut fit: Vec<&Key> = named.into_iter().filter(|key| key.algorithms.contains(&algorithm)).collect();
        if fit.is_empty() {
            return Lookup::AlgorithmNotAllowed;
        }
        if fit.len() > TRIES_WITHOUT_KID {
            fit.truncate(TRIES_WITHOUT_KID);
        }
        Lookup::Try(fit)
    }
}

impl std::fmt::Debug for KeySet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ids: Vec<_> = self.keys.iter().map(|key| key.id.as_deref().unwrap_or("-")).collect();
        f.debug_struct("KeySet").field("ids", &ids).finish()
    }
}

impl Key {
    /// `message` is header and payload as they were sent, `signature` still in base64url.
    pub(crate) fn verifies(&self, signature: &str, message: &[u8], algorithm: Algorithm) -> bool {
        if !self.algorithms.contains(&algorithm) {
            return false;
        }
        match (&self.material, algorithm.backend()) {
            (Material::Library(key), Some(backend)) => {
                jsonwebtoken::crypto::verify(signature, message, key, backend).unwrap_or(false)
            }
            (Material::P521(point), None) => URL_SAFE_NO_PAD.decode(signature).is_ok_and(|octets| {
                UnparsedPublicKey::new(&ECDSA_P521_SHA512_FIXED, point).verify(message, &octets).is_ok()
            }),
            (Material::Library(_), None) | (Material::P521(_), Some(_)) => false,
        }
    }

    fn read(jwk: &Map<String, Value>, origin: KeyOrigin) -> Result<Self, &'static str> {
        let text = |name: &str| jwk.get(name).and_then(Value::as_str);
        if jwk.get("use").is_some_and(|purpose| purpose != "sig") {
            return Err("a key is not for signatures");
        }
        let verifies =
            |operations: &Value| operations.as_array().is_some_and(|all| all.iter().any(|one| one == "verify"));
        if !jwk.get("key_ops").is_none_or(verifies) {
            return Err("a key is not for verifying");
        }
        let id = match jwk.get("kid") {
            None => None,
            Some(Value::String(id)) if id.len() <= KID_MAX_BYTES => Some(id.clone()),
            Some(_) => return Err("a key id is not a short text"),
        };
        let (mut algorithms, material) = match text("kty") {
            Some("RSA") => rsa(jwk)?,
            Some("EC") => elliptic(jwk)?,
            Some("OKP") => edwards(jwk)?,
            Some("oct") if origin == KeyOrigin::Network => return Err("a shared secret was published"),
            Some("oct") => shared_secret(jwk)?,
            _ => return Err("a key has an unknown type"),
        };
        if let Some(named) = jwk.get("alg") {
            let named = named.as_str().and_then(Algorithm::named).ok_or("a key has an unknown algorithm")?;
            algorithms.retain(|algorithm| *algorithm == named);
        }
        if algorithms.is_empty() {
            return Err("a key's `alg` does not fit its type or size");
        }
        Ok(Self { id, algorithms, material })
    }
}

type Usable = (Vec<Algorithm>, Material);

fn rsa(jwk: &Map<String, Value>) -> Result<Usable, &'static str> {
    // Published private keys verify nothing that can be believed.
    no_private_part(jwk)?;
    let (n, e) = (octets(jwk, "n")?, octets(jwk, "e")?);
    // A leading zero octet is wrong (RFC 7518 §6.3.1.1) but sent; it must not make a short key look long.
    let n = n.iter().position(|octet| *octet != 0).and_then(|start| n.get(start..)).unwrap_or_default();
    // RFC 7518 §3.3: 2048 bits or more. The upper bound is the library's, and keeps a check affordable.
    if !(256..=1024).contains(&n.len()) || n.first().is_none_or(|top| n.len() == 256 && *top < 0x80) {
        return Err("an RSA key has not 2048 to 8192 bits");
    }
    if e.is_empty() || e.len() > 5 || e.last().is_none_or(|low| low % 2 == 0) || e == [1] {
        return Err("an RSA key has an exponent that cannot be one");
    }
    use Algorithm::{Ps256, Ps384, Ps512, Rs256, Rs384, Rs512};
    Ok((vec![Rs256, Rs384, Rs512, Ps256, Ps384, Ps512], Material::Library(DecodingKey::from_rsa_raw_components(n, &e))))
}

fn elliptic(jwk: &Map<String, Value>) -> Result<Usable, &'static str> {
    no_private_part(jwk)?;
    // RFC 7518 §3.4: each curve has its one algorithm.
    let (algorithm, width) = match jwk.get("crv").and_then(Value::as_str) {
        Some("P-256") => (Algorithm::Es256, 32),
        Some("P-384") => (Algorithm::Es384, 48),
        Some("P-521") => (Algorithm::Es512, 66),
        _ => return Err("an EC key is on a curve that is not supported"),
    };
    let (x, y) = (octets(jwk, "x")?, octets(jwk, "y")?);
    if x.len() != width || y.len() != width {
        return Err("an EC key's coordinates have the wrong length");
    }
    let point = [&[4][..], &x, &y].concat();
    let material = match algorithm.backend() {
        Some(_) => Material::Library(DecodingKey::from_ec_der(&point)),
        None => Material::P521(point),
    };
    Ok((vec![algorithm], material))
}

fn edwards(jwk: &Map<String, Value>) -> Result<Usable, &'static str> {
    no_private_part(jwk)?;
    if jwk.get("crv").and_then(Value::as_str) != Some("Ed25519") {
        return Err("an OKP key is on a curve that is not supported");
    }
    let x = octets(jwk, "x")?;
    if x.len() != 32 {
        return Err("an OKP key has the wrong length");
    }
    Ok((vec![Algorithm::EdDsa], Material::Library(DecodingKey::from_ed_der(&x))))
}

fn shared_secret(jwk: &Map<String, Value>) -> Result<Usable, &'static str> {
    let secret = octets(jwk, "k")?;
    // RFC 7518 §3.2: the key is at least as long as the hash.
    let fit = [(Algorithm::Hs256, 32), (Algorithm::Hs384, 48), (Algorithm::Hs512, 64)];
    let algorithms: Vec<_> =
        fit.into_iter().filter(|(_, least)| secret.len() >= *least).map(|(algorithm, _)| algorithm).collect();
    if algorithms.is_empty() {
        return Err("a shared secret is shorter than 32 octets");
    }
    Ok((algorithms, Material::Library(DecodingKey::from_secret(&secret))))
}

fn no_private_part(jwk: &Map<String, Value>) -> Result<(), &'static str> {
    if jwk.contains_key("d") { Err("a key has its private part in it") } else { Ok(()) }
}

fn octets(jwk: &Map<String, Value>, name: &str) -> Result<Vec<u8>, &'static str> {
    let text = jwk.get(name).and_then(Value::as_str).ok_or("a key lacks a parameter of its type")?;
    URL_SAFE_NO_PAD.decode(text).map_err(|_| "a key's parameter is not base64url")
}
