//! Against a listener of our own on a free port, with a clock that only tests move.

use super::*;
use crate::{
    Claims, FetchError, IdentitySpec, JwtRefusal,
    signer::{Signer, key_set},
};
use portcullis_config::{Context, Path};
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::atomic::{AtomicI64, AtomicUsize, Ordering},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

const START: i64 = 1_800_000_000;

/// Time stands still until a test moves it.
struct TestClock {
    now: AtomicI64,
    moved: watch::Sender<()>,
}

impl TestClock {
    fn new() -> Arc<Self> {
        Arc::new(Self { now: AtomicI64::new(START), moved: watch::channel(()).0 })
    }
    fn advance(&self, seconds: i64) {
        self.now.fetch_add(seconds, Ordering::SeqCst);
        self.moved.send_replace(());
    }
}

impl RefreshClock for TestClock {
    fn now(&self) -> i64 {
        self.now.load(Ordering::SeqCst)
    }
    fn sleep(&self, span: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let until = self.now() + i64::try_from(span.as_secs()).unwrap();
        let mut moved = self.moved.subscribe();
        let reached = self.now() >= until;
        Box::pin(async move {
            // Woken early by any move; the refresher looks at the time again.
            if !reached {
                let _ = moved.changed().await;
            }
        })
    }
}

/// An issuer: whole answers by path, replaceable.
struct Issuer {
    address: SocketAddr,
    answers: Arc<Mutex<HashMap<String, Vec<u8>>>>,
    requests: Arc<AtomicUsize>,
}

impl Issuer {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let answers = Arc::new(Mutex::new(HashMap::<String, Vec<u8>>::new()));
        let requests = Arc::new(AtomicUsize::new(0));
        let (known, count) = (answers.clone(), requests.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, known.clone(), count.clone()));
            }
        });
        Self { address, answers, requests }
    }

    fn serve(&self, path: &str, raw: impl Into<Vec<u8>>) {
        self.answers.lock().unwrap().insert(path.to_owned(), raw.into());
    }

    fn serve_json(&self, path: &str, body: &str) {
        self.serve(path, format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
    }

    fn fail(&self, path: &str) {
        self.serve(path, "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n");
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

async fn answer(
    mut stream: impl AsyncRead_,
    answers: Arc<Mutex<HashMap<String, Vec<u8>>>>,
    requests: Arc<AtomicUsize>,
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(octet) => head.push(octet),
            Err(_) => return,
        }
    }
    requests.fetch_add(1, Ordering::SeqCst);
    let head = String::from_utf8(head).unwrap();
    let path = head.split(' ').nth(1).unwrap().to_owned();
    let raw = answers.lock().unwrap().get(&path).cloned();
    match raw {
        Some(raw) => {
            let _ = stream.write_all(&raw).await;
            let _ = stream.shutdown().await;
        }
        // Says nothing and keeps the connection.
        None => std::future::pending().await,
    }
}

trait AsyncRead_: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> AsyncRead_ for T {}

