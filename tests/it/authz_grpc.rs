//! An external authority that speaks Envoy's protocol. The octets here were recorded from the messages that Envoy publishes
//! (`envoy/service/auth/v3`), as Google's own protobuf library writes them.

use crate::support::{
    client::{Client, Response},
    gateway::Gateway,
    h2_origin::{H2Answer, H2Origin},
    origin::{Origin, find},
};
use std::time::{Duration, Instant};

/// `ok_response` with fields set, appended, added if absent (one is there, one is not), overwritten, overwritten if there, and
/// raw; two to remove; and one for the client.
const OK_WITH_EDITS: &str = "0a001ab20112110a0f0a06782d757365721205616c69636512110a0b0a06782d6c6973741201621202080112130a0f0a08782d616273656e7412036e6577180112120a0e0a07782d746865726512036e6577180112110a0d0a06782d6f76657212036e6577180212110a0d0a06782d6f6e6c7912036e65771803120f0a0d0a05782d7261771a0472c3a4772a0a782d696e7465726e616c2a04686f737432180a160a06782d7365656e120c62792d617574686f72697479";
/// `denied_response` of 451 with two fields and a body, code PERMISSION_DENIED.
const DENIED: &str = "0a06080712026e6f12470a0308c30312120a100a05782d77687912076265636175736512220a200a0c636f6e74656e742d7479706512106170706c69636174696f6e2f6a736f6e1a087b226e6f223a317d";
const DENIED_PLAIN: &str = "0a020807";
const OK_PLAIN: &str = "0a00";

/// Of a `CheckRequest` for `GET /edits?q=1`, as the same library writes it: method; three fields; path and query; host,
/// scheme; a size that is not known; protocol.
const ASKED: [&str; 6] = [
    "1203474554",
    "1a190a0d617574686f72697a6174696f6e1208426561726572207a",
    "1a0d0a06636f6f6b69651203613d31",
    "1a110a08782d74656e616e74120574312c7432",
    "220a2f65646974733f713d31",
    "2a016132046874747048ffffffffffffffffff015208485454502f312e31",
];

