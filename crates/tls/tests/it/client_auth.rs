//! Whom a listener lets in.

use crate::{
    authority::{Authority, Issued, PLAIN},
    handshake::{Client, Failure, ONLY_12, Session, client, shake},
    workbench::Workbench,
};
use portcullis_tls::{PeerIdentity, ServerTls};
use rcgen::KeyPair;
use rustls::{CertificateError, Error};
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};

struct Gate {
    bench: Workbench,
    authority: Authority,
}

impl Gate {
    fn new(crl: impl FnOnce(&Authority) -> Option<String>) -> Self {
        let authority = Authority::new("ca");
        let mut bench = Workbench::new();
        bench.certificate("a", &authority.issue(&["a.example"]));
        bench.trust("t", &authority, crl(&authority));
        Self { bench, authority }
    }

    fn listener(&self, tls: Value) -> ServerTls {
        self.bench.listener(&["a"], tls)
    }

    fn enter(&self, server: &ServerTls, shows: Option<&Issued>) -> Result<Session, Failure> {
        let client = shows.map_or_else(Client::default, |issued| Client::with(issued, &[]));
        shake(&client.build(&self.authority).0, server, "a.example")
    }
}

fn is_refused(result: Result<Session, Failure>, why: &CertificateError) -> bool {
    matches!(result, Err(Failure::Server(Error::InvalidCertificate(error))) if error == *why)
}

fn no_certificate(result: Result<Session, Failure>) -> bool {
    matches!(result, Err(Failure::Server(Error::NoCertificatesPresented)))
}

#[test]
fn off_optional_and_required_mean_what_they_say() {
    let gate = Gate::new(|_| None);
    let good = gate.authority.issue(&["client.example"]);
    let foreign = Authority::new("stranger").issue(&["client.example"]);
    let old = gate.authority.issue_with(&["client.example"], KeyPair::generate().unwrap(), &|params| {
        params.not_after = OffsetDateTime::now_utc() - Duration::minutes(5);
    });

    let off = gate.listener(json!({}));
    let session = gate.enter(&off, Some(&good)).unwrap();
    assert!(session.server.peer_certificates().is_none(), "nobody asked");

    for mode in ["optional", "required"] {
        let server = gate.listener(json!({ "client_auth": mode, "trust": "t" }));
        let session = gate.enter(&server, Some(&good)).unwrap();
        let identity = PeerIdentity::from_chain(session.server.peer_certificates().unwrap()).unwrap();
        assert_eq!(identity.dns, ["client.example"]);
        assert!(is_refused(gate.enter(&server, Some(&foreign)), &CertificateError::UnknownIssuer), "{mode}");
        let late = gate.enter(&server, Some(&old));
        assert!(
            matches!(late, Err(Failure::Server(Error::InvalidCertificate(CertificateError::ExpiredContext { .. })))),
            "{mode}"
        );
    }
    let optional = gate.listener(json!({ "client_auth": "optional", "trust": "t" }));
    assert!(gate.enter(&optional, None).unwrap().server.peer_certificates().is_none());
    let required = gate.listener(json!({ "client_auth": "required", "trust": "t" }));
    assert!(no_certificate(gate.enter(&required, None)));
    let old = Client { versions: ONLY_12, ..Client::default() }.build(&gate.authority).0;
    assert!(no_certificate(shake(&old, &required, "a.example")));
}

#[test]
fn only_clients_with_one_of_the_names_come_in() {
    let gate = Gate::new(|_| None);
    let denied = CertificateError::ApplicationVerificationFailure;
    for mode in ["optional", "required"] {
        let check = |patterns: &[&str], names: &[&str], enters: bool| {
            let server = gate.listener(json!({ "client_auth": mode, "trust": "t", "san": patterns }));
            let result = gate.enter(&server, Some(&gate.authority.issue(names)));
            let fits = if enters { result.is_ok() } else { is_refused(result, &denied) };
            assert!(fits, "{mode} {patterns:?} {names:?}");
        };
        check(&["spiffe://corp/ns/pay/*"], &["spiffe://corp/ns/pay/sa/x"], true);
        check(&["spiffe://corp/ns/pay/*"], &["spiffe://corp/ns/cart/sa/x"], false);
        check(&["spiffe://corp/ns/pay/*"], &["pay.example"], false);
        check(&["spiffe://a/b", "client.example"], &["other.example", "Client.Example"], true);
        check(&["*.partner.example"], &["x.partner.example"], true);
        check(&["*.partner.example"], &["partner.example"], false);
        check(&["*.partner.example"], &["*.partner.example"], true);
        check(&["x.partner.example"], &["*.partner.example"], false);
        check(&["10.0.0.7"], &["10.0.0.7"], true);
        check(&["10.0.0.7"], &["10.0.0.8"], false);
        check(&["*.0.0.7"], &["10.0.0.7"], false);
    }
    let optional = gate.listener(json!({ "client_auth": "optional", "trust": "t", "san": ["client.example"] }));
    assert!(gate.enter(&optional, None).is_ok(), "nobody is still nobody");
}

