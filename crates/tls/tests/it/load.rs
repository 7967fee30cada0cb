//! What is said about files before anybody is served with them.

use crate::{
    authority::{Authority, Edit, Issued, PLAIN},
    workbench::{Told, Workbench},
};
use portcullis_names::HostPattern;
use rcgen::{KeyPair, PKCS_RSA_SHA256, RsaKeySize};
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};

fn told(cert: &str, key: &str, more: Value) -> Told {
    let mut bench = Workbench::new();
    bench.certificate_of("a", cert, key, more);
    bench.load().2
}

fn told_of(issued: &Issued) -> Told {
    told(&issued.pem(), &issued.key_pem(), json!({}))
}

fn edited(edit: Edit<'_>) -> Issued {
    Authority::new("ca").issue_with(&["a.example"], KeyPair::generate().unwrap(), edit)
}

fn one_error(told: &Told, part: &str) {
    assert!(told.errors.len() == 1 && told.errors[0].contains(part), "want {part:?}, told {told:?}");
}

fn silent(told: &Told) {
    assert!(told.errors.is_empty() && told.warnings.is_empty(), "{told:?}");
}

fn one_warning(told: &Told, part: &str) {
    assert!(
        told.errors.is_empty() && told.warnings.len() == 1 && told.warnings[0].contains(part),
        "want {part:?}, told {told:?}"
    );
}

#[test]
fn a_good_certificate_is_taken_without_a_word() {
    silent(&told_of(&edited(PLAIN)));
}

#[test]
fn a_certificate_out_of_its_time_is_refused() {
    let span = |from: Duration, to: Duration| {
        let now = OffsetDateTime::now_utc();
        told_of(&edited(&|params| (params.not_before, params.not_after) = (now + from, now + to)))
    };
    let (days, hours) = (Duration::days, Duration::hours);
    one_error(&span(days(-30), days(-3) - hours(1)), "expired 3 days ago");
    one_error(&span(days(-30), hours(-5) - Duration::minutes(1)), "expired 5 hours ago");
    one_error(&span(days(2) + hours(1), days(30)), "not valid yet, only in 2 days");
    one_warning(&span(days(-30), days(13) + hours(1)), "expires in 13 days");
    silent(&span(days(-30), days(15)));
}

#[test]
fn a_certificate_without_names_is_refused() {
    one_error(&told_of(&edited(&|params| params.subject_alt_names.clear())), "no subject alternative names");
}

#[test]
fn the_wrong_key_is_refused() {
    let (a, b) = (edited(PLAIN), edited(PLAIN));
    one_error(&told(&a.pem(), &b.key_pem(), json!({})), "the key does not belong to the certificate");
}

#[test]
fn weak_keys_are_refused() {
    let key = KeyPair::generate().unwrap().serialize_pem();
    one_error(&told(RSA_1024, &key, json!({})), "1024 bits, fewer than 2048");
}

/// Valid until 2126. Its key is nowhere.
const RSA_1024: &str = include_str!("rsa_1024.crt");

#[test]
fn keys_are_read_in_all_three_forms() {
    let authority = Authority::new("ca");
    let rsa = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
    for (key, inner) in [(KeyPair::generate().unwrap(), "EC PRIVATE KEY"), (rsa, "RSA PRIVATE KEY")] {
        let issued = authority.issue_with(&["a.example"], key, PLAIN);
        silent(&told_of(&issued));
        let key = pem(inner, &unwrap_pkcs8(&issued.key.serialize_der()));
        silent(&told(&issued.pem(), &key, json!({})));
    }
}

/// PKCS#8 is a wrapper: version, algorithm, and the older form as octets (RFC 5208 §5).
fn unwrap_pkcs8(der: &[u8]) -> Vec<u8> {
    use x509_parser::{der_parser::asn1_rs::Any, prelude::FromDer};
    let (_, outer) = Any::from_der(der).unwrap();
    let (rest, _version) = Any::from_der(outer.data).unwrap();
    let (rest, _algorithm) = Any::from_der(rest).unwrap();
    Any::from_der(rest).unwrap().1.data.to_vec()
}

