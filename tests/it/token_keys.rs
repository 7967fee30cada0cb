//! Keys of `[identity]`, `auth` and `[consumer]`, each with the difference that it makes to a client.

use crate::{
    auth::{IDENTITY, Issuer, LISTENER, ask, base64, bearer, edge, now},
    support::{
        client::Client,
        gateway::Gateway,
        origin::{Origin, ok, read_request},
    },
};
use serde_json::json;

const ISSUER: &str = "https://id.test";

#[tokio::test]
async fn leeway_pinned_algorithms_and_required_claims_of_an_identity() {
    let issuer = Issuer::new("k1");
    let files = [("keys.json", json!({ "keys": [issuer.jwk()] }).to_string())];
    let late = issuer.token(ISSUER, json!({ "exp": now() - 20 }));
    let early = issuer.token(ISSUER, json!({ "nbf": now() + 300 }));
    let good = issuer.token(ISSUER, json!({}));
    let tenant = issuer.token(ISSUER, json!({ "tenant": "acme" }));
    for (key, token, expected) in [
        ("", &late, 200),
        ("leeway = \"1s\"", &late, 401),
        ("", &early, 401),
        ("leeway = \"9m\"", &early, 200),
        ("algorithms = [\"ES256\", \"RS256\"]", &good, 401),
        ("algorithms = [\"ES256\", \"EdDSA\"]", &good, 200),
        ("require = [\"tenant\"]", &good, 401),
        ("require = [\"tenant\"]", &tenant, 200),
    ] {
        let (gateway, _origin) = edge(&files, &format!("{IDENTITY}{key}\n"), "auth.jwt = \"corp\"").await;
        assert_eq!(bearer(&gateway, "/", token).await.status, expected, "{key}");
    }
}

#[tokio::test]
async fn keys_come_from_the_url_that_is_named_and_from_nowhere_else() {
    let issuer = Issuer::new("k1");
    let keys = json!({ "keys": [issuer.jwk()] }).to_string();
    let published = Origin::start(move |_| ok(&keys)).await;
    let objects = format!(
        "[identity.corp]\nissuer = \"{ISSUER}\"\naudiences = [\"shop\"]\njwks = {{ url = \"http://{}/the/keys\", ttl = \"5m\", stale = \"1h\" }}\n",
        published.addr
    );
    let (gateway, _origin) = edge(&[], &objects, "auth.jwt = \"corp\"").await;
    assert_eq!(bearer(&gateway, "/", &issuer.token(ISSUER, json!({}))).await.status, 200);
    assert!(published.requests().iter().all(|seen| seen.path() == "/the/keys"));
}

#[tokio::test]
async fn a_token_is_taken_from_the_places_that_are_named() {
    let issuer = Issuer::new("k1");
    let files = [("keys.json", json!({ "keys": [issuer.jwk()] }).to_string())];
    let token = issuer.token(ISSUER, json!({}));
    for (from, request) in [
        ("header = \"x-token\"", format!("GET / HTTP/1.1\r\nHost: a\r\nX-Token: {token}")),
        ("cookie = \"session\"", format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: x=1; session={token}")),
        ("query = \"access\"", format!("GET /?x=1&access={token} HTTP/1.1\r\nHost: a")),
    ] {
        let rest = format!("auth = {{ jwt = \"corp\", from = {{ {from} }} }}");
        let (gateway, _origin) = edge(&files, IDENTITY, &rest).await;
        assert_eq!(ask(&gateway, &request).await.status, 200, "{from}");
        assert_eq!(bearer(&gateway, "/", &token).await.status, 401, "{from}: where it usually is does not count");
    }
}

const KEY: &str = "key-0123456789abcdef-0123456789";
const KEY_SHA256: &str = "7df4af179f4f71466168479a7e12256cf3155b775d9b94fc2a524abd53a44a0c";

#[tokio::test]
async fn an_api_key_is_taken_from_its_one_place() {
    let objects = "[consumer.acme]\nkeys = [{ sha256 = { file = \"acme.sha256\" } }]\n";
    let files = [("acme.sha256", KEY_SHA256.to_owned())];
    let requests = [
        format!("GET / HTTP/1.1\r\nHost: a\r\nX-Api-Key: {KEY}"),
        format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: x=1; key={KEY}"),
        format!("GET /?key={KEY} HTTP/1.1\r\nHost: a"),
    ];
    for (index, place) in ["header = \"x-api-key\"", "cookie = \"key\"", "query = \"key\""].into_iter().enumerate() {
        let (gateway, _origin) = edge(&files, objects, &format!("auth.api_key = {{ {place} }}")).await;
        for (other, request) in requests.iter().enumerate() {
            let expected = if other == index { 200 } else { 401 };
            assert_eq!(ask(&gateway, request).await.status, expected, "{place}: {request}");
        }
    }
}

#[tokio::test]
async fn a_secret_may_stand_in_the_environment() {
    let origin = Origin::fixed("ok").await;
    let config = format!(
        "schema = \"1\"\n[process]\nupgrade = \"unix:u.sock\"\n[admin]\naddress = \"unix:admin.sock\"\n{LISTENER}\
         [consumer.acme]\nkeys = [{{ sha256 = {{ env = \"ACME_SHA256\" }} }}]\n[upstream.app]\nendpoints = [\"{}\"]\n\
         [route.app]\nupstream = \"app\"\nauth.api_key.header = \"x-api-key\"\n",
        origin.addr
    );
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("edge.toml"), &config).unwrap();
    let gateway = Gateway::start_file(folder, &[("ACME_SHA256", KEY_SHA256)]).await;
    for (key, expected) in [(KEY, 200), ("another-key-0123456789abcdef", 401)] {
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\nX-Api-Key: {key}");
        assert_eq!(ask(&gateway, &request).await.status, expected, "{key}");
    }
}

