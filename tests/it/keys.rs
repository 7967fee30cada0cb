//! Each key changes behaviour: those that no other test has turned.

use crate::support::{
    authority::Authority,
    client::{Client, h2, h2_get, tls, tls_config},
    eventually,
    gateway::{Gateway, run_in},
    have,
    origin::{Origin, ok, read_request},
};
use std::{process::Stdio, time::Duration};
use tokio::{io::AsyncWriteExt, net::TcpStream};

fn app(origin: &Origin) -> String {
    format!("[upstream.app]\nendpoints = [\"{}\"]\n", origin.addr)
}

#[tokio::test]
async fn versions_requests_and_connections_of_a_listener() {
    let origin = Origin::fixed("ok").await;
    let gateway = Gateway::start(&format!(
        "[listener.one]\naddress = \"127.0.0.1:0\"\nversions = [\"h1\"]\n[listener.few]\naddress = \"127.0.0.1:0\"\nlimits = {{ requests = 2, connections = 1 }}\n{}[route.app]\nupstream = \"app\"\n",
        app(&origin)
    ))
    .await;
    let mut stream = TcpStream::connect(gateway.addr("one")).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    assert_eq!(
        Client::over(stream).try_response(false).await.map(|response| response.status),
        Some(505),
        "h2 is switched off"
    );
    let mut client = Client::connect(gateway.addr("few")).await;
    assert_eq!(client.get("a", "/").await.header("connection"), Some("keep-alive"));
    assert!(
        Client::connect(gateway.addr("few")).await.closed(Duration::from_secs(5)).await,
        "one connection at a time"
    );
    assert_eq!(client.get("a", "/").await.header("connection"), Some("close"), "the second request is the last");
}

#[tokio::test]
async fn the_process_has_so_many_connections_and_no_more() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("edge.toml"),
        "[process]\nthreads = 1\nmax_connections = 2\nupgrade = \"unix:u.sock\"\n[admin]\naddress = \"unix:admin.sock\"\n[listener.http]\naddress = \"127.0.0.1:0\"\n[route.r]\nrespond = { status = 200 }\n",
    )
    .unwrap();
    let gateway = Gateway::start_file(folder, &[]).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut client = Client::connect(gateway.addr("http")).await;
        assert_eq!(client.get("a", "/").await.status, 200);
        held.push(client);
    }
    assert!(Client::connect(gateway.addr("http")).await.closed(Duration::from_secs(5)).await);
    assert!(gateway.metric("portcullis_connections_refused_total", &["process_full"]).await >= 1.0);
}

#[tokio::test]
async fn tls_floors_suites_and_tickets() {
    let (ca, folder) = (Authority::new("ca"), tempfile::tempdir().unwrap());
    ca.leaf(&["a.test"]).write(folder.path(), "a");
    let config = |defaults: &str, tls: &str| {
        format!(
            "{defaults}\n[certificate.a]\ncert = {{ file = \"a.crt\" }}\nkey = {{ file = \"a.key\" }}\n[listener.https]\naddress = \"127.0.0.1:0\"\nprotocol = \"https\"\n{tls}\n[route.r]\nrespond = {{ status = 200 }}\n"
        )
    };
    let mut gateway = Gateway::start_in(
        folder,
        &config("", "tls = { ciphers = [\"TLS_CHACHA20_POLY1305_SHA256\"], tickets = \"off\" }"),
    )
    .await;
    let client_config = tls_config(&ca.certificate_pem, &[]);
    for _ in 0..2 {
        let mut client = Client::tls(gateway.addr("https"), "a.test", client_config.clone()).await.unwrap();
        client.get("a.test", "/").await;
    }
    assert_eq!(gateway.metric("portcullis_tls_handshakes_total", &["resumed=\"yes\""]).await, 0.0);
    let stream = tls(gateway.addr("https"), "a.test", client_config.clone()).await.unwrap();
    let suite = stream.get_ref().1.negotiated_cipher_suite().unwrap().suite();
    assert_eq!(suite, rustls::CipherSuite::TLS13_CHACHA20_POLY1305_SHA256);
    assert_eq!(gateway.reload(&config("[defaults]\ntls.min_version = \"1.3\"", "")).await.0, 200);
    let (status, answer) =
        gateway.reload(&config("[defaults]\ntls.min_version = \"1.3\"", "tls = { min_version = \"1.2\" }")).await;
    assert!(
        status == 422 && answer["text"].as_str().unwrap().contains("lower than `defaults.tls.min_version`"),
        "{answer}"
    );
}

