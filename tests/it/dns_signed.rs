//! Signed zones under the eyes of validators: every kind of answer, and a key that is rolled over while it is looked at.

use crate::support::{
    dns::{answer, run, socket, try_ask, zone},
    eventually,
    gateway::{Gateway, run_in},
    have,
};
use hickory_proto::{op::ResponseCode, rr::RecordType};
use std::{
    net::{SocketAddr, TcpListener, UdpSocket},
    path::Path,
    process::Stdio,
};

/// A zone signed with `keys`, and published names in it.
fn config(keys: &str, denial: &str) -> String {
    format!(
        "{}dnssec = {{ keys = [{keys}], denial = \"{denial}\", cds = \"on\" }}\n\
         [public_service.shop]\nhost = \"shop.example.test\"\nsites = {{ a = [\"192.0.2.11\"] }}\nhttps = {{ alpn = [\"h2\"] }}\n\
         [public_service.any]\nhost = \"*.any.example.test\"\nsites = {{ a = [\"192.0.2.12\"] }}\n",
        zone("192.0.2.1").replace(
            "records = [",
            "records = [\"alias 60 CNAME www\", \"*.w 60 A 192.0.2.3\", \"x.ent 60 A 192.0.2.4\", "
        )
    )
}

fn key(name: &str, role: &str) -> String {
    format!("{{ secret = {{ file = \"{name}.key\" }}, role = \"{role}\" }}")
}

async fn make_key(folder: &Path, name: &str, algorithm: &str) {
    let file = format!("{name}.key");
    let (code, out) = run_in(folder, &["gslb", "key", &file, "--algorithm", algorithm]).await;
    assert_eq!(code, 0, "{out}");
    let (code, out) = run_in(folder, &["gslb", "key", &file]).await;
    assert!(code == 2 && out.contains("cannot write"), "a key is never written over: {out}");
}

/// The DS of all keys that the zone says its parent should have, as trust anchors: what `delegate` prints.
async fn anchors(gateway: &Gateway) -> Vec<String> {
    let (code, out) = gateway.command(&["gslb", "delegate", "example.test", "--admin", "admin.sock"]).await;
    assert_eq!(code, 0, "{out}");
    let ds = out.lines().filter_map(|line| line.split_once(" IN DS ")).map(|(_, ds)| ds.to_owned());
    ds.collect()
}

const SECURE: [(&str, &str, &str); 10] = [
    ("www.example.test", "A", "; fully validated"),
    ("alias.example.test", "A", "; fully validated"),
    ("x.w.example.test", "A", "; fully validated"),
    ("shop.example.test", "A", "; fully validated"),
    ("shop.example.test", "HTTPS", "; fully validated"),
    ("m.any.example.test", "A", "; fully validated"),
    ("example.test", "SOA", "; fully validated"),
    ("ent.example.test", "A", "; negative response, fully validated"),
    ("www.example.test", "TXT", "; negative response, fully validated"),
    ("nope.example.test", "A", "; negative response, fully validated"),
];

/// What delv says with these trust anchors.
fn delv(folder: &Path, server: SocketAddr, ds: &[String], name: &str, of_type: &str) -> String {
    let anchor = |ds: &String| {
        let words: Vec<_> = ds.split_whitespace().collect();
        format!("example.test. static-ds {} {} {} \"{}\";", words[0], words[1], words[2], words[3..].concat())
    };
    let file = folder.join("anchors");
    let text: String = ds.iter().map(anchor).collect();
    std::fs::write(&file, format!("trust-anchors {{ {text} }};\n")).unwrap();
    let (port, file) = (server.port().to_string(), file.display().to_string());
    run("delv", &["@127.0.0.1", "-p", &port, "-a", &file, "+root=example.test", name, of_type])
}

