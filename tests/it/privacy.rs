//! Personal data in real messages: told, covered or kept in, however the message is cut and packed; and everything else as it was.

use crate::support::{
    client::{Client, Response, h2},
    eventually,
    gateway::{Gateway, run_in},
    origin::{Origin, Seen, read_request},
};
use serde_json::Value;
use std::io::Write;
use tokio::{io::AsyncWriteExt, net::TcpStream};

const CARD: &str = "4111111111111111";
const IBAN: &str = "DE89370400440532013000";

async fn edge(origin: &Origin, objects: &str, rest: &str) -> Gateway {
    let config = format!(
        "[telemetry]\naudit_log = {{ to = {{ file = \"audit.log\" }} }}\n[listener.http]\naddress = \"127.0.0.1:0\"\n{objects}\n\
         [upstream.app]\nendpoints = [\"{}\"]\n[route.app]\nupstream = \"app\"\n{rest}\n",
        origin.addr
    );
    Gateway::start(&config).await
}

/// One profile, on the route.
async fn with_profile(origin: &Origin, profile: &str) -> Gateway {
    edge(origin, &format!("[privacy.p]\n{profile}\n"), "privacy = \"p\"").await
}

async fn ask(gateway: &Gateway, request: impl AsRef<[u8]>) -> Response {
    let mut client = Client::connect(gateway.addr("http")).await;
    client.send(request).await;
    client.response().await
}

/// What comes when the answer may be cut: everything until the end.
async fn ask_raw(gateway: &Gateway, request: impl AsRef<[u8]>) -> String {
    use tokio::io::AsyncReadExt;
    let mut stream = TcpStream::connect(gateway.addr("http")).await.unwrap();
    stream.write_all(request.as_ref()).await.unwrap();
    let mut all = Vec::new();
    let _ = stream.read_to_end(&mut all).await;
    String::from_utf8_lossy(&all).into_owned()
}

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: shop.test\r\nAccept-Encoding: gzip, br\r\n\r\n")
}

