//! What `check` does not let near a listener.

use super::lab::{Lab, certificate, listener};
use std::sync::Arc;

/// Name, certificate, keys of the listener, words of the report.
pub(super) const CHECKS: &[(&str, &str, &str, &str)] = &[
    ("check: a right one passes", "ec", "", ""),
    ("check: a key of another certificate", "crossed", "", "the key does not belong to the certificate"),
    ("check: an expired certificate", "over", "", "the certificate expired 1 day ago"),
    ("check: a certificate that is not valid yet", "coming", "", "the certificate is not valid yet"),
    ("check: an RSA key of 1024 bits", "weak", "", "1024 bits, fewer than 2048"),
    ("check: a shuffled chain", "shuffled", "", "the chain is out of order"),
    ("check: no PEM", "garbled", "", "holds no certificate"),
    ("check: a file that is not there", "nowhere", "", "nowhere.crt"),
    ("check: a suite of CBC", "ec", "tls = { ciphers = [\"TLS_RSA_WITH_AES_128_CBC_SHA\"] }", "cipher suite"),
    ("check: TLS 1.1 as the least", "ec", "tls = { min_version = \"1.1\" }", "1.1"),
    ("check: early data", "ec", "tls = { early_data = \"on\" }", "early_data"),
    (
        "check: client certificates of nobody's authority",
        "ec",
        "tls = { client_auth = \"required\" }",
        "client certificates need `trust`",
    ),
];

pub(super) async fn check(lab: Arc<Lab>, name: &str, of: &str, keys: &str, words: &str) {
    let file = format!("{}.toml", name.replace(|letter: char| !letter.is_ascii_alphanumeric(), "-"));
    let route = "[route.app]\nrespond = { status = 204 }\n";
    lab.gateway
        .write_as(&file, &[certificate(of), listener("x", &format!("\"{of}\""), keys), route.to_owned()].concat());
    let (code, text) = lab.gateway.command(&["check", &file]).await;
    assert_eq!(code, i32::from(!words.is_empty()), "{text}");
    assert!(text.contains(words), "{text}");
}
