//! The gateway that all lines are asked of, and the certificates around it, right and wrong.

use crate::{
    support::{
        authority::{Authority, KeyKind, Leaf},
        gateway::Gateway,
        origin::Origin,
    },
    tls::ocsp_response,
};
use rcgen::ExtendedKeyUsagePurpose;
use std::{net::SocketAddr, path::Path};
use time::OffsetDateTime;

/// A gateway with a listener for each way to speak TLS.
pub(super) struct Lab {
    pub(super) gateway: Gateway,
    _origin: Origin,
}

impl Lab {
    pub(super) async fn start() -> Self {
        let (origin, folder) = (Origin::fixed("ok").await, tempfile::tempdir().unwrap());
        let at = folder.path();
        let ca = Authority::new("ca");
        let below = ca.intermediate("below");
        ca.leaf(&["a.test"]).write(at, "ec");
        ca.leaf_with(&["a.test"], KeyKind::Rsa, |_| {}).write(at, "rsa");
        ca.leaf(&["*.wild.test"]).write(at, "wild");
        let chained = below.leaf(&["chain.test"]);
        Leaf { certificate_pem: chained.certificate_pem.clone() + &below.certificate_pem, ..chained }
            .write(at, "chain");
        let stapled = ca.leaf(&["stapled.test"]);
        stapled.write(at, "stapled");
        let response = ocsp_response(&ca, &stapled, at, "stapled").await;
        std::fs::write(at.join("stapled.ocsp"), response).unwrap();
        std::fs::write(at.join("ca.pem"), &ca.certificate_pem).unwrap();
        clients(at);
        mistakes(&ca, at).await;
        let config = format!(
            "{}\n[upstream.app]\nendpoints = [\"{}\"]\n[route.app]\nhosts = [\"a.test\"]\nupstream = \"app\"\n",
            listeners(),
            origin.addr
        );
        Self { gateway: Gateway::start_in(folder, &config).await, _origin: origin }
    }

    pub(super) fn addr(&self, listener: &str) -> SocketAddr {
        self.gateway.addr(listener)
    }

    pub(super) fn path(&self, name: &str) -> String {
        self.gateway.path().join(name).display().to_string()
    }
}

pub(super) fn certificate(name: &str) -> String {
    format!("[certificate.{name}]\ncert = {{ file = \"{name}.crt\" }}\nkey = {{ file = \"{name}.key\" }}\n")
}

pub(super) fn listener(name: &str, certificates: &str, more: &str) -> String {
    format!(
        "[listener.{name}]\naddress = \"127.0.0.1:0\"\nprotocol = \"https\"\ncertificates = [{certificates}]\n{more}\n"
    )
}

fn listeners() -> String {
    const ALL: &str = "\"ec\", \"rsa\", \"wild\", \"chain\", \"stapled\"";
    const EC: &str = "\"ec\"";
    let trust = |name: &str| format!("[trust.{name}]\nca = {{ file = \"{name}.crt\" }}\n");
    [
        ["ec", "rsa", "wild", "chain"].map(certificate).concat(),
        certificate("stapled") + "ocsp = { file = \"stapled.ocsp\" }\n",
        trust("clients") + "crl = { file = \"clients.crl\" }\n",
        trust("partners"),
        listener("https", ALL, ""),
        listener("second", ALL, ""),
        listener("modern", EC, "tls = { min_version = \"1.3\" }"),
        listener("chosen", EC, "tls = { ciphers = [\"TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256\"] }"),
        listener("h1", EC, "versions = [\"h1\"]"),
        listener("forgetful", EC, "tls = { tickets = \"off\" }"),
        listener("short", EC, "limits = { header_timeout = \"600ms\" }"),
        listener("mtls", EC, "tls = { client_auth = \"required\", trust = \"clients\" }"),
        listener("optional", EC, "tls = { client_auth = \"optional\", trust = \"clients\" }"),
        listener("partners", EC, "tls = { client_auth = \"required\", trust = \"partners\" }"),
        listener("named", EC, "tls = { client_auth = \"required\", trust = \"clients\", san = [\"spiffe://corp/*\"] }"),
    ]
    .concat()
}

/// Certificates of clients, right and wrong.
fn clients(folder: &Path) {
    const NAME: &[&str] = &["spiffe://corp/good"];
    let (clients, partners) = (Authority::new("clients"), Authority::new("partners"));
    let (now, day) = (OffsetDateTime::now_utc(), time::Duration::days(1));
    clients.leaf(NAME).write(folder, "good");
    clients.leaf_with(NAME, KeyKind::Rsa, |_| {}).write(folder, "good-rsa");
    clients.leaf(&["spiffe://other/y"]).write(folder, "other");
    clients.leaf_with(NAME, KeyKind::P256, |params| params.not_after = now - day).write(folder, "expired");
    clients.leaf_with(NAME, KeyKind::P256, |params| params.not_before = now + day).write(folder, "early");
    let usage = |params: &mut rcgen::CertificateParams| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    };
    clients.leaf_with(NAME, KeyKind::P256, usage).write(folder, "server");
    partners.leaf(NAME).write(folder, "partner");
    Authority::new("clients").leaf(NAME).write(folder, "namesake");
    let revoked = clients.leaf(NAME);
    revoked.write(folder, "revoked");
    std::fs::write(folder.join("clients.crl"), clients.crl(&[revoked.serial])).unwrap();
    std::fs::write(folder.join("clients.crt"), &clients.certificate_pem).unwrap();
    std::fs::write(folder.join("partners.crt"), &partners.certificate_pem).unwrap();
}

/// Certificates that no listener may serve.
async fn mistakes(ca: &Authority, folder: &Path) {
    let (now, day) = (OffsetDateTime::now_utc(), time::Duration::days(1));
    let (one, other) = (ca.leaf(&["a.test"]), ca.leaf(&["a.test"]));
    Leaf { key_pem: other.key_pem.clone(), ..one }.write(folder, "crossed");
    ca.leaf_with(&["a.test"], KeyKind::P256, |params| params.not_after = now - day).write(folder, "over");
    ca.leaf_with(&["a.test"], KeyKind::P256, |params| params.not_before = now + day).write(folder, "coming");
    let below = ca.intermediate("below");
    let leaf = below.leaf(&["a.test"]);
    let shuffled = format!("{}{}{}", leaf.certificate_pem, ca.certificate_pem, below.certificate_pem);
    Leaf { certificate_pem: shuffled, ..leaf }.write(folder, "shuffled");
    let garbled = ca.leaf(&["a.test"]);
    Leaf { certificate_pem: "garbage".to_owned(), ..garbled }.write(folder, "garbled");
    let made = tokio::process::Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:1024", "-nodes", "-subj", "/CN=a.test", "-days", "30"])
        .args(["-addext", "subjectAltName=DNS:a.test", "-keyout", "weak.key", "-out", "weak.crt"])
        .current_dir(folder)
        .output()
        .await
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}
