//! Who may pass: tokens, keys, passwords, addresses, certificates, and an external authority.

use crate::support::{
    authority::Authority,
    client::{Client, Response, tls_config, tls_config_with},
    eventually,
    gateway::{Gateway, run_in},
    origin::{Origin, Seen, ok},
};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{KeyPair, PKCS_ED25519};
use serde_json::{Value, json};
use std::{
    sync::{Arc, Mutex},
    time::{SystemTime, UNIX_EPOCH},
};

/// Somebody who signs tokens.
pub(crate) struct Issuer {
    key: KeyPair,
    id: &'static str,
}

impl Issuer {
    pub(crate) fn new(id: &'static str) -> Self {
        Self { key: KeyPair::generate_for(&PKCS_ED25519).unwrap(), id }
    }

    pub(crate) fn jwk(&self) -> Value {
        json!({ "kty": "OKP", "crv": "Ed25519", "kid": self.id, "x": base64(self.key.public_key_raw()) })
    }

    fn sign(&self, claims: Value) -> String {
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(self.id.to_owned());
        let key = EncodingKey::from_ed_der(&self.key.serialize_der());
        jsonwebtoken::encode(&header, &claims, &key).unwrap()
    }

    /// A good token of `https://id.test` for `shop`, with `more` in it.
    pub(crate) fn token(&self, issuer: &str, more: Value) -> String {
        let mut claims = json!({ "iss": issuer, "aud": "shop", "exp": now() + 600, "sub": "alice" });
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.sign(claims)
    }
}

pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// RFC 7515 §2: the URL alphabet, no padding.
pub(crate) fn base64(octets: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for three in octets.chunks(3) {
        let word = three.iter().chain([&0, &0]).take(3).fold(0_usize, |word, octet| word << 8 | usize::from(*octet));
        for place in 0..=three.len() {
            text.push(char::from(ALPHABET[word >> (18 - 6 * place) & 63]));
        }
    }
    text
}

pub(crate) const LISTENER: &str = "[listener.http]\naddress = \"127.0.0.1:0\"\nclient_ip = { trust = [\"127.0.0.0/8\"], header = \"x-forwarded-for\" }\n";

pub(crate) async fn edge(files: &[(&str, String)], objects: &str, rest: &str) -> (Gateway, Origin) {
    let origin = Origin::echo().await;
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let config = format!(
        "{LISTENER}{objects}\n[upstream.app]\nendpoints = [\"{}\"]\n[route.app]\nupstream = \"app\"\n{rest}\n",
        origin.addr
    );
    (Gateway::start_in(folder, &config).await, origin)
}

pub(crate) async fn ask(gateway: &Gateway, request: &str) -> Response {
    let mut client = Client::connect(gateway.addr("http")).await;
    client.send(&format!("{request}\r\n\r\n")).await;
    client.response().await
}

pub(crate) async fn bearer(gateway: &Gateway, path: &str, token: &str) -> Response {
    ask(gateway, &format!("GET {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}")).await
}

pub(crate) const IDENTITY: &str =
    "[identity.corp]\nissuer = \"https://id.test\"\naudiences = [\"shop\"]\njwks.file = \"keys.json\"\n";

