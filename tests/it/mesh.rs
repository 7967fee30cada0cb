//! Two sidecars between two workloads: mTLS, authorisation, modes, and what is told of it.

use crate::support::{
    client::{Client, h2, h2_get, tls, tls_config},
    eventually,
    gateway::Gateway,
    mesh::{Mesh, allow, inbound, outbound, workload_table},
    origin::Origin,
};
use serde_json::Value;
use std::time::Duration;
use tokio::net::TcpStream;

const PERMISSIVE: &str = "[mtls]\nmode = \"permissive\"\n";

const DAY: u64 = 24 * 3600;

/// One record that has these values.
async fn record(gateway: &Gateway, parts: &[(&str, &str)]) -> Value {
    eventually(&format!("a record with {parts:?}"), async || {
        gateway.records().into_iter().find(|record| parts.iter().all(|(key, value)| record[key] == *value))
    })
    .await
}

#[tokio::test]
async fn two_workloads_talk_mtls_and_a_third_is_refused() {
    let mesh = Mesh::new();
    let app = Origin::echo().await;
    let api = mesh.server("acme.lab/api", app.addr, &allow("cart-may", "service:cart")).await;
    let cart = mesh.client("acme.lab/cart", "acme.lab/api", api.addr("inbound"), "").await;
    let web = mesh.client("acme.lab/web", "acme.lab/api", api.addr("inbound"), "").await;
    let mut client = Client::connect(cart.addr("outbound")).await;
    for host in ["api.acme.lab", "whatever.example", "api"] {
        let answer = client.get(host, "/orders?x=1").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(answer.text().starts_with("GET /orders?x=1 HTTP/1.1\r\n"), "{}", answer.text());
        assert!(answer.text().to_lowercase().contains(&format!("host: {host}\r\n")), "{}", answer.text());
    }
    let answer = Client::connect(web.addr("outbound")).await.get("api.acme.lab", "/orders").await;
    assert_eq!(answer.status, 403, "{answer:?}");
    assert_eq!(app.requests().len(), 3);
    // Both ends say who talked with whom, and how.
    let parts = ["source=\"cart.acme.lab\"", "destination=\"api.acme.lab\"", "security=\"mtls\"", "class=\"2xx\""];
    api.counts("portcullis_mesh_requests_total", &[&parts[..], &["direction=\"inbound\""]].concat(), 3.0).await;
    cart.counts("portcullis_mesh_requests_total", &[&parts[..], &["direction=\"outbound\""]].concat(), 3.0).await;
    api.counts("portcullis_mesh_requests_total", &["source=\"web.acme.lab\"", "verdict=\"refused\"", "4xx"], 1.0).await;
    api.counts("portcullis_mesh_rule_total", &["cart-may", "allowed"], 3.0).await;
    let told = record(&api, &[("source", "cart.acme.lab")]).await;
    assert_eq!((&told["identity"], &told["verdict"]), (&"spiffe://corp/ns/acme.lab/sa/cart".into(), &"allowed".into()));
    assert_eq!((&told["rule"], &told["security"]), (&"cart-may".into(), &"mtls".into()));
    let told = record(&api, &[("source", "web.acme.lab")]).await;
    assert_eq!(
        (&told["reason"], &told["status"], &told["stage"]),
        (&"mesh_denied".into(), &403.into(), &"access".into())
    );
    let (code, status) = api.command(&["mesh", "status", "--admin", "admin.sock"]).await;
    assert_eq!(code, 0, "{status}");
    for part in [
        "api.acme.lab (spiffe://corp/ns/acme.lab/sa/api), strict",
        "what no access rule allows is denied",
        "<-",
        "cart.acme.lab",
        "mtls",
        "TLS13_AES_128_GCM_SHA256",
        "last refused, inbound web.acme.lab: mesh_denied",
    ] {
        assert!(status.contains(part), "{part}\n{status}");
    }
    let row = status.lines().find(|line| line.starts_with("<-") && line.contains("cart.acme.lab")).unwrap();
    let expiry = row.split_whitespace().find_map(|cell| cell.strip_suffix('s')?.parse::<u64>().ok());
    assert!(
        expiry.is_some_and(|seconds| (89 * DAY..=90 * DAY).contains(&seconds)),
        "the leaves of this mesh last 90 days: {row}"
    );
    let (_, graph) = cart.admin("GET", "/mesh/graph", "").await;
    assert_eq!(graph["edges"][0]["to"], "api.acme.lab", "{graph}");
    assert_eq!((&graph["edges"][0]["calls"], &graph["edges"][0]["security"]), (&3.into(), &"mtls".into()), "{graph}");
    let (_, dot) = cart.command(&["mesh", "graph", "--dot", "--admin", "admin.sock"]).await;
    assert!(dot.contains("\"cart.acme.lab\" -> \"api.acme.lab\""), "{dot}");
    assert!(api.log().contains("sidecar: strict: what no access rule allows is denied"), "{}", api.log());
}

