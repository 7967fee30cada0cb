//! The handshake: what is an upgrade and what is not, what the origin and the client are told, and that nothing opens before the 101.

use super::meeting::{ASKED, Far, GRANTED, Lab, PATIENCE, SEC, Way, carry, head, rest, say, usual};
use crate::support::{cases::Cases, client::Io, origin::find};
use std::sync::Arc;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

/// Name, method and version, fields: asked for like this, WebSocket is granted.
const UPGRADES: &[(&str, &str, &str)] = &[
    ("as in RFC 6455", "GET 1.1", ASKED),
    ("named WebSocket", "GET 1.1", "Connection: Upgrade\r\nUpgrade: WebSocket\r\n"),
    ("named WEBSOCKET", "GET 1.1", "Connection: Upgrade\r\nUpgrade: WEBSOCKET\r\n"),
    ("with a small upgrade", "GET 1.1", "Connection: upgrade\r\nUpgrade: websocket\r\n"),
    ("with a list in Connection", "GET 1.1", "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"),
    ("with a list without spaces", "GET 1.1", "Connection: upgrade,keep-alive\r\nUpgrade: websocket\r\n"),
    (
        "with two fields of Connection",
        "GET 1.1",
        "Connection: keep-alive\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n",
    ),
    ("with Upgrade first", "GET 1.1", "Upgrade: websocket\r\nConnection: Upgrade\r\n"),
];

/// Name, method and version, fields: to the origin these are plain requests, and a 101 to them is an error.
const NO_UPGRADES: &[(&str, &str, &str)] = &[
    ("without Upgrade", "GET 1.1", "Connection: Upgrade\r\n"),
    ("without Connection", "GET 1.1", "Upgrade: websocket\r\n"),
    ("with another Connection", "GET 1.1", "Connection: keep-alive\r\nUpgrade: websocket\r\n"),
    ("with neither", "GET 1.1", ""),
    ("of HTTP/1.0", "GET 1.0", ASKED),
    (
        "to h2c",
        "GET 1.1",
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
    ),
    ("to TLS", "GET 1.1", "Connection: Upgrade\r\nUpgrade: TLS/1.2\r\n"),
    ("to a protocol nobody knows", "GET 1.1", "Connection: Upgrade\r\nUpgrade: foo/2\r\n"),
    ("to a name that begins alike", "GET 1.1", "Connection: Upgrade\r\nUpgrade: websocket2\r\n"),
    ("that is empty", "GET 1.1", "Connection: Upgrade\r\nUpgrade:\r\n"),
];

/// Origins that say no.
const REFUSALS: [(u16, &str); 9] = [
    (200, ""),
    (204, ""),
    (302, "Location: /elsewhere\r\n"),
    (400, ""),
    (401, "WWW-Authenticate: Basic\r\n"),
    (403, ""),
    (404, ""),
    (426, "Upgrade: websocket\r\nSec-WebSocket-Version: 13, 8\r\n"),
    (503, ""),
];

pub(super) fn add(lab: &Arc<Lab>, cases: &mut Cases) {
    for (name, line, fields) in UPGRADES {
        cases.case(format!("handshake {name}"), granted(lab.clone(), line, fields));
    }
    for (name, line, fields) in NO_UPGRADES {
        cases.case(format!("no handshake {name}"), not_an_upgrade(lab.clone(), line, fields));
        cases.case(format!("no handshake {name}, granted all the same"), not_asked_for(lab.clone(), line, fields));
    }
    for (status, fields) in REFUSALS {
        cases.case(format!("refused by {status}: nothing opens"), refused(lab.clone(), status, fields));
    }
    for (name, way) in [("from TLS", Way::TlsIn), ("to TLS", Way::TlsOut), ("from TLS to TLS", Way::TlsBoth)] {
        cases.case(format!("handshake {name}"), by_way(lab.clone(), way));
        cases.case(format!("early octets behind the 101 {name}"), early_down(lab.clone(), way));
    }
    let lab = || lab.clone();
    cases.case("handshake: the client's fields reach the origin", fields_up(lab()));
    cases.case("handshake: the origin's fields reach the client", fields_down(lab()));
    cases.case("handshake: a version or key that is missing is the origin's affair", origins_affair(lab()));
    cases.case("handshake: a query reaches the origin", query(lab()));
    cases.case("handshake: the same field twice is asked once", twice(lab()));
    cases.case("handshake: of POST with a body", with_body(lab()));
    cases.case("handshake: in drops", in_drops(lab()));
    cases.case("handshake: an interim answer before the 101", interim(lab()));
    cases.case("handshake: a 101 in drops", slow_101(lab()));
    cases.case("handshake: a 101 that breaks HTTP's grammar is none", broken_101(lab()));
    cases.case("handshake: no origin", no_origin(lab()));
    cases.case("handshake: refused by a guard, the origin sees nothing of it", guarded(lab()));
    cases.case("handshake: on a connection that was used before", second_on_connection(lab()));
    cases.case("early octets behind the 101", early_down(lab(), Way::Clear));
    cases.case("early octets behind the request", early_up(lab()));
    cases.case("early octets behind a request that is refused are no tunnel", early_and_refused(lab()));
    cases.case("pipelined requests wait for the handshake's answer", pipelined(lab()));
}

