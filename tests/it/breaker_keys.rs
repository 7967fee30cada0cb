//! Keys of an upstream that bound what it is given: connections, waits, retries, times.

use crate::support::{
    client::{Client, h2, h2_get},
    eventually,
    gateway::Gateway,
    h2_origin::{H2Answer, H2Origin},
    origin::{Origin, ok, read_request},
};
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

async fn edge(upstream: &str, route: &str) -> Gateway {
    Gateway::start(&format!(
        "[listener.http]\naddress = \"127.0.0.1:0\"\n[upstream.app]\n{upstream}\n[route.app]\nupstream = \"app\"\n{route}\n"
    ))
    .await
}

/// Statuses and how long each took, of requests that come at once, each on a connection of its own.
async fn at_once(address: SocketAddr, count: usize) -> Vec<(u16, Duration)> {
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..count {
        tasks.spawn(async move {
            let began = Instant::now();
            let status = Client::connect(address).await.get("a", "/").await.status;
            (status, began.elapsed())
        });
    }
    let mut all = tasks.join_all().await;
    all.sort_unstable();
    all
}

fn statuses(all: &[(u16, Duration)]) -> Vec<u16> {
    all.iter().map(|(status, _)| *status).collect()
}

/// How many connections an origin has open, and how many it had at most.
#[derive(Default)]
struct Open {
    now: AtomicUsize,
    most: AtomicUsize,
}

async fn counted(open: Arc<Open>) -> Origin {
    Origin::raw(move |mut stream: TcpStream| {
        let open = open.clone();
        async move {
            open.most.fetch_max(open.now.fetch_add(1, SeqCst) + 1, SeqCst);
            let mut buffer = Vec::new();
            while read_request(&mut stream, &mut buffer).await.is_some() {
                if stream.write_all(&ok("ok")).await.is_err() {
                    break;
                }
            }
            open.now.fetch_sub(1, SeqCst);
        }
    })
    .await
}

#[tokio::test]
async fn connections_that_other_cores_keep_idle_refuse_nobody() {
    let open = Arc::<Open>::default();
    let origin = counted(open.clone()).await;
    let upstream = format!("endpoints = [\"{}\"]\ncircuit_breaker.connections = 1", origin.addr);
    let gateway = edge(&upstream, "").await;
    // Each comes on a connection of its own, so that the kernel gives some to either core.
    for _ in 0..60 {
        assert_eq!(Client::connect(gateway.addr("http")).await.get("a", "/").await.status, 200);
    }
    assert!(origin.connections.load(SeqCst) > 1, "both cores had one");
    // One is closed here before the other is opened there; the origin may see the end of the first later.
    assert!(open.most.load(SeqCst) <= 2, "{}", open.most.load(SeqCst));
    let (_, status) = gateway.admin("GET", "/upstreams", "").await;
    assert_eq!(status["upstreams"][0]["connections"], 1);
}

/// Takes connections and says nothing: a TLS handshake with it takes as long as it may.
async fn mute() -> Origin {
    Origin::raw(|mut stream| async move {
        let mut buffer = [0; 4096];
        while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
    })
    .await
}

#[tokio::test]
async fn connect_timeout_ends_a_handshake_and_pending_bounds_who_waits_for_one() {
    let mute = mute().await;
    let upstream = |keys: &str| {
        format!(
            "endpoints = [\"{}\"]\ntls = {{ sni = \"a.test\", mode = \"insecure_skip_verify\" }}\n{keys}\noutlier.max_ejected = \"0%\"",
            mute.addr
        )
    };
    let gateway =
        edge(&upstream("connect_timeout = \"1500ms\"\ncircuit_breaker.pending = 2"), "retry.attempts = 0").await;
    let all = at_once(gateway.addr("http"), 5).await;
    assert_eq!(statuses(&all), [502, 502, 503, 503, 503], "{all:?}");
    assert!(all[..2].iter().all(|(_, took)| *took >= Duration::from_millis(1500)), "{all:?}");
    assert!(all[2..].iter().all(|(_, took)| *took < Duration::from_millis(1400)), "at once: {all:?}");
    gateway.counts("portcullis_refusals_total", &["circuit_open"], 3.0).await;
    // Everybody's default may be another.
    let text = format!(
        "[defaults]\nconnect_timeout = \"100ms\"\n[listener.http]\naddress = \"127.0.0.1:0\"\n[upstream.app]\n{}\n[route.app]\nupstream = \"app\"\nretry.attempts = 0\n",
        upstream("")
    );
    let all = at_once(Gateway::start(&text).await.addr("http"), 1).await;
    assert!(all[0].0 == 502 && all[0].1 < Duration::from_millis(1500), "{all:?}");
}

