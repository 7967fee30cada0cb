//! Tunnels that are open while the policy changes under them.

use crate::support::{
    client::{Client, tls_config},
    eventually,
    gateway::Gateway,
    outside::Outside,
};
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const NAMES: [&str; 2] = ["stays.test", "goes.test"];

fn config(outside: &Outside, gateway: &std::path::Path, to: &str, until: &str) -> String {
    let port = outside.clear.addr.port();
    let destination = |name: &str| {
        format!(
            "[destination.{name}]\nhosts = [\"{name}.test\"]\nports = [{port}]\nprotocol = \"opaque\"\n\
             private_addresses = [\"127.0.0.0/8\"]\n"
        )
    };
    let egress = outside.config(gateway).replace("[egress]\n", "[egress]\ndrain = \"200ms\"\n");
    format!(
        "{egress}[listener.out]\naddress = \"127.0.0.1:0\"\nprotocol = \"proxy\"\nlimits = {{ connections_per_ip = 5000 }}\n{}{}\
         [access.stays]\nfrom = [\"*\"]\nto = [\"destination:stays\"]\naction = \"allow\"\n\
         [access.goes]\nfrom = [\"*\"]\nto = [{to}]\naction = \"allow\"\n{until}",
        destination("stays"),
        destination("goes"),
    )
}