#[tokio::test]
async fn timeouts_of_defaults_routes_and_upstreams() {
    let silent = Origin::raw(|mut stream| async move {
        let _ = read_request(&mut stream, &mut Vec::new()).await;
        tokio::time::sleep(Duration::from_millis(700)).await;
        let _ = stream.write_all(&ok("late")).await;
    })
    .await;
    let config = |defaults: &str, upstream: &str, route: &str| {
        format!(
            "{defaults}\n[listener.http]\naddress = \"127.0.0.1:0\"\n{}{upstream}\n[route.r]\nupstream = \"app\"\n{route}\n",
            app(&silent)
        )
    };
    let mut gateway = Gateway::start(&config("", "", "")).await;
    for (defaults, upstream, route, status) in [
        ("", "", "", 200),
        ("[defaults]\ntimeout = \"200ms\"", "", "", 504),
        ("[defaults]\ntimeout = \"200ms\"", "", "timeout = \"5s\"", 200),
        ("", "read_timeout = \"200ms\"", "", 504),
        ("", "", "timeout = \"200ms\"", 504),
    ] {
        assert_eq!(gateway.reload(&config(defaults, upstream, route)).await.0, 200);
        let mut client = Client::connect(gateway.addr("http")).await;
        assert_eq!(client.get("a", "/").await.status, status, "{defaults} {upstream} {route}");
    }
}

#[tokio::test]
async fn rewrites_redirects_answers_and_retries_say_exactly_what_was_written() {
    let origin = Origin::echo().await;
    let dead = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let gateway = Gateway::start(&format!(
        r#"
[listener.http]
address = "127.0.0.1:0"
{}
[upstream.half]
balance   = {{ policy = "round_robin" }}
endpoints = ["{dead}", "{}"]
[route.whole]
path     = "/whole"
upstream = "app"
rewrite  = {{ path = "/other", host = "inner.test" }}
[route.port]
path     = "/port"
redirect = {{ port = 8443, path = "/new", status = 301 }}
[route.answer]
path    = "/answer"
respond = {{ status = 451, body = "no", headers = {{ x-why = "law" }} }}
[route.never]
path     = "/never"
upstream = "half"
retry    = {{ attempts = 0 }}
"#,
        app(&origin),
        origin.addr
    ))
    .await;
    let mut client = Client::connect(gateway.addr("http")).await;
    client.get("a.test", "/whole/x?q=1").await;
    assert_eq!((origin.last().line(), origin.last().header("host")), ("GET /other?q=1 HTTP/1.1", Some("inner.test")));
    assert_eq!(client.get("a.test", "/port").await.header("location"), Some("http://a.test:8443/new"));
    let answer = client.get("a.test", "/answer").await;
    assert_eq!((answer.status, answer.header("x-why")), (451, Some("law")));
    let mut seen = Vec::new();
    for _ in 0..4 {
        let mut client = Client::connect(gateway.addr("http")).await;
        seen.push(client.get("a.test", "/never").await.status);
    }
    seen.sort_unstable();
    assert_eq!(seen, [200, 200, 502, 502], "without retries every second one meets the dead endpoint");
}

