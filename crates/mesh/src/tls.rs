//! rustls configurations of mTLS between sidecars. They read the identity in use at every handshake, so that a rotation
//! needs neither a new configuration nor a new connection.
//!
//! Sessions are never resumed: a resumed one would skip the check of a peer that was revoked or renamed since.

use crate::{OwnIdentity, PeerName, Svid, spiffe::svid_id};
use portcullis_names::SpiffeId;
use rustls::{
    CertificateError, CipherSuite, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, OtherError,
    ServerConfig, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{
        ClientHello, NoServerSessionStorage,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
    version::TLS13,
};
use std::{
    fmt,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

/// HTTP/2, HTTP/1 and streams of octets (h2 CONNECT), between sidecars.
pub const ALPN_H2: &[u8] = b"mesh-h2";
pub const ALPN_H1: &[u8] = b"mesh-h1";
pub const ALPN_TUNNEL: &[u8] = b"mesh-tunnel";
/// The same streams as ztunnel and Istio carry them (HBONE), on a port of their own: elsewhere it could be an application's.
pub const ALPN_HBONE: &[u8] = b"h2";

/// Why a peer's chain is not taken, where rustls has no word of its own for it.
#[derive(Debug, thiserror::Error)]
pub enum PeerRefused {
    #[error("this workload has no identity yet")]
    NoIdentity,
    #[error("this workload's own certificate is over, and no other has come")]
    Expired,
    #[error(transparent)]
    NotAnSvid(#[from] crate::NotAnSvid),
    #[error("the peer is {found}, and {wanted} was called")]
    OtherService { found: SpiffeId, wanted: Box<PeerName> },
}

impl PeerRefused {
    /// The label in metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::NoIdentity => "no_identity",
            Self::Expired => "identity_expired",
            Self::NotAnSvid(why) => why.as_str(),
            Self::OtherService { .. } => "other_service",
        }
    }
}

/// For what comes in: every peer shows who it is.
pub fn server_config(
    identity: &Arc<OwnIdentity>,
    alpn: &[&[u8]],
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<ServerConfig>, Error> {
    let own = Arc::new(Own { identity: identity.clone(), provider: provider.clone() });
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(&[&TLS13])?;
    let mut config = builder.with_client_cert_verifier(own.clone()).with_cert_resolver(own);
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config.max_early_data_size = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// Towards one service: only a peer that is it is talked to.
pub fn client_config(
    identity: &Arc<OwnIdentity>,
    wanted: &PeerName,
    alpn: &[u8],
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<ClientConfig>, Error> {
    let own = Arc::new(Own { identity: identity.clone(), provider: provider.clone() });
    let verifier = Arc::new(Wanted { own: own.clone(), wanted: wanted.clone() });
    let builder = ClientConfig::builder_with_provider(quickest_first(provider)).with_protocol_versions(&[&TLS13])?;
    let mut config = builder.dangerous().with_custom_certificate_verifier(verifier).with_client_cert_resolver(own);
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// All of an application's octets go by it, and processors do its ten rounds sooner than the fourteen of AES-256-GCM: AES-128-GCM, the suite
/// that everybody must have (RFC 8446 §9.1). Who serves takes the first that its caller names and it knows.
fn quickest_first(provider: &CryptoProvider) -> Arc<CryptoProvider> {
    let mut provider = provider.clone();
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    Arc::new(provider)
}

struct Own {
    identity: Arc<OwnIdentity>,
    provider: Arc<CryptoProvider>,
}

impl Own {
    /// What can be shown, and judged by, at this moment.
    fn svid(&self, now: UnixTime) -> Result<Arc<Svid>, Error> {
        self.identity.at(UNIX_EPOCH + Duration::from_secs(now.as_secs())).map_err(refused)
    }

    /// rustls tells resolvers no time.
    fn shown(&self) -> Option<Arc<CertifiedKey>> {
        self.svid(UnixTime::now()).ok().map(|svid| svid.key().clone())
    }

    /// The rest of the standard, once the chain is verified.
    fn peer(svid: &Svid, leaf: &CertificateDer<'_>) -> Result<SpiffeId, Error> {
        svid_id(leaf, &[svid.id().trust_domain()]).map_err(|why| refused(why.into()))
    }
}

fn refused(why: PeerRefused) -> Error {
    CertificateError::Other(OtherError(Arc::new(why))).into()
}

/// What a failed handshake's error says in our words: `None` where rustls has its own.
pub fn peer_refused(error: &Error) -> Option<&PeerRefused> {
    match error {
        Error::InvalidCertificate(CertificateError::Other(OtherError(why))) => why.downcast_ref(),
        _ => None,
    }
}

impl rustls::server::ResolvesServerCert for Own {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.shown()
    }
}

impl rustls::client::ResolvesClientCert for Own {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.shown()
    }

    fn has_certs(&self) -> bool {
        self.shown().is_some()
    }
}

impl ClientCertVerifier for Own {
    /// No hints: a sidecar has one identity to show.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let svid = self.svid(now)?;
        let verified = svid.chains().client(leaf, chain, now)?;
        Self::peer(&svid, leaf)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

struct Wanted {
    own: Arc<Own>,
    wanted: PeerName,
}

impl ServerCertVerifier for Wanted {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let svid = self.own.svid(now)?;
        svid.chains().server(leaf, chain, name, now)?;
        let found = Own::peer(&svid, leaf)?;
        if !self.wanted.is(&found) {
            return Err(refused(PeerRefused::OtherService { found, wanted: Box::new(self.wanted.clone()) }));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        ClientCertVerifier::verify_tls12_signature(&*self.own, message, cert, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        ClientCertVerifier::verify_tls13_signature(&*self.own, message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.own.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl fmt::Debug for Own {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Own").field("identity", &self.identity.id()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wanted").field("wanted", &self.wanted).finish_non_exhaustive()
    }
}
