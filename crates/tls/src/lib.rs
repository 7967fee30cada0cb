//! Certificates and identities: load, choose by SNI, verify peers. No sockets: this crate makes rustls configurations.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod age;
mod certificate;
mod certificates;
mod chain;
mod client;
mod client_policy;
mod identity;
mod inspection;
mod ocsp;
mod provider;
mod resolver;
mod san_verifier;
mod server;
mod system;
mod tickets;
mod trust;

pub use certificate::{Certificate, CertificateSpec, FileSpec, KeyKind};
pub use certificates::Certificates;
pub use client::{UpstreamTls, UpstreamTlsMode, UpstreamTlsSpec};
pub use identity::PeerIdentity;
pub use inspection::{Inspection, InspectionSpec};
pub use provider::{install_provider, provider};
pub use server::{Alpn, ClientAuth, ListenerTlsSpec, ServerTls, Tickets, TlsVersion};
pub use system::system_client;
pub use trust::{Trust, TrustSpec, Trusts};
