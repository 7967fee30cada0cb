//! The demo's mesh: a service with its sidecar, one that may call it, and one that may not.

use anyhow::{Context, Result};
use portcullis_ca::{AuthorityLife, Folder, LeafLife, Namespace, Overwrite};
use portcullis_gateway::Gateway;
use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};
use time::OffsetDateTime;

const NAMESPACE: &str = "demo.mesh";

/// Three sidecars that run.
pub(crate) struct Mesh {
    pub(crate) sidecars: Vec<Gateway>,
    /// Where an application called `cart`, and one called `web`, would send requests for `api`.
    pub(crate) cart: u16,
    pub(crate) web: u16,
    pub(crate) api_admin: PathBuf,
}

/// Makes an authority with three identities below `folder`, and starts the sidecars; `app` is the application behind `api`.
pub(crate) fn start(folder: &Path, app: SocketAddr) -> Result<Mesh> {
    let authority = Folder::new(folder.join("ca"));
    let (namespace, now) = (NAMESPACE.parse::<Namespace>()?, OffsetDateTime::now_utc());
    authority.init(&"demo".parse()?, AuthorityLife::ROOT, Overwrite::Replace, now)?;
    authority.intermediate(&namespace, AuthorityLife::INTERMEDIATE, Overwrite::Replace, now)?;
    let sidecar = |name: &str, more: &str| {
        let own = folder.join(name);
        fs::create_dir_all(&own).with_context(|| format!("cannot make {}", own.display()))?;
        authority.issue(&namespace, name, LeafLife::default(), Some(&own), Overwrite::Replace, now)?;
        let file = own.join("sidecar.toml");
        fs::write(&file, config(name, &own) + more).with_context(|| format!("cannot write {}", file.display()))?;
        crate::command::start(vec![file], Vec::new())
    };
    let rules = format!(
        "[listener.inbound]\naddress   = \"127.0.0.1:0\"\ndirection = \"inbound\"\nto        = \"{app}\"\n\n\
         [access.cart-may-call]\nfrom   = [\"service:cart\"]\nto     = [\"service:api\"]\naction = \"allow\"\n"
    );
    let api = sidecar("api", &rules)?;
    let peer = port(&api, "inbound");
    let outbound = format!(
        "[listener.outbound]\naddress   = \"127.0.0.1:0\"\ndirection = \"outbound\"\nto        = \"api\"\n\n\
         [service.api]\nnamespace = \"{NAMESPACE}\"\nupstream  = \"api\"\n\n\
         [upstream.api]\nendpoints = [\"127.0.0.1:{peer}\"]\n"
    );
    let (cart, web) = (sidecar("cart", &outbound)?, sidecar("web", &outbound)?);
    Ok(Mesh {
        cart: port(&cart, "outbound"),
        web: port(&web, "outbound"),
        api_admin: folder.join("api").join("admin.sock"),
        sidecars: vec![api, cart, web],
    })
}

fn config(name: &str, folder: &Path) -> String {
    let folder = folder.display();
    format!(
        r#"# Written by `portcullis demo`: the sidecar of `{name}`.
schema = "1"

[process]
threads = 1
upgrade = "unix:{folder}/upgrade.sock"

[admin]
address = "unix:{folder}/admin.sock"

[workload]
service   = "{name}"
namespace = "{NAMESPACE}"
spiffe    = "spiffe://demo/ns/{NAMESPACE}/sa/{name}"
svid      = {{ files = {{ cert = "{name}.crt", key = "{name}.key", bundle = "bundle.crt" }} }}

[mtls]
mode = "strict"

"#
    )
}

fn port(gateway: &Gateway, name: &str) -> u16 {
    let listeners = gateway.listeners();
    let bound = listeners.iter().find(|(listener, _)| listener == name).and_then(|(_, bound)| *bound);
    bound.map_or(0, |bound| bound.port())
}
