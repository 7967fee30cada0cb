//! The TLS side of a listener.

use crate::{
    Certificate, Certificates, Trusts,
    client_policy::{ClientPolicy, PolicyDigest},
    provider,
    resolver::BySni,
    tickets::{self, ClientTickets},
};
use portcullis_config::{Context, Path};
use portcullis_names::SanPattern;
use rustls::{
    ServerConfig, SupportedCipherSuite, SupportedProtocolVersion,
    crypto::CryptoProvider,
    pki_types::UnixTime,
    server::{NoServerSessionStorage, ProducesTickets},
    version::{TLS12, TLS13},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{fmt, sync::Arc};

/// `[listener.X] tls = { … }`.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListenerTlsSpec {
    /// Default 1.2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_version: Option<TlsVersion>,
    /// Cipher suites by IANA name, in any order. Default: all that are safe.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ciphers: Option<Vec<String>>,
    /// Default off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_auth: Option<ClientAuth>,
    /// Whose client certificates count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trust: Option<String>,
    /// Names of which a client certificate must carry one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub san: Option<Vec<SanPattern>>,
    /// Session tickets. Default on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tickets: Option<Tickets>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize, JsonSchema)]
pub enum TlsVersion {
    #[serde(rename = "1.2")]
    Tls12,
    #[serde(rename = "1.3")]
    Tls13,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ClientAuth {
    Off,
    /// A client may come without a certificate, but not with a bad one.
    Optional,
    Required,
}

/// Whether a client can resume a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Tickets {
    On,
    Off,
}

/// What is offered by ALPN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alpn {
    H1,
    H2,
    Both,
    /// DNS over TLS, and over HTTPS.
    Dns,
}

/// A compiled configuration, with what a reload needs to carry sessions over.
#[derive(Clone)]
pub struct ServerTls {
    config: Arc<ServerConfig>,
    tickets: Option<Arc<dyn ProducesTickets>>,
    policy: PolicyDigest,
    certificates: Vec<Arc<Certificate>>,
}

/// A browser opens a few connections at once, each wants its own ticket (RFC 8446 §C.4).
const TICKETS_PER_HANDSHAKE: usize = 2;

impl ServerTls {
    /// `names`: the listener's certificates, first one default; the caller reports names that are not declared, as it
    /// knows where they stand. `previous`: of the same listener, before a reload.
    #[expect(clippy::too_many_arguments, reason = "each is one independent input of the compilation")]
    pub fn compile(
        spec: &ListenerTlsSpec,
        names: &[String],
        alpn: Alpn,
        certificates: &Certificates,
        trusts: &Trusts,
        previous: Option<&Self>,
        at: &Path,
        cx: &mut Context,
    ) -> Option<Self> {
        let versions = match spec.min_version.unwrap_or(TlsVersion::Tls12) {
            TlsVersion::Tls12 => &[&TLS13, &TLS12][..],
            TlsVersion::Tls13 => &[&TLS13][..],
        };
        let suites = cipher_suites(spec, versions, at, cx);
        let policy = ClientPolicy::compile(spec, trusts, &provider(), at, cx);
        // One that is missing has its error in the report; with the rest alone this listener would serve wrong ones.
        let chosen = names.iter().map(|name| certificates.get(name).cloned()).collect::<Option<Vec<_>>>();
        let (cipher_suites, policy, chosen) = (suites?, policy?, chosen?);
        if chosen.is_empty() {
            cx.error_at_key(at, "TLS needs a certificate");
            return None;
        }
        let provider = Arc::new(CryptoProvider { cipher_suites, ..(*provider()).clone() });
        let builder = match ServerConfig::builder_with_provider(provider).with_protocol_versions(versions) {
            Ok(builder) => builder,
            Err(error) => {
                cx.error_at_key(at, format!("TLS cannot be spoken like this: {error}"));
                return None;
            }
        };
        let builder = match policy.verifier {
            Some(verifier) => builder.with_client_cert_verifier(verifier),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::new(BySni::new(&chosen)));
        config.alpn_protocols = alpn.protocols();
        // What 0-RTT carries can be replayed by anybody on the way (RFC 8446 §8).
        config.max_early_data_size = 0;
        // Tickets are the clients' memory; a cache of ours would be one more thing to fill up.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        let tickets = match spec.tickets.unwrap_or(Tickets::On) {
            Tickets::On => Some(ticket_keys(previous, policy.digest, at, cx)?),
            Tickets::Off => None,
        };
        if let Some(tickets) = &tickets {
            config.ticketer = tickets.clone();
            config.send_tls13_tickets = TICKETS_PER_HANDSHAKE;
        }
        Some(Self { config: Arc::new(config), tickets, policy: policy.digest, certificates: chosen })
    }

    pub fn config(&self) -> &Arc<ServerConfig> {
        &self.config
    }

    pub fn certificates(&self) -> &[Arc<Certificate>] {
        &self.certificates
    }
}

