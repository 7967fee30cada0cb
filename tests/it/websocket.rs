//! Upgrades, streams and large bodies: nothing is held back, nothing opens before its time.

use crate::support::{
    client::{Client, h2},
    gateway::Gateway,
    origin::{Origin, ok, read_request},
};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

async fn edge(origin: &Origin, listener: &str) -> Gateway {
    Gateway::start(&format!(
        "[listener.http]\naddress = \"127.0.0.1:0\"\n{listener}\n[upstream.app]\nendpoints = [\"{}\"]\n[route.app]\nupstream = \"app\"\n",
        origin.addr
    ))
    .await
}

const UPGRADE: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

#[tokio::test]
async fn an_upgrade_that_the_origin_refuses_never_tunnels() {
    let origin = Origin::echo().await;
    let gateway = edge(&origin, "").await;
    let mut client = Client::connect(gateway.addr("http")).await;
    client.send(format!("{UPGRADE}GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")).await;
    assert_eq!(client.response().await.status, 200);
    let second = client.try_response(false).await;
    assert!(second.is_none_or(|second| second.status == 200));
    for seen in origin.requests() {
        assert!(
            seen.body.is_empty() && seen.header("x-forwarded-for").is_some(),
            "every request went through the gateway's own hands: {seen:?}"
        );
    }
}

#[tokio::test]
async fn server_sent_events_and_slow_bodies_arrive_as_they_are_sent() {
    let origin = Origin::raw(|mut stream| async move {
        let _ = read_request(&mut stream, &mut Vec::new()).await;
        let _ = stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
            .await;
        for _ in 0..3 {
            let _ = stream.write_all(b"8\r\ndata: x\n\r\n").await;
            tokio::time::sleep(Duration::from_millis(400)).await;
        }
        let _ = stream.write_all(b"0\r\n\r\n").await;
    })
    .await;
    let gateway = edge(&origin, "").await;
    let mut client = Client::connect(gateway.addr("http")).await;
    client.send("GET /sse HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let begun = std::time::Instant::now();
    let mut first = [0; 1024];
    let mut seen = String::new();
    while !seen.contains("data: x") {
        let read = client.stream.read(&mut first).await.unwrap();
        seen.push_str(&String::from_utf8_lossy(&first[..read]));
    }
    assert!(begun.elapsed() < Duration::from_millis(700), "the first event is not held back");
}

#[tokio::test]
async fn a_hundred_megabytes_pass_both_ways_without_being_held() {
    let origin = Origin::raw(|mut stream| async move {
        // Reads the head, then counts octets as they come.
        let mut buffer = vec![0; 64 << 10];
        let mut head = Vec::new();
        while crate::support::origin::find(&head, b"\r\n\r\n").is_none() {
            let read = stream.read(&mut buffer).await.unwrap_or(0);
            head.extend_from_slice(&buffer[..read]);
        }
        let at = crate::support::origin::find(&head, b"\r\n\r\n").unwrap() + 4;
        let mut total = head.len() - at;
        while total < 100 << 20 {
            match stream.read(&mut buffer).await {
                Ok(read) if read > 0 => total += read,
                _ => return,
            }
        }
        let _ = stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {total}\r\n\r\n").as_bytes()).await;
        let chunk = vec![b'y'; 1 << 20];
        for _ in 0..100 {
            if stream.write_all(&chunk).await.is_err() {
                return;
            }
        }
    })
    .await;
    let gateway = edge(&origin, "limits = { body = \"200MiB\" }").await;
    let before = resident(gateway.pid());
    let mut client = Client::connect(gateway.addr("http")).await;
    client.send(format!("PUT /big HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", 100 << 20)).await;
    let chunk = vec![b'x'; 1 << 20];
    for _ in 0..100 {
        client.send(&chunk).await;
    }
    let response = client.response().await;
    assert_eq!((response.status, response.body.len()), (200, 100 << 20));
    let grown = resident(gateway.pid()).saturating_sub(before);
    assert!(grown < 32 << 20, "{} MiB", grown >> 20);
}

fn resident(pid: u32) -> u64 {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

#[tokio::test]
async fn expect_100_continue_is_relayed_and_the_body_follows() {
    let origin = Origin::raw(|mut stream| async move {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
                return;
            }
        }
        let _ = stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await;
        let mut body = [0; 4];
        if stream.read_exact(&mut body).await.is_ok() {
            let _ = stream.write_all(&ok(&String::from_utf8_lossy(&body))).await;
        }
    })
    .await;
    let gateway = edge(&origin, "").await;
    let mut client = Client::connect(gateway.addr("http")).await;
    client.send("PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n").await;
    assert_eq!(client.try_response(false).await.unwrap().status, 100);
    client.send("body").await;
    assert_eq!(client.response().await.text(), "body");
}

