//! Whom we believe to be the upstream.

use crate::{
    authority::{Authority, Issued, PLAIN},
    handshake::{Failure, Session, connect},
    workbench::Workbench,
};
use portcullis_tls::{PeerIdentity, UpstreamTls, UpstreamTlsSpec, provider};
use rcgen::KeyPair;
use rustls::{
    CertificateError, Error, RootCertStore, ServerConfig,
    pki_types::{PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use serde_json::{Value, json};
use std::sync::Arc;
use time::{Duration, OffsetDateTime};

/// An upstream that shows this certificate, and asks for one by `clients` if given.
fn origin(issued: &Issued, clients: Option<&Authority>) -> Arc<ServerConfig> {
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(authority.der()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build();
            builder.with_client_cert_verifier(verifier.unwrap())
        }
    };
    let key = PrivateKeyDer::from_pem_slice(issued.key_pem().as_bytes()).unwrap();
    let mut config = builder.with_single_cert(vec![issued.cert.der().clone()], key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(config)
}

fn reach(upstream: &UpstreamTls, origin: &Arc<ServerConfig>) -> Result<Session, Failure> {
    connect(&upstream.config(b"http/1.1"), origin, &upstream.server_name.to_str())
}

fn why(result: Result<Session, Failure>) -> CertificateError {
    match result {
        Err(Failure::Client(Error::InvalidCertificate(why))) => why,
        Err(other) => panic!("another failure: {other:?}"),
        Ok(_) => panic!("the upstream was believed"),
    }
}

fn bench(authority: &Authority) -> Workbench {
    let mut bench = Workbench::new();
    bench.trust("t", authority, None);
    bench
}

#[test]
fn the_name_and_the_authority_are_verified() {
    let authority = Authority::new("ca");
    let upstream = bench(&authority).upstream(json!({ "sni": "shop.corp.internal", "trust": "t" }));
    let reach = |issued: &Issued| reach(&upstream, &origin(issued, None));
    assert!(reach(&authority.issue(&["shop.corp.internal"])).is_ok());
    assert!(reach(&authority.issue(&["*.corp.internal"])).is_ok());
    assert!(matches!(
        why(reach(&authority.issue(&["cart.corp.internal"]))),
        CertificateError::NotValidForNameContext { .. }
    ));
    assert!(matches!(
        why(reach(&Authority::new("ca").issue(&["shop.corp.internal"]))),
        CertificateError::BadSignature | CertificateError::UnknownIssuer
    ));
    let old = authority.issue_with(&["shop.corp.internal"], KeyPair::generate().unwrap(), &|params| {
        params.not_after = OffsetDateTime::now_utc() - Duration::minutes(5);
    });
    assert!(matches!(why(reach(&old)), CertificateError::Expired | CertificateError::ExpiredContext { .. }));
}

#[test]
fn an_address_is_verified_too() {
    let authority = Authority::new("ca");
    let upstream = bench(&authority).upstream(json!({ "sni": "10.0.0.1", "trust": "t" }));
    assert!(reach(&upstream, &origin(&authority.issue(&["10.0.0.1"]), None)).is_ok());
    assert!(reach(&upstream, &origin(&authority.issue(&["10.0.0.2"]), None)).is_err());
}

#[test]
fn names_stand_in_for_the_host_name() {
    let authority = Authority::new("ca");
    let bench = bench(&authority);
    for (pattern, name, believed) in [
        ("spiffe://corp/ns/shop/*", "spiffe://corp/ns/shop/sa/x", true),
        ("spiffe://corp/ns/shop/*", "spiffe://corp/ns/cart/sa/x", false),
        ("spiffe://corp/ns/shop/*", "shop.corp.internal", false),
        ("other.corp.internal", "other.corp.internal", true),
        ("other.corp.internal", "*.corp.internal", true),
        ("other.corp.internal", "shop.corp.internal", false),
        ("*.corp.internal", "cart.corp.internal", true),
        ("*.corp.internal", "corp.internal", false),
        ("10.0.0.1", "10.0.0.1", true),
        ("10.0.0.1", "10.0.0.2", false),
        ("*.0.0.1", "10.0.0.1", false),
    ] {
        let upstream = bench.upstream(json!({ "sni": "shop.corp.internal", "trust": "t", "san": [pattern] }));
        let result = reach(&upstream, &origin(&authority.issue(&[name]), None));
        if believed {
            assert!(result.is_ok(), "{pattern} {name}");
        } else {
            assert_eq!(why(result), CertificateError::NotValidForName, "{pattern} {name}");
        }
    }
}

/// Holds rustls to checking the name last: each of these has a foreign host name, a name that fits, and one other fault.
#[test]
fn a_fitting_name_excuses_no_other_fault() {
    let authority = Authority::new("ca");
    let revoked = authority.issue(&["foreign.example"]);
    let mut bench = Workbench::new();
    bench.trust("t", &authority, Some(authority.crl(&[revoked.serial], Duration::days(1))));
    let upstream = bench.upstream(json!({ "sni": "shop.corp.internal", "trust": "t", "san": ["foreign.example"] }));
    let reach = |issued: &Issued| reach(&upstream, &origin(issued, None));
    assert!(reach(&authority.issue(&["foreign.example"])).is_ok(), "the control");

    assert_eq!(why(reach(&revoked)), CertificateError::Revoked);
    let stranger = Authority::new("stranger").issue(&["foreign.example"]);
    assert_eq!(why(reach(&stranger)), CertificateError::UnknownIssuer);
    let edited = |edit: &dyn Fn(&mut rcgen::CertificateParams)| {
        why(reach(&authority.issue_with(&["foreign.example"], KeyPair::generate().unwrap(), edit)))
    };
    let now = OffsetDateTime::now_utc();
    let old = edited(&|params| params.not_after = now - Duration::minutes(5));
    assert!(matches!(old, CertificateError::Expired | CertificateError::ExpiredContext { .. }), "{old:?}");
    let young = edited(&|params| params.not_before = now + Duration::hours(1));
    assert!(matches!(young, CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }), "{young:?}");
    let client = edited(&|params| params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth]);
    assert!(
        matches!(client, CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. }),
        "{client:?}"
    );
}

