//! TLS towards upstreams.

use crate::{
    Alpn, Certificate, Certificates, Trust, Trusts, provider,
    san_verifier::{AnyServer, NamedServers},
};
use portcullis_config::{Context, Path};
use portcullis_names::SanPattern;
use rustls::{
    ClientConfig,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier},
    pki_types::{CertificateDer, ServerName},
    sign::CertifiedKey,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{fmt, sync::Arc};

/// `[upstream.X] tls = { … }`.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UpstreamTlsSpec {
    /// Default verify.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<UpstreamTlsMode>,
    /// The name that is asked for, and verified unless `san` is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sni: Option<String>,
    /// Default: the system's authorities.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trust: Option<String>,
    /// Names of which the upstream's certificate must carry one, in place of `sni`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub san: Option<Vec<SanPattern>>,
    /// The certificate that we show.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UpstreamTlsMode {
    Off,
    Verify,
    /// Encrypts towards whoever answers.
    InsecureSkipVerify,
}

/// Compiled: how to open TLS to one upstream.
#[derive(Clone)]
pub struct UpstreamTls {
    h1: Arc<ClientConfig>,
    h2: Arc<ClientConfig>,
    pub server_name: ServerName<'static>,
    group_key: u64,
    trust: Option<Arc<Trust>>,
    client: Option<Arc<Certificate>>,
}

/// How the upstream proves who it is.
enum Proof<'s> {
    Unasked,
    ServerName(Arc<Trust>),
    Names(Arc<Trust>, &'s [SanPattern]),
}

impl UpstreamTls {
    /// `Ok(None)`: this upstream is spoken to in clear. `Err(())`: the report says why not.
    #[expect(clippy::result_unit_err, reason = "the problems are in the report")]
    pub fn compile(
        spec: &UpstreamTlsSpec,
        certificates: &Certificates,
        trusts: &Trusts,
        at: &Path,
        cx: &mut Context,
    ) -> Result<Option<Self>, ()> {
        let mode = spec.mode.unwrap_or(UpstreamTlsMode::Verify);
        if mode == UpstreamTlsMode::Off {
            spec.refuse_keys(&["sni", "trust", "san", "certificate"], "off", at, cx)?;
            return Ok(None);
        }
        let server_name = server_name(spec, at, cx);
        let proof = Proof::compile(spec, mode, trusts, at, cx);
        let client = match &spec.certificate {
            None => Ok(None),
            Some(name) => {
                certificates.find(name, &at.key("certificate"), cx).map(|found| Some(found.clone())).ok_or(())
            }
        };
        let (server_name, proof, client) = (server_name?, proof?, client?);
        let verifier = proof.verifier().map_err(|error| {
            cx.error_at_key(at, format!("the upstream cannot be verified: {error}"));
        })?;
        let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
        let builder = builder.map_err(|error| {
            cx.error_at_key(at, format!("TLS cannot be spoken like this: {error}"));
        })?;
        let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
        // Sessions are resumed from this configuration's own memory: a new one, after any change, verifies anew.
        let config = match &client {
            None => builder.with_no_client_auth(),
            Some(own) => builder.with_client_cert_resolver(Arc::new(OneCertificate(own.key.clone()))),
        };
        let group_key = proof.group_key(&server_name, client.as_deref());
        let (h1, h2) = (offering(&config, Alpn::H1.protocols()), offering(&config, Alpn::H2.protocols()));
        Ok(Some(Self { h1, h2, server_name, group_key, trust: proof.into_trust(), client }))
    }

    /// Made elsewhere: how the sidecars of a mesh prove to one another who they are is not for `[upstream.X] tls` to say.
    /// `group_key` is equal for equal settings; see [`Self::group_key`].
    pub fn made(
        h1: Arc<ClientConfig>,
        h2: Arc<ClientConfig>,
        server_name: ServerName<'static>,
        group_key: u64,
    ) -> Self {
        Self { h1, h2, server_name, group_key, trust: None, client: None }
    }

    /// For a connection that offers this protocol by ALPN.
    pub fn config(&self, alpn: &[u8]) -> Arc<ClientConfig> {
        match alpn {
            b"http/1.1" => self.h1.clone(),
            b"h2" => self.h2.clone(),
            other => offering(&self.h1, vec![other.to_vec()]),
        }
    }

    /// Equal for equal settings, over reloads and restarts: trust content, names, and the certificate that we show. Part of
    /// the key of a connection pool, so that no request rides a connection that was verified by other rules.
    pub fn group_key(&self) -> u64 {
        self.group_key
    }

    /// The authorities that the upstream is verified against, for a TLS library other than rustls; none when it is not.
    pub fn authorities(&self) -> &[CertificateDer<'static>] {
        self.trust.as_ref().map_or(&[], |trust| &trust.authorities)
    }

    /// The certificate that we show.
    pub fn client_certificate(&self) -> Option<&Arc<Certificate>> {
        self.client.as_ref()
    }
}

