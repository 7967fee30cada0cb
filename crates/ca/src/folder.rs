//! The authority on disk.
//!
//! ```text
//! trust-domain              corp
//! root.crt  root.key        the root; several certificates while one follows another; no key when it is external
//! root.crl  root.revoked    intermediates taken back
//! namespaces/NS.{crt,key,csr,crl,revoked}
//! tokens/HASH               what a token is good for, by the hash of the token
//! workloads/NS/SERVICE.{crt,key}   leaf with its intermediate; next to it bundle.crt, the roots
//! ```

use crate::{
    Authority, AuthorityLife, CaError, Certificate, LeafLife, Namespace, NewIntermediate, Overwrite, Workload,
    certificate::verify,
    file::{self, PUBLIC, SECRET},
    request::Request,
    revoked::Revoked,
    token::{self, Redeemed, TokenUse},
};
use base64::Engine;
use portcullis_names::{SpiffeId, TrustDomain};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, pem::PemObject};
use std::path::{Path, PathBuf};
use time::OffsetDateTime;

/// A folder that belongs to one authority.
#[derive(Debug, Clone)]
pub struct Folder(PathBuf);

/// Where a workload's new certificate lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    pub id: SpiffeId,
    pub chain: PathBuf,
    pub key: PathBuf,
    pub bundle: PathBuf,
    pub not_after: OffsetDateTime,
}

/// What peers of this authority believe, PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trusted {
    pub roots: String,
    /// Of the root and of every namespace, one after another; empty when nothing was ever taken back.
    pub revoked: String,
}

const NO_ROOT: &str = "`portcullis ca init` makes a root, `portcullis ca csr` asks an external one";
const NO_INTERMEDIATE: &str = "`portcullis ca intermediate` makes it, or `csr` and `adopt` with an external root";

impl Folder {
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// A new root for `domain`.
    pub fn init(
        &self,
        domain: &TrustDomain,
        life: AuthorityLife,
        overwrite: Overwrite,
        now: OffsetDateTime,
    ) -> Result<Certificate, CaError> {
        self.claim(domain)?;
        let root = Authority::root(domain, life, now)?;
        file::write(&self.at("root.key"), root.key_pem(), SECRET, overwrite)?;
        // Old and new roots together: what the old one signed is believed until it has been replaced.
        let old = match file::read(&self.at("root.crt"), NO_ROOT) {
            Err(CaError::Missing { .. }) => String::new(),
            other => other?,
        };
        file::write(&self.at("root.crt"), &(root.chain_pem.clone() + &old), PUBLIC, Overwrite::Replace)?;
        Ok(root.certificate)
    }

    /// A new intermediate for `namespace` under the root.
    pub fn intermediate(
        &self,
        namespace: &Namespace,
        life: AuthorityLife,
        overwrite: Overwrite,
        now: OffsetDateTime,
    ) -> Result<Certificate, CaError> {
        let domain = self.domain()?;
        let made = self.root()?.intermediate(&domain, namespace, life, now)?;
        file::write(&self.of(namespace, "key"), made.key_pem(), SECRET, overwrite)?;
        file::write(&self.of(namespace, "crt"), &made.chain_pem, PUBLIC, Overwrite::Replace)?;
        Ok(made.certificate)
    }

    /// A key for `namespace` and the request that an external root signs. Gives the request's place.
    pub fn request(
        &self,
        domain: &TrustDomain,
        namespace: &Namespace,
        overwrite: Overwrite,
    ) -> Result<PathBuf, CaError> {
        self.claim(domain)?;
        let new = NewIntermediate::new(domain, namespace)?;
        file::write(&self.of(namespace, "key"), &new.key_pem, SECRET, overwrite)?;
        let place = self.of(namespace, "csr");
        file::write(&place, &new.request_pem, PUBLIC, Overwrite::Replace)?;
        Ok(place)
    }

    /// Takes what the external root signed: `chain` begins with the intermediate; `root` is to be trusted.
    pub fn adopt(
        &self,
        namespace: &Namespace,
        chain: &Path,
        root: &Path,
        now: OffsetDateTime,
    ) -> Result<Certificate, CaError> {
        let domain = self.domain()?;
        let key_place = self.of(namespace, "key");
        let key = file::read(&key_place, "`portcullis ca csr` makes it")?;
        let roots_pem = file::read(root, "name the external root's certificate")?;
        let roots = Certificate::read_all(&roots_pem, &root.display().to_string())?;
        let roots: Vec<_> = roots.into_iter().map(|(_, der)| der).collect();
        let name = chain.display().to_string();
        let all = Certificate::read_all(&file::read(chain, "name the file that the root's owner sent")?, &name)?;
        // The root belongs into the bundle; a peer sent it would skip it.
        let kept = all.iter().filter(|(_, der)| !roots.contains(der));
        let chain_pem: String = kept.map(|(_, der)| pem(der)).collect();
        let adopted = match Authority::open(&chain_pem, &key, &name) {
            Err(CaError::Unreadable { why, .. }) if why.contains("another certificate") => {
                return Err(CaError::OtherKey(key_place));
            }
            other => other?,
        };
        if let Some(found) = adopted.certificate.spiffe.as_ref().filter(|id| !id.is_in(&domain)) {
            return Err(CaError::OtherDomain { found: found.trust_domain().to_string(), own: domain.to_string() });
        }
        adopted.try_out(&domain, namespace, &roots, now)?;
        self.trust(&roots)?;
        file::write(&self.of(namespace, "crt"), &chain_pem, PUBLIC, Overwrite::Replace)?;
        Ok(adopted.certificate)
    }

