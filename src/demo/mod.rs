//! `portcullis demo`: everything that a first look needs, on loopback, in one process: a way in, a way out, and
//! three workloads of a mesh.

pub(crate) mod authority;
mod mesh;
mod origin;

use anyhow::{Context, Result};
use portcullis_gateway::{Gateway, Stop};
use std::{
    fs,
    net::{SocketAddr, TcpListener, UdpSocket},
    path::Path,
};

/// Starts origins, certificates and an edge; prints what to try; ends on Ctrl-C.
pub(crate) async fn run(folder: &Path, port: u16, dns_port: u16) -> Result<()> {
    let certificates = folder.join("certs");
    authority::issue(
        &certificates,
        "demo",
        &["localhost".to_owned(), "127.0.0.1".to_owned(), "shop.localhost".to_owned()],
    )?;
    let (blue, green) = origin::start_both().await?;
    let file = folder.join("edge.toml");
    let admin = folder.join("admin.sock");
    let outside = origin::start_outside().await?;
    let key = folder.join("partner.key");
    fs::write(&key, "the-secret-of-the-demo\n").with_context(|| format!("cannot write {}", key.display()))?;
    let dns_port = free_dns_port(dns_port);
    let text = config(port, dns_port, blue, green, folder) + &way_out(port, outside);
    fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    let gateway = crate::command::start(vec![file.clone()], Vec::new())?;
    // Not blue, which one of the lines to try stops.
    let mesh = mesh::start(&folder.join("mesh"), green)?;
    let mut sidecars = tokio::task::JoinSet::new();
    for sidecar in &mesh.sidecars {
        sidecars.spawn(crate::command::Serving::new(sidecar.clone()).await?.run());
    }
    let serving = crate::command::Serving::new(gateway.clone()).await?;
    print_invitation(&gateway, &file, &certificates, &admin, blue, outside, &mesh);
    tokio::select! {
        ended = tokio::signal::ctrl_c() => ended?,
        () = serving.run() => {}
    }
    println!("\nending: letting requests in flight finish");
    gateway.stop(Stop::Close).await;
    for sidecar in &mesh.sidecars {
        sidecar.stop(Stop::Close).await;
    }
    Ok(())
}

/// The port wished for, or 0 when somebody has it: 5353 is multicast DNS's on many machines.
fn free_dns_port(wished: u16) -> u16 {
    let at = ("127.0.0.1", wished);
    if UdpSocket::bind(at).is_ok() && TcpListener::bind(at).is_ok() { wished } else { 0 }
}

fn config(port: u16, dns_port: u16, blue: SocketAddr, green: SocketAddr, folder: &Path) -> String {
    let plain = if port == 0 { 0 } else { port.saturating_add(1) };
    let folder = folder.display();
    let (blue_ip, green_ip, origin_port) = (blue.ip(), green.ip(), blue.port());
    format!(
        r#"# Written by `portcullis demo`. Edit and save it while the demo runs: the change is live at once.
schema = "1"

[process]
upgrade = "unix:{folder}/upgrade.sock"

[admin]
address = "unix:{folder}/admin.sock"

[certificate.demo]
cert = {{ file = "certs/demo.crt" }}
key  = {{ file = "certs/demo.key" }}

[listener.https]
address      = "127.0.0.1:{port}"
protocol     = "https"
certificates = ["demo"]

[listener.http]
address = "127.0.0.1:{plain}"

[upstream.shop]
endpoints    = [{{ address = "{blue}", weight = 90 }}, {{ address = "{green}", weight = 10 }}]
health_check = {{ path = "/healthz", interval = "2s", timeout = "1s" }}

[route.shop]
upstream         = "shop"
response_headers = {{ set = {{ x-served-by = "portcullis" }} }}

[route.shop.rule.ping]
path    = {{ exact = "/ping" }}
respond = {{ status = 200, body = "pong\n" }}

[route.shop.rule.old]
path     = "/old"
redirect = {{ path = "/new", status = 308 }}

# A name whose address follows health: blue as long as it answers, then green.
[listener.dns]
address  = "127.0.0.1:{dns_port}"
protocol = "dns"

[zone.demo]
name    = "demo.test"
ns      = ["ns1.demo.test"]
soa     = {{ mname = "ns1.demo.test", rname = "noc@demo.test" }}
records = ["ns1 A 127.0.0.1"]

[public_service.shop]
host         = "shop.demo.test"
policy       = "failover"
ttl          = "4s"
sites        = {{ blue = ["{blue_ip}"], green = ["{green_ip}"] }}
port         = {origin_port}
health_check = {{ path = "/healthz", interval = "2s", timeout = "1s", healthy = 1, unhealthy = 2 }}
"#
    )
}

