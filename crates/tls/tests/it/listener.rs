//! What a listener serves and agrees to.

use crate::{
    authority::{Authority, PLAIN},
    handshake::{Client, Failure, ONLY_12, ONLY_13, client, shake},
    workbench::Workbench,
};
use rcgen::{KeyPair, PKCS_RSA_SHA256, RsaKeySize};
use rustls::{CipherSuite, Error, NamedGroup, ProtocolVersion, SignatureScheme};
use serde_json::json;

#[test]
fn the_certificate_is_chosen_by_name() {
    let authority = Authority::new("ca");
    let mut bench = Workbench::new();
    let first = authority.issue(&["first.example"]);
    let exact = authority.issue(&["a.shop.example"]);
    let wild = authority.issue(&["*.shop.example", "shop.example"]);
    for (name, issued) in [("first", &first), ("exact", &exact), ("wild", &wild)] {
        bench.certificate(name, issued);
    }
    let server = bench.listener(&["first", "exact", "wild"], json!({}));
    let client = client(&authority);
    for (name, expected) in [
        ("first.example", &first),
        ("a.shop.example", &exact),
        ("A.Shop.EXAMPLE", &exact),
        ("b.shop.example", &wild),
        ("shop.example", &wild),
        ("a.b.shop.example", &first),
        ("unknown.example", &first),
        ("127.0.0.1", &first),
    ] {
        assert!(shake(&client, &server, name).unwrap().shows(expected), "{name}");
    }
    let (mute, _) = Client { sni: false, ..Client::default() }.build(&authority);
    assert!(shake(&mute, &server, "b.shop.example").unwrap().shows(&first), "no name, first certificate");
}

#[test]
fn hosts_narrow_what_a_certificate_is_served_for() {
    let authority = Authority::new("ca");
    let mut bench = Workbench::new();
    let (first, wild) = (authority.issue(&["first.example"]), authority.issue(&["*.shop.example"]));
    bench.certificate("first", &first);
    bench.certificate_of("wild", &wild.pem(), &wild.key_pem(), json!({ "hosts": ["a.shop.example"] }));
    let server = bench.listener(&["first", "wild"], json!({}));
    let client = client(&authority);
    assert!(shake(&client, &server, "a.shop.example").unwrap().shows(&wild));
    assert!(shake(&client, &server, "b.shop.example").unwrap().shows(&first));
}

#[test]
fn ecdsa_is_served_to_whom_can_verify_it_and_rsa_to_the_rest() {
    let authority = Authority::new("ca");
    let rsa_key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
    let rsa = authority.issue_with(&["a.example"], rsa_key, PLAIN);
    let ecdsa = authority.issue(&["a.example"]);
    let mut bench = Workbench::new();
    bench.certificate("rsa", &rsa);
    bench.certificate("ecdsa", &ecdsa);
    let server = bench.listener(&["rsa", "ecdsa"], json!({}));
    let rsa_only = || Some(vec![SignatureScheme::RSA_PSS_SHA256, SignatureScheme::RSA_PKCS1_SHA256]);
    let rsa_suite = || Some(vec![CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]);
    for (what, client, expected) in [
        ("modern", Client::default(), &ecdsa),
        ("TLS 1.2", Client { versions: ONLY_12, ..Client::default() }, &ecdsa),
        ("RSA schemes", Client { schemes: rsa_only(), ..Client::default() }, &rsa),
        ("RSA schemes, TLS 1.2", Client { schemes: rsa_only(), versions: ONLY_12, ..Client::default() }, &rsa),
        ("RSA suites", Client { suites: rsa_suite(), versions: ONLY_12, ..Client::default() }, &rsa),
    ] {
        let (client, _) = client.build(&authority);
        assert!(shake(&client, &server, "a.example").unwrap().shows(expected), "{what}");
        assert!(shake(&client, &server, "unknown.example").unwrap().shows(expected), "{what}, by default");
    }
}

#[test]
fn ten_thousand_names_are_told_apart() {
    let authority = Authority::new("ca");
    let names: Vec<_> = (0..10_000).map(|number| format!("n{number}.example")).collect();
    let mut bench = Workbench::new();
    let first = authority.issue(&["first.example"]);
    bench.certificate("first", &first);
    let mut all = Vec::new();
    for (part, names) in names.chunks(2_500).enumerate() {
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        all.push((format!("part{part}"), authority.issue(&names)));
    }
    let mut order = vec!["first"];
    for (name, issued) in &all {
        bench.certificate(name, issued);
        order.push(name);
    }
    let server = bench.listener(&order, json!({}));
    let client = client(&authority);
    // A certificate of 2,500 names is 50 kB long; the largest handshake message that rustls takes has 64.
    for (number, part) in [(0, 0), (2_499, 0), (2_500, 1), (9_999, 3)] {
        assert!(shake(&client, &server, &names[number]).unwrap().shows(&all[part].1), "{number}");
    }
    assert!(shake(&client, &server, "n10000.example").unwrap().shows(&first));
}

