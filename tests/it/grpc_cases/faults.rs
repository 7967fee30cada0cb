//! Calls that do not go well: given up, reset, refused, nobody there. What a caller is told is what a client of gRPC makes a status of.

use super::lab::{Lab, PATIENCE, Reply, Way, add, exchange, message};
use crate::support::cases::Cases;
use bytes::Bytes;
use h2::Reason;
use std::{
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};
use tokio::time::timeout;

const UNIMPLEMENTED: u32 = 12;
const PERMISSION_DENIED: u32 = 7;
const UNAVAILABLE: u32 = 14;

pub(super) fn add_cases(lab: &Arc<Lab>, cases: &mut Cases) {
    for (name, way) in [("", Way::Clear), (", over TLS", Way::TlsBoth)] {
        cases.case(format!("given up before an answer{name}"), given_up(lab.clone(), way, When::Before));
        cases.case(format!("given up in the middle of an answer{name}"), given_up(lab.clone(), way, When::InTheMiddle));
        cases.case(format!("reset by the origin before an answer{name}"), reset(lab.clone(), way));
        cases.case(
            format!("reset by the origin in the middle of an answer{name}"),
            reset_in_the_middle(lab.clone(), way),
        );
    }
    let lab = || lab.clone();
    cases.case("given up when the deadline is over", deadline_over(lab()));
    cases.case("given up with its connection", connection_gone(lab()));
    cases.case("GOAWAY by the origin: what was begun is finished", goaway());
    cases.case("an origin that crashes is told as such", crash("Crash"));
    cases.case("an origin that hangs up is told as such", crash("Drop"));
    cases.case("a stream that the origin refuses is tried again", refused_stream(lab()));
    cases.case("a call that the origin's GOAWAY leaves out is tried again", left_out(lab()));
    cases.case("no origin is UNAVAILABLE", nobody(lab(), "gone.test", "/s/Unary", UNAVAILABLE));
    cases.case("a method without a route is UNIMPLEMENTED", nobody(lab(), "few.test", "/s/Other", UNIMPLEMENTED));
    cases.case("a host without a route is UNIMPLEMENTED", nobody(lab(), "none.test", "/s/Unary", UNIMPLEMENTED));
    cases.case("what a guard refuses is PERMISSION_DENIED", nobody(lab(), "clear.test", "/closed", PERMISSION_DENIED));
    cases.case("a method that the origin does not know", unknown(lab()));
    cases.case("messages beyond the limit of a body end the call", too_much());
}

/// Of an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum When {
    Before,
    InTheMiddle,
}

async fn given_up(lab: Arc<Lab>, way: Way, when: When) {
    let mut sender = lab.connect(way).await.ready().await.unwrap();
    let (mut request, case) = lab.request(way, "Never");
    if when == When::InTheMiddle {
        add(request.headers_mut(), &[("x-head", "1")]);
    }
    let (response, mut send) = sender.send_request(request, false).unwrap();
    send.send_data(message(0, b"?").into(), when == When::Before).unwrap();
    lab.log.head(&case).await;
    if when == When::InTheMiddle {
        let mut body = timeout(PATIENCE, response).await.unwrap().unwrap().into_body();
        assert_eq!(body.data().await.unwrap().unwrap(), message(0, b"first"));
    }
    send.send_reset(Reason::CANCEL);
    assert_eq!(
        lab.log.reset(&case).await,
        Some(Reason::CANCEL),
        "the origin's stream is cancelled, its connection stays"
    );
    // The client's connection is good for other calls.
    let sender = sender.ready().await.unwrap();
    let (request, _) = lab.request(way, "Unary");
    exchange(&sender, request, &message(0, b"next")).await.unwrap().must_be_ok();
}

async fn reset(lab: Arc<Lab>, way: Way) {
    let sender = lab.connect(way).await;
    let (request, _) = lab.request(way, "Reset");
    match exchange(&sender, request, &message(0, b"?")).await {
        Ok(reply) => assert_eq!(reply.status(), UNAVAILABLE, "{reply:?}"),
        Err(error) => assert!(error.is_reset(), "{error}"),
    }
    let (request, _) = lab.request(way, "Unary");
    exchange(&sender, request, &message(0, b"next")).await.unwrap().must_be_ok();
}

/// Half an answer must not look like a whole one.
async fn reset_in_the_middle(lab: Arc<Lab>, way: Way) {
    let mut sender = lab.connect(way).await.ready().await.unwrap();
    let (mut request, _) = lab.request(way, "Reset");
    add(request.headers_mut(), &[("x-head", "1")]);
    let (response, mut send) = sender.send_request(request, false).unwrap();
    let mut body = timeout(PATIENCE, response).await.unwrap().unwrap().into_body();
    assert_eq!(body.data().await.unwrap().unwrap(), message(0, b"first"));
    send.send_data(Bytes::new(), true).unwrap();
    let end = timeout(PATIENCE, body.data()).await.expect("the end is told in time");
    assert!(matches!(&end, Some(Err(error)) if error.is_reset()), "{end:?}");
    let sender = sender.ready().await.unwrap();
    let (request, _) = lab.request(way, "Unary");
    exchange(&sender, request, &message(0, b"next")).await.unwrap().must_be_ok();
}

