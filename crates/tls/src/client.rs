//! TLS towards upstreams.

use crate::{
    Certificates, Trust, Trusts, provider,
    san_verifier::{AnyServer, NamedServers},
};
use portcullis_config::{Context, Path};
use portcullis_names::SanPattern;
use rustls::{
    ClientConfig,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier},
    pki_types::ServerName,
    sign::CertifiedKey,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
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
    config: Arc<ClientConfig>,
    pub server_name: ServerName<'static>,
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
            return Ok(None);
        }
        let Some(sni) = &spec.sni else {
            cx.error_at_key(at, "TLS to an upstream needs `sni`, the name to ask for and to verify");
            return Err(());
        };
        let Ok(server_name) = ServerName::try_from(sni.clone()) else {
            cx.error(&at.key("sni"), format!("`{sni}` is not a server name"));
            return Err(());
        };
        let trust = match &spec.trust {
            Some(name) => trusts.find(name, &at.key("trust"), cx).ok_or(())?,
            None => Arc::new(Trust::system()),
        };
        if trust.roots.is_empty() && mode == UpstreamTlsMode::Verify {
            cx.error_at_key(at, "the system has no root certificates")
                .help("name a `trust` with the upstream's authority");
            return Err(());
        }
        let verifier = verifier(spec, mode, &trust, at, cx)?;
        let client = match &spec.certificate {
            None => None,
            Some(name) => match certificates.get(name) {
                Some(certificate) => Some(certificate.key.clone()),
                None => {
                    cx.undefined(&at.key("certificate"), "certificate", name, certificates.names());
                    return Err(());
                }
            },
        };
        let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
        let builder = builder.map_err(|error| {
            cx.error_at_key(at, error.to_string());
        })?;
        let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
        let config = match &client {
            None => builder.with_no_client_auth(),
            Some(key) => builder.with_client_cert_resolver(Arc::new(OneCertificate(key.clone()))),
        };
        Ok(Some(Self { config: Arc::new(config), server_name }))
    }

    /// For a connection that offers this protocol by ALPN.
    pub fn config(&self, alpn: &[u8]) -> Arc<ClientConfig> {
        let mut config = (*self.config).clone();
        config.alpn_protocols = vec![alpn.to_vec()];
        Arc::new(config)
    }
}

fn verifier(
    spec: &UpstreamTlsSpec,
    mode: UpstreamTlsMode,
    trust: &Trust,
    at: &Path,
    cx: &mut Context,
) -> Result<Arc<dyn ServerCertVerifier>, ()> {
    if mode == UpstreamTlsMode::InsecureSkipVerify {
        cx.warning(
            &at.key("mode"),
            "the upstream's certificate is not verified: anybody on the way can be the upstream",
        );
    }
    let built = WebPkiServerVerifier::builder_with_provider(trust.roots.clone(), provider())
        .with_crls(trust.crls.iter().cloned())
        .allow_unknown_revocation_status()
        .build();
    let built: Arc<dyn ServerCertVerifier> = match built {
        Ok(built) => built,
        Err(error) => {
            cx.error_at_key(at, format!("the upstream cannot be verified: {error}"));
            return Err(());
        }
    };
    Ok(match (mode, &spec.san) {
        (UpstreamTlsMode::InsecureSkipVerify, _) => Arc::new(AnyServer(built)),
        (_, Some(names)) => Arc::new(NamedServers { inner: built, names: names.clone() }),
        (_, None) => built,
    })
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