    /// A certificate for one service, into `into` or the authority's own folder.
    pub fn issue(
        &self,
        namespace: &Namespace,
        service: &str,
        life: LeafLife,
        into: Option<&Path>,
        overwrite: Overwrite,
        now: OffsetDateTime,
    ) -> Result<Issued, CaError> {
        let domain = self.domain()?;
        let workload = Workload::new(&domain, namespace.clone(), service)?;
        let authority = self.of_namespace(namespace)?;
        let (chain, key) = authority.issue(&workload, life, now)?;
        let roots = file::read(&self.at("root.crt"), NO_ROOT)?;
        let folder = into.map_or_else(|| self.at("workloads").join(namespace.as_str()), Path::to_owned);
        let issued = Issued {
            id: workload.id().clone(),
            chain: folder.join(format!("{service}.crt")),
            key: folder.join(format!("{service}.key")),
            bundle: folder.join("bundle.crt"),
            not_after: Certificate::read_all(&chain, "the new certificate")?
                .first()
                .map_or(now, |(leaf, _)| leaf.not_after),
        };
        // Whoever reads between the two sees a pair that does not match, and waits for the next.
        file::write(&issued.key, &key, SECRET, overwrite)?;
        file::write(&issued.chain, &chain, PUBLIC, Overwrite::Replace)?;
        file::write(&issued.bundle, &roots, PUBLIC, Overwrite::Replace)?;
        Ok(issued)
    }

    /// A certificate for the key of `request`, which must be for `caller`: nobody gets another's name.
    pub fn sign(
        &self,
        request: &Request,
        caller: &SpiffeId,
        life: LeafLife,
        now: OffsetDateTime,
    ) -> Result<String, CaError> {
        if request.id != *caller {
            return Err(CaError::OtherId { asked: request.id.clone(), own: caller.clone() });
        }
        let workload = token::workload(&self.domain()?, caller)?;
        self.of_namespace(&workload.namespace)?.certify(&workload, &request.key, life, now)
    }

    /// A certificate and key for one who runs in this process: (chain, key), PEM. Nothing is written.
    pub fn issue_here(
        &self,
        namespace: &Namespace,
        service: &str,
        life: LeafLife,
        now: OffsetDateTime,
    ) -> Result<(SpiffeId, String, String), CaError> {
        let workload = Workload::new(&self.domain()?, namespace.clone(), service)?;
        let (chain, key) = self.of_namespace(namespace)?.issue(&workload, life, now)?;
        Ok((workload.id().clone(), chain, key))
    }

