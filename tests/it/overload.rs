//! A process that is given little memory lives within it: it turns requests away, and is not killed.

use crate::support::{
    client::Client,
    eventually,
    gateway::Gateway,
    memory_group::MemoryGroup,
    origin::{Origin, read_request},
};
use bytes::Bytes;
use std::time::Duration;
use tokio::{io::AsyncWriteExt, net::TcpSocket};

const MIB: u64 = 1 << 20;

fn config(process: &str, origin: &Origin) -> String {
    format!(
        "{process}\n[listener.http]\naddress = \"127.0.0.1:0\"\n[upstream.app]\nendpoints = [\"{}\"]\n[route.app]\nupstream = \"app\"\n[route.own]\npath = \"/own\"\nrespond = {{ status = 200 }}\n",
        origin.addr
    )
}

async fn status(gateway: &Gateway) -> Option<u16> {
    let mut client = Client::over(tokio::net::TcpStream::connect(gateway.addr("http")).await.ok()?);
    client.try_send(b"GET /own HTTP/1.1\r\nHost: a\r\n\r\n").await.ok()?;
    Some(client.try_response(false).await?.status)
}

#[tokio::test]
async fn above_its_share_of_memory_requests_are_shed_and_connections_refused() {
    let Some(group) = MemoryGroup::new("share") else { return };
    let origin = Origin::fixed("ok").await;
    let overload = "[process.overload]\nmemory = \"50%\"";
    let gateway = Gateway::start_in_group(&group, &config(overload, &origin)).await;
    assert_eq!(status(&gateway).await, Some(200), "without a limit the machine's memory counts");
    // Of the group's memory 65 % are used: a share of requests is shed.
    group.limit(group.usage() * 100 / 65).unwrap();
    eventually("a request is shed", async || (status(&gateway).await == Some(503)).then_some(())).await;
    let mut client = Client::connect(gateway.addr("http")).await;
    let shed = eventually("and told when to come again, on a connection that ends", async || {
        let response = client.get("a", "/own").await;
        if response.status == 200 {
            return None;
        }
        Some(response)
    })
    .await;
    assert_eq!((shed.status, shed.header("retry-after"), shed.header("connection")), (503, Some("1"), Some("close")));
    let (code, state) = gateway.admin("GET", "/status", "").await;
    assert_eq!((code, &state["overload"]["memory"]["overloaded"]), (200, &true.into()), "those who must look can");
    // All but gone: no new connections either.
    group.limit(group.usage() * 100 / 97).unwrap();
    eventually("connections are refused", async || {
        status(&gateway).await;
        let refused = gateway.metric("portcullis_connections_refused_total", &["overloaded"]).await;
        (refused > 0.0).then_some(())
    })
    .await;
    group.limit(group.usage() * 10).unwrap();
    eventually("it is over", async || (status(&gateway).await == Some(200)).then_some(())).await;
    assert!(gateway.metric("portcullis_overload_shed_total", &["memory", "shed"]).await >= 1.0);
}

/// nginx needs 46 kB for one who does not read its download, haproxy 25; what must not be is that their number ends us.
#[tokio::test]
async fn downloads_that_nobody_reads_are_held_within_the_limit() {
    const READERS: usize = 400;
    let Some(group) = MemoryGroup::new("slow") else { return };
    let body = Bytes::from(vec![b'x'; 4 << 20]);
    let origin = Origin::raw(move |mut stream| {
        let body = body.clone();
        async move {
            let mut buffer = Vec::new();
            while read_request(&mut stream, &mut buffer).await.is_some() {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                if stream.write_all(head.as_bytes()).await.is_err() || stream.write_all(&body).await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    let gateway = Gateway::start_in_group(&group, &config("", &origin)).await;
    group.limit(256 * MIB).unwrap();
    let before = group.usage();
    let mut readers = Vec::new();
    for _ in 0..READERS {
        let socket = TcpSocket::new_v4().unwrap();
        // So that what is sent waits in the gateway and not in the kernel.
        socket.set_recv_buffer_size(4096).unwrap();
        let Ok(mut stream) = socket.connect(gateway.addr("http")).await else { continue };
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        readers.push(stream);
    }
    eventually("all downloads have begun", async || {
        (gateway.metric("portcullis_requests_active", &["app"]).await == READERS as f64).then_some(())
    })
    .await;
    let mut peak = 0;
    let until = tokio::time::Instant::now() + Duration::from_secs(3);
    while tokio::time::Instant::now() < until {
        // Served or shed, never left alone.
        let answer = status(&gateway).await;
        assert!(matches!(answer, None | Some(200 | 503)), "{answer:?}");
        peak = peak.max(group.usage());
    }
    assert!(peak < 250 * MIB, "{} MiB", peak / MIB);
    drop(readers);
    // The allocator may keep some for who comes next.
    let half = before + (peak - before) / 2;
    eventually("most of what they held is given back", async || (group.usage() < half).then_some(())).await;
    assert_eq!(status(&gateway).await, Some(200));
}
