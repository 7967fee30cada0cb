//! Credentials that are exchanged for a token, or carry one: each key of theirs changes what a token server or the destination sees.

use crate::support::{
    client::{Client, Response},
    gateway::Gateway,
    origin::{Origin, Seen, ok},
    outside::Outside,
};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use std::{collections::HashMap, path::Path, sync::atomic::Ordering::SeqCst};

const TOKEN: &str = "{\"access_token\":\"token-1\",\"token_type\":\"Bearer\",\"expires_in\":3600}";

fn config(outside: &Outside, folder: &Path, credential: &str) -> String {
    std::fs::write(folder.join("canary"), "s3cret\n").unwrap();
    std::fs::write(folder.join("session"), "s3ssion\n").unwrap();
    format!(
        "{}[listener.out]\naddress = \"127.0.0.1:0\"\nprotocol = \"proxy\"\n\
         [destination.api]\nhosts = [\"allowed.test\"]\nports = [{}]\ntls = \"originate\"\ntrust = \"outside\"\n\
         credential = \"key\"\nprivate_addresses = [\"127.0.0.0/8\"]\n\
         [access.all]\nfrom = [\"*\"]\nto = [\"destination:api\"]\naction = \"allow\"\n[credential.key]\n{credential}\n",
        outside.config(folder),
        outside.tls.port()
    )
}

async fn start(outside: &Outside, credential: &str, key: &rcgen::KeyPair) -> Gateway {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("sign.key"), key.serialize_pem()).unwrap();
    let config = config(outside, folder.path(), credential);
    Gateway::start_in(folder, &config).await
}

async fn get(gateway: &Gateway, path: &str) -> Response {
    let mut client = Client::connect(gateway.addr("out")).await;
    client.send(format!("GET http://allowed.test{path} HTTP/1.1\r\nHost: allowed.test\r\n\r\n")).await;
    client.response().await
}

/// The fields of a form. Nothing in these has to be unescaped but what the test writes so.
fn form(seen: &Seen) -> HashMap<String, String> {
    let body = String::from_utf8_lossy(&seen.body).into_owned();
    body.split('&').filter_map(|pair| pair.split_once('=')).map(|(name, value)| (name.into(), value.into())).collect()
}

#[tokio::test]
async fn a_signed_jwt_is_exchanged_for_a_token_and_says_what_it_is_told_to() {
    let outside = Outside::start(&["allowed.test"]).await;
    let tokens = Origin::start(|_| ok(TOKEN)).await;
    let url = format!("http://{}/token", tokens.addr);
    let key = rcgen::KeyPair::generate().unwrap();
    let point = rcgen::PublicKeyData::der_bytes(&key);
    let part = |from: usize, to: usize| data_encoding::BASE64URL_NOPAD.encode(&point[from..to]);
    let public = DecodingKey::from_ec_components(&part(1, 33), &part(33, 65)).unwrap();
    let common =
        "issuer = \"gw\", key = { file = \"sign.key\" }, algorithm = \"ES256\", private_addresses = [\"127.0.0.0/8\"]";
    for (keys, subject, audience, key_id, scope) in [
        ("", "gw", url.as_str(), None, None),
        (", subject = \"stock\"", "stock", &url, None, None),
        (", audience = \"https://id.test/\"", "gw", "https://id.test/", None, None),
        (", key_id = \"k1\"", "gw", &url, Some("k1"), None),
        (", scopes = [\"a\", \"b\"]", "gw", &url, None, Some("a+b")),
    ] {
        let gateway = start(&outside, &format!("signed_jwt = {{ token_url = \"{url}\", {common}{keys} }}"), &key).await;
        for path in ["/1", "/2"] {
            assert_eq!(get(&gateway, path).await.status, 200, "{keys}");
            assert_eq!(outside.requests().pop().unwrap().all("authorization"), ["Bearer token-1"], "{keys}");
        }
        let form = form(&tokens.last());
        assert_eq!(form["grant_type"], "urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer", "{keys}");
        assert_eq!(
            form.get("scope").map(String::as_str).map(|scope| scope.replace("%20", "+")),
            scope.map(str::to_owned)
        );
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_audience(&[audience]);
        validation.set_issuer(&["gw"]);
        let told = jsonwebtoken::decode::<serde_json::Value>(&form["assertion"], &public, &validation);
        let told = told.unwrap_or_else(|error| panic!("{keys}: {error}"));
        assert_eq!((told.claims["sub"].as_str(), told.header.kid.as_deref()), (Some(subject), key_id), "{keys}");
    }
    assert_eq!(tokens.requests().len(), 5, "one for each gateway");
    // Whose range is not named is not asked, and the request does not go out without its token.
    let common = common.replace(", private_addresses = [\"127.0.0.0/8\"]", "");
    let gateway = start(&outside, &format!("signed_jwt = {{ token_url = \"{url}\", {common} }}"), &key).await;
    let before = outside.requests().len();
    let answer = get(&gateway, "/").await;
    assert!(answer.status == 502 && answer.text().contains("\"reason\":\"credential\""), "{answer:?}");
    assert_eq!((tokens.requests().len(), outside.requests().len()), (5, before));
}