#[tokio::test]
async fn http2_stays_http2_from_end_to_end() {
    let mesh = Mesh::new();
    // The application speaks h2 in clear: another gateway of ours answers for it.
    let app = Gateway::start(
        "[listener.app]\naddress = \"127.0.0.1:0\"\n[route.a]\nrespond = { status = 200, body = \"from the app\" }\n",
    )
    .await;
    let api = mesh.server("acme.lab/api", app.addr("app"), &allow("all", "service:cart")).await;
    let config = "protocol = \"h2c\"\n";
    let cart = mesh.client("acme.lab/cart", "acme.lab/api", api.addr("inbound"), config).await;
    let sender = h2(TcpStream::connect(cart.addr("outbound")).await.unwrap()).await;
    for _ in 0..3 {
        let (parts, body) = h2_get(&sender, "http://api.acme.lab/x").await.unwrap();
        assert_eq!((parts.status.as_u16(), body.as_slice()), (200, &b"from the app"[..]));
    }
    let (_, status) = api.admin("GET", "/mesh", "").await;
    assert_eq!(status["workload"]["version"], "v1");
    assert_eq!(
        (&status["peers"][0]["protocol"], &status["peers"][0]["security"]),
        (&"h2".into(), &"mtls".into()),
        "{status}"
    );
    let told = record(&app, &[("listener", "app")]).await;
    assert_eq!(told["protocol"], "HTTP/2", "{told}");
}

#[tokio::test]
async fn clear_text_is_let_in_on_report_when_permissive_and_refused_when_strict() {
    let mesh = Mesh::new();
    let app = Origin::fixed("hello").await;
    let mut api = mesh.server("acme.lab/api", app.addr, PERMISSIVE).await;
    let inside = Client::connect(api.addr("inbound")).await.get("api", "/").await;
    assert_eq!((inside.status, inside.text().as_str()), (200, "hello"));
    let parts = ["source=\"clear\"", "security=\"plain\"", "verdict=\"reported\""];
    api.counts("portcullis_mesh_requests_total", &parts, 1.0).await;
    let strict = [&workload_table("acme.lab/api"), &inbound(app.addr)[..], "[mtls]\nmode = \"strict\"\n"].concat();
    // A connection that was let in under the old mode does not outlive it.
    let mut old = Client::connect(api.addr("inbound")).await;
    assert_eq!(old.get("api", "/").await.status, 200);
    assert_eq!(api.reload(&strict).await.0, 200);
    assert!(old.closed(Duration::from_secs(10)).await);
    let mut refused = Client::connect(api.addr("inbound")).await;
    let _ = refused.try_send("GET / HTTP/1.1\r\nHost: api\r\n\r\n").await;
    assert!(refused.try_response(true).await.is_none());
    api.counts("portcullis_mesh_refusals_total", &["inbound", "clear_in_strict"], 1.0).await;
    let told = record(&api, &[("reason", "clear_in_strict")]).await;
    assert_eq!((&told["source"], &told["verdict"]), (&"clear".into(), &"denied".into()));
    // Switched off, the caller's sidecar sends in clear.
    let off = [&workload_table("acme.lab/api"), &inbound(app.addr)[..], "[mtls]\nmode = \"off\"\n"].concat();
    assert_eq!(api.reload(&off).await.0, 200);
    let cart = mesh.client("acme.lab/cart", "acme.lab/api", api.addr("inbound"), "[mtls]\nmode = \"off\"\n").await;
    assert_eq!(Client::connect(cart.addr("outbound")).await.get("api", "/").await.text(), "hello");
    cart.counts("portcullis_mesh_requests_total", &["outbound", "security=\"plain\"", "2xx"], 1.0).await;
}

