//! HBONE: streams of octets as ztunnel and Istio carry them, between sidecars of ours and with Envoy at either end.

use crate::{
    mesh::anyone,
    support::{
        client::{Client, tls},
        gateway::Gateway,
        have,
        mesh::{Mesh, allow, workload_table},
        origin::Origin,
    },
};
use serde_json::{Value, json};
use std::{net::SocketAddr, path::Path, process::Stdio, sync::Arc, time::Duration};
use tokio::process::{Child, Command};

const LISTENER: &str = "[defaults]\nwaf = { mode = \"off\" }\n[listener.hbone]\naddress = \"127.0.0.1:0\"\ndirection = \"inbound\"\nhbone = true\n";

/// The sidecar of `api`, which takes HBONE for its application's ports.
async fn api(mesh: &Mesh, rules: &str) -> Gateway {
    let folder = tempfile::tempdir().unwrap();
    let config = [&mesh.workload(folder.path(), "acme.lab/api"), LISTENER, rules].concat();
    Gateway::start_in(folder, &config).await
}

/// The sidecar of `cart`, which calls `api` at `endpoint` by HBONE on `port`.
async fn cart(mesh: &Mesh, endpoint: SocketAddr, port: u16) -> Gateway {
    let folder = tempfile::tempdir().unwrap();
    let calls = format!(
        "[listener.outbound]\naddress = \"127.0.0.1:0\"\ndirection = \"outbound\"\nto = \"api\"\n\
         [service.api]\nnamespace = \"acme.lab\"\nupstream = \"api\"\nhbone = {port}\n\
         [upstream.api]\nendpoints = [\"{endpoint}\"]\nconnect_timeout = \"10s\"\n"
    );
    let config = [mesh.workload(folder.path(), "acme.lab/cart"), calls].concat();
    Gateway::start_in(folder, &config).await
}

#[tokio::test]
async fn streams_go_to_the_port_that_they_ask_for_if_a_rule_lets_them() {
    let mesh = Mesh::new();
    let (app, other) = (Origin::fixed("hello").await, Origin::fixed("other").await);
    let rule = allow("cart", "service:cart") + &format!("match = {{ ports = [{}] }}\n", app.addr.port());
    let api = api(&mesh, &rule).await;
    let port = api.addr("hbone").port();
    let cart_to = async |endpoint| cart(&mesh, endpoint, port).await;
    let allowed = cart_to(app.addr).await;
    assert_eq!(Client::connect(allowed.addr("outbound")).await.get("api", "/").await.text(), "hello");
    let (_, status) = allowed.admin("GET", "/mesh", "").await;
    assert!(status["peers"][0]["protocol"] == "hbone" && status["peers"][0]["security"] == "mtls", "{status}");
    api.counts("portcullis_mesh_refusals_total", &["inbound"], 0.0).await;
    let forbidden = cart_to(other.addr).await;
    let mut client = Client::connect(forbidden.addr("outbound")).await;
    let _ = client.try_send("GET / HTTP/1.1\r\nHost: api\r\n\r\n").await;
    assert!(client.try_response(true).await.is_none());
    api.counts("portcullis_mesh_refusals_total", &["inbound", "mesh_denied"], 1.0).await;
    assert!(other.requests().is_empty());
}

