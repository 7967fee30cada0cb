//! `[certificate.X]`: a chain and its key, checked before anybody is served with them.

use crate::provider;
use portcullis_config::{Context, Path};
use portcullis_names::{HostPattern, ObjectName, SecretRef};
use rustls::{
    SignatureAlgorithm,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// A certificate for listeners, or for us as a client.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CertificateSpec {
    /// The chain in PEM, leaf first.
    pub cert: FileSpec,
    /// The leaf's key in PEM: PKCS#8, SEC1 or PKCS#1.
    pub key: SecretRef,
    /// A DER-encoded OCSP response to staple.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ocsp: Option<FileSpec>,
    /// Names to serve it for. Default: all that it certifies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hosts: Option<Vec<HostPattern>>,
}

/// `{ file = "path" }`, relative to the file that says it.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileSpec {
    pub file: PathBuf,
}

/// A loaded certificate.
#[derive(Debug)]
pub struct Certificate {
    pub name: ObjectName,
    pub key: Arc<CertifiedKey>,
    /// Names it is served for.
    pub hosts: Vec<HostPattern>,
    /// Seconds since 1970.
    pub not_after: i64,
    pub is_ecdsa: bool,
}

/// All certificates of a document.
#[derive(Debug, Default)]
pub struct Certificates(BTreeMap<String, Arc<Certificate>>);

/// Renewal tools renew at 30 days; at this point something is stuck.
const EXPIRY_WARNING: i64 = 14 * 86_400;

impl Certificates {
    pub fn compile(specs: &BTreeMap<ObjectName, CertificateSpec>, cx: &mut Context) -> Self {
        let loaded = specs.iter().filter_map(|(name, spec)| {
            let at = Path::root().key("certificate").key(name);
            Some((name.to_string(), Arc::new(Certificate::load(name, spec, &at, cx)?)))
        });
        Self(loaded.collect())
    }

    pub fn get(&self, name: &str) -> Option<&Arc<Certificate>> {
        self.0.get(name)
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Certificate>> {
        self.0.values()
    }
}

impl Certificate {
    fn load(name: &ObjectName, spec: &CertificateSpec, at: &Path, cx: &mut Context) -> Option<Self> {
        let cert_at = at.key("cert").key("file");
        let chain_pem = cx.read(&cert_at, &spec.cert.file);
        let key_pem = cx.secret(&at.key("key"), &spec.key);
        let (chain_pem, key_pem) = (chain_pem?, key_pem?);
        let chain: Vec<_> = match CertificateDer::pem_slice_iter(&chain_pem).collect::<Result<_, _>>() {
            Ok(chain) => chain,
            Err(error) => {
                cx.error(&cert_at, format!("the certificate file is not PEM: {error}"));
                return None;
            }
        };
        let Some(leaf_der) = chain.first() else {
            cx.error(&cert_at, "the certificate file holds no certificate");
            return None;
        };
        let leaf = match X509Certificate::from_der(leaf_der) {
            Ok((_, leaf)) => leaf,
            Err(_) => {
                cx.error(&cert_at, "the first certificate cannot be read");
                return None;
            }
        };
        let not_after = leaf.validity().not_after.timestamp();
        check_validity(leaf.validity().not_before.timestamp(), not_after, &cert_at, cx);
        let certified = subject_names(&leaf);
        if !matches!(leaf.subject_alternative_name(), Ok(Some(names)) if !names.value.general_names.is_empty()) {
            cx.error(&cert_at, "the certificate has no subject alternative names")
                .help("clients do not look at the common name (RFC 9525)");
        }
        let hosts = own_hosts(spec, &certified, at, cx);
        // The key's content stays out of every message.
        let Ok(key_der) = PrivateKeyDer::from_pem_slice(&key_pem) else {
            cx.error(&at.key("key"), "the key is not a PEM private key (PKCS#8, SEC1 or PKCS#1, not encrypted)");
            return None;
        };
        let Ok(signer) = provider().key_provider.load_private_key(key_der) else {
            cx.error(&at.key("key"), "the key is of a kind that is not supported")
                .help("use ECDSA P-256 or P-384, Ed25519, or RSA from 2048 bits");
            return None;
        };
        let is_ecdsa = signer.algorithm() != SignatureAlgorithm::RSA;
        let ocsp = match &spec.ocsp {
            Some(ocsp) => Some(cx.read(&at.key("ocsp").key("file"), &ocsp.file)?),
            None => None,
        };
        let mut key = CertifiedKey::new(chain.clone(), signer);
        key.ocsp = ocsp;
        if let Err(rustls::Error::InconsistentKeys(_)) = key.keys_match() {
            cx.error(&at.key("key"), "the key does not belong to the certificate").also(&cert_at, "this certificate");
            return None;
        }
        Some(Self { name: name.clone(), key: Arc::new(key), hosts, not_after, is_ecdsa })
    }

