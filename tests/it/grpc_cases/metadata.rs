//! Metadata, statuses and deadlines: passed both ways as they are.

use super::lab::{Lab, Way, message};
use crate::support::cases::Cases;
use std::sync::Arc;

pub(super) fn add_cases(lab: &Arc<Lab>, cases: &mut Cases) {
    for status in 0..=16 {
        cases.case(format!("status {status}, behind a message"), told(lab.clone(), "Unary", status));
        cases.case(format!("status {status}, alone"), told(lab.clone(), "Only", status));
    }
    cases.case("a status that nobody knows", told(lab.clone(), "Unary", 99));
    cases.case("metadata up", up(lab.clone()));
    cases.case("metadata down, before and behind", down(lab.clone()));
    cases.case("metadata of eight KiB", large(lab.clone()));
    cases.case("the deadline", deadline(lab.clone()));
    for kind in ["application/grpc", "application/grpc+proto", "application/grpc+json", "application/grpc+x-own"] {
        cases.case(format!("content-type {kind}"), content_type(lab.clone(), kind));
    }
    cases.case("to TLS: statuses and metadata too", over_tls(lab.clone()));
}

const MESSAGE: &str = "not%20found%3A%20gr%C3%BC%C3%9Fe%0A100%25";
const DETAILS: &str = "CAUSFG5vdCBmb3VuZBoKCgV0eXBlcxIBeA";

async fn told(lab: Arc<Lab>, method: &str, status: u32) {
    let code = status.to_string();
    let fields = [("x-status", code.as_str()), ("x-message", MESSAGE), ("x-details", DETAILS)];
    let (reply, _) = lab.call(Way::Clear, method, &fields, &message(0, b"?")).await;
    assert_eq!(reply.head.status, 200);
    assert_eq!(reply.field("grpc-status"), Some(code.as_str()), "{reply:?}");
    assert_eq!(reply.field("grpc-message"), Some(MESSAGE));
    assert_eq!(reply.field("grpc-status-details-bin"), Some(DETAILS));
    // Alone it is in a head without trailers, and there is no message.
    assert_eq!((reply.trailers.is_none(), reply.body.is_empty()), (method == "Only", method == "Only"), "{reply:?}");
}

async fn up(lab: Arc<Lab>) {
    const FIELDS: [(&str, &str); 9] = [
        ("x-ascii", "a value with spaces, and commas"),
        ("x-trace-bin", "AAECAwQF/+8="),
        ("x-unpadded-bin", "AAECAw"),
        ("authorization", "Bearer a.b.c"),
        ("user-agent", "grpc-go/1.64.0"),
        ("grpc-accept-encoding", "gzip"),
        ("grpc-previous-rpc-attempts", "2"),
        ("grpc-tags-bin", "AA"),
        ("x-empty", ""),
    ];
    let twice = [("x-many", "one"), ("x-many", "two"), ("x-many-bin", "AA"), ("x-many-bin", "AQ")];
    let (reply, seen) = lab.call(Way::Clear, "Unary", &[&FIELDS[..], &twice].concat(), &message(0, b"?")).await;
    reply.must_be_ok();
    for (name, value) in FIELDS {
        assert_eq!(seen.headers.get(name).map(|value| value.to_str().unwrap()), Some(value), "{name}");
    }
    for (name, values) in [("x-many", "one,two"), ("x-many-bin", "AA,AQ")] {
        let all: Vec<_> = seen.headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect();
        assert_eq!(all.join(","), values, "{name}");
    }
}

async fn down(lab: Arc<Lab>) {
    let fields =
        [("x-initial", "one"), ("x-initial", "two"), ("x-initial-bin", "AAECAwQF/+8="), ("x-trailing", "AQIDBA")];
    let (reply, _) = lab.call(Way::Clear, "Unary", &fields, &message(0, b"?")).await;
    reply.must_be_ok();
    let all: Vec<_> = reply.head.headers.get_all("x-initial").iter().collect();
    assert_eq!(all, ["one", "two"]);
    assert_eq!(reply.head.headers["x-initial-bin"], "AAECAwQF/+8=");
    assert_eq!(reply.field("x-trailing-bin"), Some("AQIDBA"));
    assert!(reply.head.headers.get("grpc-status").is_none(), "a status before the messages");
}

async fn large(lab: Arc<Lab>) {
    let value = "v".repeat(4_000);
    let fields = [("x-initial-a", value.as_str()), ("x-initial-b", &value), ("x-trailing", &value)];
    let (reply, seen) = lab.call(Way::Clear, "Unary", &fields, &message(0, b"?")).await;
    reply.must_be_ok();
    assert_eq!(seen.headers["x-initial-b"], value);
    assert_eq!(reply.head.headers["x-initial-a"], value);
    assert_eq!(reply.field("x-trailing-bin"), Some(value.as_str()));
}

async fn deadline(lab: Arc<Lab>) {
    for value in ["1H", "5M", "30S", "1500m", "99999999u", "1n"] {
        let (reply, seen) = lab.call(Way::Clear, "Unary", &[("grpc-timeout", value)], &message(0, b"?")).await;
        reply.must_be_ok();
        assert_eq!(seen.headers["grpc-timeout"], value);
    }
}

async fn content_type(lab: Arc<Lab>, kind: &'static str) {
    let sender = lab.connect(Way::Clear).await;
    let (mut request, case) = lab.request(Way::Clear, "Unary");
    request.headers_mut().insert("content-type", kind.parse().unwrap());
    let reply = super::lab::exchange(&sender, request, &message(0, b"?")).await.unwrap();
    reply.must_be_ok();
    assert_eq!(reply.head.headers["content-type"], kind);
    assert_eq!(lab.log.head(&case).await.headers["content-type"], kind);
}

async fn over_tls(lab: Arc<Lab>) {
    let fields = [("x-status", "9"), ("x-message", MESSAGE), ("x-details", DETAILS), ("x-initial-bin", "AAEC")];
    let (reply, seen) = lab.call(Way::TlsBoth, "Unary", &fields, &message(0, b"?")).await;
    assert_eq!((reply.status(), reply.field("grpc-message")), (9, Some(MESSAGE)));
    assert_eq!(reply.field("grpc-status-details-bin"), Some(DETAILS));
    assert_eq!(reply.head.headers["x-initial-bin"], "AAEC");
    assert_eq!(seen.headers["te"], "trailers");
}