impl Alpn {
    pub(crate) fn protocols(self) -> Vec<Vec<u8>> {
        match self {
            Self::H1 => vec![b"http/1.1".to_vec()],
            Self::H2 => vec![b"h2".to_vec()],
            Self::Both => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            Self::Dns => vec![b"dot".to_vec(), b"h2".to_vec(), b"http/1.1".to_vec()],
        }
    }
}

/// A resumed session skips the check of the client's certificate, so a ticket must not outlive the policy that issued it
/// nor be taken by another listener: keys are carried over a reload only while the policy is the same, and never shared.
fn ticket_keys(
    previous: Option<&ServerTls>,
    policy: PolicyDigest,
    at: &Path,
    cx: &mut Context,
) -> Option<Arc<dyn ProducesTickets>> {
    let same = previous.filter(|previous| previous.policy == policy);
    if let Some(kept) = same.and_then(|previous| previous.tickets.clone()) {
        return Some(kept);
    }
    let made: Result<Arc<dyn ProducesTickets>, _> = match policy {
        PolicyDigest::Anybody => tickets::anonymous(),
        PolicyDigest::Checked(_) => ClientTickets::new(UnixTime::now()).map(|tickets| Arc::new(tickets) as _),
    };
    match made {
        Ok(tickets) => Some(tickets),
        Err(error) => {
            cx.error_at_key(at, format!("no random numbers for ticket keys: {error}"));
            None
        }
    }
}

fn cipher_suites(
    spec: &ListenerTlsSpec,
    versions: &[&'static SupportedProtocolVersion],
    at: &Path,
    cx: &mut Context,
) -> Option<Vec<SupportedCipherSuite>> {
    let all = provider().cipher_suites.clone();
    let Some(wanted) = &spec.ciphers else { return Some(all) };
    let at = at.key("ciphers");
    // rustls has a prefix of its own for what IANA calls TLS_AES_….
    let name = |suite: &SupportedCipherSuite| suite.suite().as_str().unwrap_or_default().replace("TLS13_", "TLS_");
    let known: Vec<String> = all.iter().map(name).collect();
    let mut whole = true;
    for (index, cipher) in wanted.iter().enumerate() {
        match all.iter().find(|suite| name(suite) == *cipher) {
            None => {
                cx.undefined(&at.index(index), "cipher suite", cipher, known.iter().map(String::as_str));
                whole = false;
            }
            Some(suite) if !versions.contains(&suite.version()) => {
                cx.warning(&at.index(index), format!("{cipher} is never used: `min_version` leaves out its version"));
            }
            Some(_) => {}
        }
    }
    let chosen: Vec<_> = all.into_iter().filter(|suite| wanted.contains(&name(suite))).collect();
    if whole && !chosen.iter().any(|suite| versions.contains(&suite.version())) {
        cx.error(&at, "no cipher suite is left that the allowed TLS versions could use");
        return None;
    }
    whole.then_some(chosen)
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.certificates.iter().map(|certificate| &certificate.name).collect();
        f.debug_struct("ServerTls").field("certificates", &names).finish_non_exhaustive()
    }
}
