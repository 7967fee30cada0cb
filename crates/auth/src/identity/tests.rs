//! Tokens and attacks, as data.

use super::*;
use crate::signer::{Signer, b64, key_set};
use portcullis_config::{Document, Report};
use serde_json::json;

const NOW: i64 = 1_800_000_000;

fn compile(toml: &str) -> (Option<Identity>, Report) {
    let text = format!("[identity.corp]\n{toml}");
    let (document, report) = Document::parse("a.toml", &text);
    let mut spec = document.to_json();
    let spec: IdentitySpec = serde_json::from_value(spec["identity"]["corp"].take()).unwrap();
    let mut cx = Context::new(Arc::new(document), report);
    let at = Path::root().key("identity").key("corp");
    let identity = spec.compile(&"corp".parse().unwrap(), &at, &mut cx);
    (identity, cx.finish().0)
}

fn identity_with(keys: &[Value], more: &str) -> Identity {
    let base = "issuer = \"https://id.example.com\"\naudiences = [\"shop\", \"api\"]\n";
    let (identity, report) = compile(&format!("{base}{more}"));
    let identity = identity.unwrap_or_else(|| panic!("{report:?}"));
    identity.set_keys(KeySet::parse(key_set(keys).as_bytes(), KeyOrigin::File).unwrap(), NOW);
    identity
}

fn payload() -> Value {
    json!({ "iss": "https://id.example.com", "aud": "shop", "exp": NOW + 300, "sub": "u1" })
}

/// `payload()` with some members replaced; `null` takes one away.
fn payload_with(changes: &Value) -> Value {
    let mut payload = payload();
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            payload.as_object_mut().unwrap().remove(name);
        } else {
            payload[name] = value.clone();
        }
    }
    payload
}

fn outcome(identity: &Identity, token: &str) -> &'static str {
    match identity.verify(token.as_bytes(), NOW) {
        Ok(_) => "ok",
        Err(refusal) => refusal.as_str(),
    }
}

#[test]
fn every_algorithm_verifies_with_a_key_of_its_type_and_no_other() {
    let (p256, p384, p521, ed) = (Signer::p256(), Signer::p384(), Signer::p521(), Signer::ed25519());
    let secret = Signer::Secret(vec![7; 64]);
    let keys: [(&str, &Signer, &[&str]); 6] = [
        ("rsa", Signer::rsa(), &["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"]),
        ("p256", &p256, &["ES256"]),
        ("p384", &p384, &["ES384"]),
        ("p521", &p521, &["ES512"]),
        ("ed", &ed, &["EdDSA", "Ed25519"]),
        ("oct", &secret, &["HS256", "HS384", "HS512"]),
    ];
    let jwks: Vec<_> = keys.iter().map(|(kid, signer, _)| signer.jwk(kid)).collect();
    let identity = identity_with(&jwks, "");
    for (kid, signer, own) in keys {
        for algorithm in Algorithm::ALL.iter().map(|a| a.as_str()).chain(["Ed25519"]) {
            let token = signer.token(&json!({ "alg": algorithm, "kid": kid }), &payload());
            let expected = if own.contains(&algorithm) { "ok" } else { "jwt_alg_not_allowed" };
            assert_eq!(outcome(&identity, &token), expected, "{algorithm} with {kid}");
            // Without an id the algorithm chooses the key, and the signature does not fit another's.
            let token = signer.token(&json!({ "alg": algorithm }), &payload());
            let expected = if own.contains(&algorithm) { "ok" } else { "jwt_bad_signature" };
            assert_eq!(outcome(&identity, &token), expected, "{algorithm} without kid, by {kid}");
        }
    }
}

#[test]
fn a_changed_token_is_refused_wherever_it_is_changed() {
    for (key, algorithm) in [(Signer::p256(), "ES256"), (Signer::p521(), "ES512"), (Signer::ed25519(), "EdDSA")] {
        let identity = identity_with(&[key.jwk("a")], "");
        let token = key.token(&json!({ "alg": algorithm, "kid": "a" }), &payload());
        assert_eq!(outcome(&identity, &token), "ok");
        for at in 0..token.len() {
            let mut changed = token.clone().into_bytes();
            changed[at] = match changed[at] {
                b'.' => b'A',
                b'A' => b'E',
                _ => b'A',
            };
            assert_ne!(outcome(&identity, std::str::from_utf8(&changed).unwrap()), "ok", "{algorithm} changed at {at}");
        }
        for cut in 0..token.len() {
            assert_ne!(outcome(&identity, &token[..cut]), "ok", "{algorithm} cut at {cut}");
        }
    }
}

