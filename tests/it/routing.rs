//! Which request goes where, and what is done to it on the way.

use crate::support::{client::Client, gateway::Gateway, origin::Origin};

async fn gateway_over(origin: &Origin, routes: &str) -> Gateway {
    let config = format!(
        "[listener.http]\naddress = \"127.0.0.1:0\"\nprotocol = \"http\"\n[upstream.app]\nendpoints = [\"{}\"]\n{routes}",
        origin.addr
    );
    Gateway::start(&config).await
}

#[tokio::test]
async fn the_most_specific_host_and_path_win_in_any_order() {
    let (a, b, c, d) =
        (Origin::fixed("a").await, Origin::fixed("b").await, Origin::fixed("c").await, Origin::fixed("d").await);
    let config = format!(
        r#"
[listener.http]
address = "127.0.0.1:0"
[upstream.a]
endpoints = ["{}"]
[upstream.b]
endpoints = ["{}"]
[upstream.c]
endpoints = ["{}"]
[upstream.d]
endpoints = ["{}"]
[route.any]
upstream = "d"
[route.wild]
hosts = ["*.example.com"]
upstream = "a"
[route.shop]
hosts = ["shop.example.com"]
upstream = "b"
[route.shop.rule.api]
path = "/api"
upstream = "c"
[route.shop.rule.exact]
path = {{ exact = "/api/v1" }}
upstream = "a"
[route.shop.rule.regex]
path = {{ regex = "^/item/[0-9]+$" }}
upstream = "d"
[route.shop.rule.beta]
path = "/api"
match = {{ headers = {{ x-beta = "1" }} }}
upstream = "d"
[route.shop.rule.query]
path = "/find"
match = {{ query = {{ v = {{ regex = "^2" }} }}, methods = ["GET"] }}
upstream = "c"
[route.shop.rule.cookie]
path = "/find"
match = {{ cookies = {{ ab = "b" }} }}
upstream = "a"
"#,
        a.addr, b.addr, c.addr, d.addr
    );
    let gateway = Gateway::start(&config).await;
    let mut client = Client::connect(gateway.addr("http")).await;
    for (host, path, extra, expected) in [
        ("other.test", "/", "", "d"),
        ("x.example.com", "/", "", "a"),
        ("shop.example.com", "/", "", "b"),
        ("SHOP.example.com:8080", "/", "", "b"),
        ("shop.example.com", "/api", "", "c"),
        ("shop.example.com", "/api/x", "", "c"),
        ("shop.example.com", "/apix", "", "b"),
        ("shop.example.com", "/api/v1", "", "a"),
        ("shop.example.com", "/api/v1?q", "", "a"),
        ("shop.example.com", "/api/v1/", "", "c"),
        ("shop.example.com", "/item/17", "", "d"),
        ("shop.example.com", "/item/x", "", "b"),
        ("shop.example.com", "/api", "X-Beta: 1\r\n", "d"),
        ("shop.example.com", "/api", "X-Beta: 2\r\n", "c"),
        ("shop.example.com", "/find?v=21", "", "c"),
        ("shop.example.com", "/find?v=12", "", "b"),
        ("shop.example.com", "/find", "Cookie: x=1; ab=b\r\n", "a"),
        ("shop.example.com", "/a/../api", "", "c"),
        ("shop.example.com", "/%61pi", "", "c"),
        ("shop.example.com", "//api", "", "c"),
    ] {
        client.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{extra}\r\n")).await;
        let response = client.response().await;
        assert_eq!((response.status, response.text().as_str()), (200, expected), "{host} {path} {extra}");
    }
}

#[tokio::test]
async fn redirects_answers_rewrites_and_header_edits_do_what_they_say() {
    let origin = Origin::echo().await;
    let gateway = gateway_over(
        &origin,
        r#"
[route.old]
hosts = ["old.test"]
redirect = { host = "new.test", scheme = "https", status = 308 }
[route.ping]
match = { path = { exact = "/ping" } }
respond = { status = 200, body = "pong" }
[route.main]
hosts = ["app.test"]
upstream = "app"
request_headers = { set = { x-tenant = "${host}-${client_ip}" }, add = { x-trail = "edge" }, remove = ["x-internal"] }
response_headers = { set = { x-served = "portcullis" }, remove = ["content-type"] }
[route.main.rule.v1]
path = "/v1"
rewrite = { prefix = "/v2" }
"#,
    )
    .await;
    let mut client = Client::connect(gateway.addr("http")).await;

    let moved = client.get("old.test", "/a/b?c=d").await;
    assert_eq!((moved.status, moved.header("location")), (308, Some("https://new.test/a/b?c=d")));
    let pong = client.get("anything.test", "/ping").await;
    assert_eq!((pong.status, pong.text().as_str()), (200, "pong"));

    client.send("GET /v1/items?x=1 HTTP/1.1\r\nHost: app.test\r\nX-Internal: 1\r\nX-Trail: client\r\n\r\n").await;
    let response = client.response().await;
    assert_eq!(
        (response.status, response.header("x-served"), response.header("content-type")),
        (200, Some("portcullis"), None)
    );
    let seen = origin.last();
    assert_eq!(seen.line(), "GET /v2/items?x=1 HTTP/1.1");
    assert_eq!(seen.header("x-tenant"), Some("app.test-127.0.0.1"));
    assert_eq!(seen.all("x-trail").join(","), "client,edge");
    assert_eq!(seen.header("x-internal"), None);

    let nothing = client.get("nobody.test", "/").await;
    assert_eq!(nothing.status, 404);
}

#[tokio::test]
async fn a_weighted_split_divides_as_its_weights_say() {
    let (a, b) = (Origin::fixed("a").await, Origin::fixed("b").await);
    let config = format!(
        "[listener.http]\naddress = \"127.0.0.1:0\"\n[upstream.a]\nendpoints = [\"{}\"]\n[upstream.b]\nendpoints = [\"{}\"]\n[route.r]\nsplit = {{ a = 90, b = 10 }}\n",
        a.addr, b.addr
    );
    let gateway = Gateway::start(&config).await;
    let mut client = Client::connect(gateway.addr("http")).await;
    for _ in 0..1000 {
        assert_eq!(client.get("x.test", "/").await.status, 200);
    }
    let share = b.requests().len();
    // Ten standard deviations around 100: fails for a wrong weight, not for bad luck.
    assert!((30..=200).contains(&share), "{share} of 1000 for a weight of 10 %");
    assert_eq!(a.requests().len() + share, 1000);
}

#[tokio::test]
async fn a_mirror_gets_a_copy_and_its_answer_is_nobodys() {
    let (origin, shadow) =
        (Origin::echo().await, Origin::start(|_| b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n".to_vec()).await);
    let config = format!(
        "[listener.http]\naddress = \"127.0.0.1:0\"\n[upstream.app]\nendpoints = [\"{}\"]\n[upstream.shadow]\nendpoints = [\"{}\"]\n[route.r]\nupstream = \"app\"\nmirror = {{ upstream = \"shadow\", percent = \"100%\" }}\n",
        origin.addr, shadow.addr
    );
    let gateway = Gateway::start(&config).await;
    let mut client = Client::connect(gateway.addr("http")).await;
    client.send("POST /m?x HTTP/1.1\r\nHost: x.test\r\nContent-Length: 5\r\n\r\nhello").await;
    assert_eq!(client.response().await.status, 200);
    let copy = crate::support::eventually("the shadow saw the copy", async || shadow.requests().pop()).await;
    assert_eq!((copy.line(), copy.body.as_slice()), ("POST /m?x HTTP/1.1", &b"hello"[..]));
}
