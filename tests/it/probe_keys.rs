//! Keys of `health_check` and `outlier`, each with the difference that it makes.

use crate::support::{
    authority::Authority,
    client::Client,
    eventually,
    gateway::Gateway,
    h2_origin::{H2Answer, H2Origin},
    origin::{Origin, find, ok, read_request},
    outside::Outside,
};
use std::{net::SocketAddr, path::Path, time::Duration};
use tokio::io::AsyncWriteExt;

/// What a check finds of the only endpoint.
async fn found(folder: tempfile::TempDir, objects: &str, address: SocketAddr, keys: &str) -> String {
    let gateway = Gateway::start_in(
        folder,
        &format!(
            "[listener.http]\naddress = \"127.0.0.1:0\"\n{objects}[upstream.app]\nendpoints = [\"{address}\"]\n{keys}\n[route.app]\nupstream = \"app\"\n"
        ),
    )
    .await;
    eventually("the check has an outcome", async || {
        let (_, status) = gateway.admin("GET", "/upstreams", "").await;
        let health = status["upstreams"][0]["endpoints"][0]["health"].as_str()?.to_owned();
        (health != "unknown").then_some(health)
    })
    .await
}

const QUICK: &str = "interval = \"2s\", healthy = 1, unhealthy = 1";

#[tokio::test]
async fn a_grpc_server_is_asked_for_the_service_that_is_named() {
    // grpc.health.v1: the question's field 1 is the service, the answer's field 1 is 1 for SERVING and 2 for NOT_SERVING.
    let server = H2Origin::start(|parts, body| {
        assert_eq!(parts.uri.path(), "/grpc.health.v1.Health/Check");
        let serving = find(body, b"shop").is_some();
        H2Answer::Grpc(vec![8, if serving { 1 } else { 2 }], 0)
    })
    .await;
    for (service, expected) in [("shop", "up"), ("cart", "down"), ("", "down")] {
        let keys = format!("protocol = \"h2c\"\nhealth_check = {{ grpc = \"{service}\", {QUICK} }}");
        assert_eq!(found(tempfile::tempdir().unwrap(), "", server.addr, &keys).await, expected, "{service}");
    }
}

#[tokio::test]
async fn a_probe_speaks_the_protocol_that_it_is_told() {
    let server = H2Origin::start(|_, _| H2Answer::Plain("ok")).await;
    for (protocol, expected) in [(", protocol = \"h2\"", "up"), (", protocol = \"h1\"", "down"), ("", "down")] {
        let keys = format!("protocol = \"h2c\"\nhealth_check = {{ path = \"/\", {QUICK}{protocol} }}");
        assert_eq!(found(tempfile::tempdir().unwrap(), "", server.addr, &keys).await, expected, "{protocol}");
    }
}

#[tokio::test]
async fn a_probe_waits_for_its_timeout() {
    let slow = Origin::raw(|mut stream| async move {
        let mut buffer = Vec::new();
        while read_request(&mut stream, &mut buffer).await.is_some() {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let _ = stream.write_all(&ok("ok")).await;
        }
    })
    .await;
    for (timeout, expected) in [("100ms", "down"), ("2s", "up")] {
        let keys = format!("health_check = {{ path = \"/\", timeout = \"{timeout}\", {QUICK} }}");
        assert_eq!(found(tempfile::tempdir().unwrap(), "", slow.addr, &keys).await, expected, "{timeout}");
    }
}

#[tokio::test]
async fn so_many_outcomes_in_a_row_and_so_often() {
    let turns = async |check: &str| {
        // Well twice, sick twice, and so on; well to begin with, as the first outcome of all counts alone.
        let asked = std::sync::atomic::AtomicUsize::new(0);
        let moody = Origin::start(move |_| match asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst) / 2 % 2 {
            0 => ok("ok"),
            _ => b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n".to_vec(),
        })
        .await;
        let gateway = Gateway::start(&format!(
            "[listener.http]\naddress = \"127.0.0.1:0\"\n[upstream.app]\nendpoints = [\"{}\"]\nhealth_check = {{ path = \"/\", jitter = \"0%\", {check} }}\n[route.app]\nupstream = \"app\"\n",
            moody.addr
        ))
        .await;
        tokio::time::sleep(Duration::from_secs(4)).await;
        (moody.requests().len(), gateway.log().lines().filter(|line| line.contains("endpoint is down")).count())
    };
    let (often, downs) = turns("interval = \"300ms\", healthy = 1, unhealthy = 2").await;
    assert!(often >= 8 && downs >= 1, "{often} probes, {downs} times down");
    let (often, downs) = turns("interval = \"300ms\", healthy = 1, unhealthy = 3").await;
    assert!(often >= 8 && downs == 0, "{often} probes, {downs} times down");
    let (seldom, _) = turns("interval = \"2500ms\", healthy = 1, unhealthy = 3").await;
    assert!(seldom <= 3, "{seldom} probes");
}

