//! Endpoints that come and go while clients are served.

use crate::support::{
    client::Client,
    eventually,
    gateway::{Gateway, run_in},
    origin::Origin,
};
use serde_json::json;
use std::{
    net::Ipv4Addr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::net::UdpSocket;

/// A name server that knows one name: the addresses that the test gives it, for a second each.
async fn name_server(addresses: Arc<Mutex<Vec<Ipv4Addr>>>) -> std::net::SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let own = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut query = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut query).await {
            let reply = answer(&query[..length], &addresses.lock().unwrap());
            let _ = socket.send_to(&reply, from).await;
        }
    });
    own
}

/// RFC 1035 §4: the question again, and for type A its addresses.
fn answer(query: &[u8], addresses: &[Ipv4Addr]) -> Vec<u8> {
    let name_end = 12 + query[12..].iter().position(|octet| *octet == 0).unwrap();
    let (question_end, kind) = (name_end + 5, query[name_end + 2]);
    let addresses = if kind == 1 { addresses } else { &[] };
    let mut reply = query[..2].to_vec();
    reply.extend([0x85, 0x80, 0, 1, 0, u8::try_from(addresses.len()).unwrap(), 0, 0, 0, 0]);
    reply.extend(&query[12..question_end]);
    for address in addresses {
        reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
        reply.extend(address.octets());
    }
    reply
}

/// Clients that ask without pause until told to stop; what failed and what was answered.
struct Load {
    stop: Arc<AtomicBool>,
    failed: Arc<AtomicUsize>,
    answered: Arc<AtomicUsize>,
    tasks: tokio::task::JoinSet<()>,
}

impl Load {
    fn start(gateway: &Gateway) -> Self {
        let (stop, failed, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default(), Arc::default());
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let (stop, failed, answered) = (stop.clone(), failed.clone(), Arc::clone(&answered));
            let address = gateway.addr("http");
            tasks.spawn(async move {
                let mut client = Client::connect(address).await;
                while !stop.load(SeqCst) {
                    let good = client.get("a", "/").await.status == 200;
                    if good { &answered } else { &failed }.fetch_add(1, SeqCst);
                }
            });
        }
        Self { stop, failed, answered, tasks }
    }

    async fn end(mut self) -> (usize, usize) {
        self.stop.store(true, SeqCst);
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
        (self.failed.load(SeqCst), self.answered.load(SeqCst))
    }
}

async fn body(gateway: &Gateway) -> String {
    Client::connect(gateway.addr("http")).await.get("a", "/").await.text()
}

#[tokio::test]
async fn dns_answers_come_and_go_and_no_request_fails() {
    let first = Origin::fixed("first").await;
    let port = first.addr.port();
    // The same port on another loopback address is another endpoint of the same name.
    let second = Origin::on(tokio::net::TcpListener::bind(("127.0.0.2", port)).await.unwrap(), |_| {
        crate::support::origin::ok("second")
    });
    let addresses = Arc::new(Mutex::new(vec![Ipv4Addr::new(127, 0, 0, 1)]));
    let server = name_server(addresses.clone()).await;
    let config = |extra: &str| {
        format!(
            "[listener.http]\naddress = \"127.0.0.1:0\"\n[discovery.lab]\ndns = {{ servers = [\"{server}\"], min_ttl = \"100ms\" }}\n\
             [upstream.app]\ndiscover = {{ dns = \"app.test:{port}\", family = \"ipv4\", through = \"lab\" }}\n{extra}\n[route.app]\nupstream = \"app\"\n"
        )
    };
    let mut gateway = Gateway::start(&config("")).await;
    assert_eq!(body(&gateway).await, "first", "the first answer was awaited");
    let load = Load::start(&gateway);
    for (now, only) in [(2, "second"), (1, "first"), (2, "second")] {
        *addresses.lock().unwrap() = vec![Ipv4Addr::new(127, 0, 0, now)];
        eventually(only, async || (body(&gateway).await == only).then_some(())).await;
    }
    *addresses.lock().unwrap() = vec![Ipv4Addr::new(127, 0, 0, 1), Ipv4Addr::new(127, 0, 0, 2)];
    eventually("both", async || {
        let bodies = [body(&gateway).await, body(&gateway).await];
        (bodies.contains(&"first".to_owned()) && bodies.contains(&"second".to_owned())).then_some(())
    })
    .await;
    assert_eq!(gateway.reload(&config("balance.policy = \"random\"")).await.0, 200);
    // The name is gone: what was known is kept for its grace.
    addresses.lock().unwrap().clear();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(!body(&gateway).await.is_empty());
    let (failed, answered) = load.end().await;
    assert!(failed == 0 && answered > 100, "{failed} of {answered} failed");
    assert!(second.requests().len() > 10);
    let status = gateway.admin("GET", "/status", "").await.1;
    assert_eq!(status["discovery"][0]["endpoints"], 2, "{}", status["discovery"]);
}