/// The copies share one memory of sessions.
fn offering(config: &ClientConfig, alpn_protocols: Vec<Vec<u8>>) -> Arc<ClientConfig> {
    let mut config = config.clone();
    config.alpn_protocols = alpn_protocols;
    Arc::new(config)
}

impl UpstreamTlsSpec {
    /// A key that changes nothing is a misunderstanding, and here one about security.
    fn refuse_keys(&self, keys: &[&str], mode: &str, at: &Path, cx: &mut Context) -> Result<(), ()> {
        let given = [
            ("sni", self.sni.is_some()),
            ("trust", self.trust.is_some()),
            ("san", self.san.is_some()),
            ("certificate", self.certificate.is_some()),
        ];
        let mut clean = Ok(());
        for (key, _) in given.iter().filter(|(key, given)| *given && keys.contains(key)) {
            cx.error_at_key(&at.key(key), format!("`{key}` has no effect with mode = \"{mode}\""))
                .help("leave one of the two out");
            clean = Err(());
        }
        clean
    }
}

fn server_name(spec: &UpstreamTlsSpec, at: &Path, cx: &mut Context) -> Result<ServerName<'static>, ()> {
    let Some(sni) = &spec.sni else {
        cx.error_at_key(at, "TLS to an upstream needs `sni`, the name to ask for and to verify");
        return Err(());
    };
    ServerName::try_from(sni.clone()).map_err(|_| {
        cx.error(&at.key("sni"), format!("`{sni}` is not a host name or an IP address"));
    })
}

impl<'s> Proof<'s> {
    fn compile(
        spec: &'s UpstreamTlsSpec,
        mode: UpstreamTlsMode,
        trusts: &Trusts,
        at: &Path,
        cx: &mut Context,
    ) -> Result<Self, ()> {
        if mode == UpstreamTlsMode::InsecureSkipVerify {
            cx.warning(
                &at.key("mode"),
                "the upstream's certificate is not verified: anybody on the way can be the upstream",
            )
            .help("name a `trust` with the upstream's authority instead");
            spec.refuse_keys(&["trust", "san"], "insecure_skip_verify", at, cx)?;
            return Ok(Self::Unasked);
        }
        let trust = match &spec.trust {
            Some(name) => trusts.find(name, &at.key("trust"), cx).ok_or(())?,
            None => trusts.system().clone(),
        };
        if trust.roots.is_empty() {
            cx.error_at_key(at, "the system has no root certificates")
                .help("name a `trust` with the upstream's authority");
            return Err(());
        }
        match &spec.san {
            None => Ok(Self::ServerName(trust)),
            Some(names) if names.is_empty() => {
                cx.error(&at.key("san"), "an empty list accepts no upstream").help("leave `san` out to verify `sni`");
                Err(())
            }
            Some(names) => Ok(Self::Names(trust, names)),
        }
    }

    fn verifier(&self) -> Result<Arc<dyn ServerCertVerifier>, rustls::client::VerifierBuilderError> {
        let webpki = |trust: &Trust| {
            // As for clients: an issuer without a list revokes nothing.
            WebPkiServerVerifier::builder_with_provider(trust.roots.clone(), provider())
                .with_crls(trust.crls.iter().cloned())
                .allow_unknown_revocation_status()
                .build()
        };
        Ok(match self {
            Self::Unasked => Arc::new(AnyServer),
            Self::ServerName(trust) => webpki(trust)?,
            Self::Names(trust, names) => Arc::new(NamedServers { inner: webpki(trust)?, names: names.to_vec() }),
        })
    }

    fn group_key(&self, server_name: &ServerName<'_>, client: Option<&Certificate>) -> u64 {
        let mut digest = Sha256::new();
        let mut part = |kind: &[u8; 4], octets: &[u8]| {
            digest.update(kind);
            digest.update((octets.len() as u64).to_be_bytes());
            digest.update(octets);
        };
        part(b"name", server_name.to_str().as_bytes());
        match self {
            Self::Unasked => part(b"none", &[]),
            Self::ServerName(trust) => part(b"host", &trust.digest),
            Self::Names(trust, names) => {
                part(b"sans", &trust.digest);
                names.iter().for_each(|name| part(b"san:", name.to_string().as_bytes()));
            }
        }
        if let Some(own) = client {
            part(b"cert", own.identity.fingerprint.as_bytes());
        }
        let [a, b, c, d, e, f, g, h, ..]: [u8; 32] = digest.finalize().into();
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }

    fn into_trust(self) -> Option<Arc<Trust>> {
        match self {
            Self::Unasked => None,
            Self::ServerName(trust) | Self::Names(trust, _) => Some(trust),
        }
    }
}

#[derive(Debug)]
struct OneCertificate(Arc<CertifiedKey>);

impl rustls::client::ResolvesClientCert for OneCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl fmt::Debug for UpstreamTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamTls").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}
