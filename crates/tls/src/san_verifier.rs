//! Narrows what rustls' own verifiers accept to certificates that carry one of the configured names.

use crate::{PeerIdentity, provider};
use portcullis_names::{HostPattern, SanPattern};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::{verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{
        ParsedCertificate,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use std::sync::Arc;

/// Clients: first the inner verifier's judgement, then the names.
#[derive(Debug)]
pub(crate) struct NamedClients {
    pub(crate) inner: Arc<dyn ClientCertVerifier>,
    pub(crate) names: Vec<SanPattern>,
}

/// Upstreams: the names stand in for the host name.
#[derive(Debug)]
pub(crate) struct NamedServers {
    pub(crate) inner: Arc<dyn ServerCertVerifier>,
    pub(crate) names: Vec<SanPattern>,
}

/// No check of whose certificate it is. Spelt out in the configuration, warned about at every load.
#[derive(Debug)]
pub(crate) struct AnyServer;

impl NamedClients {
    fn admits(&self, leaf: &CertificateDer<'_>) -> Result<(), Error> {
        // Unreadable names are no names: fail closed.
        let identity = PeerIdentity::from_leaf(leaf).ok_or(CertificateError::BadEncoding)?;
        if self.names.iter().any(|name| is_named(&identity, name)) {
            return Ok(());
        }
        // The alert is access_denied: "a valid certificate was received, but …" (RFC 8446 §6.2).
        Err(CertificateError::ApplicationVerificationFailure.into())
    }
}

impl NamedServers {
    fn admits(&self, leaf: &CertificateDer<'_>) -> Result<(), Error> {
        let identity = PeerIdentity::from_leaf(leaf).ok_or(CertificateError::BadEncoding)?;
        let parsed = ParsedCertificate::try_from(leaf)?;
        let fits = |name: &SanPattern| is_named(&identity, name) || serves(&parsed, name);
        if self.names.iter().any(fits) { Ok(()) } else { Err(CertificateError::NotValidForName.into()) }
    }
}

/// A wildcard in the certificate is itself a name here, not a promise of many: nobody *is* `*.example.com`.
fn is_named(identity: &PeerIdentity, name: &SanPattern) -> bool {
    match name {
        SanPattern::UriExact(_) | SanPattern::UriBelow(_) => identity.uris.iter().any(|uri| name.matches_uri(uri)),
        SanPattern::Dns(pattern) => {
            let is_covered = |dns: &String| dns.parse::<HostPattern>().is_ok_and(|dns| pattern.covers(&dns));
            identity.dns.iter().any(is_covered) || is_address(identity, pattern)
        }
    }
}

/// Addresses are compared whole; `*.0.0.1` is a suffix of names, never of addresses.
fn is_address(identity: &PeerIdentity, pattern: &HostPattern) -> bool {
    let HostPattern::Exact(host) = pattern else { return false };
    let text = host.trim_start_matches('[').trim_end_matches(']');
    text.parse().is_ok_and(|address| identity.ips.contains(&address))
}

/// Whether the certificate is good for a server of this very name, by wildcard too (RFC 9525 §6.3).
fn serves(leaf: &ParsedCertificate<'_>, name: &SanPattern) -> bool {
    let SanPattern::Dns(HostPattern::Exact(host)) = name else { return false };
    ServerName::try_from(host.as_str()).is_ok_and(|host| verify_server_name(leaf, &host).is_ok())
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
        self.admits(leaf)?;
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

impl ServerCertVerifier for NamedServers {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        // Chain, time and revocation are judged as ever. rustls checks the name last, so an error about the name says that
        // all else was right; tests with each other fault and a foreign name hold it to that.
        match self.inner.verify_server_cert(leaf, chain, name, ocsp, now) {
            Ok(_)
            | Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => {}
            Err(error) => return Err(error),
        }
        self.admits(leaf)?;
        Ok(ServerCertVerified::assertion())
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

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, signed, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signed, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
