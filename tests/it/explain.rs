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
    for _ in 0..10_000 {
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

/// Everything that can stand before a route, with answers of our own behind it so that the wire says who took the request.
const GUARDED: &str = r#"
[consumer.acme]
keys = [{ sha256 = { file = "acme.sha256" } }]
groups = ["gold"]
[defaults]
ip.deny = ["192.0.2.0/24"]
rate_limit = { rate = "1000000/s" }
may_relax = ["ip", "auth"]
[route.shop]
auth.api_key.header = "x-api-key"
cors = { origins = ["https://www.a.test"] }
security_headers = "basic"
compress = ["gzip"]
concurrency = 100
respond = { status = 200, body = "shop" }
[route.shop.rule.gold]
path = "/gold"
auth = { api_key.header = "x-api-key", groups = ["gold"] }
respond = { status = 202, body = "gold" }
[route.shop.rule.inside]
path = "/inside"
ip.allow = ["10.0.0.0/8"]
respond = { status = 203, body = "inside" }
[route.shop.rule.open]
path = "/open"
relax = ["auth", "ip"]
respond = { status = 200, body = "open" }
[route.shop.rule.away]
path = "/away"
redirect = { host = "b.test" }
"#;

#[tokio::test]
async fn the_explanation_equals_the_wire_with_all_guards_up() {
    let folder = tempfile::tempdir().unwrap();
    // Of "key-0123456789abcdef-0123456789".
    let sum = "7df4af179f4f71466168479a7e12256cf3155b775d9b94fc2a524abd53a44a0c";
    std::fs::write(folder.path().join("acme.sha256"), sum).unwrap();
    let trust = "client_ip = { trust = [\"127.0.0.0/8\"], header = \"x-forwarded-for\" }";
    let gateway = Gateway::start_in(
        folder,
        &format!(
            "[telemetry]\naccess_log = {{ to = \"off\" }}\n[listener.http]\naddress = \"127.0.0.1:0\"\n{trust}\n{GUARDED}"
        ),
    )
    .await;
    let mut random = fastrand::Rng::with_seed(12);
    let mut answered = std::collections::BTreeMap::<u16, u32>::new();
    for _ in 0..600 {
        let method = ["GET", "OPTIONS"][random.usize(..2)];
        let path = ["/", "/gold", "/inside", "/open", "/away"][random.usize(..5)];
        let from = ["10.1.2.3", "192.0.2.1", "198.51.100.1"][random.usize(..3)];
        let key = ["", "X-Api-Key: key-0123456789abcdef-0123456789", "X-Api-Key: wrong-key-0123456789abcdef"]
            [random.usize(..3)];
        let origin = ["", "Origin: https://www.a.test", "Origin: https://evil.test"][random.usize(..3)];
        let asks = ["", "Access-Control-Request-Method: GET"][random.usize(..2)];
        let headers: Vec<&str> = [key, origin, asks].into_iter().filter(|field| !field.is_empty()).collect();
        let fields: String = headers.iter().map(|field| format!("{field}\r\n")).collect();
        let mut client = Client::connect(gateway.addr("http")).await;
        client
            .send(format!("{method} {path} HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-For: {from}\r\n{fields}\r\n"))
            .await;
        let wire = client.response().await.status;
        let question =
            json!({ "method": method, "url": format!("http://a.test{path}"), "headers": headers, "from": from });
        let (_, answer) = gateway.admin("POST", "/explain", &question.to_string()).await;
        assert_eq!(answer["explanation"]["status"], wire, "{method} {path} from {from} {headers:?}\n{answer}");
        *answered.entry(wire).or_default() += 1;
    }
    for status in [200, 202, 203, 204, 302, 401, 403] {
        assert!(answered.contains_key(&status), "{status} never came: {answered:?}");
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
