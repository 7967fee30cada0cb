//! Traffic policy towards external services: the same balancing, breakers, ejections and retries that upstreams have, over the
//! addresses that a name leads to.

use crate::support::{
    client::{Client, Response},
    eventually,
    gateway::{Gateway, run_in},
    origin::{Origin, Seen, ok},
    outside::Outside,
};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
};
use tokio::net::TcpListener;

/// A gateway with one http destination on a port, and `more` keys of it.
async fn start(outside: &Outside, port: u16, protocol: &str, more: &str) -> Gateway {
    let folder = tempfile::tempdir().unwrap();
    let config = config(outside, folder.path(), port, protocol, more);
    Gateway::start_in(folder, &config).await
}

fn config(outside: &Outside, folder: &std::path::Path, port: u16, protocol: &str, more: &str) -> String {
    format!(
        "{}[listener.out]\naddress = \"127.0.0.1:0\"\nprotocol = \"proxy\"\n\
         [access.all]\nfrom = [\"*\"]\nto = [\"destination:far\"]\naction = \"allow\"\n\
         [destination.far]\nhosts = [\"far.test\", \"also.test\"]\nports = [{port}]\nprotocol = \"{protocol}\"\n\
         private_addresses = [\"127.0.0.0/8\"]\n{more}\n",
        outside.config(folder)
    )
}

async fn ask(gateway: &Gateway, method: &str, port: u16) -> Response {
    let mut client = Client::connect(gateway.addr("out")).await;
    let end = if method == "POST" { "Content-Length: 2\r\n\r\nhi" } else { "\r\n" };
    client.send(format!("{method} http://far.test:{port}/ HTTP/1.1\r\nHost: far.test:{port}\r\n{end}")).await;
    client.response().await
}

async fn tunnel(gateway: &Gateway, host: &str, port: u16) -> (Response, Client) {
    let mut client = Client::connect(gateway.addr("out")).await;
    client.send(format!("CONNECT {host}:{port} HTTP/1.1\r\n\r\n")).await;
    let answer = client.try_response(true).await.unwrap();
    (answer, client)
}

/// 127.0.0.1 and 127.0.0.2 with one port.
async fn twins() -> (TcpListener, TcpListener) {
    loop {
        let first = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = first.local_addr().unwrap().port();
        if let Ok(second) = TcpListener::bind(("127.0.0.2", port)).await {
            return (first, second);
        }
    }
}

#[tokio::test]
async fn an_address_that_takes_no_connection_is_passed_over_and_left_alone() {
    let outside = Outside::start(&["far.test"]).await;
    let origin = Origin::fixed("here").await;
    let port = origin.addr.port();
    outside.point("far.test", &["127.0.0.9", "127.0.0.1"]);
    for protocol in ["opaque", "http"] {
        let gateway = start(&outside, port, protocol, "outlier = { consecutive_connect = 1, eject = \"1h\" }").await;
        for _ in 0..20 {
            match protocol {
                "opaque" => assert_eq!(tunnel(&gateway, "far.test", port).await.0.status, 200),
                _ => assert_eq!(ask(&gateway, "POST", port).await.text(), "here"),
            }
        }
        let told = gateway.log().matches("address ejected").count();
        assert_eq!(told, 1, "{protocol}: asked once, and then left alone: {}", gateway.log());
        gateway.counts("portcullis_egress_addresses_ejected", &["destination=\"far\""], 1.0).await;
        let records = eventually("all records", async || Some(gateway.records()).filter(|all| all.len() >= 20)).await;
        for record in records.iter().filter(|record| record["destination"] == "far") {
            assert_eq!(record["endpoint"], format!("127.0.0.1:{port}"), "{record}");
        }
    }
}

#[tokio::test]
async fn an_address_that_is_connected_to_and_never_speaks_is_left_alone_too() {
    let outside = Outside::start(&["far.test"]).await;
    let (mute, two) = twins().await;
    let port = mute.local_addr().unwrap().port();
    let _two = Origin::on(two, |_: &Seen| ok("two"));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = mute.accept().await {
            let _ = tokio::io::AsyncReadExt::read_u8(&mut stream).await;
        }
    });
    outside.point("far.test", &["127.0.0.1", "127.0.0.2"]);
    let gateway = start(
        &outside,
        port,
        "opaque",
        "outlier = { consecutive_gateway = 2, eject = \"1h\" }\nbalance = { policy = \"round_robin\" }",
    )
    .await;
    let ask = async || {
        let (answer, mut client) = tunnel(&gateway, "far.test", port).await;
        assert_eq!(answer.status, 200);
        client.send("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
        client.try_response(false).await.map(|answer| answer.text())
    };
    eventually("it is ejected", async || {
        ask().await;
        gateway.log().contains("address ejected").then_some(())
    })
    .await;
    for _ in 0..6 {
        assert_eq!(ask().await.as_deref(), Some("two"));
    }
}

