//! Whether a peer's certificate is an X.509-SVID of a trust domain that we know. The chain was verified by TLS; this is
//! the rest of the standard.

use portcullis_names::{SpiffeId, TrustDomain};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// Why a verified certificate names nobody.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAnSvid {
    #[error("the peer's certificate cannot be read")]
    Unreadable,
    #[error("the peer's certificate has {0} URI names, an X.509-SVID has exactly one")]
    UriNames(usize),
    #[error("the peer's name {0}")]
    Name(#[from] portcullis_names::ParseError),
    #[error("the peer's id {0} names a trust domain, not a workload")]
    NoPath(SpiffeId),
    #[error("the peer's certificate is an authority's or may sign certificates or lists")]
    Signer,
    #[error("the peer's trust domain {0} is not known here")]
    UnknownDomain(TrustDomain),
}

impl NotAnSvid {
    /// The label in metrics: a closed set.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::UriNames(_) => "uri_names",
            Self::Name(_) => "name",
            Self::NoPath(_) => "no_path",
            Self::Signer => "signer",
            Self::UnknownDomain(_) => "unknown_domain",
        }
    }
}

/// The id in a leaf, X.509-SVID §2 to §5. Anything odd is refused: a security check, so it fails closed.
pub fn svid_id(leaf: &[u8], known: &[TrustDomain]) -> Result<SpiffeId, NotAnSvid> {
    let (rest, leaf) = X509Certificate::from_der(leaf).map_err(|_| NotAnSvid::Unreadable)?;
    if !rest.is_empty() {
        return Err(NotAnSvid::Unreadable);
    }
    let names = leaf.subject_alternative_name().map_err(|_| NotAnSvid::Unreadable)?;
    let names = names.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
    let uris: Vec<_> =
        names.iter().filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None }).collect();
    let [uri] = uris.as_slice() else { return Err(NotAnSvid::UriNames(uris.len())) };
    // §5.2: a leaf is no authority and signs neither certificates nor lists.
    let usage = leaf.key_usage().map_err(|_| NotAnSvid::Unreadable)?;
    if leaf.is_ca() || usage.is_some_and(|usage| usage.value.key_cert_sign() || usage.value.crl_sign()) {
        return Err(NotAnSvid::Signer);
    }
    let id: SpiffeId = uri.parse()?;
    if id.path().is_empty() {
        return Err(NotAnSvid::NoPath(id));
    }
    if !known.iter().any(|domain| id.is_in(domain)) {
        return Err(NotAnSvid::UnknownDomain(id.trust_domain()));
    }
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, IsCa, KeyPair, KeyUsagePurpose, SanType};

    fn leaf(uris: &[&str], edit: impl Fn(&mut CertificateParams)) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
        params.subject_alt_names.push(SanType::DnsName("cart.example".try_into().unwrap()));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        edit(&mut params);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn only_a_leaf_with_one_uri_of_a_known_domain_is_somebody() {
        let known = ["corp".parse().unwrap(), "partner.example".parse().unwrap()];
        let judge =
            |uris: &[&str]| svid_id(&leaf(uris, |_| {}), &known).map(|id| id.to_string()).map_err(|why| why.as_str());
        for (uris, expected) in [
            (&["spiffe://corp/ns/a/sa/b"][..], Ok("spiffe://corp/ns/a/sa/b")),
            (&["spiffe://partner.example/x"], Ok("spiffe://partner.example/x")),
            (&[], Err("uri_names")),
            (&["spiffe://corp/a", "spiffe://corp/b"], Err("uri_names")),
            (&["spiffe://corp/a", "https://x.example/"], Err("uri_names")),
            (&["https://corp/a"], Err("name")),
            (&["spiffe://corp/a/../b"], Err("name")),
            (&["spiffe://corp"], Err("no_path")),
            (&["spiffe://other/ns/a/sa/b"], Err("unknown_domain")),
            (&["spiffe://corp.evil/ns/a/sa/b"], Err("unknown_domain")),
        ] {
            assert_eq!(judge(uris), expected.map(str::to_owned), "{uris:?}");
        }
        assert_eq!(svid_id(b"junk", &known), Err(NotAnSvid::Unreadable));
        let good = ["spiffe://corp/a"];
        let signs = leaf(&good, |params| params.key_usages.push(KeyUsagePurpose::CrlSign));
        let authority = leaf(&good, |params| params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained));
        for der in [signs, authority] {
            assert_eq!(svid_id(&der, &known), Err(NotAnSvid::Signer));
        }
    }
}
