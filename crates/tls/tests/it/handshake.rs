//! Two ends of a TLS connection in memory, and clients of every kind.

use crate::authority::{Authority, Issued};
use portcullis_tls::{ServerTls, provider};
use rustls::{
    CipherSuite, ClientConfig, ClientConnection, Connection, DigitallySignedStruct, Error, HandshakeKind, ServerConfig,
    ServerConnection, SignatureScheme, SupportedProtocolVersion,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};
use std::sync::{Arc, Mutex};

/// Both ends after a handshake, with tickets delivered.
pub(crate) struct Session {
    pub(crate) client: ClientConnection,
    pub(crate) server: ServerConnection,
}

/// Which end gave up first, and why.
#[derive(Debug)]
pub(crate) enum Failure {
    Client(Error),
    Server(Error),
}

impl Session {
    pub(crate) fn resumed(&self) -> bool {
        self.server.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    pub(crate) fn shows(&self, issued: &Issued) -> bool {
        self.client.peer_certificates().unwrap().first() == Some(issued.cert.der())
    }
}

pub(crate) fn shake(client: &Arc<ClientConfig>, server: &ServerTls, name: &str) -> Result<Session, Failure> {
    connect(client, server.config(), name)
}

pub(crate) fn connect(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>, name: &str) -> Result<Session, Failure> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = Connection::from(ClientConnection::new(client.clone(), name).map_err(Failure::Client)?);
    let mut server = Connection::from(ServerConnection::new(server.clone()).map_err(Failure::Server)?);
    while client.wants_write() || server.wants_write() {
        deliver(&mut client, &mut server).map_err(Failure::Server)?;
        deliver(&mut server, &mut client).map_err(Failure::Client)?;
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    let (Connection::Client(client), Connection::Server(server)) = (client, server) else { unreachable!() };
    Ok(Session { client, server })
}

fn deliver(from: &mut Connection, to: &mut Connection) -> Result<(), Error> {
    let mut wire = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut wire).unwrap();
    }
    let mut wire = wire.as_slice();
    while !wire.is_empty() {
        to.read_tls(&mut wire).unwrap();
        to.process_new_packets()?;
    }
    Ok(())
}

pub(crate) type Versions = &'static [&'static SupportedProtocolVersion];
pub(crate) static ONLY_12: Versions = &[&rustls::version::TLS12];
pub(crate) static ONLY_13: Versions = &[&rustls::version::TLS13];

/// What a test's client is like.
pub(crate) struct Client {
    pub(crate) versions: Versions,
    pub(crate) suites: Option<Vec<CipherSuite>>,
    pub(crate) schemes: Option<Vec<SignatureScheme>>,
    pub(crate) alpn: Vec<Vec<u8>>,
    pub(crate) sni: bool,
    pub(crate) shows: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
}

impl Default for Client {
    fn default() -> Self {
        Self { versions: rustls::ALL_VERSIONS, suites: None, schemes: None, alpn: Vec::new(), sni: true, shows: None }
    }
}

impl Client {
    pub(crate) fn with(issued: &Issued, issuers: &[&Authority]) -> Self {
        let issuers = issuers.iter().map(|authority| authority.der());
        let chain = std::iter::once(issued.cert.der().clone()).chain(issuers).collect();
        Self {
            shows: Some((chain, PrivateKeyDer::from_pem_slice(issued.key_pem().as_bytes()).unwrap())),
            ..Self::default()
        }
    }

    /// Trusting one authority; the OCSP responses that come are put into the second value.
    pub(crate) fn build(self, authority: &Authority) -> (Arc<ClientConfig>, Staples) {
        let mut provider = CryptoProvider::clone(&provider());
        if let Some(suites) = &self.suites {
            provider.cipher_suites.retain(|suite| suites.contains(&suite.suite()));
        }
        let mut roots = rustls::RootCertStore::empty();
        roots.add(authority.der()).unwrap();
        let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::new(provider.clone())).build();
        let staples = Staples::default();
        let verifier = Verifier { inner: inner.unwrap(), schemes: self.schemes, staples: staples.clone() };
        let builder = ClientConfig::builder_with_provider(Arc::new(provider)).with_protocol_versions(self.versions);
        let builder = builder.unwrap().dangerous().with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match self.shows {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => builder.with_client_auth_cert(chain, key).unwrap(),
        };
        config.alpn_protocols = self.alpn;
        config.enable_sni = self.sni;
        (Arc::new(config), staples)
    }
}

/// A plain client.
pub(crate) fn client(authority: &Authority) -> Arc<ClientConfig> {
    Client::default().build(authority).0
}

pub(crate) type Staples = Arc<Mutex<Vec<Vec<u8>>>>;

#[derive(Debug)]
struct Verifier {
    inner: Arc<WebPkiServerVerifier>,
    schemes: Option<Vec<SignatureScheme>>,
    staples: Staples,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.staples.lock().unwrap().push(ocsp.to_vec());
        match self.inner.verify_server_cert(leaf, chain, name, ocsp, now) {
            // Whether the name fits is for the tests to look at: a default certificate fits none.
            Err(Error::InvalidCertificate(rustls::CertificateError::NotValidForNameContext { .. })) => {
                Ok(ServerCertVerified::assertion())
            }
            judged => judged,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.clone().unwrap_or_else(|| self.inner.supported_verify_schemes())
    }
}
