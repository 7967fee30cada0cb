//! What a certificate says, and whether a chain would be believed.

use crate::CaError;
use portcullis_names::SpiffeId;
use rustls::{
    RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime, pem::PemObject},
    server::WebPkiClientVerifier,
};
use std::{sync::Arc, time::Duration};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// The facts of one certificate that the authority needs or shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    pub subject: String,
    pub issuer: String,
    /// As in the certificate, without padding.
    pub serial: Vec<u8>,
    pub not_before: OffsetDateTime,
    pub not_after: OffsetDateTime,
    /// The only URI name, when it is a SPIFFE id.
    pub spiffe: Option<SpiffeId>,
    pub is_authority: bool,
    pub(crate) public_key: Vec<u8>,
}

impl Certificate {
    /// All certificates of a PEM file, in their order; at least one.
    pub fn read_all(pem: &str, what: &str) -> Result<Vec<(Self, CertificateDer<'static>)>, CaError> {
        let wrong = |why: String| CaError::Unreadable { what: what.to_owned(), why };
        let mut all = Vec::new();
        for der in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            let der = der.map_err(|error| wrong(error.to_string()))?;
            let facts = Self::read(&der).map_err(|why| wrong(format!("certificate {}: {why}", all.len() + 1)))?;
            all.push((facts, der));
        }
        if all.is_empty() { Err(wrong("it holds no certificate in PEM".to_owned())) } else { Ok(all) }
    }

    fn read(der: &CertificateDer<'_>) -> Result<Self, String> {
        let (_, parsed) = X509Certificate::from_der(der).map_err(|error| error.to_string())?;
        let names = parsed.subject_alternative_name().map_err(|error| error.to_string())?;
        let names = names.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
        let uris: Vec<_> =
            names.iter().filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None }).collect();
        let spiffe = match uris.as_slice() {
            [one] => one.parse().ok(),
            _ => None,
        };
        let raw = parsed.raw_serial();
        Ok(Self {
            subject: parsed.subject().to_string(),
            issuer: parsed.issuer().to_string(),
            serial: raw.strip_prefix(&[0]).unwrap_or(raw).to_vec(),
            not_before: parsed.validity().not_before.to_datetime(),
            not_after: parsed.validity().not_after.to_datetime(),
            spiffe,
            is_authority: parsed.is_ca(),
            public_key: parsed.public_key().raw.to_vec(),
        })
    }

    /// Hexadecimal.
    pub fn serial_text(&self) -> String {
        self.serial.iter().map(|octet| format!("{octet:02x}")).collect()
    }
}

/// As peers verify: rustls with the roots, the revocation lists, and the usage of a client.
pub(crate) fn verify(
    chain: &[CertificateDer<'_>],
    roots: &[CertificateDer<'static>],
    lists: Vec<CertificateRevocationListDer<'static>>,
    now: OffsetDateTime,
) -> Result<(), CaError> {
    let wrong = |why: String| CaError::NotBelieved(why);
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.clone()).map_err(|error| wrong(format!("a root: {error}")))?;
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider);
    if !lists.is_empty() {
        builder = builder.with_crls(lists).allow_unknown_revocation_status();
    }
    let verifier = builder.build().map_err(|error| wrong(error.to_string()))?;
    let (leaf, issuers) = chain.split_first().ok_or_else(|| wrong("it is empty".to_owned()))?;
    let seconds = u64::try_from(now.unix_timestamp()).unwrap_or_default();
    let now = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
    verifier.verify_client_cert(leaf, issuers, now).map(drop).map_err(|error| wrong(error.to_string()))
}
