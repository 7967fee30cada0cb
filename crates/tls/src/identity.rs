//! Who a verified peer certificate belongs to.

use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// The names in a certificate that was verified; read once per connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Exactly one URI name, and it is a SPIFFE id (SPIFFE X.509-SVID §2); else `None`.
    pub spiffe: Option<String>,
    pub uris: Vec<String>,
    /// In lower case.
    pub dns: Vec<String>,
    pub common_name: Option<String>,
    pub subject: String,
    pub issuer: String,
    /// Hexadecimal.
    pub serial: String,
    /// SHA-256 over the certificate, hexadecimal.
    pub fingerprint: String,
}

impl PeerIdentity {
    /// From a chain that rustls has verified, leaf first.
    pub fn from_chain(chain: &[CertificateDer<'_>]) -> Option<Self> {
        let der = chain.first()?;
        let (_, leaf) = X509Certificate::from_der(der).ok()?;
        let mut uris = Vec::new();
        let mut dns = Vec::new();
        if let Ok(Some(names)) = leaf.subject_alternative_name() {
            for name in &names.value.general_names {
                match name {
                    GeneralName::URI(uri) => uris.push((*uri).to_owned()),
                    GeneralName::DNSName(name) => dns.push(name.to_ascii_lowercase()),
                    _ => {}
                }
            }
        }
        let spiffe = match uris.as_slice() {
            [one] if one.starts_with("spiffe://") => Some(one.clone()),
            _ => None,
        };
        let common_name =
            leaf.subject().iter_common_name().next().and_then(|name| name.as_str().ok()).map(str::to_owned);
        Some(Self {
            spiffe,
            uris,
            dns,
            common_name,
            subject: leaf.subject().to_string(),
            issuer: leaf.issuer().to_string(),
            serial: leaf.raw_serial().iter().map(|octet| format!("{octet:02x}")).collect(),
            fingerprint: Sha256::digest(der.as_ref()).iter().map(|octet| format!("{octet:02x}")).collect(),
        })
    }
}
