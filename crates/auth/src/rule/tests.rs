//! Requests against rules, as data.

use super::*;
use crate::{
    AuthNames, ConsumerSpec, IdentitySpec, KeyOrigin, KeySet, RuleAuthSpec, TlsNames,
    signer::{Signer, key_set},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use portcullis_config::{Context, Document, Path, Report};
use portcullis_names::ObjectName;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    sync::{LazyLock, OnceLock},
};

const NOW: i64 = 1_800_000_000;
/// m=8 KiB, t=1: as quick as argon2 can be.
static ARGON2: LazyLock<String> = LazyLock::new(|| {
    use argon2::{Argon2, Params, PasswordHasher};
    let argon2 = Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, Params::new(8, 1, 1, None).unwrap());
    argon2.hash_password(b"s3cret").unwrap().to_string()
});
static BCRYPT: LazyLock<String> = LazyLock::new(|| bcrypt::hash("hunter2", 4).unwrap());

#[derive(Default)]
struct Request {
    headers: Vec<(String, String)>,
    query: String,
    uris: Vec<String>,
    dns: Vec<String>,
    certificate: bool,
}

impl AuthRequest for Request {
    fn header(&self, name: &str) -> Presented<'_> {
        let values = self.headers.iter().filter(|(field, _)| field == name);
        Presented::from_values(values.map(|(_, value)| value.as_bytes().into()))
    }
    fn cookie(&self, name: &str) -> Presented<'_> {
        let fields = self.headers.iter().filter(|(field, _)| field == "cookie");
        Presented::cookie(fields.map(|(_, value)| value.as_bytes()), name)
    }
    fn query(&self, name: &str) -> Presented<'_> {
        Presented::query(&self.query, name)
    }
    fn tls_names(&self) -> Option<TlsNames<'_>> {
        self.certificate.then_some(TlsNames { uris: &self.uris, dns: &self.dns })
    }
}

fn request(fields: &[(&str, &str)]) -> Request {
    let mut request = Request::default();
    for (name, value) in fields {
        match *name {
            "?" => request.query = (*value).to_owned(),
            "uri" => request.uris.push((*value).to_owned()),
            "dns" => request.dns.push((*value).to_owned()),
            "cert" => {}
            name => request.headers.push((name.to_owned(), (*value).to_owned())),
        }
        request.certificate |= matches!(*name, "uri" | "dns" | "cert");
    }
    request
}

fn signer() -> &'static Signer {
    static KEY: OnceLock<Signer> = OnceLock::new();
    KEY.get_or_init(Signer::p256)
}

fn token(changes: &Value) -> String {
    let mut payload = json!({ "iss": "corp", "aud": "shop", "exp": NOW + 300, "sub": "u1" });
    for (name, value) in changes.as_object().unwrap() {
        payload[name] = value.clone();
    }
    signer().token(&json!({ "alg": "ES256", "kid": "a" }), &payload)
}

fn basic(text: &str) -> String {
    format!("Basic {}", STANDARD.encode(text))
}

struct World {
    identities: BTreeMap<ObjectName, Arc<Identity>>,
    consumers: Arc<Consumers>,
    _folder: tempfile::TempDir,
}

