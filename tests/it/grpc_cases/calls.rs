//! Calls that go well: every kind of them, messages of every size, many at a time, and what may take its time.

use super::lab::{Lab, PATIENCE, Reply, Way, add, exchange, filled, message, paced};
use crate::support::cases::Cases;
use bytes::Bytes;
use std::{sync::Arc, time::Duration};
use tokio::{net::TcpStream, task::JoinSet, time::timeout};

pub(super) fn add_cases(lab: &Arc<Lab>, cases: &mut Cases) {
    for (name, way) in
        [("in clear", Way::Clear), ("from TLS", Way::TlsIn), ("to TLS", Way::TlsOut), ("from TLS to TLS", Way::TlsBoth)]
    {
        cases.case(format!("unary {name}"), echoed(lab.clone(), way, message(0, b"hello")));
        cases.case(format!("bidirectional {name}"), bidirectional(lab.clone(), way));
    }
    for size in [0, 1, 16_384, 65_536, 1 << 20, 4 << 20] {
        cases.case(format!("a message of {size} octets"), echoed(lab.clone(), Way::Clear, message(0, &filled(size))));
    }
    cases.case("a compressed message is passed as it is", compressed(lab.clone()));
    cases.case("no message at all", echoed(lab.clone(), Way::Clear, Vec::new()));
    cases.case("several messages in one frame", echoed(lab.clone(), Way::Clear, message(0, b"one").repeat(50)));
    cases.case("a message in frames of one octet", in_drops(lab.clone()));
    cases.case("a stream of a thousand messages down", down(lab.clone()));
    cases.case("a stream of a thousand messages up", up(lab.clone()));
    cases.case("the client half-closes first", half_closed(lab.clone()));
    cases.case("the origin ends while the client is sending", early(lab.clone()));
    cases.case("a hundred calls on one connection", many(lab.clone()));
    cases.case("a caller that reads nothing holds up its own call alone", slow_reader(lab.clone()));
    cases.case("timeouts of requests are not for calls", rests());
    cases.case("grpc-web is passed as it is, from HTTP/1.1 too", web(lab.clone()));
}

async fn echoed(lab: Arc<Lab>, way: Way, octets: Vec<u8>) {
    let (reply, seen) = lab.call(way, "Unary", &[], &octets).await;
    reply.must_be_ok();
    assert!(reply.body == octets, "{} octets came back of {}", reply.body.len(), octets.len());
    assert_eq!(seen.headers["te"], "trailers");
    assert_eq!((seen.method.as_str(), seen.uri.path()), ("POST", "/s/Unary"));
}

async fn bidirectional(lab: Arc<Lab>, way: Way) {
    let mut sender = lab.connect(way).await.ready().await.unwrap();
    let (request, _) = lab.request(way, "Bidi");
    let (response, mut send) = sender.send_request(request, false).unwrap();
    let mut body = timeout(PATIENCE, response).await.expect("the head comes before any message").unwrap().into_body();
    for n in 0..50_u32 {
        let one = message(0, &n.to_be_bytes());
        send.send_data(one.clone().into(), false).unwrap();
        let mut back = Vec::new();
        while back.len() < one.len() {
            let chunk =
                timeout(PATIENCE, body.data()).await.expect("each message is answered at once").unwrap().unwrap();
            body.flow_control().release_capacity(chunk.len()).unwrap();
            back.extend(chunk);
        }
        assert_eq!(back, one);
    }
    send.send_data(Bytes::new(), true).unwrap();
    assert!(body.data().await.is_none());
    assert_eq!(body.trailers().await.unwrap().unwrap()["grpc-status"], "0");
}

async fn compressed(lab: Arc<Lab>) {
    let octets = message(1, b"\x1f\x8b\x08not really");
    let fields = [("grpc-encoding", "gzip"), ("grpc-accept-encoding", "identity,deflate,gzip")];
    let (reply, seen) = lab.call(Way::Clear, "Unary", &fields, &octets).await;
    reply.must_be_ok();
    assert_eq!(reply.body, octets);
    for (name, value) in fields {
        assert_eq!(seen.headers[name], value);
    }
    assert!(reply.head.headers.get("content-encoding").is_none());
}

async fn in_drops(lab: Arc<Lab>) {
    let mut sender = lab.connect(Way::Clear).await.ready().await.unwrap();
    let (request, _) = lab.request(Way::Clear, "Up");
    let (response, mut send) = sender.send_request(request, false).unwrap();
    for octet in message(0, &filled(200)) {
        send.send_data(Bytes::copy_from_slice(&[octet]), false).unwrap();
    }
    send.send_data(Bytes::new(), true).unwrap();
    let mut body = timeout(PATIENCE, response).await.unwrap().unwrap().into_body();
    assert_eq!(body.data().await.unwrap().unwrap(), message(0, b"205"));
}

async fn down(lab: Arc<Lab>) {
    let (reply, _) = lab.call(Way::Clear, "Down", &[("x-count", "1000"), ("x-size", "5000")], &message(0, b"go")).await;
    reply.must_be_ok();
    assert!(reply.body == message(0, &filled(5_000)).repeat(1_000), "{} octets", reply.body.len());
}

