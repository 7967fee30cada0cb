//! Tests only: compiling a piece of configuration.

use portcullis_config::{Context, Path};
use serde::de::DeserializeOwned;

/// What `compile` makes of `text`, and the problems it reports.
pub(crate) fn problems<S: DeserializeOwned, T>(
    text: &str,
    compile: impl FnOnce(&S, &Path, &mut Context) -> T,
) -> (T, Vec<String>) {
    let spec: S = toml::from_str(text).unwrap();
    let mut cx = Context::default();
    let made = compile(&spec, &Path::root(), &mut cx);
    let (report, _) = cx.finish();
    (made, report.problems().iter().map(|problem| format!("{}: {}", problem.path, problem.message)).collect())
}

/// A root of a mesh for tests.
pub(crate) struct Root(rcgen::CertifiedIssuer<'static, rcgen::KeyPair>);

/// When the leaves of tests begin.
pub(crate) const START: u64 = 1_800_000_000;

impl Root {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        Self(rcgen::CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// Chain and key, valid from START for a thousand seconds.
    pub(crate) fn leaf(&self, id: &str, serial: u64) -> (String, String) {
        self.leaf_from(id, serial, 0)
    }

    pub(crate) fn leaf_from(&self, id: &str, serial: u64, from: u64) -> (String, String) {
        self.leaf_between(id, serial, from, from + 1000)
    }

    pub(crate) fn leaf_between(&self, id: &str, serial: u64, from: u64, until: u64) -> (String, String) {
        let mut params = rcgen::CertificateParams::default();
        params.subject_alt_names = vec![rcgen::SanType::URI(id.try_into().unwrap())];
        params.extended_key_usages =
            vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth, rcgen::ExtendedKeyUsagePurpose::ServerAuth];
        params.serial_number = Some(serial.into());
        params.use_authority_key_identifier_extension = true;
        (params.not_before, params.not_after) = (moment(from), moment(until));
        let key = rcgen::KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }

    /// A list, PEM.
    pub(crate) fn revoking(&self, serials: &[u64]) -> String {
        let revoked = serials.iter().map(|serial| rcgen::RevokedCertParams {
            serial_number: (*serial).into(),
            revocation_time: moment(0),
            reason_code: None,
            invalidity_date: None,
        });
        let params = rcgen::CertificateRevocationListParams {
            this_update: moment(0),
            next_update: moment(1000),
            crl_number: 1_u64.into(),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        params.signed_by(&self.0).unwrap().pem().unwrap()
    }
}

fn moment(seconds: u64) -> time::OffsetDateTime {
    time::OffsetDateTime::from_unix_timestamp(i64::try_from(START + seconds).unwrap()).unwrap()
}