#[tokio::test]
async fn tokens_open_the_door_and_their_claims_are_facts() {
    let issuer = Issuer::new("k1");
    let files = [("keys.json", json!({ "keys": [issuer.jwk()] }).to_string())];
    let rest = "auth.jwt = \"corp\"\nrequest_headers.set = { x-user = \"${claim.sub}\", x-tenant = \"${claim.tenant}\" }\nrate_limit = { rate = \"2/h\", key = \"claim:sub\" }\n\
        [route.app.rule.gold]\nmatch.claims = { tier = \"gold\" }\nrespond = { status = 200, body = \"gold\" }\n\
        [route.app.rule.admin]\npath = \"/admin\"\nauth = { jwt = \"corp\", require = { scope = [\"admin\"] } }\n";
    let (gateway, origin) = edge(&files, IDENTITY, rest).await;

    let good = issuer.token("https://id.test", json!({ "tenant": "acme\r\nX-Evil: 1" }));
    let forged = format!("GET / HTTP/1.1\r\nHost: a\r\nX-User: root\r\nX-Tenant: root\r\nAuthorization: Bearer {good}");
    assert_eq!(ask(&gateway, &forged).await.status, 200);
    let seen = origin.last();
    assert_eq!(seen.all("x-user"), ["alice"], "the claim, not the client's word");
    assert_eq!((seen.header("x-tenant"), seen.header("x-evil")), (Some("acmeX-Evil: 1"), None));

    let missing = ask(&gateway, "GET / HTTP/1.1\r\nHost: a").await;
    assert_eq!((missing.status, missing.header("www-authenticate")), (401, Some("Bearer realm=\"corp\"")));
    let other = Issuer::new("k1");
    for (token, label, challenge) in [
        (other.token("https://id.test", json!({})), "jwt_bad_signature", "error=\"invalid_token\""),
        (issuer.token("https://evil.test", json!({})), "jwt_wrong_issuer", "error=\"invalid_token\""),
        (issuer.token("https://id.test", json!({ "aud": "bank" })), "jwt_wrong_audience", "error=\"invalid_token\""),
        (issuer.token("https://id.test", json!({ "exp": now() - 600 })), "jwt_expired", "error=\"invalid_token\""),
        (
            issuer.token("https://id.test", json!({ "nbf": now() + 600 })),
            "jwt_not_yet_valid",
            "error=\"invalid_token\"",
        ),
        ("eyJhbGciOiJub25lIn0.e30.".to_owned(), "jwt_alg_none", "error=\"invalid_token\""),
        ("x".repeat(9000), "jwt_too_large", "error=\"invalid_token\""),
        ("nonsense".to_owned(), "jwt_malformed", "error=\"invalid_token\""),
    ] {
        let refused = bearer(&gateway, "/", &token).await;
        assert_eq!(refused.status, 401, "{label}");
        assert!(refused.header("www-authenticate").unwrap().contains(challenge), "{label}");
        gateway.counts("portcullis_refusals_total", &[label], 1.0).await;
    }
    let scoped = bearer(&gateway, "/admin", &good).await;
    assert_eq!(scoped.status, 403);
    assert!(scoped.header("www-authenticate").unwrap().contains("error=\"insufficient_scope\""), "RFC 6750 §3.1");
    let admin = issuer.token("https://id.test", json!({ "scope": "read admin", "sub": "root" }));
    assert_eq!(bearer(&gateway, "/admin", &admin).await.status, 200);

    let gold = issuer.token("https://id.test", json!({ "tier": "gold", "sub": "midas" }));
    assert_eq!(bearer(&gateway, "/", &gold).await.text(), "gold");
    let forged = other.token("https://id.test", json!({ "tier": "gold" }));
    assert_eq!(bearer(&gateway, "/", &forged).await.status, 401, "a claim counts when it is verified");

    assert_eq!(bearer(&gateway, "/", &good).await.status, 200);
    assert_eq!(bearer(&gateway, "/", &good).await.status, 429, "two of alice's in an hour");
    let bob = issuer.token("https://id.test", json!({ "sub": "bob" }));
    assert_eq!(bearer(&gateway, "/", &bob).await.status, 200, "bob has his own");
}