#[tokio::test]
async fn between_namespaces_it_is_mtls_whatever_the_mode_and_only_a_rule_opens_one_to_another() {
    let mesh = Mesh::new();
    let app = Origin::fixed("hello").await;
    let off = "[mtls]\nmode = \"off\"\n";
    let api = mesh.server("acme.lab/api", app.addr, &[off, &allow("bank", "namespace:bank")].concat()).await;
    for (who, status) in [("bank/teller", 200), ("other/x", 403)] {
        let client = mesh.client(who, "acme.lab/api", api.addr("inbound"), off).await;
        assert_eq!(Client::connect(client.addr("outbound")).await.get("api", "/").await.status, status, "{who}");
        client.counts("portcullis_mesh_requests_total", &["outbound", "security=\"mtls\""], 1.0).await;
    }
}

#[tokio::test]
async fn an_endpoint_without_a_sidecar_is_called_in_clear_only_where_that_is_permitted() {
    let mesh = Mesh::new();
    // As servers do, it answers what is no request with 400, and closes.
    let app = Origin::raw(|mut stream| async move {
        let mut said = [0; 1024];
        while let Ok(count @ 1..) = tokio::io::AsyncReadExt::read(&mut stream, &mut said).await {
            let is_request = said[..count].starts_with(b"GET ");
            let answer = if is_request {
                "200 OK\r\nContent-Length: 4\r\n\r\nbare"
            } else {
                "400 Bad\r\nContent-Length: 0\r\n\r\n"
            };
            let answer = format!("HTTP/1.1 {answer}");
            if tokio::io::AsyncWriteExt::write_all(&mut stream, answer.as_bytes()).await.is_err() || !is_request {
                return;
            }
        }
    })
    .await;
    let cart = mesh.client("acme.lab/cart", "acme.lab/api", app.addr, PERMISSIVE).await;
    for _ in 0..3 {
        let answer = Client::connect(cart.addr("outbound")).await.get("api", "/").await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "bare"));
    }
    cart.counts("portcullis_mesh_plain_fallbacks_total", &[], 1.0).await;
    cart.counts("portcullis_mesh_requests_total", &["outbound", "security=\"plain\""], 3.0).await;
    let strict = mesh.client("acme.lab/cart", "acme.lab/api", app.addr, "").await;
    let answer = Client::connect(strict.addr("outbound")).await.get("api", "/").await;
    assert_eq!(answer.status, 502, "{answer:?}");
}

#[tokio::test]
async fn tls_of_the_applications_own_survives_permissive_mode_and_travels_inside_mtls() {
    let mesh = Mesh::new();
    let authority = crate::support::authority::Authority::new("app");
    let folder = tempfile::tempdir().unwrap();
    authority.leaf(&["api.acme.lab"]).write(folder.path(), "app");
    let app = "[listener.app]\naddress = \"127.0.0.1:0\"\nprotocol = \"https\"\n[certificate.app]\ncert = { file = \"app.crt\" }\n\
               key = { file = \"app.key\" }\n[route.a]\nrespond = { status = 200, body = \"secret\" }\n";
    let app = Gateway::start_in(folder, app).await;
    let api = mesh.server("acme.lab/api", app.addr("app"), PERMISSIVE).await;
    let cart = mesh.client("acme.lab/cart", "acme.lab/api", api.addr("inbound"), PERMISSIVE).await;
    for (at, security) in [(api.addr("inbound"), "app_tls"), (cart.addr("outbound"), "mtls")] {
        let config = tls_config(&authority.certificate_pem, &["http/1.1"]);
        let mut client = Client::tls(at, "api.acme.lab", config).await.unwrap();
        assert_eq!(client.get("api.acme.lab", "/").await.text(), "secret");
        drop(client);
        let security = format!("security=\"{security}\"");
        api.counts("portcullis_mesh_tunnels_total", &["inbound", &security, "reported"], 1.0).await;
    }
}

