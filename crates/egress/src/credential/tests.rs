use super::*;
use crate::{
    AddressPolicy, AnswerTable, Binding, EgressPolicy, Facts, FirstOctets, Host, Reason, Resolved, Resolver, Target,
    bind,
    sample::{noon, policy},
};
use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

const CANARY: &str = "canary-7f3a91";

const POLICY: &str = r#"
[destination.api]
hosts      = ["api.example.com"]
tls        = "originate"
credential = "key"
[destination.other]
hosts = ["other.example.com"]
tls   = "originate"
[access.all]
from   = ["*"]
to     = ["destination:api", "destination:other"]
action = "allow"
"#;

fn bound(policy: &EgressPolicy, target: &str) -> Bound {
    let target = Target::parse(target).unwrap();
    let request = Request::Seen { method: "GET", path: "/" };
    let caller = Caller::from_address([10, 0, 0, 1].into());
    let permit = policy.decide(&Facts { caller, target: &target, request }, noon()).permit().unwrap();
    let resolved = Resolved::new(target.host().clone(), [[8, 8, 8, 8].into()].into());
    match bind(permit, &FirstOctets::Http, &resolved) {
        Binding::Bound(bound) => bound,
        other => panic!("{other:?}"),
    }
}

/// The credential `key`, its secrets in files, with what was found wrong.
fn compile(text: &str) -> (Credentials, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, octets: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, octets).unwrap();
        path.display().to_string()
    };
    let good = file("good", format!("{CANARY}\n").as_bytes());
    let bad = file("bad", format!("{CANARY}\r\nx: y").as_bytes());
    let empty = file("empty", b"\n");
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let pem = file("pem", key.serialize_pem().as_bytes());
    let text = text
        .replace("GOOD", &format!("{{ file = \"{good}\" }}"))
        .replace("BAD", &format!("{{ file = \"{bad}\" }}"))
        .replace("EMPTY", &format!("{{ file = \"{empty}\" }}"))
        .replace("PEM", &format!("{{ file = \"{pem}\" }}"));
    let spec: CredentialSpec = toml::from_str(&text).unwrap();
    let mut cx = Context::default();
    let specs = BTreeMap::from([("key".parse().unwrap(), spec)]);
    let credentials = Credentials::compile(&specs, &["client"], &mut cx);
    let (report, _) = cx.finish();
    let errors = report.problems().iter().filter(|problem| problem.level == portcullis_config::Level::Error);
    let problems = errors.map(|problem| format!("{}: {}", problem.path, problem.message)).collect();
    (credentials, problems)
}

fn credential(text: &str) -> Arc<Credential> {
    let (credentials, problems) = compile(text);
    assert!(problems.is_empty(), "{text}: {problems:?}");
    credentials.of(&bound(&policy(POLICY), "api.example.com:443")).unwrap().clone()
}

fn parts<'a>(method: &'a str, authority: &'a str, target: &'a str) -> SignedParts<'a> {
    SignedParts { method, authority, target, payload: Payload::Unsigned }
}

fn caller() -> Caller<'static> {
    Caller { user: Some("ci"), ..Caller::from_address([10, 0, 0, 1].into()) }
}

fn value(application: &Application, name: &str) -> Option<String> {
    let Application::Changes(changes) = application else { return None };
    changes.value_of(name).map(|value| String::from_utf8(value.to_vec()).unwrap())
}

#[test]
fn what_the_client_sent_is_removed_and_the_secret_is_set() {
    let policy = policy(POLICY);
    let bound = bound(&policy, "api.example.com:443");
    for (text, name, expected) in [
        ("header = { name = \"X-Api-Key\", value = GOOD }", "x-api-key", CANARY.to_owned()),
        (
            "header = { name = \"authorization\", prefix = \"Bearer \", value = GOOD }",
            "authorization",
            format!("Bearer {CANARY}"),
        ),
        ("basic = { user = \"u\", password = GOOD }", "authorization", "Basic dTpjYW5hcnktN2YzYTkx".to_owned()),
    ] {
        let credential = credential(&format!("strip = [\"Cookie\"]\n{text}"));
        let applied = credential.apply(&bound, &caller(), &parts("GET", "api.example.com", "/x"), noon());
        assert_eq!(value(&applied, name), Some(expected), "{text}");
        let Application::Changes(changes) = &applied else { panic!("{applied:?}") };
        let removed: Vec<&str> = changes.removals().collect();
        assert!(removed.contains(&"authorization") && removed.contains(&"cookie") && removed.contains(&name));
    }
    let aws = credential(
        "aws_sigv4 = { access_key_id = \"AKID\", secret_access_key = GOOD, session_token = GOOD, region = \"eu\", service = \"s3\" }",
    );
    let applied = aws.apply(&bound, &caller(), &parts("GET", "api.example.com", "/x"), noon());
    let authorization = value(&applied, "authorization").unwrap();
    assert!(authorization.starts_with("AWS4-HMAC-SHA256 Credential=AKID/20261121/eu/s3/aws4_request, SignedHeaders=host;x-amz-content-sha256;x-amz-date;x-amz-security-token, "));
    assert_eq!(value(&applied, "x-amz-content-sha256").unwrap(), "UNSIGNED-PAYLOAD");
    let client = credential("client_certificate = \"client\"");
    let applied = client.apply(&bound, &caller(), &parts("GET", "api.example.com", "/x"), noon());
    assert!(matches!(applied, Application::NeedsCertificate(name, _) if name.as_str() == "client"));
}