fn post(fields: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("POST /pay HTTP/1.1\r\nHost: shop.test\r\n{fields}Content-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

fn chunked(fields: &str, chunks: &[&[u8]]) -> Vec<u8> {
    let mut request =
        format!("POST /pay HTTP/1.1\r\nHost: shop.test\r\n{fields}Transfer-Encoding: chunked\r\n\r\n").into_bytes();
    for chunk in chunks {
        request.extend(format!("{:x}\r\n", chunk.len()).bytes());
        request.extend(*chunk);
        request.extend(b"\r\n");
    }
    request.extend(b"0\r\n\r\n");
    request
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

fn pack(coding: &str, text: &[u8]) -> Vec<u8> {
    match coding {
        "gzip" => gzip(text),
        "br" => {
            let mut packed = Vec::new();
            brotli::CompressorWriter::new(&mut packed, 4096, 5, 20).write_all(text).unwrap();
            packed
        }
        _ => zstd::encode_all(text, 3).unwrap(),
    }
}

fn answer(fields: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

async fn audits(gateway: &Gateway, count: usize) -> Vec<Value> {
    eventually("audit lines", async || {
        let text = std::fs::read_to_string(gateway.path().join("audit.log")).unwrap_or_default();
        // The last line may be half written.
        let lines: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        (lines.len() >= count).then_some(lines)
    })
    .await
}

#[tokio::test]
async fn logging_changes_nothing_and_tells_everything_but_the_value() {
    let origin = Origin::start(|_: &Seen| {
        answer("Content-Type: text/plain\r\nX-Account: DE89370400440532013000\r\n", format!("card {CARD}").as_bytes())
    })
    .await;
    let gateway = with_profile(&origin, "detect = [\"card\", \"iban\"]").await;
    let target = format!("/pay/{CARD}?iban={IBAN}");
    let request = format!(
        "POST {target} HTTP/1.1\r\nHost: shop.test\r\nReferer: http://x/{CARD}\r\nContent-Length: 16\r\n\r\n{CARD}"
    );
    let answer = ask(&gateway, &request).await;
    assert_eq!((answer.status, answer.text()), (200, format!("card {CARD}")));
    assert_eq!(answer.header("x-account"), Some(IBAN));
    assert_eq!((origin.last().path(), origin.last().body), (target.as_str(), CARD.as_bytes().to_vec()));
    let line = &audits(&gateway, 1).await[0];
    assert_eq!((&line["route"], &line["privacy"][0]), (&"app".into(), &"p".into()));
    let findings: Vec<String> = line["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| {
            format!("{} {} {} {} {}", one["direction"], one["part"], one["detector"], one["action"], one["count"])
                .replace('"', "")
        })
        .collect();
    assert_eq!(
        findings,
        [
            "request url card log 1",
            "request url iban log 1",
            "request header card log 1",
            "request body card log 1",
            "response header iban log 1",
            "response body card log 1"
        ]
    );
    let labels = ["route=\"app\"", "detector=\"card\"", "direction=\"response\"", "part=\"body\"", "action=\"log\""];
    gateway.counts("portcullis_privacy_findings_total", &labels, 1.0).await;
    let (code, map) = gateway.command(&["privacy", "--admin", "admin.sock"]).await;
    assert!(code == 0 && map.contains("app") && map.contains("response body") && map.contains("iban"), "{map}");
    let (code, map) = gateway.command(&["privacy", "--admin", "admin.sock", "--format", "json"]).await;
    assert!(code == 0 && serde_json::from_str::<Value>(&map).unwrap()["leaks"].as_array().unwrap().len() == 6, "{map}");
    let told = gateway.log() + &std::fs::read_to_string(gateway.path().join("audit.log")).unwrap();
    assert!(told.contains("\"path\"") && !told.contains(CARD) && !told.contains(IBAN), "{told}");
}

#[tokio::test]
async fn masking_covers_both_ways_and_keeps_every_length() {
    let origin = Origin::start(|seen: &Seen| {
        let body = format!(
            "{{\"pan\":{CARD},\"iban\":\"{IBAN}\",\"badge\":\"B1234567\",\"got\":{:?}}}",
            String::from_utf8_lossy(&seen.body)
        );
        answer(
            &format!("Content-Type: application/json\r\nX-Pan: {CARD}\r\nContent-Digest: sha-256=:x:\r\n"),
            body.as_bytes(),
        )
    })
    .await;
    let profile =
        "detect = [\"card\", \"iban\", { name = \"badge\", regex = \"\\\\bB[0-9]{7}\\\\b\" }]\naction = \"mask\"";
    let gateway = with_profile(&origin, profile).await;
    let fields = format!("X-Card: {CARD}\r\nX-Card: none\r\nRange: bytes=0-10\r\n");
    let got = ask(&gateway, post(&fields, format!("pan={CARD}&x=1").as_bytes())).await;
    let seen = origin.last();
    assert_eq!(String::from_utf8_lossy(&seen.body), "pan=************1111&x=1");
    assert_eq!(seen.all("x-card"), ["************1111", "none"]);
    assert_eq!(
        (seen.header("accept-encoding"), seen.header("range"), seen.header("content-length")),
        (None, None, Some("24"))
    );
    let json: Value = serde_json::from_str(&got.text()).unwrap();
    assert_eq!(json["pan"], 9_999_999_999_991_111_u64);
    assert_eq!((&json["iban"], &json["badge"]), (&"******************3000".into(), &"********".into()));
    assert_eq!((got.header("x-pan"), got.header("content-digest")), (Some("************1111"), None));
    assert!(got.header("content-length").is_some(), "{}", got.head);
    assert_eq!(ask(&gateway, get(&format!("/find?card={CARD}&n=1"))).await.status, 200);
    assert_eq!(origin.last().path(), "/find?card=************1111&n=1");
}

#[tokio::test]
async fn what_is_split_over_chunks_is_found() {
    let origin = Origin::raw(|mut stream| async move {
        let Some(seen) = read_request(&mut stream, &mut Vec::new()).await else { return };
        let cut: usize = seen.path().trim_start_matches('/').parse().unwrap_or(0);
        let _ = stream
            .write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: text/plain\r\n\r\n")
            .await;
        let text = format!("pan {CARD}, iban {IBAN}.");
        for part in [&text[..cut], &text[cut..cut + 1], &text[cut + 1..]].iter().filter(|part| !part.is_empty()) {
            let _ = stream.write_all(format!("{:x}\r\n{part}\r\n", part.len()).as_bytes()).await;
            let _ = stream.flush().await;
            tokio::time::sleep(std::time::Duration::from_millis(3)).await;
        }
        let _ = stream.write_all(b"0\r\n\r\n").await;
    })
    .await;
    let gateway = with_profile(&origin, "detect = [\"card\", \"iban\"]\naction = \"mask\"").await;
    for cut in 0..46 {
        let got = ask(&gateway, format!("GET /{cut} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")).await;
        assert_eq!(got.text(), "pan ************1111, iban ******************3000.", "cut at {cut}");
    }
    let upload = Origin::echo().await;
    let gateway = with_profile(&upload, "detect = [\"card\"]\naction = \"mask\"").await;
    for cut in 1..CARD.len() {
        let (first, second) = CARD.as_bytes().split_at(cut);
        assert_eq!(ask(&gateway, chunked("", &[first, second, b" ok"])).await.status, 200);
        assert_eq!(upload.last().body, b"************1111 ok", "cut at {cut}");
    }
}

#[tokio::test]
async fn blocked_requests_never_reach_the_upstream_whole() {
    let origin = Origin::echo().await;
    let gateway = with_profile(&origin, "detect = [\"card\"]\naction = \"block\"").await;
    let far = [vec![b'x'; 300_000], format!(" {CARD} ").into_bytes(), vec![b'y'; 1000]].concat();
    for request in [
        get(&format!("/?pan={CARD}")).into_bytes(),
        format!("GET / HTTP/1.1\r\nHost: a\r\nX-Pan: {CARD}\r\n\r\n").into_bytes(),
        post("", format!("pan={CARD}").as_bytes()),
        chunked("", &[b"pan=411111", b"1111111111"]),
        post("Content-Encoding: gzip\r\n", &gzip(format!("pan={CARD}").as_bytes())),
        post("Content-Encoding: br\r\n", &pack("br", format!("pan={CARD}").as_bytes())),
        post("Content-Encoding: zstd\r\n", &pack("zstd", format!("pan={CARD}").as_bytes())),
        post("", &far),
    ] {
        let got = ask(&gateway, &request).await;
        assert_eq!((got.status, got.text().as_str()), (403, "Forbidden\n"));
    }
    assert!(origin.requests().is_empty(), "{:?}", origin.requests().len());
    assert_eq!(
        ask(&gateway, post("Content-Encoding: compress\r\n", b"?")).await.status,
        415,
        "what cannot be read does not pass"
    );
    assert_eq!(ask(&gateway, post("Content-Encoding: gzip\r\n", b"no gzip")).await.status, 415);
    assert_eq!(ask(&gateway, post("", b"pan=4111111111111112")).await.status, 200, "no card");
    gateway.counts("portcullis_refusals_total", &["reason=\"privacy\""], 8.0).await;
    gateway.counts("portcullis_refusals_total", &["reason=\"privacy_unreadable\""], 2.0).await;
}

#[tokio::test]
async fn blocked_responses_do_not_show_what_they_hold() {
    let origin = Origin::start(|seen: &Seen| match seen.path() {
        "/field" => answer(&format!("X-Pan: {CARD}\r\n"), b"fine"),
        "/body" => answer("Content-Type: text/plain\r\n", format!("secret words and {CARD}").as_bytes()),
        "/events" => format!("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\ndata: a\n\ndata: {CARD}\n\ndata: after\n\n").into_bytes(),
        "/unknown" => answer("Content-Encoding: lzma\r\n", b"??"),
        _ => answer("Content-Type: text/plain\r\n", b"fine"),
    })
    .await;
    let gateway = with_profile(&origin, "detect = [\"card\"]\nresponse = \"block\"").await;
    assert_eq!(ask(&gateway, get("/fine")).await.text(), "fine");
    assert_eq!(ask(&gateway, get("/field")).await.status, 502);
    assert_eq!(ask(&gateway, get("/unknown")).await.status, 502);
    let cut = ask_raw(&gateway, get("/body")).await;
    assert!(!cut.contains("secret words") && !cut.contains(CARD), "{cut}");
    let cut = ask_raw(&gateway, get("/events")).await;
    assert!(!cut.contains(CARD) && !cut.contains("after"), "{cut}");
    // `request` was not said, and `action` neither: requests are only looked at.
    assert_eq!(ask(&gateway, post("", CARD.as_bytes())).await.status, 200);
    assert_eq!(origin.last().body, CARD.as_bytes());
}

#[tokio::test]
async fn packed_answers_are_read_whatever_packed_them() {
    let origin = Origin::start(|seen: &Seen| {
        let coding = seen.path().trim_start_matches('/');
        let text = format!("{} card {CARD} ", "some words ".repeat(20_000));
        let body = pack(coding, text.as_bytes());
        answer(&format!("Content-Type: text/plain\r\nETag: \"v1\"\r\nContent-Encoding: {coding}\r\n"), &body)
    })
    .await;
    let masking = with_profile(&origin, "detect = [\"card\"]\naction = \"mask\"").await;
    let logging = with_profile(&origin, "detect = [\"card\"]\naction = \"log\"").await;
    for coding in ["gzip", "br", "zstd"] {
        let got = ask(&masking, get(&format!("/{coding}"))).await;
        assert_eq!((got.header("content-encoding"), got.header("etag")), (None, Some("W/\"v1\"")), "{coding}");
        assert_eq!(got.body.len(), 220_000 + 23, "{coding}");
        assert!(got.text().ends_with("card ************1111 "), "{coding}");
        assert_eq!(origin.last().header("accept-encoding"), None, "covered answers are asked for unpacked");
        // What is only looked at passes as it came.
        let got = ask(&logging, get(&format!("/{coding}"))).await;
        assert_eq!(got.header("content-encoding"), Some(coding));
        assert!(
            got.body == pack(coding, format!("{} card {CARD} ", "some words ".repeat(20_000)).as_bytes()),
            "{coding}"
        );
        assert_eq!(origin.last().header("accept-encoding"), Some("gzip, br"));
    }
    logging.counts("portcullis_privacy_findings_total", &["part=\"body\"", "action=\"log\""], 3.0).await;
    masking.counts("portcullis_privacy_findings_total", &["part=\"body\"", "action=\"mask\""], 3.0).await;
    // Our own packing comes after the covering.
    let packing = edge(
        &origin,
        "[privacy.p]\ndetect = [\"card\"]\naction = \"mask\"\n",
        "privacy = \"p\"\ncompress = [\"gzip\"]",
    )
    .await;
    let got = ask(&packing, get("/br")).await;
    assert_eq!(got.header("content-encoding"), Some("gzip"));
    let mut text = String::new();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&*got.body), &mut text).unwrap();
    assert!(text.ends_with("card ************1111 "));
}

#[tokio::test]
async fn a_packed_upload_goes_on_unpacked_and_covered_and_a_bomb_is_refused() {
    let origin = Origin::echo().await;
    let gateway = with_profile(&origin, "detect = [\"card\"]\naction = \"mask\"").await;
    for coding in ["gzip", "br", "zstd"] {
        let body = pack(coding, format!("a=1&pan={CARD}").as_bytes());
        assert_eq!(
            ask(&gateway, post(&format!("Content-Encoding: {coding}\r\n"), &body)).await.status,
            200,
            "{coding}"
        );
        let seen = origin.last();
        assert_eq!(
            (seen.header("content-encoding"), seen.body.clone()),
            (None, b"a=1&pan=************1111".to_vec()),
            "{coding}"
        );
    }
    let bomb = gzip(&vec![b'x'; 30_000_000]);
    assert_eq!(ask(&gateway, post("Content-Encoding: gzip\r\n", &bomb)).await.status, 413);
}

#[tokio::test]
async fn what_is_clean_arrives_octet_by_octet() {
    let origin = Origin::start(|seen: &Seen| {
        let kind = seen.header("content-type").unwrap_or("application/octet-stream");
        answer(&format!("Content-Type: {kind}\r\n"), &seen.body)
    })
    .await;
    let mut draw = fastrand::Rng::with_seed(11);
    let text: Vec<u8> = (0..5_000_000).map(|_| b"0123-4567 89 DE\n\"\\%.\xffab"[draw.usize(..23)]).collect();
    for action in ["log", "mask", "block"] {
        let gateway = with_profile(&origin, &format!("detect = [\"card\", \"iban\", \"us_ssn\", {{ name = \"badge\", regex = \"B[0-9]{{7}}z\" }}]\naction = \"{action}\"")).await;
        for length in [0, 1, 2, 1_000, 65_535, 65_537, 131_072, 131_073, 600_000, 5_000_000] {
            let body = &text[..length];
            let got = ask(&gateway, post("", body)).await;
            assert_eq!(got.status, 200, "{action} {length}");
            assert!(origin.last().body == body, "{action}: up {length}, {} arrived", origin.last().body.len());
            assert!(got.body == body, "{action}: down {length}, {} arrived", got.body.len());
            let pieces: Vec<&[u8]> = body.chunks(70_001).collect();
            let got = ask(&gateway, chunked("", &pieces)).await;
            assert!(got.body == body && origin.last().body == body, "{action}: {length} in chunks");
        }
        let pictures = post("Content-Type: image/png\r\n", CARD.as_bytes());
        assert_eq!(ask(&gateway, pictures).await.status, 200, "digits of a picture are no number");
        let mut client = Client::connect(gateway.addr("http")).await;
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n").await;
        client.send("hello").await;
        assert_eq!(client.response().await.text(), "hello");
    }
}

#[tokio::test]
async fn a_covered_body_goes_whole_to_the_next_endpoint_and_to_the_mirror() {
    let (origin, shadow) = (Origin::echo().await, Origin::echo().await);
    let config = format!(
        "[listener.http]\naddress = \"127.0.0.1:0\"\n[privacy.p]\ndetect = [\"card\"]\naction = \"mask\"\n[upstream.shadow]\nendpoints = [\"{}\"]\n\
         [upstream.app]\nendpoints = [\"127.0.0.1:1\", {{ address = \"{}\", priority = 1 }}]\n\
         [route.app]\nupstream = \"app\"\nprivacy = \"p\"\nmirror = {{ upstream = \"shadow\" }}\n",
        shadow.addr, origin.addr
    );
    let gateway = Gateway::start(&config).await;
    for length in [10, 50_000] {
        let body = format!("{} {CARD}", "x".repeat(length));
        let expected = format!("{} ************1111", "x".repeat(length));
        assert_eq!(ask(&gateway, post("", body.as_bytes())).await.status, 200, "{length}");
        assert!(origin.last().body == expected.as_bytes(), "{length}");
        let copied =
            eventually("the copy", async || shadow.requests().pop().filter(|seen| seen.body.len() == expected.len()))
                .await;
        assert!(copied.body == expected.as_bytes(), "the copy is covered too");
    }
    gateway.counts("portcullis_privacy_findings_total", &["direction=\"request\""], 2.0).await;
}

#[tokio::test]
async fn streams_are_never_stalled() {
    let origin = Origin::raw(|mut stream| async move {
        let Some(seen) = read_request(&mut stream, &mut Vec::new()).await else { return };
        if seen.header("upgrade").is_some() {
            let _ = stream
                .write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n4111")
                .await;
        } else {
            let head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
            let _ = stream.write_all(head).await;
            let event = format!("data: {CARD}\n\n");
            let _ = stream.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes()).await;
        }
        // Nothing more comes, and nothing ends.
        std::future::pending::<()>().await;
    })
    .await;
    let profile = "detect = [\"card\", { name = \"long\", regex = \"L[a-z]{200}\" }]\n";
    for (action, expected) in [("log", CARD), ("mask", "************1111")] {
        let gateway = with_profile(&origin, &format!("{profile}action = \"{action}\"")).await;
        let mut client = Client::connect(gateway.addr("http")).await;
        client.send(get("/events")).await;
        assert!(read_until(&mut client, expected).await.contains("data: "), "{action}");
    }
    let looks = [with_profile(&origin, &format!("{profile}action = \"block\"")).await, edge(&origin, "", WAF).await];
    for gateway in &looks {
        let mut client = Client::connect(gateway.addr("http")).await;
        client.send("GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n").await;
        assert!(read_until(&mut client, "4111").await.contains("101"), "a tunnel is not looked into");
    }
    let mut client = Client::connect(looks[1].addr("http")).await;
    client.send(get("/events")).await;
    assert!(read_until(&mut client, CARD).await.contains("data: "), "the WAF holds what it inspects, and no stream");
}