/// Consumers: acme (key `k-acme`, group gold), rook (keys `k-rook-1`, `k-rook-2`; user rook:s3cret by argon2, groups silver,
/// ops), pawn (user pawn:hunter2 by bcrypt).
fn world() -> World {
    let folder = tempfile::tempdir().unwrap();
    let secret = |name: &str, text: &str| {
        let file = folder.path().join(name);
        std::fs::write(&file, format!("{text}\n")).unwrap();
        json!({ "file": file })
    };
    let digest = |key: &str| Sha256::digest(key).iter().map(|octet| format!("{octet:02x}")).collect::<String>();
    let key = |key: &str| json!({ "sha256": secret(key, &digest(key)) });
    let specs = json!({
        "acme": { "keys": [key("k-acme")], "groups": ["gold"] },
        "rook": { "keys": [key("k-rook-1"), key("k-rook-2")], "groups": ["silver", "ops"],
                  "basic": { "username": "rook", "password_hash": secret("rook", &ARGON2) } },
        "pawn": { "basic": { "username": "pawn", "password_hash": secret("pawn", &BCRYPT) } },
    });
    let specs: BTreeMap<ObjectName, ConsumerSpec> = serde_json::from_value(specs).unwrap();
    let mut cx = Context::default();
    let consumers = Consumers::compile(&specs, &Path::root(), &mut cx);
    let identity = json!({ "issuer": "corp", "audiences": ["shop"], "jwks": { "url": "https://id.example.com/keys" } });
    let identity: IdentitySpec = serde_json::from_value(identity).unwrap();
    let name: ObjectName = "corp".parse().unwrap();
    let identity = identity.compile(&name, &Path::root(), &mut cx).unwrap();
    identity.set_keys(KeySet::parse(key_set(&[signer().jwk("a")]).as_bytes(), KeyOrigin::Network).unwrap(), NOW);
    World { identities: [(name, Arc::new(identity))].into(), consumers: Arc::new(consumers), _folder: folder }
}

fn compile(world: &World, toml: &str) -> (Option<AuthRule>, Report) {
    let (document, report) = Document::parse("a.toml", &format!("[auth]\n{toml}"));
    let spec: RuleAuthSpec = serde_json::from_value(document.to_json()["auth"].take()).unwrap();
    let mut cx = Context::new(Arc::new(document), report);
    let names = AuthNames { identities: &world.identities, consumers: &world.consumers };
    let rule = spec.compile(&Path::root().key("auth"), names, &mut cx);
    (rule, cx.finish().0)
}

fn rule(world: &World, toml: &str) -> AuthRule {
    let (rule, report) = compile(world, toml);
    assert!(report.problems().is_empty(), "{toml}: {report:?}");
    rule.unwrap()
}

fn decide(rule: &AuthRule, request: &Request) -> Result<Authenticated, AuthRefusal> {
    match rule.begin(request, NOW) {
        Decision::Done(outcome) => outcome,
        Decision::Keys(_, refusal) => Err(refusal),
        Decision::Password(check) => check.finish(NOW),
    }
}

/// The subject, or the refusal's name.
fn outcome(rule: &AuthRule, fields: &[(&str, &str)]) -> String {
    match decide(rule, &request(fields)) {
        Ok(found) => found.subject().unwrap_or("-").to_owned(),
        Err(refusal) => refusal.as_str().to_owned(),
    }
}