#[test]
fn the_secret_stays_within_its_scope() {
    let policy = policy(POLICY);
    let text = "from = [\"user:ci\"]\nmethods = [\"GET\"]\npaths = [\"/v1\", \"/v2/x\"]\nheader = { name = \"authorization\", value = GOOD }";
    let credential = credential(text);
    let (api, other) = (bound(&policy, "api.example.com:443"), bound(&policy, "other.example.com:443"));
    let nobody = Caller::from_address([10, 0, 0, 1].into());
    for (bound, caller, method, authority, target, in_scope) in [
        (&api, caller(), "GET", "api.example.com", "/v1/charges?x=1", true),
        (&api, caller(), "GET", "api.example.com:443", "/v2/x", true),
        (&api, caller(), "GET", "api.example.com", "/v2", false),
        (&api, caller(), "GET", "api.example.com", "/v1/../admin", false),
        (&api, caller(), "POST", "api.example.com", "/v1", false),
        (&api, nobody, "GET", "api.example.com", "/v1", false),
        // A Host that was rewritten, and a redirect that was followed to another host.
        (&api, caller(), "GET", "evil.example", "/v1", false),
        (&other, caller(), "GET", "other.example.com", "/v1", false),
        (&other, caller(), "GET", "api.example.com", "/v1", false),
    ] {
        let applied = credential.apply(bound, &caller, &parts(method, authority, target), noon());
        assert_eq!(matches!(applied, Application::Changes(_)), in_scope, "{method} {authority}{target}");
    }
    let reporting = POLICY.replace("action = \"allow\"", "action = \"report\"");
    let reported = bound(&crate::sample::policy(&reporting), "api.example.com:443");
    let applied = credential.apply(&reported, &caller(), &parts("GET", "api.example.com", "/v1"), noon());
    assert!(matches!(applied, Application::OutOfScope), "{applied:?}");
    let (credentials, _) = compile(text);
    assert!(credentials.of(&api).is_some() && credentials.of(&other).is_none());
}

#[test]
fn mistakes_are_found_and_no_secret_is_in_a_message_or_in_debug() {
    for (text, expected) in [
        ("header = { name = \"x\", value = BAD }", "credential.key.header.value: the secret has line breaks"),
        ("header = { name = \"x\", value = EMPTY }", "credential.key.header.value: the secret is empty"),
        ("header = { name = \"host\", value = GOOD }", "credential.key.header.name: `host` frames or routes"),
        ("basic = { user = \"a:b\", password = GOOD }", "credential.key.basic.user: a user name has no colon"),
        ("", "credential.key: a credential is of exactly one kind"),
        (
            "client_certificate = \"client\"\nheader = { name = \"x\", value = GOOD }",
            "credential.key: a credential is of exactly one kind",
        ),
        ("client_certificate = \"nope\"", "credential.key.client_certificate: certificate \"nope\" is not defined"),
        (
            "oauth2 = { token_url = \"http://id.example/t\", client_id = \"a\", client_secret = GOOD }",
            "credential.key.oauth2.token_url: `http://id.example/t` would be fetched in the clear",
        ),
        (
            "oauth2 = { token_url = \"https://id.example/t\", client_id = \"a\", client_secret = GOOD, scopes = [\"a b\"] }",
            "credential.key.oauth2.scopes: \"a b\" is not one scope",
        ),
        (
            "signed_jwt = { token_url = \"https://id.example/t\", issuer = \"a\", key = GOOD, algorithm = \"ES256\" }",
            "credential.key.signed_jwt.key: the file is no private key",
        ),
        (
            "signed_jwt = { token_url = \"https://id.example/t\", issuer = \"a\", key = PEM, algorithm = \"RS256\" }",
            "credential.key.signed_jwt.key: the file is no private key",
        ),
        ("from = [\"me\"]\nclient_certificate = \"client\"", "credential.key.from[0]: `me` is nobody"),
        ("paths = [\"x\"]\nclient_certificate = \"client\"", "credential.key.path: `x` is not a path prefix"),
    ] {
        let (credentials, problems) = compile(text);
        assert!(problems.iter().any(|problem| problem.starts_with(expected)), "{text}: {problems:?}");
        assert!(!format!("{problems:?}{credentials:?}").contains(CANARY), "{text}");
    }
    for text in [
        "header = { name = \"x\", value = GOOD }",
        "basic = { user = \"u\", password = GOOD }",
        "aws_sigv4 = { access_key_id = \"A\", secret_access_key = GOOD, session_token = GOOD, region = \"r\", service = \"s3\" }",
        "oauth2 = { token_url = \"https://id.example/t\", client_id = \"a\", client_secret = GOOD }",
    ] {
        let credential = credential(text);
        let bound = bound(&policy(POLICY), "api.example.com:443");
        let applied = credential.apply(&bound, &caller(), &parts("GET", "api.example.com", "/"), noon());
        let shown = format!("{credential:?} {applied:?}");
        for needle in [CANARY, "dTpjYW5hcnktN2YzYTkx", "99, 97, 110, 97, 114"] {
            assert!(!shown.contains(needle), "{shown}");
        }
    }
}

