//! Who signs: a root, or the intermediate of one namespace.

use crate::{
    AuthorityLife, CaError, Certificate, LeafLife, Namespace, Workload, certificate::verify, revoked::Revoked,
};
use portcullis_names::TrustDomain;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CidrSubnet, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, NameConstraints, PKCS_ECDSA_P256_SHA256,
    PublicKeyData, SanType,
};
use rustls::pki_types::CertificateDer;
use std::time::Duration;
use time::OffsetDateTime;

/// A certificate that may sign, with its key.
pub struct Authority {
    /// Its own certificate first, without the root.
    pub chain_pem: String,
    pub(crate) certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
    key_pem: String,
}

/// An intermediate that has a key and asks for a certificate.
pub struct NewIntermediate {
    pub request_pem: String,
    pub key_pem: String,
}

/// Clocks differ.
const BACKDATED: Duration = Duration::from_secs(300);
/// How long a revocation list is good; peers keep it past that rather than to know nothing.
const LIST_LIFE: Duration = Duration::from_secs(7 * 86_400);

impl Authority {
    /// A new root of a trust domain.
    pub fn root(domain: &TrustDomain, life: AuthorityLife, now: OffsetDateTime) -> Result<Self, CaError> {
        // Room for one intermediate below it and no more.
        let mut params = signer(domain, &format!("Portcullis root of {domain}"), 1)?;
        valid(&mut params, now, now + life.get());
        let key = new_key()?;
        let certificate = params.self_signed(&key)?;
        Self::open(&certificate.pem(), &key.serialize_pem(), "the new root")
    }

    /// A new intermediate for `namespace`, signed by this root.
    pub fn intermediate(
        &self,
        domain: &TrustDomain,
        namespace: &Namespace,
        life: AuthorityLife,
        now: OffsetDateTime,
    ) -> Result<Self, CaError> {
        let mut params = intermediate(domain, namespace)?;
        valid(&mut params, now, (now + life.get()).min(self.certificate.not_after));
        let key = new_key()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Self::open(&certificate.pem(), &key.serialize_pem(), "the new intermediate")
    }

    /// From its files: its own certificate first, then those up to the root; and its key.
    pub fn open(chain_pem: &str, key_pem: &str, what: &str) -> Result<Self, CaError> {
        let wrong = |why: String| CaError::Unreadable { what: what.to_owned(), why };
        let key = KeyPair::from_pem(key_pem).map_err(|error| wrong(format!("its key: {error}")))?;
        let first = Certificate::read_all(chain_pem, what)?.into_iter().next();
        let (certificate, der) = first.ok_or_else(|| wrong("it is empty".to_owned()))?;
        if !certificate.is_authority {
            return Err(wrong("it may not sign: it is no authority's certificate".to_owned()));
        }
        if certificate.public_key != rcgen::PublicKeyData::subject_public_key_info(&key) {
            return Err(wrong("its key belongs to another certificate".to_owned()));
        }
        let issuer = Issuer::from_ca_cert_der(&der, key)?;
        Ok(Self { chain_pem: chain_pem.to_owned(), certificate, issuer, key_pem: key_pem.to_owned() })
    }

    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// For its file, which only its owner reads.
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// A certificate and a new key for `workload`: (chain with the leaf first, key), both PEM. It ends with its issuer
    /// at the latest: nobody believes it for longer.
    pub fn issue(&self, workload: &Workload, life: LeafLife, now: OffsetDateTime) -> Result<(String, String), CaError> {
        let key = new_key()?;
        Ok((self.certify(workload, &key, life, now)?, key.serialize_pem()))
    }

