//! What an operator sees: logs, metrics, status.

use crate::support::{client::Client, eventually, gateway::Gateway, origin::Origin};

async fn edge(origin: &Origin, telemetry: &str) -> Gateway {
    Gateway::start(&format!(
        "{telemetry}\n[listener.http]\naddress = \"127.0.0.1:0\"\n[upstream.app]\nendpoints = [\"{}\"]\n[route.shop]\nupstream = \"app\"\nhosts = [\"shop.test\"]\n",
        origin.addr
    ))
    .await
}

#[tokio::test]
async fn the_access_log_has_one_line_a_request_with_a_reason_for_every_failure() {
    let origin = Origin::fixed("ok").await;
    let gateway = edge(&origin, "").await;
    let mut client = Client::connect(gateway.addr("http")).await;
    client.send("GET /a?token=secret&x=1 HTTP/1.1\r\nHost: shop.test\r\nUser-Agent: evil\"\\\tagent\r\nAuthorization: Bearer hunter2\r\nCookie: s=hunter2\r\n\r\n").await;
    client.response().await;
    client.get("other.test", "/").await;
    // Each core writes its own lines: only those of one connection have an order.
    eventually("two lines", async || (gateway.records().len() == 2).then_some(())).await;
    Client::connect(gateway.addr("http")).await.send("GET / HTTP/1.1\nHost: a\n\n").await;
    let records =
        eventually("three lines", async || Some(gateway.records()).filter(|records| records.len() == 3)).await;
    let first = &records[0];
    assert_eq!(
        (first["status"].as_u64(), first["route"].as_str(), first["upstream"].as_str()),
        (Some(200), Some("shop"), Some("app"))
    );
    assert_eq!(
        (first["query"].as_str(), first["user_agent"].as_str()),
        (Some("token=***&x=1"), Some("evil\"\\\tagent"))
    );
    assert!(first["reason"].is_null() && first["duration_ms"].as_f64().unwrap() > 0.0);
    assert_eq!(
        (
            records[1]["status"].as_u64(),
            records[1]["reason"].as_str(),
            records[1]["ended_by"].as_str(),
            records[1]["stage"].as_str()
        ),
        (Some(404), Some("unknown_host"), Some("client"), Some("route"))
    );
    assert_eq!(
        (records[2]["status"].as_u64(), records[2]["reason"].as_str(), records[2]["stage"].as_str()),
        (Some(400), Some("bare_lf"), Some("admit"))
    );
    assert!(!gateway.log().contains("hunter2") && !gateway.log().contains("token=secret"));
}

#[tokio::test]
async fn log_target_format_fields_and_sample_are_obeyed_and_change_live() {
    let origin = Origin::fixed("ok").await;
    let telemetry = |extra: &str| format!("[telemetry]\naccess_log = {{ to = {{ file = \"access.log\" }}, {extra} }}");
    let mut gateway = edge(&origin, &telemetry("format = \"text\", fields = [\"method\", \"status\"]")).await;
    let mut client = Client::connect(gateway.addr("http")).await;
    client.get("shop.test", "/").await;
    let file = gateway.path().join("access.log");
    let read = || std::fs::read_to_string(&file).unwrap_or_default();
    eventually("the line is there", async || (read() == "method=\"GET\" status=200\n").then_some(())).await;
    let config = format!(
        "{}\n[listener.http]\naddress = \"127.0.0.1:0\"\n[upstream.app]\nendpoints = [\"{}\"]\n[route.shop]\nupstream = \"app\"\nhosts = [\"shop.test\"]\n",
        telemetry("sample = \"0%\""),
        origin.addr
    );
    assert_eq!(gateway.reload(&config).await.0, 200);
    client.get("shop.test", "/").await;
    client.get("nobody.test", "/").await;
    eventually("failures are written whatever the sample", async || read().contains("unknown_host").then_some(()))
        .await;
    assert_eq!(read().lines().count(), 2);
}

#[tokio::test]
async fn a_full_disk_costs_lines_of_the_log_and_no_request() {
    let origin = Origin::fixed("ok").await;
    let gateway = edge(&origin, "[telemetry]\naccess_log = { to = { file = \"/dev/full\" } }").await;
    let mut client = Client::connect(gateway.addr("http")).await;
    for _ in 0..50 {
        assert_eq!(client.get("shop.test", "/").await.status, 200);
    }
    gateway.counts("portcullis_access_log_dropped_total", &[], 50.0).await;
    let told = gateway.log().lines().filter(|line| line.contains("access log cannot be written")).count();
    assert_eq!(told, 1, "it is told once:\n{}", gateway.log());
}

#[tokio::test]
async fn metrics_count_requests_connections_and_refusals_by_closed_labels() {
    let origin = Origin::fixed("ok").await;
    let gateway = edge(&origin, "").await;
    let mut client = Client::connect(gateway.addr("http")).await;
    for n in 0..5 {
        client.get("shop.test", &format!("/{n}")).await;
    }
    for n in 0..3 {
        client.get(&format!("h{n}.test"), "/").await;
    }
    for (name, parts, value) in [
        ("portcullis_requests_total", &["route=\"shop\"", "class=\"2xx\""][..], 5.0),
        ("portcullis_refusals_total", &["reason=\"unknown_host\""], 3.0),
        ("portcullis_connections_total", &["listener=\"http\""], 1.0),
        ("portcullis_connections_active", &["listener=\"http\""], 1.0),
        ("portcullis_requests_active", &["route=\"shop\""], 0.0),
        ("portcullis_request_duration_seconds_count", &["route=\"shop\""], 5.0),
        ("portcullis_upstream_attempts_total", &["upstream=\"app\""], 5.0),
        ("portcullis_upstream_duration_seconds_count", &["upstream=\"app\""], 5.0),
        ("portcullis_endpoint_requests_total", &["upstream=\"app\"", "endpoint=\"127.0.0.1:"], 5.0),
        ("portcullis_endpoint_requests_active", &["upstream=\"app\""], 0.0),
        ("portcullis_config_generation", &[], 1.0),
    ] {
        eventually(name, async || (gateway.metric(name, parts).await == value).then_some(())).await;
    }
    assert!(!gateway.metrics().await.contains("h0.test"), "a client's text is never a label");
}

#[tokio::test]
async fn metrics_are_served_on_an_address_of_their_own_when_asked() {
    let origin = Origin::fixed("ok").await;
    let port = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let gateway = edge(&origin, &format!("[telemetry]\nmetrics = {{ address = \"{port}\" }}")).await;
    let mut client = Client::connect(port).await;
    assert!(client.get("localhost", "/metrics").await.text().contains("portcullis_config_generation 1"));
    assert_eq!(client.get("localhost", "/status").await.status, 404);
    drop(gateway);
}
