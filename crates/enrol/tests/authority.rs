//! Workloads and the authority's endpoint, over real sockets; only the clock is the test's.

#![allow(clippy::unwrap_used)]

use portcullis_ca::{AuthorityLife, Folder, LeafLife, Overwrite, TokenUse};
use portcullis_enrol::{Clock, Endpoint, Follower, Pace, Progress};
use portcullis_mesh::{AuthoritySource, IdentitySource, OwnIdentity};
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};
use time::OffsetDateTime;
use tokio::{net::TcpListener, task::JoinHandle};

const HOUR: u64 = 3_600;

struct Mesh {
    folder: tempfile::TempDir,
    ahead: Arc<AtomicU64>,
    address: String,
    serving: JoinHandle<()>,
}

struct Sidecar {
    own: Arc<OwnIdentity>,
    follower: Follower,
}

impl Mesh {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (ca, now) = (Folder::new(folder.path().join("ca")), OffsetDateTime::now_utc());
        ca.init(&"corp".parse().unwrap(), AuthorityLife::ROOT, Overwrite::Never, now).unwrap();
        ca.intermediate(&"acme".parse().unwrap(), AuthorityLife::INTERMEDIATE, Overwrite::Never, now).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let mut mesh = Self { folder, ahead: Arc::default(), address, serving: tokio::spawn(async {}) };
        mesh.serve(listener);
        mesh
    }

    fn serve(&mut self, listener: TcpListener) {
        let endpoint = Endpoint::new(self.ca(), "acme".parse().unwrap(), LeafLife::default(), self.clock()).unwrap();
        self.serving = tokio::spawn(Arc::new(endpoint).serve(listener));
    }

    fn ca(&self) -> Folder {
        Folder::new(self.at("ca"))
    }

    fn at(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn clock(&self) -> Clock {
        let (began, ahead) = (SystemTime::now(), self.ahead.clone());
        Clock::from_fn(move || began + Duration::from_secs(ahead.load(Ordering::Relaxed)))
    }

    fn token(&self, service: &str) -> std::path::PathBuf {
        let ahead = Duration::from_secs(self.ahead.load(Ordering::Relaxed));
        let (namespace, now) = ("acme".parse().unwrap(), OffsetDateTime::now_utc() + ahead);
        let made = self.ca().new_token(&namespace, service, time::Duration::HOUR, TokenUse::Once, now);
        let file = self.at(&format!("{service}.token"));
        std::fs::write(&file, made.unwrap().1 + "\n").unwrap();
        file
    }

    fn sidecar(&self, service: &str, edit: impl FnOnce(&mut AuthoritySource)) -> Sidecar {
        let id = |service: &str| format!("spiffe://corp/ns/acme/sa/{service}").parse().unwrap();
        let own = Arc::new(OwnIdentity::new(id(service)));
        let mut client = AuthoritySource {
            address: self.address.clone(),
            server: id("authority"),
            roots: self.at("ca/root.crt"),
            token: Some(self.at(&format!("{service}.token"))),
            keep: self.at(&format!("{service}.json")),
        };
        edit(&mut client);
        let millis = Duration::from_millis;
        let pace = Pace { look: millis(5), trust: Duration::from_secs(300), retry: millis(5), retry_most: millis(50) };
        Sidecar { follower: Follower::start(IdentitySource::Authority(client), own.clone(), self.clock(), pace), own }
    }
}

impl Sidecar {
    async fn until(&self, what: &str, good: impl FnMut(&Progress) -> bool) -> Progress {
        let mut changes = self.follower.changes();
        let seen = tokio::time::timeout(Duration::from_secs(20), changes.wait_for(good)).await;
        seen.unwrap_or_else(|_| panic!("{what}: {:?}", self.follower.progress())).unwrap().clone()
    }

    async fn trouble(&self, words: &str) {
        self.until(words, |progress| progress.trouble.as_ref().is_some_and(|why| why.contains(words))).await;
    }
}