    /// The same for a key that somebody else has: the chain with the leaf first, PEM.
    pub(crate) fn certify(
        &self,
        workload: &Workload,
        key: &impl PublicKeyData,
        life: LeafLife,
        now: OffsetDateTime,
    ) -> Result<String, CaError> {
        let end = (now + life.get()).min(self.certificate.not_after);
        if end < now + LeafLife::LEAST {
            return Err(CaError::Outlived { namespace: workload.namespace.to_string() });
        }
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        // Not the common name: OpenSSL holds one that looks like a host name to the constraint that excludes hosts.
        params.distinguished_name.push(DnType::OrganizationalUnitName, workload.service());
        // X.509-SVID §2: exactly one URI name; no other names, so that no web client takes it for a server's.
        params.subject_alt_names = vec![SanType::URI(ia5(workload.id().as_str())?)];
        // X.509-SVID §4.3 and §4.4: digitalSignature, not keyCertSign or cRLSign; both extended usages.
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        valid(&mut params, now, end);
        Ok(params.signed_by(key, &self.issuer)?.pem() + &self.chain_pem)
    }

    /// Whether what this authority issues is believed under `roots`: a certificate is issued, verified and forgotten.
    pub(crate) fn try_out(
        &self,
        domain: &TrustDomain,
        namespace: &Namespace,
        roots: &[CertificateDer<'static>],
        now: OffsetDateTime,
    ) -> Result<(), CaError> {
        let workload = Workload::new(domain, namespace.clone(), "trial")?;
        let (pem, _) = self.issue(&workload, LeafLife::default(), now)?;
        let chain: Vec<_> = Certificate::read_all(&pem, "the trial")?.into_iter().map(|(_, der)| der).collect();
        verify(&chain, roots, Vec::new(), now)
    }

    /// The list of what was revoked, PEM.
    pub(crate) fn list(&self, revoked: &Revoked, now: OffsetDateTime) -> Result<String, CaError> {
        let params = CertificateRevocationListParams {
            this_update: now - BACKDATED,
            next_update: now + LIST_LIFE,
            crl_number: revoked.number(now).into(),
            issuing_distribution_point: None,
            revoked_certs: revoked.entries(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(params.signed_by(&self.issuer)?.pem()?)
    }
}

impl NewIntermediate {
    /// A key, and a request for an external root to sign.
    pub fn new(domain: &TrustDomain, namespace: &Namespace) -> Result<Self, CaError> {
        let mut params = intermediate(domain, namespace)?;
        // What a request cannot ask for, and its signer decides: constraints, and the signer's own key identifier.
        params.name_constraints = None;
        params.use_authority_key_identifier_extension = false;
        let key = new_key()?;
        Ok(Self { request_pem: params.serialize_request(&key)?.pem()?, key_pem: key.serialize_pem() })
    }
}

fn intermediate(domain: &TrustDomain, namespace: &Namespace) -> Result<CertificateParams, CaError> {
    let mut params = signer(domain, &format!("Portcullis authority of {namespace}"), 0)?;
    params.distinguished_name.push(DnType::OrganizationalUnitName, namespace.as_str());
    // It signs for workloads and for no host: no DNS name and no address. URI constraints would say the trust domain,
    // but webpki refuses every chain that has one (and RFC 5280 §4.2.1.10 cannot say a path); peers compare the domain.
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: Vec::new(),
        excluded_subtrees: vec![
            GeneralSubtree::DnsName(String::new()),
            GeneralSubtree::IpAddress(CidrSubnet::V4([0; 4], [0; 4])),
            GeneralSubtree::IpAddress(CidrSubnet::V6([0; 16], [0; 16])),
        ],
    });
    Ok(params)
}

/// X.509-SVID §3.1, §4.1 to §4.3: its id has no path, it is critically an authority, keyCertSign and cRLSign.
fn signer(domain: &TrustDomain, name: &str, below: u8) -> Result<CertificateParams, CaError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.distinguished_name.push(DnType::OrganizationName, domain.as_str());
    params.subject_alt_names = vec![SanType::URI(ia5(domain.id().as_str())?)];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(below));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn valid(params: &mut CertificateParams, now: OffsetDateTime, end: OffsetDateTime) {
    params.not_before = now - BACKDATED;
    params.not_after = end;
}

fn new_key() -> Result<KeyPair, CaError> {
    Ok(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?)
}

fn ia5(text: &str) -> Result<rcgen::string::Ia5String, CaError> {
    Ok(text.try_into()?)
}