#[test]
fn an_unsigned_token_is_refused_in_every_spelling() {
    let key = Signer::rsa();
    let identity = identity_with(&[key.jwk("a")], "");
    let body = b64(payload().to_string().as_bytes());
    for spelling in ["none", "None", "NONE", "nOnE", "noNe", " none", "none ", "\tnone\n", "", " ", "\u{a0}none"] {
        for kid in [json!({ "alg": spelling }), json!({ "alg": spelling, "kid": "a" })] {
            let header = b64(kid.to_string().as_bytes());
            for signature in ["", "AAAA", "bm9uZQ"] {
                assert_eq!(outcome(&identity, &format!("{header}.{body}.{signature}")), "jwt_alg_none", "{spelling:?}");
            }
        }
    }
    // Neither is a signature that is simply left out.
    let header = b64(br#"{"alg":"RS256","kid":"a"}"#);
    assert_eq!(outcome(&identity, &format!("{header}.{body}.")), "jwt_bad_signature");
    for odd in [
        r#"{"alg":null}"#,
        r#"{"alg":["none"]}"#,
        r#"{"alg":0}"#,
        r#"{"typ":"JWT"}"#,
        "{}",
        r#"{"alg":"RS256","alg":"none"}"#,
    ] {
        assert_eq!(outcome(&identity, &format!("{}.{body}.", b64(odd.as_bytes()))), "jwt_malformed", "{odd}");
    }
}

#[test]
fn a_public_key_is_never_taken_for_a_shared_secret() {
    let rsa = Signer::rsa();
    let jwk = rsa.jwk("a");
    let identity = identity_with(std::slice::from_ref(&jwk), "");
    let Signer::Rsa(pair) = rsa else { unreachable!() };
    let n = URL_SAFE_NO_PAD.decode(jwk["n"].as_str().unwrap()).unwrap();
    let der = aws_lc_rs::signature::KeyPair::public_key(pair.as_ref()).as_ref().to_vec();
    let pem = format!(
        "-----BEGIN RSA PUBLIC KEY-----\n{}\n-----END RSA PUBLIC KEY-----\n",
        base64::engine::general_purpose::STANDARD.encode(&der)
    );
    for secret in [n, der, pem.into_bytes(), jwk["n"].as_str().unwrap().into(), jwk.to_string().into_bytes(), vec![]] {
        for algorithm in ["HS256", "HS384", "HS512"] {
            let forger = Signer::Secret(secret.clone());
            for header in [json!({ "alg": algorithm, "kid": "a" }), json!({ "alg": algorithm })] {
                assert_eq!(outcome(&identity, &forger.token(&header, &payload())), "jwt_alg_not_allowed");
            }
        }
    }
}

#[test]
fn keys_that_a_token_brings_along_are_not_looked_at() {
    let (ours, theirs) = (Signer::p256(), Signer::p256());
    let identity = identity_with(&[ours.jwk("a")], "");
    for extra in [
        json!({ "jwk": theirs.jwk("a") }),
        json!({ "jku": "https://evil.example/keys" }),
        json!({ "x5u": "https://evil.example/cert" }),
        json!({ "x5c": ["MIIB"] }),
        json!({ "x5t": "AAAA" }),
    ] {
        let mut header = extra;
        header["alg"] = "ES256".into();
        header["kid"] = "a".into();
        assert_eq!(outcome(&identity, &theirs.token(&header, &payload())), "jwt_bad_signature", "{header}");
        assert_eq!(outcome(&identity, &ours.token(&header, &payload())), "ok", "{header}");
    }
}

#[test]
fn a_key_id_is_compared_and_nothing_else() {
    let key = Signer::p256();
    let identity = identity_with(&[key.jwk("a")], "");
    for (kid, expected) in [
        (json!("a"), "ok"),
        (json!("A"), "jwt_unknown_key"),
        (json!("a "), "jwt_unknown_key"),
        (json!("../../../../dev/null"), "jwt_unknown_key"),
        (json!("/etc/passwd"), "jwt_unknown_key"),
        (json!("file:///proc/self/environ"), "jwt_unknown_key"),
        (json!("x' UNION SELECT 'key';--"), "jwt_unknown_key"),
        (json!("a' OR '1'='1"), "jwt_unknown_key"),
        (json!("|whoami"), "jwt_unknown_key"),
        (json!("$(id)"), "jwt_unknown_key"),
        (json!("http://169.254.169.254/latest"), "jwt_unknown_key"),
        (json!("%00"), "jwt_unknown_key"),
        (json!("x".repeat(128)), "jwt_unknown_key"),
        (json!("x".repeat(129)), "jwt_bad_kid"),
        (json!(""), "jwt_bad_kid"),
        (json!("a\u{0}"), "jwt_bad_kid"),
        (json!("a\n"), "jwt_bad_kid"),
        (json!("a\u{1b}[31m"), "jwt_bad_kid"),
        (json!("\u{e9}"), "jwt_bad_kid"),
        (json!("\u{202e}a"), "jwt_bad_kid"),
        (json!("a\u{7f}"), "jwt_bad_kid"),
        (json!(1), "jwt_bad_kid"),
        (json!(null), "jwt_bad_kid"),
        (json!(["a"]), "jwt_bad_kid"),
        (json!({ "a": 1 }), "jwt_bad_kid"),
    ] {
        let token = key.token(&json!({ "alg": "ES256", "kid": kid }), &payload());
        assert_eq!(outcome(&identity, &token), expected, "{kid}");
    }
}

#[test]
fn headers_are_held_to_the_letter() {
    let key = Signer::p256();
    let identity = identity_with(&[key.jwk("a")], "");
    for (header, expected) in [
        (r#"{"alg":"ES256","kid":"a"}"#, "ok"),
        (r#"{"alg":"ES256"}"#, "ok"),
        (r#"{"alg":"ES256","typ":"JWT"}"#, "ok"),
        (r#"{"alg":"ES256","typ":"at+jwt","cty":"x"}"#, "ok"),
        (r#" {"alg":"ES256"} "#, "ok"),
        (r#"{"alg":"ES256","crit":["exp"],"exp":1}"#, "jwt_malformed"),
        (r#"{"alg":"ES256","crit":[]}"#, "jwt_malformed"),
        (r#"{"alg":"ES256","crit":["b64"],"b64":false}"#, "jwt_malformed"),
        (r#"{"alg":"ES256","crit":null}"#, "jwt_malformed"),
        (r#"{"alg":"ES256","kid":"a","kid":"b"}"#, "jwt_malformed"),
        (r#"{"alg":"ES256","alg":"ES256"}"#, "jwt_malformed"),
        (r#"{"alg":"ES256","x":{"y":1,"y":2}}"#, "jwt_malformed"),
        (r#"{"alg":"es256"}"#, "jwt_alg_not_allowed"),
        (r#"{"alg":"ES512"}"#, "jwt_alg_not_allowed"),
        (r#"{"alg":"ES256K"}"#, "jwt_alg_not_allowed"),
        (r#"{"alg":"ES384"}"#, "jwt_alg_not_allowed"),
        (r#"{"alg":"RSA-OAEP"}"#, "jwt_alg_not_allowed"),
        (r#"["ES256"]"#, "jwt_malformed"),
        (r#""ES256""#, "jwt_malformed"),
        ("", "jwt_malformed"),
        ("{", "jwt_malformed"),
        (r#"{"alg":"ES256"}x"#, "jwt_malformed"),
    ] {
        assert_eq!(outcome(&identity, &key.token_of_text(header, &payload().to_string())), expected, "{header}");
    }
}

#[test]
fn what_is_not_three_parts_of_base64url_is_malformed() {
    let key = Signer::p256();
    let identity = identity_with(&[key.jwk("a")], "");
    let token = key.token(&json!({ "alg": "ES256" }), &payload());
    let (message, signature) = token.rsplit_once('.').unwrap();
    let (header, body) = message.split_once('.').unwrap();
    for (token, expected) in [
        (String::new(), "jwt_missing"),
        (".".into(), "jwt_malformed"),
        ("..".into(), "jwt_malformed"),
        ("...".into(), "jwt_malformed"),
        ("a".into(), "jwt_malformed"),
        (message.to_owned(), "jwt_malformed"),
        (format!("{token}."), "jwt_malformed"),
        (format!(".{token}"), "jwt_malformed"),
        (format!("{token}.x.y"), "jwt_malformed"),
        (format!("{header}..{signature}"), "jwt_bad_signature"),
        (format!("{header}=.{body}.{signature}"), "jwt_malformed"),
        (format!("{header}==.{body}.{signature}"), "jwt_malformed"),
        (format!("{header}.{body}.{signature}="), "jwt_bad_signature"),
        (format!("{header}.{body}.{signature} "), "jwt_bad_signature"),
        (format!(" {token}"), "jwt_malformed"),
        (format!("{header}.{body}.+/+/"), "jwt_bad_signature"),
        (format!("{}.{body}.{signature}", header.replace('e', "+")), "jwt_malformed"),
        (format!("\u{e9}{token}"), "jwt_malformed"),
        (format!("\0{token}"), "jwt_malformed"),
        ("Bearer ".to_owned() + &token, "jwt_malformed"),
    ] {
        assert_eq!(outcome(&identity, &token), expected, "{token}");
    }
    assert_eq!(identity.verify(b"\xff\xfe.a.b", NOW), Err(JwtRefusal::Malformed));
}

#[test]
fn the_size_has_an_end() {
    let key = Signer::p256();
    let identity = identity_with(&[key.jwk("a")], "");
    let sized = |fill: usize| key.token(&json!({ "alg": "ES256" }), &payload_with(&json!({ "pad": "x".repeat(fill) })));
    let mut fill = 5_900;
    while sized(fill + 1).len() <= TOKEN_MAX_BYTES {
        fill += 1;
    }
    assert_eq!(outcome(&identity, &sized(fill)), "ok");
    assert_eq!(outcome(&identity, &sized(fill + 1)), "jwt_too_large");
    for size in [TOKEN_MAX_BYTES + 1, 64 << 10, 16 << 20] {
        assert_eq!(outcome(&identity, &"a".repeat(size)), "jwt_too_large");
        assert_eq!(outcome(&identity, &".".repeat(size)), "jwt_too_large");
    }
    assert_eq!(outcome(&identity, &"a".repeat(TOKEN_MAX_BYTES)), "jwt_malformed");
}

#[test]
fn claims_are_checked_one_by_one() {
    let key = Signer::p256();
    let identity = identity_with(&[key.jwk("a")], "");
    for (changes, expected) in [
        (json!({}), "ok"),
        // iss
        (json!({ "iss": null }), "jwt_wrong_issuer"),
        (json!({ "iss": "https://id.example.com/" }), "jwt_wrong_issuer"),
        (json!({ "iss": "https://ID.example.com" }), "jwt_wrong_issuer"),
        (json!({ "iss": "http://id.example.com" }), "jwt_wrong_issuer"),
        (json!({ "iss": "https://id.example.com.evil" }), "jwt_wrong_issuer"),
        (json!({ "iss": "" }), "jwt_wrong_issuer"),
        (json!({ "iss": ["https://id.example.com"] }), "jwt_wrong_issuer"),
        (json!({ "iss": 1 }), "jwt_wrong_issuer"),
        // aud
        (json!({ "aud": "api" }), "ok"),
        (json!({ "aud": ["shop"] }), "ok"),
        (json!({ "aud": ["other", "api"] }), "ok"),
        (json!({ "aud": ["other", 7, null, "shop"] }), "ok"),
        (json!({ "aud": null }), "jwt_wrong_audience"),
        (json!({ "aud": [] }), "jwt_wrong_audience"),
        (json!({ "aud": "other" }), "jwt_wrong_audience"),
        (json!({ "aud": ["other"] }), "jwt_wrong_audience"),
        (json!({ "aud": "Shop" }), "jwt_wrong_audience"),
        (json!({ "aud": "shop,api" }), "jwt_wrong_audience"),
        (json!({ "aud": "shop api" }), "jwt_wrong_audience"),
        (json!({ "aud": "" }), "jwt_wrong_audience"),
        (json!({ "aud": "*" }), "jwt_wrong_audience"),
        (json!({ "aud": { "shop": 1 } }), "jwt_wrong_audience"),
        (json!({ "aud": [["shop"]] }), "jwt_wrong_audience"),
        // exp, leeway 30 s
        (json!({ "exp": NOW + 1 }), "ok"),
        (json!({ "exp": NOW }), "ok"),
        (json!({ "exp": NOW - 29 }), "ok"),
        (json!({ "exp": NOW - 30 }), "jwt_expired"),
        (json!({ "exp": NOW - 31 }), "jwt_expired"),
        (json!({ "exp": 0 }), "jwt_expired"),
        (json!({ "exp": -1 }), "jwt_expired"),
        (json!({ "exp": i64::MIN }), "jwt_expired"),
        (json!({ "exp": i64::MAX }), "ok"),
        (json!({ "exp": u64::MAX }), "ok"),
        (json!({ "exp": 1e300 }), "ok"),
        (json!({ "exp": -1e300 }), "jwt_expired"),
        (json!({ "exp": (NOW - 29) as f64 + 0.5 }), "ok"),
        (json!({ "exp": (NOW - 31) as f64 + 0.5 }), "jwt_expired"),
        (json!({ "exp": null }), "jwt_missing_claim"),
        (json!({ "exp": "1900000000" }), "jwt_malformed"),
        (json!({ "exp": true }), "jwt_malformed"),
        (json!({ "exp": [NOW + 5] }), "jwt_malformed"),
        // nbf
        (json!({ "nbf": NOW }), "ok"),
        (json!({ "nbf": NOW + 30 }), "ok"),
        (json!({ "nbf": NOW + 31 }), "jwt_not_yet_valid"),
        (json!({ "nbf": NOW - 1000 }), "ok"),
        (json!({ "nbf": i64::MAX }), "jwt_not_yet_valid"),
        (json!({ "nbf": i64::MIN }), "ok"),
        (json!({ "nbf": 1e300 }), "jwt_not_yet_valid"),
        (json!({ "nbf": "0" }), "jwt_malformed"),
        (json!({ "nbf": false }), "jwt_malformed"),
        // what is not checked
        (json!({ "sub": null, "iat": "x", "jti": 5 }), "ok"),
    ] {
        let token = key.token(&json!({ "alg": "ES256" }), &payload_with(&changes));
        assert_eq!(outcome(&identity, &token), expected, "{changes}");
    }
}

#[test]
fn a_claim_that_occurs_twice_is_refused() {
    let key = Signer::p256();
    let identity = identity_with(&[key.jwk("a")], "");
    let plain = payload().to_string();
    let inside = plain.strip_suffix('}').unwrap();
    for (body, expected) in [
        (format!("{inside}}}"), "ok"),
        (format!("{inside},\"sub\":\"admin\"}}"), "jwt_malformed"),
        (format!("{inside},\"\\u0073ub\":\"admin\"}}"), "jwt_malformed"),
        (format!("{inside},\"aud\":\"shop\"}}"), "jwt_malformed"),
        (format!("{inside},\"exp\":9999999999}}"), "jwt_malformed"),
        (format!("{inside},\"o\":{{\"a\":1,\"a\":2}}}}"), "jwt_malformed"),
        ("[]".into(), "jwt_malformed"),
        ("".into(), "jwt_malformed"),
        ("null".into(), "jwt_malformed"),
        (format!("{plain}{plain}"), "jwt_malformed"),
    ] {
        assert_eq!(outcome(&identity, &key.token_of_text(r#"{"alg":"ES256"}"#, &body)), expected, "{body}");
    }
}

#[test]
fn leeway_pinned_algorithms_and_required_claims_do_what_they_say() {
    let (rsa, p256) = (Signer::rsa(), Signer::p256());
    let keys = [rsa.jwk("r"), p256.jwk("e")];
    for (more, signer, algorithm, changes, expected) in [
        ("leeway = \"0s\"", &p256, "ES256", json!({ "exp": NOW + 1 }), "ok"),
        ("leeway = \"0s\"", &p256, "ES256", json!({ "exp": NOW }), "jwt_expired"),
        ("leeway = \"0s\"", &p256, "ES256", json!({ "nbf": NOW + 1 }), "jwt_not_yet_valid"),
        ("leeway = \"10m\"", &p256, "ES256", json!({ "exp": NOW - 599 }), "ok"),
        ("leeway = \"10m\"", &p256, "ES256", json!({ "exp": NOW - 600 }), "jwt_expired"),
        ("algorithms = [\"PS256\"]", rsa, "PS256", json!({}), "ok"),
        ("algorithms = [\"PS256\"]", rsa, "RS256", json!({}), "jwt_alg_not_allowed"),
        ("algorithms = [\"PS256\"]", &p256, "ES256", json!({}), "jwt_alg_not_allowed"),
        ("algorithms = [\"RS256\", \"ES256\"]", &p256, "ES256", json!({}), "ok"),
        ("require = [\"sub\"]", &p256, "ES256", json!({}), "ok"),
        ("require = [\"sub\", \"tenant\"]", &p256, "ES256", json!({}), "jwt_missing_claim"),
        ("require = [\"org.id\"]", &p256, "ES256", json!({ "org": { "id": 7 } }), "ok"),
        ("require = [\"org.id\"]", &p256, "ES256", json!({ "org": {} }), "jwt_missing_claim"),
        ("require = [\"sub\"]", &p256, "ES256", json!({ "sub": null }), "jwt_missing_claim"),
    ] {
        let identity = identity_with(&keys, more);
        let token = signer.token(&json!({ "alg": algorithm }), &payload_with(&changes));
        assert_eq!(outcome(&identity, &token), expected, "{more} {changes}");
    }
    let identity = identity_with(&keys, "require = [\"tenant\"]");
    let null = p256.token_of_text(
        r#"{"alg":"ES256"}"#,
        &payload_with(&json!({ "tenant": "@" })).to_string().replace("\"@\"", "null"),
    );
    assert_eq!(outcome(&identity, &null), "jwt_missing_claim");
}

#[test]
fn keys_rotate_without_a_gap_and_old_ones_end() {
    let (old, new) = (Signer::p256(), Signer::p256());
    let put = |identity: &Identity, keys: &[Value]| {
        identity.set_keys(KeySet::parse(key_set(keys).as_bytes(), KeyOrigin::Network).unwrap(), NOW);
    };
    let identity = identity_with(&[old.jwk("1")], "");
    let by_old = old.token(&json!({ "alg": "ES256", "kid": "1" }), &payload());
    let by_new = new.token(&json!({ "alg": "ES256", "kid": "2" }), &payload());
    assert_eq!((outcome(&identity, &by_old), outcome(&identity, &by_new)), ("ok", "jwt_unknown_key"));
    put(&identity, &[old.jwk("1"), new.jwk("2")]);
    assert_eq!((outcome(&identity, &by_old), outcome(&identity, &by_new)), ("ok", "ok"));
    put(&identity, &[new.jwk("2")]);
    assert_eq!((outcome(&identity, &by_old), outcome(&identity, &by_new)), ("jwt_unknown_key", "ok"));
    // The same id for another key.
    put(&identity, &[new.jwk("1")]);
    assert_eq!((outcome(&identity, &by_old), outcome(&identity, &by_new)), ("jwt_bad_signature", "jwt_unknown_key"));
}

#[test]
fn stale_keys_are_not_believed_though_nobody_fetches() {
    let key = Signer::p256();
    let identity = identity_with(&[key.jwk("a")], "jwks = { ttl = \"1h\", stale = \"2h\" }");
    let sign =
        |kid: &str| key.token(&json!({ "alg": "ES256", "kid": kid }), &payload_with(&json!({ "exp": NOW + 999_999 })));
    let (token, unknown) = (sign("a"), sign("b"));
    let at = |token: &str, now: i64| identity.verify(token.as_bytes(), now).map_or_else(JwtRefusal::as_str, |_| "ok");
    for (now, expected) in
        [(0, "ok"), (3600, "ok"), (10_799, "ok"), (10_800, "jwt_keys_unavailable"), (99_999, "jwt_keys_unavailable")]
    {
        assert_eq!(at(&token, NOW + now), expected, "after {now}");
        assert_eq!(identity.has_keys(NOW + now), expected == "ok");
    }
    assert_eq!(at(&unknown, NOW + 10_800), "jwt_keys_unavailable");
    // The same keys fetched again live on.
    let again = KeySet::parse(key_set(&[key.jwk("a")]).as_bytes(), KeyOrigin::Network).unwrap();
    identity.set_keys(again, NOW + 10_800);
    assert_eq!((at(&token, NOW + 21_599), at(&token, NOW + 21_600)), ("ok", "jwt_keys_unavailable"));
    // A reload makes them no younger, and its own times count.
    let reloaded = identity_with(&[key.jwk("a")], "jwks = { ttl = \"1h\", stale = \"1h\" }");
    reloaded.adopt(&identity);
    let at = |now: i64| reloaded.verify(token.as_bytes(), now).map_or_else(JwtRefusal::as_str, |_| "ok");
    assert_eq!((at(NOW + 17_999), at(NOW + 18_000)), ("ok", "jwt_keys_unavailable"));
}

#[test]
fn key_sets_are_read_with_care() {
    let (rsa, p256, p384, p521, ed) =
        (Signer::rsa(), Signer::p256(), Signer::p384(), Signer::p521(), Signer::ed25519());
    let with = |signer: &Signer, changes: Value| {
        let mut jwk = signer.jwk("k");
        for (name, value) in changes.as_object().unwrap() {
            jwk[name] = value.clone();
        }
        jwk
    };
    let secret = Signer::Secret(vec![1; 32]);
    let long = b64(&[0xff; 1025]);
    let short = b64(&[0xff; 255]);
    let padded = b64(&[&[0][..], &[0xff; 255]].concat());
    let just_2047_bits = b64(&[&[0x7f][..], &[0xff; 255]].concat());
    for (jwk, origin, usable) in [
        (rsa.jwk("k"), KeyOrigin::Network, true),
        (with(rsa, json!({ "use": "sig", "alg": "RS256", "x5c": [], "extra": 1 })), KeyOrigin::Network, true),
        (with(rsa, json!({ "use": "enc" })), KeyOrigin::Network, false),
        (with(rsa, json!({ "use": ["sig"] })), KeyOrigin::Network, false),
        (with(rsa, json!({ "key_ops": "verify" })), KeyOrigin::Network, false),
        (with(rsa, json!({ "key_ops": [] })), KeyOrigin::Network, false),
        (with(rsa, json!({ "key_ops": ["verify"] })), KeyOrigin::Network, true),
        (with(rsa, json!({ "key_ops": ["encrypt"] })), KeyOrigin::Network, false),
        (with(rsa, json!({ "alg": "RSA-OAEP" })), KeyOrigin::Network, false),
        (with(rsa, json!({ "alg": "ES256" })), KeyOrigin::Network, false),
        (with(rsa, json!({ "alg": "HS256" })), KeyOrigin::File, false),
        (with(rsa, json!({ "alg": "none" })), KeyOrigin::Network, false),
        (with(rsa, json!({ "alg": 1 })), KeyOrigin::Network, false),
        (with(rsa, json!({ "n": short })), KeyOrigin::Network, false),
        (with(rsa, json!({ "n": padded })), KeyOrigin::Network, false),
        (with(rsa, json!({ "n": just_2047_bits })), KeyOrigin::Network, false),
        (with(rsa, json!({ "n": long })), KeyOrigin::Network, false),
        (with(rsa, json!({ "n": "" })), KeyOrigin::Network, false),
        (with(rsa, json!({ "n": "+/" })), KeyOrigin::Network, false),
        (with(rsa, json!({ "n": 7 })), KeyOrigin::Network, false),
        (with(rsa, json!({ "e": "AQ" })), KeyOrigin::Network, false),
        (with(rsa, json!({ "e": "Ag" })), KeyOrigin::Network, false),
        (with(rsa, json!({ "e": "" })), KeyOrigin::Network, false),
        (with(rsa, json!({ "e": b64(&[1; 6]) })), KeyOrigin::Network, false),
        (with(rsa, json!({ "d": "AAAA" })), KeyOrigin::File, false),
        (with(rsa, json!({ "kid": "x".repeat(129) })), KeyOrigin::Network, false),
        (with(rsa, json!({ "kid": 1 })), KeyOrigin::Network, false),
        (p256.jwk("k"), KeyOrigin::Network, true),
        (p384.jwk("k"), KeyOrigin::Network, true),
        (p521.jwk("k"), KeyOrigin::Network, true),
        (with(&p521, json!({ "alg": "ES512" })), KeyOrigin::Network, true),
        (with(&p521, json!({ "alg": "ES384" })), KeyOrigin::Network, false),
        (with(&p256, json!({ "crv": "P-384" })), KeyOrigin::Network, false),
        (with(&p256, json!({ "crv": "P-521" })), KeyOrigin::Network, false),
        (with(&p256, json!({ "crv": "secp256k1" })), KeyOrigin::Network, false),
        (with(&p256, json!({ "alg": "ES384" })), KeyOrigin::Network, false),
        (with(&p256, json!({ "d": "AAAA" })), KeyOrigin::Network, false),
        (with(&p256, json!({ "x": "AAAA" })), KeyOrigin::Network, false),
        (ed.jwk("k"), KeyOrigin::Network, true),
        (with(&ed, json!({ "alg": "EdDSA" })), KeyOrigin::Network, true),
        (with(&ed, json!({ "alg": "Ed25519" })), KeyOrigin::Network, true),
        (with(&ed, json!({ "crv": "Ed448" })), KeyOrigin::Network, false),
        (with(&ed, json!({ "crv": "X25519" })), KeyOrigin::Network, false),
        (with(&ed, json!({ "x": "AAAA" })), KeyOrigin::Network, false),
        (secret.jwk("k"), KeyOrigin::File, true),
        (secret.jwk("k"), KeyOrigin::Network, false),
        (Signer::Secret(vec![1; 31]).jwk("k"), KeyOrigin::File, false),
        (with(&secret, json!({ "alg": "HS512" })), KeyOrigin::File, false),
        (json!({ "kty": "AKP", "alg": "ML-DSA-44" }), KeyOrigin::Network, false),
        (json!({}), KeyOrigin::Network, false),
        (json!("key"), KeyOrigin::Network, false),
    ] {
        let parsed = KeySet::parse(key_set(std::slice::from_ref(&jwk)).as_bytes(), origin);
        assert_eq!(parsed.is_ok(), usable, "{jwk}: {parsed:?}");
        // A key that cannot be used does not spoil the set.
        let both = KeySet::parse(key_set(&[p384.jwk("good"), jwk]).as_bytes(), origin).unwrap();
        assert_eq!(both.len(), 1 + usize::from(usable));
    }
    for text in ["", "{}", "[]", r#"{"keys":{}}"#, r#"{"keys":[],"keys":[]}"#, r#"{"keys":"x"}"#] {
        assert_eq!(KeySet::parse(text.as_bytes(), KeyOrigin::File).unwrap_err(), KeySetError::NotASet, "{text}");
    }
    let many = |count: usize| key_set(&vec![p256.jwk("k"); count]);
    assert!(KeySet::parse(many(100).as_bytes(), KeyOrigin::Network).is_ok());
    assert_eq!(KeySet::parse(many(101).as_bytes(), KeyOrigin::Network).unwrap_err(), KeySetError::TooManyKeys(101));
}

#[test]
fn a_point_off_the_curve_verifies_nothing() {
    let key = Signer::p256();
    let mut jwk = key.jwk("a");
    jwk["y"] = jwk["x"].clone();
    let identity = identity_with(&[jwk], "");
    assert_eq!(outcome(&identity, &key.token(&json!({ "alg": "ES256" }), &payload())), "jwt_bad_signature");
}

#[test]
fn a_token_without_key_id_does_not_cost_a_hundred_signatures() {
    let keys: Vec<_> = (0..6).map(|_| Signer::p256()).collect();
    let jwks: Vec<_> = keys.iter().enumerate().map(|(at, key)| key.jwk(&at.to_string())).collect();
    let identity = identity_with(&jwks, "");
    let tried =
        keys.iter().filter(|key| outcome(&identity, &key.token(&json!({ "alg": "ES256" }), &payload())) == "ok");
    assert_eq!(tried.count(), 4);
    for (at, key) in keys.iter().enumerate() {
        let token = key.token(&json!({ "alg": "ES256", "kid": at.to_string() }), &payload());
        assert_eq!(outcome(&identity, &token), "ok");
    }
}

#[test]
fn mistakes_in_an_identity_are_named() {
    let good = "issuer = \"https://id.example.com\"\naudiences = [\"a\"]\n";
    for (toml, message) in [
        (good.to_owned(), ""),
        ("issuer = \"https://id.example.com/realms/x/\"\naudiences = [\"a\"]".into(), ""),
        ("issuer = \"https://id.example.com\"\naudiences = []".into(), "at least one audience"),
        ("issuer = \"https://id.example.com\"\naudiences = [\"\"]".into(), "at least one audience"),
        ("issuer = \"\"\naudiences = [\"a\"]".into(), "the issuer is empty"),
        ("issuer = \"corp\"\naudiences = [\"a\"]".into(), "is not a URL"),
        ("issuer = \"https://x/?y\"\naudiences = [\"a\"]".into(), "is not a URL"),
        ("issuer = \"http://id.example.com\"\naudiences = [\"a\"]".into(), "in the clear"),
        ("issuer = \"http://127.0.0.1:9\"\naudiences = [\"a\"]".into(), ""),
        ("issuer = \"corp\"\naudiences = [\"a\"]\njwks.url = \"https://x/keys\"".into(), ""),
        ("issuer = \"corp\"\naudiences = [\"a\"]\njwks.url = \"http://x/keys\"".into(), "in the clear"),
        ("issuer = \"corp\"\naudiences = [\"a\"]\njwks.file = \"/nonexistent/keys\"".into(), "cannot read"),
        (format!("{good}leeway = \"11m\""), "more than a clock"),
        (format!("{good}algorithms = []"), "allows no algorithm"),
        (format!("{good}jwks.ttl = \"10s\""), "at most once a minute"),
    ] {
        let (identity, report) = compile(&toml);
        let messages: Vec<_> = report.problems().iter().map(|problem| problem.message.clone()).collect();
        if message.is_empty() {
            assert!(messages.is_empty() && identity.is_some(), "{toml}: {messages:?}");
        } else {
            assert!(identity.is_none() && messages.iter().any(|found| found.contains(message)), "{toml}: {messages:?}");
        }
    }
}

#[test]
fn keys_are_read_from_a_file_and_secrets_only_from_there() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.json");
    let secret = Signer::Secret(vec![9; 32]);
    std::fs::write(&file, key_set(&[secret.jwk("s")])).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let toml = format!("issuer = \"corp\"\naudiences = [\"shop\"]\njwks.file = \"{}\"", file.display());
    let (identity, report) = compile(&toml);
    assert!(report.problems().is_empty(), "{report:?}");
    let identity = identity.unwrap();
    assert_eq!(*identity.source(), KeySource::File);
    let token = secret.token(&json!({ "alg": "HS256" }), &payload_with(&json!({ "iss": "corp" })));
    assert_eq!(outcome(&identity, &token), "ok");

    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let (_, report) = compile(&format!("{toml}\nalgorithms = [\"HS256\", \"RS256\"]"));
    let messages: Vec<_> = report.problems().iter().map(|problem| problem.message.clone()).collect();
    assert!(messages.iter().any(|m| m.contains("every user of this machine")), "{messages:?}");
    assert!(messages.iter().any(|m| m.contains("can be used with RS256")), "{messages:?}");
    let (_, report) = compile(&format!("{toml}\njwks.ttl = \"1h\"\njwks.url = \"https://x/\""));
    assert_eq!(report.problems().iter().filter(|p| p.message.contains("no meaning beside")).count(), 2);
    std::fs::write(&file, "{}").unwrap();
    assert!(compile(&toml).0.is_none());
}

#[test]
fn a_remembered_token_still_expires_and_does_not_outlive_its_key() {
    let (key, other) = (Signer::p256(), Signer::p256());
    let identity = identity_with(&[key.jwk("a")], "");
    let token = key.token(&json!({ "alg": "ES256", "kid": "a" }), &payload());
    let at = |now: i64| identity.verify(token.as_bytes(), now).map(|claims| claims.subject().map(str::to_owned));
    for (now, expected) in [
        (NOW, Ok(Some("u1".to_owned()))),
        (NOW, Ok(Some("u1".to_owned()))),
        (NOW + 329, Ok(Some("u1".to_owned()))),
        (NOW + 330, Err(JwtRefusal::Expired)),
        (NOW + 331, Err(JwtRefusal::Expired)),
    ] {
        assert_eq!(at(now), expected, "{now}");
    }
    let first = identity.verify(token.as_bytes(), NOW).unwrap();
    assert!(Arc::ptr_eq(&first, &identity.verify(token.as_bytes(), NOW).unwrap()));
    // The same keys fetched again forget nothing; others do.
    let set = |signer: &Signer| KeySet::parse(key_set(&[signer.jwk("a")]).as_bytes(), KeyOrigin::File).unwrap();
    identity.set_keys(set(&key), NOW);
    assert!(Arc::ptr_eq(&first, &identity.verify(token.as_bytes(), NOW).unwrap()));
    identity.set_keys(set(&other), NOW);
    assert_eq!(at(NOW), Err(JwtRefusal::BadSignature));
}