/// Of a route: in both directions, with our own rules.
const WAF: &str = "waf = { mode = \"block\" }\n";

async fn read_until(client: &mut Client, wanted: &str) -> String {
    use tokio::io::AsyncReadExt;
    let mut seen = String::new();
    let reading = async {
        let mut buffer = [0; 1024];
        while !seen.contains(wanted) {
            let read = client.stream.read(&mut buffer).await.unwrap();
            assert!(read > 0, "it ended with {seen}");
            seen.push_str(&String::from_utf8_lossy(&buffer[..read]));
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), reading).await.expect("it comes at once");
    seen
}

#[tokio::test]
async fn grpc_messages_do_not_wait_for_one_another() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    // Echoes each message as it comes.
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    tokio::spawn(async move {
                        let response =
                            http::Response::builder().header("content-type", "application/grpc").body(()).unwrap();
                        let mut out = respond.send_response(response, false).unwrap();
                        let mut body = request.into_body();
                        while let Some(Ok(chunk)) = body.data().await {
                            let _ = body.flow_control().release_capacity(chunk.len());
                            out.send_data(chunk, false).unwrap();
                        }
                    });
                }
            });
        }
    });
    let gateway = Gateway::start(&format!(
        "[listener.http]\naddress = \"127.0.0.1:0\"\n[privacy.p]\ndetect = [\"card\"]\naction = \"mask\"\n[upstream.app]\nprotocol = \"h2c\"\nendpoints = [\"{addr}\"]\n\
         [route.app]\nupstream = \"app\"\nprivacy = \"p\"\n{WAF}"
    ))
    .await;
    let sender = h2(TcpStream::connect(gateway.addr("http")).await.unwrap()).await;
    let request = http::Request::post("http://a.test/S/M")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap();
    let (response, mut stream) = sender.ready().await.unwrap().send_request(request, false).unwrap();
    let message = |text: &str| [&[0, 0, 0, 0, text.len() as u8], text.as_bytes()].concat();
    stream.send_data(message("\n\u{10}4111111111111111").into(), false).unwrap();
    let within = std::time::Duration::from_secs(20);
    let mut body = tokio::time::timeout(within, response).await.unwrap().unwrap().into_body();
    for text in ["4111111111111111", "and 17"] {
        if text != "4111111111111111" {
            stream.send_data(message(text).into(), false).unwrap();
        }
        let chunk = tokio::time::timeout(within, body.data()).await.expect("it does not wait").unwrap().unwrap();
        let expected = if text == "and 17" { message(text) } else { message("\n\u{10}************1111") };
        assert_eq!(chunk, expected);
        let _ = body.flow_control().release_capacity(chunk.len());
    }
}

