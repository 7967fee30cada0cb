//! How tunnels end and what does not end them: each side's close, resets, reloads, timeouts of other things, slow readers, crowds.

use super::meeting::{Lab, PATIENCE, Pair, Way, carry, rest, say};
use crate::support::{cases::Cases, client::Io, eventually};
use std::{sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinSet,
    time::timeout,
};

pub(super) fn add(lab: &Arc<Lab>, cases: &mut Cases) {
    let lab = || lab.clone();
    cases.case("end: closed by the client, as RFC 6455 wants it", closed(lab(), Side::Near));
    cases.case("end: closed by the origin, as RFC 6455 wants it", closed(lab(), Side::Far));
    cases.case("end: the client's last MiB arrives before its end", last_words(lab(), Side::Near));
    cases.case("end: the origin's last MiB arrives before its end", last_words(lab(), Side::Far));
    cases.case("end: a client that is gone is gone for the origin", gone(lab(), Side::Near, Way::Clear));
    cases.case("end: an origin that is gone is gone for the client", gone(lab(), Side::Far, Way::Clear));
    cases.case("end: a client that is gone, over TLS", gone(lab(), Side::Near, Way::TlsBoth));
    cases.case("end: an origin that is gone, over TLS", gone(lab(), Side::Far, Way::TlsBoth));
    cases.case("end: the origin is not left writing to a client that is gone", writing(lab(), Side::Far));
    cases.case("end: the client is not left writing to an origin that is gone", writing(lab(), Side::Near));
    cases.case("end: told in the log, once, by its 101", recorded(lab()));
    cases.case("life: a reload leaves it open", reload());
    cases.case("life: a listener that drains leaves it open", drain());
    cases.case("life: timeouts of requests are not for tunnels", rests());
    cases.case("life: two hundred at a time", crowd(lab()));
    cases.case("life: a client that reads slowly holds its origin back", slow(Side::Near));
    cases.case("life: an origin that reads slowly holds its client back", slow(Side::Far));
}

/// Whose doing it is.
#[derive(Clone, Copy)]
enum Side {
    Near,
    Far,
}

/// The side in question first.
fn sides(pair: Pair, side: Side) -> (Box<dyn Io>, Box<dyn Io>) {
    match side {
        Side::Near => (pair.near, pair.far),
        Side::Far => (pair.far, pair.near),
    }
}

async fn words(pair: &mut Pair) {
    carry(&mut pair.near, &mut pair.far, b"\x89\x82\x01\x02\x03\x04up").await;
    carry(&mut pair.far, &mut pair.near, b"\x8a\x04down").await;
}

/// RFC 6455 §7.1.1: Close is answered by Close, and the server ends the connection.
async fn closed(lab: Arc<Lab>, side: Side) {
    let mut pair = lab.open(Way::Clear).await;
    words(&mut pair).await;
    let (one, other) = match side {
        Side::Near => (&mut pair.near, &mut pair.far),
        Side::Far => (&mut pair.far, &mut pair.near),
    };
    carry(one, other, b"\x88\x02\x03\xe8").await;
    carry(other, one, b"\x88\x02\x03\xe8").await;
    pair.far.shutdown().await.unwrap();
    assert!(rest(&mut pair.near).await.is_empty());
    drop(pair.near);
    assert!(rest(&mut pair.far).await.is_empty());
}