#[tokio::test]
async fn a_file_that_something_else_writes() {
    let (first, second) = (Origin::fixed("first").await, Origin::fixed("second").await);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("app.toml");
    let write = |text: &str| {
        let beside = file.with_extension("new");
        std::fs::write(&beside, text).unwrap();
        std::fs::rename(beside, &file).unwrap();
    };
    write(&format!("endpoints = [\"{}\"]\n", first.addr));
    let config = "[listener.http]\naddress = \"127.0.0.1:0\"\n[upstream.app]\ndiscover.file = \"app.toml\"\nhealth_check = { path = \"/healthz\", interval = \"200ms\" }\n[route.app]\nupstream = \"app\"\n";
    let gateway = Gateway::start_in(folder, config).await;
    assert_eq!(body(&gateway).await, "first");
    let load = Load::start(&gateway);
    write(&format!("endpoints = [{{ address = \"{}\", weight = 5 }}]\n", second.addr));
    eventually("the second one", async || (body(&gateway).await == "second").then_some(())).await;
    write("endpoints = [\"nonsense");
    eventually("the trouble is told", async || {
        let status = gateway.admin("GET", "/status", "").await.1;
        status["discovery"][0]["trouble"].is_string().then_some(())
    })
    .await;
    assert_eq!(body(&gateway).await, "second", "a broken file keeps the old set");
    let (failed, answered) = load.end().await;
    assert!(failed == 0 && answered > 50, "{failed} of {answered} failed");
    assert!(second.requests().iter().any(|seen| seen.path() == "/healthz"), "found endpoints are probed");
    let series = gateway.metrics().await;
    assert!(!series.contains(&format!("portcullis_endpoint_up{{endpoint=\"{}\"", first.addr)), "its series are gone");
}

#[tokio::test]
async fn a_registry_is_asked_over_http_and_what_it_cannot_say_changes_nothing() {
    let (first, second) = (Origin::fixed("first").await, Origin::fixed("second").await);
    let list = Arc::new(Mutex::new(format!("{{\"endpoints\":[\"{}\"]}}", first.addr)));
    let said = list.clone();
    let registry = Origin::start(move |_| crate::support::origin::ok(&said.lock().unwrap())).await;
    let config = format!(
        "[listener.http]\naddress = \"127.0.0.1:0\"\n[upstream.app]\ndiscover = {{ http = \"http://{}/app\", interval = \"1s\" }}\n[route.app]\nupstream = \"app\"\n",
        registry.addr
    );
    let gateway = Gateway::start(&config).await;
    assert_eq!(body(&gateway).await, "first");
    assert_eq!(registry.last().path(), "/app");
    *list.lock().unwrap() = format!("{{\"endpoints\":[\"{}\"]}}", second.addr);
    eventually("the other endpoint", async || (body(&gateway).await == "second").then_some(())).await;
    let asked = registry.requests().len();
    *list.lock().unwrap() = "<html>".to_owned();
    eventually("another question", async || (registry.requests().len() > asked + 1).then_some(())).await;
    assert_eq!(body(&gateway).await, "second");
}

