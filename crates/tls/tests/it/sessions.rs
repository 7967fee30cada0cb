//! Who may resume a session, and where.

use crate::{
    authority::{Authority, Issued},
    handshake::{Client, ONLY_12, ONLY_13, client, shake},
    workbench::Workbench,
};
use portcullis_tls::{PeerIdentity, ServerTls};
use rustls::ClientConfig;
use serde_json::{Value, json};
use std::sync::Arc;
use time::Duration;

struct House {
    bench: Workbench,
    authority: Authority,
    client: Issued,
}

impl House {
    fn new() -> Self {
        let authority = Authority::new("ca");
        let mut bench = Workbench::new();
        bench.certificate("a", &authority.issue(&["a.example"]));
        bench.trust("t", &authority, None);
        let client = authority.issue(&["client.example", "spiffe://corp/client"]);
        Self { bench, authority, client }
    }

    fn listener(&self, previous: Option<&ServerTls>, tls: &Value) -> ServerTls {
        let (server, told) = self.bench.listener_after(previous, &["a"], tls.clone());
        assert!(told.errors.is_empty(), "{told:?}");
        server.unwrap()
    }

    /// A client that has been here, with tickets from `server`.
    fn guest(&self, server: &ServerTls) -> Arc<ClientConfig> {
        let guest = Client::with(&self.client, &[]).build(&self.authority).0;
        assert!(!shake(&guest, server, "a.example").unwrap().resumed(), "the first time");
        guest
    }

    fn resumes(&self, guest: &Arc<ClientConfig>, server: &ServerTls) -> bool {
        shake(guest, server, "a.example").is_ok_and(|session| session.resumed())
    }
}

fn checked() -> Value {
    json!({ "client_auth": "required", "trust": "t" })
}

#[test]
fn sessions_are_resumed_by_ticket_in_both_versions() {
    let house = House::new();
    for tls in [json!({}), checked()] {
        let server = house.listener(None, &tls);
        for versions in [ONLY_12, ONLY_13] {
            let guest = Client { versions, ..Client::with(&house.client, &[]) }.build(&house.authority).0;
            assert!(!house.resumes(&guest, &server));
            assert!(house.resumes(&guest, &server), "{tls} {versions:?}");
        }
    }
}

#[test]
fn a_resumed_session_still_knows_who_it_is() {
    let house = House::new();
    let server = house.listener(None, &checked());
    let guest = house.guest(&server);
    let session = shake(&guest, &server, "a.example").unwrap();
    assert!(session.resumed());
    let identity = PeerIdentity::from_chain(session.server.peer_certificates().unwrap()).unwrap();
    assert_eq!(identity.spiffe.as_deref(), Some("spiffe://corp/client"));
}

#[test]
fn without_tickets_nothing_is_resumed() {
    let house = House::new();
    let server = house.listener(None, &json!({ "tickets": "off" }));
    for versions in [ONLY_12, ONLY_13] {
        let guest = Client { versions, ..Client::default() }.build(&house.authority).0;
        assert!(!house.resumes(&guest, &server));
        assert!(!house.resumes(&guest, &server));
    }
}

#[test]
fn a_reload_keeps_sessions_while_the_client_policy_is_the_same() {
    let house = House::new();
    for tls in [json!({}), checked(), json!({ "client_auth": "optional", "trust": "t", "san": ["client.example"] })] {
        let before = house.listener(None, &tls);
        let guest = house.guest(&before);
        let after = house.listener(Some(&before), &tls);
        assert!(house.resumes(&guest, &after), "{tls}");
        let mut stricter = tls.clone();
        stricter["min_version"] = json!("1.3");
        assert!(house.resumes(&guest, &house.listener(Some(&after), &stricter)), "{stricter}");
    }
}

#[test]
fn a_reload_that_changes_the_client_policy_ends_all_sessions() {
    let mut house = House::new();
    let named = |names: Value| json!({ "client_auth": "required", "trust": "t", "san": names });
    for (before, after) in [
        (json!({}), checked()),
        (checked(), json!({})),
        (json!({ "client_auth": "optional", "trust": "t" }), checked()),
        (checked(), named(json!(["client.example"]))),
        (named(json!(["client.example"])), named(json!(["client.example", "x.example"]))),
        (named(json!(["client.example"])), named(json!(["spiffe://corp/client"]))),
        (checked(), json!({ "client_auth": "required", "trust": "t", "tickets": "off" })),
    ] {
        let old = house.listener(None, &before);
        let guest = house.guest(&old);
        assert!(!house.resumes(&guest, &house.listener(Some(&old), &after)), "{before} -> {after}");
    }

    // The same names in the configuration, other content in the files.
    let old = house.listener(None, &checked());
    let guest = house.guest(&old);
    house.bench.trust("t", &house.authority, Some(house.authority.crl(&[1], Duration::days(1))));
    let listed = house.listener(Some(&old), &checked());
    assert!(!house.resumes(&guest, &listed), "a list came");

    let guest = house.guest(&listed);
    house.bench.trust("t", &house.authority, Some(house.authority.crl(&[house.client.serial], Duration::days(1))));
    let revoking = house.listener(Some(&listed), &checked());
    assert!(shake(&guest, &revoking, "a.example").is_err(), "a revoked client is out at once, ticket or not");

    house.bench.trust("t", &Authority::new("other"), None);
    assert!(
        shake(&guest, &house.listener(Some(&listed), &checked()), "a.example").is_err(),
        "so is one of another bundle"
    );
}

#[test]
fn a_policy_that_comes_back_does_not_bring_old_sessions_back() {
    let house = House::new();
    let first = house.listener(None, &checked());
    let guest = house.guest(&first);
    let other = house.listener(Some(&first), &json!({}));
    assert!(!house.resumes(&guest, &house.listener(Some(&other), &checked())));
}

#[test]
fn listeners_never_take_each_others_tickets() {
    let house = House::new();
    let open = house.listener(None, &json!({}));
    let optional = house.listener(None, &json!({ "client_auth": "optional", "trust": "t" }));
    let required = house.listener(None, &checked());
    let named = house.listener(None, &json!({ "client_auth": "required", "trust": "t", "san": ["client.example"] }));
    let twin = house.listener(None, &checked());
    let all = [&open, &optional, &required, &named, &twin];
    for (from, one) in all.iter().enumerate() {
        for (to, other) in all.iter().enumerate().filter(|(to, _)| *to != from) {
            assert!(!house.resumes(&house.guest(one), other), "{from} -> {to}");
        }
    }
    // The attack: a session without a certificate, carried to where one is required.
    let anonymous = client(&house.authority);
    shake(&anonymous, &open, "a.example").unwrap();
    assert!(shake(&anonymous, &required, "a.example").is_err());
}
