//! Upstreams that are dead, sick, slow or lie.

use crate::support::{
    authority::Authority,
    client::Client,
    eventually,
    gateway::Gateway,
    origin::{Origin, ok, read_request},
};
use std::{sync::atomic::Ordering::SeqCst, time::Duration};
use tokio::{io::AsyncWriteExt, net::TcpListener};

/// An address that refuses connections.
async fn dead() -> std::net::SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

async fn edge(upstream: &str) -> Gateway {
    Gateway::start(&format!("[listener.http]\naddress = \"127.0.0.1:0\"\n[upstream.app]\n{upstream}\n[route.app]\nupstream = \"app\"\ntimeout = \"1s\"\n")).await
}

async fn statuses(gateway: &Gateway, count: usize) -> Vec<u16> {
    let mut client = Client::connect(gateway.addr("http")).await;
    let mut all = Vec::new();
    for _ in 0..count {
        let response = client.get("a", "/").await;
        all.push(response.status);
        if response.header("connection") == Some("close") {
            client = Client::connect(gateway.addr("http")).await;
        }
    }
    all
}

#[tokio::test]
async fn a_dead_endpoint_costs_no_request_and_a_dead_upstream_says_so_at_once() {
    let origin = Origin::fixed("ok").await;
    let (a, b) = (dead().await, dead().await);
    let gateway = edge(&format!("endpoints = [\"{a}\", \"{}\"]", origin.addr)).await;
    assert_eq!(statuses(&gateway, 20).await, [200; 20]);
    assert_eq!(gateway.metric("portcullis_upstream_retries_total", &[]).await, 3.0, "then it was ejected");
    let gateway = edge(&format!("endpoints = [\"{a}\", \"{b}\"]")).await;
    assert_eq!(statuses(&gateway, 5).await, [502; 5]);
    let record = eventually("it is recorded", async || gateway.records().pop()).await;
    assert_eq!(
        (record["reason"].as_str(), record["ended_by"].as_str(), record["attempts"].as_u64()),
        (Some("connect_refused"), Some("upstream"), Some(2))
    );
}

#[tokio::test]
async fn checks_take_the_sick_out_and_bring_the_well_back() {
    let well = Origin::fixed("well").await;
    let healthy = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    let flag = healthy.clone();
    let moody = Origin::start(move |seen| {
        if seen.path() == "/healthz" && !flag.load(SeqCst) {
            b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n".to_vec()
        } else {
            ok("moody")
        }
    })
    .await;
    let gateway = edge(&format!(
        "endpoints = [\"{}\", \"{}\"]\nhealth_check = {{ path = \"/healthz\", interval = \"100ms\", timeout = \"100ms\", healthy = 2, unhealthy = 2 }}",
        well.addr, moody.addr
    ))
    .await;
    let state = async |wanted: &str| {
        let (_, status) = gateway.admin("GET", "/upstreams", "").await;
        let endpoints = status["upstreams"][0]["endpoints"].as_array().unwrap().clone();
        let moody = endpoints.iter().find(|endpoint| endpoint["address"] == moody.addr.to_string()).unwrap().clone();
        (moody["health"] == wanted).then_some(moody)
    };
    eventually("it is up", async || state("up").await).await;
    healthy.store(false, SeqCst);
    let sick = eventually("it is down", async || state("down").await).await;
    assert_eq!(sick["last_failure"], "status 503");
    let mut client = Client::connect(gateway.addr("http")).await;
    for _ in 0..20 {
        assert_eq!(client.get("a", "/").await.text(), "well");
    }
    healthy.store(true, SeqCst);
    eventually("it is up again", async || state("up").await).await;
    assert_eq!(gateway.metric("portcullis_endpoint_up", &[]).await, 2.0);
}

