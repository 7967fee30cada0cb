//! `[trust.X]`: authorities whose word counts, and what they revoked.

use crate::certificate::FileSpec;
use portcullis_config::{Context, Path};
use portcullis_names::ObjectName;
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, CertificateRevocationListDer, pem::PemObject},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, sync::Arc};

/// A bundle of authorities.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrustSpec {
    /// Certificates in PEM.
    pub ca: FileSpec,
    /// Revocation lists in PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crl: Option<FileSpec>,
}

/// A loaded bundle.
#[derive(Debug)]
pub struct Trust {
    pub roots: Arc<RootCertStore>,
    pub crls: Vec<CertificateRevocationListDer<'static>>,
    /// Over all of its content: equal digests mean equal judgement.
    pub digest: [u8; 32],
}

/// All bundles of a document.
#[derive(Debug, Default)]
pub struct Trusts(BTreeMap<String, Arc<Trust>>);

impl Trusts {
    pub fn compile(specs: &BTreeMap<ObjectName, TrustSpec>, cx: &mut Context) -> Self {
        let loaded = specs.iter().filter_map(|(name, spec)| {
            let at = Path::root().key("trust").key(name);
            Some((name.to_string(), Arc::new(Trust::load(spec, &at, cx)?)))
        });
        Self(loaded.collect())
    }

    /// The bundle called `name`; an unknown name is an error in the report.
    pub fn find(&self, name: &str, at: &Path, cx: &mut Context) -> Option<Arc<Trust>> {
        let found = self.0.get(name).cloned();
        if found.is_none() {
            cx.undefined(at, "trust", name, self.0.keys().map(String::as_str));
        }
        found
    }
}

impl Trust {
    fn load(spec: &TrustSpec, at: &Path, cx: &mut Context) -> Option<Self> {
        let ca_at = at.key("ca").key("file");
        let pem = cx.read(&ca_at, &spec.ca.file)?;
        let mut digest = Sha256::new();
        digest.update(&pem);
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            let added = certificate
                .map_err(|error| error.to_string())
                .and_then(|certificate| roots.add(certificate).map_err(|error| error.to_string()));
            if let Err(error) = added {
                cx.error(&ca_at, format!("a certificate of the bundle cannot be used: {error}"));
                return None;
            }
        }
        if roots.is_empty() {
            cx.error(&ca_at, "the bundle holds no certificate");
            return None;
        }
        let mut crls = Vec::new();
        if let Some(crl) = &spec.crl {
            let crl_at = at.key("crl").key("file");
            let pem = cx.read(&crl_at, &crl.file)?;
            digest.update(b"crl");
            digest.update(&pem);
            for list in CertificateRevocationListDer::pem_slice_iter(&pem) {
                match list {
                    Ok(list) => crls.push(list),
                    Err(error) => {
                        cx.error(&crl_at, format!("the revocation list is not PEM: {error}"));
                        return None;
                    }
                }
            }
            if crls.is_empty() {
                cx.error(&crl_at, "the file holds no revocation list");
                return None;
            }
        }
        Some(Self { roots: Arc::new(roots), crls, digest: digest.finalize().into() })
    }

    /// The roots of the operating system.
    pub(crate) fn system() -> Self {
        let mut roots = RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "a system root certificate cannot be read");
        }
        roots.add_parsable_certificates(found.certs);
        Self { roots: Arc::new(roots), crls: Vec::new(), digest: [0; 32] }
    }
}
