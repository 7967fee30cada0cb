//! What the upstream is told of the client, and what it is not.

use crate::support::{
    client::Client,
    eventually,
    gateway::Gateway,
    origin::{Origin, Seen},
};
use tokio::{io::AsyncWriteExt, net::TcpStream};

async fn edge(origin: &Origin, listener: &str) -> Gateway {
    Gateway::start(&format!(
        "[listener.http]\naddress = \"127.0.0.1:0\"\n{listener}\n[upstream.app]\nendpoints = [\"{}\"]\n[route.app]\nupstream = \"app\"\nrequest_headers = {{ set = {{ x-client = \"${{client_ip}}\" }} }}\n",
        origin.addr
    ))
    .await
}

async fn seen(gateway: &Gateway, origin: &Origin, fields: &str) -> Seen {
    let mut client = Client::connect(gateway.addr("http")).await;
    client.send(format!("GET /x HTTP/1.1\r\nHost: shop.test\r\n{fields}\r\n")).await;
    assert_eq!(client.response().await.status, 200);
    origin.last()
}

#[tokio::test]
async fn a_stranger_cannot_write_its_own_history() {
    let origin = Origin::fixed("ok").await;
    let gateway = edge(&origin, "").await;
    let seen = seen(
        &gateway,
        &origin,
        "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\nForwarded: for=6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\nX-Request-Id: mine\r\nConnection: close, X-Secret\r\nX-Secret: 1\r\nKeep-Alive: 1\r\nTE: gzip\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\nProxy-Connection: x\r\n",
    )
    .await;
    assert_eq!(seen.all("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(seen.all("x-forwarded-proto"), ["http"]);
    assert_eq!(seen.all("forwarded"), ["for=127.0.0.1;host=shop.test;proto=http"]);
    assert_eq!(seen.header("x-client"), Some("127.0.0.1"));
    assert_ne!(seen.header("x-request-id"), Some("mine"));
    assert_eq!(seen.header("x-request-id").map(str::len), Some(32));
    assert_eq!(seen.header("traceparent").map(str::len), Some(55));
    for gone in ["x-secret", "x-real-ip", "keep-alive", "te", "upgrade", "http2-settings", "proxy-connection"] {
        assert_eq!(seen.header(gone), None, "{gone}");
    }
}

#[tokio::test]
async fn a_trusted_proxy_is_believed_up_to_the_first_stranger() {
    let origin = Origin::fixed("ok").await;
    let gateway = edge(&origin, "client_ip = { trust = [\"127.0.0.0/8\", \"10.0.0.0/8\"] }").await;
    let seen = seen(
        &gateway,
        &origin,
        "X-Forwarded-For: 6.6.6.6, 203.0.113.7, 10.1.1.1\r\nX-Forwarded-Proto: https\r\nX-Request-Id: abc-1\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n",
    )
    .await;
    assert_eq!(seen.header("x-client"), Some("203.0.113.7"));
    assert_eq!(seen.header("x-forwarded-for"), Some("6.6.6.6, 203.0.113.7, 10.1.1.1, 127.0.0.1"));
    assert_eq!((seen.header("x-forwarded-proto"), seen.header("x-request-id")), (Some("https"), Some("abc-1")));
    let trace = seen.header("traceparent").unwrap();
    assert!(
        trace.starts_with("00-0af7651916cd43dd8448eb211c80319c-") && !trace.contains("b7ad6b7169203331"),
        "{trace}"
    );
    let record = eventually("it is recorded", async || gateway.records().pop()).await;
    assert_eq!(record["client"], "203.0.113.7");
}

#[tokio::test]
async fn the_proxy_protocol_is_obligatory_from_relays_and_meaningless_from_others() {
    let origin = Origin::fixed("ok").await;
    let gateway = edge(&origin, "proxy_protocol = { from = [\"127.0.0.1\"] }").await;
    let ask = async |front: &[u8]| {
        let mut stream = TcpStream::connect(gateway.addr("http")).await.unwrap();
        stream.write_all(&[front, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"].concat()).await.unwrap();
        Client::over(stream).try_response(false).await.map(|response| response.status)
    };
    assert_eq!(ask(b"PROXY TCP4 203.0.113.9 198.51.100.1 5555 443\r\n").await, Some(200));
    assert_eq!(origin.last().header("x-client"), Some("203.0.113.9"));
    let mut v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    v2.extend([203, 0, 113, 10, 198, 51, 100, 1, 0x15, 0xb3, 1, 0xbb]);
    assert_eq!(ask(&v2).await, Some(200));
    assert_eq!(origin.last().header("x-forwarded-for"), Some("203.0.113.10"));
    assert_eq!(ask(b"").await, None, "a relay without the header is cut");
    assert_eq!(ask(b"PROXY TCP4 nonsense\r\n").await, None);

    let stranger = edge(&origin, "proxy_protocol = { from = [\"203.0.113.1\"] }").await;
    let mut stream = TcpStream::connect(stranger.addr("http")).await.unwrap();
    stream.write_all(b"PROXY TCP4 6.6.6.6 198.51.100.1 5555 443\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    assert_eq!(Client::over(stream).try_response(false).await.unwrap().status, 400);
}

#[tokio::test]
async fn a_proxy_header_goes_out_once_a_connection_and_names_the_client() {
    let origin = Origin::raw(|mut stream| async move {
        use tokio::io::AsyncReadExt;
        let mut all = Vec::new();
        while !all.ends_with(b"\r\n\r\n") {
            if stream.read_buf(&mut all).await.unwrap_or(0) == 0 {
                return;
            }
        }
        let line = String::from_utf8_lossy(&all).lines().next().unwrap().to_owned();
        let _ = stream.write_all(&crate::support::origin::ok(&line)).await;
    })
    .await;
    let gateway = Gateway::start(&format!(
        "[listener.http]\naddress = \"127.0.0.1:0\"\n[upstream.app]\nendpoints = [\"{}\"]\nproxy_protocol = \"v1\"\n[route.app]\nupstream = \"app\"\n",
        origin.addr
    ))
    .await;
    for _ in 0..3 {
        let mut client = Client::connect(gateway.addr("http")).await;
        let line = client.get("a", "/").await.text();
        assert!(
            line.starts_with("PROXY TCP4 127.0.0.1 127.0.0.1 ")
                && line.ends_with(&format!(" {}", gateway.addr("http").port())),
            "{line}"
        );
    }
}

#[tokio::test]
async fn names_with_underscores_are_dropped_refused_or_passed() {
    let origin = Origin::fixed("ok").await;
    let fields = "X_Forwarded_For: 6.6.6.6\r\nX-Kept: 1\r\n";
    for (wanted, status, arrives) in
        [("", 200, None), ("underscores = \"refuse\"", 400, None), ("underscores = \"pass\"", 200, Some("6.6.6.6"))]
    {
        let gateway = edge(&origin, wanted).await;
        let mut client = Client::connect(gateway.addr("http")).await;
        client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")).await;
        assert_eq!(client.response().await.status, status, "{wanted}");
        if status == 200 {
            let seen = origin.last();
            assert_eq!((seen.header("x_forwarded_for"), seen.header("x-kept")), (arrives, Some("1")), "{wanted}");
        } else {
            gateway.counts("portcullis_refusals_total", &["underscore_in_name"], 1.0).await;
        }
    }
}
