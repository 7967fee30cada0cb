//! Answers TLS in the place of others: certificates for any name, signed on the spot by an authority of the operator's own.
//!
//! Whoever trusts that authority trusts this gateway with everything it looks into. Which names are answered for is not decided
//! here; the caller compares them before the handshake.

use crate::{certificate::FileSpec, provider};
use portcullis_config::{Context, Path};
use portcullis_names::SecretRef;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use time::OffsetDateTime;

/// `[egress] inspect = { certificate = { file = … }, key = { file = … } }`.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InspectionSpec {
    /// The authority's certificate, in PEM.
    pub certificate: FileSpec,
    /// Its key, in PEM (PKCS #8).
    pub key: SecretRef,
}

/// A configuration of rustls that has a certificate for every name.
#[derive(Debug, Clone)]
pub struct Inspection(Arc<ServerConfig>);

struct Leafs {
    issuer: Issuer<'static, KeyPair>,
    authority: CertificateDer<'static>,
    /// One for all leafs: it never leaves this process, and making one costs as much as a signature.
    key: KeyPair,
    issued: Mutex<HashMap<String, (Instant, Arc<CertifiedKey>)>>,
}

/// A day and the clocks' differences: browsers refuse what is valid for longer than 398 days, and nobody needs these tomorrow.
const VALID: Duration = Duration::from_secs(48 * 3_600);
const SKEW: Duration = Duration::from_secs(3_600);
/// When one is made anew.
const KEPT: Duration = Duration::from_secs(24 * 3_600);
/// A client may ask for as many names as its rules allow, which wildcards make many.
const KEPT_MAX: usize = 1_000;

impl InspectionSpec {
    /// `None`: the report says why not.
    pub fn compile(&self, at: &Path, cx: &mut Context) -> Option<Inspection> {
        let (certificate_at, key_at) = (at.key("certificate").key("file"), at.key("key"));
        let certificate = cx.read(&certificate_at, &self.certificate.file);
        let key = cx.secret(&key_at, &self.key);
        let (certificate, key) = (certificate?, key?);
        let Ok(authority) = CertificateDer::from_pem_slice(&certificate) else {
            cx.error(&certificate_at, "the file holds no certificate in PEM");
            return None;
        };
        let key = std::str::from_utf8(&key).ok().and_then(|pem| KeyPair::from_pem(pem).ok());
        let Some(key) = key else {
            cx.error(&key_at, "the secret is no private key in PEM (PKCS #8)");
            return None;
        };
        if !is_authority(&authority) {
            cx.error(&certificate_at, "the certificate is not that of an authority: it may not sign others");
            return None;
        }
        if !is_its_key(&authority, &key) {
            cx.error(&key_at, "the key is not the certificate's");
            return None;
        }
        match Inspection::new(authority, key) {
            Ok(inspection) => Some(inspection),
            Err(error) => {
                cx.error_at_key(at, format!("the authority cannot sign: {error}"));
                None
            }
        }
    }
}

fn is_authority(certificate: &CertificateDer<'_>) -> bool {
    let parsed = x509_parser::parse_x509_certificate(certificate);
    parsed.is_ok_and(|(_, certificate)| certificate.is_ca())
}

fn is_its_key(certificate: &CertificateDer<'_>, key: &KeyPair) -> bool {
    let parsed = x509_parser::parse_x509_certificate(certificate);
    parsed.is_ok_and(|(_, certificate)| certificate.public_key().subject_public_key.data == key.public_key_raw())
}

impl Inspection {
    fn new(authority: CertificateDer<'static>, key: KeyPair) -> Result<Self, String> {
        let issuer = Issuer::from_ca_cert_der(&authority, key).map_err(|error| error.to_string())?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|error| error.to_string())?;
        let leafs = Leafs { issuer, authority, key, issued: Mutex::default() };
        let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
        let builder = builder.map_err(|error| error.to_string())?.with_no_client_auth();
        let mut config = builder.with_cert_resolver(Arc::new(leafs));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self(Arc::new(config)))
    }

    pub fn config(&self) -> &Arc<ServerConfig> {
        &self.0
    }
}

impl Leafs {
    fn leaf(&self, name: &str, now: Instant) -> Option<Arc<CertifiedKey>> {
        let mut issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = |made: Instant| now.saturating_duration_since(made) < KEPT;
        if let Some((_, leaf)) = issued.get(name).filter(|(made, _)| fresh(*made)) {
            return Some(leaf.clone());
        }
        let leaf = Arc::new(self.issue(name)?);
        if issued.len() >= KEPT_MAX {
            issued.retain(|_, (made, _)| fresh(*made));
            if issued.len() >= KEPT_MAX {
                issued.clear();
            }
        }
        issued.insert(name.to_owned(), (now, leaf.clone()));
        Some(leaf)
    }

    fn issue(&self, name: &str) -> Option<CertifiedKey> {
        let mut params = CertificateParams::new(vec![name.to_owned()]).ok()?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        params.not_before = OffsetDateTime::now_utc() - SKEW;
        params.not_after = OffsetDateTime::now_utc() + VALID;
        let leaf = params.signed_by(&self.key, &self.issuer).ok()?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.serialize_der()));
        let signer = provider().key_provider.load_private_key(key).ok()?;
        Some(CertifiedKey::new(vec![leaf.der().clone(), self.authority.clone()], signer))
    }
}

impl ResolvesServerCert for Leafs {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // Without a name there is nobody to answer for.
        self.leaf(hello.server_name()?, Instant::now())
    }
}

impl fmt::Debug for Leafs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Leafs")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, IsCa};

    fn leafs() -> Leafs {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "inspection");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let authority = params.self_signed(&key).unwrap().der().clone();
        assert!(is_authority(&authority) && is_its_key(&authority, &key));
        assert!(!is_its_key(&authority, &KeyPair::generate().unwrap()));
        let issuer = Issuer::from_ca_cert_der(&authority, key).unwrap();
        Leafs { issuer, authority, key: KeyPair::generate().unwrap(), issued: Mutex::default() }
    }

    #[test]
    fn a_leaf_is_made_once_a_day_and_name() {
        let (leafs, now) = (leafs(), Instant::now());
        let first = leafs.leaf("a.test", now).unwrap();
        assert!(Arc::ptr_eq(&first, &leafs.leaf("a.test", now + Duration::from_secs(3_600)).unwrap()));
        assert!(!Arc::ptr_eq(&first, &leafs.leaf("b.test", now).unwrap()));
        assert!(!Arc::ptr_eq(&first, &leafs.leaf("a.test", now + KEPT).unwrap()));
    }

    #[test]
    fn only_so_many_leafs_are_kept() {
        let (leafs, now) = (leafs(), Instant::now());
        let leaf = leafs.leaf("a.test", now).unwrap();
        leafs.issued.lock().unwrap().extend((1..KEPT_MAX).map(|number| (number.to_string(), (now, leaf.clone()))));
        leafs.leaf("b.test", now).unwrap();
        assert_eq!(leafs.issued.lock().unwrap().len(), 1);
    }
}