#[tokio::test]
async fn a_stream_for_another_address_and_what_is_no_connect_are_refused() {
    let mesh = Mesh::new();
    let app = Origin::fixed("hello").await;
    let api = api(&mesh, &allow("all", "*")).await;
    let mut config = anyone(&mesh.leaf("acme.lab/cart"));
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = tls(api.addr("hbone"), "api.acme.lab", Arc::new(config)).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (send, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let port = app.addr.port();
    for (method, target, status) in [
        ("CONNECT", format!("127.0.0.1:{port}"), 200),
        ("CONNECT", format!("127.0.0.2:{port}"), 403),
        ("CONNECT", format!("localhost:{port}"), 403),
        ("CONNECT", "127.0.0.1:0".to_owned(), 403),
        ("GET", format!("http://127.0.0.1:{port}/"), 405),
    ] {
        let request = http::Request::builder().method(method).uri(&target).body(()).unwrap();
        let (answer, _stream) = send.clone().ready().await.unwrap().send_request(request, method == "GET").unwrap();
        assert_eq!(answer.await.unwrap().status().as_u16(), status, "{method} {target}");
    }
    api.counts("portcullis_mesh_refusals_total", &["inbound", "not_this_workload"], 3.0).await;
    // Our own way of carrying is no HBONE.
    let mut config = anyone(&mesh.leaf("acme.lab/cart"));
    config.alpn_protocols = vec![b"mesh-tunnel".to_vec()];
    assert!(tls(api.addr("hbone"), "api.acme.lab", Arc::new(config)).await.is_err());
}

#[tokio::test]
async fn hbone_where_it_has_no_effect_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let mesh = Mesh::new();
    mesh.workload(folder.path(), "acme.lab/api");
    let listener =
        |more: &str| format!("{}[listener.a]\naddress = \"127.0.0.1:0\"\n{more}", workload_table("acme.lab/api"));
    for (config, words) in [
        (listener("direction = \"outbound\"\nhbone = true\n"), "is about what comes in"),
        (
            listener("direction = \"inbound\"\nhbone = true\ncapture = \"redirect\"\n"),
            "no effect where streams come by HBONE",
        ),
        (
            listener("direction = \"inbound\"\nhbone = true\nopaque_ports = [1]\n"),
            "no effect where streams come by HBONE",
        ),
        (listener("protocol = \"http\"\nhbone = true\n"), "only on a sidecar's listener"),
    ] {
        std::fs::write(folder.path().join("a.toml"), config).unwrap();
        let (code, text) = crate::support::gateway::run_in(folder.path(), &["check", "a.toml"]).await;
        assert!(code == 1 && text.contains(words), "{words}: {text}");
    }
}

/// The program named by ENVOY, or found; `None`, aloud, when there is none.
fn envoy() -> Option<std::ffi::OsString> {
    std::env::var_os("ENVOY").or_else(|| have("envoy").then(|| "envoy".into()))
}

fn address(at: SocketAddr) -> Value {
    json!({ "socket_address": { "address": at.ip().to_string(), "port_value": at.port() } })
}

fn envoy_tls(kind: &str, peer: &str) -> Value {
    let api = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3";
    json!({ "name": "tls", "typed_config": {
        "@type": format!("{api}.{kind}TlsContext"),
        "common_tls_context": {
            "alpn_protocols": ["h2"],
            "tls_params": { "tls_maximum_protocol_version": "TLSv1_3" },
            "tls_certificates": [{ "certificate_chain": { "filename": "svid.crt" }, "private_key": { "filename": "svid.key" } }],
            "validation_context": {
                "trusted_ca": { "filename": "bundle.crt" },
                "match_typed_subject_alt_names": [{ "san_type": "URI", "matcher": { "exact": Mesh::id(peer) } }],
            },
        },
    }})
}

fn cluster(name: &str, at: SocketAddr, tls: Option<Value>) -> Value {
    let mut cluster = json!({ "name": name, "type": "STATIC", "connect_timeout": "5s", "load_assignment": { "cluster_name": name,
        "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": address(at) } }] }] } });
    if let Some(tls) = tls {
        cluster["transport_socket"] = tls;
        cluster["typed_extension_protocol_options"] = json!({ "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": { "http2_protocol_options": {} } } });
    }
    cluster
}

async fn start_envoy(program: &std::ffi::OsStr, folder: &Path, listens: SocketAddr, config: Value) -> Child {
    std::fs::write(folder.join("envoy.json"), config.to_string()).unwrap();
    let log = std::fs::File::create(folder.join("envoy.log")).unwrap();
    let mut command = Command::new(program);
    command.args(["-c", "envoy.json", "--concurrency", "1", "-l", "info", "--disable-hot-restart"]).current_dir(folder);
    let child = command.stdout(Stdio::null()).stderr(log).kill_on_drop(true).spawn().unwrap();
    crate::support::eventually("Envoy listens", async || tokio::net::TcpStream::connect(listens).await.ok().map(drop))
        .await;
    child
}

