//! What rules do to responses and in place of them: compression, CORS, careful browsers, trouble on purpose.

use crate::support::{
    client::{Client, Response},
    gateway::{Gateway, run_in},
    origin::{Origin, Seen, find},
};
use std::{
    io::Read,
    time::{Duration, Instant},
};
use tokio::io::AsyncReadExt;

async fn edge(origin: &Origin, rest: &str) -> Gateway {
    Gateway::start(&format!(
        "[listener.http]\naddress = \"127.0.0.1:0\"\n[upstream.app]\nendpoints = [\"{}\"]\n[route.app]\nupstream = \"app\"\n{rest}\n",
        origin.addr
    ))
    .await
}

async fn ask(gateway: &Gateway, request: &str) -> Response {
    let mut client = Client::connect(gateway.addr("http")).await;
    client.send(&format!("{request}\r\n\r\n")).await;
    client.try_response(request.starts_with("HEAD")).await.unwrap()
}

/// Answers with the fields that the request's path asks for, and 100 kB of text.
async fn library() -> Origin {
    Origin::start(|seen: &Seen| {
        let text = "all work and no play makes jack a dull boy\n".repeat(2400);
        let fields = match seen.path().trim_start_matches('/') {
            "png" => "Content-Type: image/png\r\n",
            "etag" => "Content-Type: text/plain\r\nETag: \"abc\"\r\nAccept-Ranges: bytes\r\n",
            "no-transform" => "Content-Type: text/plain\r\nCache-Control: no-transform\r\n",
            _ => "Content-Type: text/plain\r\n",
        };
        let body = if seen.head.starts_with("HEAD") { "" } else { &text };
        format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: {}\r\n\r\n{body}", text.len()).into_bytes()
    })
    .await
}

#[tokio::test]
async fn responses_are_compressed_for_those_who_accept_it() {
    let origin = library().await;
    let gateway = edge(&origin, "compress = [\"zstd\", \"br\", \"gzip\"]").await;
    let get = async |path: &str, accept: &str| {
        ask(&gateway, &format!("GET {path} HTTP/1.1\r\nHost: a\r\nAccept-Encoding: {accept}")).await
    };
    let plain = get("/", "identity").await;
    assert_eq!((plain.header("content-encoding"), plain.header("vary")), (None, Some("Accept-Encoding")));
    assert!(plain.body.len() > 100_000);
    for (accept, coding) in
        [("gzip", "gzip"), ("br", "br"), ("gzip, deflate, br, zstd", "zstd"), ("gzip;q=1, br;q=0.1", "gzip")]
    {
        let response = get("/", accept).await;
        assert_eq!(response.header("content-encoding"), Some(coding), "{accept}");
        assert_eq!((response.header("content-length"), response.header("vary")), (None, Some("Accept-Encoding")));
        assert!(response.body.len() < 5_000, "{coding} {}", response.body.len());
        let mut back = Vec::new();
        match coding {
            "gzip" => flate2::read::GzDecoder::new(&*response.body).read_to_end(&mut back).unwrap(),
            "br" => brotli::Decompressor::new(&*response.body, 4096).read_to_end(&mut back).unwrap(),
            _ => zstd::stream::read::Decoder::new(&*response.body).unwrap().read_to_end(&mut back).unwrap(),
        };
        assert!(back == plain.body, "{coding}: the very octets");
    }
    for (path, accept) in [("/png", "gzip"), ("/no-transform", "gzip"), ("/", "deflate"), ("/", "gzip;q=0")] {
        let response = get(path, accept).await;
        assert_eq!(
            (response.header("content-encoding"), response.body.len()),
            (None, plain.body.len()),
            "{path} {accept}"
        );
    }
    let tagged = get("/etag", "gzip").await;
    assert_eq!((tagged.header("etag"), tagged.header("accept-ranges")), (Some("W/\"abc\""), None));
    let head = ask(&gateway, "HEAD / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip").await;
    assert_eq!(head.header("content-encoding"), None);
    let mut old = Client::connect(gateway.addr("http")).await;
    old.send("GET / HTTP/1.0\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n").await;
    assert_eq!(old.response().await.header("content-encoding"), None, "1.0 knows no chunks");
}

