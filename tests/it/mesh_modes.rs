//! Modes on the wire: what each lets in of a sidecar's TLS, of an application's, and of clear text, from its own global namespace and
//! from another one.

use crate::support::{
    authority::Authority,
    client::{Client, tls_config},
    gateway::Gateway,
    mesh::{Mesh, allow, workload_table},
    origin::{ok, serve},
};
use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// An application that speaks TLS and clear text on one port.
async fn application(ca: &Authority) -> SocketAddr {
    let acceptor = ca.leaf(&["app.test"]).acceptor(&[]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut first = [0];
                if stream.peek(&mut first).await.is_ok_and(|read| read == 1 && first[0] == 22) {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    serve(stream, &|_| ok("by TLS"), &Arc::default()).await;
                } else {
                    serve(stream, &|_| ok("in clear"), &Arc::default()).await;
                }
            });
        }
    });
    address
}

/// Workloads of the namespace `bank` are at this address; who is of no listed one is taken for one of ours.
const BANK: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const OURS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);

async fn from(source: Ipv4Addr, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((source, 0).into()).unwrap();
    socket.connect(to).await.unwrap()
}

/// What is heard; `None`: the connection is closed without a word.
async fn ask(mut client: Client) -> Option<String> {
    client.try_send("GET / HTTP/1.1\r\nHost: api.acme.lab\r\n\r\n").await.ok()?;
    client.try_response(false).await.map(|answer| answer.text())
}

async fn by_app_tls(ca: &Authority, source: Ipv4Addr, to: SocketAddr) -> Option<String> {
    let connector = tokio_rustls::TlsConnector::from(tls_config(&ca.certificate_pem, &["http/1.1"]));
    let stream = connector.connect("app.test".try_into().unwrap(), from(source, to).await).await.ok()?;
    ask(Client::over(stream)).await
}

async fn api(mesh: &Mesh, app: SocketAddr, mode: &str) -> Gateway {
    let folder = tempfile::tempdir().unwrap();
    let workload = mesh.workload(folder.path(), "acme.lab/api");
    let config = format!("{workload}{}{mode}{}", crate::support::mesh::inbound(app), allow("all", "*"));
    Gateway::start_in(folder, &config).await
}

#[tokio::test]
async fn all_eighteen_cells_of_the_table_on_the_wire() {
    let (mesh, ca) = (Mesh::new(), Authority::new("app"));
    let app = application(&ca).await;
    for mode in ["strict", "permissive", "off"] {
        let api = api(&mesh, app, &format!("[mtls]\nmode = \"{mode}\"\naddresses = {{ bank = [\"{BANK}\"] }}\n")).await;
        let to = api.addr("inbound");
        // A caller's own mode would have it speak in the clear; here it is about what is let in.
        for who in ["acme.lab/cart", "bank/teller"] {
            let caller = mesh.client(who, "acme.lab/api", to, "").await;
            let heard = ask(Client::connect(caller.addr("outbound")).await).await;
            assert_eq!(heard.as_deref(), Some("in clear"), "{mode}: a sidecar's TLS, {who}\n{}", api.log());
        }
        for source in [OURS, BANK] {
            let (refusal_of_tls, refusal_of_clear) = match (mode, source) {
                ("strict", _) => (Some("app_tls_in_strict"), Some("clear_in_strict")),
                (_, BANK) => (Some("not_mesh_across_namespaces"), Some("not_mesh_across_namespaces")),
                _ => (None, None),
            };
            let wires = [
                ("an application's TLS", by_app_tls(&ca, source, to).await, refusal_of_tls, "by TLS"),
                ("clear text", ask(Client::over(from(source, to).await)).await, refusal_of_clear, "in clear"),
            ];
            for (wire, heard, refusal, text) in wires {
                let expected = if refusal.is_none() { Some(text) } else { None };
                assert_eq!(heard.as_deref(), expected, "{mode}: {wire} from {source}\n{}", api.log());
            }
        }
        let counts: &[(&str, f64)] = match mode {
            "strict" => &[("app_tls_in_strict", 2.0), ("clear_in_strict", 2.0), ("not_mesh_across_namespaces", 0.0)],
            _ => &[("app_tls_in_strict", 0.0), ("clear_in_strict", 0.0), ("not_mesh_across_namespaces", 2.0)],
        };
        for (reason, count) in counts {
            api.counts("portcullis_mesh_refusals_total", &["inbound", reason], *count).await;
        }
    }
}

#[tokio::test]
async fn a_connection_from_what_becomes_another_namespace_does_not_stay() {
    let (mesh, ca) = (Mesh::new(), Authority::new("app"));
    let app = application(&ca).await;
    let mut api = api(&mesh, app, "[mtls]\nmode = \"permissive\"\n").await;
    let mut client = Client::over(from(BANK, api.addr("inbound")).await);
    assert_eq!(client.get("api", "/").await.text(), "in clear");
    let listed = format!("[mtls]\nmode = \"permissive\"\naddresses = {{ bank = [\"{BANK}\"] }}\n");
    let config =
        [&workload_table("acme.lab/api"), &crate::support::mesh::inbound(app)[..], &listed, &allow("all", "*")];
    assert_eq!(api.reload(&config.concat()).await.0, 200);
    assert!(client.closed(std::time::Duration::from_secs(10)).await);
}

#[tokio::test]
async fn the_nearest_mode_is_that_of_the_port_then_the_service_then_the_namespace() {
    let (mesh, ca) = (Mesh::new(), Authority::new("app"));
    let app = application(&ca).await;
    for (keys, is_let_in) in [
        ("mode = \"strict\"", false),
        ("mode = \"strict\"\nnamespaces = { \"acme.lab\" = \"permissive\" }", true),
        ("mode = \"strict\"\nnamespaces = { bank = \"permissive\" }", false),
        ("mode = \"permissive\"\nservices = { api = \"strict\" }", false),
        ("mode = \"strict\"\nnamespaces = { \"acme.lab\" = \"strict\" }\nservices = { api = \"off\" }", true),
        ("mode = \"permissive\"\nports = { PORT = \"strict\" }\nservices = { api = \"off\" }", false),
        ("mode = \"strict\"\nports = { PORT = \"off\" }\nservices = { api = \"strict\" }", true),
    ] {
        let keys = keys.replace("PORT", &format!("\"{}\"", app.port()));
        let api = api(&mesh, app, &format!("[mtls]\n{keys}\n")).await;
        let heard = ask(Client::connect(api.addr("inbound")).await).await;
        assert_eq!(heard.is_some(), is_let_in, "{keys}");
    }
}