#[tokio::test]
async fn requests_are_judged_by_method_and_path_in_whatever_spelling() {
    let mesh = Mesh::new();
    let app = Origin::fixed("hello").await;
    let rules = "[access.pay]\nfrom = [\"service:cart\"]\nto = [\"service:api\"]\nmatch = { methods = [\"POST\"], path = \"/charge\" }\n\
                 action = \"allow\"\n[access.refunds]\nfrom = [\"*\"]\nto = [\"*\"]\nmatch = { path = \"/charge/refund\" }\naction = \"deny\"\n\
                 [access.trial]\nfrom = [\"*\"]\nto = [\"service:api\"]\nmatch = { path = \"/trial\" }\naction = \"report\"\n\
                 [access.watched]\nfrom = [\"*\"]\nto = [\"service:api\"]\nmatch = { path = \"/charge/watched\" }\naction = \"deny\"\nreport = true\n\
                 [access.other]\nfrom = [\"*\"]\nto = [\"service:stock\"]\naction = \"allow\"\n";
    let api = mesh.server("acme.lab/api", app.addr, rules).await;
    let cart = mesh.client("acme.lab/cart", "acme.lab/api", api.addr("inbound"), "").await;
    let mut client = Client::connect(cart.addr("outbound")).await;
    for (method, path, status) in [
        ("POST", "/charge", 200),
        ("POST", "/charge/7?a=/admin", 200),
        ("POST", "/%63harge", 200),
        ("POST", "/x/../charge", 200),
        ("POST", "//charge", 200),
        ("GET", "/charge", 403),
        ("POST", "/charges", 403),
        ("POST", "/charge/../admin", 403),
        ("POST", "/charge/%2e%2e/admin", 403),
        ("POST", "/charge/refund", 403),
        ("POST", "/charge/./refund/1", 403),
        ("POST", "/charge/%72efund", 403),
        ("GET", "/", 403),
        ("GET", "/trial", 200),
        ("POST", "/charge/watched", 200),
    ] {
        client.send(format!("{method} {path} HTTP/1.1\r\nHost: api\r\nContent-Length: 0\r\n\r\n")).await;
        let answer = client.response().await;
        assert_eq!(answer.status, status, "{method} {path}");
    }
    api.counts("portcullis_mesh_requests_total", &["verdict=\"refused\""], 8.0).await;
    api.counts("portcullis_mesh_requests_total", &["verdict=\"reported\""], 1.0).await;
    api.counts("portcullis_mesh_rule_total", &["watched", "would_refuse"], 1.0).await;
    // Whoever names himself is nobody.
    client
        .send("GET / HTTP/1.1\r\nHost: api\r\nX-Forwarded-Client-Cert: URI=spiffe://corp/ns/acme.lab/sa/admin\r\n\r\n")
        .await;
    assert_eq!(client.response().await.status, 403);
}