fn request(path: &str, line: &str, fields: &str) -> String {
    let (method, version) = line.split_once(' ').unwrap();
    format!("{method} {path} HTTP/{version}\r\nHost: a\r\n{fields}{SEC}\r\n")
}

/// A word each way.
async fn words(near: &mut Box<dyn Io>, far: &mut Box<dyn Io>) {
    carry(near, far, b"\x81\x82\x01\x02\x03\x04up").await;
    carry(far, near, b"\x81\x04down").await;
}

async fn granted(lab: Arc<Lab>, line: &'static str, fields: &'static str) {
    let path = lab.path();
    let (mut near, Far { seen, mut io, ahead }) =
        lab.ask(Way::Clear, &path, request(&path, line, fields).as_bytes()).await;
    assert!(ahead.is_empty() && seen.body.is_empty());
    assert_eq!((seen.all("upgrade"), seen.all("connection")), (vec!["websocket"], vec!["Upgrade"]), "{seen:?}");
    assert_eq!(seen.header("sec-websocket-key"), Some("dGhlIHNhbXBsZSBub25jZQ=="));
    say(&mut io, GRANTED.as_bytes()).await;
    let (told, behind) = head(&mut near).await;
    assert!(told.starts_with("HTTP/1.1 101 ") && behind.is_empty(), "{told}");
    let told = told.to_ascii_lowercase();
    assert!(told.contains("connection: upgrade\r\n") && told.contains("upgrade: websocket\r\n"), "{told}");
    words(&mut near, &mut io).await;
}