#[tokio::test]
async fn requests_and_tunnels_are_spread_as_the_destination_says() {
    let outside = Outside::start(&["far.test"]).await;
    let (one, two) = twins().await;
    let port = one.local_addr().unwrap().port();
    let _origins = (Origin::on(one, |_: &Seen| ok("one")), Origin::on(two, |_: &Seen| ok("two")));
    outside.point("far.test", &["127.0.0.1", "127.0.0.2"]);
    for (policy, kinds) in [("round_robin", 2), ("consistent_hash", 1)] {
        let gateway = start(&outside, port, "http", &format!("balance = {{ policy = \"{policy}\" }}")).await;
        let mut found: BTreeMap<String, u32> = BTreeMap::new();
        for _ in 0..12 {
            *found.entry(ask(&gateway, "GET", port).await.text()).or_default() += 1;
        }
        assert_eq!(found.len(), kinds, "{policy}: {found:?}");
        assert!(kinds == 1 || found.values().all(|count| *count == 6), "{found:?}");
        let gateway = start(&outside, port, "opaque", &format!("balance = {{ policy = \"{policy}\" }}")).await;
        let mut found: BTreeMap<String, u32> = BTreeMap::new();
        for _ in 0..12 {
            let (_, mut client) = tunnel(&gateway, "far.test", port).await;
            *found.entry(client.get("x", "/").await.text()).or_default() += 1;
        }
        assert_eq!(found.len(), kinds, "{policy}: {found:?}");
    }
}

#[tokio::test]
async fn a_breaker_is_for_the_whole_destination() {
    let outside = Outside::start(&["far.test"]).await;
    let origin = Origin::fixed("here").await;
    let port = origin.addr.port();
    outside.point("far.test", &["127.0.0.1"]);
    outside.point("also.test", &["127.0.0.1"]);
    for breaker in ["{ connections = 1 }", "{ requests = 1 }"] {
        let gateway = start(&outside, port, "opaque", &format!("circuit_breaker = {breaker}")).await;
        let (answer, held) = tunnel(&gateway, "far.test", port).await;
        assert_eq!(answer.status, 200);
        let mut client = Client::connect(gateway.addr("out")).await;
        client.send(format!("CONNECT also.test:{port} HTTP/1.1\r\n\r\n")).await;
        let refused = client.response().await;
        assert_eq!(refused.status, 503, "{breaker}");
        assert!(refused.text().contains("\"reason\":\"circuit_open\""), "{}", refused.text());
        drop(held);
        eventually("the place is free again", async || {
            (tunnel(&gateway, "also.test", port).await.0.status == 200).then_some(())
        })
        .await;
    }
    let slow = Origin::raw(|stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let port = slow.addr.port();
    let gateway = start(&outside, port, "http", "circuit_breaker = { requests = 1 }\ntimeout = \"30s\"").await;
    let mut first = Client::connect(gateway.addr("out")).await;
    first.send(format!("GET http://far.test:{port}/ HTTP/1.1\r\nHost: far.test:{port}\r\n\r\n")).await;
    eventually("the first is under way", async || (slow.connections.load(SeqCst) == 1).then_some(())).await;
    let refused = ask(&gateway, "GET", port).await;
    assert_eq!(refused.status, 503);
    assert!(refused.text().contains("\"reason\":\"circuit_open\""), "{}", refused.text());
}

/// Answers 503 to every first of two requests.
async fn moody() -> (Origin, Arc<AtomicU32>) {
    let asked = Arc::new(AtomicU32::new(0));
    let count = asked.clone();
    let origin = Origin::start(move |_: &Seen| {
        if count.fetch_add(1, SeqCst).is_multiple_of(2) {
            b"HTTP/1.1 503 busy\r\nContent-Length: 0\r\n\r\n".to_vec()
        } else {
            ok("well")
        }
    })
    .await;
    (origin, asked)
}

#[tokio::test]
async fn a_request_that_failed_is_tried_again_where_that_is_safe_and_within_the_budget() {
    let outside = Outside::start(&["far.test"]).await;
    outside.point("far.test", &["127.0.0.1"]);
    for (keys, method, status, tries) in [
        ("", "GET", 200, 2),
        ("", "POST", 503, 1),
        ("retry = { methods = \"all\" }", "POST", 200, 2),
        ("retry = { attempts = 0 }", "GET", 503, 1),
        ("retry = { on = [\"reset\"] }", "GET", 503, 1),
        ("retry_budget = { percent = \"1%\", min_per_second = 0 }", "GET", 503, 1),
        ("circuit_breaker = { retries = 1 }", "GET", 200, 2),
    ] {
        let (origin, asked) = moody().await;
        let port = origin.addr.port();
        let gateway = start(&outside, port, "http", keys).await;
        assert_eq!(ask(&gateway, method, port).await.status, status, "{keys} {method}");
        assert_eq!(asked.load(SeqCst), tries, "{keys} {method}");
    }
    // One try has its own time.
    let asked = Arc::new(AtomicU32::new(0));
    let count = asked.clone();
    let origin = Origin::raw(move |mut stream| {
        let first = count.fetch_add(1, SeqCst) == 0;
        async move {
            if first {
                return std::future::pending().await;
            }
            let _ = crate::support::origin::read_request(&mut stream, &mut Vec::new()).await;
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, &ok("second")).await;
        }
    })
    .await;
    let port = origin.addr.port();
    let gateway = start(&outside, port, "http", "retry = { on = [\"timeout\"], per_try_timeout = \"300ms\" }").await;
    assert_eq!(ask(&gateway, "GET", port).await.text(), "second");
}