#[tokio::test]
async fn an_operator_drains_an_endpoint_and_puts_it_back() {
    let (a, b) = (Origin::fixed("a").await, Origin::fixed("b").await);
    let upstream = format!("endpoints = [\"{}\", \"{}\"]\nbalance.policy = \"round_robin\"", a.addr, b.addr);
    let gateway = edge(&upstream).await;
    let (code, out) =
        gateway.command(&["drain", "endpoint", "app", &b.addr.to_string(), "--admin", "admin.sock"]).await;
    assert_eq!(code, 0, "{out}");
    assert_eq!(statuses(&gateway, 10).await, [200; 10]);
    assert_eq!(b.requests().len(), 0);
    let (code, _) =
        gateway.command(&["drain", "endpoint", "app", &b.addr.to_string(), "--undo", "--admin", "admin.sock"]).await;
    assert_eq!(code, 0);
    statuses(&gateway, 10).await;
    assert_eq!(b.requests().len(), 5);
    let (code, out) = gateway.command(&["drain", "endpoint", "app", "10.0.0.1:1", "--admin", "admin.sock"]).await;
    assert!(code == 1 && out.contains("has no endpoint"), "{out}");
}

#[tokio::test]
async fn garbled_answers_become_502_and_never_a_wrong_200() {
    for garbage in [
        &b"garbage\r\n\r\n"[..],
        b"HTTP/1.1 1000 X\r\n\r\n",
        b"HTTP/1.1 99 X\r\n\r\n",
        b"HTTP/1.1 2x0 X\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3, 7\r\n\r\nabcdefg",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 7\r\n\r\nabcdefg",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\nabc",
        b"HTTP/1.1 200 OK\nContent-Length: 3\n\nabc",
        b"HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nX : a\r\nContent-Length: 3\r\n\r\nabc",
    ] {
        let answer = garbage.to_vec();
        let origin = Origin::start(move |_| answer.clone()).await;
        let gateway = edge(&format!("endpoints = [\"{}\"]", origin.addr)).await;
        assert_eq!(statuses(&gateway, 1).await, [502], "{:?}", String::from_utf8_lossy(garbage));
        let record = eventually("it is recorded", async || gateway.records().pop()).await;
        assert_eq!(record["reason"], "upstream_protocol");
    }
}

#[tokio::test]
async fn a_silent_upstream_is_504_and_one_that_dies_in_the_body_ends_the_response() {
    let silent = Origin::raw(|stream| async move {
        tokio::time::sleep(Duration::from_secs(60)).await;
        drop(stream);
    })
    .await;
    let gateway = edge(&format!("endpoints = [\"{}\"]", silent.addr)).await;
    assert_eq!(statuses(&gateway, 1).await, [504]);
    // A short answer is awaited whole before its head is passed on, so its end before the time is known in time.
    let dying = Origin::raw(|mut stream| async move {
        let _ = read_request(&mut stream, &mut Vec::new()).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf").await;
    })
    .await;
    let gateway = edge(&format!("endpoints = [\"{}\"]", dying.addr)).await;
    assert_eq!(statuses(&gateway, 1).await, [502]);
    let dying = Origin::raw(|mut stream| async move {
        let _ = read_request(&mut stream, &mut Vec::new()).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nhalf").await;
    })
    .await;
    let gateway = edge(&format!("endpoints = [\"{}\"]", dying.addr)).await;
    let mut client = Client::connect(gateway.addr("http")).await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(client.try_response(false).await.is_none(), "a cut response must not look whole");
    let record = eventually("it is recorded", async || gateway.records().pop()).await;
    assert_eq!((record["status"].as_u64(), record["reason"].as_str()), (Some(200), Some("upstream_reset")));
}

