//! RFC 9112 held to the letter: what lets two readers of one byte stream disagree is refused, with its name counted.

use crate::support::{client::Client, gateway::Gateway, origin::Origin};
use std::time::Duration;

/// Raw request, expected status.
const REFUSED: &[(&str, u16)] = &[
    ("GET / HTTP/1.1\nHost: a\n\n", 400),
    ("GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", 400),
    ("GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 3\r\n\r\nabc", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x3\r\n\r\nabc", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 0),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 0),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 0),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 0),
    ("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: \x00\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: \x01\r\n\r\n", 400),
    ("G@T / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("GET /a\\b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("GET / HTTP/1.10\r\nHost: a\r\n\r\n", 0),
    ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", 0),
    ("GET /\r\n\r\n", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloX\r\n0\r\n\r\n", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n\r\n", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n", 400),
];

pub(crate) async fn edge(origin: &Origin) -> Gateway {
    Gateway::start(&format!(
        "[listener.http]\naddress = \"127.0.0.1:0\"\n[upstream.app]\nendpoints = [\"{}\"]\n[route.app]\nupstream = \"app\"\n",
        origin.addr
    ))
    .await
}

#[tokio::test]
async fn what_an_attacker_could_use_is_refused_and_the_connection_ends() {
    let origin = Origin::fixed("ok").await;
    let gateway = edge(&origin).await;
    for (request, status) in REFUSED {
        let mut client = Client::connect(gateway.addr("http")).await;
        client.send(request).await;
        let response = client.try_response(false).await.unwrap_or_else(|| panic!("no answer to {request:?}"));
        if *status == 0 {
            assert!(matches!(response.status, 400 | 501 | 505), "{request:?}: {}", response.status);
        } else {
            assert_eq!(response.status, *status, "{request:?}");
        }
        assert!(client.closed(Duration::from_secs(5)).await, "left open: {request:?}");
    }
    for seen in origin.requests() {
        assert!(seen.line().starts_with("POST / "), "an origin saw what was refused: {seen:?}");
        assert!(seen.header("content-length").is_none(), "{seen:?}");
    }
    assert!(gateway.metric("portcullis_refusals_total", &[]).await >= REFUSED.len() as f64 - 5.0);
}

#[tokio::test]
async fn the_next_request_on_the_connection_is_the_clients_not_the_bodys() {
    let origin = Origin::echo().await;
    let gateway = edge(&origin).await;
    let mut client = Client::connect(gateway.addr("http")).await;
    // Pipelined: a body that looks like a request, then a request.
    let inner = "GET /smuggled HTTP/1.1\r\nHost: evil\r\n\r\n";
    client
        .send(format!(
            "POST /one HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{inner}GET /two HTTP/1.1\r\nHost: a\r\n\r\n",
            inner.len()
        ))
        .await;
    assert_eq!(client.response().await.status, 200);
    assert_eq!(client.response().await.status, 200);
    let paths: Vec<_> = origin.requests().iter().map(|seen| seen.path().to_owned()).collect();
    assert_eq!(paths, ["/one", "/two"]);
}

#[tokio::test]
async fn a_head_may_come_octet_by_octet_and_pipelined_requests_are_all_answered() {
    let origin = Origin::fixed("ok").await;
    let gateway = edge(&origin).await;
    let mut client = Client::connect(gateway.addr("http")).await;
    for octet in b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n" {
        client.send([*octet]).await;
    }
    assert_eq!(client.response().await.status, 200);
    client.send("GET /p HTTP/1.1\r\nHost: a\r\n\r\n".repeat(50)).await;
    for _ in 0..50 {
        assert_eq!(client.response().await.status, 200);
    }
}

#[tokio::test]
async fn framing_that_is_right_in_every_way_passes() {
    let origin = Origin::echo().await;
    let gateway = edge(&origin).await;
    let mut client = Client::connect(gateway.addr("http")).await;
    client.send("POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;ext=1\r\nhello\r\n6\r\n world\r\n0\r\n\r\n").await;
    assert!(client.response().await.text().ends_with("hello world"));
    client.send("GET http://a/abs?q HTTP/1.1\r\nHost: a\r\n\r\n").await;
    client.response().await;
    assert_eq!(origin.last().line(), "GET /abs?q HTTP/1.1");
    client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(client.try_response(true).await.unwrap().status, 200);
    client.send("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(matches!(client.response().await.status, 200 | 404 | 400));
}

#[tokio::test]
async fn a_path_without_a_safe_spelling_is_refused_and_the_connection_goes_on() {
    let origin = Origin::fixed("ok").await;
    let gateway = edge(&origin).await;
    let mut client = Client::connect(gateway.addr("http")).await;
    for path in ["/%00", "/%zz", "/a%5cb", "/%0d%0aX:y"] {
        assert_eq!(client.get("a", path).await.status, 400, "{path}");
    }
    assert_eq!(client.get("a", "/fine").await.status, 200);
    assert_eq!(origin.requests().len(), 1);
}

#[tokio::test]
async fn connect_is_nobodys_tunnel() {
    let origin = Origin::fixed("ok").await;
    let gateway = edge(&origin).await;
    let mut client = Client::connect(gateway.addr("http")).await;
    client.send(format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\n", origin.addr)).await;
    assert_eq!(client.response().await.status, 405);
    assert!(client.closed(Duration::from_secs(5)).await);
    assert!(origin.requests().is_empty());
}

#[tokio::test]
async fn an_http_1_0_client_is_served_and_closed() {
    let origin = Origin::fixed("old friend").await;
    let gateway = edge(&origin).await;
    let mut client = Client::connect(gateway.addr("http")).await;
    client.send("GET / HTTP/1.0\r\nHost: a\r\n\r\n").await;
    assert_eq!(client.response().await.text(), "old friend");
    assert!(client.closed(Duration::from_secs(5)).await);
}
