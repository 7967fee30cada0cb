//! Workloads with sidecars: an authority of the test's own, and processes of the program in both directions.

use super::{
    authority::{Authority, Leaf},
    gateway::Gateway,
};
use std::{net::SocketAddr, path::Path};
use tempfile::TempDir;

/// One trust domain, `corp`.
pub(crate) struct Mesh {
    pub root: Authority,
}

impl Mesh {
    pub(crate) fn new() -> Self {
        Self { root: Authority::new("corp") }
    }

    /// `NAMESPACE/SERVICE`.
    pub(crate) fn id(who: &str) -> String {
        let (namespace, service) = who.split_once('/').unwrap();
        format!("spiffe://corp/ns/{namespace}/sa/{service}")
    }

    pub(crate) fn leaf(&self, who: &str) -> Leaf {
        self.root.leaf(&[&Self::id(who)])
    }

    /// The certificate last: a sidecar that looks between two writes must not find a pair.
    pub(crate) fn write(&self, folder: &Path, leaf: &Leaf, bundle: &str) {
        std::fs::write(folder.join("bundle.crt.new"), bundle).unwrap();
        std::fs::rename(folder.join("bundle.crt.new"), folder.join("bundle.crt")).unwrap();
        leaf.write(folder, "svid");
    }

    /// `[workload]` with its files in `folder`.
    pub(crate) fn workload(&self, folder: &Path, who: &str) -> String {
        self.write(folder, &self.leaf(who), &self.root.certificate_pem);
        workload_table(who)
    }

    /// The sidecar of `who` before the application at `app`.
    pub(crate) async fn server(&self, who: &str, app: SocketAddr, more: &str) -> Gateway {
        let folder = tempfile::tempdir().unwrap();
        let config = [&self.workload(folder.path(), who), &inbound(app), more].concat();
        Gateway::start_in(folder, &config).await
    }

    /// The sidecar of `who` that calls `service`, whose sidecar is at `peer`.
    pub(crate) async fn client(&self, who: &str, service: &str, peer: SocketAddr, more: &str) -> Gateway {
        self.client_in(tempfile::tempdir().unwrap(), who, service, &[peer], more).await
    }

    pub(crate) async fn client_in(
        &self,
        folder: TempDir,
        who: &str,
        service: &str,
        peers: &[SocketAddr],
        more: &str,
    ) -> Gateway {
        let config = [&self.workload(folder.path(), who), &outbound(service, peers), more].concat();
        Gateway::start_in(folder, &config).await
    }
}

pub(crate) fn workload_table(who: &str) -> String {
    let (namespace, service) = who.split_once('/').unwrap();
    format!(
        "[workload]\nservice = \"{service}\"\nnamespace = \"{namespace}\"\nversion = \"v1\"\nspiffe = \"{}\"\n\
         svid = {{ files = {{ cert = \"svid.crt\", key = \"svid.key\", bundle = \"bundle.crt\" }} }}\n",
        Mesh::id(who)
    )
}

pub(crate) fn inbound(app: SocketAddr) -> String {
    // Rules of the WAF take a second to compile in a test build, and most tests are not about them.
    format!(
        "[defaults]\nwaf = {{ mode = \"off\" }}\n[listener.inbound]\naddress = \"127.0.0.1:0\"\ndirection = \"inbound\"\nto = \"{app}\"\n"
    )
}

/// `service` is `NAMESPACE/SERVICE`; its upstream has the service's name.
pub(crate) fn outbound(service: &str, peers: &[SocketAddr]) -> String {
    let (namespace, name) = service.split_once('/').unwrap();
    let peers: Vec<_> = peers.iter().map(|peer| format!("\"{peer}\"")).collect();
    format!(
        "[listener.outbound]\naddress = \"127.0.0.1:0\"\ndirection = \"outbound\"\nto = \"{name}.{namespace}\"\n\
         [service.{name}]\nnamespace = \"{namespace}\"\nupstream = \"{name}\"\n\
         [upstream.{name}]\nendpoints = [{}]\nconnect_timeout = \"10s\"\n",
        peers.join(", ")
    )
}

/// `[access.NAME]` for everything that `from` calls.
pub(crate) fn allow(name: &str, from: &str) -> String {
    format!("[access.{name}]\nfrom = [\"{from}\"]\nto = [\"*\"]\naction = \"allow\"\n")
}
