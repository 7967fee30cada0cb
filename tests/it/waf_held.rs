//! What an upstream sees of a request whose body is looked at first: all of it or nothing.

use crate::support::{
    client::{Client, h2},
    eventually,
    gateway::Gateway,
    h2_origin::{H2Answer, H2Origin},
    origin::{Origin, Seen, ok},
};
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const HEAD: &str = "POST /form HTTP/1.1\r\nHost: shop.test\r\nUser-Agent: Mozilla/5.0\r\nAccept: */*\r\nContent-Type: application/x-www-form-urlencoded\r\n";
const ATTACK: &str = "q=1%27%20UNION%20SELECT%20password%20FROM%20users--";

async fn edge(origin: &Origin, objects: &str, rest: &str) -> Gateway {
    let config = format!(
        "[listener.http]\naddress = \"127.0.0.1:0\"\n{objects}\n[upstream.app]\nendpoints = [\"{}\"]\n[route.app]\nupstream = \"app\"\n{rest}\n",
        origin.addr
    );
    Gateway::start(&config).await
}

/// An origin that answers every request, and the octets that came to it.
async fn listening() -> (Origin, Arc<Mutex<Vec<u8>>>) {
    let arrived = Arc::new(Mutex::new(Vec::new()));
    let kept = arrived.clone();
    let origin = Origin::raw(move |mut stream| {
        let kept = kept.clone();
        async move {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                kept.lock().unwrap().extend_from_slice(&buffer[..count]);
                let whole = |kept: &[u8]| kept.ends_with(b"q=hello") || kept.ends_with(b"0\r\n\r\n");
                if whole(&kept.lock().unwrap()) {
                    let _ = stream.write_all(&ok("")).await;
                }
            }
        }
    })
    .await;
    (origin, arrived)
}

fn sized(body: &str) -> String {
    format!("{HEAD}Content-Length: {}\r\n\r\n{body}", body.len())
}

