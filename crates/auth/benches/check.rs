//! What one request pays to be known: a token that was verified before (aim: under 2 µs), one that was not, and an address in a
//! list of 100,000 networks (aim: under 1 µs). `cargo bench --profile dist -p portcullis-auth`.

use portcullis_auth::{Identity, IdentitySpec, IpRules, IpRulesSpec, KeyOrigin, KeySet};
use portcullis_config::{Context, Path};
use rcgen::{KeyPair, PKCS_ED25519};
use serde_json::json;
use std::{hint::black_box, net::Ipv4Addr};

fn main() {
    divan::main();
}

const NOW: i64 = 1_800_000_000;

/// An identity with one key, and tokens that it has signed.
fn issuer(tokens: u32) -> (Identity, Vec<String>) {
    let key = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
    let spec = json!({ "issuer": "https://id.example.com", "audiences": ["shop"] });
    let spec: IdentitySpec = serde_json::from_value(spec).expect("the bench's identity is right");
    let name = "corp".parse().expect("a name");
    let identity = spec.compile(&name, &Path::root(), &mut Context::default()).expect("the bench's identity is right");
    let x = base64(key.public_key_raw());
    let keys = json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "kid": "k", "x": x }] }).to_string();
    identity.set_keys(KeySet::parse(keys.as_bytes(), KeyOrigin::File).expect("a key set"), NOW);
    let mut header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::EdDSA);
    header.kid = Some("k".to_owned());
    let secret = jsonwebtoken::EncodingKey::from_ed_der(&key.serialize_der());
    let token = |n: u32| {
        let claims = json!({ "iss": "https://id.example.com", "aud": "shop", "exp": NOW + 600, "sub": n.to_string(),
            "tier": "gold", "scope": "read write", "tenant": "acme" });
        jsonwebtoken::encode(&header, &claims, &secret).expect("a token")
    };
    (identity, (0..tokens).map(token).collect())
}

fn base64(octets: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(octets)
}

/// Tokens of so many clients in turn, each verified before.
#[divan::bench(args = [1, 1_000])]
fn token_verified_before(bencher: divan::Bencher<'_, '_>, clients: u32) {
    let (identity, tokens) = issuer(clients);
    for token in &tokens {
        assert!(identity.verify(token.as_bytes(), NOW).is_ok(), "the bench's token is right");
    }
    let mut turn = tokens.iter().cycle();
    bencher.bench_local(|| turn.next().map(|token| identity.verify(black_box(token.as_bytes()), NOW)));
}

#[divan::bench(sample_count = 20, sample_size = 50)]
fn token_never_seen(bencher: divan::Bencher<'_, '_>) {
    let (identity, tokens) = issuer(1_000);
    let mut turn = tokens.iter();
    bencher.bench_local(|| turn.next().map(|token| identity.verify(black_box(token.as_bytes()), NOW)));
}

/// Every second /24 of 11.0.0.0/8 and on: 100,000 ranges that cannot be joined.
fn denied() -> IpRules {
    let networks: Vec<String> =
        (0..100_000_u32).map(|n| format!("{}/24", Ipv4Addr::from((11 << 24) + (n << 9)))).collect();
    let spec: IpRulesSpec = serde_json::from_value(json!({ "deny": networks })).expect("the bench's list is right");
    spec.compile(&Path::root(), &mut Context::default()).expect("the bench's list is right")
}

#[divan::bench]
fn address_among_100_000_networks(bencher: divan::Bencher<'_, '_>) {
    let rules = denied();
    let mut address = 11_u32 << 24;
    bencher.bench_local(|| {
        // Another place in the list each time, denied and not by turns.
        address = address.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        rules.check(black_box(Ipv4Addr::from((11 << 24) + address % (100_000 << 9)).into()))
    });
}