#[tokio::test]
async fn a_post_is_sent_once_whatever_happens() {
    let origin = Origin::raw(|mut stream| async move {
        let mut buffer = Vec::new();
        // Keeps the connection for one request, then dies on the second without an answer.
        if read_request(&mut stream, &mut buffer).await.is_some() {
            let _ = stream.write_all(&ok("first")).await;
        }
        let _ = read_request(&mut stream, &mut buffer).await;
    })
    .await;
    let gateway = edge(&format!("endpoints = [\"{}\"]", origin.addr)).await;
    let mut client = Client::connect(gateway.addr("http")).await;
    for _ in 0..10 {
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc").await;
        let response = client.try_response(false).await.unwrap();
        assert!(matches!(response.status, 200 | 502), "{}", response.status);
        if response.header("connection") == Some("close") {
            client = Client::connect(gateway.addr("http")).await;
        }
    }
    let attempts = gateway.metric("portcullis_upstream_attempts_total", &[]).await;
    assert_eq!(attempts, 10.0, "one attempt for each POST");
}

#[tokio::test]
async fn a_stale_pooled_connection_is_replaced_without_a_failure() {
    let origin = Origin::start(|_| b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Close: soon\r\n\r\nok".to_vec()).await;
    let gateway = edge(&format!("endpoints = [\"{}\"]", origin.addr)).await;
    assert_eq!(statuses(&gateway, 50).await, [200; 50]);
    assert!(origin.connections.load(SeqCst) <= 2, "connections are kept");
}

#[tokio::test]
async fn tls_to_upstreams_is_verified_by_name_san_and_authority() {
    let (ca, other) = (Authority::new("ca"), Authority::new("other"));
    let leaf = ca.leaf(&["app.internal", "spiffe://corp/app"]);
    let client_leaf = ca.leaf(&["spiffe://corp/gateway"]);
    let (addr, _server) = tls_origin(&leaf, &ca).await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("ca.pem"), &ca.certificate_pem).unwrap();
    std::fs::write(folder.path().join("other.pem"), &other.certificate_pem).unwrap();
    client_leaf.write(folder.path(), "client");
    let config = |tls: &str| {
        format!(
            "[trust.ca]\nca = {{ file = \"ca.pem\" }}\n[trust.other]\nca = {{ file = \"other.pem\" }}\n[certificate.client]\ncert = {{ file = \"client.crt\" }}\nkey = {{ file = \"client.key\" }}\n[listener.http]\naddress = \"127.0.0.1:0\"\nprotocol = \"http\"\n[upstream.app]\nendpoints = [\"{addr}\"]\ntls = {{ {tls}, certificate = \"client\" }}\n[route.app]\nupstream = \"app\"\n"
        )
    };
    let mut gateway = Gateway::start_in(folder, &config("sni = \"app.internal\", trust = \"ca\"")).await;
    for (tls, status) in [
        ("sni = \"app.internal\", trust = \"ca\"", 200),
        ("sni = \"wrong.internal\", trust = \"ca\"", 502),
        ("sni = \"app.internal\", trust = \"other\"", 502),
        ("sni = \"wrong.internal\", trust = \"ca\", san = [\"spiffe://corp/app\"]", 200),
        ("sni = \"app.internal\", trust = \"ca\", san = [\"spiffe://corp/other\"]", 502),
        ("sni = \"wrong.internal\", mode = \"insecure_skip_verify\"", 200),
    ] {
        let (code, answer) = gateway.reload(&config(tls)).await;
        assert_eq!(code, 200, "{answer}");
        assert_eq!(statuses(&gateway, 2).await, [status; 2], "{tls}");
    }
}

