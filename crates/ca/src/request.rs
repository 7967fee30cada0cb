//! A request for a workload's certificate (PKCS #10), of which only the key and the one name are taken.

use crate::CaError;
use portcullis_names::SpiffeId;
use rcgen::{CertificateSigningRequestParams, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SanType};

/// A request whose signature proves that its sender has the key.
#[derive(Debug)]
pub struct Request {
    pub id: SpiffeId,
    pub(crate) key: rcgen::PublicKey,
}

/// With an EC key it has some 500 octets.
const PEM_MAX_BYTES: usize = 16 << 10;

impl Request {
    pub fn read(pem: &str) -> Result<Self, CaError> {
        let wrong = |why: &str| CaError::Unreadable { what: "the request".to_owned(), why: why.to_owned() };
        if pem.len() > PEM_MAX_BYTES {
            return Err(wrong("it is larger than 16 KiB"));
        }
        let read = CertificateSigningRequestParams::from_pem(pem).map_err(|error| wrong(&error.to_string()))?;
        // RSA costs a sidecar more for each handshake than all the rest.
        let good = [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519];
        if !good.contains(&read.public_key.algorithm()) {
            return Err(wrong("its key is neither EC on P-256 or P-384 nor Ed25519"));
        }
        let [SanType::URI(uri)] = read.params.subject_alt_names.as_slice() else {
            return Err(wrong("it does not ask for exactly one name, a SPIFFE id"));
        };
        let id = uri.as_str().parse()?;
        Ok(Self { id, key: read.public_key })
    }
}

/// A key and the request for `id` that goes with it, both PEM: what a workload sends.
pub fn ask_for(id: &SpiffeId) -> Result<(String, String), CaError> {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(id.as_str().try_into()?)];
    let key = rcgen::KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    Ok((key.serialize_pem(), params.serialize_request(&key)?.pem()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_names_one_workload_and_proves_its_key() {
        let id: SpiffeId = "spiffe://corp/ns/a/sa/b".parse().unwrap();
        let (_, good) = ask_for(&id).unwrap();
        assert_eq!(Request::read(&good).unwrap().id, id);
        let with = |names: &[&str]| {
            let mut params = rcgen::CertificateParams::default();
            params.subject_alt_names = names.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
            params.serialize_request(&rcgen::KeyPair::generate().unwrap()).unwrap().pem().unwrap()
        };
        // The octets of one name under the signature of another.
        let forged = {
            let (body, other) = (with(&["spiffe://corp/ns/a/sa/c"]), good.clone());
            let (head, tail) = (body.lines().take(3), other.lines().skip(3));
            head.chain(tail).map(|line| format!("{line}\n")).collect::<String>()
        };
        for (pem, what) in [
            (with(&[]), "none"),
            (with(&["spiffe://corp/a", "spiffe://corp/b"]), "two"),
            (with(&["https://corp/a"]), "no id"),
            (forged, "forged"),
            ("junk".to_owned(), "junk"),
            (format!("{good}{}", " ".repeat(PEM_MAX_BYTES)), "long"),
        ] {
            assert!(Request::read(&pem).is_err(), "{what}");
        }
    }
}