#[test]
fn a_token_is_looked_for_where_the_rule_says() {
    let world = world();
    let good = token(&json!({}));
    let bearer = format!("Bearer {good}");
    let cookie = format!("x=1; tok={good}");
    let query = format!("a=b&tok={good}");
    let default = "jwt = \"corp\"";
    let header = "jwt = \"corp\"\nfrom.header = \"X-Token\"";
    let cookie_only = "jwt = \"corp\"\nfrom.cookie = \"tok\"";
    let query_only = "jwt = \"corp\"\nfrom.query = \"tok\"";
    let all = "jwt = \"corp\"\nfrom = { header = \"authorization\", cookie = \"tok\", query = \"tok\" }";
    for (toml, fields, expected) in [
        (default, vec![("authorization", bearer.as_str())], "u1"),
        (default, vec![("authorization", &bearer.replace("Bearer", "bearer"))], "u1"),
        (default, vec![("authorization", &bearer.replace("Bearer", "BEARER"))], "u1"),
        (default, vec![("authorization", &bearer.replace("Bearer ", "Bearer   "))], "u1"),
        (default, vec![("authorization", &good)], "jwt_missing"),
        (default, vec![("authorization", &bearer.replace("Bearer ", "Bearer"))], "jwt_missing"),
        (default, vec![("authorization", "Bearer")], "jwt_malformed"),
        (default, vec![("authorization", "Bearer ")], "jwt_malformed"),
        (default, vec![("authorization", "Bearer x")], "jwt_malformed"),
        (default, vec![("authorization", "Basic eDp5")], "jwt_missing"),
        (default, vec![("authorization", &bearer), ("authorization", &bearer)], "credentials_repeated"),
        (default, vec![("authorization", "Basic x"), ("authorization", &bearer)], "credentials_repeated"),
        (default, vec![("cookie", &cookie)], "jwt_missing"),
        (default, vec![("?", &query)], "jwt_missing"),
        (default, vec![], "jwt_missing"),
        (header, vec![("x-token", &good)], "u1"),
        (header, vec![("x-token", &bearer)], "u1"),
        (header, vec![("x-token", "")], "jwt_malformed"),
        (header, vec![("authorization", &bearer)], "jwt_missing"),
        (cookie_only, vec![("cookie", &cookie)], "u1"),
        (cookie_only, vec![("cookie", "a=b"), ("cookie", &cookie)], "u1"),
        (cookie_only, vec![("cookie", "tok=x"), ("cookie", &cookie)], "credentials_repeated"),
        (cookie_only, vec![("cookie", "TOK=x")], "jwt_missing"),
        (cookie_only, vec![("authorization", &bearer)], "jwt_missing"),
        (query_only, vec![("?", &query)], "u1"),
        (query_only, vec![("?", "tok=")], "jwt_malformed"),
        (query_only, vec![("?", &format!("{query}&%74ok=x"))], "credentials_repeated"),
        (all, vec![("authorization", &bearer)], "u1"),
        (all, vec![("cookie", &cookie)], "u1"),
        (all, vec![("?", &query)], "u1"),
        (all, vec![("authorization", "Basic x"), ("cookie", &cookie)], "u1"),
        // The first place that has something decides; a good one behind it does not help.
        (all, vec![("authorization", "Bearer x"), ("cookie", &cookie)], "jwt_malformed"),
        (all, vec![("cookie", "tok=x"), ("?", &query)], "jwt_malformed"),
        (all, vec![], "jwt_missing"),
    ] {
        assert_eq!(outcome(&rule(&world, toml), &fields), expected, "{toml} {fields:?}");
    }
}

#[test]
fn required_claims_and_scopes_are_asked_of_every_token() {
    let world = world();
    for (require, claims, expected) in [
        ("scope = [\"read\"]", json!({ "scope": "read write" }), "u1"),
        ("scope = \"read\"", json!({ "scope": "read write" }), "u1"),
        ("scope = [\"read\", \"write\"]", json!({ "scope": "write read" }), "u1"),
        ("scope = [\"read\", \"write\"]", json!({ "scope": "read" }), "jwt_insufficient_scope"),
        ("scope = [\"read\"]", json!({ "scp": ["read"] }), "u1"),
        ("scope = [\"read\"]", json!({ "scope": "reader" }), "jwt_insufficient_scope"),
        ("scope = [\"read\"]", json!({ "scope": "READ" }), "jwt_insufficient_scope"),
        ("scope = [\"read\"]", json!({}), "jwt_insufficient_scope"),
        ("tier = \"gold\"", json!({ "tier": "gold" }), "u1"),
        ("tier = \"gold\"", json!({ "tier": "silver" }), "jwt_insufficient_scope"),
        ("tier = [\"gold\", \"silver\"]", json!({ "tier": "silver" }), "u1"),
        ("tier = \"gold\"", json!({ "tier": ["silver", "gold"] }), "u1"),
        ("tier = \"gold\"", json!({}), "jwt_insufficient_scope"),
        ("email_verified = \"true\"", json!({ "email_verified": true }), "u1"),
        ("email_verified = \"true\"", json!({ "email_verified": false }), "jwt_insufficient_scope"),
        ("level = \"3\"", json!({ "level": 3 }), "u1"),
        ("\"realm_access.roles\" = \"buyer\"", json!({ "realm_access": { "roles": ["buyer"] } }), "u1"),
        (
            "\"realm_access.roles\" = \"buyer\"",
            json!({ "realm_access": { "roles": ["seller"] } }),
            "jwt_insufficient_scope",
        ),
        ("scope = [\"read\"], tier = \"gold\"", json!({ "scope": "read", "tier": "gold" }), "u1"),
        ("scope = [\"read\"], tier = \"gold\"", json!({ "scope": "read" }), "jwt_insufficient_scope"),
        ("scope = [\"read\"], tier = \"gold\"", json!({ "tier": "gold" }), "jwt_insufficient_scope"),
    ] {
        let rule = rule(&world, &format!("jwt = \"corp\"\nrequire = {{ {require} }}"));
        let bearer = format!("Bearer {}", token(&claims));
        assert_eq!(outcome(&rule, &[("authorization", &bearer)]), expected, "{require} {claims}");
    }
}