#[tokio::test]
async fn a_token_is_asked_for_with_the_scopes_and_the_audience_that_are_written() {
    let outside = Outside::start(&["allowed.test"]).await;
    let tokens = Origin::start(|_| ok(TOKEN)).await;
    let key = rcgen::KeyPair::generate().unwrap();
    let common = format!(
        "token_url = \"http://{}/token\", client_id = \"app\", client_secret = {{ file = \"canary\" }}, private_addresses = [\"127.0.0.0/8\"]",
        tokens.addr
    );
    for (keys, scope, audience) in [
        ("", None, None),
        (", audience = \"ledger\"", None, Some("ledger")),
        (", scopes = [\"read\"]", Some("read"), None),
    ] {
        let gateway = start(&outside, &format!("oauth2 = {{ {common}{keys} }}"), &key).await;
        assert_eq!(get(&gateway, "/").await.status, 200, "{keys}");
        let form = form(&tokens.last());
        assert_eq!(form.get("scope").map(String::as_str), scope, "{keys}");
        assert_eq!(form.get("audience").map(String::as_str), audience, "{keys}");
    }
}

#[tokio::test]
async fn a_session_token_goes_with_the_signature_that_covers_it() {
    let outside = Outside::start(&["allowed.test"]).await;
    let key = rcgen::KeyPair::generate().unwrap();
    let common = "access_key_id = \"AKID\", secret_access_key = { file = \"canary\" }, region = \"eu-west-1\", service = \"sqs\"";
    for (keys, token) in [("", None), (", session_token = { file = \"session\" }", Some("s3ssion"))] {
        let gateway = start(&outside, &format!("aws_sigv4 = {{ {common}{keys} }}"), &key).await;
        assert_eq!(get(&gateway, "/").await.status, 200, "{keys}");
        let seen = outside.requests().pop().unwrap();
        assert_eq!(seen.header("x-amz-security-token"), token);
        let signed = seen.header("authorization").unwrap();
        assert_eq!(signed.contains("x-amz-security-token"), token.is_some(), "{signed}");
    }
}

#[tokio::test]
async fn a_wildcard_below_a_public_suffix_is_meant_or_refused() {
    let outside = Outside::start(&["allowed.test", "mine.github.io"]).await;
    let folder = tempfile::tempdir().unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let credential = "header = { name = \"x-key\", value = { file = \"canary\" } }";
    let refused = config(&outside, folder.path(), credential).replace("\"allowed.test\"", "\"*.github.io\"");
    drop(folder);
    let mut gateway = start(&outside, credential, &key).await;
    let (status, report) = gateway.reload(&refused).await;
    assert!(status == 422 && report.to_string().contains("allow_public_suffix"), "{status} {report}");
    let meant = refused.replace("credential = \"key\"\n", "credential = \"key\"\nallow_public_suffix = true\n");
    let (status, report) = gateway.reload(&meant).await;
    assert_eq!(status, 200, "{report}");
    gateway.refresh_listeners().await;
    let mut client = Client::connect(gateway.addr("out")).await;
    client.send("GET http://mine.github.io/x HTTP/1.1\r\nHost: mine.github.io\r\n\r\n").await;
    assert_eq!(client.response().await.text(), "secretly GET /x HTTP/1.1");
}

#[tokio::test]
async fn a_reload_in_the_middle_of_a_fetch_costs_no_request_and_no_second_fetch() {
    let outside = Outside::start(&["allowed.test"]).await;
    let (open, gate) = tokio::sync::watch::channel(false);
    let tokens = Origin::raw(move |mut stream| {
        let mut gate = gate.clone();
        async move {
            let mut buffer = Vec::new();
            let Some(_) = crate::support::origin::read_request(&mut stream, &mut buffer).await else { return };
            gate.wait_for(|open| *open).await.unwrap();
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, &ok(TOKEN)).await;
        }
    })
    .await;
    let credential = format!(
        "oauth2 = {{ token_url = \"http://{}/token\", client_id = \"app\", client_secret = {{ file = \"canary\" }}, private_addresses = [\"127.0.0.0/8\"] }}",
        tokens.addr
    );
    let key = rcgen::KeyPair::generate().unwrap();
    let mut gateway = start(&outside, &credential, &key).await;
    let mut early = Client::connect(gateway.addr("out")).await;
    early.send("GET http://allowed.test/early HTTP/1.1\r\nHost: allowed.test\r\n\r\n").await;
    crate::support::eventually("the token server is asked", async || {
        (tokens.connections.load(SeqCst) > 0).then_some(())
    })
    .await;
    let text = config(&outside, gateway.path(), &credential).replace("[access.all]", "[access.renamed]");
    let (status, report) = gateway.reload(&text).await;
    assert_eq!(status, 200, "{report}");
    let mut late = Client::connect(gateway.addr("out")).await;
    late.send("GET http://allowed.test/late HTTP/1.1\r\nHost: allowed.test\r\n\r\n").await;
    open.send_replace(true);
    for client in [&mut early, &mut late] {
        assert_eq!(client.response().await.status, 200);
    }
    assert!(outside.requests().iter().all(|seen| seen.all("authorization") == ["Bearer token-1"]));
    assert_eq!(tokens.connections.load(SeqCst), 1);
}
