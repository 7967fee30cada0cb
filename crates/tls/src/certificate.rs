//! `[certificate.X]`: a chain and its key, checked before anybody is served with them.

use crate::{
    PeerIdentity,
    age::{self, unix},
    chain::Chain,
    ocsp::{OcspAnswer, OcspStatus},
    provider,
};
use portcullis_config::{Context, Path};
use portcullis_names::{HostPattern, ObjectName, SecretRef};
use rustls::{
    SignatureAlgorithm,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{path::PathBuf, sync::Arc, time::SystemTime};
use x509_parser::{
    prelude::{FromDer, X509Certificate},
    public_key::PublicKey,
};

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
    /// Chain, signer and OCSP response, as rustls takes them.
    pub key: Arc<CertifiedKey>,
    /// The same without its staple, and when that is due to be replaced (seconds since 1970).
    unstapled: Option<(i64, Arc<CertifiedKey>)>,
    /// Names it is served for.
    pub hosts: Vec<HostPattern>,
    /// Seconds since 1970.
    pub not_before: i64,
    pub not_after: i64,
    pub kind: KeyKind,
    /// Its names, issuer, serial number and fingerprint.
    pub identity: PeerIdentity,
    private_key: PrivateKeyDer<'static>,
}

/// What the key signs with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyKind {
    /// ECDSA or Ed25519: signs some ten times cheaper than RSA.
    EllipticCurve,
    Rsa,
}

/// CA/Browser Forum Baseline Requirements §6.1.5, and what clients enforce.
const RSA_BITS_MIN: usize = 2048;

impl Certificate {
    pub(crate) fn load(name: &ObjectName, spec: &CertificateSpec, at: &Path, cx: &mut Context) -> Option<Self> {
        // Compile time is the one place where this crate asks for the time of day: whether a file may be served now.
        let now = unix(SystemTime::now());
        let cert_at = at.key("cert").key("file");
        let chain = cx.read(&cert_at, &spec.cert.file).and_then(|pem| Chain::read(&pem, now, &cert_at, cx));
        let key_der = cx.secret(&at.key("key"), &spec.key).and_then(|pem| read_key(&pem, &at.key("key"), cx));
        let (Chain(chain), private_key) = (chain?, key_der?);
        let leaf_der = chain.first()?.clone();
        let (_, leaf) = X509Certificate::from_der(&leaf_der).ok()?;
        let identity = PeerIdentity::from_leaf(&leaf_der)?;
        check_names(&leaf, &cert_at, cx);
        let hosts = own_hosts(spec, certified_hosts(&identity), at, cx);
        check_strength(&leaf, &cert_at, cx)?;
        let mut key = certified_key(chain, &private_key, &cert_at, at, cx)?;
        let staple = spec.ocsp.as_ref().and_then(|ocsp| staple(ocsp, leaf.raw_serial(), now, &at.key("ocsp"), cx));
        let unstapled = (staple.as_ref().and_then(|staple| staple.due))
            .map(|due| (due, Arc::new(CertifiedKey::new(key.cert.clone(), key.key.clone()))));
        key.ocsp = staple.map(|staple| staple.der);
        let kind = match key.key.algorithm() {
            SignatureAlgorithm::RSA => KeyKind::Rsa,
            _ => KeyKind::EllipticCurve,
        };
        Some(Self {
            name: name.clone(),
            key: Arc::new(key),
            unstapled,
            hosts,
            not_before: leaf.validity().not_before.timestamp(),
            not_after: leaf.validity().not_after.timestamp(),
            kind,
            identity,
            private_key,
        })
    }

    /// Whether a client that asks for any host of the pattern is content with this certificate.
    pub fn covers(&self, host: &HostPattern) -> bool {
        self.hosts.iter().any(|own| certifies(own, host))
    }

    /// From now; negative when it is over.
    pub fn seconds_left(&self, now: SystemTime) -> i64 {
        self.not_after.saturating_sub(unix(now))
    }

    /// What a client is shown at this time (seconds since 1970): a staple that nobody renewed is left out, as a stale one
    /// makes strict clients refuse, while without one they ask by themselves. Availability: fail open.
    pub(crate) fn shown(&self, now: i64) -> &Arc<CertifiedKey> {
        match &self.unstapled {
            Some((due, bare)) if *due < now => bare,
            _ => &self.key,
        }
    }

    /// Leaf first, for a TLS library other than rustls.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.key.cert
    }

    /// For a TLS library other than rustls.
    pub fn private_key(&self) -> &PrivateKeyDer<'static> {
        &self.private_key
    }
}

/// A wildcard certifies one label only (RFC 9525 §6.3), so a pattern that serves deeper names is covered by its twin alone.
fn certifies(own: &HostPattern, host: &HostPattern) -> bool {
    match (own, host) {
        (HostPattern::Wildcard(suffix), HostPattern::Exact(name)) => {
            name.split_once('.').is_some_and(|(_, rest)| rest == suffix)
        }
        (own, host) => own == host,
    }
}