fn chunked(body: &str) -> String {
    format!("{HEAD}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len())
}

#[tokio::test]
async fn of_a_request_that_is_refused_for_its_body_the_upstream_sees_nothing() {
    let (origin, arrived) = listening().await;
    let gateway = edge(&origin, "", "waf.mode = \"block\"").await;
    for request in [sized(ATTACK), chunked(ATTACK)] {
        let mut client = Client::connect(gateway.addr("http")).await;
        client.send(&request).await;
        assert_eq!(client.response().await.status, 403, "{request}");
    }
    // Over a connection that was used before, in pieces, with time between them.
    let mut client = Client::connect(gateway.addr("http")).await;
    client.send(sized("q=hello")).await;
    assert_eq!(client.response().await.status, 200);
    let seen = arrived.lock().unwrap().len();
    let request = sized(ATTACK);
    let (start, end) = request.split_at(HEAD.len() + 30);
    client.send(start).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    client.send(end).await;
    assert_eq!(client.response().await.status, 403);
    let text = String::from_utf8_lossy(&arrived.lock().unwrap()).into_owned();
    assert_eq!(text.len(), seen, "{text}");
    assert_eq!(text.matches("POST ").count(), 1, "{text}");
}

/// Nothing is passed on that was not looked at.
#[tokio::test]
async fn trailers_of_a_request_do_not_reach_the_upstream() {
    let (origin, arrived) = listening().await;
    let gateway = edge(&origin, "", "waf.mode = \"block\"").await;
    let mut client = Client::connect(gateway.addr("http")).await;
    let trailer = "X-Late: <script>alert(document.cookie)</script>";
    client.send(format!("{HEAD}Transfer-Encoding: chunked\r\n\r\n7\r\nq=hello\r\n0\r\n{trailer}\r\n\r\n")).await;
    assert_eq!(client.response().await.status, 200);
    let text = String::from_utf8_lossy(&arrived.lock().unwrap()).into_owned();
    assert!(text.contains("q=hello") && !text.to_lowercase().contains("x-late"), "{text}");
}

#[tokio::test]
async fn what_the_privacy_rules_refuse_is_not_sent_either() {
    let (origin, arrived) = listening().await;
    let gateway =
        edge(&origin, "[privacy.cards]\ndetect = [\"card\"]\naction = \"block\"\n", "privacy = \"cards\"").await;
    let mut client = Client::connect(gateway.addr("http")).await;
    client.send(sized("card=4111+1111+1111+1111")).await;
    assert_eq!(client.response().await.status, 403);
    assert_eq!(String::from_utf8_lossy(&arrived.lock().unwrap()), "");
}

/// A body is a body, whatever else its request asks for.
#[tokio::test]
async fn a_wish_for_another_protocol_hides_no_body() {
    let (origin, arrived) = listening().await;
    let profile = "[privacy.cards]\ndetect = [\"card\"]\naction = \"block\"\n";
    let gateway = edge(&origin, profile, "waf.mode = \"block\"\nprivacy = \"cards\"").await;
    let named = |protocol: &str| format!("Connection: Upgrade\r\nUpgrade: {protocol}\r\n");
    for wish in ["Upgrade: foo\r\n", &named("foo"), &named("h2c"), &named("websocket")] {
        for body in [ATTACK, "card=4111+1111+1111+1111"] {
            let mut client = Client::connect(gateway.addr("http")).await;
            client.send(format!("{HEAD}{wish}Content-Length: {}\r\n\r\n{body}", body.len())).await;
            assert_eq!(client.response().await.status, 403, "{wish}{body}");
        }
    }
    assert_eq!(String::from_utf8_lossy(&arrived.lock().unwrap()), "");
}

#[tokio::test]
async fn a_client_that_waits_to_be_told_to_send_its_body_is_told() {
    let origin = Origin::start(|seen: &Seen| ok(seen.header("expect").unwrap_or("nothing"))).await;
    let gateway = edge(&origin, "", "waf.mode = \"block\"").await;
    for (body, status) in [("q=hello", 200), (ATTACK, 403)] {
        let mut client = Client::connect(gateway.addr("http")).await;
        client.send(format!("{HEAD}Expect: 100-continue\r\nContent-Length: {}\r\n\r\n", body.len())).await;
        let mut told = [0; 25];
        client.stream.read_exact(&mut told).await.unwrap();
        assert_eq!(&told, b"HTTP/1.1 100 Continue\r\n\r\n");
        client.send(body).await;
        let response = client.response().await;
        assert_eq!(response.status, status, "{body}");
        if status == 200 {
            assert_eq!(response.text(), "nothing", "the upstream is not asked a second time");
        }
    }
    assert_eq!(origin.requests().len(), 1);
}

/// A body that comes slowly outlives the pooled connection it was to go over: nothing was sent, so another one will do.
#[tokio::test]
async fn a_pooled_connection_that_ends_while_a_body_is_held_costs_nothing() {
    let served = Arc::new(Mutex::new(0));
    let count = served.clone();
    let origin = Origin::raw(move |mut stream| {
        let count = count.clone();
        async move {
            let mut request = Vec::new();
            let mut buffer = [0; 4096];
            while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                request.extend_from_slice(&buffer[..read]);
                if request.ends_with(b"q=hello") {
                    *count.lock().unwrap() += 1;
                    let _ = stream.write_all(&ok("served")).await;
                    // A while later it has had enough of the connection.
                    tokio::time::sleep(Duration::from_millis(300)).await;
                    return;
                }
            }
        }
    })
    .await;
    let gateway = edge(&origin, "", "waf.mode = \"block\"").await;
    let mut client = Client::connect(gateway.addr("http")).await;
    client.send(sized("q=hello")).await;
    assert_eq!(client.response().await.status, 200);
    let request = sized("q=hello");
    let (start, end) = request.split_at(request.len() - 3);
    client.send(start).await;
    eventually("the head to be in", async || (*served.lock().unwrap() == 1).then_some(())).await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    client.send(end).await;
    let response = client.response().await;
    assert_eq!((response.status, response.text().as_str()), (200, "served"));
    assert_eq!(*served.lock().unwrap(), 2);
}

