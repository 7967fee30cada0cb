//! Which clients a listener accepts: its `client_auth`, `trust` and `san`, as a verifier and as a value to compare.

use crate::{ClientAuth, ListenerTlsSpec, Trusts, san_verifier::NamedClients};
use portcullis_config::{Context, Path};
use rustls::{
    crypto::CryptoProvider,
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// Compiled.
#[derive(Debug)]
pub(crate) struct ClientPolicy {
    /// `None`: clients are not asked for certificates.
    pub(crate) verifier: Option<Arc<dyn ClientCertVerifier>>,
    pub(crate) digest: PolicyDigest,
}

/// Over all that decides about clients: mode, authorities, revocation lists, names. Sessions are resumed only between
/// policies that compare equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PolicyDigest {
    Anybody,
    Checked([u8; 32]),
}

impl ClientPolicy {
    pub(crate) fn compile(
        spec: &ListenerTlsSpec,
        trusts: &Trusts,
        provider: &Arc<CryptoProvider>,
        at: &Path,
        cx: &mut Context,
    ) -> Option<Self> {
        let mode = spec.client_auth.unwrap_or(ClientAuth::Off);
        if mode == ClientAuth::Off {
            for (key, given) in [("trust", spec.trust.is_some()), ("san", spec.san.is_some())] {
                if given {
                    cx.error_at_key(&at.key(key), format!("`{key}` has no effect while `client_auth` is off"))
                        .help("set client_auth = \"optional\" or \"required\"");
                }
            }
            return Some(Self { verifier: None, digest: PolicyDigest::Anybody });
        }
        if spec.san.as_ref().is_some_and(Vec::is_empty) {
            cx.error(&at.key("san"), "an empty list accepts no client certificate")
                .help("leave `san` out to accept every name that `trust` certifies");
        }
        let Some(name) = &spec.trust else {
            cx.error(
                &at.key("client_auth"),
                "client certificates need `trust`, the authorities to verify them against",
            );
            return None;
        };
        let trust = trusts.find(name, &at.key("trust"), cx)?;
        let mut builder = WebPkiClientVerifier::builder_with_provider(trust.roots.clone(), provider.clone())
            .with_crls(trust.crls.iter().cloned());
        if mode == ClientAuth::Optional {
            builder = builder.allow_unauthenticated();
        }
        // The whole chain is looked up. An issuer that publishes no list revokes nothing; with a list, its certificates are
        // held to it.
        let verifier = match builder.allow_unknown_revocation_status().build() {
            Ok(verifier) => verifier,
            Err(error) => {
                cx.error(&at.key("trust"), format!("client certificates cannot be verified with it: {error}"));
                return None;
            }
        };
        let mut digest = Sha256::new();
        digest.update([u8::from(mode == ClientAuth::Required)]);
        digest.update(trust.digest);
        for name in spec.san.iter().flatten() {
            digest.update(name.to_string());
            digest.update(b"\n");
        }
        let verifier: Arc<dyn ClientCertVerifier> = match &spec.san {
            None => verifier,
            Some(names) => Arc::new(NamedClients { inner: verifier, names: names.clone() }),
        };
        Some(Self { verifier: Some(verifier), digest: PolicyDigest::Checked(digest.finalize().into()) })
    }
}