/// Envoy takes no port 0 whose number it would tell without an admin interface: one that was free a moment ago.
fn free() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn envoy_calls_by_hbone_and_is_known_by_its_identity() {
    let Some(program) = envoy() else { return };
    let mesh = Mesh::new();
    let app = Origin::fixed("hello").await;
    let api = api(&mesh, &allow("cart", "service:cart")).await;
    for (who, text) in [("acme.lab/cart", Some("hello")), ("acme.lab/other", None)] {
        let (folder, at) = (tempfile::tempdir().unwrap(), free());
        mesh.workload(folder.path(), who);
        let proxy = json!({ "name": "t", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", "stat_prefix": "t", "cluster": "hbone",
            "tunneling_config": { "hostname": app.addr.to_string() } } });
        let config = json!({ "static_resources": {
            "listeners": [{ "name": "l", "address": address(at), "filter_chains": [{ "filters": [proxy] }] }],
            "clusters": [cluster("hbone", api.addr("hbone"), Some(envoy_tls("Upstream", "acme.lab/api")))] } });
        let _envoy = start_envoy(&program, folder.path(), at, config).await;
        let mut client = Client::connect(at).await;
        let _ = client.try_send("GET / HTTP/1.1\r\nHost: api\r\n\r\n").await;
        let answer = client.try_response(false).await.map(|answer| answer.text());
        let log = || std::fs::read_to_string(folder.path().join("envoy.log")).unwrap_or_default();
        assert_eq!(answer.as_deref(), text, "{who}\n{}\n{}", api.log(), log());
    }
}

#[tokio::test]
async fn envoy_takes_what_we_send_by_hbone() {
    let Some(program) = envoy() else { return };
    let mesh = Mesh::new();
    let app = Origin::fixed("hello").await;
    let (folder, at) = (tempfile::tempdir().unwrap(), free());
    mesh.workload(folder.path(), "acme.lab/api");
    let manager = json!({ "name": "h", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "h", "codec_type": "HTTP2",
        "http2_protocol_options": { "allow_connect": true },
        "route_config": { "virtual_hosts": [{ "name": "v", "domains": ["*"], "routes": [{
            "match": { "connect_matcher": {} },
            "route": { "cluster": "app", "upgrade_configs": [{ "upgrade_type": "CONNECT", "connect_config": {} }] } }] }] },
        "http_filters": [{ "name": "e", "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" } }] } });
    let mut tls = envoy_tls("Downstream", "acme.lab/cart");
    tls["typed_config"]["require_client_certificate"] = json!(true);
    let config = json!({ "static_resources": {
        "listeners": [{ "name": "l", "address": address(at), "filter_chains": [{ "filters": [manager], "transport_socket": tls }] }],
        "clusters": [cluster("app", app.addr, None)] } });
    let _envoy = start_envoy(&program, folder.path(), at, config).await;
    let cart = cart(&mesh, app.addr, at.port()).await;
    let log = || std::fs::read_to_string(folder.path().join("envoy.log")).unwrap_or_default();
    let mut client = Client::connect(cart.addr("outbound")).await;
    let _ = client.try_send("GET / HTTP/1.1\r\nHost: api\r\n\r\n").await;
    let answer = client.try_response(false).await.map(|answer| answer.text());
    assert_eq!(answer.as_deref(), Some("hello"), "{}\n{}", cart.log(), log());
}

const ZTUNNEL: &str = include_str!("mesh_ztunnel.sh");

/// `ZTUNNEL` names the program, built from its sources with `--features testing`; `ZTUNNEL_CA` the folder of the authority that it then
/// has inside (`src/tls`).
#[tokio::test]
async fn ztunnel_takes_what_we_send_by_hbone_and_is_taken() {
    let (Some(program), Some(authority)) = (std::env::var_os("ZTUNNEL"), std::env::var_os("ZTUNNEL_CA")) else {
        eprintln!("NOT CHECKED: ZTUNNEL and ZTUNNEL_CA name no ztunnel");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("inside.sh"), ZTUNNEL).unwrap();
    let mut command = tokio::process::Command::new("unshare");
    command
        .args(["-Urnpf", "--mount-proc", "--kill-child", "sh", "inside.sh"])
        .args([program, authority])
        .arg(env!("CARGO_BIN_EXE_mesh-proxy"));
    command.current_dir(folder.path()).kill_on_drop(true);
    let output = tokio::time::timeout(Duration::from_secs(110), command.output()).await.expect("it ends").unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    let expected = "to ztunnel: whole\nknown by identity\nfrom ztunnel: whole\nno rule, no way\n";
    assert_eq!(told, expected, "{}", String::from_utf8_lossy(&output.stderr));
}
