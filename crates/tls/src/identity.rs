//! Who a certificate belongs to. Says nothing about whether to believe it: rustls has verified the chain, or has not.

use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use std::net::IpAddr;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// The names in a certificate; read once per connection, or once per load for a certificate of our own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Exactly one URI name, and it is a SPIFFE id (SPIFFE X.509-SVID §2); else `None`.
    pub spiffe: Option<String>,
    pub uris: Vec<String>,
    /// In lower case.
    pub dns: Vec<String>,
    pub ips: Vec<IpAddr>,
    pub common_name: Option<String>,
    pub subject: String,
    pub issuer: String,
    /// Hexadecimal.
    pub serial: String,
    /// SHA-256 over the certificate, hexadecimal.
    pub fingerprint: String,
    /// Seconds since 1970. A resumed session was verified when it began, not now: its certificate may have expired since.
    pub not_after: i64,
}

impl PeerIdentity {
    /// From a chain that rustls has verified, leaf first.
    pub fn from_chain(chain: &[CertificateDer<'_>]) -> Option<Self> {
        Self::from_leaf(chain.first()?)
    }

    pub(crate) fn from_leaf(der: &CertificateDer<'_>) -> Option<Self> {
        let (_, leaf) = X509Certificate::from_der(der).ok()?;
        let (mut uris, mut dns, mut ips) = (Vec::new(), Vec::new(), Vec::new());
        if let Ok(Some(names)) = leaf.subject_alternative_name() {
            for name in &names.value.general_names {
                match name {
                    GeneralName::URI(uri) => uris.push((*uri).to_owned()),
                    GeneralName::DNSName(name) => dns.push(name.to_ascii_lowercase()),
                    GeneralName::IPAddress(octets) => ips.extend(address(octets)),
                    _ => {}
                }
            }
        }
        // Counted before odd names are left out: a second name, however odd, makes it no SVID.
        let spiffe = match uris.as_slice() {
            [one] if one.starts_with("spiffe://") && is_plain(one) => Some(one.clone()),
            _ => None,
        };
        // No name in use has control characters or blanks; one that has is made to look like another where it is printed.
        uris.retain(|uri| is_plain(uri));
        dns.retain(|name| is_plain(name));
        let common_name = leaf.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
        Some(Self {
            spiffe,
            uris,
            dns,
            ips,
            common_name: common_name.filter(|name| !name.chars().any(char::is_control)).map(str::to_owned),
            subject: printable(leaf.subject().to_string()),
            issuer: printable(leaf.issuer().to_string()),
            serial: hexadecimal(leaf.raw_serial()),
            fingerprint: hexadecimal(&Sha256::digest(der.as_ref())),
            not_after: leaf.validity().not_after.timestamp(),
        })
    }
}

fn address(octets: &[u8]) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(octets).ok().map(IpAddr::from);
    four.or_else(|| <[u8; 16]>::try_from(octets).ok().map(IpAddr::from))
}

fn is_plain(name: &str) -> bool {
    name.bytes().all(|octet| octet.is_ascii_graphic())
}

/// Distinguished names go to logs and headers.
fn printable(name: String) -> String {
    name.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

fn hexadecimal(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}