#[tokio::test]
async fn what_is_known_of_an_address_outlives_a_reload() {
    let outside = Outside::start(&["far.test"]).await;
    let origin = Origin::fixed("here").await;
    let port = origin.addr.port();
    outside.point("far.test", &["127.0.0.9", "127.0.0.1"]);
    let keys = "outlier = { consecutive_connect = 1, eject = \"1h\" }";
    let mut gateway = start(&outside, port, "http", keys).await;
    eventually("it is ejected", async || {
        ask(&gateway, "GET", port).await;
        gateway.log().contains("address ejected").then_some(())
    })
    .await;
    let next = config(&outside, gateway.path(), port, "http", &format!("{keys}\ntimeout = \"5s\""));
    assert_eq!(gateway.reload(&next).await.0, 200);
    for _ in 0..10 {
        assert_eq!(ask(&gateway, "GET", port).await.status, 200);
    }
    assert_eq!(gateway.log().matches("address ejected").count(), 1);
}

#[tokio::test]
async fn addresses_are_compared_at_the_end_of_each_interval() {
    let outside = Outside::start(&["far.test"]).await;
    let (one, bad) = twins().await;
    let port = one.local_addr().unwrap().port();
    let _one = Origin::on(one, |_: &Seen| ok("one"));
    let _bad = Origin::on(bad, |_: &Seen| b"HTTP/1.1 500 no\r\nContent-Length: 0\r\n\r\n".to_vec());
    outside.point("far.test", &["127.0.0.1", "127.0.0.2"]);
    let keys = "outlier = { consecutive_5xx = 1000, consecutive_gateway = 1000, success_rate = \"90%\", min_requests = 3, \
                interval = \"200ms\", eject = \"1h\" }\nbalance = { policy = \"round_robin\" }";
    let gateway = start(&outside, port, "http", keys).await;
    eventually("it is ejected", async || {
        for _ in 0..8 {
            ask(&gateway, "GET", port).await;
        }
        gateway.log().contains("address ejected").then_some(())
    })
    .await;
    for _ in 0..6 {
        assert_eq!(ask(&gateway, "GET", port).await.text(), "one");
    }
}

#[tokio::test]
async fn fields_are_edited_on_the_way_out_and_back() {
    let outside = Outside::start(&["far.test"]).await;
    let origin = Origin::echo().await;
    let port = origin.addr.port();
    outside.point("far.test", &["127.0.0.1"]);
    let keys = "request_headers = { set = { x-from = \"gateway\" }, remove = [\"user-agent\"] }\n\
                response_headers = { set = { x-seen = \"yes\" }, remove = [\"content-type\"] }";
    let gateway = start(&outside, port, "http", keys).await;
    let mut client = Client::connect(gateway.addr("out")).await;
    client
        .send(format!("GET http://far.test:{port}/ HTTP/1.1\r\nHost: far.test:{port}\r\nUser-Agent: me\r\n\r\n"))
        .await;
    let answer = client.response().await;
    assert_eq!((answer.header("x-seen"), answer.header("content-type")), (Some("yes"), None));
    let seen = origin.last();
    assert_eq!((seen.header("x-from"), seen.header("user-agent")), (Some("gateway"), None));
}

#[tokio::test]
async fn what_needs_requests_is_refused_where_none_are_seen() {
    let folder = tempfile::tempdir().unwrap();
    for (keys, message) in [
        ("retry = { attempts = 1 }", "`retry` is about requests"),
        ("request_headers = { remove = [\"x\"] }", "`request_headers` is about requests"),
        ("response_headers = { remove = [\"x\"] }", "`response_headers` is about requests"),
        ("waf = { mode = \"block\" }", "`waf` is about requests"),
        ("privacy = \"p\"", "`privacy` is about requests"),
        ("api = \"a\"", "`api` is about requests"),
        ("balance = { policy = \"consistent_hash\", key = \"header:x\" }", "a tunnel has nothing"),
        ("balance = { policy = \"random\", load_factor = 2.0 }", "only with policy \"consistent_hash\""),
        ("outlier = { eject = \"0s\" }", "an ejection lasts some time"),
        ("via = \"nobody\"", "parent \"nobody\" is not defined"),
    ] {
        let config = format!(
            "schema = \"1\"\n[listener.out]\naddress = \"127.0.0.1:0\"\nprotocol = \"proxy\"\n\
             [destination.far]\nhosts = [\"far.test\"]\n{keys}\n"
        );
        std::fs::write(folder.path().join("a.toml"), config).unwrap();
        let (code, out) = run_in(folder.path(), &["check", "a.toml"]).await;
        assert!(code == 1 && out.contains(message), "{keys}: {out}");
    }
}
