//! What is read out of a peer's certificate.

use crate::authority::Authority;
use portcullis_tls::PeerIdentity;
use rcgen::{DnType, KeyPair};
use time::OffsetDateTime;

fn read(names: &[&str], common_name: &str) -> PeerIdentity {
    let issued = Authority::new("the ca").issue_with(names, KeyPair::generate().unwrap(), &|params| {
        params.distinguished_name.push(DnType::CommonName, common_name);
    });
    PeerIdentity::from_chain(&[issued.cert.der().clone()]).unwrap()
}

#[test]
fn one_uri_and_no_other_makes_a_spiffe_id() {
    for (names, spiffe) in [
        (&["spiffe://corp/a"][..], Some("spiffe://corp/a")),
        (&["spiffe://corp/a", "a.example"], Some("spiffe://corp/a")),
        (&["spiffe://corp/a", "spiffe://corp/b"], None),
        (&["spiffe://corp/a", "https://a.example"], None),
        (&["spiffe://corp/a", "https://a.example/\u{1}"], None),
        (&["https://a.example"], None),
        (&["SPIFFE://corp/a"], None),
        (&["spiffe://corp/a\n"], None),
        (&["a.example"], None),
    ] {
        assert_eq!(read(names, "x").spiffe.as_deref(), spiffe, "{names:?}");
    }
}

#[test]
fn all_names_are_read() {
    let identity = read(&["A.Example", "*.b.example", "https://u.example/x", "10.0.0.1", "2001:db8::1"], "pay service");
    assert_eq!(identity.dns, ["a.example", "*.b.example"]);
    assert_eq!(identity.uris, ["https://u.example/x"]);
    assert_eq!(identity.ips, ["10.0.0.1".parse::<std::net::IpAddr>().unwrap(), "2001:db8::1".parse().unwrap()]);
    assert_eq!(identity.common_name.as_deref(), Some("pay service"));
    assert!(identity.subject.contains("pay service") && identity.issuer.contains("the ca"));
    assert_eq!(identity.fingerprint.len(), 64);
    assert!(identity.not_after > OffsetDateTime::now_utc().unix_timestamp());
}

#[test]
fn names_made_to_break_a_line_are_left_out() {
    let identity = read(&["a.example\r\nx-admin: 1", "https://a/\r\nx", "b.example"], "pay\r\nx-admin: 1");
    assert_eq!((identity.dns, identity.uris, identity.common_name), (vec!["b.example".to_owned()], Vec::new(), None));
    assert!(!identity.subject.contains(['\r', '\n']), "{:?}", identity.subject);
}

#[test]
fn what_is_no_certificate_is_nobody() {
    assert_eq!(PeerIdentity::from_chain(&[]), None);
    assert_eq!(PeerIdentity::from_chain(&[b"junk".as_slice().into()]), None);
}
