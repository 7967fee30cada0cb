//! Slow, large and many: each is cut where the configuration says, and nobody else notices.

use crate::support::{client::Client, eventually, gateway::Gateway, origin::Origin};
use std::time::{Duration, Instant};
use tokio::{io::AsyncWriteExt, net::TcpStream};

async fn edge(origin: &Origin, limits: &str) -> Gateway {
    Gateway::start(&format!(
        "[listener.http]\naddress = \"127.0.0.1:0\"\nlimits = {{ {limits} }}\n[upstream.app]\nendpoints = [\"{}\"]\n[route.app]\nupstream = \"app\"\n",
        origin.addr
    ))
    .await
}

#[tokio::test]
async fn heads_and_bodies_beyond_their_limits_are_refused() {
    let origin = Origin::fixed("ok").await;
    let gateway = edge(&origin, "header = \"2KiB\", headers = 5, body = \"1KiB\"").await;
    let status = async |request: String| {
        let mut client = Client::connect(gateway.addr("http")).await;
        let _ = client.try_send(request).await;
        client.try_response(false).await.map(|response| response.status)
    };
    assert_eq!(status(format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(3000))).await, Some(431));
    assert_eq!(status(format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(6))).await, Some(431));
    assert_eq!(
        status(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1025\r\n\r\n{}", "x".repeat(1025))).await,
        Some(413)
    );
    let chunked = format!(
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{}",
        "200\r\n".to_owned() + &"x".repeat(512) + "\r\n"
    );
    assert_eq!(
        status(chunked.clone() + &("200\r\n".to_owned() + &"x".repeat(512) + "\r\n").repeat(3) + "0\r\n\r\n").await,
        Some(413)
    );
    assert_eq!(
        status(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1024\r\n\r\n{}", "x".repeat(1024))).await,
        Some(200)
    );
}

#[tokio::test]
async fn a_slow_head_a_slow_body_and_a_silent_client_are_cut_in_time() {
    let origin = Origin::fixed("ok").await;
    let gateway = edge(&origin, "header_timeout = \"500ms\", idle_timeout = \"500ms\", body_timeout = \"500ms\"").await;
    let addr = gateway.addr("http");

    let begun = Instant::now();
    let mut slow = Client::connect(addr).await;
    for octet in b"GET / HTTP/1.1\r\nHost: a\r\nX: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy" {
        if slow.try_send([*octet]).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let answer = slow.try_response(false).await;
    assert!(answer.is_none_or(|answer| answer.status == 408));
    assert!(begun.elapsed() < Duration::from_secs(4));

    let mut silent = Client::connect(addr).await;
    assert!(silent.closed(Duration::from_secs(3)).await, "said nothing");
    let mut idle = Client::connect(addr).await;
    idle.get("a", "/").await;
    assert!(idle.closed(Duration::from_secs(3)).await, "said nothing more");

    let mut body = Client::connect(addr).await;
    body.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nx").await;
    let answer = body.try_response(false).await;
    assert!(answer.is_none_or(|answer| answer.status == 408), "a body that stops");
    eventually("the slow ones are counted", async || {
        (gateway.metric("portcullis_refusals_total", &["timeout"]).await >= 2.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_body_of_one_octet_now_and_then_is_cut_by_its_rate() {
    let origin = Origin::fixed("ok").await;
    let gateway = edge(&origin, "min_rate = \"1KiB\"").await;
    let mut client = Client::connect(gateway.addr("http")).await;
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n").await;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(12) {
        if client.try_send("x").await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "cut after the grace of five seconds");
}

#[tokio::test]
async fn one_address_and_one_listener_have_so_many_connections_and_no_more() {
    let origin = Origin::fixed("ok").await;
    let gateway = edge(&origin, "connections_per_ip = 3").await;
    let addr = gateway.addr("http");
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut client = Client::connect(addr).await;
        assert_eq!(client.get("a", "/").await.status, 200);
        held.push(client);
    }
    assert!(Client::connect(addr).await.closed(Duration::from_secs(5)).await);
    assert!(gateway.metric("portcullis_connections_refused_total", &["address_full"]).await >= 1.0);
    held.pop();
    eventually("the place is free again", async || {
        let mut client = Client::connect(addr).await;
        client.try_send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.ok()?;
        client.try_response(false).await.map(|response| assert_eq!(response.status, 200))
    })
    .await;
}

#[tokio::test]
async fn thousands_of_idle_connections_cost_little_and_disturb_nobody() {
    let origin = Origin::fixed("ok").await;
    let gateway = edge(&origin, "connections_per_ip = 20000, header_timeout = \"60s\"").await;
    let addr = gateway.addr("http");
    let before = resident(gateway.pid());
    let mut idle = Vec::new();
    // Two descriptors each in this process and the other: stay within the usual limit of 20,000 and leave room.
    let count = if std::env::var_os("PORTCULLIS_LONG").is_some() { 10_000 } else { 2_000 };
    for _ in 0..count {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        idle.push(stream);
    }
    let mut client = Client::connect(addr).await;
    for _ in 0..100 {
        assert_eq!(client.get("a", "/").await.status, 200);
    }
    let each = (resident(gateway.pid()).saturating_sub(before)) / count;
    eprintln!("an idle kept connection costs {each} bytes of memory");
    // A debug build's futures are larger than a release's; benches/ measures the real figure.
    assert!(each < 24 * 1024, "{each} bytes");
}

/// Resident memory in octets.
fn resident(pid: u32) -> u64 {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}