/// An origin over TLS that demands a client certificate.
async fn tls_origin(
    leaf: &crate::support::authority::Leaf,
    ca: &Authority,
) -> (std::net::SocketAddr, tokio::task::JoinHandle<()>) {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.certificate_pem.as_bytes()).unwrap()).unwrap();
    let verifier =
        rustls::server::WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone()).build().unwrap();
    let chain = vec![CertificateDer::from_pem_slice(leaf.certificate_pem.as_bytes()).unwrap()];
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, PrivateKeyDer::from_pem_slice(leaf.key_pem.as_bytes()).unwrap())
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                use tokio::io::AsyncReadExt;
                let Ok(mut tls) = acceptor.accept(stream).await else { return };
                let mut buffer = Vec::new();
                while tls.read_buf(&mut buffer).await.is_ok_and(|read| read > 0) {
                    while let Some(at) = crate::support::origin::find(&buffer, b"\r\n\r\n") {
                        buffer.drain(..at + 4);
                        if tls.write_all(&ok("tls")).await.is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    (addr, task)
}

#[tokio::test]
async fn least_request_avoids_the_busy_one() {
    let slow = Origin::raw(|mut stream| async move {
        let _ = read_request(&mut stream, &mut Vec::new()).await;
        tokio::time::sleep(Duration::from_millis(900)).await;
        let _ = stream.write_all(&ok("slow")).await;
    })
    .await;
    let quick = Origin::fixed("quick").await;
    let gateway = edge(&format!(
        "endpoints = [\"{}\", \"{}\"]\nbalance = {{ policy = \"least_request\" }}",
        slow.addr, quick.addr
    ))
    .await;
    let addr = gateway.addr("http");
    let held = tokio::spawn(async move {
        let mut client = Client::connect(addr).await;
        while client.get("a", "/").await.text() != "slow" {}
    });
    eventually("the slow one is busy", async || (slow.connections.load(SeqCst) > 0).then_some(())).await;
    let mut client = Client::connect(addr).await;
    for _ in 0..20 {
        assert_eq!(client.get("a", "/").await.text(), "quick");
    }
    held.await.unwrap();
}

#[tokio::test]
async fn h2_over_tls_to_an_upstream_is_verified_and_multiplexed() {
    let ca = Authority::new("ca");
    let acceptor = ca.leaf(&["app.internal"]).acceptor(&[b"h2"]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let connections = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = connections.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, count) = (acceptor.clone(), count.clone());
            tokio::spawn(async move {
                let Ok(tls) = acceptor.accept(stream).await else { return };
                count.fetch_add(1, SeqCst);
                let Ok(mut connection) = h2::server::handshake(tls).await else { return };
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    let mut send = respond.send_response(http::Response::new(()), false).unwrap();
                    assert!(!request.headers().contains_key("host"), "it stands in :authority");
                    let _ = send.send_data(bytes::Bytes::from(format!("{} over h2", request.uri())), true);
                }
            });
        }
    });
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("ca.pem"), &ca.certificate_pem).unwrap();
    let config = |sni: &str| {
        format!(
            "[trust.ca]\nca = {{ file = \"ca.pem\" }}\n[listener.http]\naddress = \"127.0.0.1:0\"\n[upstream.app]\nendpoints = [\"{addr}\"]\nprotocol = \"h2\"\ntls = {{ sni = \"{sni}\", trust = \"ca\" }}\n[route.app]\nupstream = \"app\"\n"
        )
    };
    let mut gateway = Gateway::start_in(folder, &config("app.internal")).await;
    let mut client = Client::connect(gateway.addr("http")).await;
    for n in 0..20 {
        assert_eq!(client.get("a", &format!("/{n}")).await.text(), format!("https://a/{n} over h2"));
    }
    // An absolute target, and one that asks about the server as a whole.
    for (line, expected) in
        [("GET http://a/x?y=1 HTTP/1.1", "https://a/x?y=1 over h2"), ("OPTIONS * HTTP/1.1", "https://a* over h2")]
    {
        client.send(format!("{line}\r\nHost: a\r\n\r\n")).await;
        assert_eq!(client.response().await.text(), expected, "{line}");
    }
    assert!(connections.load(SeqCst) <= 2, "{} connections for 20 requests", connections.load(SeqCst));
    assert_eq!(gateway.reload(&config("wrong.internal")).await.0, 200);
    assert_eq!(statuses(&gateway, 1).await, [502]);
}
