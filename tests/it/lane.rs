//! The lane carries requests without a body, the engine all others: to the two ends it must be one and the same. Each request here
//! goes both ways; a Connection field that names a field which is not there is what keeps it from the lane.

use crate::support::{
    client::{Client, h2, h2_get},
    eventually,
    gateway::Gateway,
    h2_origin::{H2Answer, H2Origin},
    origin::{Origin, ok, read_request},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const BY_LANE: &str = "keep-alive";
const BY_ENGINE: &str = "x-nothing";

async fn edge(upstream: &str, rest: &str) -> Gateway {
    Gateway::start(&format!(
        "[listener.http]\naddress = \"127.0.0.1:0\"\n[upstream.app]\n{upstream}\n[route.app]\nupstream = \"app\"\n{rest}"
    ))
    .await
}

/// A message's head without what differs from request to request.
fn comparable(head: &str) -> Vec<String> {
    let mut lines: Vec<String> = head.lines().map(str::to_owned).collect();
    lines.retain(|line| {
        let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
        !matches!(name.as_str(), "x-request-id" | "traceparent" | "date")
    });
    lines[1..].sort();
    lines
}

#[tokio::test]
async fn an_upstream_is_told_the_same_by_either_way() {
    let origin = Origin::echo().await;
    let rest = "client_ip = { trust = [\"127.0.0.1/32\"], header = \"x-forwarded-for\" }\n";
    let edits = "request_headers = { set = { x-Set = \"${host}\" }, add = { x-add = \"1\" }, remove = [\"x-gone\"] }\n\
                 rewrite = { prefix = \"/new\" }\npath = \"/old\"\n";
    let gateway = Gateway::start(&format!(
        "[listener.http]\naddress = \"127.0.0.1:0\"\n{rest}[upstream.app]\nendpoints = [\"{}\"]\n\
         [route.app]\nupstream = \"app\"\n[route.edited]\nupstream = \"app\"\n{edits}",
        origin.addr
    ))
    .await;
    for (target, method, fields) in [
        ("/", "GET", ""),
        ("/a%20b/../c?x=1&y", "GET", "Accept: */*\r\nX-Two: a\r\nx-two: b\r\n"),
        ("/old/er?q", "GET", "X-Gone: 1\r\nX-Add: 0\r\n"),
        ("/", "HEAD", "User-Agent: MiXed/1\r\n"),
        ("/", "DELETE", "Content-Length: 0\r\n"),
        (
            "/",
            "OPTIONS",
            "Keep-Alive: 7\r\nTE: trailers\r\nTrailer: x\r\nProxy-Connection: close\r\nHTTP2-Settings: x\r\n",
        ),
        ("/", "GET", "X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: https\r\nForwarded: for=192.0.2.7\r\n"),
        ("/", "GET", "Cookie: a=1; b=2\r\nAuthorization: Basic eA==\r\nProxy-Authorization: Basic eA==\r\n"),
        ("/", "GET", "X-Odd: \u{e9}\r\nEmpty:\r\n"),
    ] {
        let mut told = Vec::new();
        for connection in [BY_LANE, BY_ENGINE] {
            let mut client = Client::connect(gateway.addr("http")).await;
            let head =
                format!("{method} {target} HTTP/1.1\r\nHost: a.test:81\r\nConnection: {connection}\r\n{fields}\r\n");
            client.send(head).await;
            let response = client.try_response(method == "HEAD").await.unwrap();
            assert_eq!(response.status, 200, "{method} {target} {fields:?} {connection}");
            let answer: Vec<String> =
                comparable(&response.head).into_iter().filter(|line| !line.starts_with("content-length")).collect();
            told.push((comparable(&origin.last().head), answer));
        }
        assert_eq!(told[0], told[1], "{method} {target} {fields:?}");
    }
    // Over h2 there is no Connection: what stands in for it is a body, if an empty one.
    let sender = h2(TcpStream::connect(gateway.addr("http")).await.unwrap()).await;
    h2_get(&sender, "http://a.test:81/old/er?q").await.unwrap();
    let head = comparable(&origin.last().head);
    for line in ["GET /new/er?q HTTP/1.1", "host: a.test:81", "x-add: 1"] {
        assert!(head.iter().any(|told| told.eq_ignore_ascii_case(line)), "{line}: {head:?}");
    }
    assert_eq!(head.iter().filter(|line| line.to_ascii_lowercase().starts_with("host:")).count(), 1, "{head:?}");
}

#[tokio::test]
async fn connections_are_kept_as_long_as_both_sides_want() {
    for (fields, again) in [
        ("", 1),
        ("Connection: close\r\n", 3),
        ("Keep-Alive: timeout=0\r\n", 3),
        ("Keep-Alive: timeout=60, max=100\r\n", 1),
    ] {
        let origin =
            Origin::start(move |_| format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 2\r\n\r\nok").into()).await;
        let gateway = edge(&format!("endpoints = [\"{}\"]", origin.addr), "").await;
        let mut client = Client::connect(gateway.addr("http")).await;
        for _ in 0..3 {
            assert_eq!(client.get("a", "/").await.text(), "ok", "{fields:?}");
        }
        assert_eq!(origin.connections.load(SeqCst), again, "{fields:?}");
    }
}

#[tokio::test]
async fn a_connection_that_was_closed_at_rest_costs_no_request() {
    let served = Arc::new(AtomicUsize::new(0));
    let counting = served.clone();
    let origin = Origin::raw(move |mut stream| {
        let served = counting.clone();
        async move {
            let mut buffer = Vec::new();
            if read_request(&mut stream, &mut buffer).await.is_some() {
                served.fetch_add(1, SeqCst);
                let _ = stream.write_all(&ok("once")).await;
            }
        }
    })
    .await;
    let gateway = edge(&format!("endpoints = [\"{}\"]\noutlier.max_ejected = \"0%\"", origin.addr), "").await;
    let mut client = Client::connect(gateway.addr("http")).await;
    for number in 1..=20 {
        assert_eq!(client.get("a", "/").await.text(), "once");
        assert_eq!(served.load(SeqCst), number);
    }
    assert_eq!(gateway.metric("portcullis_upstream_retries_total", &["app"]).await, 0.0);
}

#[tokio::test]
async fn who_leaves_while_the_upstream_thinks_leaves_no_work_behind() {
    let (begun, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counts = (begun.clone(), ended.clone());
    let origin = Origin::raw(move |mut stream| {
        let (begun, ended) = counts.clone();
        async move {
            let mut buffer = Vec::new();
            read_request(&mut stream, &mut buffer).await;
            begun.fetch_add(1, SeqCst);
            let _ = stream.read(&mut [0; 1]).await;
            ended.fetch_add(1, SeqCst);
        }
    })
    .await;
    let gateway = edge(&format!("endpoints = [\"{}\"]", origin.addr), "").await;
    let mut client = Client::connect(gateway.addr("http")).await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    eventually("it is asked", async || (begun.load(SeqCst) == 1).then_some(())).await;
    drop(client);
    eventually("it is given up", async || (ended.load(SeqCst) == 1).then_some(())).await;
    let record = gateway.recorded("the record", |record| record["reason"] == "client_gone").await;
    assert_eq!(record["upstream"], "app");
}

#[tokio::test]
async fn a_fallback_by_another_version_is_reached_from_the_lane() {
    let h2c = H2Origin::start(|_, _| H2Answer::Plain("from h2")).await;
    let gateway = Gateway::start(&format!(
        "[listener.http]\naddress = \"127.0.0.1:0\"\n[upstream.app]\nendpoints = [\"127.0.0.1:1\"]\nfallback = \"other\"\n\
         [upstream.other]\nendpoints = [\"{}\"]\nprotocol = \"h2c\"\n\
         [route.app]\nupstream = \"app\"\n",
        h2c.addr
    ))
    .await;
    let mut client = Client::connect(gateway.addr("http")).await;
    let mut texts = Vec::new();
    for _ in 0..3 {
        texts.push(client.get("a", "/").await.text());
    }
    assert!(texts.contains(&"from h2".to_owned()), "{texts:?}");
    tokio::time::timeout(Duration::from_secs(1), client.get("a", "/")).await.expect("an answer in time");
}

#[tokio::test]
async fn of_an_answer_that_breaks_off_the_client_has_what_there_was() {
    let origin = Origin::raw(|mut stream| async move {
        let mut buffer = Vec::new();
        if read_request(&mut stream, &mut buffer).await.is_some() {
            let head = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n";
            let _ = stream.write_all(&[&head[..], &[b'x'; 10_000]].concat()).await;
        }
    })
    .await;
    let gateway = edge(&format!("endpoints = [\"{}\"]\noutlier.max_ejected = \"0%\"", origin.addr), "").await;
    let mut client = Client::connect(gateway.addr("http")).await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut all = Vec::new();
    tokio::time::timeout(Duration::from_secs(20), client.stream.read_to_end(&mut all)).await.expect("an end").unwrap();
    let told = String::from_utf8_lossy(&all);
    assert!(told.starts_with("HTTP/1.1 200") && told.ends_with(&"x".repeat(10_000)), "{}", all.len());
}
