//! Checks of published services by TLS and HTTP, and what leaves by a narrow road.

use crate::support::{
    dns::{answer, zone},
    eventually,
    gateway::{Gateway, binary},
    have,
    origin::{Origin, Seen, ok},
    outside::Outside,
};
use hickory_proto::rr::RecordType;
use std::{
    net::SocketAddr,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};
use tokio::process::Command;

const QUICK: &str = "interval = \"1s\", timeout = \"1s\", healthy = 1, unhealthy = 1";
const UP: &str = "127.0.0.1";
const DOWN: &str = "elsewhere.example.net.";

/// A service whose one member is checked; when it is down the answer is another name.
fn service(name: &str, more: &str, check: &str) -> String {
    format!(
        "[public_service.{name}]\nhost = \"{name}.example.test\"\n{more}sites = {{ a = [\"{UP}\"], b = {{ cname = \"{DOWN}\" }} }}\n\
         health_check = {{ {QUICK}, {check} }}\n"
    )
}

async fn becomes(server: SocketAddr, name: &str, expected: &str) {
    eventually(&format!("{name} is {expected}"), async || {
        (answer(server, &format!("{name}.example.test."), RecordType::A).join(" ") == expected).then_some(())
    })
    .await;
}

/// Not before somebody has asked: a member that nobody has asked is taken to be up.
async fn all_are_asked(gateway: &Gateway) {
    eventually("every member was asked", async || {
        let (_, body) = gateway.admin("GET", "/gslb", "").await;
        let members = body["members"].as_array().unwrap();
        (!members.is_empty() && members.iter().all(|member| member["state"] != "unknown")).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_by_tls_has_a_name_trusts_an_authority_and_sees_the_end_of_the_certificate() {
    // Its certificate is good for ninety days.
    let outside = Outside::start(&["app.internal", "probe.internal"]).await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("ca.pem"), &outside.ca.certificate_pem).unwrap();
    let tls = "tls = { sni = \"app.internal\", trust = \"ca\" }\n";
    let cases = [
        ("shake", tls, "", UP),
        ("stranger", "tls = { sni = \"app.internal\" }\n", "", DOWN),
        ("named", tls, ", sni = \"probe.internal\"", UP),
        ("misnamed", tls, ", sni = \"nobody.internal\"", DOWN),
        ("page", tls, ", path = \"/\"", UP),
        ("away", tls, ", path = \"/away\", status = [200]", DOWN),
        ("ending", tls, ", tls_expiry = { within = \"100d\", action = \"down\" }", DOWN),
        ("warned", tls, ", tls_expiry = { within = \"100d\", action = \"warn\" }", UP),
        ("lasting", tls, ", tls_expiry = { within = \"80d\", action = \"down\" }", UP),
    ];
    let services =
        cases.map(|(name, tls, check, _)| service(name, tls, &format!("port = {}{check}", outside.tls.port())));
    let config = format!("{}[trust.ca]\nca = {{ file = \"ca.pem\" }}\n{}", zone("192.0.2.1"), services.concat());
    let gateway = Gateway::start_in(folder, &config).await;
    all_are_asked(&gateway).await;
    for (name, _, _, expected) in cases {
        becomes(gateway.addr("dns"), name, expected).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_by_http_looks_at_status_and_body_each_time() {
    // What the origin says: well, in trouble, or well by its status alone.
    let mood = Arc::new(AtomicUsize::new(0));
    let said = mood.clone();
    let origin = Origin::start(move |_: &Seen| match said.load(SeqCst) {
        0 => ok("all is well"),
        1 => b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nwell".to_vec(),
        _ => ok("maintenance"),
    })
    .await;
    let port = origin.addr.port();
    let config = [
        zone("192.0.2.1"),
        service("status", "", &format!("path = \"/healthz\", port = {port}")),
        service("list", "", &format!("path = \"/healthz\", status = [200, 503], port = {port}")),
        service("body", "", &format!("path = \"/healthz\", body = \"well\", port = {port}")),
    ]
    .concat();
    let gateway = Gateway::start(&config).await;
    let server = gateway.addr("dns");
    for (word, status, list, body) in [(0, UP, UP, UP), (1, DOWN, UP, DOWN), (2, UP, UP, DOWN), (0, UP, UP, UP)] {
        mood.store(word, SeqCst);
        for (name, expected) in [("status", status), ("list", list), ("body", body)] {
            becomes(server, name, expected).await;
        }
    }
    assert!(origin.last().path() == "/healthz");
}

/// In a network of its own, whose only interface takes 600 octets.
const NARROW: &str = r#"
ip link set lo up mtu 600 || exit 9
"$0" run edge.toml >log.txt 2>&1 &
for n in $(seq 200); do
    dig @"$1" -p 5301 +tries=1 +time=1 www.example.test >/dev/null && break
    sleep 0.1
done
dig @"$1" -p 5301 +tries=1 +time=5 +bufsize=1232 +ignore big.example.test
dig @"$1" -p 5301 +tries=1 +time=5 +bufsize=1232 big.example.test
kill $!
wait
"#;

#[tokio::test]
async fn rfc9715_3_1_what_the_road_cannot_take_is_fetched_by_tcp_and_never_cut_up() {
    if !have("unshare") || !have("ip") || !have("dig") {
        return;
    }
    let probe = Command::new("unshare").args(["-Urn", "ip", "link", "set", "lo", "up", "mtu", "600"]).output().await;
    if !probe.is_ok_and(|probe| probe.status.success()) {
        eprintln!("NOT CHECKED: this system gives nobody a network of his own");
        return;
    }
    // One socket for all addresses takes another way out than one of a single address.
    for (bound, asked) in [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1")] {
        let folder = tempfile::tempdir().unwrap();
        let config = format!(
            "schema = \"1\"\n[admin]\naddress = \"unix:{0}/a.sock\"\n[process]\nthreads = 1\nupgrade = \"unix:{0}/u.sock\"\n{1}",
            folder.path().display(),
            zone("192.0.2.1").replace("127.0.0.1:0", &format!("{bound}:5301"))
        );
        std::fs::write(folder.path().join("edge.toml"), config).unwrap();
        let output = Command::new("unshare")
            .args(["-Urn", "sh", "-c", NARROW, binary(), asked])
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let log = std::fs::read_to_string(folder.path().join("log.txt")).unwrap_or_default();
        let replies: Vec<_> = text.split("<<>> DiG").filter(|part| part.contains("ANSWER: ")).collect();
        let [ignored, followed] = replies[..] else { panic!("{bound}: {text}\n{log}") };
        let flags = |reply: &str| reply.lines().find(|line| line.contains("flags:")).unwrap_or_default().to_owned();
        assert!(flags(ignored).contains(" tc") && ignored.contains("ANSWER: 0"), "{bound}: {ignored}\n{log}");
        assert!(followed.contains("ANSWER: 60"), "{bound}: {followed}\n{log}");
    }
}