/// An open tunnel to an origin that echoes requests.
async fn tunnel(gateway: &Gateway, name: &str, port: u16) -> TcpStream {
    let mut stream = TcpStream::connect(gateway.addr("out")).await.unwrap();
    stream.write_all(format!("CONNECT {name}.test:{port} HTTP/1.1\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = [0; 39];
    stream.read_exact(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200 "), "{name}");
    stream
}

async fn is_alive(stream: &mut TcpStream) -> bool {
    if stream.write_all(b"GET /alive HTTP/1.1\r\nHost: x\r\n\r\n").await.is_err() {
        return false;
    }
    let mut answer = [0; 512];
    matches!(stream.read(&mut answer).await, Ok(1..))
}

#[tokio::test]
async fn a_new_policy_cuts_the_tunnels_it_forbids_and_no_others() {
    let outside = Outside::start(&NAMES).await;
    let folder = tempfile::tempdir().unwrap();
    let both = config(&outside, folder.path(), "\"destination:goes\"", "");
    let mut gateway = Gateway::start_in(folder, &both).await;
    let port = outside.clear.addr.port();
    let (mut stays, mut goes) = (tunnel(&gateway, "stays", port).await, tunnel(&gateway, "goes", port).await);
    assert!(is_alive(&mut stays).await && is_alive(&mut goes).await);
    let narrowed = config(&outside, gateway.path(), "\"destination:stays\"", "");
    assert_eq!(gateway.reload(&narrowed).await.0, 200);
    let mut rest = Vec::new();
    let end = tokio::time::timeout(Duration::from_secs(10), goes.read_to_end(&mut rest)).await.expect("it is cut");
    assert!(end.is_err() || rest.is_empty(), "cut short, and not like one that was done: {end:?}");
    gateway.counts("portcullis_egress_refusals_total", &["goes", "policy_changed"], 1.0).await;
    assert!(is_alive(&mut stays).await);
    let mut client = Client::connect(gateway.addr("out")).await;
    client.send(format!("CONNECT goes.test:{port} HTTP/1.1\r\n\r\n")).await;
    assert_eq!(client.response().await.status, 403);
    // Without any way out nothing goes out.
    gateway.write("[listener.web]\naddress = \"127.0.0.1:0\"\n");
    assert_eq!(gateway.admin("POST", "/reload", "").await.0, 200);
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(10), stays.read_to_end(&mut rest)).await.expect("it is cut");
}

#[tokio::test]
async fn a_policy_that_comes_while_a_client_is_waited_for_holds_for_its_tunnel() {
    let outside = Outside::start(&NAMES).await;
    let folder = tempfile::tempdir().unwrap();
    let hello_first = |to: &str, folder: &std::path::Path| {
        config(&outside, folder, to, "")
            .replace("protocol = \"opaque\"", "protocol = \"tls\"")
            .replace(&format!("ports = [{}]", outside.clear.addr.port()), &format!("ports = [{}]", outside.tls.port()))
    };
    let both = hello_first("\"destination:goes\"", folder.path());
    let mut gateway = Gateway::start_in(folder, &both).await;
    // It is allowed and open, and nothing was said in it so far.
    let stream = tunnel(&gateway, "goes", outside.tls.port()).await;
    let narrowed = hello_first("\"destination:stays\"", gateway.path());
    assert_eq!(gateway.reload(&narrowed).await.0, 200);
    let connector = tokio_rustls::TlsConnector::from(tls_config(&outside.ca.certificate_pem, &[]));
    let ends = async {
        // The hello may get through before it is cut; what follows it does not go on.
        if let Ok(mut inner) = connector.connect("goes.test".try_into().unwrap(), stream).await {
            let _ = inner.read_to_end(&mut Vec::new()).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), ends).await.expect("it is cut");
    gateway.counts("portcullis_egress_refusals_total", &["goes", "policy_changed"], 1.0).await;
}

#[tokio::test]
async fn a_policy_that_takes_a_tunnel_back_within_the_window_saves_it() {
    let outside = Outside::start(&NAMES).await;
    let folder = tempfile::tempdir().unwrap();
    let long = |to: &str, folder: &std::path::Path| {
        config(&outside, folder, to, "").replace("drain = \"200ms\"", "drain = \"1h\"")
    };
    let both = long("\"destination:goes\"", folder.path());
    let mut gateway = Gateway::start_in(folder, &both).await;
    let mut goes = tunnel(&gateway, "goes", outside.clear.addr.port()).await;
    let narrowed = long("\"destination:stays\"", gateway.path());
    assert_eq!(gateway.reload(&narrowed).await.0, 200);
    assert!(is_alive(&mut goes).await, "the window is an hour");
    assert_eq!(gateway.reload(&both).await.0, 200);
    assert!(is_alive(&mut goes).await);
}

#[tokio::test]
async fn the_end_of_a_grant_is_the_end_of_its_tunnels() {
    let outside = Outside::start(&NAMES).await;
    let folder = tempfile::tempdir().unwrap();
    let endless = config(&outside, folder.path(), "\"destination:goes\"", "");
    let mut gateway = Gateway::start_in(folder, &endless).await;
    let port = outside.clear.addr.port();
    let (mut stays, mut goes) = (tunnel(&gateway, "stays", port).await, tunnel(&gateway, "goes", port).await);
    assert!(is_alive(&mut goes).await);
    // An end that is given while they are open: however slow the machine is, they were opened.
    let soon = time::OffsetDateTime::now_utc() + Duration::from_secs(2);
    let soon = soon.format(&time::format_description::well_known::Rfc3339).unwrap();
    let ending = config(&outside, gateway.path(), "\"destination:goes\"", &format!("until = \"{soon}\"\n"));
    assert_eq!(gateway.reload(&ending).await.0, 200);
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(10), goes.read_to_end(&mut rest)).await.expect("it is cut");
    gateway.counts("portcullis_egress_refusals_total", &["goes", "expired"], 1.0).await;
    assert!(is_alive(&mut stays).await);
    let mut client = Client::connect(gateway.addr("out")).await;
    client.send(format!("CONNECT goes.test:{port} HTTP/1.1\r\n\r\n")).await;
    assert!(client.response().await.text().contains("\"reason\":\"expired\""));
}

/// Three descriptors a tunnel, in this process and in the gateway, and some to spare.
fn affordable(wanted: u32) -> u32 {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let soft: u32 = files.split_ascii_whitespace().nth(3).unwrap().parse().unwrap_or(u32::MAX);
    let most = (soft.saturating_sub(200) / 3).min(wanted);
    if most < wanted {
        eprintln!("NOT CHECKED: {wanted} tunnels, only {most}: {soft} open files are allowed");
    }
    most
}

#[tokio::test]
async fn a_thousand_tunnels_live_through_reloads() {
    let outside = Outside::start(&NAMES).await;
    let folder = tempfile::tempdir().unwrap();
    let both = config(&outside, folder.path(), "\"destination:goes\"", "");
    let mut gateway = Gateway::start_in(folder, &both).await;
    let port = outside.clear.addr.port();
    let count = affordable(1_000);
    let mut tunnels = Vec::new();
    for _ in 0..count {
        tunnels.push(tunnel(&gateway, "stays", port).await);
    }
    gateway.counts("portcullis_egress_tunnels_active", &["stays"], f64::from(count)).await;
    for to in ["\"destination:stays\"", "\"destination:goes\"", "\"destination:stays\""] {
        let next = config(&outside, gateway.path(), to, "");
        assert_eq!(gateway.reload(&next).await.0, 200);
    }
    for (number, stream) in tunnels.iter_mut().enumerate() {
        assert!(is_alive(stream).await, "{number}");
    }
    drop(tunnels);
    eventually("all are counted down", async || {
        (gateway.metric("portcullis_egress_tunnels_active", &["stays"]).await == 0.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_tunnel_in_which_nothing_moves_is_given_up() {
    let outside = Outside::start(&NAMES).await;
    let folder = tempfile::tempdir().unwrap();
    let config = config(&outside, folder.path(), "\"destination:goes\"", "");
    let config = config.replace("drain = \"200ms\"", "idle_timeout = \"300ms\"");
    let gateway = Gateway::start_in(folder, &config).await;
    let mut rests = tunnel(&gateway, "stays", outside.clear.addr.port()).await;
    assert!(is_alive(&mut rests).await);
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(10), rests.read_to_end(&mut rest)).await.expect("it is given up");
    eventually("its record", async || gateway.records().into_iter().find(|record| record["reason"] == "idle")).await;
}
