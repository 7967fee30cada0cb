//! A certificate chain from a PEM file: readable, in order, and valid now.

use crate::age::{self, Age};
use portcullis_config::{Context, Path};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Leaf first; never empty.
#[derive(Debug)]
pub(crate) struct Chain(pub(crate) Vec<CertificateDer<'static>>);

/// Renewal tools renew at 30 days; at this point something is stuck.
const EXPIRY_WARNING: i64 = 14 * 86_400;

impl Chain {
    /// Reads and checks; what is wrong goes to the report. `now` in seconds since 1970.
    pub(crate) fn read(pem: &[u8], now: i64, at: &Path, cx: &mut Context) -> Option<Self> {
        let chain: Vec<_> = match CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>() {
            Ok(chain) => chain,
            Err(error) => {
                cx.error(at, format!("the certificate file is not PEM: {error}"));
                return None;
            }
        };
        if chain.is_empty() {
            cx.error(at, "the certificate file holds no certificate")
                .help("it must hold the chain in PEM, the server's own certificate first");
            return None;
        }
        let mut parsed = Vec::with_capacity(chain.len());
        for (index, der) in chain.iter().enumerate() {
            match X509Certificate::from_der(der) {
                Ok((_, certificate)) => parsed.push(certificate),
                Err(_) => {
                    cx.error(at, format!("certificate {} of the file cannot be read", index + 1));
                    return None;
                }
            }
        }
        check_order(&parsed, at, cx);
        check_validity(&parsed, now, at, cx);
        Some(Self(chain))
    }
}

/// RFC 8446 §4.4.2: each certificate should certify the one before it. Strangers at the end are harmless; a chain whose
/// links are there but shuffled breaks TLS 1.2 clients (RFC 5246 §7.4.2).
fn check_order(chain: &[X509Certificate<'_>], at: &Path, cx: &mut Context) {
    for (index, pair) in chain.windows(2).enumerate() {
        let [subject, next] = pair else { continue };
        if subject.issuer().as_raw() == next.subject().as_raw() {
            continue;
        }
        let is_issuer = |other: &X509Certificate<'_>| other.subject().as_raw() == subject.issuer().as_raw();
        let is_root = is_issuer(subject);
        if !is_root && chain.iter().any(is_issuer) {
            cx.error(
                at,
                format!("the chain is out of order: certificate {} did not issue certificate {}", index + 2, index + 1),
            )
            .help("put the server's own certificate first and after each one its issuer");
        } else {
            cx.warning(at, format!("certificate {} of the file does not belong to the chain", index + 2));
        }
        return;
    }
}

fn check_validity(chain: &[X509Certificate<'_>], now: i64, at: &Path, cx: &mut Context) {
    let Some((leaf, issuers)) = chain.split_first() else { return };
    match Age::of(leaf.validity(), now) {
        Age::Expired(ago) => {
            cx.error(at, format!("the certificate expired {} ago", age::words(ago))).help("renew it");
        }
        Age::NotYet(wait) => {
            cx.error(at, format!("the certificate is not valid yet, only in {}", age::words(wait)))
                .help("check this machine's clock");
        }
        Age::Valid(left) if left < EXPIRY_WARNING => {
            cx.warning(at, format!("the certificate expires in {}", age::words(left))).help("renew it");
        }
        Age::Valid(_) => {}
    }
    // Clients may know another path, so this is not ours to refuse.
    for issuer in issuers {
        if let Age::Expired(ago) = Age::of(issuer.validity(), now) {
            cx.warning(at, format!("the issuer {} in the chain expired {} ago", issuer.subject(), age::words(ago)));
        }
    }
}
