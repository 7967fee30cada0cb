//! A certificate authority for tests.

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, IsCa,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};
use std::sync::atomic::{AtomicU64, Ordering};
use time::{Duration, OffsetDateTime};

pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key.
pub(crate) struct Issued {
    pub(crate) cert: Certificate,
    pub(crate) key: KeyPair,
    pub(crate) serial: u64,
}

/// What a certificate is like, where it differs from a good one.
pub(crate) type Edit<'e> = &'e dyn Fn(&mut CertificateParams);

pub(crate) const PLAIN: Edit<'static> = &|_| {};

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        Self(CertifiedIssuer::self_signed(Self::params(name), KeyPair::generate().unwrap()).unwrap())
    }

    /// An authority below this one, and its serial number.
    pub(crate) fn intermediate(&self, name: &str) -> (Self, u64) {
        let mut params = Self::params(name);
        let serial = number(&mut params);
        (Self(CertifiedIssuer::signed_by(params, KeyPair::generate().unwrap(), &self.0).unwrap()), serial)
    }

    fn params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, name);
        params
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    pub(crate) fn der(&self) -> rustls::pki_types::CertificateDer<'static> {
        self.0.der().clone()
    }

    pub(crate) fn issue(&self, names: &[&str]) -> Issued {
        self.issue_with(names, KeyPair::generate().unwrap(), PLAIN)
    }

    pub(crate) fn issue_with(&self, names: &[&str], key: KeyPair, edit: Edit<'_>) -> Issued {
        let (uris, hosts): (Vec<&str>, Vec<&str>) = names.iter().copied().partition(|name| name.contains("://"));
        let hosts: Vec<String> = hosts.into_iter().map(str::to_owned).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        params.subject_alt_names.extend(uris.into_iter().map(|uri| rcgen::SanType::URI(uri.try_into().unwrap())));
        let now = OffsetDateTime::now_utc();
        (params.not_before, params.not_after) = (now - Duration::hours(1), now + Duration::days(90));
        params.distinguished_name.push(DnType::CommonName, "leaf");
        let serial = number(&mut params);
        edit(&mut params);
        let cert = params.signed_by(&key, &self.0).unwrap();
        Issued { cert, key, serial }
    }

    /// A revocation list, due for renewal in `due`.
    pub(crate) fn crl(&self, revoked: &[u64], due: Duration) -> String {
        let now = OffsetDateTime::now_utc();
        let params = CertificateRevocationListParams {
            this_update: now - Duration::days(30),
            next_update: now + due,
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked
                .iter()
                .map(|serial| RevokedCertParams {
                    serial_number: SerialNumber::from(*serial),
                    revocation_time: now - Duration::days(1),
                    reason_code: None,
                    invalidity_date: None,
                })
                .collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.0).unwrap().pem().unwrap()
    }
}

impl Issued {
    pub(crate) fn pem(&self) -> String {
        self.cert.pem()
    }

    pub(crate) fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }
}

/// Small numbers, so that DER needs no padding octet.
fn number(params: &mut CertificateParams) -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0x1000);
    let serial = NEXT.fetch_add(1, Ordering::Relaxed);
    params.serial_number = Some(SerialNumber::from(serial));
    serial
}