#[test]
fn api_keys_are_found_by_digest_in_their_one_place() {
    let world = world();
    let header = "api_key.header = \"x-api-key\"";
    let long = "k".repeat(600);
    for (toml, fields, expected) in [
        (header, vec![("x-api-key", "k-acme")], "acme"),
        (header, vec![("x-api-key", "k-rook-1")], "rook"),
        (header, vec![("x-api-key", "k-rook-2")], "rook"),
        (header, vec![("x-api-key", "k-rook-3")], "api_key_unknown"),
        (header, vec![("x-api-key", "K-ACME")], "api_key_unknown"),
        (header, vec![("x-api-key", "k-acme ")], "api_key_unknown"),
        (header, vec![("x-api-key", "")], "api_key_unknown"),
        (header, vec![("x-api-key", &long)], "api_key_unknown"),
        (header, vec![("x-api-key", "k-acme"), ("x-api-key", "k-acme")], "credentials_repeated"),
        (header, vec![("?", "x-api-key=k-acme")], "credentials_missing"),
        (header, vec![], "credentials_missing"),
        ("api_key.query = \"key\"", vec![("?", "key=k-acme")], "acme"),
        ("api_key.query = \"key\"", vec![("?", "key=k%2Dacme")], "acme"),
        ("api_key.query = \"key\"", vec![("?", "key=k-acme&key=x")], "credentials_repeated"),
        ("api_key.cookie = \"key\"", vec![("cookie", "key=k-acme")], "acme"),
        ("api_key.header = \"x-api-key\"\ngroups = [\"gold\"]", vec![("x-api-key", "k-acme")], "acme"),
        ("api_key.header = \"x-api-key\"\ngroups = [\"gold\"]", vec![("x-api-key", "k-rook-1")], "not_in_group"),
        ("api_key.header = \"x-api-key\"\ngroups = [\"gold\", \"ops\"]", vec![("x-api-key", "k-rook-1")], "rook"),
    ] {
        assert_eq!(outcome(&rule(&world, toml), &fields), expected, "{toml} {fields:?}");
    }
    // The digest is not the key.
    let digest = Sha256::digest("k-acme").iter().map(|octet| format!("{octet:02x}")).collect::<String>();
    assert_eq!(outcome(&rule(&world, header), &[("x-api-key", &digest)]), "api_key_unknown");
}

#[test]
fn passwords_are_checked_and_remembered() {
    let world = world();
    let rule_ = rule(&world, "basic = {}");
    let grouped = rule(&world, "basic = {}\ngroups = [\"ops\"]");
    for (rule, value, expected) in [
        (&rule_, basic("rook:s3cret"), "rook"),
        (&rule_, basic("rook:s3cret").replace("Basic", "bASIC"), "rook"),
        (&rule_, basic("pawn:hunter2"), "pawn"),
        (&rule_, basic("pawn:s3cret"), "password_wrong"),
        (&rule_, basic("rook:hunter2"), "password_wrong"),
        (&rule_, basic("rook:"), "password_wrong"),
        (&rule_, basic("rook:s3cret "), "password_wrong"),
        (&rule_, basic("Rook:s3cret"), "password_wrong"),
        (&rule_, basic("nobody:s3cret"), "password_wrong"),
        (&rule_, basic("nobody:hunter2"), "password_wrong"),
        (&rule_, basic(":"), "password_wrong"),
        (&rule_, basic(&format!("pawn:{}", "x".repeat(100))), "password_wrong"),
        (&rule_, basic("pawn:hun\0ter2"), "password_wrong"),
        (&rule_, basic("rook"), "password_malformed"),
        (&rule_, basic(""), "password_malformed"),
        (&rule_, "Basic".into(), "password_malformed"),
        (&rule_, "Basic !!!".into(), "password_malformed"),
        (&rule_, basic(&format!("rook:{}", "x".repeat(2000))), "password_malformed"),
        (&rule_, "Bearer x".into(), "credentials_missing"),
        (&rule_, "Basicrook".into(), "credentials_missing"),
        (&grouped, basic("rook:s3cret"), "rook"),
        (&grouped, basic("pawn:hunter2"), "not_in_group"),
    ] {
        for _ in 0..2 {
            assert_eq!(outcome(rule, &[("authorization", &value)]), expected, "{value}");
        }
    }
}