#[test]
fn revoked_upstreams_are_refused() {
    let authority = Authority::new("ca");
    let (good, bad) = (authority.issue(&["shop.corp.internal"]), authority.issue(&["shop.corp.internal"]));
    let mut bench = Workbench::new();
    bench.trust("t", &authority, Some(authority.crl(&[bad.serial], Duration::days(1))));
    let upstream = bench.upstream(json!({ "sni": "shop.corp.internal", "trust": "t" }));
    assert!(reach(&upstream, &origin(&good, None)).is_ok());
    assert_eq!(why(reach(&upstream, &origin(&bad, None))), CertificateError::Revoked);
}

#[test]
fn our_certificate_is_shown_to_who_asks() {
    let (servers, clients) = (Authority::new("servers"), Authority::new("clients"));
    let mut bench = bench(&servers);
    bench.certificate("us", &clients.issue(&["spiffe://corp/edge"]));
    let origin = origin(&servers.issue(&["shop.corp.internal"]), Some(&clients));
    let bare = bench.upstream(json!({ "sni": "shop.corp.internal", "trust": "t" }));
    assert!(matches!(reach(&bare, &origin), Err(Failure::Server(Error::NoCertificatesPresented))));
    assert!(bare.client_certificate().is_none());
    let known = bench.upstream(json!({ "sni": "shop.corp.internal", "trust": "t", "certificate": "us" }));
    let session = reach(&known, &origin).unwrap();
    let identity = PeerIdentity::from_chain(session.server.peer_certificates().unwrap()).unwrap();
    assert_eq!(identity.spiffe.as_deref(), Some("spiffe://corp/edge"));
    let own = known.client_certificate().unwrap();
    assert_eq!((own.chain().len(), known.authorities().len()), (1, 1));
    assert!(matches!(own.private_key(), PrivateKeyDer::Pkcs8(_)));
}