#[tokio::test]
async fn retries_under_way_are_bounded() {
    let sick = Origin::start(|_| b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n".to_vec()).await;
    let slow = Origin::raw(|mut stream| async move {
        let mut buffer = Vec::new();
        while read_request(&mut stream, &mut buffer).await.is_some() {
            tokio::time::sleep(Duration::from_millis(700)).await;
            let _ = stream.write_all(&ok("ok")).await;
        }
    })
    .await;
    for (breaker, expected) in [("", [200; 4]), ("circuit_breaker.retries = 1", [200, 503, 503, 503])] {
        let upstream = format!(
            "endpoints = [\"{}\", {{ address = \"{}\", priority = 1 }}]\noutlier.max_ejected = \"0%\"\nretry_budget.percent = \"100%\"\n{breaker}",
            sick.addr, slow.addr
        );
        let gateway = edge(&upstream, "retry = { on = [\"503\"], backoff = \"0ms..1ms\" }").await;
        assert_eq!(statuses(&at_once(gateway.addr("http"), 4).await), expected, "{breaker}");
    }
}

#[tokio::test]
async fn few_requests_have_retries_as_far_as_their_minimum_goes() {
    let sick = Origin::start(|_| b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n".to_vec()).await;
    for (minimum, attempts) in [(0, 20.0), (50, 40.0)] {
        let upstream = format!(
            "endpoints = [\"{}\"]\nretry_budget = {{ percent = \"1%\", min_per_second = {minimum} }}\noutlier.max_ejected = \"0%\"",
            sick.addr
        );
        let gateway = edge(&upstream, "retry = { on = [\"503\"], backoff = \"0ms..1ms\" }").await;
        at_once(gateway.addr("http"), 20).await;
        assert_eq!(gateway.metric("portcullis_upstream_attempts_total", &[]).await, attempts, "{minimum}");
    }
}

#[tokio::test]
async fn a_retry_waits_as_long_as_it_is_told() {
    let sick = Origin::start(|_| b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n".to_vec()).await;
    let mut took = Vec::new();
    for backoff in ["0ms..1ms", "500ms..500ms"] {
        let upstream =
            format!("endpoints = [\"{}\"]\nretry_budget.min_per_second = 100\noutlier.max_ejected = \"0%\"", sick.addr);
        let gateway = edge(&upstream, &format!("retry = {{ on = [\"503\"], backoff = \"{backoff}\" }}")).await;
        took.push(at_once(gateway.addr("http"), 40).await.iter().map(|(_, took)| *took).sum::<Duration>() / 40);
    }
    // Full jitter: a quarter of a second in the mean, within a tenth by many standard deviations.
    assert!(took[1] > took[0] + Duration::from_millis(100), "{took:?}");
}

#[tokio::test]
async fn an_idle_connection_is_kept_for_its_time() {
    let open = Arc::<Open>::default();
    let origin = counted(open.clone()).await;
    for (key, kept) in [("", true), ("idle_timeout = \"300ms\"", false)] {
        let gateway = edge(&format!("endpoints = [\"{}\"]\n{key}", origin.addr), "").await;
        assert_eq!(statuses(&at_once(gateway.addr("http"), 1).await), [200]);
        if kept {
            tokio::time::sleep(Duration::from_millis(900)).await;
            assert_eq!(open.now.load(SeqCst), 1);
        } else {
            eventually("it is closed", async || (open.now.load(SeqCst) == 0).then_some(())).await;
        }
        drop(gateway);
        eventually("the gateway is gone", async || (open.now.load(SeqCst) == 0).then_some(())).await;
    }
}

#[tokio::test]
async fn an_origin_that_takes_nothing_is_given_up_after_the_write_timeout() {
    // It reads nothing at all, so that soon nothing more can be written.
    let full = Origin::raw(|stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let gateway =
        edge(&format!("endpoints = [\"{}\"]\nwrite_timeout = \"500ms\"", full.addr), "timeout = \"60s\"").await;
    let began = Instant::now();
    let (mut read, mut write) = TcpStream::connect(gateway.addr("http")).await.unwrap().into_split();
    let upload = tokio::spawn(async move {
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", 10_000_000);
        let _ = write.write_all(head.as_bytes()).await;
        while write.write_all(&[b'x'; 10_000]).await.is_ok() {}
    });
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(20), read.read_to_end(&mut answer)).await.expect("an end");
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    let record = eventually("it is recorded", async || gateway.records().pop()).await;
    assert_eq!(record["ended_by"], "upstream", "{record}");
    upload.abort();
}

#[tokio::test]
async fn streams_bounds_what_one_h2_connection_to_an_upstream_carries() {
    for (streams, connections) in [(1, 4), (100, 1)] {
        let origin = H2Origin::start(|parts, _| match parts.uri.path() {
            "/wait" => H2Answer::Never,
            _ => H2Answer::Plain("ok"),
        })
        .await;
        let upstream = format!("endpoints = [\"{}\"]\nprotocol = \"h2c\"\nstreams = {streams}", origin.addr);
        let gateway = edge(&upstream, "").await;
        // One connection, so one core.
        let sender = h2(TcpStream::connect(gateway.addr("http")).await.unwrap()).await;
        let mut waiting = tokio::task::JoinSet::new();
        for n in 1..4 {
            let sender = sender.clone();
            waiting.spawn(async move { h2_get(&sender, "http://a/wait").await.is_ok() });
            eventually("it is there", async || (origin.seen.lock().unwrap().len() == n).then_some(())).await;
        }
        assert_eq!(h2_get(&sender, "http://a/").await.unwrap().1, b"ok");
        assert_eq!(origin.connections.load(SeqCst), connections, "{streams}");
    }
}