#[test]
fn only_the_first_check_of_a_password_is_slow_and_it_ends() {
    let world = world();
    let rule = rule(&world, "basic = {}");
    let slow = |value: &str, now: i64| match rule.begin(&request(&[("authorization", value)]), now) {
        Decision::Password(check) => {
            let _ = check.finish(now);
            true
        }
        Decision::Done(_) | Decision::Keys(..) => false,
    };
    let (right, wrong, unknown) = (basic("rook:s3cret"), basic("rook:no"), basic("nobody:no"));
    for (value, after, expected) in [
        (&right, 0, true),
        (&right, 0, false),
        (&right, 299, false),
        (&right, 300, true),
        (&wrong, 0, true),
        (&wrong, 9, false),
        (&wrong, 10, true),
        (&unknown, 0, true),
        (&unknown, 9, false),
        (&unknown, 10, true),
    ] {
        assert_eq!(slow(value, NOW + after), expected, "{value} after {after}");
    }
}

#[test]
fn a_flood_of_passwords_leaves_cores_to_others() {
    let world = world();
    let rule = rule(&world, "basic = {}");
    std::thread::scope(|scope| {
        for at in 0..200 {
            let rule = &rule;
            scope.spawn(move || {
                let value = basic(&format!("pawn:{at}"));
                let outcome = decide(rule, &request(&[("authorization", &value)]));
                let refused = matches!(outcome, Err(AuthRefusal::PasswordBusy | AuthRefusal::PasswordWrong));
                assert!(refused, "{outcome:?}");
            });
        }
    });
    // Every turn was given back.
    assert_eq!(outcome(&rule, &[("authorization", &basic("pawn:hunter2"))]), "pawn");
}

#[test]
fn one_way_to_say_who_one_is_suffices_and_a_wrong_one_is_not_made_good_by_another() {
    let world = world();
    let rule = rule(&world, "jwt = \"corp\"\napi_key.header = \"x-api-key\"\nbasic.realm = \"staff\"");
    let bearer = format!("Bearer {}", token(&json!({})));
    for (fields, expected) in [
        (vec![("authorization", bearer.as_str())], "u1"),
        (vec![("x-api-key", "k-acme")], "acme"),
        (vec![("authorization", &basic("rook:s3cret"))], "rook"),
        (vec![("authorization", &bearer), ("x-api-key", "wrong")], "u1"),
        (vec![("authorization", "Bearer x"), ("x-api-key", "k-acme")], "jwt_malformed"),
        (vec![("x-api-key", "wrong"), ("authorization", &basic("rook:s3cret"))], "api_key_unknown"),
        (vec![("authorization", "Negotiate x")], "credentials_missing"),
        (vec![], "credentials_missing"),
    ] {
        assert_eq!(outcome(&rule, &fields), expected, "{fields:?}");
    }
}