#[tokio::test]
async fn a_compressed_stream_is_not_held_back() {
    let origin = Origin::raw(|mut stream| async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut buffer = [0; 2048];
        let _ = stream.read(&mut buffer).await;
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
        let _ = stream.write_all(format!("{head}5\r\nfirst\r\n").as_bytes()).await;
        // The rest comes when the client has the first part, and says so by going away.
        let _ = stream.read(&mut buffer).await;
    })
    .await;
    let gateway = edge(&origin, "compress = [\"gzip\"]").await;
    let mut client = Client::connect(gateway.addr("http")).await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n").await;
    let mut got = Vec::new();
    let mut first = [0; 5];
    let arrived = async {
        while !decodes(&got, &mut first) {
            assert!(client.stream.read_buf(&mut got).await.unwrap() > 0, "the stream ended: {got:?}");
        }
    };
    tokio::time::timeout(Duration::from_secs(10), arrived).await.expect("the first part comes by itself");
    assert_eq!(&first, b"first");
}

/// Whether what has come of a chunked response holds the first five octets of the text.
fn decodes(got: &[u8], first: &mut [u8; 5]) -> bool {
    let after = |data: &'_ [u8], mark: &[u8]| find(data, mark).map(|at| at + mark.len());
    let Some(body) = after(got, b"\r\n\r\n").and_then(|at| got.get(at..)) else { return false };
    let Some(data) = after(body, b"\r\n").and_then(|at| body.get(at..)) else { return false };
    flate2::read::GzDecoder::new(data).read_exact(first).is_ok()
}

#[tokio::test]
async fn pages_of_listed_origins_may_read_and_others_may_not() {
    let origin =
        Origin::start(|_| b"HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: *\r\nContent-Length: 2\r\n\r\nok".to_vec())
            .await;
    let cors = "cors = { origins = [\"https://www.a.test\", \"https://*.b.test\"], methods = [\"PUT\"], headers = [\"x-token\"], expose = [\"x-count\"], credentials = true, max_age = \"1h\" }";
    let gateway = edge(&origin, &format!("rate_limit = {{ rate = \"100/h\" }}\n{cors}")).await;
    let preflight = "OPTIONS / HTTP/1.1\r\nHost: a\r\nAccess-Control-Request-Method: PUT\r\nOrigin: ";
    let allowed = ask(&gateway, &format!("{preflight}https://www.a.test")).await;
    let field = |name: &str| allowed.header(name).map(str::to_owned);
    assert_eq!(allowed.status, 204);
    assert_eq!(field("access-control-allow-origin").as_deref(), Some("https://www.a.test"));
    assert_eq!(field("access-control-allow-methods").as_deref(), Some("GET, HEAD, POST, PUT"));
    assert_eq!(field("access-control-allow-headers").as_deref(), Some("x-token"));
    assert_eq!(field("access-control-allow-credentials").as_deref(), Some("true"));
    assert_eq!(field("access-control-max-age").as_deref(), Some("3600"));
    assert_eq!(field("vary").as_deref(), Some("Origin"));
    assert_eq!(ask(&gateway, &format!("{preflight}https://evil.test")).await.status, 403);
    assert!(origin.requests().is_empty(), "preflights are ours");

    let get = "GET / HTTP/1.1\r\nHost: a\r\nOrigin: ";
    let seen = ask(&gateway, &format!("{get}https://x.b.test")).await;
    assert_eq!(seen.header("access-control-allow-origin"), Some("https://x.b.test"), "ours, not the origin's star");
    assert_eq!(seen.header("access-control-expose-headers"), Some("x-count"));
    let other = ask(&gateway, &format!("{get}https://evil.test")).await;
    assert_eq!((other.status, other.header("access-control-allow-origin")), (200, None));
    assert_eq!(other.header("vary"), Some("Origin"));
    let plain = ask(&gateway, "OPTIONS / HTTP/1.1\r\nHost: a").await;
    assert_eq!(plain.status, 200, "an OPTIONS that is no preflight goes on");
}

