//! Ending, upgrading, being started by systemd: without losing a request.

use crate::support::{
    client::Client,
    eventually,
    gateway::{Gateway, run_in},
    origin::{Origin, ok, read_request},
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

fn config(origin: &Origin, port: u16) -> String {
    format!(
        "[listener.http]\naddress = \"127.0.0.1:{port}\"\n[upstream.app]\nendpoints = [\"{}\"]\n[route.app]\nupstream = \"app\"\n",
        origin.addr
    )
}

#[tokio::test]
async fn sigterm_lets_requests_in_flight_finish_and_ends_soon_after() {
    let slow = Origin::raw(|mut stream| async move {
        let _ = read_request(&mut stream, &mut Vec::new()).await;
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let _ = stream.write_all(&ok("at last")).await;
    })
    .await;
    let mut gateway = Gateway::start(&config(&slow, 0)).await;
    let addr = gateway.addr("http");
    let mut idle = Client::connect(addr).await;
    let mut busy = Client::connect(addr).await;
    busy.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    eventually("the request is in flight", async || (slow.connections.load(SeqCst) > 0).then_some(())).await;
    gateway.signal("-TERM");
    let response = busy.response().await;
    let answered = Instant::now();
    assert_eq!((response.text().as_str(), response.header("connection")), ("at last", Some("close")));
    assert!(idle.closed(Duration::from_secs(5)).await);
    assert!(gateway.ended(Duration::from_secs(5)).await.success());
    assert!(answered.elapsed() < Duration::from_secs(1), "{:?} after the last answer", answered.elapsed());
    assert!(TcpStream::connect(addr).await.is_err());
}

#[tokio::test]
async fn sigterm_under_load_fails_no_request_that_was_accepted() {
    let origin = Origin::fixed("ok").await;
    let mut gateway = Gateway::start(&config(&origin, 0)).await;
    let addr = gateway.addr("http");
    let (good, bad) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut load = Vec::new();
    for _ in 0..16 {
        let (good, bad) = (good.clone(), bad.clone());
        load.push(tokio::spawn(async move {
            'connections: loop {
                let Ok(stream) = TcpStream::connect(addr).await else { return };
                let mut client = Client::over(stream);
                loop {
                    if client.try_send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.is_err() {
                        return;
                    }
                    match client.try_response(false).await {
                        Some(response) if response.status == 200 => {
                            good.fetch_add(1, SeqCst);
                            if response.header("connection") == Some("close") {
                                continue 'connections;
                            }
                        }
                        Some(_) => {
                            bad.fetch_add(1, SeqCst);
                        }
                        // Closed between requests while draining: the client would connect anew.
                        None => continue 'connections,
                    }
                }
            }
        }));
    }
    eventually("load runs", async || (good.load(SeqCst) > 200).then_some(())).await;
    gateway.signal("-TERM");
    assert!(gateway.ended(Duration::from_secs(10)).await.success());
    for client in load {
        client.await.unwrap();
    }
    assert_eq!(bad.load(SeqCst), 0);
}

#[tokio::test]
async fn a_new_binary_takes_the_sockets_over_without_a_refused_connection() {
    let origin = Origin::fixed("ok").await;
    let mut gateway = Gateway::start(&config(&origin, 0)).await;
    let addr = gateway.addr("http");
    let stop = Arc::new(AtomicBool::new(false));
    let (done, counts) = (stop.clone(), Arc::new((AtomicUsize::new(0), AtomicUsize::new(0))));
    let seen = counts.clone();
    let load = tokio::spawn(async move {
        while !done.load(SeqCst) {
            // A connection for each request: every one must be accepted and answered.
            let answered = async {
                let mut client = Client::over(TcpStream::connect(addr).await.ok()?);
                client.try_send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.ok()?;
                client.try_response(false).await.filter(|response| response.status == 200)
            };
            let counter = if answered.await.is_some() { &seen.0 } else { &seen.1 };
            counter.fetch_add(1, SeqCst);
        }
    });
    let old = gateway.pid();
    let (code, out) = gateway.command(&["upgrade", "--admin", "admin.sock"]).await;
    assert_eq!(code, 0, "{out}");
    assert!(gateway.ended(Duration::from_secs(20)).await.success(), "the old process ends by itself");
    let new = eventually("the new process answers", async || {
        let (_, status) = gateway.try_admin("GET", "/status", "").await?;
        status["pid"].as_u64().filter(|pid| *pid != u64::from(old))
    })
    .await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    stop.store(true, SeqCst);
    load.await.unwrap();
    let (good, bad) = (counts.0.load(SeqCst), counts.1.load(SeqCst));
    std::process::Command::new("kill").arg(new.to_string()).status().unwrap();
    assert!(good > 20 && bad == 0, "{good} good, {bad} failed");
}