/// The key's content stays out of every message.
fn read_key(pem: &[u8], at: &Path, cx: &mut Context) -> Option<PrivateKeyDer<'static>> {
    match PrivateKeyDer::from_pem_slice(pem) {
        Ok(key) => Some(key),
        Err(_) => {
            cx.error(at, "the key is not a PEM private key (PKCS#8, SEC1 or PKCS#1, not encrypted)");
            None
        }
    }
}

fn certified_key(
    chain: Vec<CertificateDer<'static>>,
    private_key: &PrivateKeyDer<'static>,
    cert_at: &Path,
    at: &Path,
    cx: &mut Context,
) -> Option<CertifiedKey> {
    let key_at = at.key("key");
    let Ok(signer) = provider().key_provider.load_private_key(private_key.clone_key()) else {
        cx.error(&key_at, "the key is damaged or of a kind that is not supported")
            .help("use ECDSA P-256 or P-384, Ed25519, or RSA from 2048 bits");
        return None;
    };
    let key = CertifiedKey::new(chain, signer);
    match key.keys_match() {
        Ok(()) => Some(key),
        Err(rustls::Error::InconsistentKeys(_)) => {
            cx.error(&key_at, "the key does not belong to the certificate").also(cert_at, "this certificate");
            None
        }
        Err(error) => {
            cx.error(cert_at, format!("the certificate cannot be served: {error}"));
            None
        }
    }
}

fn check_names(leaf: &X509Certificate<'_>, at: &Path, cx: &mut Context) {
    if !matches!(leaf.subject_alternative_name(), Ok(Some(names)) if !names.value.general_names.is_empty()) {
        cx.error(at, "the certificate has no subject alternative names")
            .help("clients do not look at the common name (RFC 9525)");
    }
}

fn check_strength(leaf: &X509Certificate<'_>, at: &Path, cx: &mut Context) -> Option<()> {
    let Ok(PublicKey::RSA(rsa)) = leaf.public_key().parsed() else { return Some(()) };
    let octets = rsa.modulus.iter().skip_while(|octet| **octet == 0).count();
    let bits = octets.saturating_mul(8);
    if bits < RSA_BITS_MIN {
        cx.error(at, format!("the certificate's RSA key has {bits} bits, fewer than {RSA_BITS_MIN}"))
            .help("use ECDSA P-256, or RSA from 2048 bits");
        return None;
    }
    Some(())
}

fn certified_hosts(identity: &PeerIdentity) -> Vec<HostPattern> {
    let dns = identity.dns.iter().filter_map(|name| name.parse().ok());
    let ips = identity.ips.iter().map(|address| match address {
        std::net::IpAddr::V4(four) => HostPattern::Exact(four.to_string()),
        std::net::IpAddr::V6(six) => HostPattern::Exact(format!("[{six}]")),
    });
    dns.chain(ips).collect()
}

fn own_hosts(spec: &CertificateSpec, certified: Vec<HostPattern>, at: &Path, cx: &mut Context) -> Vec<HostPattern> {
    let Some(wanted) = &spec.hosts else { return certified };
    if wanted.is_empty() {
        cx.error(&at.key("hosts"), "an empty list serves nobody")
            .help("leave `hosts` out to serve all certified names");
    }
    for (index, host) in wanted.iter().enumerate() {
        if !certified.iter().any(|own| certifies(own, host)) {
            let names: Vec<_> = certified.iter().map(ToString::to_string).collect();
            cx.error(
                &at.key("hosts").index(index),
                format!("the certificate does not cover {host} (it covers: {})", names.join(", ")),
            );
        }
    }
    wanted.clone()
}

/// The response to staple, if it is fit for it.
struct Staple {
    der: Vec<u8>,
    /// Seconds since 1970.
    due: Option<i64>,
}

fn staple(spec: &FileSpec, serial: &[u8], now: i64, at: &Path, cx: &mut Context) -> Option<Staple> {
    let at = at.key("file");
    let der = cx.read(&at, &spec.file)?;
    match OcspAnswer::read(&der, serial) {
        Err(error) => {
            cx.error(&at, format!("the OCSP response cannot be stapled: {error}"));
            None
        }
        Ok(OcspAnswer { status: OcspStatus::Revoked, .. }) => {
            cx.error(&at, "the OCSP response says that the certificate is revoked").help("replace the certificate");
            None
        }
        Ok(OcspAnswer { status: OcspStatus::Unknown, .. }) => {
            cx.error(&at, "the OCSP response says that the responder does not know the certificate");
            None
        }
        // As in `shown`.
        Ok(OcspAnswer { next_update: Some(due), .. }) if due < now => {
            let ago = age::words(now.saturating_sub(due));
            cx.warning(&at, format!("the OCSP response was due for renewal {ago} ago and is not stapled"));
            None
        }
        Ok(OcspAnswer { status: OcspStatus::Good, next_update: due }) => Some(Staple { der, due }),
    }
}