#[test]
fn a_certificate_is_needed_besides_everything_else() {
    let world = world();
    let alone = "client_cert.san = [\"spiffe://corp/ns/pay/*\", \"*.partner.example\"]";
    let both = format!("{alone}\napi_key.header = \"x-api-key\"");
    for (toml, fields, expected) in [
        (alone, vec![("uri", "spiffe://corp/ns/pay/sa/x")], "spiffe://corp/ns/pay/sa/x"),
        (alone, vec![("dns", "a.partner.example")], "a.partner.example"),
        (alone, vec![("dns", "other.example"), ("uri", "spiffe://corp/ns/pay/sa/x")], "spiffe://corp/ns/pay/sa/x"),
        (alone, vec![("uri", "spiffe://corp/ns/other/sa/x")], "certificate_name"),
        (alone, vec![("dns", "partner.example")], "certificate_name"),
        (alone, vec![("dns", "spiffe://corp/ns/pay/sa/x")], "certificate_name"),
        (alone, vec![("cert", "")], "certificate_name"),
        (alone, vec![], "certificate_missing"),
        (&both, vec![("uri", "spiffe://corp/ns/pay/sa/x"), ("x-api-key", "k-acme")], "acme"),
        (&both, vec![("uri", "spiffe://corp/ns/pay/sa/x"), ("x-api-key", "x")], "api_key_unknown"),
        (&both, vec![("uri", "spiffe://corp/ns/pay/sa/x")], "credentials_missing"),
        (&both, vec![("x-api-key", "k-acme")], "certificate_missing"),
        (&both, vec![("cert", ""), ("x-api-key", "k-acme")], "certificate_name"),
    ] {
        assert_eq!(outcome(&rule(&world, toml), &fields), expected, "{toml} {fields:?}");
    }
    // Both are told of, also by way of a password check.
    let slow = rule(&world, &format!("{alone}\nbasic = {{}}"));
    let found =
        decide(&slow, &request(&[("dns", "a.partner.example"), ("authorization", &basic("rook:s3cret"))])).unwrap();
    assert_eq!((found.subject(), found.certificate.as_deref()), (Some("rook"), Some("a.partner.example")));
}

#[test]
fn groups_of_a_token_are_its_claim() {
    let world = world();
    let rule = rule(&world, "jwt = \"corp\"\ngroups = [\"ops\", \"dev\"]");
    for (claims, expected) in [
        (json!({ "groups": ["a", "dev"] }), "u1"),
        (json!({ "groups": "ops" }), "u1"),
        (json!({ "groups": ["a"] }), "not_in_group"),
        (json!({ "groups": "ops dev" }), "not_in_group"),
        (json!({}), "not_in_group"),
    ] {
        let bearer = format!("Bearer {}", token(&claims));
        assert_eq!(outcome(&rule, &[("authorization", &bearer)]), expected, "{claims}");
    }
}

#[test]
fn only_keys_that_may_still_come_are_waited_for() {
    let world = world();
    let rule = rule(&world, "jwt = \"corp\"");
    let sign = |header: Value| {
        let payload = json!({ "iss": "corp", "aud": "shop", "exp": NOW + 300 });
        format!("Bearer {}", signer().token(&header, &payload))
    };
    for (header, waits) in [
        (json!({ "alg": "ES256", "kid": "a" }), false),
        (json!({ "alg": "ES256", "kid": "b" }), true),
        (json!({ "alg": "ES384", "kid": "a" }), false),
        (json!({ "alg": "ES256", "kid": "a\n" }), false),
        (json!({ "alg": "none" }), false),
    ] {
        let value = sign(header.clone());
        let found = rule.begin(&request(&[("authorization", &value)]), NOW);
        assert_eq!(matches!(found, Decision::Keys(..)), waits, "{header}");
    }
}

#[test]
fn what_an_inner_rule_found_counts_more() {
    let world = world();
    let token = format!("Bearer {}", token(&json!({})));
    let found = |toml: &str, fields: &[(&str, &str)]| decide(&rule(&world, toml), &request(fields)).unwrap();
    let by_token = found("jwt = \"corp\"", &[("authorization", &token)]);
    let by_key = found("api_key.header = \"x-k\"", &[("x-k", "k-acme")]);
    let other_key = found("api_key.header = \"x-k\"", &[("x-k", "k-rook-1")]);
    let by_certificate = found("client_cert.san = [\"a.example\"]", &[("dns", "a.example")]);
    for (outer, inner, claims, consumer, certificate) in [
        (&by_certificate, &by_token, Some("u1"), None, Some("a.example")),
        (&by_token, &by_certificate, Some("u1"), None, Some("a.example")),
        (&by_token, &by_key, Some("u1"), Some("acme"), None),
        (&by_key, &other_key, None, Some("rook"), None),
        (&by_certificate, &by_certificate, None, None, Some("a.example")),
    ] {
        let both = outer.clone().and(inner.clone());
        assert_eq!(both.certificate.as_deref(), certificate);
        assert_eq!(both.claims.as_ref().and_then(|claims| claims.subject()), claims);
        assert_eq!(both.consumer.as_ref().map(|consumer| consumer.name().as_str()), consumer);
    }
}