#[test]
fn token_answers_are_taken_as_the_rfc_says() {
    for (body, lasts) in [
        (r#"{"access_token":"t","token_type":"Bearer","expires_in":60}"#, Some(60)),
        (r#"{"access_token":"t","token_type":"bearer","expires_in":"60"}"#, Some(60)),
        (r#"{"access_token":"t","token_type":"bearer"}"#, Some(300)),
        (r#"{"access_token":"t","token_type":"bearer","expires_in":0}"#, Some(1)),
        (r#"{"access_token":"t","token_type":"bearer","expires_in":-5}"#, Some(300)),
        (r#"{"access_token":"t","token_type":"bearer","expires_in":999999999}"#, Some(86_400)),
        (r#"{"access_token":"t","token_type":"mac"}"#, None),
        (r#"{"access_token":"","token_type":"bearer"}"#, None),
        (r#"{"access_token":"a\r\nb","token_type":"bearer"}"#, None),
        (r#"{"token_type":"bearer"}"#, None),
        (r#"{"access_token":7,"token_type":"bearer"}"#, None),
        ("<html>", None),
        ("", None),
    ] {
        let found = token::parse_answer(body.as_bytes()).ok().map(|token| token.lasts.as_secs());
        assert_eq!(found, lasts, "{body}");
    }
}

/// Answers in turn, and counts; keeps what it was sent.
async fn token_server(answers: Vec<&'static str>) -> (u16, Arc<AtomicU32>, Arc<tokio::sync::Mutex<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (asked, last) = (Arc::new(AtomicU32::new(0)), Arc::new(tokio::sync::Mutex::new(String::new())));
    let (count, sent) = (asked.clone(), last.clone());
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut text = String::new();
            let mut buffer = [0; 4096];
            while !text.contains("\r\n\r\n") || !text.contains("grant_type=") {
                let read = stream.read(&mut buffer).await.unwrap();
                text += &String::from_utf8_lossy(&buffer[..read]);
            }
            *sent.lock().await = text;
            let at = count.fetch_add(1, Ordering::Relaxed) as usize;
            let answer = answers.get(at).or(answers.last()).unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    (port, asked, last)
}

const FIRST: &str = "HTTP/1.1 200 OK\r\ncontent-length: 63\r\n\r\n{\"access_token\":\"first\",\"token_type\":\"Bearer\",\"expires_in\":100}\n";
const SECOND: &str = "HTTP/1.1 200 OK\r\ncontent-length: 64\r\n\r\n{\"access_token\":\"second\",\"token_type\":\"Bearer\",\"expires_in\":100}\n";
const BROKEN: &str = "HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n";

fn source(text: &str) -> Arc<TokenSource> {
    let credential = credential(text);
    let bound = bound(&policy(POLICY), "api.example.com:443");
    match credential.apply(&bound, &caller(), &parts("GET", "api.example.com", "/"), noon()) {
        Application::NeedsToken(source) => source,
        other => panic!("{other:?}"),
    }
}

fn client() -> TokenClient {
    portcullis_tls::install_provider();
    TokenClient {
        resolver: Arc::new(Resolver::from_table(AnswerTable::default())),
        addresses: Arc::new(AddressPolicy::default()),
        tls: portcullis_tls::system_client(),
    }
}

fn start() -> Instant {
    Instant::now()
}

#[tokio::test]
async fn a_token_is_fetched_once_and_renewed_at_four_fifths_of_its_time() {
    let (port, asked, sent) = token_server(vec![FIRST, BROKEN, SECOND]).await;
    let source = source(&format!(
        "oauth2 = {{ token_url = \"http://127.0.0.1:{port}/t\", client_id = \"a b\", client_secret = GOOD, scopes = [\"r\", \"w\"], private_addresses = [\"127.0.0.0/8\"] }}"
    ));
    let (tokens, client, start) = (Tokens::default(), client(), start());
    let at = |seconds: u64| tokens.bearer(&source, &client, start + Duration::from_secs(seconds), noon(), 1);
    let text = |token: Result<Secret, TokenError>| String::from_utf8(token.unwrap().expose().to_vec()).unwrap();
    let (one, two, three) = tokio::join!(at(0), at(0), at(0));
    assert_eq!((text(one), text(two), text(three)), ("first".into(), "first".into(), "first".into()));
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    assert_eq!(text(at(79).await), "first");
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    // The endpoint is in trouble: the old token is still good, and the endpoint is left alone for a while.
    assert_eq!((text(at(80).await), text(at(81).await)), ("first".into(), "first".into()));
    assert_eq!(asked.load(Ordering::Relaxed), 2);
    assert_eq!(text(at(91).await), "second");
    assert_eq!(asked.load(Ordering::Relaxed), 3);
    let sent = sent.lock().await.clone();
    assert!(sent.contains("grant_type=client_credentials&scope=r%20w"), "{sent}");
    // `a%20b:canary-7f3a91`
    assert!(sent.to_lowercase().contains("authorization: basic ysuymgi6y2fuyxj5ltdmm2e5mq=="), "{sent}");
}

#[tokio::test]
async fn a_token_endpoint_is_checked_like_any_destination() {
    let (port, asked, _) = token_server(vec![FIRST]).await;
    let source = source(&format!(
        "oauth2 = {{ token_url = \"http://127.0.0.1:{port}/t\", client_id = \"a\", client_secret = GOOD }}"
    ));
    let refused = Tokens::default().bearer(&source, &client(), start(), noon(), 1).await;
    assert_eq!(refused.unwrap_err(), TokenError::Unreachable(Reason::PrivateAddress));
    assert_eq!(asked.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_failure_is_not_asked_again_at_once_and_redirects_are_not_followed() {
    let moved = "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n";
    let (port, asked, sent) = token_server(vec![moved, FIRST]).await;
    let source = source(&format!(
        "signed_jwt = {{ token_url = \"http://127.0.0.1:{port}/t\", issuer = \"me\", key = PEM, key_id = \"k1\", algorithm = \"ES256\", private_addresses = [\"127.0.0.0/8\"] }}"
    ));
    let (tokens, client, start) = (Tokens::default(), client(), start());
    let at = |seconds: u64| tokens.bearer(&source, &client, start + Duration::from_secs(seconds), noon(), 7);
    assert_eq!(at(0).await.unwrap_err(), TokenError::Status(302));
    assert_eq!(at(1).await.unwrap_err(), TokenError::Status(302));
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    assert_eq!(at(2).await.unwrap().expose(), b"first");
    let sent = sent.lock().await.clone();
    let assertion = sent.split("&assertion=").nth(1).unwrap();
    let decode = |part: &str| -> serde_json::Value {
        serde_json::from_slice(&base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
    };
    let mut segments = assertion.split('.');
    let (header, claims) = (decode(segments.next().unwrap()), decode(segments.next().unwrap()));
    assert_eq!((header["alg"].as_str(), header["kid"].as_str()), (Some("ES256"), Some("k1")));
    assert_eq!((claims["iss"].as_str(), claims["sub"].as_str()), (Some("me"), Some("me")));
    assert_eq!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(), 300);
    assert_eq!(Host::parse("127.0.0.1").is_ok(), claims["aud"].as_str().unwrap().ends_with("/t"));
}

#[test]
fn assertions_verify_under_the_public_key() {
    use aws_lc_rs::signature::{self, UnparsedPublicKey};
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let pem = Secret::new(key.serialize_pem().into_bytes());
    let signer = assertion_key::AssertionKey::read(JwtAlgorithm::EdDSA, &pem).unwrap();
    let signed = signer.sign(None, &serde_json::json!({ "iss": "a" })).unwrap();
    let text = std::str::from_utf8(signed.expose()).unwrap();
    let (message, signature) = text.rsplit_once('.').unwrap();
    let signature = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(signature).unwrap();
    let public = UnparsedPublicKey::new(&signature::ED25519, key.public_key_raw());
    assert!(public.verify(message.as_bytes(), &signature).is_ok());
    assert!(assertion_key::AssertionKey::read(JwtAlgorithm::ES256, &pem).is_none());
}