fn pem(label: &str, der: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in der.chunks(3) {
        let bits = three.iter().chain(&[0, 0]).take(3).fold(0_usize, |bits, octet| bits << 8 | usize::from(*octet));
        for sextet in 0..4 {
            let symbol = char::from(ALPHABET[bits >> (18 - 6 * sextet) & 63]);
            text.push(if sextet <= three.len() { symbol } else { '=' });
        }
    }
    let lines: Vec<_> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

#[test]
fn files_of_another_kind_are_refused() {
    let good = edited(PLAIN);
    one_error(&told("", &good.key_pem(), json!({})), "holds no certificate");
    one_error(&told(&good.key_pem(), &good.key_pem(), json!({})), "holds no certificate");
    one_error(&told(&good.pem(), &good.pem(), json!({})), "not a PEM private key");
    one_error(
        &told(&pem("CERTIFICATE", b"junk"), &good.key_pem(), json!({})),
        "certificate 1 of the file cannot be read",
    );
    one_error(&told(&good.pem(), &pem("PRIVATE KEY", b"junk"), json!({})), "damaged or of a kind");
}

#[test]
fn a_key_from_the_environment_is_not_repeated_when_it_is_wrong() {
    let good = edited(PLAIN);
    let told = told(&good.pem(), "", json!({ "key": { "env": "CARGO_MANIFEST_DIR" } }));
    one_error(&told, "not a PEM private key");
    assert!(!told.errors[0].contains(env!("CARGO_MANIFEST_DIR")));
}

#[test]
fn the_order_of_a_chain_is_checked() {
    let root = Authority::new("root");
    let (middle, _) = root.intermediate("middle");
    let leaf = middle.issue(&["a.example"]);
    let chain = |parts: &[String]| told(&(leaf.pem() + &parts.concat()), &leaf.key_pem(), json!({}));
    silent(&chain(&[middle.pem()]));
    silent(&chain(&[middle.pem(), root.pem()]));
    one_error(&chain(&[root.pem(), middle.pem()]), "out of order: certificate 2 did not issue certificate 1");
    one_warning(&chain(&[middle.pem(), Authority::new("stranger").pem()]), "certificate 3 of the file does not belong");
}

#[test]
fn hosts_must_be_certified() {
    let issued = Authority::new("ca").issue(&["a.example", "*.b.example", "10.0.0.1"]);
    let with = |hosts: Value| told(&issued.pem(), &issued.key_pem(), json!({ "hosts": hosts }));
    silent(&with(json!(["a.example", "x.b.example", "*.b.example", "10.0.0.1"])));
    for bad in ["c.example", "b.example", "x.y.b.example", "*.a.example", "*", "10.0.0.2"] {
        one_error(&with(json!([bad])), &format!("does not cover {bad} (it covers: a.example, *.b.example, 10.0.0.1)"));
    }
    one_error(&with(json!([])), "an empty list serves nobody");
}

#[test]
fn coverage_is_asked_of_all_certificates_of_a_listener() {
    let authority = Authority::new("ca");
    let mut bench = Workbench::new();
    bench.certificate("one", &authority.issue(&["a.example"]));
    bench.certificate("two", &authority.issue(&["*.b.example"]));
    bench.certificate_of("broken", "", "", json!({}));
    let (certificates, ..) = bench.load();
    let check = |names: &[&str], host: &str, uncovered: bool| {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let host: HostPattern = host.parse().unwrap();
        assert_eq!(certificates.uncovered(&names, &host), uncovered, "{names:?} {host}");
    };
    check(&["one", "two"], "a.example", false);
    check(&["one", "two"], "x.b.example", false);
    check(&["one", "two"], "*.b.example", false);
    check(&["one", "two"], "x.y.b.example", true);
    check(&["one"], "x.b.example", true);
    check(&["one"], "*", false);
    check(&["one", "broken"], "x.b.example", false);
}

#[test]
fn all_problems_are_found_in_one_run() {
    let mut bench = Workbench::new();
    let good = edited(PLAIN);
    bench.certificate_of("a", "", "", json!({}));
    bench.certificate_of("b", &good.pem(), &edited(PLAIN).key_pem(), json!({ "hosts": ["other.example"] }));
    let (certificates, _, told) = bench.load();
    assert_eq!(told.errors.len(), 4, "{told:?}");
    assert_eq!(certificates.names().count(), 2, "declared names stay known");
    assert_eq!(certificates.iter().count(), 0);
}

#[test]
fn facts_for_admin_and_metrics_are_kept() {
    let mut bench = Workbench::new();
    let issued = Authority::new("the ca").issue(&["a.example", "10.0.0.1"]);
    bench.certificate("a", &issued);
    let (certificates, ..) = bench.load();
    let certificate = certificates.get("a").unwrap();
    let facts = &certificate.identity;
    assert_eq!(facts.dns, ["a.example"]);
    assert_eq!(facts.serial, format!("{:x}", issued.serial));
    assert!(facts.issuer.contains("the ca"), "{}", facts.issuer);
    assert_eq!(facts.fingerprint.len(), 64);
    let left = certificate.seconds_left(std::time::SystemTime::now());
    assert!((90 * 86_400 - 60..=90 * 86_400).contains(&left), "{left}");
    assert!(certificate.not_before < certificate.not_after);
    assert!(!format!("{certificate:?}").contains(&format!("{:?}", &issued.key.serialize_der()[..20])));
}

#[test]
fn bundles_are_checked_like_certificates() {
    let authority = Authority::new("ca");
    let check = |ca: &str, crl: Option<&str>| {
        let mut bench = Workbench::new();
        let mut spec = json!({ "ca": { "file": bench.file("ca", ca) } });
        if let Some(crl) = crl {
            spec["crl"] = json!({ "file": bench.file("crl", crl) });
        }
        bench.trust_of("t", spec);
        bench.load().2
    };
    let crl = |due| authority.crl(&[1], due);
    silent(&check(&authority.pem(), None));
    silent(&check(&authority.pem(), Some(&crl(Duration::days(1)))));
    one_error(&check("", None), "holds no certificate");
    one_error(&check(&pem("CERTIFICATE", b"junk"), None), "certificate 1 of the bundle cannot be used");
    one_error(&check(&authority.pem(), Some(&authority.pem())), "holds no revocation list");
    one_error(&check(&authority.pem(), Some(&pem("X509 CRL", b"junk"))), "cannot be read");
    one_warning(
        &check(&authority.pem(), Some(&crl(Duration::days(-2) - Duration::hours(1)))),
        "due for renewal 2 days ago",
    );
    let old = edited(&|params| params.not_after = OffsetDateTime::now_utc() - Duration::days(1));
    one_warning(&check(&old.pem(), None), "expired 1 day ago");
}
