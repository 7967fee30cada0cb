//! Validators of DNSSEC and what they are given: what our zones say of their keys, and what delv and unbound say of our zones.

use super::{
    dns::{run, try_ask},
    gateway::Gateway,
};
use hickory_proto::{op::ResponseCode, rr::RecordType};
use std::{
    net::{SocketAddr, TcpListener, UdpSocket},
    path::Path,
    process::Stdio,
};

/// The DS of all keys that the zone says its parent should have, as trust anchors: what `delegate` prints.
pub(crate) async fn anchors(gateway: &Gateway) -> Vec<String> {
    let (code, out) = gateway.command(&["gslb", "delegate", "example.test", "--admin", "admin.sock"]).await;
    assert_eq!(code, 0, "{out}");
    let ds = out.lines().filter_map(|line| line.split_once(" IN DS ")).map(|(_, ds)| ds.to_owned());
    ds.collect()
}

/// Names of `dns_signed`'s zone, of every kind, and what delv is to say of them.
pub(crate) const SECURE: [(&str, &str, &str); 10] = [
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
pub(crate) fn delv(folder: &Path, server: SocketAddr, ds: &[String], name: &str, of_type: &str) -> String {
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

pub(crate) fn all_secure(folder: &Path, server: SocketAddr, ds: &[String], what: &str) {
    for (name, of_type, expected) in SECURE {
        let out = delv(folder, server, ds, name, of_type);
        assert!(out.contains(expected), "{what}: {name} {of_type}\n{out}");
    }
}

/// The same kinds for a resolver, with names that it has never asked for, and whether there is an answer.
const KINDS: [(&str, RecordType, bool); 11] = [
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

pub(crate) fn all_secure_to_resolver(client: &UdpSocket, number: u16, what: &str) {
    for (name, of_type, has_answer) in KINDS {
        let name = format!("{}.example.test.", name.replace("NUMBER", &format!("n{number}")));
        let reply = try_ask(client, number, &name, of_type).expect("a reply");
        assert_ne!(reply.metadata.response_code, ResponseCode::ServFail, "{what}: {name} {of_type} is bogus");
        assert!(reply.metadata.authentic_data, "{what}: {name} {of_type} is not secure: {reply}");
        assert_eq!(!reply.answers.is_empty(), has_answer, "{what}: {name} {of_type}");
    }
}

/// A resolver that validates, until it is dropped.
pub(crate) struct Unbound {
    pub(crate) address: SocketAddr,
    _running: tokio::process::Child,
}

impl Unbound {
    /// `anchor` as a record, and whom to ask about which zones. `None`: it cannot be run, which is said aloud.
    pub(crate) fn start(folder: &Path, anchor: &str, stubs: &[(&str, SocketAddr)]) -> Option<Self> {
        let port = loop {
            let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = tcp.local_addr().unwrap().port();
            if UdpSocket::bind(("127.0.0.1", port)).is_ok() {
                break port;
            }
        };
        let here = folder.display();
        let stub = |(name, server): &(&str, SocketAddr)| {
            format!("stub-zone:\n  name: \"{name}\"\n  stub-addr: 127.0.0.1@{}\n", server.port())
        };
        let stubs: String = stubs.iter().map(stub).collect();
        // RFC 6840 §5.11 asks less of validators; held to what RFC 4035 §2.2 asks of zones, none is more strict.
        let text = format!(
            "server:\n  interface: 127.0.0.1@{port}\n  do-daemonize: no\n  chroot: \"\"\n  username: \"\"\n  directory: \"{here}\"\n\
             \x20 pidfile: \"{here}/unbound.pid\"\n  use-syslog: no\n  do-not-query-localhost: no\n  module-config: \"validator iterator\"\n\
             \x20 local-zone: \"test.\" nodefault\n  trust-anchor: \"{anchor}\"\n  do-ip6: no\n  aggressive-nsec: no\n\
             \x20 harden-algo-downgrade: yes\n{stubs}remote-control:\n  control-enable: no\n"
        );
        let file = folder.join("unbound.conf");
        std::fs::write(&file, text).unwrap();
        let log = std::fs::File::create(folder.join("unbound.log")).unwrap();
        let unbound = if Path::new("/usr/sbin/unbound").exists() { "/usr/sbin/unbound" } else { "unbound" };
        let started = tokio::process::Command::new(unbound)
            .args(["-d", "-c"])
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn();
        let Ok(running) = started else {
            eprintln!("NOT CHECKED: `unbound` cannot be run");
            return None;
        };
        Some(Self { address: SocketAddr::from(([127, 0, 0, 1], port)), _running: running })
    }
}