fn all_secure(folder: &Path, server: SocketAddr, ds: &[String], what: &str) {
    for (name, of_type, expected) in SECURE {
        let out = delv(folder, server, ds, name, of_type);
        assert!(out.contains(expected), "{what}: {name} {of_type}\n{out}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_of_every_kind_are_secure_to_delv_under_every_denial_and_algorithm() {
    if !have("delv") {
        return;
    }
    for (denial, algorithm) in [("nsec", "ecdsap256"), ("nsec3", "ed25519"), ("compact", "ecdsap256")] {
        let folder = tempfile::tempdir().unwrap();
        make_key(folder.path(), "a", algorithm).await;
        let gateway = Gateway::start_in(folder, &config(&key("a", "csk"), denial)).await;
        let ds = anchors(&gateway).await;
        all_secure(gateway.path(), gateway.addr("dns"), &ds, denial);
        let forged = [ds[0].replacen(char::is_numeric, "9", 1)];
        let out = delv(gateway.path(), gateway.addr("dns"), &forged, "www.example.test", "A");
        assert!(!out.contains("fully validated"), "an anchor of another key proves nothing: {out}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rfc6781_4_1_a_key_is_rolled_over_and_the_zone_is_secure_at_each_step() {
    if !have("delv") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    make_key(folder.path(), "old", "ecdsap256").await;
    make_key(folder.path(), "new", "ecdsap256").await;
    let mut gateway = Gateway::start_in(folder, &config(&key("old", "csk"), "compact")).await;
    let server = gateway.addr("dns");
    let cds = || answer(server, "example.test.", RecordType::CDS);
    let old = anchors(&gateway).await;
    all_secure(gateway.path(), server, &old, "before");
    let before = cds();
    // The next key is published, and waits until every resolver has seen it.
    gateway.reload(&config(&[key("old", "csk"), key("new", "standby")].join(", "), "compact")).await;
    all_secure(gateway.path(), server, &old, "published");
    assert_eq!((anchors(&gateway).await, cds()), (old.clone(), before.clone()));
    // Both sign: the parent is told of both (CDS), and takes them over.
    gateway.reload(&config(&[key("old", "csk"), key("new", "csk")].join(", "), "compact")).await;
    let both = anchors(&gateway).await;
    assert_eq!((both.len(), cds().len()), (2, 2));
    let new: Vec<_> = both.iter().filter(|ds| !old.contains(ds)).cloned().collect();
    all_secure(gateway.path(), server, &old, "both, by the old DS");
    all_secure(gateway.path(), server, &new, "both, by the new DS");
    // The old one goes when the parent has the new one and no copy of the old DS is left.
    gateway.reload(&config(&key("new", "csk"), "compact")).await;
    all_secure(gateway.path(), server, &new, "after");
    assert_eq!(anchors(&gateway).await, new);
    assert!(cds() != before && cds().len() == 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unbound_calls_every_kind_of_answer_secure() {
    if !have("unbound") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    make_key(folder.path(), "a", "ecdsap256").await;
    let gateway = Gateway::start_in(folder, &config(&key("a", "csk"), "compact")).await;
    let port = loop {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = tcp.local_addr().unwrap().port();
        if UdpSocket::bind(("127.0.0.1", port)).is_ok() {
            break port;
        }
    };
    let here = gateway.path().display();
    let anchor = format!("example.test. DS {}", anchors(&gateway).await[0]);
    let text = format!(
        "server:\n  interface: 127.0.0.1@{port}\n  do-daemonize: no\n  chroot: \"\"\n  username: \"\"\n  directory: \"{here}\"\n\
         \x20 pidfile: \"{here}/unbound.pid\"\n  use-syslog: no\n  do-not-query-localhost: no\n  module-config: \"validator iterator\"\n\
         \x20 local-zone: \"test.\" nodefault\n  trust-anchor: \"{anchor}\"\n  do-ip6: no\n  aggressive-nsec: no\n\
         stub-zone:\n  name: \"example.test\"\n  stub-addr: 127.0.0.1@{}\nremote-control:\n  control-enable: no\n",
        gateway.addr("dns").port()
    );
    let file = gateway.path().join("unbound.conf");
    std::fs::write(&file, text).unwrap();
    let log = std::fs::File::create(gateway.path().join("unbound.log")).unwrap();
    let unbound = if Path::new("/usr/sbin/unbound").exists() { "/usr/sbin/unbound" } else { "unbound" };
    let started = tokio::process::Command::new(unbound)
        .args(["-d", "-c"])
        .arg(&file)
        .stdout(Stdio::null())
        .stderr(log)
        .kill_on_drop(true)
        .spawn();
    let Ok(_running) = started else {
        eprintln!("NOT CHECKED: `unbound` cannot be run");
        return;
    };
    let resolver = SocketAddr::from(([127, 0, 0, 1], port));
    eventually("unbound answers", async || try_ask(&socket(resolver), 1, "example.test.", RecordType::SOA)).await;
    let kinds = [
        ("www", RecordType::A, true),
        ("alias", RecordType::A, true),
        ("NUMBER.w", RecordType::A, true),
        ("shop", RecordType::A, true),
        ("shop", RecordType::HTTPS, true),
        ("NUMBER.any", RecordType::A, true),
        ("NUMBER.any", RecordType::MX, false),
        ("ent", RecordType::A, false),
        ("www", RecordType::TXT, false),
        ("NUMBER", RecordType::A, false),
        ("NUMBER.NUMBER", RecordType::AAAA, false),
    ];
    let client = socket(resolver);
    for number in 0..50u16 {
        for (name, of_type, has_answer) in kinds {
            let name = format!("{}.example.test.", name.replace("NUMBER", &format!("n{number}")));
            let reply = try_ask(&client, number, &name, of_type).expect("a reply");
            assert_ne!(reply.metadata.response_code, ResponseCode::ServFail, "{name} {of_type} is bogus");
            assert!(reply.metadata.authentic_data, "{name} {of_type} is not secure: {reply}");
            assert_eq!(!reply.answers.is_empty(), has_answer, "{name} {of_type}");
        }
    }
}