fn trust(folder: &Path, ca: &Authority) -> String {
    std::fs::write(folder.join("ca.pem"), &ca.certificate_pem).unwrap();
    "[trust.ca]\nca = { file = \"ca.pem\" }\n".to_owned()
}

#[tokio::test]
async fn a_probe_over_tls_has_a_name_of_its_own_and_an_eye_on_the_end_of_the_certificate() {
    // Its certificate is good for ninety days.
    let outside = Outside::start(&["app.internal", "probe.internal"]).await;
    for (keys, expected) in [
        ("", "up"),
        (", sni = \"probe.internal\"", "up"),
        (", sni = \"nobody.internal\"", "down"),
        (", tls_expiry = { within = \"100d\", action = \"down\" }", "down"),
        (", tls_expiry = { within = \"100d\", action = \"warn\" }", "up"),
        (", tls_expiry = \"100d\"", "up"),
        (", tls_expiry = { within = \"80d\", action = \"down\" }", "up"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let objects = trust(folder.path(), &outside.ca);
        let keys = format!(
            "tls = {{ sni = \"app.internal\", trust = \"ca\" }}\nhealth_check = {{ path = \"/\", {QUICK}{keys} }}"
        );
        assert_eq!(found(folder, &objects, outside.tls, &keys).await, expected, "{keys}");
    }
}

async fn served(upstream: &str, count: usize) -> Gateway {
    let gateway = Gateway::start(&format!(
        "[listener.http]\naddress = \"127.0.0.1:0\"\n[upstream.app]\n{upstream}\n[route.app]\nupstream = \"app\"\n"
    ))
    .await;
    let mut client = Client::connect(gateway.addr("http")).await;
    for _ in 0..count {
        if client.get("a", "/").await.header("connection") == Some("close") {
            client = Client::connect(gateway.addr("http")).await;
        }
    }
    gateway
}

#[tokio::test]
async fn each_rule_of_outlier_detection_has_its_number() {
    let well = Origin::fixed("ok").await;
    let resets = Origin::raw(|stream| async move {
        let _ = stream.readable().await;
        drop(stream);
    })
    .await;
    for (rule, ejected) in [
        ("consecutive_gateway = 2, consecutive_5xx = 1000", "consecutive_gateway"),
        ("consecutive_gateway = 1000, consecutive_5xx = 2", "consecutive_5xx"),
        ("consecutive_gateway = 1000, consecutive_5xx = 1000", ""),
        ("consecutive_gateway = 2, max_ejected = \"0%\"", ""),
    ] {
        let upstream = format!(
            "endpoints = [\"{}\", \"{}\"]\nbalance.policy = \"round_robin\"\noutlier = {{ {rule}, eject = \"1h\" }}",
            well.addr, resets.addr
        );
        let gateway = served(&upstream, 30).await;
        let told = gateway.metric("portcullis_endpoint_ejections_total", &[&format!("reason=\"{ejected}\"")]).await;
        let all = gateway.metric("portcullis_endpoint_ejections_total", &[]).await;
        assert_eq!((told, all), if ejected.is_empty() { (0.0, 0.0) } else { (1.0, 1.0) }, "{rule}");
    }
}

#[tokio::test]
async fn an_interval_judges_those_that_answered_often_enough() {
    let well = Origin::fixed("ok").await;
    let half = std::sync::atomic::AtomicUsize::new(0);
    let shaky = Origin::start(move |_| match half.fetch_add(1, std::sync::atomic::Ordering::SeqCst) % 2 {
        0 => ok("ok"),
        _ => b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n".to_vec(),
    })
    .await;
    for (keys, expected) in
        [("min_requests = 10", 1.0), ("min_requests = 10000", 0.0), ("min_requests = 10, interval = \"1h\"", 0.0)]
    {
        let interval = if keys.contains("interval") { "" } else { ", interval = \"1s\"" };
        let upstream = format!(
            "endpoints = [\"{}\", \"{}\"]\nbalance.policy = \"round_robin\"\noutlier = {{ success_rate = \"90%\", eject = \"1h\", {keys}{interval} }}",
            well.addr, shaky.addr
        );
        let gateway = served(&upstream, 60).await;
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let ejected = gateway.metric("portcullis_endpoint_ejections_total", &["reason=\"success_rate\""]).await;
        assert_eq!(ejected, expected, "{keys}");
    }
}