#[tokio::test]
async fn careful_browsers_where_the_origin_says_nothing() {
    let origin =
        Origin::start(|_| b"HTTP/1.1 200 OK\r\nX-Frame-Options: ALLOWALL\r\nContent-Length: 2\r\n\r\nok".to_vec())
            .await;
    let rest = "security_headers = \"basic\"\n[route.app.rule.strict]\npath = \"/strict\"\nsecurity_headers = \"strict\"\n[route.app.rule.off]\npath = \"/off\"\nsecurity_headers = \"off\"\n[route.app.rule.gone]\npath = \"/gone\"\nrespond = { status = 410 }\n[route.app.rule.away]\npath = \"/away\"\nredirect = { path = \"/\" }\n";
    let gateway = edge(&origin, rest).await;
    let get = async |path: &str| ask(&gateway, &format!("GET {path} HTTP/1.1\r\nHost: a")).await;
    let basic = get("/").await;
    assert_eq!(basic.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(basic.header("x-frame-options"), Some("ALLOWALL"), "the origin knows better");
    assert_eq!(basic.header("strict-transport-security"), None, "not over plain http (RFC 6797 §7.2)");
    assert_eq!(basic.header("content-security-policy"), None);
    assert!(get("/strict").await.header("content-security-policy").unwrap().contains("object-src 'none'"));
    assert_eq!(get("/off").await.header("x-content-type-options"), None);
    assert_eq!(get("/gone").await.header("x-content-type-options"), Some("nosniff"), "our own answers too");
    let away = get("/away").await;
    assert_eq!((away.status, away.header("x-content-type-options")), (302, Some("nosniff")), "redirects too");
}

#[tokio::test]
async fn trouble_on_purpose() {
    let origin = Origin::fixed("ok").await;
    let rest = "fault = { delay = { time = \"200ms\" } }\n[route.app.rule.gone]\npath = \"/gone\"\nfault = { abort = { status = 503 } }\n[route.app.rule.half]\npath = \"/half\"\nfault = { abort = { status = 418, percent = \"50%\" } }\n";
    let gateway = edge(&origin, rest).await;
    let began = Instant::now();
    assert_eq!(ask(&gateway, "GET / HTTP/1.1\r\nHost: a").await.status, 200);
    assert!(began.elapsed() >= Duration::from_millis(200));
    assert_eq!(ask(&gateway, "GET /gone HTTP/1.1\r\nHost: a").await.status, 503);
    let mut statuses = Vec::new();
    for _ in 0..60 {
        statuses.push(ask(&gateway, "GET /half HTTP/1.1\r\nHost: a").await.status);
    }
    let injected = statuses.iter().filter(|status| **status == 418).count();
    assert!((10..=50).contains(&injected), "{injected} of 60");
    gateway.counts("portcullis_refusals_total", &["fault_injected"], 1.0 + injected as f64).await;
}

#[tokio::test]
async fn filters_that_make_no_sense_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (rest, message) in [
        ("cors = { origins = [\"*\"], credentials = true }", "any page act as its visitor"),
        ("cors = { origins = [\"www.a.test\"] }", "is not an origin"),
        ("cors = { origins = [] }", "expected at least 1 item"),
        ("compress = [\"gzip\", \"gzip\"]", "listed twice"),
        ("compress = [\"lzma\"]", "`lzma`"),
        ("fault = {}", "does nothing"),
        ("fault = { delay = { time = \"2m\" } }", "at most 60s"),
        ("fault = { abort = { status = 200 } }", "from 400 to 599"),
        ("security_headers = \"paranoid\"", "`paranoid`"),
    ] {
        let text = format!(
            "[listener.http]\naddress = \"127.0.0.1:0\"\n[upstream.app]\nendpoints = [\"127.0.0.1:1\"]\n[route.app]\nupstream = \"app\"\n{rest}\n"
        );
        std::fs::write(folder.path().join("edge.toml"), text).unwrap();
        let (code, out) = run_in(folder.path(), &["check", "edge.toml"]).await;
        assert!(code == 1 && out.contains(message), "{message}\n{out}");
    }
}