#[tokio::test]
async fn levels_add_up_and_only_relax_takes_away() {
    let origin =
        Origin::start(|_: &Seen| answer("Content-Type: text/plain\r\n", format!("{CARD} {IBAN}").as_bytes())).await;
    let objects = "[defaults]\nprivacy = \"cards\"\nmay_relax = [\"privacy\"]\n[privacy.cards]\ndetect = [\"card\"]\naction = \"mask\"\n\
                   [privacy.all]\ndetect = [\"card\", \"iban\"]\nresponse = \"mask\"\nrequest = \"off\"\n[privacy.told]\ndetect = [\"card\"]\n";
    let rest = "[route.app.rule.more]\npath = \"/more\"\nprivacy = \"all\"\n[route.app.rule.less]\npath = \"/less\"\nprivacy = \"told\"\n\
                [route.app.rule.none]\npath = \"/none\"\nrelax = [\"privacy\"]\n[route.app.rule.other]\npath = \"/other\"\nrelax = [\"privacy\"]\nprivacy = \"told\"\n";
    let gateway = edge(&origin, objects, rest).await;
    for (path, expected) in [
        ("/", format!("************1111 {IBAN}")),
        ("/more", "************1111 ******************3000".to_owned()),
        ("/less", format!("************1111 {IBAN}")),
        ("/none", format!("{CARD} {IBAN}")),
        ("/other", format!("{CARD} {IBAN}")),
    ] {
        assert_eq!(ask(&gateway, get(path)).await.text(), expected, "{path}");
    }
    let (_, out) = gateway.command(&["explain", "GET", "http://a/more", "--config", "edge.toml"]).await;
    assert!(out.contains("privacy: looked at by cards and all"), "{out}");
}