#[tokio::test]
async fn a_check_asks_as_it_was_told() {
    let asked = Origin::start(|seen| {
        if seen.line() == "HEAD /well HTTP/1.1" && seen.header("host") == Some("app.internal") {
            b"HTTP/1.1 204 No\r\n\r\n".to_vec()
        } else {
            ok("no")
        }
    })
    .await;
    let gateway = Gateway::start(&format!(
        "[listener.http]\naddress = \"127.0.0.1:0\"\n{}health_check = {{ path = \"/well\", host = \"app.internal\", method = \"HEAD\", status = [204], interval = \"100ms\", timeout = \"100ms\", jitter = \"0%\" }}\n[route.r]\nupstream = \"app\"\n",
        app(&asked)
    ))
    .await;
    eventually("the check is content", async || {
        let (_, status) = gateway.admin("GET", "/upstreams", "").await;
        (status["upstreams"][0]["endpoints"][0]["health"] == "up").then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_h2_connection_is_told_goodbye_and_its_streams_end() {
    let slow = Origin::raw(|mut stream| async move {
        let _ = read_request(&mut stream, &mut Vec::new()).await;
        tokio::time::sleep(Duration::from_millis(800)).await;
        let _ = stream.write_all(&ok("in time")).await;
    })
    .await;
    let mut gateway = Gateway::start(&format!(
        "[listener.http]\naddress = \"127.0.0.1:0\"\n{}[route.r]\nupstream = \"app\"\n",
        app(&slow)
    ))
    .await;
    let sender = h2(TcpStream::connect(gateway.addr("http")).await.unwrap()).await;
    let in_flight = {
        let sender = sender.clone();
        tokio::spawn(async move { h2_get(&sender, "http://a.test/").await })
    };
    eventually("the stream is open", async || {
        (slow.connections.load(std::sync::atomic::Ordering::SeqCst) > 0).then_some(())
    })
    .await;
    gateway.signal("-TERM");
    let (parts, body) = in_flight.await.unwrap().unwrap();
    assert_eq!((parts.status.as_u16(), body.as_slice()), (200, &b"in time"[..]));
    assert!(h2_get(&sender, "http://a.test/").await.is_err(), "no new streams after GOAWAY");
    assert!(gateway.ended(Duration::from_secs(5)).await.success());
}

#[tokio::test]
async fn port_80_answers_beside_443_unless_told_otherwise() {
    let (ca, folder) = (Authority::new("ca"), tempfile::tempdir().unwrap());
    ca.leaf(&["a.test"]).write(folder.path(), "a");
    let config = |extra: &str| {
        format!(
            "[certificate.a]\ncert = {{ file = \"a.crt\" }}\nkey = {{ file = \"a.key\" }}\n[listener.https]\naddress = \"127.0.0.1:443\"\n{extra}\n[route.r]\nrespond = {{ status = 200 }}\n"
        )
    };
    let explain = async |extra: &str| {
        std::fs::write(folder.path().join("edge.toml"), config(extra)).unwrap();
        run_in(folder.path(), &["explain", "GET", "http://a.test/", "--config", "edge.toml"]).await.1
    };
    assert!(explain("").await.contains("redirect 308 to https"));
    assert!(explain("http_redirect = false").await.contains("no listener speaks http"));
}

#[tokio::test]
async fn sockets_given_by_systemd_are_served() {
    if !have("python3") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("edge.toml"),
        "[process]\nupgrade = \"unix:u.sock\"\n[admin]\naddress = \"unix:admin.sock\"\n[listener.http]\naddress = \"127.0.0.1:1\"\n[route.r]\nrespond = { status = 200, body = \"activated\" }\n",
    )
    .unwrap();
    // What systemd does: a listening socket as descriptor 3, named, for this very process id. Port 1 could not be bound
    // to the chosen port: an answer there proves that the given socket serves.
    let script = "import os, socket, sys\ns = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen()\nprint(s.getsockname()[1], flush=True)\nos.dup2(s.fileno(), 3); os.set_inheritable(3, True)\nos.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()), LISTEN_FDNAMES='http')\nos.execv(sys.argv[1], sys.argv[1:])";
    let mut child = tokio::process::Command::new("python3")
        .args(["-c", script, crate::support::gateway::binary(), "run", "edge.toml"])
        .current_dir(folder.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut out = tokio::io::BufReader::new(child.stdout.take().unwrap());
    tokio::io::AsyncBufReadExt::read_line(&mut out, &mut line).await.unwrap();
    let addr: std::net::SocketAddr = format!("127.0.0.1:{}", line.trim()).parse().unwrap();
    let answer =
        tokio::time::timeout(Duration::from_secs(10), async { Client::connect(addr).await.get("a", "/").await })
            .await
            .unwrap();
    assert_eq!(answer.text(), "activated");
}

#[tokio::test]
async fn a_removed_listener_gives_streams_their_own_time() {
    let echo = Origin::raw(|mut stream| async move {
        let _ = read_request(&mut stream, &mut Vec::new()).await;
        let _ = stream
            .write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
            .await;
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let config = |listener: &str| {
        format!(
            "[process]\nthreads = 1\ndrain = \"200ms\"\nstream_drain = \"1500ms\"\nupgrade = \"unix:u.sock\"\n[admin]\naddress = \"unix:admin.sock\"\n[listener.keep]\naddress = \"127.0.0.1:0\"\n{listener}\n{}[route.r]\nupstream = \"app\"\n",
            app(&echo)
        )
    };
    std::fs::write(folder.path().join("edge.toml"), config("[listener.gone]\naddress = \"127.0.0.1:0\"")).unwrap();
    let gateway = Gateway::start_file(folder, &[]).await;
    let mut socket = Client::connect(gateway.addr("gone")).await;
    socket.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n").await;
    assert_eq!(socket.response().await.status, 101);
    std::fs::write(gateway.path().join("edge.toml"), config("")).unwrap();
    assert_eq!(gateway.admin("POST", "/reload", "").await.0, 200);
    assert!(!socket.closed(Duration::from_millis(800)).await, "drain is over, stream_drain is not");
    assert!(socket.closed(Duration::from_secs(5)).await, "stream_drain is over");
}