#[tokio::test]
async fn attributes_of_a_service_and_quarantine_cut_it_off_at_once() {
    let mesh = Mesh::new();
    let app = Origin::fixed("hello").await;
    let rules = |cvss: &str| {
        format!(
            "[service.cart]\nnamespace = \"acme.lab\"\nattributes = {{ cvss = \"{cvss}\" }}\n\
             [access.cart]\nfrom = [\"service:cart\"]\nto = [\"*\"]\naction = \"allow\"\n\
             [access.vulnerable]\nfrom = [\"*\"]\nto = [\"*\"]\nattributes = {{ cvss = \">=9\" }}\naction = \"quarantine\"\n"
        )
    };
    let mut api = mesh.server("acme.lab/api", app.addr, &rules("4.2")).await;
    let cart = mesh.client("acme.lab/cart", "acme.lab/api", api.addr("inbound"), "").await;
    assert_eq!(Client::connect(cart.addr("outbound")).await.get("api", "/").await.status, 200);
    let config = [&workload_table("acme.lab/api"), &inbound(app.addr)[..], &rules("9.8")].concat();
    assert_eq!(api.reload(&config).await.0, 200);
    let answer = Client::connect(cart.addr("outbound")).await.get("api", "/").await;
    assert!(answer.status == 403 || answer.status == 502, "{answer:?}");
    api.counts(
        "portcullis_refusals_total",
        &["mesh_quarantined"],
        api.metric("portcullis_refusals_total", &["mesh_quarantined"]).await.max(1.0),
    )
    .await;
}

#[tokio::test]
async fn a_rule_can_ask_what_is_said_of_the_caller() {
    let mesh = Mesh::new();
    let app = Origin::fixed("hello").await;
    let rules = |version: &str| {
        format!(
            "[service.cart]\nnamespace = \"acme.lab\"\nattributes = {{ version = \"{version}\" }}\n\
             [access.released]\nfrom = [\"service:cart\"]\nto = [\"*\"]\nattributes = {{ version = \"v1\" }}\n\
             action = \"allow\"\n"
        )
    };
    let mut api = mesh.server("acme.lab/api", app.addr, &rules("v1")).await;
    let cart = mesh.client("acme.lab/cart", "acme.lab/api", api.addr("inbound"), "").await;
    for (version, status) in [("v2", 403), ("v1", 200)] {
        let config = [&workload_table("acme.lab/api"), &inbound(app.addr)[..], &rules(version)].concat();
        assert_eq!(api.reload(&config).await.0, 200);
        assert_eq!(Client::connect(cart.addr("outbound")).await.get("api", "/").await.status, status, "{version}");
    }
    assert_eq!(app.requests().len(), 1);
}

#[tokio::test]
async fn a_request_cannot_make_a_sidecar_call_another_service() {
    let mesh = Mesh::new();
    let (app, other) = (Origin::fixed("api").await, Origin::fixed("other").await);
    let more = [
        &allow("all", "*"),
        &outbound("acme.lab/other", &[other.addr])[..],
        "[route.stray]\nhosts = [\"stray.example\"]\nupstream = \"other\"\n",
    ]
    .concat();
    let api = mesh.server("acme.lab/api", app.addr, &more).await;
    let cart = mesh.client("acme.lab/cart", "acme.lab/api", api.addr("inbound"), "").await;
    for host in ["other.acme.lab", "stray.example", "api"] {
        assert_eq!(Client::connect(cart.addr("outbound")).await.get(host, "/").await.text(), "api", "{host}");
    }
    assert!(other.requests().is_empty());
}

