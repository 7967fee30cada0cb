//! Checks by HTTP: the request that is sent, and which answers are good.

use crate::endpoint::{Reply, h1, h2, probe};
use portcullis_health::{Failure, ProbeKind};
use tokio::net::TcpListener;

async fn asked(answer: &str, json: &str) -> Result<(), Failure> {
    let (address, _) = h1(answer, None).await;
    probe(address, ProbeKind::Clear, json).run().await.map(drop)
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn the_request_says_what_it_was_told() {
    let (address, seen) = h1(ok(""), None).await;
    for (json, line, host) in [
        (r#"{"path":"/"}"#, "GET / HTTP/1.1", address.to_string()),
        (r#"{"path":"/well?deep=1","method":"OPTIONS"}"#, "OPTIONS /well?deep=1 HTTP/1.1", address.to_string()),
        (r#"{"path":"/","host":"shop.internal:81"}"#, "GET / HTTP/1.1", "shop.internal:81".to_owned()),
    ] {
        assert!(probe(address, ProbeKind::Clear, json).run().await.is_ok());
        let request = seen.lock().unwrap().pop().unwrap();
        let expected = format!("{line}\r\nHost: {host}\r\nUser-Agent: portcullis-health\r\nConnection: close\r\n\r\n");
        assert_eq!(request, expected);
    }
}

#[tokio::test]
async fn statuses_are_good_by_the_list() {
    for (status, json, expected) in [
        (200, r#"{"path":"/"}"#, Ok(())),
        (399, r#"{"path":"/"}"#, Ok(())),
        (404, r#"{"path":"/"}"#, Err(Failure::Status(404))),
        (503, r#"{"path":"/"}"#, Err(Failure::Status(503))),
        (404, r#"{"path":"/","status":[200,404]}"#, Ok(())),
        (204, r#"{"path":"/","status":[200,404]}"#, Err(Failure::Status(204))),
    ] {
        let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(asked(&answer, json).await, expected, "{status} {json}");
    }
}

#[tokio::test]
async fn bodies_are_matched_by_text_or_expression_within_a_limit() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nall w\r\n3\r\nell\r\n0\r\n\r\n";
    let unframed = "HTTP/1.0 200 OK\r\n\r\nall well";
    let long = ok(&format!("{}end", "x".repeat(20_000)));
    for (answer, rule, expected) in [
        (&ok("all well"), r#""well""#, Ok(())),
        (&ok("all ill"), r#""well""#, Err(Failure::Body)),
        (&ok(""), r#""well""#, Err(Failure::Body)),
        (&ok("all well"), r#"{"contains":"well"}"#, Ok(())),
        (&chunked.to_owned(), r#""all well""#, Ok(())),
        (&unframed.to_owned(), r#""all well""#, Ok(())),
        (&ok("{\"status\": \"UP\"}"), r#"{"regex":"\"status\":\\s*\"UP\""}"#, Ok(())),
        (&ok("{\"status\": \"DOWN\"}"), r#"{"regex":"\"status\":\\s*\"UP\""}"#, Err(Failure::Body)),
        (&ok("all well"), r#"{"contains":"well","within":"7B"}"#, Err(Failure::Body)),
        (&ok("all well"), r#"{"contains":"well","within":"8B"}"#, Ok(())),
        (&long, r#""end""#, Err(Failure::Body)),
        (&long, r#"{"contains":"end","within":"32KiB"}"#, Ok(())),
    ] {
        let json = format!(r#"{{"path":"/","body":{rule}}}"#);
        assert_eq!(asked(answer, &json).await, expected, "{rule}");
    }
    let truncated = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nall well";
    assert_eq!(asked(truncated, r#"{"path":"/","body":"ill"}"#).await, Err(Failure::Protocol));
    let unwell = "HTTP/1.1 503 No\r\nContent-Length: 4\r\n\r\nwell";
    assert_eq!(asked(unwell, r#"{"path":"/","body":"well"}"#).await, Err(Failure::Status(503)), "status first");
}

#[tokio::test]
async fn what_is_no_answer_is_told_from_what_is_a_bad_one() {
    for answer in ["", "nonsense\r\n\r\n", "SSH-2.0-x\r\n", "HTTP/1.1 2000 OK\r\n\r\n"] {
        assert_eq!(asked(answer, r#"{"path":"/"}"#).await, Err(Failure::Protocol), "{answer}");
    }
    let huge = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(70_000));
    assert_eq!(asked(&huge, r#"{"path":"/"}"#).await, Err(Failure::Protocol));
}

#[tokio::test]
async fn a_connection_is_enough_without_a_path() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    assert!(probe(address, ProbeKind::Clear, "{}").run().await.is_ok());
    drop(listener);
    assert_eq!(probe(address, ProbeKind::Clear, "{}").run().await, Err(Failure::Refused));
}

#[tokio::test]
async fn silence_ends_with_the_timeout() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    for timeout in [50, 400] {
        let begun = std::time::Instant::now();
        let json = format!(r#"{{"path":"/","timeout":"{timeout}ms"}}"#);
        assert_eq!(probe(address, ProbeKind::Clear, &json).run().await, Err(Failure::Timeout));
        assert!((timeout..timeout + 300).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn h2_is_spoken_to_who_speaks_it() {
    let reply = |request: &http::Request<()>, _: &[u8]| Reply {
        status: if request.uri().path() == "/well" { 200 } else { 404 },
        body: b"all well".to_vec(),
        ..Reply::default()
    };
    let (address, seen) = h2(reply, None).await;
    for (more, expected) in [
        (r#""protocol":"h2","host":"shop.internal""#, Ok(())),
        (r#""protocol":"h2","body":"well""#, Ok(())),
        (r#""protocol":"h2","body":"ill""#, Err(Failure::Body)),
        (r#""protocol":"h2","status":[204]"#, Err(Failure::Status(200))),
        (r#""protocol":"h1""#, Err(Failure::Protocol)),
    ] {
        let json = format!(r#"{{"path":"/well",{more}}}"#);
        assert_eq!(probe(address, ProbeKind::Clear, &json).run().await.map(drop), expected, "{more}");
    }
    let seen = seen.lock().unwrap().clone();
    assert_eq!(seen.first().unwrap(), "GET http://shop.internal/well   []");
    assert_eq!(*seen.last().unwrap(), format!("GET http://{address}/well   []"));
    let (address, _) = h1(ok(""), None).await;
    let json = r#"{"path":"/","protocol":"h2"}"#;
    assert_eq!(probe(address, ProbeKind::Clear, json).run().await, Err(Failure::Protocol));
}