fn client(roots: rustls::RootCertStore) -> KeyClient {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    KeyClient::new(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}

fn identity(issuer: &str, jwks: Value) -> Arc<Identity> {
    let spec = json!({ "issuer": issuer, "audiences": ["shop"], "jwks": jwks });
    let spec: IdentitySpec = serde_json::from_value(spec).unwrap();
    let mut cx = Context::default();
    let identity = spec.compile(&"corp".parse().unwrap(), &Path::root(), &mut cx);
    Arc::new(identity.unwrap_or_else(|| panic!("{:?}", cx.report())))
}

fn token(signer: &Signer, kid: &str, issuer: &str) -> Vec<u8> {
    let payload = json!({ "iss": issuer, "aud": "shop", "exp": START + 1_000_000, "sub": "u1" });
    signer.token(&json!({ "alg": "ES256", "kid": kid }), &payload).into_bytes()
}

/// As a request does it.
async fn verify(handle: &KeyHandle, token: &[u8]) -> Result<Arc<Claims>, JwtRefusal> {
    match handle.identity().verify(token, START) {
        Err(JwtRefusal::UnknownKey | JwtRefusal::KeysUnavailable) => {
            handle.refreshed().await;
            handle.identity().verify(token, START)
        }
        outcome => outcome,
    }
}

async fn settled(handle: &KeyHandle, fetches: u64) -> KeyStatus {
    handle.status.clone().wait_for(|status| status.fetches >= fetches).await.unwrap().clone()
}

/// Gives every other task its turn.
async fn idle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn keys_are_found_through_the_issuer() {
    let issuer = Issuer::start().await;
    let key = Signer::p256();
    let url = issuer.url();
    let keys = format!("{url}/keys?v=1");
    issuer.serve_json("/.well-known/openid-configuration", &json!({ "issuer": url, "jwks_uri": keys }).to_string());
    issuer.serve_json("/keys?v=1", &key_set(&[key.jwk("1")]));
    let identity = identity(&url, json!({}));
    let (refresher, handle) =
        KeyRefresher::new(identity.clone(), client(rustls::RootCertStore::empty()), TestClock::new()).unwrap();
    assert_eq!(identity.verify(&token(&key, "1", &url), START), Err(JwtRefusal::KeysUnavailable));
    tokio::spawn(refresher.run(|| 0.0));
    // The first request waits for the first fetch.
    assert!(verify(&handle, &token(&key, "1", &url)).await.is_ok());
    assert_eq!(issuer.requests(), 2);
    assert_eq!(handle.status(), KeyStatus { fetches: 1, last_success: Some(START), error: None });
}

#[tokio::test]
async fn what_is_no_proper_key_set_of_this_issuer_is_refused() {
    let issuer = Issuer::start().await;
    let url = issuer.url();
    let set = key_set(&[Signer::p256().jwk("1")]);
    let metadata = "/.well-known/openid-configuration";
    let head = "HTTP/1.1 200 OK\r\n";
    let many: Vec<_> = (0..101).map(|at| Signer::p256().jwk(&at.to_string())).collect();
    let large = " ".repeat((1 << 20) + 1);
    let to_json = |body: &str| format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
    let chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{large}\r\n0\r\n\r\n", large.len());
    let named = |issuer: &str, keys: &str| to_json(&json!({ "issuer": issuer, "jwks_uri": keys }).to_string());
    for (path, raw, expected) in [
        ("/keys", to_json(&set), None),
        ("/keys", to_json(&key_set(&many)), Some("101 keys")),
        ("/keys", to_json("{}"), Some("not a JSON Web Key Set")),
        ("/keys", to_json("<html>"), Some("not a JSON Web Key Set")),
        ("/keys", to_json("{\"keys\":[]}"), Some("no key in it")),
        ("/keys", to_json(&key_set(&[Signer::Secret(vec![1; 64]).jwk("s")])), Some("shared secret was published")),
        ("/keys", to_json(&large), Some("larger than 1 MiB")),
        ("/keys", chunked, Some("larger than 1 MiB")),
        ("/keys", "HTTP/1.1 302 Found\r\nLocation: /k\r\nContent-Length: 0\r\n\r\n".into(), Some("status 302")),
        ("/keys", "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".into(), Some("status 404")),
        ("/keys", format!("{head}Content-Length: 5000\r\n\r\n{set}"), Some("no valid HTTP")),
        ("/keys", "SSH-2.0-x\r\n".into(), Some("no valid HTTP")),
        ("/keys", String::new(), Some("no valid HTTP")),
        (metadata, named("https://other.example", &format!("{url}/keys")), Some("of issuer \"https://other.example\"")),
        (metadata, named(&format!("{url}/"), &format!("{url}/keys")), Some("the metadata is of issuer")),
        (metadata, named(&url, "http://192.0.2.1/keys"), Some("in the clear")),
        (metadata, named(&url, "file:///etc/passwd"), Some("is not a URL")),
        (metadata, to_json("{}"), Some("no issuer metadata")),
        (metadata, to_json("[]"), Some("no issuer metadata")),
    ] {
        issuer.serve(path, raw.clone());
        let jwks = if path == "/keys" { json!({ "url": format!("{url}/keys") }) } else { json!({}) };
        let outcome = client(rustls::RootCertStore::empty()).fetch(&identity(&url, jwks)).await;
        let raw = &raw[..raw.len().min(200)];
        match (outcome, expected) {
            (Ok(_), None) => {}
            (Err(error), Some(text)) => assert!(error.to_string().contains(text), "{raw}: {error}"),
            (outcome, _) => panic!("{raw}: {outcome:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_issuer_that_does_not_answer_is_not_waited_for() {
    let issuer = Issuer::start().await;
    let identity = identity("corp", json!({ "url": format!("{}/silent", issuer.url()) }));
    let before = tokio::time::Instant::now();
    let outcome = client(rustls::RootCertStore::empty()).fetch(&identity).await;
    assert_eq!(outcome.unwrap_err(), FetchError::Timeout);
    assert!(before.elapsed() <= Duration::from_secs(6));
}

#[tokio::test]
async fn nobody_listening_is_said_so() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let identity = identity("corp", json!({ "url": format!("http://{free}/keys") }));
    let outcome = client(rustls::RootCertStore::empty()).fetch(&identity).await;
    assert!(matches!(outcome.unwrap_err(), FetchError::Connect(_, std::io::ErrorKind::ConnectionRefused)));
}

#[tokio::test]
async fn keys_are_fetched_again_in_time_and_a_rotation_is_seen_at_once() {
    let issuer = Issuer::start().await;
    let (old, new) = (Signer::p256(), Signer::p256());
    issuer.serve_json("/keys", &key_set(&[old.jwk("old")]));
    let identity = identity("corp", json!({ "url": format!("{}/keys", issuer.url()), "ttl": "1h" }));
    let clock = TestClock::new();
    let (refresher, handle) =
        KeyRefresher::new(identity.clone(), client(rustls::RootCertStore::empty()), clock.clone()).unwrap();
    tokio::spawn(refresher.run(|| 0.0));
    settled(&handle, 1).await;
    let (by_old, by_new) = (token(&old, "old", "corp"), token(&new, "new", "corp"));
    assert!(verify(&handle, &by_old).await.is_ok());

    // Within thirty seconds of a fetch nobody waits, however many invent key ids.
    issuer.serve_json("/keys", &key_set(&[new.jwk("new")]));
    for _ in 0..100 {
        assert_eq!(verify(&handle, &by_new).await, Err(JwtRefusal::UnknownKey));
    }
    assert_eq!(issuer.requests(), 1);

    // Then all who ask at the same time share one fetch.
    clock.advance(30);
    let all = (0..50).map(|_| {
        let (handle, token) = (handle.clone(), by_new.clone());
        tokio::spawn(async move { verify(&handle, &token).await.is_ok() })
    });
    for one in all.collect::<Vec<_>>() {
        assert!(one.await.unwrap());
    }
    assert_eq!(issuer.requests(), 2);
    assert_eq!(identity.verify(&by_old, START), Err(JwtRefusal::UnknownKey));

    // And without anybody asking, when the time is over.
    idle().await;
    clock.advance(3599);
    idle().await;
    assert_eq!(issuer.requests(), 2);
    clock.advance(1);
    settled(&handle, 3).await;
    assert_eq!(issuer.requests(), 3);
}

#[tokio::test]
async fn old_keys_serve_while_the_issuer_fails_but_not_for_ever() {
    let issuer = Issuer::start().await;
    let key = Signer::p256();
    issuer.serve_json("/keys", &key_set(&[key.jwk("1")]));
    let jwks = json!({ "url": format!("{}/keys", issuer.url()), "ttl": "1h", "stale": "2h" });
    let identity = identity("corp", jwks);
    let clock = TestClock::new();
    let (refresher, handle) =
        KeyRefresher::new(identity.clone(), client(rustls::RootCertStore::empty()), clock.clone()).unwrap();
    tokio::spawn(refresher.run(|| 0.0));
    settled(&handle, 1).await;
    let token = token(&key, "1", "corp");
    issuer.fail("/keys");
    let mut fetches = 1;
    for (advance, ok) in [(3600, true), (60, true), (7000, true), (139, true), (60, false)] {
        idle().await;
        clock.advance(advance);
        fetches += 1;
        let status = settled(&handle, fetches).await;
        assert!(status.error.unwrap().contains("status 503"));
        assert_eq!(identity.verify(&token, clock.now()).is_ok(), ok, "after {advance} more");
    }
    assert_eq!(identity.verify(&token, clock.now()), Err(JwtRefusal::KeysUnavailable));
    issuer.serve_json("/keys", &key_set(&[key.jwk("1")]));
    clock.advance(60);
    let status = settled(&handle, fetches + 1).await;
    assert_eq!(status.error, None);
    assert!(identity.verify(&token, clock.now()).is_ok());
}

#[tokio::test]
async fn a_reload_keeps_what_was_fetched_from_the_same_place() {
    let issuer = Issuer::start().await;
    let key = Signer::p256();
    issuer.serve_json("/keys", &key_set(&[key.jwk("1")]));
    let jwks = json!({ "url": format!("{}/keys", issuer.url()) });
    let first = identity("corp", jwks.clone());
    first.set_keys(client(rustls::RootCertStore::empty()).fetch(&first).await.unwrap(), START);
    let token = token(&key, "1", "corp");
    let same = identity("corp", jwks.clone());
    same.adopt(&first);
    assert!(same.verify(&token, START).is_ok());
    for other in [identity("corp", json!({ "url": "https://id.example.com/keys" })), identity("other", jwks)] {
        other.adopt(&first);
        assert!(!other.has_keys(START));
    }
}

#[tokio::test]
async fn the_task_ends_with_its_last_handle() {
    let issuer = Issuer::start().await;
    issuer.serve_json("/keys", &key_set(&[Signer::p256().jwk("1")]));
    let identity = identity("corp", json!({ "url": format!("{}/keys", issuer.url()) }));
    let (refresher, handle) =
        KeyRefresher::new(identity, client(rustls::RootCertStore::empty()), TestClock::new()).unwrap();
    let task = tokio::spawn(refresher.run(|| 0.0));
    settled(&handle, 1).await;
    drop(handle);
    task.await.unwrap();
}

#[tokio::test]
async fn nobody_waits_for_a_task_that_is_gone() {
    let identity = identity("corp", json!({ "url": "https://id.example.com/keys" }));
    let (refresher, handle) =
        KeyRefresher::new(identity, client(rustls::RootCertStore::empty()), TestClock::new()).unwrap();
    drop(refresher);
    assert_eq!(verify(&handle, &token(&Signer::p256(), "1", "corp")).await, Err(JwtRefusal::KeysUnavailable));
}

#[test]
fn metadata_fetched_over_tls_cannot_have_us_ask_our_own_services() {
    let (tls, clear) = ("https://id.example.com/m", "http://127.0.0.1/m");
    for (from, keys, ok) in [
        (tls, "https://id.example.com/keys", true),
        (tls, "https://cdn.example.com/keys", true),
        (tls, "http://127.0.0.1:8080/keys", false),
        (tls, "http://localhost/keys", false),
        (tls, "http://id.example.com/keys", false),
        (clear, "http://127.0.0.1:8080/keys", true),
        (clear, "https://id.example.com/keys", true),
        (clear, "http://id.example.com/keys", false),
    ] {
        let metadata = json!({ "issuer": "corp", "jwks_uri": keys }).to_string();
        let found = crate::key_client::keys_url(metadata.as_bytes(), "corp", &from.parse().unwrap());
        assert_eq!(found.is_ok(), ok, "{from} {keys}");
    }
}

#[tokio::test]
async fn https_is_verified() {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let der = certified.cert.der().clone();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let server = server.with_no_client_auth().with_single_cert(vec![der.clone()], key.into()).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let set = key_set(&[Signer::p256().jwk("1")]);
    let raw = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{set}", set.len());
    let answers = Arc::new(Mutex::new(HashMap::from([("/keys".to_owned(), raw.into_bytes())])));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if let Ok(stream) = acceptor.accept(stream).await {
                tokio::spawn(answer(stream, answers.clone(), Arc::default()));
            }
        }
    });
    let identity = identity("corp", json!({ "url": format!("https://localhost:{port}/keys") }));
    let mut roots = rustls::RootCertStore::empty();
    assert!(matches!(client(roots.clone()).fetch(&identity).await.unwrap_err(), FetchError::Tls(..)));
    roots.add(der).unwrap();
    assert_eq!(client(roots).fetch(&identity).await.unwrap().len(), 1);
}
