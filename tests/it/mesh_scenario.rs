//! The whole mesh in network namespaces of its own, made without root: two workloads with sidecars, one without, an egress
//! gateway and an outside; once with REDIRECT and once with TPROXY.

use crate::support::{gateway::binary, have};
use std::{process::Stdio, time::Duration};
use tokio::process::Command;

#[tokio::test]
async fn workloads_captured_by_redirect_go_through_the_scenario() {
    scenario("redirect").await;
}

#[tokio::test]
async fn workloads_captured_by_tproxy_go_through_the_scenario() {
    scenario("tproxy").await;
}

async fn scenario(capture: &str) {
    if !["unshare", "ip", "iptables", "curl", "python3"].into_iter().all(have) {
        return;
    }
    let probe = "ip netns list && iptables -t nat -L -n && iptables -t mangle -A PREROUTING -p tcp -j TPROXY --on-port 1 --tproxy-mark 1";
    let probe = Command::new("unshare")
        .args(["-Urnm", "sh", "-c", &format!("PATH=$PATH:/usr/sbin; {probe}")])
        .output()
        .await
        .unwrap();
    if !probe.status.success() {
        eprintln!("NOT CHECKED: no namespaces of one's own: {}", String::from_utf8_lossy(&probe.stderr));
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    for (name, text) in [
        ("inside.sh", include_str!("mesh_scenario/inside.sh").to_owned()),
        ("servers.py", include_str!("mesh_scenario/servers.py").to_owned()),
        ("svc1.toml", preamble("svc1") + &sidecar("svc1", capture) + CALLS),
        ("svc2.toml", preamble("svc2") + &sidecar("svc2", capture) + RULES),
        ("app2.toml", preamble("app2") + APP),
        ("app3.toml", preamble("app3") + APP),
        ("ext.toml", preamble("ext") + OUTSIDE),
        ("egw.toml", preamble("egw") + EGRESS),
    ] {
        std::fs::write(at.join(name), text).unwrap();
    }
    let mut command = Command::new("unshare");
    let programs = [binary(), env!("CARGO_BIN_EXE_mesh-proxy"), capture];
    let said = std::fs::File::create(at.join("out.txt")).unwrap();
    // Processes of their own, so that none of them outlives the test.
    command.args(["-Urnmfp", "--kill-child", "sh", "inside.sh"]).args(programs).current_dir(at).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(said.try_clone().unwrap()).stderr(said);
    let ended = tokio::time::timeout(Duration::from_secs(300), command.status()).await;
    let out = std::fs::read_to_string(at.join("out.txt")).unwrap();
    assert!(ended.is_ok(), "it goes on and on:\n{out}");
    let log = |name: &str| std::fs::read_to_string(at.join(format!("{name}.log"))).unwrap_or_default();
    let told = || format!("{out}\n--- svc1\n{}\n--- svc2\n{}\n--- egw\n{}", log("svc1"), log("svc2"), log("egw"));
    for expected in [
        "1 clear: the-answer-of-svc2 200",
        "1 counted: 1",
        "1 mesh: the-answer-of-svc2 200",
        "1 v6: the-answer-of-svc2 200",
        "1 v6 clear: the-answer-of-svc2 200",
        "1 counted mtls: 2",
        "10 banner: greeted in time",
        "2 clear:  000",
        "2 reason: 1",
        "2 mesh: the-answer-of-svc2 200",
        "6 /admin: Forbidden",
        "6 /%61dmin: Forbidden",
        "6 /x/../admin: Forbidden",
        "6 DELETE: Forbidden",
        "6 claims to be another: Forbidden",
        "13 twenty: 20",
        "18 burst: failed 0",
        "18 after: the-answer-of-svc2 200",
        "7 rotation: failed 0, enough yes",
        "7 taken: yes",
        "15 by gateway: the-outside 200",
        "15 other workload:  000",
        "15 unknown name:  000",
        "15 from the gateway's host: 200",
        "15 direct: 000",
        "15 past the capture 10.88.0.2: connected, nothing",
        "15 past the capture fd88::2: connected, nothing",
        "15 10.88.0.2 443: answered, nothing",
        "15 10.88.0.2 53: answered, nothing",
        "15 fd88::2 443: answered, nothing",
        "15 fd88::2 53: answered, nothing",
        "16 by address: the-answer-of-svc2 200",
        "16 no service:  000",
        "16 pass: the-answer-of-svc2 200",
        "16 refuse:  404",
        "3 off: the-answer-of-svc2 200",
        "3 wire: clear",
        "3 counted: 1",
        "3 other namespace: the-answer-of-svc2 200",
        "3 other on wire: 0",
        "3 other counted: 1",
        "status: 1 1",
        "14 ended: yes",
    ] {
        assert!(out.lines().any(|line| line == expected), "{expected}:\n{}", told());
    }
    assert_eq!(out.lines().filter(|line| *line == "18 burst: failed 0").count(), 2, "{}", told());
    // The tap saw svc3's words, so it would have seen svc1's.
    let wire = out.lines().find_map(|line| line.strip_prefix("1 wire: svc3 ")).unwrap();
    let (clear, hidden) = wire.split_once(" svc1 ").unwrap();
    assert!(clear != "0" && hidden == "0", "{wire}");
    let identity = out.lines().find_map(|line| line.strip_prefix("15 identity at the gateway: ")).unwrap();
    assert_ne!(identity, "0", "{}", told());
}

fn preamble(name: &str) -> String {
    format!(
        "schema = \"1\"\n[process]\nthreads = 1\nupgrade = \"unix:{name}-upgrade.sock\"\ndrain = \"5s\"\nstream_drain = \"5s\"\n\
         [admin]\naddress = \"unix:{name}.sock\"\n"
    )
}

fn sidecar(name: &str, capture: &str) -> String {
    format!(
        r#"
[workload]
service = "{name}"
namespace = "acme.lab"
spiffe = "spiffe://corp/ns/acme.lab/sa/{name}"
svid = {{ files = {{ cert = "{name}/{name}.crt", key = "{name}/{name}.key", bundle = "{name}/bundle.crt" }} }}
mark = 1337
[mtls]
mode = "permissive"
[listener.inbound]
address = ":15006"
direction = "inbound"
capture = "{capture}"
[listener.outbound]
address = ":15001"
direction = "outbound"
capture = "{capture}"
gateway = "egress"
[upstream.egress]
endpoints = ["10.77.0.4:3129"]
tls = {{ sni = "egress.acme.lab", trust = "mesh", san = ["spiffe://corp/ns/acme.lab/sa/egress"], certificate = "own" }}
[trust.mesh]
ca = {{ file = "{name}/bundle.crt" }}
[certificate.own]
cert = {{ file = "{name}/{name}.crt" }}
key = {{ file = "{name}/{name}.key" }}
"#
    )
}

/// svc2's application, and what else it listens with, as svc1 knows them.
const CALLS: &str = r#"
[service.api]
namespace = "acme.lab"
upstream = "api"
address = "198.18.0.7"
spiffe = ["spiffe://corp/ns/acme.lab/sa/svc2"]

[upstream.api]
endpoints = ["10.77.0.2:8080", "[fd77::2]:8080"]
connect_timeout = "10s"
[service.mail]
namespace = "acme.lab"
upstream = "mail"
spiffe = ["spiffe://corp/ns/acme.lab/sa/svc2"]

[upstream.mail]
endpoints = ["10.77.0.2:2525"]
connect_timeout = "10s"
"#;

const RULES: &str = r#"
[access.svc1-reads]
from = ["service:svc1", "namespace:bank"]
to = ["service:svc2"]
match = { methods = ["GET"], ports = [8080] }
action = "allow"
[access.nobody-administers]
from = ["*"]
to = ["service:svc2"]
match = { path = "/admin", ports = [8080] }
action = "deny"
[access.svc1-mails]
from = ["service:svc1"]
to = ["service:svc2"]
match = { ports = [2525] }
action = "allow"
"#;

const APP: &str = r#"
[listener.app]
address = ":8080"
[route.a]
respond = { status = 200, body = "the-answer-of-svc2" }
"#;

const OUTSIDE: &str = r#"
[listener.www]
address = "0.0.0.0:80"
[route.a]
respond = { status = 200, body = "the-outside" }
"#;

/// Names of the outside are the gateway's own business: it asks a server of its own.
const EGRESS: &str = r#"
[listener.out]
address = "10.77.0.4:3129"
protocol = "proxy"
certificates = ["own"]
tls = { client_auth = "required", trust = "mesh" }
[certificate.own]
cert = { file = "egress/egress.crt" }
key = { file = "egress/egress.key" }
[trust.mesh]
ca = { file = "egress/bundle.crt" }
[egress]
resolver = "own"
[discovery.own]
dns = { servers = ["127.0.0.1:53"] }
[listener.dns]
address = "127.0.0.1:53"
protocol = "dns"
[zone.ext]
name = "ext.test"
ns = ["ns1.ext.test"]
soa = { mname = "ns1.ext.test", rname = "noc@ext.test" }
records = ["ns1 A 127.0.0.1", "www A 10.88.0.2"]
[destination.www]
hosts = ["www.ext.test"]
protocol = "http"
private_addresses = ["10.88.0.0/24"]
[access.svc1-reads-the-outside]
from = ["spiffe://corp/ns/acme.lab/sa/svc1"]
to = ["destination:www"]
action = "allow"
"#;