#[test]
fn unverified_upstreams_are_spelt_out_and_warned_about() {
    let authority = Authority::new("ca");
    let mut bench = bench(&authority);
    let (upstream, told) = bench.upstream_told(json!({ "mode": "insecure_skip_verify", "sni": "shop.corp.internal" }));
    assert!(told.errors.is_empty() && told.warnings[0].contains("is not verified"), "{told:?}");
    let stranger = Authority::new("stranger").issue_with(&["x.example"], KeyPair::generate().unwrap(), PLAIN);
    let upstream = upstream.unwrap().unwrap();
    assert!(reach(&upstream, &origin(&stranger, None)).is_ok());
    assert!(upstream.authorities().is_empty());
    for shorter in ["insecure", "skip", "none", "no_verify"] {
        assert!(serde_json::from_value::<UpstreamTlsSpec>(json!({ "mode": shorter })).is_err(), "{shorter}");
    }
    bench.certificate("us", &stranger);
    let contradicts = json!({ "mode": "insecure_skip_verify", "sni": "a", "trust": "t", "san": ["a"] });
    let (upstream, told) = bench.upstream_told(contradicts);
    assert!(upstream.is_err() && told.errors.len() == 2, "{told:?}");
}

#[test]
fn mistakes_are_told() {
    let bench = bench(&Authority::new("ca"));
    let told = |tls: Value| bench.upstream_told(tls).1.errors.join("\n");
    assert!(told(json!({ "trust": "t" })).contains("needs `sni`"));
    assert!(told(json!({ "trust": "t", "sni": "not a name" })).contains("`not a name` is not a host name"));
    assert!(told(json!({ "trust": "tt", "sni": "a" })).contains("trust \"tt\" is not defined (defined: t)"));
    assert!(told(json!({ "trust": "t", "sni": "a", "certificate": "b" })).contains("certificate \"b\" is not defined"));
    assert!(told(json!({ "trust": "t", "sni": "a", "san": [] })).contains("accepts no upstream"));
    assert!(told(json!({ "mode": "off", "sni": "a" })).contains("`sni` has no effect with mode = \"off\""));
    assert!(bench.upstream_told(json!({ "mode": "off" })).0.unwrap().is_none());
    let all = told(json!({ "trust": "tt", "certificate": "b", "sni": "not a name" }));
    assert_eq!(all.lines().count(), 3, "{all}");
}

#[test]
fn sessions_with_the_upstream_are_resumed_whatever_is_spoken_on_top() {
    let authority = Authority::new("ca");
    let upstream = bench(&authority).upstream(json!({ "sni": "shop.corp.internal", "trust": "t" }));
    let mut config = ServerConfig::clone(&origin(&authority.issue(&["shop.corp.internal"]), None));
    config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().unwrap();
    let origin = Arc::new(config);
    let over = |alpn: &[u8]| connect(&upstream.config(alpn), &origin, "shop.corp.internal").unwrap();
    let first = over(b"h2");
    assert!(!first.resumed() && first.client.alpn_protocol() == Some(b"h2"));
    assert!(over(b"h2").resumed());
    let other = over(b"http/1.1");
    assert!(other.resumed() && other.client.alpn_protocol() == Some(b"http/1.1"));
}

#[test]
fn the_group_key_is_the_same_for_the_same_rules_and_no_other() {
    let (authority, other) = (Authority::new("ca"), Authority::new("other"));
    let mut bench = bench(&authority);
    bench.trust("u", &other, None);
    bench.trust("same", &authority, None);
    bench.trust("listed", &authority, Some(authority.crl(&[1], Duration::days(1))));
    bench.certificate("us", &authority.issue(&["us.example"]));
    bench.certificate("us2", &authority.issue(&["us.example"]));
    let key = |tls: Value| bench.upstream(tls).group_key();
    let all = [
        json!({ "sni": "a", "trust": "t" }),
        json!({ "sni": "b", "trust": "t" }),
        json!({ "sni": "a", "trust": "u" }),
        json!({ "sni": "a", "trust": "listed" }),
        json!({ "sni": "a", "trust": "t", "san": ["a"] }),
        json!({ "sni": "a", "trust": "t", "san": ["a", "b"] }),
        json!({ "sni": "a", "trust": "u", "san": ["a"] }),
        json!({ "sni": "a", "trust": "t", "certificate": "us" }),
        json!({ "sni": "a", "trust": "t", "certificate": "us2" }),
        json!({ "sni": "a", "mode": "insecure_skip_verify" }),
    ];
    let keys: std::collections::HashSet<_> = all.iter().map(|tls| key(tls.clone())).collect();
    assert_eq!(keys.len(), all.len());
    assert_eq!(key(all[7].clone()), key(all[7].clone()));
    assert_eq!(key(all[0].clone()), key(json!({ "sni": "a", "trust": "same" })), "content counts, not its name");
}