/// Heads of a shared connection cannot wait, so the body is judged before its head is sent.
#[tokio::test]
async fn an_upstream_of_http_2_sees_nothing_either() {
    let origin = H2Origin::start(|_, _| H2Answer::Plain("served")).await;
    let config = format!(
        "[listener.http]\naddress = \"127.0.0.1:0\"\n[privacy.cards]\ndetect = [\"card\"]\nrequest = \"mask\"\n\
         [upstream.app]\nendpoints = [\"{}\"]\nprotocol = \"h2c\"\n[route.app]\nupstream = \"app\"\nwaf.mode = \"block\"\nprivacy = \"cards\"\n",
        origin.addr
    );
    let gateway = Gateway::start(&config).await;
    let mut client = Client::connect(gateway.addr("http")).await;
    client.send(sized("q=hello")).await;
    assert_eq!(client.response().await.status, 200);
    // In pieces, with time between them in which a head could go out; and for one that waits to be told.
    let request = sized(ATTACK);
    let (start, end) = request.split_at(HEAD.len() + 30);
    let mut client = Client::connect(gateway.addr("http")).await;
    client.send(start).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    client.send(end).await;
    assert_eq!(client.response().await.status, 403);
    let mut client = Client::connect(gateway.addr("http")).await;
    client.send(format!("{HEAD}Expect: 100-continue\r\nContent-Length: 7\r\n\r\n")).await;
    let mut told = [0; 25];
    client.stream.read_exact(&mut told).await.unwrap();
    client.send("q=hello").await;
    assert_eq!(client.response().await.status, 200);
    // Over HTTP/2 a body need not say its length.
    let stream = tokio::net::TcpStream::connect(gateway.addr("http")).await.unwrap();
    let mut sender = h2(stream).await.ready().await.unwrap();
    for (body, status) in [("q=hello", 200), (ATTACK, 403), ("card=4111111111111111", 200)] {
        let request = http::Request::post("http://shop.test/form").header("user-agent", "Mozilla/5.0");
        let request = request.header("accept", "*/*").header("content-type", "application/x-www-form-urlencoded");
        let (response, mut stream) = sender.send_request(request.body(()).unwrap(), false).unwrap();
        let (start, end) = body.split_at(body.len() / 2);
        stream.send_data(start.into(), false).unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        stream.send_data(end.into(), true).unwrap();
        assert_eq!(response.await.unwrap().status(), status, "{body}");
        sender = sender.ready().await.unwrap();
    }
    let seen: Vec<String> =
        origin.seen.lock().unwrap().iter().map(|(_, body)| String::from_utf8_lossy(body).into_owned()).collect();
    assert_eq!(
        seen,
        ["q=hello", "q=hello", "q=hello", "card=************1111"],
        "whole, once, and none that was refused"
    );
}

#[tokio::test]
async fn of_a_body_whose_client_leaves_in_the_middle_the_upstream_sees_nothing() {
    let (origin, arrived) = listening().await;
    let gateway = edge(&origin, "", "waf.mode = \"block\"").await;
    for framing in ["Content-Length: 100\r\n\r\nq=hel", "Transfer-Encoding: chunked\r\n\r\n5\r\nq=hel\r\n"] {
        let mut client = Client::connect(gateway.addr("http")).await;
        client.send(format!("{HEAD}{framing}")).await;
        client.stream.shutdown().await.unwrap();
        drop(client);
    }
    eventually("both are told", async || (gateway.records().len() == 2).then_some(())).await;
    assert!(gateway.records().iter().all(|record| record["ended_by"] == "client"), "{}", gateway.log());
    assert!(arrived.lock().unwrap().is_empty());
    let mut client = Client::connect(gateway.addr("http")).await;
    client.send(sized("q=hello")).await;
    assert_eq!(client.response().await.status, 200, "and the next one is served");
}