#[test]
fn challenges_name_every_way_in_and_only_where_one_would_help() {
    let world = world();
    let jwt = rule(&world, "jwt = \"corp\"\nrequire.scope = [\"read\", \"write\"]");
    let all = rule(&world, "jwt = \"corp\"\napi_key.header = \"x-k\"\nbasic.realm = \"staff\"");
    let passwords = rule(&world, "basic = {}");
    let certificate = rule(&world, "client_cert.san = [\"a.example\"]");
    let not_enough = "Bearer realm=\"corp\", error=\"insufficient_scope\", error_description=\"the token does not grant what is needed here\"";
    let repeated = "Bearer realm=\"corp\", error=\"invalid_request\", error_description=\"credentials were sent more than once in one place\"";
    let expired = "Bearer realm=\"corp\", error=\"invalid_token\", error_description=\"the token has expired\"";
    let others = ["ApiKey realm=\"restricted\"", "Basic realm=\"staff\", charset=\"UTF-8\""];
    for (rule, refusal, expected) in [
        (&jwt, JwtRefusal::Missing.into(), vec!["Bearer realm=\"corp\", scope=\"read write\""]),
        (&jwt, JwtRefusal::Expired.into(), vec![expired]),
        (
            &jwt,
            JwtRefusal::InsufficientScope.into(),
            vec![
                "Bearer realm=\"corp\", error=\"insufficient_scope\", error_description=\"the token does not grant what is needed here\", scope=\"read write\"",
            ],
        ),
        (&jwt, JwtRefusal::KeysUnavailable.into(), vec![]),
        (&all, AuthRefusal::CredentialsMissing, vec!["Bearer realm=\"corp\"", others[0], others[1]]),
        (&all, AuthRefusal::PasswordWrong, vec!["Bearer realm=\"corp\"", others[0], others[1]]),
        (&all, JwtRefusal::Expired.into(), vec![expired, others[0], others[1]]),
        (&all, AuthRefusal::PasswordBusy, vec![]),
        (&all, AuthRefusal::NotInGroup, vec![not_enough]),
        (&passwords, AuthRefusal::NotInGroup, vec![]),
        (&all, AuthRefusal::CredentialsRepeated, vec![repeated]),
        (&passwords, AuthRefusal::CredentialsRepeated, vec![]),
        (&passwords, AuthRefusal::PasswordWrong, vec!["Basic realm=\"restricted\", charset=\"UTF-8\""]),
        (&certificate, AuthRefusal::CertificateMissing, vec![]),
    ] {
        assert_eq!(rule.challenges(refusal), expected, "{refusal:?}");
    }
}