#[tokio::test]
async fn mistakes_in_a_sidecars_tables_are_told_with_their_place() {
    let folder = tempfile::tempdir().unwrap();
    let mesh = Mesh::new();
    let good = mesh.workload(folder.path(), "acme.lab/api");
    for (config, words) in [
        ("[listener.in]\naddress = \":1\"\ndirection = \"inbound\"\n".to_owned(), "nothing says whose sidecar this is"),
        ("[mtls]\nmode = \"off\"\n[listener.a]\naddress = \":1\"\n".to_owned(), "there is no [workload]"),
        (good.clone() + "[listener.a]\naddress = \":1\"\n", "a sidecar without a listener carries nothing"),
        (
            good.clone() + "[listener.a]\naddress = \":1\"\ndirection = \"inbound\"\nto = \"cart\"\n",
            "expected the application's address",
        ),
        (
            good.clone() + "[listener.a]\naddress = \":1\"\ndirection = \"outbound\"\nto = \"cart\"\n",
            "service \"cart\" is not defined",
        ),
        (
            good.clone() + "[listener.a]\naddress = \":1\"\ndirection = \"outbound\"\ngateway = \"egw\"\n",
            "upstream \"egw\" is not defined",
        ),
        (good.clone() + "[listener.a]\naddress = \":1\"\nto = \"127.0.0.1:1\"\n", "only on a sidecar's listener"),
        (
            good.clone() + "[listener.a]\naddress = \":1\"\ndirection = \"inbound\"\notherwise = \"pass\"\n",
            "is about what goes out",
        ),
        (
            good.clone()
                + "[listener.a]\naddress = \":1\"\ndirection = \"inbound\"\n[access.a]\nfrom = [\"*\"]\nto = [\"destination:x\"]\naction = \"allow\"\n",
            "no listener lets anything out",
        ),
        (
            good.clone()
                + "[listener.a]\naddress = \":1\"\ndirection = \"inbound\"\n[access.a]\nfrom = [\"*\"]\nto = [\"*\"]\naction = \"allow\"\nuntil = \"2030-01-01T00:00:00Z\"\n",
            "`until` has an effect only on rules that are about destinations",
        ),
        (
            "[listener.a]\naddress = \":1\"\n[access.a]\nfrom = [\"*\"]\nto = [\"service:x\"]\naction = \"allow\"\n"
                .to_owned(),
            "services are called by way of a sidecar",
        ),
    ] {
        std::fs::write(folder.path().join("c.toml"), &config).unwrap();
        let (code, text) = crate::support::gateway::run_in(folder.path(), &["check", "c.toml"]).await;
        assert!(code == 1 && text.contains(words), "{words}\n{config}\n{text}");
    }
    let fit = good + "[listener.a]\naddress = \":1\"\ndirection = \"inbound\"\n";
    std::fs::write(folder.path().join("c.toml"), &fit).unwrap();
    let (code, text) = crate::support::gateway::run_in(folder.path(), &["check", "c.toml"]).await;
    assert_eq!(code, 0, "{text}");
}

#[tokio::test]
async fn only_an_identity_of_the_trust_domain_gets_in() {
    let mesh = Mesh::new();
    let app = Origin::fixed("hello").await;
    let api = mesh.server("acme.lab/api", app.addr, &allow("all", "*")).await;
    let stranger = crate::support::authority::Authority::new("stranger");
    let cart = Mesh::id("acme.lab/cart");
    let old = time::Duration::days(-1);
    let cases = [
        ("self-made authority", stranger.leaf(&[&cart]), "client_certificate"),
        ("expired", mesh.root.leaf_valid(&[&cart], old), "client_certificate"),
        ("two ids", mesh.root.leaf(&[&cart, "spiffe://corp/ns/acme.lab/sa/admin"]), "uri_names"),
        ("another trust domain", mesh.root.leaf(&["spiffe://evil/ns/acme.lab/sa/cart"]), "unknown_domain"),
        ("no id", mesh.root.leaf(&["cart.acme.lab"]), "uri_names"),
    ];
    for (what, leaf, reason) in cases {
        let before = api.metric("portcullis_mesh_refusals_total", &["inbound", reason]).await;
        let config = std::sync::Arc::new(anyone(&leaf));
        if let Ok(stream) = tls(api.addr("inbound"), "api.acme.lab", config).await {
            let mut client = Client::over(stream);
            let _ = client.try_send("GET / HTTP/1.1\r\nHost: api\r\n\r\n").await;
            assert!(client.try_response(true).await.is_none(), "{what}");
        }
        api.counts("portcullis_mesh_refusals_total", &["inbound", reason], before + 1.0).await;
    }
    assert!(app.requests().is_empty());
}