/// What the engine does not keep is sent as it comes, its head ahead of it: all of it, and only what was looked at.
#[tokio::test]
async fn large_bodies_reach_an_upstream_of_http_2_whole() {
    let origin = H2Origin::start(|_, _| H2Answer::Plain("served")).await;
    let gateway = Gateway::start(&format!(
        "[listener.http]\naddress = \"127.0.0.1:0\"\n[upstream.app]\nendpoints = [\"{}\"]\nprotocol = \"h2c\"\n[route.app]\nupstream = \"app\"\nwaf.mode = \"block\"\n",
        origin.addr
    ))
    .await;
    for size in [1, 16_384, 65_530, 65_536, 65_537, 90_000, 300_000] {
        let body: String = "word ".chars().cycle().take(size).collect();
        for request in [sized(&body), chunked(&body)] {
            let mut client = Client::connect(gateway.addr("http")).await;
            client.send(request).await;
            assert_eq!(client.response().await.status, 200, "{size}");
            let seen = origin.seen.lock().unwrap().pop().unwrap().1;
            assert!(seen == body.as_bytes(), "{size}: {}", seen.len());
        }
        let stream = tokio::net::TcpStream::connect(gateway.addr("http")).await.unwrap();
        let mut sender = h2(stream).await.ready().await.unwrap();
        let request = http::Request::post("http://shop.test/form").header("user-agent", "Mozilla/5.0");
        let request = request.header("accept", "*/*").header("content-type", "text/plain");
        let (response, mut stream) = sender.send_request(request.body(()).unwrap(), false).unwrap();
        stream.send_data(body.clone().into(), true).unwrap();
        assert_eq!(response.await.unwrap().status(), 200, "{size}");
        let seen = origin.seen.lock().unwrap().pop().unwrap().1;
        assert!(seen == body.as_bytes(), "{size}: {}", seen.len());
    }
}

/// What is found only when the head has long gone ahead.
#[tokio::test]
async fn a_large_body_is_refused_on_its_way_to_an_upstream_of_http_2_too() {
    let origin = H2Origin::start(|_, _| H2Answer::Plain("served")).await;
    let gateway = Gateway::start(&format!(
        "[listener.http]\naddress = \"127.0.0.1:0\"\nlimits = {{ body = \"1MiB\" }}\n[upstream.app]\nendpoints = [\"{}\"]\nprotocol = \"h2c\"\n[route.app]\nupstream = \"app\"\nwaf.mode = \"block\"\n",
        origin.addr
    ))
    .await;
    let attack = format!("word={}&{ATTACK}", "word+".repeat(20_000));
    let large = "word+".repeat(500_000);
    for (body, status) in [(&attack, 403), (&large, 413)] {
        for request in [sized(body), chunked(body)] {
            let mut client = Client::connect(gateway.addr("http")).await;
            let _ = client.try_send(request).await;
            assert_eq!(client.response().await.status, status);
        }
        let stream = tokio::net::TcpStream::connect(gateway.addr("http")).await.unwrap();
        let mut sender = h2(stream).await.ready().await.unwrap();
        let request = http::Request::post("http://shop.test/form").header("user-agent", "Mozilla/5.0");
        let request = request.header("accept", "*/*").header("content-type", "application/x-www-form-urlencoded");
        let (response, mut stream) = sender.send_request(request.body(()).unwrap(), false).unwrap();
        stream.send_data(body.clone().into(), true).unwrap();
        let response = tokio::time::timeout(Duration::from_secs(15), response).await.expect("it is refused at once");
        assert_eq!(response.unwrap().status(), status);
    }
    for (_, body) in origin.seen.lock().unwrap().iter() {
        let text = String::from_utf8_lossy(body);
        assert!(body.len() < large.len() && !text.contains("UNION"), "the upstream was given what was refused");
    }
}