    /// Roots and revocation lists as they are now.
    pub fn trusted(&self) -> Result<Trusted, CaError> {
        let roots = file::read(&self.at("root.crt"), NO_ROOT)?;
        let mut lists = vec![self.at("root.crl")];
        let entries = std::fs::read_dir(self.at("namespaces")).into_iter().flatten().flatten();
        lists.extend(entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == "crl")));
        lists.sort();
        let mut revoked = String::new();
        for list in lists {
            match file::read(&list, "") {
                Err(CaError::Missing { .. }) => {}
                other => revoked.push_str(&other?),
            }
        }
        Ok(Trusted { roots, revoked })
    }

    /// A token that is good for one service's first certificate until `end`.
    pub fn new_token(
        &self,
        namespace: &Namespace,
        service: &str,
        life: time::Duration,
        uses: TokenUse,
        now: OffsetDateTime,
    ) -> Result<(SpiffeId, String), CaError> {
        if life < time::Duration::SECOND || life > token::LIFE_MOST {
            return Err(CaError::Token("it lives from 1s to 30d"));
        }
        let workload = Workload::new(&self.domain()?, namespace.clone(), service)?;
        // Said now rather than to the workload: nobody could sign for it.
        self.of_namespace(namespace)?;
        let token = token::make(&self.at("tokens"), &workload, now + life, uses)?;
        Ok((workload.id().clone(), token))
    }

    /// Whom a token is good for.
    pub fn redeem(&self, token: &str, now: OffsetDateTime) -> Result<Redeemed, CaError> {
        token::redeem(&self.at("tokens"), token, now)
    }

    /// Takes a certificate of this authority back: gives the list that now has it.
    pub fn revoke(&self, certificate: &Path, now: OffsetDateTime) -> Result<(Certificate, PathBuf), CaError> {
        let name = certificate.display().to_string();
        let all = Certificate::read_all(&file::read(certificate, "name a certificate's file")?, &name)?;
        let (first, _) = all.first().cloned().ok_or_else(|| CaError::NotBelieved("it is empty".to_owned()))?;
        let (authority, list, text) = if first.is_authority {
            (self.root()?, self.at("root.crl"), self.at("root.revoked"))
        } else {
            let namespace = first.spiffe.as_ref().and_then(SpiffeId::namespace);
            let namespace: Namespace = namespace.unwrap_or_default().parse()?;
            (self.of_namespace(&namespace)?, self.of(&namespace, "crl"), self.of(&namespace, "revoked"))
        };
        if first.issuer != authority.certificate.subject {
            return Err(CaError::NotBelieved(format!("{name} was issued by {}, which is not here", first.issuer)));
        }
        let known = match file::read(&text, "") {
            Err(CaError::Missing { .. }) => String::new(),
            other => other?,
        };
        let mut revoked = Revoked::read(&known, &text.display().to_string())?;
        revoked.add(first.serial_text(), now)?;
        // The record first: a list can be made again from it.
        file::write(&text, &revoked.text(), PUBLIC, Overwrite::Replace)?;
        file::write(&list, &authority.list(&revoked, now)?, PUBLIC, Overwrite::Replace)?;
        Ok((first, list))
    }

    /// What a certificate file says, and whether it is believed here now.
    pub fn show(
        &self,
        certificate: &Path,
        now: OffsetDateTime,
    ) -> Result<(Vec<Certificate>, Result<(), CaError>), CaError> {
        let all = Certificate::read_all(
            &file::read(certificate, "name a certificate's file")?,
            &certificate.display().to_string(),
        )?;
        let (facts, chain): (Vec<_>, Vec<_>) = all.into_iter().unzip();
        let mut lists = vec![self.at("root.crl")];
        if let Some(namespace) = facts.first().and_then(|leaf| leaf.spiffe.as_ref()?.namespace()?.parse().ok()) {
            lists.push(self.of(&namespace, "crl"));
        }
        let lists = lists.iter().filter_map(|list| CertificateRevocationListDer::from_pem_file(list).ok()).collect();
        let believed = self.roots().and_then(|roots| verify(&chain, &roots, lists, now));
        Ok((facts, believed))
    }

    /// All certificates below this folder that are the authority's own.
    pub fn authorities(&self) -> Vec<PathBuf> {
        let mut found = vec![self.at("root.crt")];
        let entries = std::fs::read_dir(self.at("namespaces")).into_iter().flatten().flatten();
        found.extend(entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == "crt")));
        found.retain(|path| path.exists());
        found.sort();
        found
    }

    pub fn domain(&self) -> Result<TrustDomain, CaError> {
        Ok(file::read(&self.at("trust-domain"), NO_ROOT)?.trim_end().parse()?)
    }

    /// One folder is of one domain, for ever.
    fn claim(&self, domain: &TrustDomain) -> Result<(), CaError> {
        match file::write(&self.at("trust-domain"), &format!("{domain}\n"), PUBLIC, Overwrite::Never) {
            Err(CaError::Exists(_)) => {
                let own = self.domain()?;
                if own != *domain {
                    return Err(CaError::OtherDomain { found: domain.to_string(), own: own.to_string() });
                }
                Ok(())
            }
            other => other,
        }
    }

    fn root(&self) -> Result<Authority, CaError> {
        let key = file::read(&self.at("root.key"), NO_ROOT)?;
        Authority::open(&file::read(&self.at("root.crt"), NO_ROOT)?, &key, "root.crt")
    }

    fn of_namespace(&self, namespace: &Namespace) -> Result<Authority, CaError> {
        let certificate = self.of(namespace, "crt");
        let chain = file::read(&certificate, NO_INTERMEDIATE)?;
        let key = file::read(&self.of(namespace, "key"), NO_INTERMEDIATE)?;
        Authority::open(&chain, &key, &certificate.display().to_string())
    }

    fn roots(&self) -> Result<Vec<CertificateDer<'static>>, CaError> {
        let all = Certificate::read_all(&file::read(&self.at("root.crt"), NO_ROOT)?, "root.crt")?;
        Ok(all.into_iter().map(|(_, der)| der).collect())
    }

    fn trust(&self, new: &[CertificateDer<'static>]) -> Result<(), CaError> {
        let mut all = match self.roots() {
            Err(CaError::Missing { .. }) => Vec::new(),
            other => other?,
        };
        let missing: Vec<_> = new.iter().filter(|root| !all.contains(root)).cloned().collect();
        // Behind the own root: `root.key` belongs to the first.
        all.extend(missing);
        let text: String = all.iter().map(|root| pem(root)).collect();
        file::write(&self.at("root.crt"), &text, PUBLIC, Overwrite::Replace)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn of(&self, namespace: &Namespace, ending: &str) -> PathBuf {
        self.at("namespaces").join(format!("{namespace}.{ending}"))
    }
}

/// RFC 7468 §2.
fn pem(der: &[u8]) -> String {
    let encoded = base64::prelude::BASE64_STANDARD.encode(der);
    let lines: Vec<_> = encoded.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}