#[tokio::test]
async fn what_defaults_demand_of_everybody_every_route_demands() {
    let authority = Origin::start(|seen| match seen.header("x-badge") {
        Some("yes") => ok(""),
        _ => b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n".to_vec(),
    })
    .await;
    let objects = format!(
        "[consumer.acme]\nkeys = [{{ sha256 = {{ file = \"acme.sha256\" }} }}]\n[defaults]\nauth.api_key.header = \"x-api-key\"\n\
         authz = {{ http = \"http://{}/\", timeout = \"10s\", request_headers = [\"x-badge\"] }}\n",
        authority.addr
    );
    let (gateway, _origin) = edge(&[("acme.sha256", KEY_SHA256.to_owned())], &objects, "").await;
    for (fields, expected) in [
        (String::new(), 401),
        (format!("X-Api-Key: {KEY}\r\nX-Other: 1\r\n"), 403),
        ("X-Badge: yes\r\n".to_owned(), 401),
        (format!("X-Api-Key: {KEY}\r\nX-Badge: yes\r\nX-Other: 1\r\n"), 200),
    ] {
        assert_eq!(
            ask(&gateway, &format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}X: y")).await.status,
            expected,
            "{fields}"
        );
    }
    assert!(authority.requests().iter().all(|seen| seen.header("x-other").is_none()), "it is shown what is listed");
}

#[tokio::test]
async fn an_http_authority_has_so_much_time() {
    let authority = Origin::raw(|mut stream| async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut buffer = [0; 2048];
        while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {
            tokio::time::sleep(std::time::Duration::from_millis(700)).await;
            let _ = stream.write_all(&ok("")).await;
        }
    })
    .await;
    for (timeout, expected) in [("200ms", 503), ("20s", 200)] {
        let rest = format!("authz = {{ http = \"http://{}/\", timeout = \"{timeout}\" }}", authority.addr);
        let (gateway, _origin) = edge(&[], "", &rest).await;
        assert_eq!(ask(&gateway, "GET / HTTP/1.1\r\nHost: a").await.status, expected, "{timeout}");
    }
}

#[tokio::test]
async fn a_token_whose_header_names_another_key_or_algorithm_is_refused() {
    let issuer = Issuer::new("k1");
    let files = [("keys.json", json!({ "keys": [issuer.jwk()] }).to_string())];
    let (gateway, _origin) = edge(&files, IDENTITY, "auth.jwt = \"corp\"").await;
    let good = issuer.token(ISSUER, json!({}));
    let (_, rest) = good.split_once('.').unwrap();
    for header in [
        json!({ "alg": "HS256", "kid": "k1" }),
        json!({ "alg": "none", "kid": "k1" }),
        json!({ "alg": "EdDSA", "kid": "../../keys.json" }),
        json!({ "alg": "EdDSA", "kid": "k1' OR '1'='1" }),
        json!({ "alg": "EdDSA", "kid": "k1", "crit": ["b64"], "b64": false }),
        json!({ "alg": "EdDSA", "jku": "http://127.0.0.1/keys", "jwk": issuer.jwk() }),
    ] {
        let token = format!("{}.{rest}", base64(header.to_string().as_bytes()));
        let refused = bearer(&gateway, "/", &token).await;
        assert_eq!(refused.status, 401, "{header}");
        assert!(refused.header("www-authenticate").unwrap().contains("error=\"invalid_token\""), "{header}");
    }
}

#[tokio::test]
async fn a_reload_while_keys_are_fetched_costs_nobody_anything() {
    let (issuer, origin) = (Issuer::new("k1"), Origin::fixed("ok").await);
    let keys = json!({ "keys": [issuer.jwk()] }).to_string();
    // An issuer that takes its time, but less than it is given.
    let slow = Origin::raw(move |mut stream| {
        let keys = keys.clone();
        async move {
            use tokio::io::AsyncWriteExt;
            let mut buffer = Vec::new();
            while read_request(&mut stream, &mut buffer).await.is_some() {
                tokio::time::sleep(std::time::Duration::from_millis(1200)).await;
                let _ = stream.write_all(&ok(&keys)).await;
            }
        }
    })
    .await;
    let text = |timeout: &str| {
        format!(
            "{LISTENER}[identity.corp]\nissuer = \"{ISSUER}\"\naudiences = [\"shop\"]\njwks.url = \"http://{}/keys\"\n\
             [upstream.app]\nendpoints = [\"{}\"]\n[route.app]\nupstream = \"app\"\ntimeout = \"{timeout}\"\n\
             [route.app.rule.inner]\npath = \"/inner\"\nauth.jwt = \"corp\"\n",
            slow.addr, origin.addr
        )
    };
    let mut gateway = Gateway::start(&text("30s")).await;
    let token = issuer.token(ISSUER, json!({}));
    let address = gateway.addr("http");
    let waiting = tokio::spawn({
        let token = token.clone();
        async move {
            let mut client = Client::connect(address).await;
            client.send(format!("GET /inner HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n\r\n")).await;
            client.response().await.status
        }
    });
    for n in 0..5 {
        let began = std::time::Instant::now();
        assert_eq!(gateway.reload(&text(&format!("{}s", 20 + n))).await.0, 200);
        assert!(began.elapsed() < std::time::Duration::from_secs(10), "{:?}", began.elapsed());
        assert_eq!(ask(&gateway, "GET / HTTP/1.1\r\nHost: a").await.status, 200, "others are served meanwhile");
    }
    assert_eq!(waiting.await.unwrap(), 200, "who came before the reload has its keys");
    assert_eq!(bearer(&gateway, "/inner", &token).await.status, 200);
}