/// A release that waits for its operator.
fn with_release(origin: &Origin) -> String {
    format!(
        "{}[upstream.next]\nendpoints = [\"{}\"]\n[slo.app]\nroute = \"app\"\navailability = \"99%\"\n\
         [rollout.v2]\nroute = \"app\"\nfrom = \"app\"\nto = \"next\"\nhold = \"1h\"\n",
        config(origin, 0),
        origin.addr
    )
}

#[tokio::test]
async fn while_a_successor_starts_everything_is_answered_and_releases_rest() {
    let origin = Origin::fixed("ok").await;
    let gateway = Gateway::start(&with_release(&origin)).await;
    let pause = async || {
        let wish = "{\"rollout\":\"v2\",\"command\":\"pause\"}";
        let asked = tokio::time::timeout(Duration::from_secs(20), gateway.admin("POST", "/rollout", wish));
        asked.await.expect("the admin socket answers during a hand-over")
    };
    let mut successor = tokio::net::UnixStream::connect(gateway.path().join("upgrade.sock")).await.unwrap();
    // How many sockets are to come: the hand-over has begun, and lasts until we say that we are ready.
    assert_eq!(successor.read_u32().await.unwrap(), 2);
    let (status, answer) = pause().await;
    assert!(status == 409 && answer["error"].as_str().unwrap().contains("taking over"), "{answer}");
    assert_eq!(gateway.admin("GET", "/status", "").await.0, 200);
    assert_eq!(Client::connect(gateway.addr("http")).await.get("a", "/").await.status, 200);
    drop(successor);
    eventually("it goes on without a successor", async || (pause().await.0 == 200).then_some(())).await;
    assert!(gateway.log().contains("a successor did not take over"), "{}", gateway.log());
}

#[tokio::test]
async fn a_successor_goes_on_with_the_releases_as_they_are() {
    let origin = Origin::fixed("ok").await;
    let mut gateway = Gateway::start(&with_release(&origin)).await;
    let mut client = Client::connect(gateway.addr("http")).await;
    for _ in 0..30 {
        assert_eq!(client.get("a", "/").await.status, 200);
    }
    let counted = async || gateway.admin("GET", "/objectives", "").await.1["objectives"][0]["requests"].as_u64();
    eventually("they are counted", async || (counted().await == Some(30)).then_some(())).await;
    let old = gateway.pid();
    assert_eq!(gateway.command(&["upgrade", "--admin", "admin.sock"]).await.0, 0);
    let (new, status) = eventually("the new process answers", async || {
        let (_, status) = gateway.try_admin("GET", "/status", "").await?;
        let pid = status["pid"].as_u64().filter(|pid| *pid != u64::from(old))?;
        Some((pid, status))
    })
    .await;
    drop(client);
    let ended = gateway.ended(Duration::from_secs(20)).await;
    std::process::Command::new("kill").arg(new.to_string()).status().unwrap();
    assert!(ended.success());
    assert_eq!(status["objectives"][0]["requests"], 30, "{status}");
}

#[tokio::test]
async fn a_broken_start_says_why_and_exits_with_a_code_for_scripts() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("edge.toml"), "[listener.http]\naddress = \"127.0.0.1\"\n").unwrap();
    let (code, out) = run_in(folder.path(), &["run", "edge.toml"]).await;
    assert!(code == 1 && out.contains("the port is missing") && out.contains("edge.toml:2:11"), "{code} {out}");
    let (code, out) = run_in(folder.path(), &["run", "absent.toml"]).await;
    assert!(code == 1 && out.contains("cannot read absent.toml") && out.contains("1 error"), "{code} {out}");
    std::fs::write(folder.path().join("typo.toml"), "[listner.http]\naddress = \"127.0.0.1:0\"\n").unwrap();
    let (code, out) = run_in(folder.path(), &["check", "typo.toml"]).await;
    assert!(code == 1 && out.contains("did you mean `listener`?") && out.contains("1 error"), "{code} {out}");
    let (code, out) = run_in(folder.path(), &["status", "--admin", "nobody.sock"]).await;
    assert!(code == 2 && out.contains("is it running?"), "{code} {out}");
}
