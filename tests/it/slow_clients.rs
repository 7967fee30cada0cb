//! Clients that take their time: each is met with the patience that the listener has, and nobody else waits for them.

use crate::support::{
    client::Client,
    eventually,
    gateway::Gateway,
    h2_origin::{H2Answer, H2Origin},
    origin::Origin,
};
use bytes::Bytes;
use std::time::{Duration, Instant};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

async fn edge(origin: &Origin, limits: &str) -> Gateway {
    Gateway::start(&format!(
        "[listener.http]\naddress = \"127.0.0.1:0\"\nlimits = {{ {limits} }}\n[upstream.app]\nendpoints = [\"{}\"]\n[route.app]\nupstream = \"app\"\n",
        origin.addr
    ))
    .await
}

async fn assert_served(gateway: &Gateway) {
    assert_eq!(Client::connect(gateway.addr("http")).await.get("a", "/").await.status, 200);
}

#[tokio::test]
async fn heads_that_never_end_are_cut_in_time_while_others_are_served() {
    let origin = Origin::fixed("ok").await;
    let gateway = edge(&origin, "header_timeout = \"1s\"").await;
    let addr = gateway.addr("http");
    let began = Instant::now();
    let slow = (0..300).map(|_| {
        tokio::spawn(async move {
            let mut stream = TcpStream::connect(addr).await.unwrap();
            stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n").await.unwrap();
            let (mut read, mut write) = stream.split();
            let mut answer = String::new();
            let drip = async {
                while write.write_all(b"X-A: b\r\n").await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                std::future::pending::<()>().await;
            };
            tokio::select! {
                _ = read.read_to_string(&mut answer) => answer,
                () = drip => unreachable!(),
            }
        })
    });
    let slow: Vec<_> = slow.collect();
    while began.elapsed() < Duration::from_millis(800) {
        assert_served(&gateway).await;
    }
    for attack in slow {
        let answer = tokio::time::timeout(Duration::from_secs(10), attack).await.expect("cut").unwrap();
        // The answer may be lost when our last drop crosses its close.
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
    }
    assert!(began.elapsed() >= Duration::from_secs(1));
    gateway.counts("portcullis_refusals_total", &["header_timeout"], 300.0).await;
}

#[tokio::test]
async fn a_resting_connection_is_closed_after_the_idle_timeout_and_not_before() {
    let origin = Origin::fixed("ok").await;
    let gateway = edge(&origin, "idle_timeout = \"700ms\"").await;
    let mut client = Client::connect(gateway.addr("http")).await;
    for _ in 0..2 {
        assert_eq!(client.get("a", "/").await.status, 200);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let rested = Instant::now();
    assert!(client.closed(Duration::from_secs(10)).await);
    assert!(rested.elapsed() > Duration::from_millis(400), "{:?}", rested.elapsed());
}

#[tokio::test]
async fn who_does_not_take_the_answer_is_let_go() {
    let origin = Origin::start(|_| {
        let body = vec![b'x'; 32 << 20];
        [format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes(), body].concat()
    })
    .await;
    let gateway = edge(&origin, "body_timeout = \"500ms\"").await;
    let mut stream = TcpStream::connect(gateway.addr("http")).await.unwrap();
    stream.write_all(b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let record = eventually("it is given up and told", async || gateway.records().pop()).await;
    assert_eq!((&record["path"], &record["ended_by"]), (&"/big".into(), &"client".into()), "{record}");
    assert!(record["duration_ms"].as_f64().unwrap() >= 500.0, "{record}");
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut rest)).await;
    assert!(ended.is_ok() && rest.len() < 32 << 20, "the connection ends without the whole");
}

#[tokio::test]
async fn heads_have_a_size_and_a_number_of_fields() {
    let origin = Origin::fixed("ok").await;
    let gateway = edge(&origin, "header = \"2KiB\", headers = 10").await;
    for (fields, status) in [
        ("X: y\r\n".repeat(8), 200),
        ("X: y\r\n".repeat(12), 431),
        (format!("X: {}\r\n", "y".repeat(1_500)), 200),
        (format!("X: {}\r\n", "y".repeat(3_000)), 431),
    ] {
        let mut client = Client::connect(gateway.addr("http")).await;
        client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")).await;
        assert_eq!(client.response().await.status, status, "{} octets", fields.len());
    }
}

/// How many files this process may have open.
fn open_files() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    line.split_whitespace().nth(3).unwrap().parse().unwrap_or(usize::MAX)
}

#[tokio::test]
async fn ten_thousand_idle_connections_cost_little_and_bother_nobody() {
    let wanted = 10_000;
    // Other tests have files open beside this one.
    let number = wanted.min(open_files().saturating_sub(4_000));
    if number < wanted {
        eprintln!("NOT CHECKED with {wanted} connections but with {number}: the limit of open files is too low");
    }
    let origin = Origin::fixed("ok").await;
    let gateway = edge(&origin, "connections_per_ip = 50000").await;
    let memory = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap().to_owned();
        line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap()
    };
    assert_served(&gateway).await;
    let before = memory();
    let mut idle = Vec::new();
    for _ in 0..number {
        let mut client = Client::connect(gateway.addr("http")).await;
        // Half of them have been served once.
        if idle.len() % 2 == 0 {
            assert_eq!(client.get("a", "/").await.status, 200);
        }
        idle.push(client);
    }
    gateway.counts("portcullis_connections_active", &["listener=\"http\""], number as f64).await;
    let each = (memory().saturating_sub(before) << 10) / number.max(1);
    // The bar of 6 KiB is measured with the optimised binary, in the benches; this is the alarm for a buffer kept by mistake.
    assert!(each < 16 << 10, "{each} octets an idle connection");
    for _ in 0..50 {
        assert_served(&gateway).await;
    }
    for client in idle.iter_mut().step_by(997) {
        assert_eq!(client.get("a", "/").await.status, 200);
    }
}

#[tokio::test]
async fn a_download_that_nobody_reads_leaves_the_other_streams_of_its_upstream_connection_alone() {
    let origin = H2Origin::start(|parts, _| match parts.uri.path() {
        "/large" => H2Answer::Large(Bytes::from(vec![b'x'; 32 << 20])),
        _ => H2Answer::Plain("ok"),
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let config = format!(
        "[process]\nthreads = 1\nupgrade = \"unix:u.sock\"\n[admin]\naddress = \"unix:admin.sock\"\n[listener.http]\naddress = \"127.0.0.1:0\"\n[upstream.app]\nendpoints = [\"{}\"]\nprotocol = \"h2c\"\n[route.app]\nupstream = \"app\"\n",
        origin.addr
    );
    std::fs::write(folder.path().join("edge.toml"), config).unwrap();
    let gateway = Gateway::start_file(folder, &[]).await;
    let mut idle = Vec::new();
    for _ in 0..20 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let mut stream = socket.connect(gateway.addr("http")).await.unwrap();
        stream.write_all(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let mut first = [0; 1];
        stream.read_exact(&mut first).await.unwrap();
        idle.push(stream);
        assert_served(&gateway).await;
    }
    // As much as is taken of each has been taken when this many have gone by.
    for _ in 0..200 {
        assert_served(&gateway).await;
    }
    assert_eq!(origin.connections.load(std::sync::atomic::Ordering::SeqCst), 1);
}
