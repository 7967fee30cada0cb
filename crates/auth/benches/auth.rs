//! What one decision costs: `cargo bench -p portcullis-auth --profile dist`.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use divan::{Bencher, black_box};
use portcullis_auth::{Identity, IdentitySpec, IpRulesSpec, KeyOrigin, KeySet};
use portcullis_config::{Context, Path};
use serde_json::json;
use std::net::Ipv4Addr;

const NOW: i64 = 1_800_000_000;

fn main() {
    divan::main();
}

fn identity_and_token() -> (Identity, String) {
    let b64 = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key can be made");
    let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
    let keys = json!({ "keys": [{ "kty": "EC", "crv": "P-256", "kid": "a", "x": b64(x), "y": b64(y) }] });
    let header = json!({ "alg": "ES256", "kid": "a", "typ": "JWT" });
    let payload = json!({
        "iss": "https://id.example.com/realms/corp", "aud": ["shop", "account"], "exp": NOW + 300, "nbf": NOW, "iat": NOW,
        "sub": "f81d4fae-7dec-11d0-a765-00a0c91e6bf6", "scope": "openid profile email read write", "azp": "shop-web",
        "realm_access": { "roles": ["offline_access", "uma_authorization", "default-roles-corp", "buyer"] },
        "name": "Jane Example", "email": "jane@example.com", "email_verified": true, "tenant": "t-1234",
    });
    let message = format!("{}.{}", b64(header.to_string().as_bytes()), b64(payload.to_string().as_bytes()));
    let signature = pair.sign(&aws_lc_rs::rand::SystemRandom::new(), message.as_bytes()).expect("it signs");
    let spec = json!({ "issuer": "https://id.example.com/realms/corp", "audiences": ["shop"] });
    let spec: IdentitySpec = serde_json::from_value(spec).expect("a spec");
    let name = "corp".parse().expect("a name");
    let identity = spec.compile(&name, &Path::root(), &mut Context::default()).expect("it compiles");
    identity.set_keys(KeySet::parse(keys.to_string().as_bytes(), KeyOrigin::Network).expect("a key set"), NOW);
    (identity, format!("{message}.{}", b64(signature.as_ref())))
}

#[divan::bench]
fn jwt_es256_remembered(bencher: Bencher<'_, '_>) {
    let (identity, token) = identity_and_token();
    bencher.bench_local(|| identity.verify(black_box(token.as_bytes()), NOW).is_ok());
}

#[divan::bench]
fn jwt_es256_bad_signature(bencher: Bencher<'_, '_>) {
    let (identity, token) = identity_and_token();
    // A refused token is never remembered, and its signature costs as much to check as a right one's.
    let wrong = token.replacen("eyJ", "eyK", 2).replacen("eyK", "eyJ", 1);
    bencher.bench_local(|| identity.verify(black_box(wrong.as_bytes()), NOW).is_err());
}

#[divan::bench]
fn ip_among_100_000_prefixes(bencher: Bencher<'_, '_>) {
    let prefixes: Vec<String> = (0..100_000_u32).map(|at| format!("{}/31", Ipv4Addr::from(at * 40_000))).collect();
    let spec: IpRulesSpec = serde_json::from_value(json!({ "deny": prefixes })).expect("a spec");
    let rules = spec.compile(&Path::root(), &mut Context::default()).expect("it compiles");
    let mut address = 1_u32;
    bencher.bench_local(|| {
        // A walk that no branch predictor knows.
        address = address.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        rules.check(black_box(Ipv4Addr::from(address).into())).is_ok()
    });
}