fn octets(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

/// Decides by the path that it is told.
async fn authority() -> H2Origin {
    H2Origin::start(|parts, body| {
        assert_eq!(parts.uri.path(), "/envoy.service.auth.v3.Authorization/Check");
        let asked = |path: &str| find(body, path.as_bytes()).is_some();
        match () {
            () if asked("/edits") => H2Answer::Grpc(octets(OK_WITH_EDITS), 0),
            () if asked("/denied") => H2Answer::Grpc(octets(DENIED), 0),
            () if asked("/plain") => H2Answer::Grpc(octets(DENIED_PLAIN), 0),
            () if asked("/empty") => H2Answer::Grpc(Vec::new(), 0),
            () if asked("/down") => H2Answer::Grpc(Vec::new(), 14),
            () if asked("/never") => H2Answer::Never,
            () => H2Answer::Grpc(octets(OK_PLAIN), 0),
        }
    })
    .await
}

async fn edge(authority: &H2Origin, keys: &str) -> (Gateway, Origin) {
    let origin = Origin::echo().await;
    let gateway = Gateway::start(&format!(
        "[listener.http]\naddress = \"127.0.0.1:0\"\n[upstream.app]\nendpoints = [\"{}\"]\n[route.app]\nupstream = \"app\"\n\
         authz = {{ grpc = \"http://{}\"{keys} }}\n",
        origin.addr, authority.addr
    ))
    .await;
    (gateway, origin)
}

async fn ask(gateway: &Gateway, request: &str) -> Response {
    let mut client = Client::connect(gateway.addr("http")).await;
    client.send(request).await;
    client.response().await
}

async fn status(gateway: &Gateway, path: &str) -> u16 {
    ask(gateway, &format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).await.status
}

#[tokio::test]
async fn it_is_asked_and_obeyed_octet_by_octet() {
    let authority = authority().await;
    let keys = ", timeout = \"10s\", request_headers = [\"x-tenant\", \"cookie\", \"authorization\"]";
    let (gateway, origin) = edge(&authority, keys).await;
    let fields = "X-Tenant: t1\r\nX-Tenant: t2\r\nCookie: a=1\r\nAuthorization: Bearer z\r\nX-Secret: mine\r\nX-User: root\r\n\
        X-List: a\r\nX-There: old\r\nX-Over: old\r\nX-Internal: 1\r\n";
    let answer = ask(&gateway, &format!("GET /edits?q=1 HTTP/1.1\r\nHost: a\r\n{fields}\r\n")).await;
    assert_eq!((answer.status, answer.header("x-seen")), (200, Some("by-authority")));
    let seen = origin.last();
    for (name, values) in [
        ("x-user", &["alice"][..]),
        ("x-list", &["a", "b"]),
        ("x-absent", &["new"]),
        ("x-there", &["old"]),
        ("x-over", &["new"]),
        ("x-only", &[]),
        ("x-raw", &["räw"]),
        ("x-internal", &[]),
        ("host", &["a"]),
        ("x-secret", &["mine"]),
    ] {
        assert_eq!(seen.all(name), values, "{name}");
    }
    let questions = authority.seen.lock().unwrap().clone();
    let (parts, body) = &questions[0];
    let field = |name: &str| parts.headers.get(name).map(|value| value.to_str().unwrap());
    assert_eq!((field("content-type"), field("te")), (Some("application/grpc"), Some("trailers")));
    assert_eq!(field("grpc-timeout"), Some("10000m"));
    assert_eq!(body[1..5], u32::try_from(body.len() - 5).unwrap().to_be_bytes());
    for part in ASKED {
        assert!(find(body, &octets(part)).is_some(), "{part} is not in {body:02x?}");
    }
    assert!(find(body, b"mine").is_none(), "it is shown what is listed");
}

#[tokio::test]
async fn its_denials_and_its_failures_are_told_apart() {
    let authority = authority().await;
    let (gateway, origin) = edge(&authority, ", timeout = \"10s\"").await;
    let denied = ask(&gateway, "GET /denied HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!((denied.status, denied.header("x-why"), denied.text()), (451, Some("because"), "{\"no\":1}".to_owned()));
    assert_eq!(denied.header("content-type"), Some("application/json"));
    for (path, expected) in [("/plain", 403), ("/empty", 503), ("/down", 503), ("/fine", 200)] {
        assert_eq!(status(&gateway, path).await, expected, "{path}");
    }
    assert_eq!(origin.requests().len(), 1);
    let (gateway, _origin) = edge(&authority, ", timeout = \"10s\", on_fail = \"allow\"").await;
    for (path, expected) in [("/denied", 451), ("/plain", 403), ("/empty", 200), ("/down", 200)] {
        assert_eq!(status(&gateway, path).await, expected, "{path}");
    }
}

#[tokio::test]
async fn it_has_so_much_time_and_no_more() {
    let authority = authority().await;
    for (keys, expected) in
        [("", 503), (", timeout = \"50ms\"", 503), (", timeout = \"50ms\", on_fail = \"allow\"", 200)]
    {
        let (gateway, _origin) = edge(&authority, keys).await;
        let began = Instant::now();
        assert_eq!(status(&gateway, "/never").await, expected, "{keys}");
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    }
    let (gateway, _origin) = edge(&authority, ", timeout = \"1500ms\"").await;
    let began = Instant::now();
    assert_eq!(status(&gateway, "/never").await, 503);
    assert!(began.elapsed() >= Duration::from_millis(1500), "{:?}", began.elapsed());
}

#[tokio::test]
async fn only_listed_fields_of_its_answers_count_and_it_is_shown_bodies_when_told() {
    let authority = authority().await;
    let (gateway, origin) =
        edge(&authority, ", timeout = \"10s\", response_headers = [\"x-user\"], body = \"1KiB\"").await;
    let post = |length: usize| {
        format!(
            "POST /edits HTTP/1.1\r\nHost: a\r\nX-Over: old\r\nContent-Length: {length}\r\n\r\n{}",
            "b".repeat(length)
        )
    };
    assert_eq!(ask(&gateway, &post(300)).await.status, 200);
    let seen = origin.last();
    assert_eq!((seen.all("x-user"), seen.all("x-over"), seen.body.len()), (vec!["alice"], vec!["old"], 300));
    let (_, question) = authority.seen.lock().unwrap().pop().unwrap();
    // Field 9, the size; field 11, the body, by its length.
    assert!(find(&question, &[0x48, 0xac, 0x02]).is_some() && find(&question, &[0x5a, 0xac, 0x02, b'b']).is_some());
    assert_eq!(ask(&gateway, &post(1025)).await.status, 413);
}
