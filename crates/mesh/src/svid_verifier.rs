//! Judges peers in a handshake, both ways: the chain by all roots that are believed, each certificate of it by the
//! revocation lists, then the rules of X.509-SVID. Opens nothing, and knows no host names: a sidecar's peer is its id.

use crate::{Svid, SvidError, spiffe::svid_id};
use portcullis_names::{SpiffeId, TrustDomain};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, CertificateRevocationListDer, ServerName, UnixTime},
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use std::sync::Arc;

/// Whether chains are believed, of clients and of servers alike: by all roots, and by the revocation lists. Made once for each
/// identity.
#[derive(Debug, Clone)]
pub(crate) struct Chains {
    clients: Arc<dyn ClientCertVerifier>,
    servers: Arc<WebPkiServerVerifier>,
}

/// One judgement for clients and servers. Made anew with each identity: it never changes.
#[derive(Debug)]
pub struct SvidVerifier {
    chains: Chains,
    known: Vec<TrustDomain>,
    expected: Option<Vec<SpiffeId>>,
    nobodies: Nobodies,
}

/// Whether a client may come without a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Nobodies {
    Refused,
    LetIn,
}

impl Chains {
    pub(crate) fn new(
        roots: &[CertificateDer<'static>],
        revoked: &[CertificateRevocationListDer<'static>],
    ) -> Result<Self, SvidError> {
        let wrong = |what: &str, why: &dyn std::fmt::Display| SvidError::Trust(format!("{what}: {why}"));
        let mut store = RootCertStore::empty();
        for root in roots {
            store.add(root.clone()).map_err(|error| wrong("a root", &error))?;
        }
        let (store, provider) = (Arc::new(store), Arc::new(aws_lc_rs::default_provider()));
        let mut clients = WebPkiClientVerifier::builder_with_provider(store.clone(), provider.clone());
        let mut servers = WebPkiServerVerifier::builder_with_provider(store, provider);
        if !revoked.is_empty() {
            // An issuer without a list revokes nothing. A list past its date still revokes what it names: to refuse
            // everybody because an authority is late would be an outage, and lives are short.
            clients = clients.with_crls(revoked.iter().cloned()).allow_unknown_revocation_status();
            servers = servers.with_crls(revoked.iter().cloned()).allow_unknown_revocation_status();
        }
        Ok(Self {
            clients: clients.build().map_err(|error| wrong("roots or revocation lists", &error))?,
            servers: servers.build().map_err(|error| wrong("roots or revocation lists", &error))?,
        })
    }

    pub(crate) fn client(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.clients.verify_client_cert(leaf, chain, now)
    }

    /// The name that was dialled plays no part: an X.509-SVID is known by its id alone (SPIFFE X509-SVID §5.2).
    pub(crate) fn server(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), Error> {
        // rustls checks the name last: an error about it says that chain, time and revocation are right.
        match self.servers.verify_server_cert(leaf, chain, name, &[], now) {
            Ok(_)
            | Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl SvidVerifier {
    /// What this identity believes.
    pub fn of(svid: &Svid) -> Self {
        Self::judging(svid.chains().clone(), svid.id().trust_domain())
    }

    /// Whoever has one of `roots` above it, is in none of the lists `revoked`, and is of `domain`.
    pub fn new(
        roots: &[CertificateDer<'static>],
        revoked: &[CertificateRevocationListDer<'static>],
        domain: TrustDomain,
    ) -> Result<Self, SvidError> {
        Ok(Self::judging(Chains::new(roots, revoked)?, domain))
    }

    fn judging(chains: Chains, domain: TrustDomain) -> Self {
        Self { chains, known: vec![domain], expected: None, nobodies: Nobodies::Refused }
    }

    /// Nobody but these.
    pub fn expecting(self, ids: Vec<SpiffeId>) -> Self {
        Self { expected: Some(ids), ..self }
    }

    /// Clients without a certificate as well; one that shows one is judged all the same.
    pub fn letting_in_nobodies(self) -> Self {
        Self { nobodies: Nobodies::LetIn, ..self }
    }

    fn admits(&self, leaf: &CertificateDer<'_>) -> Result<(), Error> {
        let id = svid_id(leaf, &self.known).map_err(|error| {
            tracing::debug!(%error, "a peer is refused");
            // access_denied, RFC 8446 §6.2: a valid certificate, but not one of somebody.
            Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)
        })?;
        if self.expected.as_ref().is_some_and(|expected| !expected.contains(&id)) {
            tracing::debug!(%id, "a peer is refused: it is somebody else than expected");
            return Err(CertificateError::NotValidForName.into());
        }
        Ok(())
    }
}

impl ClientCertVerifier for SvidVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.nobodies == Nobodies::Refused
    }

    /// Roots of a mesh are nobody's business, and clients have one certificate to offer.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chains.client(leaf, chain, now)?;
        self.admits(leaf)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.clients.verify_tls12_signature(message, cert, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.clients.verify_tls13_signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.clients.supported_verify_schemes()
    }
}

impl ServerCertVerifier for SvidVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.chains.server(leaf, chain, name, now)?;
        self.admits(leaf)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.servers.verify_tls12_signature(message, cert, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.servers.verify_tls13_signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.servers.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{SvidPem, sample::Root};
    use std::time::{Duration, SystemTime};

    const OWN: &str = "spiffe://corp/ns/pay/sa/api";
    const PEER: &str = "spiffe://corp/ns/pay/sa/cart";
    const NOW: u64 = 1_800_000_100;

    /// Whether a peer is let in as a client and as a server: both answers must be the same one.
    fn judge(verifier: &SvidVerifier, pem: &str) -> Result<(), String> {
        use rustls::pki_types::pem::PemObject;
        let chain: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes()).map(Result::unwrap).collect();
        let (leaf, issuers) = chain.split_first().unwrap();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(NOW));
        let name = ServerName::try_from("10.0.0.1").unwrap();
        let client = verifier.verify_client_cert(leaf, issuers, now).map(drop).map_err(|error| error.to_string());
        let server =
            verifier.verify_server_cert(leaf, issuers, &name, &[], now).map(drop).map_err(|error| error.to_string());
        assert_eq!(client, server);
        client
    }

    fn identity(root: &Root, bundle: &str, revoked: Option<&str>) -> Svid {
        let (chain, key) = root.leaf(OWN, 1);
        let pem = SvidPem {
            chain: chain.as_bytes(),
            key: key.as_bytes(),
            bundle: bundle.as_bytes(),
            revoked: revoked.map(str::as_bytes),
        };
        Svid::from_pem(pem, &OWN.parse().unwrap(), SystemTime::UNIX_EPOCH + Duration::from_secs(NOW)).unwrap()
    }

    #[test]
    fn while_one_root_follows_another_both_sides_believe_both() {
        let (old, new) = (Root::new("old"), Root::new("new"));
        let both = new.pem() + &old.pem();
        let (of_old, of_new) = (old.leaf(PEER, 2).0, new.leaf(PEER, 3).0);
        // The way of a roll-over: the bundle grows, leaves change root, the bundle shrinks.
        for (own, bundle, believes_old, believes_new) in [
            (&old, &old.pem(), true, false),
            (&old, &both, true, true),
            (&new, &both, true, true),
            (&new, &new.pem(), false, true),
        ] {
            let verifier = SvidVerifier::of(&identity(own, bundle, None));
            assert_eq!(judge(&verifier, &of_old).is_ok(), believes_old);
            assert_eq!(judge(&verifier, &of_new).is_ok(), believes_new);
        }
    }

    #[test]
    fn a_revoked_peer_is_refused_by_each_roots_own_list() {
        let (old, new) = (Root::new("old"), Root::new("new"));
        let both = old.pem() + &new.pem();
        let lists = old.revoking(&[7]) + &new.revoking(&[8]);
        let verifier = SvidVerifier::of(&identity(&old, &both, Some(&lists)));
        for (root, serial, expected) in [(&old, 7, false), (&new, 7, true), (&old, 8, true), (&new, 8, false)] {
            let judged = judge(&verifier, &root.leaf(PEER, serial).0);
            assert_eq!(judged.is_ok(), expected, "{serial} {judged:?}");
            assert!(expected || judged.unwrap_err().contains("Revoked"));
        }
        // A root without a list revokes nothing.
        let of_old = old.revoking(&[7]);
        let verifier = SvidVerifier::of(&identity(&old, &both, Some(&of_old)));
        assert!(judge(&verifier, &new.leaf(PEER, 8).0).is_ok());
        // The list took back the own leaf: never in use.
        let own = old.leaf(OWN, 9);
        let list = old.revoking(&[9]);
        let pem = SvidPem {
            chain: own.0.as_bytes(),
            key: own.1.as_bytes(),
            bundle: both.as_bytes(),
            revoked: Some(list.as_bytes()),
        };
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW);
        assert!(Svid::from_pem(pem, &OWN.parse().unwrap(), now).unwrap_err().to_string().contains("Revoked"));
    }

    #[test]
    fn who_is_nobody_or_somebody_else_is_refused_though_the_chain_is_good() {
        let root = Root::new("own");
        let own = identity(&root, &root.pem(), None);
        let verifier = SvidVerifier::of(&own);
        for (id, good) in [(PEER, true), ("spiffe://other/ns/pay/sa/cart", false), ("https://corp/x", false)] {
            assert_eq!(judge(&verifier, &root.leaf(id, 2).0).is_ok(), good, "{id}");
        }
        let only_cart = SvidVerifier::of(&own).expecting(vec![PEER.parse().unwrap()]);
        assert!(judge(&only_cart, &root.leaf(PEER, 2).0).is_ok());
        assert!(judge(&only_cart, &root.leaf(OWN, 2).0).is_err());
        assert!(matches!(SvidVerifier::new(&[], &[], "corp".parse().unwrap()), Err(SvidError::Trust(_))));
    }
}