#[tokio::test]
async fn keys_are_fetched_from_the_issuer_and_rotate() {
    let keys: Arc<Mutex<Vec<Value>>> = Arc::default();
    let (published, own) = (keys.clone(), Arc::new(Mutex::new(String::new())));
    let base = own.clone();
    let id = Origin::start(move |seen: &Seen| {
        let issuer = base.lock().unwrap().clone();
        match seen.path() {
            "/.well-known/openid-configuration" => {
                ok(&json!({ "issuer": issuer, "jwks_uri": format!("{issuer}/keys") }).to_string())
            }
            _ => ok(&json!({ "keys": *published.lock().unwrap() }).to_string()),
        }
    })
    .await;
    let issuer = format!("http://{}", id.addr);
    own.lock().unwrap().clone_from(&issuer);
    let (first, second) = (Issuer::new("first"), Issuer::new("second"));
    keys.lock().unwrap().push(first.jwk());
    let objects = format!("[identity.corp]\nissuer = \"{issuer}\"\naudiences = [\"shop\"]\n");
    let (mut gateway, origin) = edge(&[], &objects, "auth.jwt = \"corp\"").await;
    let tokens = [first.token(&issuer, json!({})), second.token(&issuer, json!({}))];
    assert_eq!(bearer(&gateway, "/", &tokens[0]).await.status, 200, "the first request waits for the keys");
    assert_eq!(bearer(&gateway, "/", &tokens[1]).await.status, 401, "nobody published that one");
    let fetched = id.requests().len();
    let config = format!(
        "{LISTENER}{objects}[upstream.app]\nendpoints = [\"{}\"]\n[route.app]\nupstream = \"app\"\nauth.jwt = \"corp\"\ntimeout = \"9s\"\n",
        origin.addr
    );
    assert_eq!(gateway.reload(&config).await.0, 200);
    assert_eq!(bearer(&gateway, "/", &tokens[0]).await.status, 200, "keys outlive a reload");
    assert!(id.requests().len() >= fetched);
    keys.lock().unwrap().push(second.jwk());
    eventually("the new key is found", async || {
        let later = format!("{config}\n# {}\n", id.requests().len());
        let _ = gateway.reload(&later).await;
        (bearer(&gateway, "/", &tokens[1]).await.status == 200).then_some(())
    })
    .await;
}

const CONSUMERS: &str = "[consumer.acme]\nkeys = [{ sha256 = { file = \"acme.sha256\" } }]\ngroups = [\"gold\"]\n\
    [consumer.carol]\nbasic = { username = \"carol\", password_hash = { file = \"carol.hash\" } }\n";

