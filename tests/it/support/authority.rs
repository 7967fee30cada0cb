//! A certificate authority made for one test.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, RevocationReason,
    RevokedCertParams, SanType, SerialNumber,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use std::{path::Path, sync::Arc};
use time::{Duration, OffsetDateTime};

/// A root that signs leaves and revocation lists.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub certificate_pem: String,
    pub key_pem: String,
}

/// What a leaf signs with.
#[derive(Debug, Clone, Copy)]
pub(crate) enum KeyKind {
    P256,
    Rsa,
}

/// A certificate chain and its key, in PEM.
pub(crate) struct Leaf {
    pub certificate_pem: String,
    pub key_pem: String,
    pub serial: u64,
    pub not_after: OffsetDateTime,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let params = Self::params(name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self { certificate_pem: certificate.pem(), key_pem: key.serialize_pem(), issuer: Issuer::new(params, key) }
    }

    /// A server and client certificate. `names` are DNS names, addresses, or URIs.
    pub(crate) fn leaf(&self, names: &[&str]) -> Leaf {
        self.leaf_valid(names, Duration::days(90))
    }

    pub(crate) fn leaf_valid(&self, names: &[&str], valid_for: Duration) -> Leaf {
        self.leaf_with(names, KeyKind::P256, |params| params.not_after = OffsetDateTime::now_utc() + valid_for)
    }

    /// One that differs from the usual.
    pub(crate) fn leaf_with(&self, names: &[&str], kind: KeyKind, adjust: impl FnOnce(&mut CertificateParams)) -> Leaf {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names
            .iter()
            .map(|name| match name.parse() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) if name.contains("://") => SanType::URI((*name).try_into().unwrap()),
                Err(_) => SanType::DnsName((*name).try_into().unwrap()),
            })
            .collect();
        let serial = fastrand::u64(1..u64::MAX >> 1);
        params.serial_number = Some(SerialNumber::from(serial));
        params.distinguished_name.push(DnType::CommonName, names[0]);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = OffsetDateTime::now_utc() - Duration::days(100);
        params.not_after = OffsetDateTime::now_utc() + Duration::days(90);
        adjust(&mut params);
        let key = match kind {
            KeyKind::P256 => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256),
            KeyKind::Rsa => KeyPair::generate_for(&PKCS_RSA_SHA256),
        }
        .unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Leaf { certificate_pem: certificate.pem(), key_pem: key.serialize_pem(), serial, not_after: params.not_after }
    }

    /// An authority under this one.
    pub(crate) fn intermediate(&self, name: &str) -> Self {
        let params = Self::params(name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Self { certificate_pem: certificate.pem(), key_pem: key.serialize_pem(), issuer: Issuer::new(params, key) }
    }

    fn params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
    }

    /// A revocation list over these serials.
    pub(crate) fn crl(&self, revoked: &[u64]) -> String {
        let now = OffsetDateTime::now_utc();
        let params = CertificateRevocationListParams {
            this_update: now - Duration::hours(1),
            next_update: now + Duration::days(7),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: revoked
                .iter()
                .map(|serial| RevokedCertParams {
                    serial_number: SerialNumber::from(*serial),
                    revocation_time: now - Duration::hours(1),
                    reason_code: Some(RevocationReason::KeyCompromise),
                    invalidity_date: None,
                })
                .collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

impl Leaf {
    /// What a server shows it with that asks nobody for a certificate; `alpn` in the order of its wishes.
    pub(crate) fn acceptor(&self, alpn: &[&[u8]]) -> tokio_rustls::TlsAcceptor {
        let chain = CertificateDer::pem_slice_iter(self.certificate_pem.as_bytes()).map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let mut config = config.unwrap().with_no_client_auth().with_single_cert(chain, key).unwrap();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        Arc::new(config).into()
    }

    pub(crate) fn is_over(&self) -> bool {
        self.not_after <= OffsetDateTime::now_utc() + Duration::milliseconds(1100)
    }

    /// Writes `NAME.crt` and `NAME.key` into a folder, each by rename, as certificate tools do.
    pub(crate) fn write(&self, folder: &Path, name: &str) {
        for (kind, text) in [("crt", &self.certificate_pem), ("key", &self.key_pem)] {
            let new = folder.join(format!("{name}.{kind}.new"));
            std::fs::write(&new, text).unwrap();
            std::fs::rename(new, folder.join(format!("{name}.{kind}"))).unwrap();
        }
    }
}