#[test]
fn mistakes_in_a_rule_are_named() {
    let world = world();
    for (toml, message) in [
        ("", "nothing is asked for"),
        ("jwt = \"crop\"", "identity \"crop\" is not defined (defined: corp)"),
        ("jwt = \"corp\"\nfrom = {}", "no place is named"),
        ("jwt = \"corp\"\nfrom.cookie = \"a b\"", "cannot be the name of a cookie"),
        ("jwt = \"corp\"\nfrom.query = \"\"", "is empty"),
        ("jwt = \"corp\"\nrequire.scope = \"read write\"", "is not one scope"),
        ("jwt = \"corp\"\nrequire.scope = [\"a\\\"b\"]", "is not one scope"),
        ("api_key = {}", "exactly one place"),
        ("api_key = { header = \"a\", query = \"b\" }", "exactly one place"),
        ("basic = {}\napi_key.header = \"Authorization\"", "would be taken for a key"),
        ("basic.realm = \"a\\\"b\"", "cannot be a realm"),
        ("basic.realm = \"\"", "cannot be a realm"),
        ("basic.realm = \"a\\nb\"", "cannot be a realm"),
        ("basic = {}\nfrom.header = \"x\"", "no `jwt` is asked for"),
        ("basic = {}\nrequire.scope = \"x\"", "no `jwt` is asked for"),
        ("basic = {}\ngroups = [\"glod\"]", "no consumer is in group \"glod\""),
        ("basic = {}\ngroups = []", "an empty list lets nobody pass"),
        ("client_cert.san = []", "an empty list lets nobody pass"),
        ("client_cert.san = [\"a.example\"]\ngroups = [\"gold\"]", "a certificate is in no group"),
    ] {
        let (rule, report) = compile(&world, toml);
        let messages: Vec<_> = report.problems().iter().map(|problem| problem.message.clone()).collect();
        assert!(rule.is_none() && messages.iter().any(|found| found.contains(message)), "{toml}: {messages:?}");
    }
    let nobody = World {
        consumers: Arc::new(Consumers::compile(&BTreeMap::new(), &Path::root(), &mut Context::default())),
        ..world
    };
    for (toml, message) in [("basic = {}", "no consumer has a password"), ("api_key.header = \"x\"", "has an API key")]
    {
        assert!(compile(&nobody, toml).1.problems().iter().any(|p| p.message.contains(message)), "{toml}");
    }
    for bad in ["{\"require\":{\"a\":[]}}", "{\"require\":{\"a\":1}}", "{\"require\":{\"a\":true}}", "{\"x\":1}"] {
        assert!(serde_json::from_str::<RuleAuthSpec>(bad).is_err(), "{bad}");
    }
}

#[test]
fn mistakes_in_consumers_are_named_and_secrets_are_not_repeated() {
    let folder = tempfile::tempdir().unwrap();
    let count = std::cell::Cell::new(0);
    let file = |text: &str| {
        count.set(count.get() + 1);
        let file = folder.path().join(count.get().to_string());
        std::fs::write(&file, text).unwrap();
        json!({ "file": file })
    };
    let empty: String = Sha256::digest(b"").iter().map(|octet| format!("{octet:02x}")).collect();
    let one = "ab".repeat(32);
    let key = |text: &str| json!({ "keys": [{ "sha256": file(text) }] });
    let user = |name: &str, hash: &str| json!({ "basic": { "username": name, "password_hash": file(hash) } });
    for (specs, message) in [
        (json!({ "a": {} }), "has no credentials"),
        (json!({ "a": { "keys": [] } }), "has no credentials"),
        (json!({ "a": key("hunter2") }), "not a SHA-256"),
        (json!({ "a": key(&one[1..]) }), "not a SHA-256"),
        (json!({ "a": key(&"zz".repeat(32)) }), "not a SHA-256"),
        (json!({ "a": key(&empty) }), "SHA-256 of nothing"),
        (json!({ "a": key(&one), "b": key(&one.to_uppercase()) }), "consumer \"a\" has the same key"),
        (json!({ "a": user("x", "hunter2") }), "neither an argon2 hash"),
        (json!({ "a": user("x:y", &BCRYPT) }), "cannot be a user name"),
        (json!({ "a": user("", &BCRYPT) }), "cannot be a user name"),
        (json!({ "a": user("x", &BCRYPT), "b": user("x", &BCRYPT) }), "consumer \"a\" has the same user name"),
        (json!({ "a": { "keys": [{ "sha256": { "file": "/nonexistent/x" } }] } }), "cannot read"),
    ] {
        let specs_: BTreeMap<ObjectName, ConsumerSpec> = serde_json::from_value(specs.clone()).unwrap();
        let mut cx = Context::default();
        Consumers::compile(&specs_, &Path::root(), &mut cx);
        let messages: Vec<_> = cx.report().problems().iter().map(|problem| problem.message.clone()).collect();
        assert!(messages.iter().any(|found| found.contains(message)), "{specs}: {messages:?}");
        assert!(!messages.iter().any(|found| found.contains("hunter2")), "{messages:?}");
    }
}