#[test]
fn the_hybrid_group_is_agreed_on() {
    let authority = Authority::new("ca");
    let mut bench = Workbench::new();
    bench.certificate("a", &authority.issue(&["a.example"]));
    let session = shake(&client(&authority), &bench.listener(&["a"], json!({})), "a.example").unwrap();
    let group = session.client.negotiated_key_exchange_group().unwrap().name();
    assert_eq!(group, NamedGroup::X25519MLKEM768);
    assert_eq!(session.client.protocol_version(), Some(ProtocolVersion::TLSv1_3));
}

#[test]
fn the_lowest_version_is_held() {
    let authority = Authority::new("ca");
    let mut bench = Workbench::new();
    bench.certificate("a", &authority.issue(&["a.example"]));
    let old = || Client { versions: ONLY_12, ..Client::default() }.build(&authority).0;
    let both = bench.listener(&["a"], json!({}));
    assert_eq!(shake(&old(), &both, "a.example").unwrap().client.protocol_version(), Some(ProtocolVersion::TLSv1_2));
    let new = bench.listener(&["a"], json!({ "min_version": "1.3" }));
    assert!(matches!(shake(&old(), &new, "a.example"), Err(Failure::Server(Error::PeerIncompatible(_)))));
    let only13 = Client { versions: ONLY_13, ..Client::default() }.build(&authority).0;
    shake(&only13, &new, "a.example").unwrap();
}

#[test]
fn cipher_suites_are_named_and_cbc_is_not_among_them() {
    let authority = Authority::new("ca");
    let mut bench = Workbench::new();
    bench.certificate("a", &authority.issue(&["a.example"]));
    let server = bench.listener(&["a"], json!({ "ciphers": ["TLS_AES_128_GCM_SHA256"] }));
    let session = shake(&client(&authority), &server, "a.example").unwrap();
    let agreed = session.client.negotiated_cipher_suite().unwrap().suite();
    assert_eq!(agreed, CipherSuite::TLS13_AES_128_GCM_SHA256);
    let old = Client { versions: ONLY_12, ..Client::default() }.build(&authority).0;
    assert!(shake(&old, &server, "a.example").is_err());

    let refused = |tls| bench.listener_after(None, &["a"], tls);
    for cbc in ["TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA", "TLS_RSA_WITH_AES_128_GCM_SHA256", "AES128-SHA", ""] {
        let (server, told) = refused(json!({ "ciphers": [cbc, "TLS_AES_128_GCM_SHA256"] }));
        assert!(server.is_none() && told.errors[0].contains("cipher suite"), "{cbc} {told:?}");
    }
    let tls12 = "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256";
    let (server, told) = refused(json!({ "min_version": "1.3", "ciphers": [tls12] }));
    assert!(server.is_none() && told.errors[0].contains("no cipher suite is left"), "{told:?}");
    assert!(refused(json!({ "ciphers": [] })).1.errors[0].contains("no cipher suite is left"));
    let (server, told) = refused(json!({ "min_version": "1.3", "ciphers": [tls12, "TLS_AES_128_GCM_SHA256"] }));
    assert!(server.is_some() && told.warnings[0].contains("never used"), "{told:?}");
}

#[test]
fn the_application_protocol_is_agreed_on_or_refused() {
    let authority = Authority::new("ca");
    let mut bench = Workbench::new();
    bench.certificate("a", &authority.issue(&["a.example"]));
    let server = bench.listener(&["a"], json!({}));
    let offering = |protocols: &[&[u8]]| {
        let alpn = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        shake(&Client { alpn, ..Client::default() }.build(&authority).0, &server, "a.example")
    };
    for (offered, agreed) in [
        (&[b"http/1.1".as_slice(), b"h2"][..], Some(b"h2".as_slice())),
        (&[b"http/1.1"], Some(b"http/1.1")),
        (&[b"h3", b"http/1.1"], Some(b"http/1.1")),
        (&[], None),
    ] {
        assert_eq!(offering(offered).unwrap().server.alpn_protocol(), agreed);
    }
    // RFC 7301 §3.2: the alert is no_application_protocol.
    assert!(matches!(offering(&[b"spdy/3"]), Err(Failure::Server(Error::NoApplicationProtocol))));
}

#[test]
fn nothing_is_taken_before_the_handshake_is_done() {
    let mut bench = Workbench::new();
    bench.certificate("a", &Authority::new("ca").issue(&["a.example"]));
    assert_eq!(bench.listener(&["a"], json!({})).config().max_early_data_size, 0);
}

#[test]
fn a_listener_without_its_certificate_is_not_compiled() {
    let mut bench = Workbench::new();
    bench.certificate("a", &Authority::new("ca").issue(&["a.example"]));
    let (server, told) = bench.listener_after(None, &[], json!({}));
    assert!(server.is_none() && told.errors[0].contains("needs a certificate"), "{told:?}");
    assert!(bench.listener_after(None, &["a", "missing"], json!({})).0.is_none());
}