/// The deadline is the client's to keep; giving up is how the origin learns of it.
async fn deadline_over(lab: Arc<Lab>) {
    let mut sender = lab.connect(Way::Clear).await.ready().await.unwrap();
    let (mut request, case) = lab.request(Way::Clear, "Never");
    add(request.headers_mut(), &[("grpc-timeout", "300m")]);
    let (response, mut send) = sender.send_request(request, true).unwrap();
    assert!(timeout(Duration::from_millis(300), response).await.is_err(), "nothing is answered in the origin's place");
    send.send_reset(Reason::CANCEL);
    assert_eq!(lab.log.head(&case).await.headers["grpc-timeout"], "300m");
    assert_eq!(lab.log.reset(&case).await, Some(Reason::CANCEL));
}

async fn connection_gone(lab: Arc<Lab>) {
    let stream = tokio::net::TcpStream::connect(lab.gateway.addr("http")).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    let driver = tokio::spawn(connection);
    let mut sender = sender.ready().await.unwrap();
    let (mut request, case) = lab.request(Way::Clear, "Never");
    add(request.headers_mut(), &[("x-head", "1")]);
    let (response, _send) = sender.send_request(request, false).unwrap();
    timeout(PATIENCE, response).await.unwrap().unwrap();
    driver.abort();
    assert_eq!(lab.log.reset(&case).await, Some(Reason::CANCEL));
}

/// On a lab of its own: a large message of another call could not be sent again.
async fn goaway() {
    let lab = Lab::start("", "", "").await;
    let sender = lab.connect(Way::Clear).await;
    let mut ready = sender.clone().ready().await.unwrap();
    let (request, _) = lab.request(Way::Clear, "GoAway");
    let (response, mut send) = ready.send_request(request, false).unwrap();
    send.send_data(Bytes::from(message(0, b"half")), false).unwrap();
    // Calls that come after the GOAWAY go elsewhere, and the one that was before it is finished.
    for _ in 0..10 {
        let (request, _) = lab.request(Way::Clear, "Unary");
        exchange(&sender, request, &message(0, b"after")).await.unwrap().must_be_ok();
    }
    send.send_data(Bytes::from(message(0, b"other half")), true).unwrap();
    let mut body = timeout(PATIENCE, response).await.expect("it is answered").unwrap().into_body();
    let mut octets = Vec::new();
    while let Some(chunk) = body.data().await {
        octets.extend(chunk.unwrap());
    }
    assert_eq!(octets, [message(0, b"half"), message(0, b"other half")].concat());
    assert_eq!(body.trailers().await.unwrap().unwrap()["grpc-status"], "0");
    assert!(lab.log.connections.load(SeqCst) >= 2);
}

/// On a lab of its own: other calls would lose their connection too.
async fn crash(method: &'static str) {
    let lab = Lab::start("", "", "retry = { attempts = 0 }").await;
    let sender = lab.connect(Way::Clear).await;
    let (request, _) = lab.request(Way::Clear, method);
    match exchange(&sender, request, &message(0, b"?")).await {
        Ok(reply) => assert_eq!(reply.status(), UNAVAILABLE, "{reply:?}"),
        Err(error) => assert!(error.is_reset(), "{error}"),
    }
    let (request, _) = lab.request(Way::Clear, "Unary");
    exchange(&sender, request, &message(0, b"next")).await.unwrap().must_be_ok();
}

async fn refused_stream(lab: Arc<Lab>) {
    let sender = lab.connect(Way::Clear).await;
    let (request, case) = lab.request(Way::Clear, "Refuse");
    let reply = exchange(&sender, request, &message(0, b"again")).await.unwrap();
    reply.must_be_ok();
    assert_eq!(reply.body, message(0, b"again"));
    assert_eq!(lab.log.times(&case), 2);
}

async fn left_out(lab: Arc<Lab>) {
    let sender = lab.connect(Way::Clear).await;
    let (mut request, case) = lab.request(Way::Clear, "Unary");
    *request.uri_mut() = "http://leaving.test/s/Unary".parse().unwrap();
    let reply = exchange(&sender, request, &message(0, b"elsewhere")).await.unwrap();
    reply.must_be_ok();
    assert_eq!(reply.body, message(0, b"elsewhere"));
    assert_eq!(lab.log.times(&case), 1);
}

async fn nobody(lab: Arc<Lab>, host: &'static str, path: &'static str, expected: u32) {
    let sender = lab.connect(Way::Clear).await;
    let request = http::Request::post(format!("http://{host}{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap();
    let reply: Reply = exchange(&sender, request, &message(0, b"?")).await.unwrap();
    assert_eq!(reply.status(), expected, "{reply:?}");
}

async fn unknown(lab: Arc<Lab>) {
    let (reply, _) = lab.call(Way::Clear, "Nothing", &[], &message(0, b"?")).await;
    assert_eq!((reply.head.status.as_u16(), reply.status()), (200, UNIMPLEMENTED));
}

async fn too_much() {
    let lab = Lab::start("limits = { body = \"1MiB\" }", "", "").await;
    let sender = lab.connect(Way::Clear).await;
    let (request, _) = lab.request(Way::Clear, "Up");
    match exchange(&sender, request, &message(0, &vec![0; 2 << 20])).await {
        Ok(reply) => assert_ne!(reply.status(), 0, "{reply:?}"),
        Err(error) => assert!(error.is_reset(), "{error}"),
    }
    let (request, _) = lab.request(Way::Clear, "Unary");
    exchange(&sender, request, &message(0, b"next")).await.unwrap().must_be_ok();
}