async fn not_an_upgrade(lab: Arc<Lab>, line: &'static str, fields: &'static str) {
    let path = lab.path();
    let (mut near, Far { seen, mut io, .. }) =
        lab.ask(Way::Clear, &path, request(&path, line, fields).as_bytes()).await;
    for name in ["upgrade", "http2-settings"] {
        assert!(seen.header(name).is_none(), "{seen:?}");
    }
    assert!(!seen.all("connection").concat().to_ascii_lowercase().contains("upgrade"), "{seen:?}");
    say(&mut io, b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
    assert_eq!(status(&head(&mut near).await.0), 400);
}

async fn not_asked_for(lab: Arc<Lab>, line: &'static str, fields: &'static str) {
    let path = lab.path();
    let (mut near, Far { mut io, .. }) = lab.ask(Way::Clear, &path, request(&path, line, fields).as_bytes()).await;
    say(&mut io, &[GRANTED.as_bytes(), b"\x81\x04down"].concat()).await;
    let (told, _) = head(&mut near).await;
    assert_eq!(status(&told), 502, "{told}");
    // Whatever follows is no tunnel.
    let _ = near.write_all(b"\x81\x00").await;
    assert!(rest(&mut io).await.is_empty());
}

fn status(head: &str) -> u16 {
    head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
}

async fn refused(lab: Arc<Lab>, code: u16, fields: &'static str) {
    let path = lab.path();
    let (mut near, Far { mut io, .. }) = lab.ask(Way::Clear, &path, usual(Way::Clear, &path, "").as_bytes()).await;
    let (length, body) = if code == 204 { ("", "") } else { ("Content-Length: 2\r\n", "no") };
    say(&mut io, format!("HTTP/1.1 {code} No\r\n{fields}{length}Connection: close\r\n\r\n{body}").as_bytes()).await;
    let (told, behind) = head(&mut near).await;
    assert_eq!(status(&told), code, "{told}");
    for field in fields.lines().filter(|field| !field.starts_with("Upgrade")) {
        assert!(told.to_ascii_lowercase().contains(&field.to_ascii_lowercase()), "{field} in {told}");
    }
    // What a client sends that thinks it has a tunnel: the origin sees none of it.
    let _ = near.write_all(b"\x81\x82\x01\x02\x03\x04up").await;
    let _ = near.shutdown().await;
    assert!(rest(&mut io).await.is_empty());
    let after = [behind, rest(&mut near).await].concat();
    assert!(after.starts_with(body.as_bytes()), "{after:?}");
    let after = &after[body.len()..];
    assert!(after.is_empty() || after.starts_with(b"HTTP/1.1 400 "), "{:?}", String::from_utf8_lossy(after));
}

async fn by_way(lab: Arc<Lab>, way: Way) {
    let mut pair = lab.open(way).await;
    words(&mut pair.near, &mut pair.far).await;
    let large = vec![0xa5; 300_000];
    carry(&mut pair.near, &mut pair.far, &large).await;
    carry(&mut pair.far, &mut pair.near, &large).await;
    say(&mut pair.far, b"\x88\x00").await;
    pair.far.shutdown().await.unwrap();
    assert_eq!(rest(&mut pair.near).await, b"\x88\x00");
}

async fn fields_up(lab: Arc<Lab>) {
    const FIELDS: [(&str, &str); 7] = [
        ("Sec-WebSocket-Protocol", "chat, superchat"),
        ("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits, x-webkit-deflate-frame"),
        ("Origin", "http://a.example"),
        ("Cookie", "session=1; theme=dark"),
        ("Authorization", "Bearer abc.def"),
        ("User-Agent", "cases/1"),
        ("Accept-Language", "de"),
    ];
    let path = lab.path();
    let fields = FIELDS.map(|(name, value)| format!("{name}: {value}\r\n")).concat();
    let (_near, far) = lab.ask(Way::Clear, &path, usual(Way::Clear, &path, &fields).as_bytes()).await;
    for (name, value) in FIELDS.into_iter().chain([("Sec-WebSocket-Version", "13"), ("X-Forwarded-For", "127.0.0.1")]) {
        assert_eq!(far.seen.all(name), [value], "{name}");
    }
}

async fn fields_down(lab: Arc<Lab>) {
    const FIELDS: [&str; 5] = [
        "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n",
        "Sec-WebSocket-Protocol: chat\r\n",
        "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover\r\n",
        "Set-Cookie: a=b\r\n",
        "X-Own: 1\r\n",
    ];
    let path = lab.path();
    let (mut near, mut far) = lab.ask(Way::Clear, &path, usual(Way::Clear, &path, "").as_bytes()).await;
    let answer = format!("HTTP/1.1 101 Switching Protocols\r\n{ASKED}{}\r\n", FIELDS.concat());
    say(&mut far.io, answer.as_bytes()).await;
    let (told, _) = head(&mut near).await;
    let lower = told.to_ascii_lowercase();
    for field in FIELDS {
        let (name, value) = field.split_once(": ").unwrap();
        assert!(
            lower.contains(&format!("{}: ", name.to_ascii_lowercase())) && told.contains(value),
            "{field} in {told}"
        );
    }
    for gone in ["content-length", "transfer-encoding"] {
        assert!(!lower.contains(gone), "{told}");
    }
}

async fn origins_affair(lab: Arc<Lab>) {
    for sec in [
        "",
        "Sec-WebSocket-Version: 13\r\n",
        "Sec-WebSocket-Key: x\r\n",
        "Sec-WebSocket-Version: 8\r\nSec-WebSocket-Key: x\r\n",
    ] {
        let path = lab.path();
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n{ASKED}{sec}\r\n");
        let (mut near, mut far) = lab.ask(Way::Clear, &path, request.as_bytes()).await;
        for name in ["Sec-WebSocket-Version", "Sec-WebSocket-Key"] {
            assert_eq!(far.seen.header(name).is_some(), sec.contains(name), "{sec}");
        }
        let refusal = "HTTP/1.1 426 Upgrade Required\r\nSec-WebSocket-Version: 13\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        say(&mut far.io, refusal.as_bytes()).await;
        let (told, _) = head(&mut near).await;
        assert!(status(&told) == 426 && told.to_ascii_lowercase().contains("sec-websocket-version: 13"), "{told}");
    }
}

async fn query(lab: Arc<Lab>) {
    let path = lab.path();
    let target = format!("{path}?room=a%20b&x=%2F");
    let (_near, far) = lab.ask(Way::Clear, &path, usual(Way::Clear, &target, "").as_bytes()).await;
    assert_eq!(far.seen.path(), target);
}

async fn twice(lab: Arc<Lab>) {
    let path = lab.path();
    let request = request(&path, "GET 1.1", "Connection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n");
    let (mut near, mut far) = lab.ask(Way::Clear, &path, request.as_bytes()).await;
    assert!(!far.seen.all("upgrade").concat().contains("h2c"), "{:?}", far.seen);
    assert!(far.seen.all("upgrade").len() <= 1, "{:?}", far.seen);
    say(&mut far.io, b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
    assert_eq!(status(&head(&mut near).await.0), 400);
}

/// RFC 9110 §7.8: the request's body comes first, then the new protocol.
async fn with_body(lab: Arc<Lab>) {
    let path = lab.path();
    let request = format!("POST {path} HTTP/1.1\r\nHost: a\r\n{ASKED}{SEC}Content-Length: 4\r\n\r\nbody\x01\x02behind");
    let (mut near, mut far) = lab.ask(Way::Clear, &path, request.as_bytes()).await;
    assert_eq!(far.seen.body, b"body");
    assert!(far.ahead.is_empty(), "octets before the 101: {:?}", far.ahead);
    say(&mut far.io, GRANTED.as_bytes()).await;
    assert_eq!(status(&head(&mut near).await.0), 101);
    let mut behind = [0; 8];
    timeout(PATIENCE, far.io.read_exact(&mut behind)).await.expect("what came behind the body follows").unwrap();
    assert_eq!(&behind, b"\x01\x02behind");
    words(&mut near, &mut far.io).await;
}

async fn in_drops(lab: Arc<Lab>) {
    let path = lab.path();
    let request = usual(Way::Clear, &path, "");
    let (mut near, mut far) = lab.ask_in(Way::Clear, &path, request.as_bytes(), 1).await;
    say(&mut far.io, GRANTED.as_bytes()).await;
    assert_eq!(status(&head(&mut near).await.0), 101);
    words(&mut near, &mut far.io).await;
}

async fn interim(lab: Arc<Lab>) {
    let path = lab.path();
    let (mut near, mut far) = lab.ask(Way::Clear, &path, usual(Way::Clear, &path, "").as_bytes()).await;
    say(&mut far.io, b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n").await;
    say(&mut far.io, GRANTED.as_bytes()).await;
    let (mut told, mut behind) = head(&mut near).await;
    if status(&told) == 103 {
        while find(&behind, b"\r\n\r\n").is_none() {
            assert!(timeout(PATIENCE, near.read_buf(&mut behind)).await.expect("the 101 follows").unwrap() > 0);
        }
        let end = find(&behind, b"\r\n\r\n").unwrap() + 4;
        told = String::from_utf8(behind.drain(..end).collect()).unwrap();
    }
    assert!(status(&told) == 101 && behind.is_empty(), "{told}");
    words(&mut near, &mut far.io).await;
}

async fn slow_101(lab: Arc<Lab>) {
    let path = lab.path();
    let (mut near, mut far) = lab.ask(Way::Clear, &path, usual(Way::Clear, &path, "").as_bytes()).await;
    for octet in GRANTED.as_bytes() {
        say(&mut far.io, &[*octet]).await;
    }
    assert_eq!(status(&head(&mut near).await.0), 101);
    words(&mut near, &mut far.io).await;
}

async fn broken_101(lab: Arc<Lab>) {
    for answer in [
        "HTTP/1.1 101\nUpgrade: websocket\n\n",
        "HTTP/1.1 101 S\r\nUpgrade : websocket\r\n\r\n",
        "HTTP/1.1 1O1 S\r\n\r\n",
        "\x01\x02\x03\r\n\r\n",
    ] {
        let path = lab.path();
        let (mut near, mut far) = lab.ask(Way::Clear, &path, usual(Way::Clear, &path, "").as_bytes()).await;
        say(&mut far.io, answer.as_bytes()).await;
        let (told, _) = head(&mut near).await;
        assert_eq!(status(&told), 502, "{answer:?}: {told}");
    }
}

async fn no_origin(lab: Arc<Lab>) {
    let mut near = lab.connect(Way::Clear).await;
    let request = format!("GET /x HTTP/1.1\r\nHost: gone\r\n{ASKED}{SEC}\r\n");
    say(&mut near, request.as_bytes()).await;
    let (told, _) = head(&mut near).await;
    assert!(matches!(status(&told), 502 | 503), "{told}");
}

async fn guarded(lab: Arc<Lab>) {
    let mut near = lab.connect(Way::Clear).await;
    say(&mut near, [usual(Way::Clear, "/closed", "").as_bytes(), b"\x81\x00"].concat().as_slice()).await;
    let (told, _) = head(&mut near).await;
    assert_eq!(status(&told), 403, "{told}");
    let after = rest(&mut near).await;
    assert!(!String::from_utf8_lossy(&after).contains("101"), "{after:?}");
}

async fn second_on_connection(lab: Arc<Lab>) {
    let path = lab.path();
    let two = format!("GET /here HTTP/1.1\r\nHost: a\r\n\r\n{}", usual(Way::Clear, &path, ""));
    let (mut near, mut far) = lab.ask(Way::Clear, &path, two.as_bytes()).await;
    assert_eq!(status(&head(&mut near).await.0), 204);
    say(&mut far.io, GRANTED.as_bytes()).await;
    assert_eq!(status(&head(&mut near).await.0), 101);
    words(&mut near, &mut far.io).await;
}

async fn early_down(lab: Arc<Lab>, way: Way) {
    let path = lab.path();
    let (mut near, mut far) = lab.ask(way, &path, usual(way, &path, "").as_bytes()).await;
    let early = vec![0x5a; 20_000];
    say(&mut far.io, &[GRANTED.as_bytes(), &early].concat()).await;
    let (told, mut behind) = head(&mut near).await;
    assert_eq!(status(&told), 101, "{told}");
    let mut more = vec![0; early.len() - behind.len()];
    timeout(PATIENCE, near.read_exact(&mut more)).await.expect("the early octets come in time").unwrap();
    behind.extend(more);
    assert!(behind == early);
    words(&mut near, &mut far.io).await;
}

async fn early_up(lab: Arc<Lab>) {
    let path = lab.path();
    let early = vec![0xa5; 20_000];
    let octets = [usual(Way::Clear, &path, "").as_bytes(), &early].concat();
    let (mut near, mut far) = lab.ask(Way::Clear, &path, &octets).await;
    // Not one of them before the 101 (CVE-2026-2833).
    let mut one = [0; 1];
    let before = timeout(std::time::Duration::from_millis(300), far.io.read(&mut one)).await;
    assert!(far.ahead.is_empty() && before.is_err(), "{before:?}");
    say(&mut far.io, GRANTED.as_bytes()).await;
    assert_eq!(status(&head(&mut near).await.0), 101);
    let mut arrived = vec![0; early.len()];
    timeout(PATIENCE, far.io.read_exact(&mut arrived)).await.expect("the early octets come in time").unwrap();
    assert!(arrived == early);
    words(&mut near, &mut far.io).await;
}

async fn early_and_refused(lab: Arc<Lab>) {
    let path = lab.path();
    let octets = [usual(Way::Clear, &path, "").as_bytes(), b"GET /here HTTP/1.1\r\nHost: a\r\n\r\n"].concat();
    let (mut near, mut far) = lab.ask(Way::Clear, &path, &octets).await;
    assert!(far.ahead.is_empty());
    say(&mut far.io, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno").await;
    let (told, behind) = head(&mut near).await;
    assert_eq!(status(&told), 200, "{told}");
    let _ = near.shutdown().await;
    let after = [behind, rest(&mut near).await].concat();
    // Either the next request is answered, or the connection ends.
    let after = String::from_utf8(after).unwrap();
    assert!(after == "no" || after.starts_with("noHTTP/1.1 204 "), "{after}");
    drop(near);
    assert!(rest(&mut far.io).await.is_empty(), "the origin saw octets of a tunnel");
}

async fn pipelined(lab: Arc<Lab>) {
    let path = lab.path();
    let inner = b"GET /here HTTP/1.1\r\nHost: a\r\n\r\n";
    let octets = [usual(Way::Clear, &path, "").as_bytes(), inner].concat();
    let (mut near, mut far) = lab.ask(Way::Clear, &path, &octets).await;
    say(&mut far.io, GRANTED.as_bytes()).await;
    let (told, behind) = head(&mut near).await;
    assert!(status(&told) == 101 && behind.is_empty(), "{told}");
    // Behind a granted upgrade it is the new protocol's, whatever it looks like.
    let mut arrived = vec![0; inner.len()];
    timeout(PATIENCE, far.io.read_exact(&mut arrived)).await.expect("it reaches the origin").unwrap();
    assert_eq!(arrived, inner);
}
