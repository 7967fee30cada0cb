//! `[trust.X]`: authorities whose word counts, and what they revoked.

use crate::{
    age::{self, Age, unix},
    certificate::FileSpec,
    provider,
};
use portcullis_config::{Context, Path};
use portcullis_names::ObjectName;
use rustls::{
    RootCertStore,
    client::WebPkiServerVerifier,
    pki_types::{CertificateDer, CertificateRevocationListDer, pem::PemObject},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, OnceLock},
    time::SystemTime,
};
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};

/// A bundle of authorities.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrustSpec {
    /// Certificates in PEM.
    pub ca: FileSpec,
    /// Revocation lists in PEM. Every certificate of a chain is looked up in the list of its issuer; an issuer without a
    /// list revokes nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crl: Option<FileSpec>,
}

/// A loaded bundle.
pub struct Trust {
    pub roots: Arc<RootCertStore>,
    /// The same as certificates, for a TLS library other than rustls.
    pub authorities: Vec<CertificateDer<'static>>,
    pub crls: Vec<CertificateRevocationListDer<'static>>,
    /// Over all of its content: equal digests mean equal judgement.
    pub digest: [u8; 32],
}

/// All bundles of a document. One that is declared but could not be loaded keeps its name.
#[derive(Debug, Default)]
pub struct Trusts {
    named: BTreeMap<ObjectName, Option<Arc<Trust>>>,
    /// Read at most once per load, and only when somebody needs it: some 140 files.
    system: OnceLock<Arc<Trust>>,
}

impl Trusts {
    pub fn compile(specs: &BTreeMap<ObjectName, TrustSpec>, cx: &mut Context) -> Self {
        let loaded = specs.iter().map(|(name, spec)| {
            let at = Path::root().key("trust").key(name);
            (name.clone(), Trust::load(spec, &at, cx).map(Arc::new))
        });
        Self { named: loaded.collect(), system: OnceLock::new() }
    }

    /// The bundle called `name`; an unknown name is an error in the report.
    pub fn find(&self, name: &str, at: &Path, cx: &mut Context) -> Option<Arc<Trust>> {
        if !self.named.contains_key(name) {
            cx.undefined(at, "trust", name, self.named.keys().map(ObjectName::as_str));
        }
        self.named.get(name)?.clone()
    }

    /// The authorities of the operating system.
    pub(crate) fn system(&self) -> &Arc<Trust> {
        self.system.get_or_init(|| Arc::new(Trust::system()))
    }
}

impl Trust {
    fn load(spec: &TrustSpec, at: &Path, cx: &mut Context) -> Option<Self> {
        let now = unix(SystemTime::now());
        let mut digest = Sha256::new();
        let ca_at = at.key("ca").key("file");
        let authorities = cx.read(&ca_at, &spec.ca.file).and_then(|pem| {
            digest.update(&pem);
            read_authorities(&pem, now, &ca_at, cx)
        });
        let crl_at = at.key("crl").key("file");
        let crls = match &spec.crl {
            None => Some(Vec::new()),
            Some(crl) => cx.read(&crl_at, &crl.file).and_then(|pem| {
                digest.update(b"crl");
                digest.update(&pem);
                read_lists(&pem, now, &crl_at, cx)
            }),
        };
        let ((roots, authorities), crls) = (authorities?, crls?);
        let roots = Arc::new(roots);
        // What webpki cannot use (delta lists, indirect lists) shows here, at the file, not later at each listener.
        let usable = WebPkiServerVerifier::builder_with_provider(roots.clone(), provider()).with_crls(crls.clone());
        if let Err(error) = usable.build() {
            cx.error(&crl_at, format!("the revocation list cannot be used: {error}"));
            return None;
        }
        Some(Self { roots, authorities, crls, digest: digest.finalize().into() })
    }

    pub(crate) fn system() -> Self {
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "a system root certificate cannot be read");
        }
        let mut digest = Sha256::new();
        found.certs.iter().for_each(|certificate| digest.update(certificate));
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(found.certs.iter().cloned());
        Self { roots: Arc::new(roots), authorities: found.certs, crls: Vec::new(), digest: digest.finalize().into() }
    }
}

type Authorities = (RootCertStore, Vec<CertificateDer<'static>>);

fn read_authorities(pem: &[u8], now: i64, at: &Path, cx: &mut Context) -> Option<Authorities> {
    let (mut roots, mut authorities) = (RootCertStore::empty(), Vec::new());
    for (index, certificate) in CertificateDer::pem_slice_iter(pem).enumerate() {
        let added = certificate.map_err(|error| error.to_string()).and_then(|certificate| {
            roots.add(certificate.clone()).map_err(|error| error.to_string())?;
            Ok(certificate)
        });
        match added {
            Ok(certificate) => authorities.push(certificate),
            Err(error) => {
                cx.error(at, format!("certificate {} of the bundle cannot be used: {error}", index + 1));
                return None;
            }
        }
    }
    if roots.is_empty() {
        cx.error(at, "the bundle holds no certificate").help("it must hold the authorities' certificates in PEM");
        return None;
    }
    for der in &authorities {
        let Ok((_, authority)) = X509Certificate::from_der(der) else { continue };
        if let Age::Expired(ago) = Age::of(authority.validity(), now) {
            cx.warning(at, format!("the authority {} expired {} ago", authority.subject(), age::words(ago)));
        }
    }
    Some((roots, authorities))
}

fn read_lists(pem: &[u8], now: i64, at: &Path, cx: &mut Context) -> Option<Vec<CertificateRevocationListDer<'static>>> {
    let lists = CertificateRevocationListDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let lists = match lists {
        Ok(lists) => lists,
        Err(error) => {
            cx.error(at, format!("the revocation list is not PEM: {error}"));
            return None;
        }
    };
    if lists.is_empty() {
        cx.error(at, "the file holds no revocation list in PEM")
            .help("a list in DER becomes PEM by `openssl crl -inform der`");
        return None;
    }
    for der in &lists {
        let Ok((_, list)) = CertificateRevocationList::from_der(der) else {
            cx.error(at, "the revocation list cannot be read");
            return None;
        };
        // A late list still revokes what it names; refusing everybody because an authority is late would be an outage.
        if let Some(due) = list.next_update().map(|due| due.timestamp()).filter(|due| *due < now) {
            let ago = age::words(now.saturating_sub(due));
            cx.warning(at, format!("the revocation list of {} was due for renewal {ago} ago", list.issuer()));
        }
    }
    Some(lists)
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust")
            .field("roots", &self.roots.len())
            .field("crls", &self.crls.len())
            .finish_non_exhaustive()
    }
}
