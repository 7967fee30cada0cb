//! What may be written, and what is said of what may not.

use crate::server::store_config;
use portcullis_store::OnFail;
use std::time::Duration;

#[test]
fn absent_values_have_their_defaults() {
    let config = store_config(r#"{ valkey = { nodes = ["127.0.0.1:6379"] } }"#).unwrap();
    assert_eq!((config.timeout, config.database, config.on_fail), (Duration::from_millis(50), 0, OnFail::Local));
    assert_eq!(config, store_config(r#"{ valkey = { nodes = ["127.0.0.1:6379"], tls = "off" } }"#).unwrap());
}

#[test]
fn equal_configurations_are_equal_and_others_are_not() {
    let with = |more: &str| store_config(&format!("{{ valkey = {{ nodes = [\"127.0.0.1:1\"]{more} }} }}")).unwrap();
    assert_eq!(with(""), with(""));
    for more in [", database = 1", ", timeout = \"1s\"", ", tls = { mode = \"insecure_skip_verify\" }"] {
        assert_ne!(with(""), with(more), "{more}");
        assert_eq!(with(more), with(more), "{more}");
    }
    let deny = store_config(r#"{ valkey = { nodes = ["127.0.0.1:1"] }, on_fail = "deny" }"#).unwrap();
    assert_eq!(deny.on_fail, OnFail::Deny);
}

#[track_caller]
fn refused(value: &str, parts: &[&str]) {
    let lines = store_config(value).unwrap_err().join("\n");
    for part in parts {
        assert!(lines.contains(part), "{value} gave {lines}, without {part}");
    }
    assert!(!lines.contains("sesame"), "{lines}");
}

#[test]
fn mistakes_are_told_with_the_way_out() {
    refused("{}", &["valkey"]);
    refused("{ valkey = {} }", &["nodes"]);
    refused("{ valkey = { nodes = [] } }", &["nodes"]);
    refused(&format!("{{ valkey = {{ nodes = [{}] }} }}", "\"127.0.0.1:1\",".repeat(17)), &["nodes", "16"]);
    refused(r#"{ valkey = { nodes = ["cache.internal:6379"] } }"#, &["host names are not supported by this version"]);
    refused(r#"{ valkey = { nodes = ["127.0.0.1:1"], timeout = "0ms" } }"#, &["from 1ms to 10s"]);
    refused(r#"{ valkey = { nodes = ["127.0.0.1:1"], timeout = "1m" } }"#, &["from 1ms to 10s"]);
    refused(r#"{ valkey = { nodes = ["127.0.0.1:1"], password = "sesame" } }"#, &["password", "{ file"]);
    refused(r#"{ valkey = { nodes = ["127.0.0.1:1"], password = { env = "NOT_SET_ANYWHERE" } } }"#, &["is not set"]);
    refused(r#"{ valkey = { nodes = ["127.0.0.1:1"], username = "gate" } }"#, &["`password`"]);
    refused(r#"{ valkey = { nodes = ["127.0.0.1:1"], tls = "on" } }"#, &["off, verify"]);
    refused(
        r#"{ valkey = { nodes = ["127.0.0.1:1"], tls = { trust = "corp" } } }"#,
        &["trust \"corp\" is not defined"],
    );
    refused(r#"{ valkey = { nodes = ["unix:/run/s"], tls = "verify" } }"#, &["`sni`"]);
    refused(r#"{ valkey = { nodes = ["127.0.0.1:1"] }, on_fail = "close" }"#, &["on_fail", "local, allow, deny"]);
    refused(
        r#"{ valkey = { nodes = ["127.0.0.1:1"], timeout = "0ms", username = "gate", tls = { trust = "corp" } } }"#,
        &["from 1ms to 10s", "`password`", "trust \"corp\""],
    );
}
