//! Which certificate a client is shown. Does not refuse names: what nobody serves gets the default certificate here and
//! 421 from the HTTP layer, so that a probe of names learns nothing from the handshake.

use crate::{Certificate, age::unix, provider};
use portcullis_names::HostPattern;
use rustls::{
    NamedGroup, SignatureScheme,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use std::{collections::HashMap, sync::Arc, time::SystemTime};

/// By SNI: exact name, then wildcard of one label, then the listener's first certificate. Of several for one name, the
/// cheapest to sign with that the client can verify; of several alike, the first named. Two lookups at most, and none
/// allocates.
#[derive(Debug)]
pub(crate) struct BySni {
    exact: HashMap<String, Candidates>,
    /// By suffix, without `*.`.
    wildcard: HashMap<String, Candidates>,
    default: Candidates,
}

type Candidates = Vec<Arc<Certificate>>;

impl BySni {
    /// Without certificates every handshake fails.
    pub(crate) fn new(certificates: &[Arc<Certificate>]) -> Self {
        let mut by_sni = Self { exact: HashMap::new(), wildcard: HashMap::new(), default: Vec::new() };
        for certificate in certificates {
            for host in &certificate.hosts {
                let list = match host {
                    HostPattern::Exact(name) => by_sni.exact.entry(name.clone()).or_default(),
                    HostPattern::Wildcard(suffix) => by_sni.wildcard.entry(suffix.clone()).or_default(),
                    // No certificate covers it: refused when the certificate was loaded.
                    HostPattern::Any => continue,
                };
                list.push(certificate.clone());
            }
        }
        // The first named, with its twin of the other key type if one serves the same names.
        if let Some(first) = certificates.first() {
            by_sni.default = certificates.iter().filter(|other| other.hosts == first.hosts).cloned().collect();
        }
        for list in by_sni.exact.values_mut().chain(by_sni.wildcard.values_mut()).chain([&mut by_sni.default]) {
            list.sort_by_key(|certificate| certificate.kind);
        }
        by_sni
    }

    /// `name` in lower case.
    fn candidates(&self, name: Option<&str>) -> &[Arc<Certificate>] {
        let found = name.and_then(|name| {
            // RFC 9525 §6.3: the wildcard is the whole first label and stands for exactly one.
            let wildcard = || self.wildcard.get(name.split_once('.')?.1);
            self.exact.get(name).or_else(wildcard)
        });
        found.unwrap_or(&self.default)
    }
}

/// Up to TLS 1.2 a client's groups are also the curves that it takes in a certificate (RFC 8422 §5.1.1); in TLS 1.3 the signature
/// schemes name them.
fn knows_curve(hello: &ClientHello<'_>, scheme: SignatureScheme) -> bool {
    let curve = match scheme {
        SignatureScheme::ECDSA_NISTP256_SHA256 => NamedGroup::secp256r1,
        SignatureScheme::ECDSA_NISTP384_SHA384 => NamedGroup::secp384r1,
        _ => return true,
    };
    let speaks_13 = hello.cipher_suites().iter().any(|suite| provider::is_of_13(*suite));
    speaks_13 || hello.named_groups().is_none_or(|groups| groups.contains(&curve))
}

impl ResolvesServerCert for BySni {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // rustls gives the name in lower case, and of the schemes only those that fit the offered TLS 1.2 suites.
        let candidates = self.candidates(hello.server_name());
        let offered: &[SignatureScheme] = hello.signature_schemes();
        let usable = candidates.iter().find(|certificate| {
            let signer = certificate.key.key.choose_scheme(offered);
            signer.is_some_and(|signer| knows_curve(&hello, signer.scheme()))
        });
        usable.or(candidates.first()).map(|certificate| certificate.shown(unix(SystemTime::now())).clone())
    }
}