async fn last_words(lab: Arc<Lab>, side: Side) {
    let (mut talks, mut hears) = sides(lab.open(Way::Clear).await, side);
    let last: Vec<u8> = (0..1 << 20_u32).map(|n: u32| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    let (_, heard) = tokio::join!(
        async {
            say(&mut talks, &last).await;
            talks.shutdown().await.unwrap();
        },
        rest(&mut hears)
    );
    assert!(heard == last, "{} of {} octets arrived", heard.len(), last.len());
}

/// Closing a socket with unread octets resets its connection (RFC 9293 §3.10.4, as Linux does it).
async fn gone(lab: Arc<Lab>, side: Side, way: Way) {
    let (mut leaves, mut stays) = sides(lab.open(way).await, side);
    say(&mut stays, b"\x89\x04ping").await;
    let mut one = [0; 1];
    leaves.read_exact(&mut one).await.unwrap();
    drop(leaves);
    rest(&mut stays).await;
}

async fn writing(lab: Arc<Lab>, side: Side) {
    let (mut writes, leaves) = sides(lab.open(Way::Clear).await, side);
    drop(leaves);
    let octets = vec![0; 64 << 10];
    let fails = async { while writes.write_all(&octets).await.is_ok() {} };
    timeout(PATIENCE, fails).await.expect("whoever writes is told");
}

async fn recorded(lab: Arc<Lab>) {
    let mut pair = lab.open(Way::Clear).await;
    words(&mut pair).await;
    let Pair { near, far, path } = pair;
    drop((near, far));
    let of_path =
        || lab.gateway.records().into_iter().filter(|record| record["path"] == path.as_str()).collect::<Vec<_>>();
    eventually("the record is written", async || (!of_path().is_empty()).then_some(())).await;
    let records = of_path();
    assert!(records.len() == 1 && records[0]["status"] == 101, "{records:?}");
}

async fn reload() {
    let mut lab = Lab::start("", "", "").await;
    let (mut clear, mut tls) = (lab.open(Way::Clear).await, lab.open(Way::TlsBoth).await);
    for round in 0..3 {
        let config = lab.config.replace("status = 204", &format!("status = {}", 201 + round));
        assert_eq!(lab.gateway.reload(&config).await.0, 200);
        words(&mut clear).await;
        words(&mut tls).await;
    }
    // Even when listener, route and upstream are gone.
    let other = "[listener.other]\naddress = \"127.0.0.1:0\"\n[route.other]\nrespond = { status = 204 }\n";
    assert_eq!(lab.gateway.reload(other).await.0, 200);
    words(&mut clear).await;
    words(&mut tls).await;
}

async fn drain() {
    let lab = Lab::start("", "", "").await;
    let mut pair = lab.open(Way::Clear).await;
    assert_eq!(lab.gateway.admin("POST", "/drain/listener", "{\"name\":\"http\"}").await.0, 200);
    let addr = lab.gateway.addr("http");
    eventually("the listener takes nobody", async || tokio::net::TcpStream::connect(addr).await.err()).await;
    words(&mut pair).await;
}

async fn rests() {
    let lab = Lab::start(
        "limits = { header_timeout = \"400ms\", body_timeout = \"400ms\", idle_timeout = \"400ms\" }",
        "read_timeout = \"400ms\"\nwrite_timeout = \"400ms\"\nidle_timeout = \"400ms\"",
        "timeout = \"400ms\"",
    )
    .await;
    let (mut clear, mut tls) = (lab.open(Way::Clear).await, lab.open(Way::TlsBoth).await);
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        words(&mut clear).await;
        words(&mut tls).await;
    }
}

async fn crowd(lab: Arc<Lab>) {
    let mut opening = JoinSet::new();
    for _ in 0..200 {
        let lab = lab.clone();
        opening.spawn(async move { lab.open(Way::Clear).await });
    }
    let mut open = opening.join_all().await;
    for pair in &mut open {
        words(pair).await;
    }
}

/// More than all buffers of both sockets hold.
const MUCH: usize = 64 << 20;

async fn slow(side: Side) {
    let lab = Lab::start("", "", "").await;
    let (mut reads, writes) = sides(lab.open(Way::Clear).await, side);
    let (mut rest_of, mut writes) = tokio::io::split(writes);
    let before = resident(lab.gateway.pid());
    let octets: Vec<u8> = (0..1 << 20_u32).map(|n: u32| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    let sent = octets.clone();
    let writing = tokio::spawn(async move {
        for _ in 0..MUCH >> 20 {
            writes.write_all(&sent).await.unwrap();
        }
        writes
    });
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!writing.is_finished(), "64 MiB were taken that nobody reads");
    let grown = resident(lab.gateway.pid()).saturating_sub(before);
    assert!(grown < 24 << 20, "{} MiB are held for one tunnel", grown >> 20);
    let mut arrived = vec![0; 1 << 20];
    for _ in 0..MUCH >> 20 {
        timeout(PATIENCE, reads.read_exact(&mut arrived)).await.expect("it goes on when it is read").unwrap();
        assert!(arrived == octets);
    }
    let _writes = writing.await.unwrap();
    say(&mut reads, b"\x8a\x00").await;
    let mut word = [0; 2];
    timeout(PATIENCE, rest_of.read_exact(&mut word)).await.expect("the other way is open").unwrap();
}

fn resident(pid: u32) -> u64 {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}