fn consumer_files() -> [(&'static str, String); 2] {
    // sha256("acme-key-0123456789abcdef"), and bcrypt of "secret" at its lowest cost.
    let sum = std::process::Command::new("sh")
        .args(["-c", "printf %s acme-key-0123456789abcdef | sha256sum | cut -d' ' -f1"])
        .output()
        .unwrap();
    [
        ("acme.sha256", String::from_utf8(sum.stdout).unwrap()),
        ("carol.hash", "$2b$04$9RyEVj5kgnbipdnFzEAWOu0Wx7g2seutzw5jdnlPRa3kOEqojL19S".to_owned()),
    ]
}

#[tokio::test]
async fn api_keys_passwords_and_groups() {
    let rest = "auth = { api_key = { header = \"x-api-key\" }, basic = { realm = \"shop\" } }\nrequest_headers.set = { x-consumer = \"${consumer}\" }\n\
        [route.app.rule.gold]\npath = \"/gold\"\nauth = { api_key = { header = \"x-api-key\" }, basic = {}, groups = [\"gold\"] }\n\
        [route.app.rule.free]\npath = \"/free\"\nrelax = [\"auth\"]\n";
    let objects = format!("{CONSUMERS}[defaults]\nmay_relax = [\"auth\"]\n");
    let (gateway, origin) = edge(&consumer_files(), &objects, rest).await;
    let key = "X-Api-Key: acme-key-0123456789abcdef";
    let password = "Authorization: Basic Y2Fyb2w6c2VjcmV0";
    for (path, field, status) in [
        ("/", key, 200),
        ("/", "X-Api-Key: acme-key-0123456789abcdee", 401),
        ("/", "X-Other: 1", 401),
        ("/", "Authorization: Basic Y2Fyb2w6d3Jvbmc=", 401),
        ("/", password, 200),
        ("/gold", key, 200),
        ("/gold", password, 403),
        ("/free", "X-Other: 1", 200),
    ] {
        let response = ask(&gateway, &format!("GET {path} HTTP/1.1\r\nHost: a\r\n{field}")).await;
        assert_eq!(response.status, status, "{path} {field}");
        assert_eq!(response.header("www-authenticate").is_some(), status == 401, "{path} {field}");
    }
    gateway.recorded("the log knows who it was", |record| record["subject"] == "carol").await;
    assert!(origin.requests().iter().any(|seen| seen.header("x-consumer") == Some("acme")));
    assert!(origin.requests().iter().any(|seen| seen.header("x-consumer") == Some("carol")));
}

#[tokio::test]
async fn addresses_are_allowed_and_denied_at_every_level() {
    let files = [("bad.txt", "# known trouble\n192.0.2.0/24\n2001:db8:bad::/48\n".to_owned())];
    let objects = "[defaults]\nip.deny_file = \"bad.txt\"\n";
    let rest = "[route.app.rule.inside]\npath = \"/inside\"\nip.allow = [\"10.0.0.0/8\", \"192.0.2.7\"]\n";
    let (gateway, _origin) = edge(&files, objects, rest).await;
    for (path, from, status) in [
        ("/", "198.51.100.1", 200),
        ("/", "192.0.2.7", 403),
        ("/", "2001:db8:bad::1", 403),
        ("/inside", "10.1.2.3", 200),
        ("/inside", "198.51.100.1", 403),
        ("/inside", "192.0.2.7", 403),
    ] {
        let response = ask(&gateway, &format!("GET {path} HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {from}")).await;
        assert_eq!(response.status, status, "{path} from {from}");
    }
    gateway.counts("portcullis_refusals_total", &["ip_denied"], 3.0).await;
    gateway.counts("portcullis_refusals_total", &["ip_not_allowed"], 1.0).await;
}

#[tokio::test]
async fn certificates_open_what_asks_for_their_names() {
    let (authority, clients) = (Authority::new("edge"), Authority::new("clients"));
    let origin = Origin::fixed("ok").await;
    let folder = tempfile::tempdir().unwrap();
    authority.leaf(&["a.test"]).write(folder.path(), "a");
    std::fs::write(folder.path().join("clients.pem"), &clients.certificate_pem).unwrap();
    let config = format!(
        "[certificate.a]\ncert = {{ file = \"a.crt\" }}\nkey = {{ file = \"a.key\" }}\n[trust.clients]\nca = {{ file = \"clients.pem\" }}\n\
         [listener.https]\naddress = \"127.0.0.1:0\"\nprotocol = \"https\"\ntls = {{ client_auth = \"optional\", trust = \"clients\" }}\n[upstream.app]\nendpoints = [\"{}\"]\n\
         [route.app]\nupstream = \"app\"\n[route.app.rule.ops]\npath = \"/ops\"\nauth.client_cert.san = [\"spiffe://corp/ops/*\"]\n",
        origin.addr
    );
    let gateway = Gateway::start_in(folder, &config).await;
    for (name, path, status) in [
        (None, "/", 200),
        (None, "/ops", 403),
        (Some("spiffe://corp/ops/alice"), "/ops", 200),
        (Some("spiffe://corp/dev/bob"), "/ops", 403),
    ] {
        let tls = match name {
            None => tls_config(&authority.certificate_pem, &["http/1.1"]),
            Some(name) => {
                let own = clients.leaf(&[name]);
                tls_config_with(&authority.certificate_pem, &own.certificate_pem, &own.key_pem, &["http/1.1"])
            }
        };
        let mut client = Client::tls(gateway.addr("https"), "a.test", tls).await.unwrap();
        assert_eq!(client.get("a.test", path).await.status, status, "{name:?} {path}");
    }
}

#[tokio::test]
async fn an_external_authority_decides_in_its_own_words() {
    let authority = Origin::start(|seen: &Seen| {
        let allowed = seen.path().starts_with("/check/open") || seen.header("authorization") == Some("sesame");
        if allowed {
            return b"HTTP/1.1 200 OK\r\nX-User: alice\r\nX-Other: no\r\nContent-Length: 0\r\n\r\n".to_vec();
        }
        b"HTTP/1.1 451 No\r\nX-Why: because\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\nnope".to_vec()
    })
    .await;
    let authz = |extra: &str| {
        format!(
            "authz = {{ http = \"http://{}/check\", response_headers = [\"x-user\", \"x-why\"]{extra} }}",
            authority.addr
        )
    };
    let (gateway, origin) = edge(&[], "", &authz("")).await;
    let denied = ask(&gateway, "GET /x HTTP/1.1\r\nHost: a").await;
    assert_eq!((denied.status, denied.header("x-why"), denied.text()), (451, Some("because"), "nope".to_owned()));
    gateway.counts("portcullis_refusals_total", &["authz_denied"], 1.0).await;
    assert!(origin.requests().is_empty());
    let allowed = ask(&gateway, "GET /x?q=1 HTTP/1.1\r\nHost: a\r\nAuthorization: sesame\r\nX-User: root").await;
    assert_eq!(allowed.status, 200);
    assert_eq!((origin.last().all("x-user"), origin.last().header("x-other")), (vec!["alice"], None));
    assert_eq!(authority.last().path(), "/check/x?q=1");

    let (gateway, origin) = edge(&[], "", &authz(", body = \"16KiB\"")).await;
    let post = |length: usize| {
        format!("POST /open HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{}", "b".repeat(length))
    };
    for length in [1, 100, 16 << 10] {
        let mut client = Client::connect(gateway.addr("http")).await;
        client.send(post(length)).await;
        assert_eq!(client.response().await.status, 200, "{length}");
        assert_eq!((authority.last().body.len(), origin.last().body.len()), (length, length));
    }
    let mut client = Client::connect(gateway.addr("http")).await;
    client.send("POST /open HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n").await;
    assert_eq!(client.response().await.status, 200);
    assert_eq!((authority.last().body, origin.last().body), (b"hello".to_vec(), b"hello".to_vec()));
    let mut client = Client::connect(gateway.addr("http")).await;
    client.send(post((16 << 10) + 1)).await;
    assert_eq!(client.response().await.status, 413);
}

#[tokio::test]
async fn a_dead_authority_fails_as_configured() {
    for (on_fail, status) in [("", 503), (", on_fail = \"deny\"", 503), (", on_fail = \"allow\"", 200)] {
        let rest = format!("authz = {{ http = \"http://127.0.0.1:1\"{on_fail} }}");
        let (gateway, _origin) = edge(&[], "", &rest).await;
        let response = ask(&gateway, "GET / HTTP/1.1\r\nHost: a").await;
        assert_eq!(response.status, status, "{on_fail}");
    }
}

#[tokio::test]
async fn credentials_that_name_nobody_are_refused_at_check() {
    let folder = tempfile::tempdir().unwrap();
    for (text, message) in [
        (
            "[route.app]\nupstream = \"app\"\nauth.jwt = \"korp\"\n[identity.corp]\nissuer = \"https://id.test\"\naudiences = [\"a\"]\n",
            "did you mean `corp`?",
        ),
        ("[route.app]\nupstream = \"app\"\nmatch.claims = { a = \"b\" }\n", "no token is taken here"),
        ("[route.app]\nupstream = \"app\"\nauth = {}\n", "auth"),
        ("[route.app]\nupstream = \"app\"\nip = {}\n", "ip"),
        ("[route.app]\nupstream = \"app\"\nauthz = {}\n", "no authority is named"),
        (
            "[identity.corp]\nissuer = \"http://id.test\"\naudiences = [\"a\"]\n[route.app]\nupstream = \"app\"\n",
            "in the clear",
        ),
    ] {
        let base = "[listener.http]\naddress = \"127.0.0.1:0\"\n[upstream.app]\nendpoints = [\"127.0.0.1:1\"]\n";
        std::fs::write(folder.path().join("edge.toml"), format!("{base}{text}")).unwrap();
        let (code, out) = run_in(folder.path(), &["check", "edge.toml"]).await;
        assert!(code == 1 && out.contains(message), "{message}\n{out}");
    }
}