#[tokio::test]
async fn mistakes_are_shown_in_their_place() {
    let folder = tempfile::tempdir().unwrap();
    for (text, message) in [
        ("[privacy.p]\ndetect = [\"crad\"]\n", "did you mean `card`?"),
        ("[privacy.p]\ndetect = []\n", "detect"),
        ("[privacy.p]\ndetect = [\"card\", \"card\"]\n", "looked for twice"),
        ("[privacy.p]\ndetect = [{ name = \"x\", regex = \"x+\" }]\n", "no longest length"),
        ("[privacy.p]\ndetect = [{ name = \"x\", regex = \"(\" }]\n", "unclosed group"),
        ("[privacy.p]\ndetect = [{ name = \"iban\", regex = \"xyz\" }]\n", "name of one of ours"),
        ("[privacy.p]\ndetect = [\"card\"]\naction = \"off\"\n", "both directions are off"),
        (
            "[privacy.p]\ndetect = [\"card\"]\naction = \"log\"\nrequest = \"log\"\nresponse = \"mask\"\n",
            "`action` has no effect",
        ),
        (
            "[privacy.p]\ndetect = [\"card\"]\n[defaults]\nprivacy = \"q\"\n",
            "privacy \"q\" is not defined (defined: p)",
        ),
        (
            "[privacy.p]\ndetect = [\"card\"]\n[route.x]\nupstream = \"app\"\npath = \"/x\"\nrelax = [\"privacy\"]\n",
            "nothing above permits",
        ),
    ] {
        let base = "[listener.http]\naddress = \"127.0.0.1:0\"\n[upstream.app]\nendpoints = [\"127.0.0.1:1\"]\n[route.app]\nupstream = \"app\"\n";
        std::fs::write(folder.path().join("edge.toml"), format!("{base}{text}")).unwrap();
        let (code, out) = run_in(folder.path(), &["check", "edge.toml"]).await;
        assert!(code == 1 && out.contains(message) && out.contains("edge.toml:"), "{message}\n{out}");
    }
}