#[tokio::test]
async fn the_answer_to_an_upgrade_is_awaited_for_the_read_timeout_only() {
    let origin = Origin::raw(|mut stream| async move {
        let _ = read_request(&mut stream, &mut Vec::new()).await;
        std::future::pending::<()>().await;
    })
    .await;
    let gateway = Gateway::start(&format!(
        "[listener.http]\naddress = \"127.0.0.1:0\"\n[upstream.app]\nendpoints = [\"{}\"]\nread_timeout = \"200ms\"\n[route.app]\nupstream = \"app\"\nretry = {{ attempts = 0 }}\n",
        origin.addr
    ))
    .await;
    let mut client = Client::connect(gateway.addr("http")).await;
    client.send(UPGRADE).await;
    assert_eq!(client.response().await.status, 504);
    gateway.counts("portcullis_refusals_total", &["upstream_timeout"], 1.0).await;
}

#[tokio::test]
async fn a_tunnel_outlives_the_read_timeout() {
    let origin = Origin::raw(|mut stream| async move {
        let _ = read_request(&mut stream, &mut Vec::new()).await;
        let _ = stream
            .write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
            .await;
        tokio::time::sleep(Duration::from_millis(600)).await;
        let _ = stream.write_all(b"late word").await;
    })
    .await;
    let gateway = Gateway::start(&format!(
        "[listener.http]\naddress = \"127.0.0.1:0\"\n[upstream.app]\nendpoints = [\"{}\"]\nread_timeout = \"200ms\"\n[route.app]\nupstream = \"app\"\n",
        origin.addr
    ))
    .await;
    let mut client = Client::connect(gateway.addr("http")).await;
    client.send(UPGRADE).await;
    let mut seen = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(5), client.stream.read_to_end(&mut seen)).await;
    let seen = String::from_utf8_lossy(&seen).into_owned();
    assert!(seen.starts_with("HTTP/1.1 101") && seen.ends_with("late word"), "{seen}");
}

#[tokio::test]
async fn an_upgrade_nobody_asked_for_is_not_passed_on() {
    let origin = Origin::raw(|mut stream| async move {
        let _ = read_request(&mut stream, &mut Vec::new()).await;
        let _ = stream
            .write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            .await;
        let _ = stream.read(&mut [0; 100]).await;
    })
    .await;
    let gateway = edge(&origin, "").await;
    let mut client = Client::connect(gateway.addr("http")).await;
    client.send("POST /chat HTTP/1.1\r\nHost: a\r\nX-Upgrade: websocket\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(client.response().await.status, 502);
}

#[tokio::test]
async fn a_short_answer_that_comes_slowly_is_passed_on_as_it_comes() {
    let origin = Origin::raw(|mut stream| async move {
        let _ = read_request(&mut stream, &mut Vec::new()).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst").await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        let _ = stream.write_all(b"-last").await;
        let _ = stream.read(&mut [0; 100]).await;
    })
    .await;
    let gateway = edge(&origin, "").await;
    // Over h2: to a client of HTTP/1 the engine sends an answer of known length when it is whole.
    let stream = tokio::net::TcpStream::connect(gateway.addr("http")).await.unwrap();
    let mut sender = h2(stream).await.ready().await.unwrap();
    let begun = std::time::Instant::now();
    let request = http::Request::get("http://a/").body(()).unwrap();
    let mut body = sender.send_request(request, true).unwrap().0.await.unwrap().into_body();
    assert_eq!(body.data().await.unwrap().unwrap(), "first");
    assert!(begun.elapsed() < Duration::from_millis(2500), "{:?}", begun.elapsed());
    assert_eq!(body.data().await.unwrap().unwrap(), "-last");
}
