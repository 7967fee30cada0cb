//! `[workload]`: who this sidecar's application is.

use crate::{SvidSpec, namespace::is_name};
use portcullis_config::{Context, Path};
use portcullis_names::{ObjectName, SpiffeId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::num::NonZeroU32;

/// Who the application is, to peers and in metrics.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub struct WorkloadSpec {
    pub service: ObjectName,
    /// Shown to rules as the attribute `version`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The global namespace: `acme.lab`.
    pub namespace: String,
    /// The id that the certificate must carry.
    pub spiffe: SpiffeId,
    /// Where certificate, key and roots come from.
    pub svid: SvidSpec,
    /// What the sidecar's own connections are marked with (SO_MARK, needs CAP_NET_ADMIN), so that capture leaves them alone
    /// (default none).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mark: Option<NonZeroU32>,
}

/// `[workload]`, compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    pub service: ObjectName,
    pub version: Option<String>,
    pub namespace: String,
    pub spiffe: SpiffeId,
}

/// A label in metrics.
const VERSION_MAX_BYTES: usize = 63;

impl Workload {
    pub fn compile(spec: &WorkloadSpec, at: &Path, cx: &mut Context) -> Self {
        if !is_name(&spec.namespace) {
            cx.error(&at.key("namespace"), format!("`{}` is no namespace", spec.namespace))
                .help("DNS labels in lower case, like \"acme.lab\"");
        }
        if !is_name(spec.service.as_str()) {
            cx.error(&at.key("service"), format!("`{}` is no DNS label, and services are found by name", spec.service))
                .help("lower case letters, digits and `-`");
        }
        if let Some(version) = &spec.version
            && (version.is_empty()
                || version.len() > VERSION_MAX_BYTES
                || !version.bytes().all(|b| b.is_ascii_graphic()))
        {
            cx.error(
                &at.key("version"),
                format!("a version is 1 to {VERSION_MAX_BYTES} printable characters without blanks"),
            );
        }
        if spec.spiffe.path().is_empty() {
            cx.error(&at.key("spiffe"), format!("`{}` is a trust domain, not a workload", spec.spiffe))
                .help(format!("like \"{}/ns/NAMESPACE/sa/{}\"", spec.spiffe, spec.service));
        }
        let spec = spec.clone();
        Self { service: spec.service, version: spec.version, namespace: spec.namespace, spiffe: spec.spiffe }
    }

    /// The global namespace of a peer: the own one when its id is of the same trust domain and the same SPIFFE namespace
    /// as this workload's, else the namespace as its id has it, told apart by its domain where that is another one.
    pub fn namespace_of(&self, peer: &SpiffeId) -> Option<String> {
        let namespace = peer.namespace()?;
        if !peer.is_in(&self.spiffe.trust_domain()) {
            return Some(format!("{namespace}@{}", peer.trust_domain()));
        }
        Some(if self.spiffe.namespace() == Some(namespace) { self.namespace.clone() } else { namespace.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::problems;

    #[test]
    fn a_peers_namespace_follows_from_its_id() {
        let text = "service = \"payments\"\nversion = \"v7\"\nnamespace = \"acme.lab\"\nspiffe = \"spiffe://corp/ns/pay/sa/payments\"\n\
                    svid = { files = { cert = \"a\", key = \"b\", bundle = \"c\" } }";
        let (workload, found) = problems(text, Workload::compile);
        assert!(found.is_empty() && workload.version.as_deref() == Some("v7"), "{found:?}");
        for (peer, namespace) in [
            ("spiffe://corp/ns/pay/sa/cart", Some("acme.lab")),
            ("spiffe://corp/ns/bank/sa/x", Some("bank")),
            ("spiffe://other/ns/pay/sa/cart", Some("pay@other")),
            ("spiffe://corp/x", None),
        ] {
            assert_eq!(workload.namespace_of(&peer.parse().unwrap()).as_deref(), namespace, "{peer}");
        }
        let bad = "service = \"Pay_1\"\nversion = \"a b\"\nnamespace = \"A\"\nspiffe = \"spiffe://corp\"\n\
                   svid = { files = { cert = \"a\", key = \"b\", bundle = \"c\" } }";
        assert_eq!(problems(bad, Workload::compile).1.len(), 4);
    }
}