#[tokio::test]
async fn a_token_gives_the_first_certificate_and_each_certificate_the_next_also_over_restarts() {
    let mesh = Mesh::new().await;
    mesh.token("cart");
    let cart = mesh.sidecar("cart", |_| {});
    cart.until("the first", |progress| progress.taken == 1).await;
    let first = cart.own.current().unwrap();
    assert_eq!(first.id().as_str(), "spiffe://corp/ns/acme/sa/cart");
    let left = first.seconds_to_expiry(SystemTime::now());
    assert!((23 * 3_600..=24 * 3_600).contains(&left), "{left}");
    // Before half of its life nothing is asked for but roots and lists, as a list shows that comes with the same leaf; past 70 %
    // the next one is there.
    mesh.token("pay");
    mesh.sidecar("pay", |_| {}).until("another's", |progress| progress.taken == 1).await;
    revoke(&mesh, &mesh.at("pay.json"));
    mesh.ahead.store(11 * HOUR, Ordering::Relaxed);
    cart.until("the list", |progress| progress.taken == 2).await;
    let listed = cart.own.current().unwrap();
    assert_eq!((listed.revoked().len(), &listed.key().cert), (1, &first.key().cert));
    mesh.ahead.store(17 * HOUR, Ordering::Relaxed);
    cart.until("the second", |progress| progress.taken == 3).await;
    let second = cart.own.current().unwrap();
    assert_ne!(first.key().cert, second.key().cert);
    drop(cart);
    // The token was spent; the file in `keep` is enough.
    std::fs::remove_file(mesh.at("cart.token")).unwrap();
    let again = mesh.sidecar("cart", |_| {});
    again.until("the kept one", |progress| progress.taken == 1).await;
    assert_eq!(again.own.current().unwrap().key().cert, second.key().cert);
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(mesh.at("cart.json")).unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn while_the_authority_is_away_the_last_certificate_stays_and_when_it_is_back_so_is_the_next() {
    let mut mesh = Mesh::new().await;
    mesh.token("cart");
    let cart = mesh.sidecar("cart", |_| {});
    cart.until("the first", |progress| progress.taken == 1).await;
    mesh.serving.abort();
    let _ = (&mut mesh.serving).await;
    mesh.ahead.store(20 * HOUR, Ordering::Relaxed);
    cart.trouble("no connection").await;
    let now = mesh.clock().now();
    assert!(cart.own.current().unwrap().is_valid(now));
    // Longer than its life: it stays for peers to refuse, and the metric goes below zero.
    mesh.ahead.store(25 * HOUR, Ordering::Relaxed);
    assert!(cart.own.current().unwrap().seconds_to_expiry(mesh.clock().now()) < 0);
    cart.trouble("no connection").await;
    mesh.token("cart");
    let listener = TcpListener::bind(&mesh.address).await.unwrap();
    mesh.serve(listener);
    cart.until("the next", |progress| progress.taken == 2 && progress.trouble.is_none()).await;
}

#[tokio::test]
async fn nobody_gets_a_name_that_is_not_its_own() {
    let mesh = Mesh::new().await;
    let token = mesh.token("cart");
    let pay = mesh.sidecar("pay", |client| client.token = Some(token.clone()));
    pay.trouble("the caller may have spiffe://corp/ns/acme/sa/cart").await;
    // What failed did not spend it.
    let cart = mesh.sidecar("cart", |_| {});
    cart.until("its own", |progress| progress.taken == 1).await;
    let none = mesh.sidecar("none", |client| client.token = None);
    none.trouble("neither a valid identity nor a token").await;
    std::fs::write(mesh.at("forged.token"), format!("pct_{}", "0".repeat(64))).unwrap();
    let forged = mesh.at("forged.token");
    mesh.sidecar("forged", |client| client.token = Some(forged)).trouble("the token is no good").await;
    assert!(pay.own.current().is_none() && none.own.current().is_none());
}

#[tokio::test]
async fn a_token_is_shown_to_the_authority_alone() {
    let mesh = Mesh::new().await;
    mesh.token("cart");
    // Another name than the endpoint has, as if a workload of the mesh stood in its place.
    let misled = mesh.sidecar("cart", |client| client.server = "spiffe://corp/ns/acme/sa/other".parse().unwrap());
    misled.trouble("TLS failed").await;
    // Another authority's root.
    let other = Folder::new(mesh.at("other"));
    other.init(&"corp".parse().unwrap(), AuthorityLife::ROOT, Overwrite::Never, OffsetDateTime::now_utc()).unwrap();
    let roots = mesh.at("other/root.crt");
    mesh.sidecar("cart", |client| client.roots = roots).trouble("TLS failed").await;
    mesh.sidecar("cart", |_| {}).until("unspent", |progress| progress.taken == 1).await;
}

#[tokio::test]
async fn what_was_taken_back_is_refused_at_the_endpoint_and_told_to_all_others() {
    let mesh = Mesh::new().await;
    for service in ["cart", "pay"] {
        mesh.token(service);
    }
    let (cart, pay) = (mesh.sidecar("cart", |_| {}), mesh.sidecar("pay", |_| {}));
    for sidecar in [&cart, &pay] {
        sidecar.until("the first", |progress| progress.taken == 1).await;
    }
    assert!(pay.own.current().unwrap().revoked().is_empty());
    revoke(&mesh, &mesh.at("cart.json"));
    // Five minutes later everybody asks for roots and lists.
    mesh.ahead.store(301, Ordering::Relaxed);
    pay.until("the list", |progress| progress.taken == 2).await;
    assert_eq!(pay.own.current().unwrap().revoked().len(), 1);
    cart.trouble("CertificateRevoked").await;
}

#[tokio::test]
async fn a_new_root_reaches_workloads_before_anything_is_signed_under_it() {
    let mesh = Mesh::new().await;
    mesh.token("cart");
    let cart = mesh.sidecar("cart", |_| {});
    cart.until("the first", |progress| progress.taken == 1).await;
    let (ca, now) = (mesh.ca(), OffsetDateTime::now_utc());
    ca.init(&"corp".parse().unwrap(), AuthorityLife::ROOT, Overwrite::Replace, now).unwrap();
    mesh.ahead.store(301, Ordering::Relaxed);
    cart.until("both roots", |progress| progress.taken == 2).await;
    assert_eq!(cart.own.current().unwrap().roots().len(), 2);
    ca.intermediate(&"acme".parse().unwrap(), AuthorityLife::INTERMEDIATE, Overwrite::Replace, now).unwrap();
    mesh.ahead.store(17 * HOUR, Ordering::Relaxed);
    let seen = cart.until("under the new root", |progress| progress.taken >= 3).await;
    assert_eq!(seen.trouble, None);
}

fn revoke(mesh: &Mesh, kept: &Path) {
    let kept: serde_json::Value = serde_json::from_slice(&std::fs::read(kept).unwrap()).unwrap();
    let leaf = mesh.at("revoke.crt");
    std::fs::write(&leaf, kept["answer"]["chain"].as_str().unwrap()).unwrap();
    mesh.ca().revoke(&leaf, OffsetDateTime::now_utc()).unwrap();
}
