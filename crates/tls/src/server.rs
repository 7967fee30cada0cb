//! The TLS side of a listener.

use crate::{Certificate, Certificates, Trusts, provider, resolver::BySni, san_verifier::NamedClients};
use portcullis_config::{Context, Path};
use portcullis_names::SanPattern;
use rustls::{
    ServerConfig, SupportedCipherSuite,
    crypto::{CryptoProvider, aws_lc_rs},
    server::{NoServerSessionStorage, ProducesTickets, WebPkiClientVerifier, danger::ClientCertVerifier},
    version::{TLS12, TLS13},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
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
    /// Session tickets (default true).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tickets: Option<bool>,
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
    Optional,
    Required,
}

/// HTTP versions offered by ALPN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alpn {
    H1,
    H2,
    Both,
}

/// A compiled configuration, with what a reload needs to carry sessions over.
#[derive(Clone)]
pub struct ServerTls {
    config: Arc<ServerConfig>,
    tickets: Option<Arc<dyn ProducesTickets>>,
    /// Over everything that decides about clients.
    policy: [u8; 32],
    certificates: Vec<Arc<Certificate>>,
}

impl ServerTls {
    /// `names`: the listener's certificates, first one default.
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
        let chosen: Vec<_> = names.iter().filter_map(|name| certificates.get(name).cloned()).collect();
        let versions = match spec.min_version.unwrap_or(TlsVersion::Tls12) {
            TlsVersion::Tls12 => &[&TLS13, &TLS12][..],
            TlsVersion::Tls13 => &[&TLS13][..],
        };
        let provider =
            Arc::new(CryptoProvider { cipher_suites: cipher_suites(spec, at, cx)?, ..(*provider()).clone() });
        let (verifier, policy) = client_verifier(spec, trusts, &provider, at, cx)?;
        if chosen.is_empty() {
            return None;
        }
        let builder = match ServerConfig::builder_with_provider(provider).with_protocol_versions(versions) {
            Ok(builder) => builder,
            Err(error) => {
                cx.error(&at.key("ciphers"), format!("no cipher suite is left for the versions: {error}"));
                return None;
            }
        };
        let builder = match verifier {
            Some(verifier) => builder.with_client_cert_verifier(verifier),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::new(BySni::new(&chosen)));
        config.alpn_protocols = match alpn {
            Alpn::H1 => vec![b"http/1.1".to_vec()],
            Alpn::H2 => vec![b"h2".to_vec()],
            Alpn::Both => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        };
        // Tickets are the clients' memory; a cache of ours would be one more thing to fill up.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        let tickets = if spec.tickets.unwrap_or(true) { tickets(previous, policy, at, cx) } else { None };
        match &tickets {
            Some(tickets) => {
                config.ticketer = tickets.clone();
                config.send_tls13_tickets = 2;
            }
            None => config.send_tls13_tickets = 0,
        }
        Some(Self { config: Arc::new(config), tickets, policy, certificates: chosen })
    }

    pub fn config(&self) -> &Arc<ServerConfig> {
        &self.config
    }

    pub fn certificates(&self) -> &[Arc<Certificate>] {
        &self.certificates
    }
}

/// A resumed session skips the check of the client's certificate, so a ticket must not outlive the policy that issued it
/// nor be taken by another listener: keys are carried over a reload only while the policy is the same, and never shared.
/// rustls' own ticketer rotates its keys every six hours.
fn tickets(
    previous: Option<&ServerTls>,
    policy: [u8; 32],
    at: &Path,
    cx: &mut Context,
) -> Option<Arc<dyn ProducesTickets>> {
    if let Some(kept) =
        previous.filter(|previous| previous.policy == policy).and_then(|previous| previous.tickets.clone())
    {
        return Some(kept);
    }
    match aws_lc_rs::Ticketer::new() {
        Ok(ticketer) => Some(ticketer),
        Err(error) => {
            cx.error(at, format!("no random numbers for ticket keys: {error}"));
            None
        }
    }
}

fn cipher_suites(spec: &ListenerTlsSpec, at: &Path, cx: &mut Context) -> Option<Vec<SupportedCipherSuite>> {
    let all = provider().cipher_suites.clone();
    let Some(wanted) = &spec.ciphers else { return Some(all) };
    let name = |suite: &SupportedCipherSuite| suite.suite().as_str().unwrap_or_default().replace("TLS13_", "TLS_");
    let known: Vec<String> = all.iter().map(name).collect();
    let mut whole = true;
    for (index, cipher) in wanted.iter().enumerate() {
        if !known.contains(cipher) {
            cx.undefined(&at.key("ciphers").index(index), "cipher suite", cipher, known.iter().map(String::as_str));
            whole = false;
        }
    }
    whole.then(|| all.into_iter().filter(|suite| wanted.contains(&name(suite))).collect())
}

type Verifier = Option<Arc<dyn ClientCertVerifier>>;

fn client_verifier(
    spec: &ListenerTlsSpec,
    trusts: &Trusts,
    provider: &Arc<CryptoProvider>,
    at: &Path,
    cx: &mut Context,
) -> Option<(Verifier, [u8; 32])> {
    let mode = spec.client_auth.unwrap_or(ClientAuth::Off);
    if mode == ClientAuth::Off {
        for (key, given) in [("trust", spec.trust.is_some()), ("san", spec.san.is_some())] {
            if given {
                cx.error(&at.key(key), format!("`{key}` has no effect while `client_auth` is off"))
                    .help("set client_auth = \"optional\" or \"required\"");
            }
        }
        return Some((None, [0; 32]));
    }
    let Some(name) = &spec.trust else {
        cx.error(&at.key("client_auth"), "client certificates need `trust`, the authorities to verify them against");
        return None;
    };
    let trust = trusts.find(name, &at.key("trust"), cx)?;
    let mut builder = WebPkiClientVerifier::builder_with_provider(trust.roots.clone(), provider.clone())
        .with_crls(trust.crls.iter().cloned());
    if mode == ClientAuth::Optional {
        builder = builder.allow_unauthenticated();
    }
    // An issuer that publishes no list revokes nothing; with a list, its certificates are held to it.
    let built = match builder.allow_unknown_revocation_status().build() {
        Ok(built) => built,
        Err(error) => {
            cx.error(&at.key("trust"), format!("client certificates cannot be verified with it: {error}"));
            return None;
        }
    };
    let mut digest = Sha256::new();
    digest.update([u8::from(mode == ClientAuth::Required)]);
    digest.update(trust.digest);
    let verifier: Arc<dyn ClientCertVerifier> = match &spec.san {
        None => built,
        Some(names) => {
            for name in names {
                digest.update(name.to_string());
                digest.update(b"\n");
            }
            Arc::new(NamedClients { inner: built, names: names.clone() })
        }
    };
    Some((Some(verifier), digest.finalize().into()))
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.certificates.iter().map(|certificate| &certificate.name).collect();
        f.debug_struct("ServerTls").field("certificates", &names).finish_non_exhaustive()
    }
}
