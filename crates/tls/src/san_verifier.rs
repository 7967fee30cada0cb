//! Narrows what rustls' own verifiers accept to certificates that carry one of the configured names.

use crate::PeerIdentity;
use portcullis_names::SanPattern;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use std::sync::Arc;

/// First the inner verifier's judgement, then the names.
#[derive(Debug)]
pub(crate) struct NamedClients {
    pub(crate) inner: Arc<dyn ClientCertVerifier>,
    pub(crate) names: Vec<SanPattern>,
}

#[derive(Debug)]
pub(crate) struct NamedServers {
    pub(crate) inner: Arc<dyn ServerCertVerifier>,
    pub(crate) names: Vec<SanPattern>,
}

/// No check at all. Spelt out in the configuration, warned about at every load.
#[derive(Debug)]
pub(crate) struct AnyServer(pub(crate) Arc<dyn ServerCertVerifier>);

fn carries(names: &[SanPattern], leaf: &CertificateDer<'_>) -> Result<(), Error> {
    // Unreadable names are no names: fail closed.
    let identity = PeerIdentity::from_chain(std::slice::from_ref(leaf)).ok_or(CertificateError::BadEncoding)?;
    let fits = names.iter().any(|name| {
        identity.uris.iter().any(|uri| name.matches_uri(uri)) || identity.dns.iter().any(|dns| name.matches_dns(dns))
    });
    if fits { Ok(()) } else { Err(CertificateError::NotValidForName.into()) }
}

impl ClientCertVerifier for NamedClients {
    fn offer_client_auth(&self) -> bool {
        self.inner.offer_client_auth()
    }
    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }
    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.inner.verify_client_cert(leaf, chain, now)?;
        carries(&self.names, leaf)?;
        Ok(verified)
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
        self.inner.supported_verify_schemes()
    }
}

macro_rules! server_signatures {
    ($inner:ident => $field:expr) => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            let $inner = self;
            $field.verify_tls12_signature(message, cert, signed)
        }
        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            let $inner = self;
            $field.verify_tls13_signature(message, cert, signed)
        }
        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            let $inner = self;
            $field.supported_verify_schemes()
        }
    };
}

impl ServerCertVerifier for NamedServers {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        // The configured names stand in for the host name; chain, time and revocation are judged as ever. webpki checks
        // the name last, so an error about the name says that all else was right.
        match self.inner.verify_server_cert(leaf, chain, name, ocsp, now) {
            Ok(_)
            | Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => {}
            Err(error) => return Err(error),
        }
        carries(&self.names, leaf)?;
        Ok(ServerCertVerified::assertion())
    }
    server_signatures!(this => this.inner);
}

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }
    server_signatures!(this => this.0);
}