#[test]
fn the_common_name_is_no_name() {
    let gate = Gate::new(|_| None);
    let server = gate.listener(json!({ "client_auth": "required", "trust": "t", "san": ["leaf"] }));
    let issued = gate.authority.issue(&["client.example"]);
    assert!(is_refused(gate.enter(&server, Some(&issued)), &CertificateError::ApplicationVerificationFailure));
}

#[test]
fn revoked_clients_are_refused() {
    let (mut good, mut bad) = (None, None);
    let gate = Gate::new(|authority| {
        let (kept, revoked) = (authority.issue(&["client.example"]), authority.issue(&["client.example"]));
        let crl = authority.crl(&[revoked.serial], Duration::days(1));
        (good, bad) = (Some(kept), Some(revoked));
        Some(crl)
    });
    for mode in ["optional", "required"] {
        let server = gate.listener(json!({ "client_auth": mode, "trust": "t" }));
        assert!(gate.enter(&server, good.as_ref()).is_ok());
        assert!(is_refused(gate.enter(&server, bad.as_ref()), &CertificateError::Revoked));
    }
}

#[test]
fn a_late_list_still_revokes() {
    let mut bad = None;
    let gate = Gate::new(|authority| {
        let revoked = authority.issue(&["client.example"]);
        let crl = authority.crl(&[revoked.serial], Duration::days(-1));
        bad = Some(revoked);
        Some(crl)
    });
    let server = gate.listener(json!({ "client_auth": "required", "trust": "t" }));
    assert!(is_refused(gate.enter(&server, bad.as_ref()), &CertificateError::Revoked));
    assert!(gate.enter(&server, Some(&gate.authority.issue(&["client.example"]))).is_ok());
}

#[test]
fn the_whole_chain_is_looked_up_and_an_issuer_without_a_list_revokes_nothing() {
    let mut below = None;
    let gate = Gate::new(|authority| {
        let (kept, _) = authority.intermediate("kept");
        let (revoked, serial) = authority.intermediate("revoked");
        let crl = authority.crl(&[serial], Duration::days(1));
        below = Some((kept, revoked));
        Some(crl)
    });
    let (kept, revoked) = below.unwrap();
    let server = gate.listener(json!({ "client_auth": "required", "trust": "t" }));
    let enter = |middle: &Authority| {
        let issued = middle.issue_with(&["client.example"], KeyPair::generate().unwrap(), PLAIN);
        shake(&Client::with(&issued, &[middle]).build(&gate.authority).0, &server, "a.example")
    };
    assert!(enter(&kept).is_ok());
    assert!(is_refused(enter(&revoked), &CertificateError::Revoked));
}

#[test]
fn keys_that_would_have_no_effect_are_refused() {
    let gate = Gate::new(|_| None);
    let told = |tls| {
        let (server, told) = gate.bench.listener_after(None, &["a"], tls);
        assert!(!told.errors.is_empty());
        assert!(
            server.is_none() || told.errors.iter().all(|error| error.contains("effect") || error.contains("empty"))
        );
        told.errors.join("\n")
    };
    assert!(told(json!({ "trust": "t" })).contains("`trust` has no effect"));
    assert!(told(json!({ "client_auth": "off", "san": ["x"] })).contains("`san` has no effect"));
    assert!(told(json!({ "client_auth": "required" })).contains("need `trust`"));
    assert!(
        told(json!({ "client_auth": "required", "trust": "u" })).contains("trust \"u\" is not defined (defined: t)")
    );
    assert!(told(json!({ "client_auth": "required", "trust": "t", "san": [] })).contains("an empty list"));
}

#[test]
fn a_plain_client_is_not_bothered() {
    let gate = Gate::new(|_| None);
    let server = gate.listener(json!({ "client_auth": "optional", "trust": "t", "san": ["client.example"] }));
    assert!(shake(&client(&gate.authority), &server, "a.example").is_ok());
}
