//! `portcullis demo`: everything that a first look needs, on loopback, in one process.

pub(crate) mod authority;
mod origin;

use anyhow::{Context, Result};
use portcullis_gateway::{Gateway, Stop};
use std::{fs, net::SocketAddr, path::Path};

/// Starts origins, certificates and an edge; prints what to try; ends on Ctrl-C.
pub(crate) async fn run(folder: &Path, port: u16) -> Result<()> {
    let certificates = folder.join("certs");
    authority::issue(
        &certificates,
        "demo",
        &["localhost".to_owned(), "127.0.0.1".to_owned(), "shop.localhost".to_owned()],
    )?;
    let (blue, green) = (origin::start("blue").await?, origin::start("green").await?);
    let file = folder.join("edge.toml");
    let admin = folder.join("admin.sock");
    fs::write(&file, config(port, blue, green, folder)).with_context(|| format!("cannot write {}", file.display()))?;
    let gateway = crate::command::start(vec![file.clone()], Vec::new())?;
    print_invitation(&gateway, &file, &certificates, &admin);
    let serving = crate::command::Serving::new(gateway.clone()).await?;
    tokio::select! {
        ended = tokio::signal::ctrl_c() => ended?,
        () = serving.run() => {}
    }
    println!("\nending: letting requests in flight finish");
    gateway.stop(Stop::Close).await;
    Ok(())
}

fn config(port: u16, blue: SocketAddr, green: SocketAddr, folder: &Path) -> String {
    let plain = if port == 0 { 0 } else { port.saturating_add(1) };
    let folder = folder.display();
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
"#
    )
}

fn print_invitation(gateway: &Gateway, file: &Path, certificates: &Path, admin: &Path) {
    let listeners = gateway.listeners();
    let port = |name: &str| {
        let bound = listeners.iter().find(|(listener, _)| listener == name).and_then(|(_, bound)| *bound);
        bound.map_or(0, |bound: SocketAddr| bound.port())
    };
    let (https, http) = (port("https"), port("http"));
    let (file, ca, admin) = (file.display(), certificates.join("ca.crt"), admin.display());
    let ca = ca.display();
    let program = std::env::current_exe().map_or_else(|_| "portcullis".to_owned(), |path| path.display().to_string());
    println!(
        "\nportcullis is serving a demo shop from {file}\n\
         \n  try:\n\
         \n    curl --cacert {ca} https://localhost:{https}/\
         \n    curl --cacert {ca} https://localhost:{https}/anything -H 'X-Hello: world'\
         \n    curl -i http://localhost:{http}/old\
         \n    {program} explain GET https://localhost:{https}/ping --admin {admin}\n\
         \n  Edit and save the file: the change is live. Ctrl-C ends the demo.\n"
    );
}
