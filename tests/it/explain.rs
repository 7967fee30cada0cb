//! `portcullis explain` says what the data path does: the same function, held to the wire.

use crate::support::{client::Client, gateway::Gateway, origin::Origin};
use serde_json::json;

const ROUTES: &str = r#"
[route.any]
respond = { status = 200, body = "any" }
[route.wild]
hosts = ["*.example.com"]
respond = { status = 200, body = "wild" }
[route.shop]
hosts = ["shop.example.com", "b.test"]
respond = { status = 200, body = "shop" }
[route.shop.rule.api]
path = "/api"
respond = { status = 200, body = "shop/api" }
[route.shop.rule.v1]
path = { exact = "/api/v1" }
match = { methods = ["GET", "POST"] }
respond = { status = 200, body = "shop/v1" }
[route.shop.rule.item]
path = { regex = "^/item/[0-9]+$" }
respond = { status = 200, body = "shop/item" }
[route.shop.rule.beta]
path = "/api"
match = { headers = { x-beta = "1" } }
respond = { status = 200, body = "shop/beta" }
[route.shop.rule.query]
path = "/api"
match = { query = { v = { regex = "^2" } } }
respond = { status = 200, body = "shop/query" }
"#;

#[tokio::test]
async fn the_explanation_equals_the_wire_for_random_requests() {
    let gateway = Gateway::start(&format!(
        "[telemetry]\naccess_log = {{ to = \"off\" }}\n[listener.http]\naddress = \"127.0.0.1:0\"\n{ROUTES}"
    ))
    .await;
    let mut client = Client::connect(gateway.addr("http")).await;
    let mut random = fastrand::Rng::with_seed(11);
    let hosts = ["shop.example.com", "x.example.com", "b.test", "nobody.test", "example.com"];
    let segments = ["api", "v1", "item", "17", "x", "apix", "..", ".", "%61pi"];
    let methods = ["GET", "POST", "PUT"];
    // Over the admin socket each question is a connection: ten thousand take a while, so the usual run asks fewer.
    let rounds = if std::env::var_os("PORTCULLIS_LONG").is_some() { 10_000 } else { 1_000 };
    for _ in 0..rounds {
        let host = hosts[random.usize(..hosts.len())];
        let path: String =
            (0..random.usize(..4)).map(|_| format!("/{}", segments[random.usize(..segments.len())])).collect();
        let path = if path.is_empty() { "/".to_owned() } else { path };
        let query = ["", "?v=2", "?v=1", "?v=21&w"][random.usize(..4)];
        let method = methods[random.usize(..methods.len())];
        let beta = ["", "X-Beta: 1", "X-Beta: 2"][random.usize(..3)];
        let field = if beta.is_empty() { String::new() } else { format!("{beta}\r\n") };
        client.send(format!("{method} {path}{query} HTTP/1.1\r\nHost: {host}\r\n{field}\r\n")).await;
        let wire = client.response().await.text();
        let headers: Vec<&str> = if beta.is_empty() { vec![] } else { vec![beta] };
        let question = json!({ "method": method, "url": format!("http://{host}{path}{query}"), "headers": headers, "from": "127.0.0.1" });
        let (status, answer) = gateway.admin("POST", "/explain", &question.to_string()).await;
        let rule = answer["explanation"]["rule"].as_str().unwrap_or_default();
        assert_eq!((status, rule), (200, wire.as_str()), "{method} {host}{path}{query} {beta}\n{answer}");
    }
}

#[tokio::test]
async fn losers_are_named_with_reason_and_place() {
    let origin = Origin::fixed("ok").await;
    let gateway = Gateway::start(&format!(
        "[listener.http]\naddress = \"127.0.0.1:0\"\n[upstream.app]\nendpoints = [\"{}\"]\n{ROUTES}",
        origin.addr
    ))
    .await;
    let (code, out) = gateway.command(&["explain", "GET", "http://b.test/api/x?v=1", "--admin", "admin.sock"]).await;
    assert_eq!(code, 0, "{out}");
    for part in [
        "listener  http",
        "host      b.test",
        "rule      shop/api  (edge.toml:",
        "lost    shop/beta: header does not match",
        "lost    shop/query: query does not match",
        "took    shop/api",
    ] {
        assert!(out.contains(part), "{part}\n{out}");
    }
    let (code, offline) =
        gateway.command(&["explain", "GET", "http://b.test/api/x?v=1", "--config", "edge.toml"]).await;
    assert_eq!((code, offline), (0, out));
    let (code, out) = gateway.command(&["diff", "edge.toml", "--admin", "admin.sock"]).await;
    assert!(code == 0 && out.contains("no difference"), "{out}");
    gateway.write(&format!("[listener.http]\naddress = \"127.0.0.1:0\"\n{}", ROUTES.replace("shop/item", "changed")));
    std::fs::rename(gateway.path().join("edge.toml"), gateway.path().join("new.toml")).unwrap();
    let (code, out) = gateway.command(&["diff", "new.toml", "--admin", "admin.sock"]).await;
    assert!(
        code == 0
            && out.contains("- upstream.app")
            && out.contains("rule.item.respond.body: \"shop/item\" -> \"changed\""),
        "{out}"
    );
}