/// Applications of the demo reach one party outside, with a key that they do not have.
fn way_out(port: u16, outside: SocketAddr) -> String {
    let proxy = if port == 0 { 0 } else { port.saturating_add(2) };
    let outside = outside.port();
    format!(
        r#"
# What goes out: nothing but what [access] allows.
[listener.out]
address  = "127.0.0.1:{proxy}"
protocol = "proxy"

[destination.partner]
hosts             = ["partner.localhost"]
ports             = [{outside}]
protocol          = "http"                  # a real one is spoken to by TLS: tls = "originate"
private_addresses = ["127.0.0.0/8", "::1/128"]
credential        = "partner"

[credential.partner]
header = {{ name = "x-api-key", value = {{ file = "partner.key" }} }}

[access.demo-to-partner]
from   = ["127.0.0.0/8"]
to     = ["destination:partner"]
action = "allow"
reason = "so that the demo has something to show"
"#
    )
}

fn print_invitation(
    gateway: &Gateway,
    file: &Path,
    certificates: &Path,
    admin: &Path,
    blue: SocketAddr,
    outside: SocketAddr,
    mesh: &mesh::Mesh,
) {
    let listeners = gateway.listeners();
    let port = |name: &str| {
        let bound = listeners.iter().find(|(listener, _)| listener == name).and_then(|(_, bound)| *bound);
        bound.map_or(0, |bound: SocketAddr| bound.port())
    };
    let (https, http, dns) = (port("https"), port("http"), port("dns"));
    let (out, outside) = (port("out"), outside.port());
    let (file, ca, admin) = (file.display(), certificates.join("ca.crt"), admin.display());
    let ca = ca.display();
    let (cart, web, api_admin) = (mesh.cart, mesh.web, mesh.api_admin.display());
    let program = std::env::current_exe().map_or_else(|_| "portcullis".to_owned(), |path| path.display().to_string());
    println!(
        "\nportcullis is serving a demo shop from {file}\n\
         \n  try:\n\
         \n    curl --cacert {ca} https://localhost:{https}/\
         \n    curl --cacert {ca} https://localhost:{https}/anything -H 'X-Hello: world'\
         \n    curl -i http://localhost:{http}/old\
         \n    {program} explain GET https://localhost:{https}/ping --admin {admin}\n\
         \n    dig @127.0.0.1 -p {dns} shop.demo.test +short        # blue's address\
         \n    curl -X POST http://{blue}/stop                # stops blue: in some seconds dig says green's\
         \n    {program} gslb status --admin {admin}\n\
         \n  the way out, with a key that curl does not know; a host without a rule; and why:\n\
         \n    curl -x http://127.0.0.1:{out} http://partner.localhost:{outside}/anything\
         \n    curl -i -x http://127.0.0.1:{out} http://elsewhere.example/\
         \n    {program} egress explain https://elsewhere.example/ --admin {admin}\n\
         \n  three workloads: cart and api talk mTLS, web is refused by api's own sidecar:\n\
         \n    curl http://127.0.0.1:{cart}/orders               # what cart's application would send\
         \n    curl -i http://127.0.0.1:{web}/orders             # what web's would: 403\
         \n    {program} mesh status --admin {api_admin}\
         \n    {program} mesh graph --dot --admin {api_admin}\n\
         \n  Edit and save the file: the change is live. Ctrl-C ends the demo.\n"
    );
}
