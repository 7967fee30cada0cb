//! Any change, live: nothing in flight is lost, nothing broken is served.

use crate::support::{
    client::{Client, h2, h2_get},
    eventually,
    gateway::Gateway,
    origin::Origin,
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

fn config(origin: &Origin, body: &str) -> String {
    format!(
        "[listener.http]\naddress = \"127.0.0.1:0\"\n[upstream.app]\nendpoints = [\"{}\"]\n[route.app]\nupstream = \"app\"\n[route.app.rule.v]\npath = \"/v\"\nrespond = {{ status = 200, body = \"{body}\" }}\n",
        origin.addr
    )
}

#[tokio::test]
async fn a_saved_file_is_live_and_a_broken_one_is_not() {
    let origin = Origin::fixed("ok").await;
    let gateway = Gateway::start(&config(&origin, "one")).await;
    let addr = gateway.addr("http");
    let version = async || Client::connect(addr).await.get("x.test", "/v").await.text();
    assert_eq!(version().await, "one");
    gateway.write(&config(&origin, "two"));
    eventually("the file's change is served", async || (version().await == "two").then_some(())).await;

    gateway.write(&config(&origin, "three").replace("endpoints", "endpionts"));
    eventually("the refusal is told", async || {
        let (_, status) = gateway.admin("GET", "/status", "").await;
        (status["last_reload"]["outcome"] == "refused").then_some(())
    })
    .await;
    assert_eq!(version().await, "two");
    assert!(gateway.log().contains("did you mean `endpoints`?"), "{}", gateway.log());
    assert!(gateway.metric("portcullis_config_reloads_total", &["refused"]).await >= 1.0);
    let (status, answer) = gateway.admin("POST", "/reload", "").await;
    assert_eq!((status, answer["outcome"].as_str()), (422, Some("refused")));

    gateway.write(&config(&origin, "four"));
    gateway.signal("-HUP");
    eventually("SIGHUP is obeyed", async || (version().await == "four").then_some(())).await;
}

#[tokio::test]
async fn after_a_refusal_the_file_that_mends_it_is_watched() {
    let origin = Origin::fixed("ok").await;
    let gateway = Gateway::start(&config(&origin, "one")).await;
    let addr = gateway.addr("http");
    let version = async || Client::connect(addr).await.get("x.test", "/v").await.text();
    let with_list = config(&origin, "two")
        + "[route.listed]\nhosts = [\"l.test\"]\nupstream = \"app\"\nip = { deny_file = \"list.txt\" }\n";
    gateway.write(&with_list);
    eventually("the missing file is told", async || {
        let (_, status) = gateway.admin("GET", "/status", "").await;
        status["last_reload"]["report"].to_string().contains("cannot read").then_some(())
    })
    .await;
    assert_eq!(version().await, "one");
    std::fs::write(gateway.path().join("list.txt"), "192.0.2.0/24\n").unwrap();
    eventually("the file that was missing is enough", async || (version().await == "two").then_some(())).await;
}

#[tokio::test]
async fn listeners_appear_move_and_vanish_at_run_time() {
    let origin = Origin::fixed("ok").await;
    let mut gateway = Gateway::start(&config(&origin, "one")).await;
    let old = gateway.addr("http");
    let with_more = format!("{}[listener.more]\naddress = \"127.0.0.1:0\"\n", config(&origin, "one"));
    assert_eq!(gateway.reload(&with_more).await.0, 200);
    let more = gateway.addr("more");
    assert_eq!(gateway.addr("http"), old, "an unchanged listener keeps its socket");
    let mut kept = Client::connect(more).await;
    assert_eq!(kept.get("x.test", "/").await.status, 200);
    assert_eq!(gateway.reload(&config(&origin, "one")).await.0, 200);
    eventually("the removed listener refuses", async || TcpStream::connect(more).await.is_err().then_some(())).await;
    assert!(kept.closed(Duration::from_secs(5)).await, "its idle connection ends");
    let taken = format!("{}[listener.taken]\naddress = \"{}\"\n", config(&origin, "one"), origin.addr);
    let (status, answer) = gateway.reload(&taken).await;
    assert_eq!(status, 422);
    assert!(answer["text"].as_str().unwrap().contains("another process has it"), "{answer}");
}

#[tokio::test]
async fn only_what_is_served_changes_the_health_of_endpoints() {
    let origin = Origin::fixed("ok").await;
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let both = format!("endpoints = [\"{}\", \"{}\"]", origin.addr, dead.local_addr().unwrap());
    drop(dead);
    let without = config(&origin, "one").replace(&format!("endpoints = [\"{}\"]", origin.addr), &both);
    let with = without.replace(&both, &format!("{both}\nhealth_check = {{ path = \"/\", interval = \"100ms\" }}"));
    let gateway = Gateway::start(&with).await;
    let state =
        async || gateway.admin("GET", "/upstreams", "").await.1["upstreams"][0]["endpoints"][1]["health"].clone();
    eventually("it is down", async || (state().await == "down").then_some(())).await;
    // No probe may come in between that would say it again.
    let slow = with.replace("100ms", "1h");
    gateway.write(&slow);
    assert_eq!(gateway.admin("POST", "/reload", "").await.0, 200);
    // Beside the file that is watched.
    gateway.write_as("other.toml", &without);
    let question = serde_json::json!({ "files": [gateway.path().join("other.toml")] }).to_string();
    let (status, answer) = gateway.admin("POST", "/diff", &question).await;
    assert!(status == 200 && answer["text"].as_str().unwrap().contains("health_check"), "{answer}");
    assert_eq!(state().await, "down", "a question changes nothing");
    gateway.write(&without.replace("upstream = \"app\"", "upstream = \"nobody\""));
    assert_eq!(gateway.admin("POST", "/reload", "").await.0, 422);
    assert_eq!(state().await, "down", "a refused configuration changes nothing");
    gateway.write(&without);
    assert_eq!(gateway.admin("POST", "/reload", "").await.0, 200);
    assert_eq!(state().await, "unknown", "nobody would bring it up again");
}

#[tokio::test]
async fn what_cannot_change_live_is_refused_by_name() {
    let origin = Origin::fixed("ok").await;
    let gateway = Gateway::start(&config(&origin, "one")).await;
    let text = std::fs::read_to_string(gateway.path().join("edge.toml")).unwrap().replace("threads = 2", "threads = 1");
    std::fs::write(gateway.path().join("edge.toml"), text).unwrap();
    let (status, answer) = gateway.admin("POST", "/reload", "").await;
    assert_eq!(status, 422);
    assert!(answer["text"].as_str().unwrap().contains("`process.threads` cannot change while running"), "{answer}");
}

/// The bar of the trade: reloads without end under load, nothing failed, everything that lives keeps living.
#[tokio::test]
async fn reloads_under_load_fail_nothing_and_keep_a_thousand_websockets() {
    let origin = Origin::fixed("ok").await;
    let echo = websocket_origin().await;
    let config = |n: usize| {
        format!(
            "{}[upstream.ws]\nendpoints = [\"{echo}\"]\n[route.ws]\nhosts = [\"ws.test\"]\nupstream = \"ws\"\n",
            config(&origin, &format!("generation {n}"))
        )
    };
    let mut gateway = Gateway::start(
        &config(0).replace("[listener.http]\n", "[listener.http]\nlimits = { connections_per_ip = 5000 }\n"),
    )
    .await;
    let addr = gateway.addr("http");
    let mut sockets = Vec::new();
    for _ in 0..1000 {
        sockets.push(open_websocket(addr).await);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let (good, bad) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut load = Vec::new();
    for worker in 0..8 {
        let (stop, good, bad) = (stop.clone(), good.clone(), bad.clone());
        load.push(tokio::spawn(async move {
            while !stop.load(SeqCst) {
                let outcome = if worker % 2 == 0 { h1_burst(addr).await } else { h2_burst(addr).await };
                match outcome {
                    Some(count) => good.fetch_add(count, SeqCst),
                    None => bad.fetch_add(1, SeqCst),
                };
            }
        }));
    }
    let end = Instant::now() + Duration::from_secs(30);
    let mut generation = 0;
    while Instant::now() < end {
        generation += 1;
        let text = config(generation)
            .replace("[listener.http]\n", "[listener.http]\nlimits = { connections_per_ip = 5000 }\n");
        let (status, answer) = gateway.reload(&text).await;
        assert_eq!(status, 200, "{answer}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    stop.store(true, SeqCst);
    for worker in load {
        worker.await.unwrap();
    }
    assert!(generation >= 50, "{generation}");
    assert_eq!(bad.load(SeqCst), 0, "of {} requests over {generation} reloads", good.load(SeqCst));
    for (n, socket) in sockets.iter_mut().enumerate() {
        socket.write_all(b"still here").await.unwrap();
        let mut echo = [0; 10];
        tokio::time::timeout(Duration::from_secs(10), socket.read_exact(&mut echo))
            .await
            .unwrap_or_else(|_| panic!("websocket {n} is silent"))
            .unwrap();
        assert_eq!(&echo, b"still here");
    }
}

async fn h1_burst(addr: std::net::SocketAddr) -> Option<usize> {
    let mut client = Client::over(TcpStream::connect(addr).await.ok()?);
    for _ in 0..20 {
        client.try_send("GET / HTTP/1.1\r\nHost: x.test\r\n\r\n").await.ok()?;
        if client.try_response(false).await?.status != 200 {
            return None;
        }
    }
    Some(20)
}

async fn h2_burst(addr: std::net::SocketAddr) -> Option<usize> {
    let sender = h2(TcpStream::connect(addr).await.ok()?).await;
    for _ in 0..20 {
        let (parts, _) = h2_get(&sender, "http://x.test/").await.ok()?;
        if parts.status != 200 {
            return None;
        }
    }
    Some(20)
}

async fn websocket_origin() -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = Vec::new();
                if crate::support::origin::read_request(&mut stream, &mut buffer).await.is_none() {
                    return;
                }
                let _ = stream
                    .write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
                    .await;
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    addr
}

async fn open_websocket(addr: std::net::SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream
        .write_all(b"GET /chat HTTP/1.1\r\nHost: ws.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
        .await
        .unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        assert_ne!(stream.read_buf(&mut head).await.unwrap(), 0, "{}", String::from_utf8_lossy(&head));
    }
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
    stream
}

#[tokio::test]
async fn a_download_in_progress_survives_a_reload() {
    let origin = Origin::raw(|mut stream| async move {
        let mut buffer = Vec::new();
        crate::support::origin::read_request(&mut stream, &mut buffer).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n").await.unwrap();
        for _ in 0..100 {
            stream.write_all(&[b'x'; 1000]).await.unwrap();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let mut gateway = Gateway::start(&config(&origin, "one")).await;
    let mut client = Client::connect(gateway.addr("http")).await;
    client.send("GET /big HTTP/1.1\r\nHost: x.test\r\n\r\n").await;
    for n in 0..5 {
        assert_eq!(gateway.reload(&config(&origin, &n.to_string())).await.0, 200);
    }
    assert_eq!(client.response().await.body.len(), 100_000);
}
