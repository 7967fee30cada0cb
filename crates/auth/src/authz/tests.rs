//! Questions and answers of both forms, as data.

use super::{message::*, *};
use ::http::{HeaderValue, header};
use portcullis_config::{Context, Path};
use prost::Message;
use serde_json::{Value, json};

fn compile(spec: Value) -> (Option<Authz>, Vec<String>) {
    let spec: AuthzSpec = serde_json::from_value(spec).unwrap();
    let mut cx = Context::default();
    let authz = spec.compile(&Path::root(), &mut cx);
    (authz, cx.report().problems().iter().map(|problem| problem.message.clone()).collect())
}

fn authz(mut spec: Value, form: &str) -> Authz {
    spec[form] = if form == "http" { "http://127.0.0.1:9000/check/" } else { "http://127.0.0.1:9191" }.into();
    let (authz, problems) = compile(spec);
    assert!(problems.is_empty(), "{problems:?}");
    authz.unwrap()
}

fn map(fields: &[(&'static str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        map.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    map
}

fn facts<'r>(headers: &'r HeaderMap, body: &'r [u8]) -> AuthzFacts<'r> {
    AuthzFacts {
        id: "req-1",
        method: "POST",
        scheme: "https",
        host: "shop.example.com",
        target: "/cart?x=1&y=%20",
        protocol: "HTTP/2",
        headers,
        source: "[::ffff:192.0.2.7]:4711".parse().unwrap(),
        destination: "198.51.100.1:443".parse().unwrap(),
        principal: Some("spiffe://corp/ns/web"),
        sni: Some("shop.example.com"),
        body,
        body_size: Some(5),
        time: Duration::new(1_800_000_000, 7),
    }
}

fn sent() -> HeaderMap {
    map(&[
        ("authorization", "Bearer x"),
        ("cookie", "a=1"),
        ("cookie", "b=2"),
        ("x-tag", "1"),
        ("x-tag", "2"),
        ("x-secret", "s"),
        ("host", "evil.example"),
        ("content-length", "999"),
        ("x-forwarded-for", "6.6.6.6"),
    ])
}

#[test]
fn an_http_authority_is_asked_with_the_request_s_own_method_and_path() {
    let headers = sent();
    let authz_ =
        authz(json!({ "request_headers": ["authorization", "x-tag", "x-forwarded-for"], "body": "1KiB" }), "http");
    let question = authz_.question(&facts(&headers, b"hello")).unwrap();
    assert_eq!(question.method(), "POST");
    assert_eq!(question.uri(), "/check/cart?x=1&y=%20");
    let fields = question.headers();
    for (name, values) in [
        ("host", vec!["shop.example.com"]),
        ("content-length", vec!["5"]),
        ("authorization", vec!["Bearer x"]),
        ("x-tag", vec!["1", "2"]),
        ("x-forwarded-for", vec!["192.0.2.7"]),
        ("x-forwarded-proto", vec!["https"]),
        ("x-request-id", vec!["req-1"]),
        ("x-secret", vec![]),
        ("cookie", vec![]),
    ] {
        assert_eq!(fields.get_all(name).iter().collect::<Vec<_>>(), values, "{name}");
    }
    assert_eq!(question.body().as_ref(), b"hello");

    let question = authz(json!({}), "http").question(&facts(&headers, b"")).unwrap();
    assert!(question.headers().contains_key("authorization") && !question.headers().contains_key("x-tag"));
    let star = AuthzFacts { target: "*", method: "OPTIONS", ..facts(&headers, b"") };
    assert_eq!(authz_.question(&star).unwrap().uri(), "/check/");
    let broken = AuthzFacts { host: "a\nb", ..facts(&headers, b"") };
    assert_eq!(authz_.question(&broken).unwrap_err(), AuthzFailure::Unaskable);
    for (target, asked) in [
        ("/a", Some("/check/a")),
        ("//evil.example/a", Some("/check//evil.example/a")),
        ("/?a", Some("/check/?a")),
        ("/a#b", None),
        ("/a b", None),
        ("/a\r\nx: y", None),
    ] {
        let question = authz_.question(&AuthzFacts { target, ..facts(&headers, b"") });
        assert_eq!(question.ok().map(|question| question.uri().to_string()).as_deref(), asked, "{target}");
    }
}

#[test]
fn an_http_answer_s_status_decides() {
    let authz = authz(json!({ "response_headers": ["x-user"] }), "http");
    let headers = map(&[("x-user", "u1"), ("x-other", "o"), ("location", "/login"), ("www-authenticate", "Bearer")]);
    for (status, expected) in [
        (200, "allow"),
        (201, "403"),
        (204, "403"),
        (302, "302"),
        (401, "401"),
        (403, "403"),
        (404, "404"),
        (429, "429"),
        (100, "authz_error"),
        (0, "authz_error"),
        (500, "authz_error"),
        (503, "authz_error"),
        (999, "authz_error"),
    ] {
        let found = match authz.verdict(status, &headers, &Bytes::from_static(b"no"), None) {
            AuthzVerdict::Allow(_) => "allow".to_owned(),
            AuthzVerdict::Deny(denial) => {
                assert_eq!(denial.body.as_ref(), b"no");
                assert!(denial.headers.contains_key("location") && denial.headers.contains_key("www-authenticate"));
                assert!(denial.headers.contains_key("x-user") && !denial.headers.contains_key("x-other"));
                denial.status.to_string()
            }
            AuthzVerdict::Failed(failure) => failure.as_str().to_owned(),
        };
        assert_eq!(found, expected, "{status}");
    }
    // What is too long to be passed on changes nothing about the verdict.
    let large = Bytes::from(vec![0; ANSWER_MAX_BYTES + 1]);
    assert!(matches!(authz.verdict(200, &headers, &large, None), AuthzVerdict::Allow(_)));
    let AuthzVerdict::Deny(denial) = authz.verdict(403, &headers, &large, None) else { panic!("denied") };
    assert!(denial.body.is_empty());
}

#[test]
fn a_client_cannot_say_what_only_the_authority_says() {
    let authz = authz(json!({ "response_headers": ["x-user", "x-role"] }), "http");
    let AuthzVerdict::Allow(edits) =
        authz.verdict(200, &map(&[("x-user", "u1"), ("x-more", "m")]), &Bytes::new(), None)
    else {
        panic!("allowed");
    };
    assert_eq!(edits.remove, ["x-user", "x-role"]);
    assert_eq!(edits.request.len(), 1);
    assert_eq!((edits.request[0].name.as_str(), edits.request[0].value.as_bytes()), ("x-user", &b"u1"[..]));

    for (list, expected) in [
        ("authorization, X-Api-Key", Some(vec!["x-user", "x-role", "authorization", "x-api-key"])),
        (" , ", Some(vec!["x-user", "x-role"])),
        ("host", None),
        ("content-length", None),
        ("a b", None),
    ] {
        let headers = map(&[("x-envoy-auth-headers-to-remove", list)]);
        match (authz.verdict(200, &headers, &Bytes::new(), None), expected) {
            (AuthzVerdict::Allow(edits), Some(names)) => assert_eq!(edits.remove, names, "{list}"),
            (AuthzVerdict::Failed(AuthzFailure::BadEdit), None) => {}
            (verdict, _) => panic!("{list}: {verdict:?}"),
        }
    }
}

#[test]
fn a_failing_authority_is_answered_as_configured() {
    let deny = authz(json!({}), "http");
    let allow = authz(json!({ "on_fail": "allow", "response_headers": ["x-user"] }), "grpc");
    for failure in [AuthzFailure::Timeout, AuthzFailure::Unreachable, AuthzFailure::Error, AuthzFailure::Malformed] {
        assert_eq!(deny.on_failure(failure), Err(failure));
        assert_eq!(failure.status(), 503);
        assert_eq!(allow.on_failure(failure).unwrap().remove, ["x-user"]);
    }
    // A client could bring these about.
    for (failure, status) in [(AuthzFailure::BadEdit, 503), (AuthzFailure::Unaskable, 400)] {
        assert_eq!((deny.on_failure(failure), allow.on_failure(failure)), (Err(failure), Err(failure)));
        assert_eq!(failure.status(), status);
    }
}

#[test]
fn a_grpc_authority_is_sent_one_framed_message() {
    let headers = sent();
    let authz = authz(json!({ "request_headers": ["authorization", "cookie", "x-tag"], "timeout": "50ms" }), "grpc");
    let question = authz.question(&facts(&headers, b"hello")).unwrap();
    assert_eq!(question.uri(), "http://127.0.0.1:9191/envoy.service.auth.v3.Authorization/Check");
    for (name, value) in [("content-type", "application/grpc"), ("te", "trailers"), ("grpc-timeout", "50m")] {
        assert_eq!(question.headers()[name], value);
    }
    let frame = question.body();
    assert_eq!(frame[0], 0);
    assert_eq!(u32::from_be_bytes(frame[1..5].try_into().unwrap()) as usize, frame.len() - 5);
    let attributes = CheckRequest::decode(&frame[5..]).unwrap().attributes.unwrap();
    let source = attributes.source.unwrap();
    assert_eq!(source.principal, "spiffe://corp/ns/web");
    let address = source.address.unwrap().socket_address.unwrap();
    assert_eq!((address.address.as_str(), address.port_value), ("192.0.2.7", 4711));
    assert_eq!(attributes.tls_session.unwrap().sni, "shop.example.com");
    let request = attributes.request.unwrap();
    assert_eq!(request.time.unwrap(), Timestamp { seconds: 1_800_000_000, nanos: 7 });
    let http = request.http.unwrap();
    let expected = [("authorization", "Bearer x"), ("cookie", "a=1; b=2"), ("x-tag", "1,2")];
    assert_eq!(http.headers, expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
    assert_eq!(
        (http.method.as_str(), http.path.as_str(), http.host.as_str()),
        ("POST", "/cart?x=1&y=%20", "shop.example.com")
    );
    assert_eq!((http.scheme.as_str(), http.protocol.as_str(), http.id.as_str()), ("https", "HTTP/2", "req-1"));
    assert_eq!((http.size, http.body.as_str(), http.raw_body.len()), (5, "hello", 0));

    let unknown = AuthzFacts { body_size: None, ..facts(&headers, b"\xff\xfe") };
    let frame = authz.question(&unknown).unwrap().into_body();
    let http = CheckRequest::decode(&frame[5..]).unwrap().attributes.unwrap().request.unwrap().http.unwrap();
    assert_eq!((http.size, http.body.as_str(), http.raw_body.as_slice()), (-1, "", &b"\xff\xfe"[..]));
}

/// The bytes of a message as protoc writes them, so that a wrong tag shows.
#[test]
fn messages_have_the_tags_of_the_protocol() {
    let status = RpcStatus { code: 7 };
    let header = HeaderValue_ { key: "a".into(), value: "b".into(), raw_value: vec![] };
    let option = HeaderValueOption { header: Some(header), append: Some(true), append_action: 0 };
    let denied =
        DeniedHttpResponse { status: Some(HttpStatus { code: 401 }), headers: vec![option.clone()], body: "x".into() };
    let answer = CheckResponse { status: Some(status), http_response: Some(HttpResponse::Denied(denied)) };
    let bytes = [
        0x0a, 2, 0x08, 7, // status.code
        0x12, 22, // denied_response
        0x0a, 3, 0x08, 0x91, 0x03, // status.code
        0x12, 12, 0x0a, 6, 0x0a, 1, b'a', 0x12, 1, b'b', 0x12, 2, 0x08, 1, // headers
        0x1a, 1, b'x', // body
    ];
    assert_eq!(answer.encode_to_vec(), bytes);
    let ok = OkHttpResponse {
        headers: vec![],
        headers_to_remove: vec!["r".into()],
        response_headers_to_add: vec![option],
        ..OkHttpResponse::default()
    };
    assert_eq!(ok.encode_to_vec()[..5], [0x2a, 1, b'r', 0x32, 12]);
    // Unknown fields, such as dynamic_metadata, are skipped.
    let mut more = answer.encode_to_vec();
    more.extend([0x22, 2, 0x0a, 0]);
    assert_eq!(CheckResponse::decode(more.as_slice()).unwrap(), answer);
}

use super::message::HeaderValue as HeaderValue_;

fn option(name: &str, value: &str) -> HeaderValueOption {
    let header = HeaderValue_ { key: name.into(), value: value.into(), raw_value: vec![] };
    HeaderValueOption { header: Some(header), append: None, append_action: 0 }
}

fn frame(message: &[u8]) -> Bytes {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[0][..], &length, message].concat().into()
}

fn ask(authz: &Authz, answer: &CheckResponse) -> AuthzVerdict {
    authz.verdict(200, &HeaderMap::new(), &frame(&answer.encode_to_vec()), Some(&map(&[("grpc-status", "0")])))
}

fn answer(code: i32, http_response: Option<HttpResponse>) -> CheckResponse {
    CheckResponse { status: Some(RpcStatus { code }), http_response }
}

fn ok(ok: OkHttpResponse) -> CheckResponse {
    answer(0, Some(HttpResponse::Ok(ok)))
}

#[test]
fn a_grpc_answer_allows_only_when_it_says_so() {
    let authz = authz(json!({}), "grpc");
    let denied = |status: Option<i32>| {
        let status = status.map(|code| HttpStatus { code });
        Some(HttpResponse::Denied(DeniedHttpResponse { status, headers: vec![], body: "no".into() }))
    };
    for (answer, expected) in [
        (answer(0, None), "allow"),
        (ok(OkHttpResponse::default()), "allow"),
        (answer(7, None), "403"),
        (answer(16, None), "403"),
        (answer(-1, None), "403"),
        (answer(7, Some(HttpResponse::Ok(OkHttpResponse::default()))), "403"),
        (answer(7, denied(None)), "403"),
        (answer(7, denied(Some(0))), "403"),
        (answer(7, denied(Some(401))), "401"),
        (answer(7, denied(Some(302))), "302"),
        (answer(7, denied(Some(200))), "200"),
        (answer(7, denied(Some(199))), "403"),
        (answer(7, denied(Some(600))), "403"),
        (answer(7, denied(Some(-5))), "403"),
        (answer(7, denied(Some(70_000))), "403"),
        (answer(0, denied(Some(401))), "401"),
        (CheckResponse::default(), "authz_malformed"),
        (
            CheckResponse { status: None, http_response: Some(HttpResponse::Ok(OkHttpResponse::default())) },
            "authz_malformed",
        ),
        (CheckResponse { status: None, http_response: denied(Some(401)) }, "401"),
    ] {
        let found = match ask(&authz, &answer) {
            AuthzVerdict::Allow(_) => "allow".to_owned(),
            AuthzVerdict::Deny(denial) => denial.status.to_string(),
            AuthzVerdict::Failed(failure) => failure.as_str().to_owned(),
        };
        assert_eq!(found, expected, "{answer:?}");
    }
}

#[test]
fn a_grpc_answer_that_is_not_whole_is_no_answer() {
    let authz = authz(json!({}), "grpc");
    let good = frame(&answer(0, None).encode_to_vec());
    let zero = map(&[("grpc-status", "0")]);
    let none = HeaderMap::new();
    let mut compressed = good.to_vec();
    compressed[0] = 1;
    let two = [good.clone(), good.clone()].concat();
    let garbage = frame(b"\xff\xff\xff\xff");
    for (status, headers, body, trailers, expected) in [
        (200, &none, good.clone(), Some(zero.clone()), None),
        (200, &zero, good.clone(), None, None),
        (200, &none, good.clone(), None, Some(AuthzFailure::Malformed)),
        (200, &none, good.clone(), Some(none.clone()), Some(AuthzFailure::Malformed)),
        (200, &none, good.clone(), Some(map(&[("grpc-status", "14")])), Some(AuthzFailure::Error)),
        (200, &none, good.clone(), Some(map(&[("grpc-status", "4")])), Some(AuthzFailure::Timeout)),
        (200, &none, good.clone(), Some(map(&[("grpc-status", "00")])), Some(AuthzFailure::Error)),
        // Trailers speak last.
        (200, &zero, good.clone(), Some(map(&[("grpc-status", "13")])), Some(AuthzFailure::Error)),
        (200, &map(&[("grpc-status", "12")]), Bytes::new(), None, Some(AuthzFailure::Error)),
        (503, &none, good.clone(), Some(zero.clone()), Some(AuthzFailure::Error)),
        (200, &none, Bytes::new(), Some(zero.clone()), Some(AuthzFailure::Malformed)),
        (200, &none, good.slice(..4), Some(zero.clone()), Some(AuthzFailure::Malformed)),
        (200, &none, good.slice(..good.len() - 1), Some(zero.clone()), Some(AuthzFailure::Malformed)),
        (200, &none, compressed.into(), Some(zero.clone()), Some(AuthzFailure::Malformed)),
        (200, &none, two.into(), Some(zero.clone()), Some(AuthzFailure::Malformed)),
        (200, &none, garbage, Some(zero.clone()), Some(AuthzFailure::Malformed)),
        (200, &none, frame(&[]), Some(zero.clone()), Some(AuthzFailure::Malformed)),
        (200, &none, frame(&[0; ANSWER_MAX_BYTES]), Some(zero.clone()), Some(AuthzFailure::Malformed)),
    ] {
        let verdict = authz.verdict(status, headers, &body, trailers.as_ref());
        match expected {
            None => assert!(matches!(verdict, AuthzVerdict::Allow(_)), "{verdict:?}"),
            Some(failure) => assert_eq!(verdict, AuthzVerdict::Failed(failure), "{status} {headers:?} {body:?}"),
        }
    }
    // Whatever the bytes, reading them ends in a verdict.
    let whole = ok(OkHttpResponse { headers: vec![option("a", "b")], ..OkHttpResponse::default() }).encode_to_vec();
    for at in 0..whole.len() {
        for octet in 0..=255 {
            let mut changed = whole.clone();
            changed[at] = octet;
            let _ = authz.verdict(200, &zero, &frame(&changed), None);
        }
    }
}

#[test]
fn edits_of_a_grpc_answer_are_held_to_what_is_possible() {
    let all = authz(json!({}), "grpc");
    let listed = authz(json!({ "response_headers": ["x-user"] }), "grpc");
    let none = authz(json!({ "response_headers": [] }), "grpc");
    let with = |options: Vec<HeaderValueOption>| ok(OkHttpResponse { headers: options, ..OkHttpResponse::default() });
    let acting = |append: Option<bool>, append_action: i32| {
        with(vec![HeaderValueOption { append, append_action, ..option("x-user", "u") }])
    };
    for (authz, answer, expected) in [
        (
            &all,
            with(vec![option("x-user", "u"), option("x-b", "b")]),
            Some(vec![("x-user", EditHow::Set), ("x-b", EditHow::Set)]),
        ),
        (&all, with(vec![option("X-User", "u")]), Some(vec![("x-user", EditHow::Set)])),
        (&listed, with(vec![option("x-user", "u"), option("x-b", "b")]), Some(vec![("x-user", EditHow::Set)])),
        (&none, with(vec![option("x-user", "u"), option("x-b", "b")]), Some(vec![])),
        (&all, acting(Some(true), 0), Some(vec![("x-user", EditHow::Append)])),
        (&all, acting(Some(false), 0), Some(vec![("x-user", EditHow::Set)])),
        (&all, acting(None, 1), Some(vec![("x-user", EditHow::AddIfAbsent)])),
        (&all, acting(None, 2), Some(vec![("x-user", EditHow::Set)])),
        (&all, acting(None, 3), Some(vec![("x-user", EditHow::SetIfPresent)])),
        (&all, acting(None, 4), None),
        (&all, with(vec![option(":path", "/x")]), None),
        (&all, with(vec![option("host", "x")]), None),
        (&all, with(vec![option("Content-Length", "0")]), None),
        (&all, with(vec![option("transfer-encoding", "chunked")]), None),
        (&all, with(vec![option("connection", "x")]), None),
        (&all, with(vec![option("a b", "x")]), None),
        (&all, with(vec![option("", "x")]), None),
        (&all, with(vec![option("x-a", "b\r\nx-c: d")]), None),
        (&all, with(vec![option("x-a", "b\0")]), None),
        (&all, with(vec![HeaderValueOption::default()]), Some(vec![])),
        (&all, with((0..100).map(|_| option("x-a", "b")).collect()), Some(vec![("x-a", EditHow::Set); 100])),
        (&all, with((0..101).map(|_| option("x-a", "b")).collect()), None),
        (&all, ok(OkHttpResponse { query_parameters_to_remove: vec!["q".into()], ..OkHttpResponse::default() }), None),
    ] {
        match (ask(authz, &answer), expected) {
            (AuthzVerdict::Allow(edits), Some(expected)) => {
                let found: Vec<_> = edits.request.iter().map(|edit| (edit.name.as_str(), edit.how)).collect();
                assert_eq!(found, expected);
            }
            (AuthzVerdict::Failed(AuthzFailure::BadEdit), None) => {}
            (verdict, expected) => panic!("{answer:?}: {verdict:?}, not {expected:?}"),
        }
    }
    let removing =
        |name: &str| ok(OkHttpResponse { headers_to_remove: vec![name.into()], ..OkHttpResponse::default() });
    for (name, expected) in [
        ("Authorization", Some(vec!["authorization"])),
        ("Host", Some(vec![])),
        (":path", Some(vec![])),
        ("te", None),
        ("a b", None),
    ] {
        match (ask(&all, &removing(name)), expected) {
            (AuthzVerdict::Allow(edits), Some(names)) => assert_eq!(edits.remove, names, "{name}"),
            (AuthzVerdict::Failed(AuthzFailure::BadEdit), None) => {}
            (verdict, _) => panic!("{name}: {verdict:?}"),
        }
    }
    let denied = DeniedHttpResponse {
        status: Some(HttpStatus { code: 401 }),
        // Fields that cannot be passed on do not make a denial less of one.
        headers: vec![
            option(header::WWW_AUTHENTICATE.as_str(), "Bearer"),
            option("content-length", "2"),
            option("x y", "z"),
            option("x-a", "b\r\nx-c: d"),
            HeaderValueOption { append_action: 9, ..option("x-b", "b") },
            option("x-why", "w"),
        ],
        body: "no".into(),
    };
    let AuthzVerdict::Deny(denial) = ask(&all, &answer(16, Some(HttpResponse::Denied(denied)))) else {
        panic!("denied")
    };
    assert_eq!(denial.headers, map(&[("www-authenticate", "Bearer"), ("x-why", "w")]));
    assert_eq!(denial.body.as_ref(), b"no");
    let added =
        ok(OkHttpResponse { response_headers_to_add: vec![option("x-seen", "1")], ..OkHttpResponse::default() });
    let AuthzVerdict::Allow(edits) = ask(&all, &added) else { panic!("allowed") };
    assert_eq!(edits.response.len(), 1);
}

#[test]
fn mistakes_in_an_authority_are_named() {
    for (spec, message) in [
        (json!({}), "no authority is named"),
        (json!({ "http": "http://127.0.0.1/", "timeout": "0ms" }), "more than nothing"),
        (json!({ "http": "http://127.0.0.1/", "body": "0B" }), "at most 64KiB"),
        (json!({ "http": "http://127.0.0.1/", "grpc": "http://127.0.0.1" }), "exclude one another"),
        (json!({ "http": "127.0.0.1:80" }), "is not a URL"),
        (json!({ "http": "http://127.0.0.1/?a" }), "brings its own query"),
        (json!({ "http": "http://10.0.0.1/" }), "in the clear"),
        (json!({ "grpc": "http://127.0.0.1/x" }), "no path of its own"),
        (json!({ "http": "http://127.0.0.1/", "timeout": "0s" }), "more than nothing"),
        (json!({ "http": "http://127.0.0.1/", "timeout": "2m" }), "at most 1m"),
        (json!({ "http": "http://127.0.0.1/", "body": "2MiB" }), "at most 64KiB"),
        (json!({ "http": "http://127.0.0.1/", "request_headers": ["host"] }), "cannot be passed on"),
        (json!({ "http": "http://127.0.0.1/", "response_headers": ["content-length"] }), "cannot be passed on"),
    ] {
        let (authz, problems) = compile(spec.clone());
        assert!(problems.iter().any(|found| found.contains(message)), "{spec}: {problems:?}");
        let warned = message == "in the clear";
        assert_eq!(authz.is_some(), warned, "{spec}");
    }
    let authz = authz(json!({ "body": "8KiB" }), "grpc");
    assert_eq!((authz.body_max(), authz.timeout()), (Some(8192), Duration::from_millis(200)));
    assert_eq!(authz.protocol(), AuthzProtocol::Grpc);
}
