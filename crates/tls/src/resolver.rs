//! Which certificate a client is shown.

use crate::Certificate;
use portcullis_names::HostPattern;
use rustls::{
    SignatureScheme,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use std::{collections::HashMap, sync::Arc};

/// By SNI: exact name, then wildcard of one label, then the listener's first certificate. Of several for one name, ECDSA
/// when the client can verify it: it signs some ten times cheaper than RSA.
#[derive(Debug)]
pub(crate) struct BySni {
    exact: HashMap<String, Vec<Arc<Certificate>>>,
    wildcard: HashMap<String, Vec<Arc<Certificate>>>,
    default: Vec<Arc<Certificate>>,
}

impl BySni {
    /// `certificates` must not be empty.
    pub(crate) fn new(certificates: &[Arc<Certificate>]) -> Self {
        let mut by_sni = Self { exact: HashMap::new(), wildcard: HashMap::new(), default: Vec::new() };
        for certificate in certificates {
            for host in &certificate.hosts {
                match host {
                    HostPattern::Exact(name) => by_sni.exact.entry(name.clone()).or_default().push(certificate.clone()),
                    HostPattern::Wildcard(suffix) => {
                        by_sni.wildcard.entry(suffix.clone()).or_default().push(certificate.clone())
                    }
                    HostPattern::Any => {}
                }
            }
        }
        // The first named, with its twin of the other key type if one serves the same names.
        if let Some(first) = certificates.first() {
            by_sni.default.extend(certificates.iter().filter(|other| other.hosts == first.hosts).cloned());
        }
        for list in by_sni.exact.values_mut().chain(by_sni.wildcard.values_mut()).chain([&mut by_sni.default]) {
            list.sort_by_key(|certificate| !certificate.is_ecdsa);
        }
        by_sni
    }

    fn candidates(&self, name: Option<&str>) -> &[Arc<Certificate>] {
        let found = name.and_then(|name| {
            let wildcard = || self.wildcard.get(name.split_once('.')?.1);
            self.exact.get(name).or_else(wildcard)
        });
        found.unwrap_or(&self.default)
    }
}

impl ResolvesServerCert for BySni {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // rustls gives the name in lower case.
        let candidates = self.candidates(hello.server_name());
        let offered: &[SignatureScheme] = hello.signature_schemes();
        let usable = candidates.iter().find(|certificate| certificate.key.key.choose_scheme(offered).is_some());
        usable.or(candidates.first()).map(|certificate| certificate.key.clone())
    }
}