    /// Whether a client that asks for any host of the pattern is content with this certificate.
    pub fn covers(&self, host: &HostPattern) -> bool {
        self.hosts.iter().any(|own| match (own, host) {
            // One label only: RFC 9525 §6.3.
            (HostPattern::Wildcard(suffix), HostPattern::Exact(name)) => {
                name.split_once('.').is_some_and(|(_, rest)| rest == suffix)
            }
            (own, host) => own == host,
        })
    }

    /// From now; negative when it is over.
    pub fn seconds_left(&self, now: SystemTime) -> i64 {
        self.not_after - unix(now)
    }
}

fn unix(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

fn check_validity(not_before: i64, not_after: i64, at: &Path, cx: &mut Context) {
    // Compile time is the one place where this crate asks for the time of day: whether a file may be served now.
    let now = unix(SystemTime::now());
    if not_after < now {
        cx.error(at, format!("the certificate expired {} days ago", (now - not_after) / 86_400)).help("renew it");
    } else if not_before > now {
        cx.error(at, format!("the certificate is valid only in {} hours", (not_before - now) / 3_600 + 1));
    } else if not_after - now < EXPIRY_WARNING {
        cx.warning(at, format!("the certificate expires in {} days", (not_after - now) / 86_400));
    }
}

fn subject_names(leaf: &X509Certificate<'_>) -> Vec<HostPattern> {
    let Ok(Some(extension)) = leaf.subject_alternative_name() else { return Vec::new() };
    let name = |general: &GeneralName<'_>| match general {
        GeneralName::DNSName(name) => name.parse().ok(),
        GeneralName::IPAddress(octets) => {
            let address = match <[u8; 4]>::try_from(*octets) {
                Ok(four) => Some(std::net::IpAddr::from(four)),
                Err(_) => <[u8; 16]>::try_from(*octets).ok().map(std::net::IpAddr::from),
            }?;
            let text = if address.is_ipv6() { format!("[{address}]") } else { address.to_string() };
            text.parse().ok()
        }
        _ => None,
    };
    extension.value.general_names.iter().filter_map(name).collect()
}

fn own_hosts(spec: &CertificateSpec, certified: &[HostPattern], at: &Path, cx: &mut Context) -> Vec<HostPattern> {
    let Some(wanted) = &spec.hosts else { return certified.to_vec() };
    for (index, host) in wanted.iter().enumerate() {
        let covered = certified.iter().any(|own| match (own, host) {
            (HostPattern::Wildcard(suffix), HostPattern::Exact(name)) => {
                name.split_once('.').is_some_and(|(_, rest)| rest == suffix)
            }
            (own, host) => own == host,
        });
        if !covered {
            let names: Vec<_> = certified.iter().map(ToString::to_string).collect();
            cx.error(
                &at.key("hosts").index(index),
                format!("the certificate does not cover {host} (it covers: {})", names.join(", ")),
            );
        }
    }
    wanted.clone()
}
