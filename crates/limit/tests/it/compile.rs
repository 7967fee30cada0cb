//! What may be written, and what is said of what may not.

use crate::limits::{compile, limit};
use portcullis_limit::{Mode, Plan, RateLimitRefs};
use std::time::Instant;

fn names(document: &str) -> Vec<String> {
    let limits = compile(document, Instant::now()).unwrap();
    limits.iter().map(|limit| limit.name().to_owned()).collect()
}

#[test]
fn a_rule_names_limits_or_has_its_own() {
    let shared = "[rate_limit.api]\nrate = \"1/s\"\n[rule]\nrate_limit = ";
    for (value, expected) in [
        (r#""api""#, vec!["api"]),
        (r#"{ rate = "1/s" }"#, vec!["shop/api"]),
        (r#"[{ rate = "1/s" }]"#, vec!["shop/api"]),
        (r#"["api", { rate = "1/s" }, { rate = "9/m" }]"#, vec!["api", "shop/api.2", "shop/api.3"]),
    ] {
        assert_eq!(names(&format!("{shared}{value}")), expected, "{value}");
    }
}

#[test]
fn absent_values_have_their_defaults() {
    let limit = limit(r#"{ rate = "7/s" }"#, Instant::now());
    assert_eq!((limit.key().to_string().as_str(), limit.mode(), limit.store()), ("client_ip", Mode::Enforce, None));
    let Plan::TokenBucket(gcra) = limit.plan() else { panic!("no bucket") };
    assert_eq!(gcra.capacity() / gcra.increment(), 7);
}

#[test]
fn every_key_arrives() {
    let value = r#"{ rate = "100/m", burst = 9, key = ["claim:sub", "path"], cost = 3, mode = "shadow", keys = 5, store = "shared" }"#;
    let limit = limit(value, Instant::now());
    assert_eq!(limit.key().to_string(), "claim:sub,path");
    assert_eq!((limit.mode(), limit.store().unwrap().as_str()), (Mode::Shadow, "shared"));
    let Plan::TokenBucket(gcra) = limit.plan() else { panic!("no bucket") };
    assert_eq!((gcra.increment(), gcra.capacity()), (1_800_000_000, 5_400_000_000));
}

#[track_caller]
fn refused(value: &str, parts: &[&str]) {
    let lines = compile(&format!("rule.rate_limit = {value}"), Instant::now()).unwrap_err().join("\n");
    for part in parts {
        assert!(lines.contains(part), "{value} gave {lines}, without {part}");
    }
}

#[test]
fn mistakes_are_told_with_the_way_out() {
    refused("7", &["rate_limit"]);
    refused("[]", &["rate_limit"]);
    refused("{}", &["rate"]);
    refused(r#"{ rate = "1/s", bust = 2 }"#, &["bust", "burst"]);
    refused(r#"{ rate = "1/s", shadow = true }"#, &["shadow"]);
    refused(r#"{ rate = 7 }"#, &["a rate like"]);
    refused(r#"{ rate = "1/s", burst = 0 }"#, &["burst"]);
    refused(r#"{ rate = "1/s", cost = 2 }"#, &["one request costs 2, more than the 1 there ever are"]);
    refused(r#"{ rate = "10000001/s" }"#, &["above 10000000 in a second"]);
    refused(r#"{ rate = "5000000000/d" }"#, &["above 4294967295", "burst"]);
    refused(r#"{ rate = "1/d", burst = 400 }"#, &["longer than a year"]);
    refused(r#"{ rate = "1/s", keys = 10000001 }"#, &["keys"]);
    refused(r#"{ rate = "1/s", key = "ip" }"#, &["client_ip"]);
    refused(r#"{ rate = "1/s", algorithm = "sliding_window", burst = 2 }"#, &["`burst` has no effect"]);
    refused(r#"{ rate = "1/s", store = "shard" }"#, &["store \"shard\" is not defined (defined: shared)"]);
    refused(r#""api""#, &["rate_limit \"api\" is not defined"]);
    refused(&format!("[{}]", r#"{ rate = "1/s" },"#.repeat(9)), &["rate_limit"]);
}

#[test]
fn all_mistakes_are_told_at_once() {
    refused(
        r#"[{ rate = "1/s", store = "x" }, "y", { rate = "1/s", cost = 2 }]"#,
        &["store \"x\"", "rate_limit \"y\"", "one request costs 2"],
    );
}

#[test]
fn what_was_read_is_written_back_as_it_was() {
    for json in [r#""api""#, r#"{"rate":"1/s"}"#, r#"["api",{"rate":"1/s","burst":2,"mode":"shadow"}]"#] {
        let refs: RateLimitRefs = serde_json::from_str(json).unwrap();
        assert_eq!(serde_json::to_string(&refs).unwrap(), json);
    }
}