#[tokio::test]
async fn while_a_reload_waits_for_dns_everything_else_goes_on() {
    let (first, second) = (Origin::fixed("first").await, Origin::fixed("second").await);
    let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("app.toml");
    std::fs::write(&file, format!("endpoints = [\"{}\"]\n", first.addr)).unwrap();
    let before = "[listener.http]\naddress = \"127.0.0.1:0\"\n[upstream.app]\ndiscover.file = \"app.toml\"\n[route.app]\nupstream = \"app\"\n";
    let after = format!(
        "{before}[discovery.lab]\ndns.servers = [\"{}\"]\n[upstream.more]\ndiscover = {{ dns = \"more.test:80\", family = \"ipv4\", through = \"lab\" }}\n",
        server.local_addr().unwrap()
    );
    let gateway = Gateway::start_in(folder, before).await;
    assert_eq!(body(&gateway).await, "first");
    gateway.write(&after);
    let reload = gateway.admin("POST", "/reload", "");
    let meanwhile = async {
        let mut query = [0; 512];
        let (length, from) = server.recv_from(&mut query).await.unwrap();
        for _ in 0..3 {
            assert_eq!(gateway.admin("GET", "/status", "").await.0, 200);
        }
        let diff = json!({ "files": [gateway.path().join("edge.toml")] }).to_string();
        assert_eq!(gateway.admin("POST", "/diff", &diff).await.0, 200);
        // Endpoints of another upstream change just now: the reload must not bring the old ones back.
        std::fs::write(&file, format!("endpoints = [\"{}\"]\n", second.addr)).unwrap();
        eventually("the second one", async || (body(&gateway).await == "second").then_some(())).await;
        let _ = server.send_to(&answer(&query[..length], &[Ipv4Addr::new(127, 0, 0, 9)]), from).await;
    };
    let both = async { tokio::join!(reload, meanwhile) };
    let ((status, answer), ()) =
        tokio::time::timeout(Duration::from_secs(30), both).await.expect("the control runtime is stuck");
    assert_eq!(status, 200, "{answer}");
    assert_eq!(body(&gateway).await, "second");
    let status = gateway.admin("GET", "/status", "").await.1;
    assert_eq!(status["upstreams"].as_array().map(Vec::len), Some(2), "{status}");
}

#[tokio::test]
async fn discovery_that_cannot_work_is_refused_at_check() {
    let folder = tempfile::tempdir().unwrap();
    for (upstream, message) in [
        ("", "has no endpoints"),
        ("discover = {}", "discover"),
        ("discover = { dns = \"app.test\" }", "port"),
        ("discover = { dns = \"app.test:80\", file = \"x\" }", "exclude"),
        ("discover = { http = \"https://r.test/\", file = \"x\" }", "exclude"),
        ("discover = { http = \"http://r.test/\" }", "in the clear"),
        ("discover = { http = \"https://r.test/\", interval = \"1ms\" }", "every 1s"),
        ("discover = { http = \"https://r.test/\", grace = \"1s\" }", "no effect with `http`"),
        ("discover = { file = \"x\", interval = \"5s\" }", "`interval` is for `http`"),
        ("discover = { dns = \"app.test:80\", through = \"lab\" }", "lab"),
        ("discover = { consul = \"app\" }", "not supported by this version"),
        (
            "endpoints = [\"127.0.0.1:1\"]\nhealth_check = { path = \"/\", tls_expiry = \"14d\" }",
            "has no effect on an upstream without `tls`",
        ),
    ] {
        let text = format!(
            "[listener.http]\naddress = \"127.0.0.1:0\"\n[upstream.app]\n{upstream}\n[route.app]\nupstream = \"app\"\n"
        );
        std::fs::write(folder.path().join("edge.toml"), text).unwrap();
        let (code, out) = run_in(folder.path(), &["check", "edge.toml"]).await;
        assert!(code == 1 && out.contains(message), "{message}\n{out}");
    }
}