/// More than a request's body may be by default: the listener says how much.
async fn up(lab: Arc<Lab>) {
    let mut sender = lab.connect(Way::Clear).await.ready().await.unwrap();
    let (request, _) = lab.request(Way::Clear, "Up");
    let (response, mut send) = sender.send_request(request, false).unwrap();
    let one = Bytes::from(message(0, &filled(20_000)));
    for _ in 0..1_000 {
        timeout(PATIENCE, paced(&mut send, one.clone())).await.expect("it goes on").unwrap();
    }
    send.send_data(Bytes::new(), true).unwrap();
    let mut body = timeout(PATIENCE, response).await.unwrap().unwrap().into_body();
    assert_eq!(body.data().await.unwrap().unwrap(), message(0, (one.len() * 1_000).to_string().as_bytes()));
    assert_eq!(body.trailers().await.unwrap().unwrap()["grpc-status"], "0");
}

async fn half_closed(lab: Arc<Lab>) {
    // The end of the request is its head's; the answer takes its time all the same.
    let (reply, _) = lab.call(Way::Clear, "Down", &[("x-count", "200"), ("x-size", "100")], b"").await;
    reply.must_be_ok();
    assert_eq!(reply.body.len(), 200 * 105);
}

async fn early(lab: Arc<Lab>) {
    let mut sender = lab.connect(Way::Clear).await.ready().await.unwrap();
    let (request, _) = lab.request(Way::Clear, "Early");
    let (response, mut send) = sender.send_request(request, false).unwrap();
    send.send_data(message(0, b"more follows").into(), false).unwrap();
    let mut body = timeout(PATIENCE, response).await.unwrap().unwrap().into_body();
    assert_eq!(body.data().await.unwrap().unwrap(), message(0, b"enough"));
    let trailers = timeout(PATIENCE, body.trailers()).await.expect("the status does not wait for the client");
    assert_eq!(trailers.unwrap().unwrap()["grpc-status"], "0");
}

async fn many(lab: Arc<Lab>) {
    let sender = lab.connect(Way::Clear).await;
    let mut calls = JoinSet::new();
    for n in 0..100_u32 {
        let (request, _) = lab.request(Way::Clear, "Unary");
        let sender = sender.clone();
        calls.spawn(async move {
            let octets = message(0, &n.to_be_bytes().repeat(1_000));
            let reply: Reply = exchange(&sender, request, &octets).await.unwrap();
            reply.must_be_ok();
            assert!(reply.body == octets, "call {n} was answered for another");
        });
    }
    calls.join_all().await;
}

async fn slow_reader(lab: Arc<Lab>) {
    // The window of the client's own connection is not what is asked about.
    let stream = TcpStream::connect(lab.gateway.addr("http")).await.unwrap();
    let mut builder = h2::client::Builder::new();
    let (sender, connection) = builder.initial_connection_window_size(4 << 20).handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let (mut request, _) = lab.request(Way::Clear, "Down");
    add(request.headers_mut(), &[("x-count", "400"), ("x-size", "40000")]);
    let (response, _) = sender.clone().ready().await.unwrap().send_request(request, true).unwrap();
    let mut body = timeout(PATIENCE, response).await.unwrap().unwrap().into_body();
    let first = body.data().await.unwrap().unwrap();
    // Nothing of it is released: its window is full soon, and other calls of the connection go on.
    for _ in 0..20 {
        let (request, _) = lab.request(Way::Clear, "Unary");
        exchange(&sender, request, &message(0, b"meanwhile")).await.unwrap().must_be_ok();
    }
    let mut read = first.len();
    body.flow_control().release_capacity(read).unwrap();
    while let Some(chunk) = timeout(PATIENCE, body.data()).await.expect("it goes on when it is read") {
        let chunk = chunk.unwrap();
        read += chunk.len();
        body.flow_control().release_capacity(chunk.len()).unwrap();
    }
    assert_eq!(read, 400 * 40_005);
    assert_eq!(body.trailers().await.unwrap().unwrap()["grpc-status"], "0");
}

async fn rests() {
    let lab = Lab::start(
        "limits = { header_timeout = \"400ms\", body_timeout = \"400ms\", idle_timeout = \"400ms\" }",
        "read_timeout = \"400ms\"\nwrite_timeout = \"400ms\"",
        "timeout = \"400ms\"",
    )
    .await;
    let mut sender = lab.connect(Way::Clear).await.ready().await.unwrap();
    let (request, _) = lab.request(Way::Clear, "Bidi");
    let (response, mut send) = sender.send_request(request, false).unwrap();
    let mut body = timeout(PATIENCE, response).await.unwrap().unwrap().into_body();
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        send.send_data(message(0, b"still here").into(), false).unwrap();
        let chunk = timeout(PATIENCE, body.data()).await.expect("the call goes on").unwrap().unwrap();
        body.flow_control().release_capacity(chunk.len()).unwrap();
        assert_eq!(chunk, message(0, b"still here"));
    }
    send.send_data(Bytes::new(), true).unwrap();
    assert_eq!(body.trailers().await.unwrap().unwrap()["grpc-status"], "0");
}

/// Trailers of grpc-web are in the body; that is between the two ends.
async fn web(lab: Arc<Lab>) {
    use crate::support::client::Client;
    let octets = [message(0, b"hello"), message(0x80, b"grpc-status: 0\r\n")].concat();
    for kind in ["application/grpc-web+proto", "application/grpc-web-text"] {
        let mut client = Client::connect(lab.gateway.addr("http")).await;
        let head = format!(
            "POST /s/Unary HTTP/1.1\r\nHost: clear.test\r\nContent-Type: {kind}\r\nX-Grpc-Web: 1\r\nContent-Length: {}\r\n\r\n",
            octets.len()
        );
        client.send([head.as_bytes(), &octets].concat()).await;
        let response = client.response().await;
        assert_eq!((response.status, response.header("content-type")), (200, Some(kind)));
        assert_eq!(response.body, octets);
    }
}