/// A client that does not ask who answers.
pub(crate) fn anyone(leaf: &crate::support::authority::Leaf) -> rustls::ClientConfig {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
    #[derive(Debug)]
    struct Anyone;
    impl rustls::client::danger::ServerCertVerifier for Anyone {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &rustls::pki_types::ServerName<'_>,
            _: &[u8],
            _: rustls::pki_types::UnixTime,
        ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
            Ok(rustls::client::danger::ServerCertVerified::assertion())
        }
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
        }
        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
        }
        fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
            rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
        }
    }
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let builder = builder.dangerous().with_custom_certificate_verifier(std::sync::Arc::new(Anyone));
    let chain = CertificateDer::pem_slice_iter(leaf.certificate_pem.as_bytes()).map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_slice(leaf.key_pem.as_bytes()).unwrap();
    let mut config = builder.with_client_auth_cert(chain, key).unwrap();
    config.alpn_protocols = vec![b"mesh-h1".to_vec()];
    config
}

#[tokio::test]
async fn a_rule_can_ask_what_the_callers_verified_token_says() {
    let mesh = Mesh::new();
    let app = Origin::fixed("hello").await;
    let issuer = crate::auth::Issuer::new("k1");
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("keys.json"), serde_json::json!({ "keys": [issuer.jwk()] }).to_string()).unwrap();
    let rules = "[identity.corp]\nissuer = \"https://id.test\"\naudiences = [\"shop\"]\njwks = { file = \"keys.json\" }\n\
                 [route.in]\nlisteners = [\"inbound\"]\nupstream = \"inbound-application\"\nauth = { jwt = \"corp\" }\n\
                 [access.admins]\nfrom = [\"service:cart\"]\nto = [\"service:api\"]\nmatch = { claims = { groups = \"admins\" } }\naction = \"allow\"\n";
    let config = [&mesh.workload(folder.path(), "acme.lab/api"), &inbound(app.addr)[..], rules].concat();
    let api = Gateway::start_in(folder, &config).await;
    let cart = mesh.client("acme.lab/cart", "acme.lab/api", api.addr("inbound"), "").await;
    let mut client = Client::connect(cart.addr("outbound")).await;
    for (groups, status) in [(Some("admins"), 200), (Some("staff"), 403), (None, 401)] {
        let token = groups.map(|group| issuer.token("https://id.test", serde_json::json!({ "groups": ["x", group] })));
        let field = token.map_or_else(String::new, |token| format!("Authorization: Bearer {token}\r\n"));
        client.send(format!("GET / HTTP/1.1\r\nHost: api\r\n{field}\r\n")).await;
        assert_eq!(client.response().await.status, status, "{groups:?}");
    }
    assert_eq!(app.requests().len(), 1);
}

#[tokio::test]
async fn a_request_under_way_is_cut_when_a_new_policy_forbids_it() {
    let mesh = Mesh::new();
    let app = Origin::raw(|mut stream| async move {
        let mut buffer = Vec::new();
        while crate::support::origin::read_request(&mut stream, &mut buffer).await.is_some() {
            std::future::pending::<()>().await;
        }
    })
    .await;
    let mut api = mesh.server("acme.lab/api", app.addr, &allow("cart", "service:cart")).await;
    let cart = mesh.client("acme.lab/cart", "acme.lab/api", api.addr("inbound"), "").await;
    let mut client = Client::connect(cart.addr("outbound")).await;
    client.send("POST /stream HTTP/1.1\r\nHost: api\r\nContent-Length: 0\r\n\r\n").await;
    eventually("the application is asked", async || {
        (app.connections.load(std::sync::atomic::Ordering::SeqCst) > 0).then_some(())
    })
    .await;
    let config = [&workload_table("acme.lab/api"), &inbound(app.addr)[..], &allow("web", "service:web")].concat();
    assert_eq!(api.reload(&config).await.0, 200);
    let answer = client.response().await;
    assert!(answer.status == 502 || answer.status == 403, "{answer:?}");
}
