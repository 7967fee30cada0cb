//! Certificates and identities: load, choose by SNI, verify peers. No sockets: this crate makes rustls configurations.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod certificate;
mod client;
mod identity;
mod provider;
mod resolver;
mod san_verifier;
mod server;
mod trust;

pub use certificate::{Certificate, CertificateSpec, Certificates, FileSpec};
pub use client::{UpstreamTls, UpstreamTlsMode, UpstreamTlsSpec};
pub use identity::PeerIdentity;
pub use provider::{install_provider, provider};
pub use server::{Alpn, ClientAuth, ListenerTlsSpec, ServerTls, TlsVersion};
pub use trust::{Trust, TrustSpec, Trusts};
