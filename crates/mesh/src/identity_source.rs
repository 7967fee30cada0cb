//! Where the own identity comes from: `[workload] svid = { … }`.
//!
//! A source gives chain, key and roots whenever somebody looks; [`crate::OwnIdentity::offer`] decides what is taken.

use crate::SvidFiles;
use portcullis_config::{Context, Path};
use portcullis_names::SpiffeId;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// `svid = { files = { … } }`: exactly one source.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum SvidSpec {
    /// Files that somebody else renews; looked at all the time.
    Files(SvidFilesSpec),
    /// The endpoint of `portcullis ca serve`: the key is drawn here, and renewed between half and seven tenths of its life.
    Authority(AuthoritySourceSpec),
    /// A SPIFFE Workload API, like that of a SPIRE agent.
    WorkloadApi(WorkloadApiSpec),
}

/// How the authority's endpoint is asked.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub struct AuthoritySourceSpec {
    /// `host:port`.
    pub address: String,
    /// Who it must be (default: the service `authority` of the workload's own SPIFFE namespace).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spiffe: Option<SpiffeId>,
    /// PEM, roots that are believed before the first answer.
    pub bundle: PathBuf,
    /// A file with the token for the first certificate, of `portcullis ca token`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<PathBuf>,
    /// A file of the sidecar's own, in which key and certificate outlive it; a token is good once.
    pub keep: PathBuf,
}

#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub struct WorkloadApiSpec {
    /// Its Unix socket.
    pub socket: PathBuf,
}

/// PEM files, relative to the configuration file.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub struct SvidFilesSpec {
    /// The certificate with its intermediates, the leaf first.
    pub cert: PathBuf,
    pub key: PathBuf,
    /// Every root that is believed: the old one and the new one while one follows the other.
    pub bundle: PathBuf,
    /// Revocation lists of the issuers; an issuer without a list revokes nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revoked: Option<PathBuf>,
}

/// Compiled. Equal sources are the same source: a reload that leaves one as it was does not disturb it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdentitySource {
    Files(SvidFiles),
    Authority(AuthoritySource),
    WorkloadApi(PathBuf),
}

/// The authority's endpoint, compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthoritySource {
    /// `host:port`.
    pub address: String,
    /// Who the endpoint must be: another workload of the mesh is no authority.
    pub server: SpiffeId,
    /// PEM: roots that are believed before the first answer.
    pub roots: PathBuf,
    /// A file with the token for the first certificate.
    pub token: Option<PathBuf>,
    /// Where certificate and key outlive the process.
    pub keep: PathBuf,
}

impl SvidSpec {
    pub fn compile(&self, own: &SpiffeId, at: &Path, cx: &mut Context) -> IdentitySource {
        match self {
            Self::Files(files) => {
                let at = at.key("files");
                let resolve = |key: &str, file: &PathBuf| cx.resolve(&at.key(key), file);
                IdentitySource::Files(SvidFiles {
                    chain: resolve("cert", &files.cert),
                    key: resolve("key", &files.key),
                    bundle: resolve("bundle", &files.bundle),
                    revoked: files.revoked.as_ref().map(|file| cx.resolve(&at.key("revoked"), file)),
                })
            }
            Self::Authority(authority) => IdentitySource::Authority(authority.compile(own, &at.key("authority"), cx)),
            Self::WorkloadApi(api) => {
                IdentitySource::WorkloadApi(cx.resolve(&at.key("workload_api").key("socket"), &api.socket))
            }
        }
    }
}

impl AuthoritySourceSpec {
    fn compile(&self, own: &SpiffeId, at: &Path, cx: &mut Context) -> AuthoritySource {
        let port = self.address.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port);
        if port.and_then(|port| port.parse::<u16>().ok()).is_none_or(|port| port == 0) {
            cx.error(&at.key("address"), format!("`{}` is no host with a port", self.address))
                .help("like \"authority.internal:8460\"");
        }
        let server = self.spiffe.clone().or_else(|| {
            let namespace = own.namespace()?;
            format!("{}/ns/{namespace}/sa/authority", own.trust_domain().id()).parse().ok()
        });
        if server.is_none() {
            cx.error_at_key(&at.key("spiffe"), format!("the workload's id {own} has no namespace to take it from"))
                .help("write who the authority's endpoint is: \"spiffe://…\"");
        }
        AuthoritySource {
            address: self.address.clone(),
            server: server.unwrap_or_else(|| own.clone()),
            roots: cx.resolve(&at.key("bundle"), &self.bundle),
            token: self.token.as_ref().map(|file| cx.resolve(&at.key("token"), file)),
            keep: cx.resolve(&at.key("keep"), &self.keep),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::problems;
    use serde::Deserialize;

    #[derive(Deserialize)]
    struct Document {
        svid: SvidSpec,
    }

    fn compile(svid: &str, own: &str) -> (IdentitySource, Vec<String>) {
        let own = own.parse().unwrap();
        problems(&format!("svid = {svid}"), |document: &Document, at, cx| document.svid.compile(&own, at, cx))
    }

    #[test]
    fn a_source_is_what_its_table_says() {
        const OWN: &str = "spiffe://corp/ns/acme/sa/cart";
        let (files, found) =
            compile("{ files = { cert = \"/a\", key = \"/b\", bundle = \"/c\", revoked = \"/d\" } }", OWN);
        let expected =
            SvidFiles { chain: "/a".into(), key: "/b".into(), bundle: "/c".into(), revoked: Some("/d".into()) };
        assert_eq!((files, found.len()), (IdentitySource::Files(expected), 0));
        let (api, found) = compile("{ workload_api = { socket = \"/run/agent.sock\" } }", OWN);
        assert_eq!((api, found.len()), (IdentitySource::WorkloadApi("/run/agent.sock".into()), 0));
        let authority = |more: &str| {
            format!("{{ authority = {{ address = \"ca.internal:8460\", bundle = \"/r\", keep = \"/k\"{more} }} }}")
        };
        for (more, server) in
            [("", "spiffe://corp/ns/acme/sa/authority"), (", spiffe = \"spiffe://corp/ca\"", "spiffe://corp/ca")]
        {
            let (source, found) = compile(&authority(more), OWN);
            let IdentitySource::Authority(source) = source else { panic!("{source:?}") };
            assert_eq!((source.server.as_str(), source.token, found.len()), (server, None, 0));
        }
        assert!(compile(&authority(""), "spiffe://corp/cart").1[0].contains("has no namespace"));
        for address in ["ca.internal", ":8460", "ca:0", "ca:x"] {
            let bad = authority("").replace("ca.internal:8460", address);
            assert!(compile(&bad, OWN).1[0].contains("no host with a port"), "{address}");
        }
    }
}
