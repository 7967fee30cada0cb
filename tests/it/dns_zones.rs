//! Zones that move between servers: fetched from a primary, told of by NOTIFY, kept over restarts, given up when they expire.

use crate::support::{
    dns::{LISTENER, answer, ask, run, socket, try_ask},
    eventually,
    gateway::Gateway,
    have,
};
use hickory_proto::{op::ResponseCode, rr::RecordType};
use std::{
    net::{SocketAddr, TcpListener, UdpSocket},
    process::Stdio,
};

const KEY: &str = "[dns.tsig.xfr]\nsecret = { env = \"XFR\" }\n";
const SECRET: &str = "c2VjcmV0LW9mLTMyLW9jdGV0cy1pbi1iYXNlLTY0ISE=";

async fn start(config: &str) -> Gateway {
    let folder = tempfile::tempdir().unwrap();
    let secret = format!("{{ file = \"{}/xfr.key\" }}", folder.path().display());
    std::fs::write(folder.path().join("xfr.key"), SECRET).unwrap();
    Gateway::start_in(folder, &config.replace("{ env = \"XFR\" }", &secret)).await
}

fn primary(address: &str, times: &str, notify: Option<SocketAddr>) -> String {
    let notify = notify.map_or_else(String::new, |to| format!(", notify = [\"{to}\"]"));
    format!(
        "{LISTENER}{KEY}[zone.x]\nname = \"example.test\"\nns = [\"ns1.example.test\"]\n\
         soa = {{ mname = \"ns1.example.test\", rname = \"noc.example.test\", {times} }}\n\
         records = [\"ns1 60 A 127.0.0.1\", \"www 60 A {address}\", \"mail 60 MX 10 ns1\", \"s 60 SRV 1 2 3 ns1\", \
         \"odd 60 TYPE65280 \\\\# 3 010203\", \"alias 60 CNAME www\", \"$GENERATE 1-3000 host-$ 60 A 10.0.0.1\"]\n\
         transfer = {{ keys = [\"xfr\"]{notify} }}\n"
    )
}

fn secondary(of: SocketAddr, key: &str) -> String {
    format!("{LISTENER}{KEY}[zone.x]\nname = \"example.test\"\nsecondary = {{ of = [\"{of}\"]{key} }}\n")
}

/// A port that was free for both a moment ago: other people's servers cannot be asked which one they took.
fn free_port() -> u16 {
    loop {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = tcp.local_addr().unwrap().port();
        if UdpSocket::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// `None`: nobody is there, or it does not know yet.
fn try_answer(server: SocketAddr, name: &str, of_type: RecordType) -> Option<Vec<String>> {
    let reply = try_ask(&socket(server), 7, name, of_type)?;
    Some(reply.answers.iter().map(|record| record.data.to_string()).collect())
}

async fn answers(server: SocketAddr, name: &str, of_type: RecordType, expected: &str) {
    eventually(expected, async || (answer(server, name, of_type) == [expected]).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secondary_follows_its_primary_by_notify_and_keeps_the_zone_over_a_restart() {
    let slow = "refresh = \"1h\"";
    let mut first = start(&primary("192.0.2.1", slow, None)).await;
    let second = start(&secondary(first.addr("dns"), ", key = \"xfr\"")).await;
    let at = second.addr("dns");
    answers(at, "www.example.test.", RecordType::A, "192.0.2.1").await;
    assert_eq!(answer(at, "mail.example.test.", RecordType::MX), ["10 ns1.example.test."]);
    assert_eq!(answer(at, "s.example.test.", RecordType::SRV), ["1 2 3 ns1.example.test."]);
    assert_eq!(answer(at, "host-3000.example.test.", RecordType::A), ["10.0.0.1"]);
    assert_eq!(answer(at, "odd.example.test.", RecordType::from(65280)).len(), 1);
    assert_eq!(ask(at, "nope.example.test.", RecordType::A).metadata.response_code, ResponseCode::NXDomain);
    let soa = |server| answer(server, "example.test.", RecordType::SOA);
    assert_eq!(soa(at), soa(first.addr("dns")));
    // An hour until it would look by itself: what follows is NOTIFY's doing.
    let secret = format!("{{ file = \"{}/xfr.key\" }}", first.path().display());
    for round in 2..6 {
        let config = primary(&format!("192.0.2.{round}"), slow, Some(at)).replace("{ env = \"XFR\" }", &secret);
        assert_eq!(first.reload(&config).await.0, 200);
        answers(at, "www.example.test.", RecordType::A, &format!("192.0.2.{round}")).await;
    }
    assert_eq!(soa(at), soa(first.addr("dns")));
    let (_, status) = second.admin("GET", "/status", "").await;
    assert_eq!(status["generation"], 1, "a transfer is no change of the configuration");
    let changes = second.log().matches("kind=Changes").count();
    assert!(changes >= 3, "the first is whole, the others are changes:\n{}", second.log());
    drop(first);
    let second = second.restart().await;
    assert_eq!(answer(second.addr("dns"), "www.example.test.", RecordType::A), ["192.0.2.5"]);
    assert_eq!(answer(second.addr("dns"), "mail.example.test.", RecordType::MX), ["10 ns1.example.test."]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secondary_follows_by_changes_after_its_primary_was_restarted() {
    if !have("dig") {
        return;
    }
    let of = |address: &str| {
        primary(address, "serial = SERIAL", None).replace("keys = [\"xfr\"]", "to = [\"127.0.0.0/8\"]").replace(KEY, "")
    };
    let mut gateway = start(&of("192.0.2.1").replace("SERIAL", "1")).await;
    assert_eq!(gateway.reload(&of("192.0.2.2").replace("SERIAL", "2")).await.0, 200);
    let changes = |server: SocketAddr| {
        let port = server.port().to_string();
        run("dig", &["@127.0.0.1", "-p", &port, "+noall", "+answer", "+onesoa", "example.test", "IXFR=1"])
    };
    let before = changes(gateway.addr("dns"));
    assert!(before.contains("192.0.2.1") && before.contains("192.0.2.2") && before.lines().count() < 10, "{before}");
    let gateway = gateway.restart().await;
    assert_eq!(changes(gateway.addr("dns")), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rfc1034_4_3_5_a_zone_that_expired_or_never_came_is_answered_servfail() {
    let first = start(&primary("192.0.2.1", "refresh = \"1s\", retry = \"1s\", expire = \"3s\"", None)).await;
    let second = start(&secondary(first.addr("dns"), ", key = \"xfr\"")).await;
    let unsigned = start(&secondary(first.addr("dns"), "")).await;
    let at = second.addr("dns");
    answers(at, "www.example.test.", RecordType::A, "192.0.2.1").await;
    eventually("the refusal is told", async || unsigned.log().contains("zone cannot be fetched").then_some(())).await;
    let (_, out) = unsigned.command(&["gslb", "status", "--admin", "admin.sock"]).await;
    assert!(out.contains("NOT ANSWERED: no primary gives it"), "{out}");
    assert_eq!(
        ask(unsigned.addr("dns"), "www.example.test.", RecordType::A).metadata.response_code,
        ResponseCode::ServFail
    );
    // As long as the primary confirms it, it holds.
    tokio::time::sleep(std::time::Duration::from_secs(4)).await;
    assert_eq!(answer(at, "www.example.test.", RecordType::A), ["192.0.2.1"]);
    drop(first);
    eventually("it expires", async || {
        let reply = ask(at, "www.example.test.", RecordType::A);
        (reply.metadata.response_code == ResponseCode::ServFail).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_zone_of_named_is_fetched_with_tsig_and_followed() {
    if !have("named") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let free = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let zone = |serial: u32| {
        let hosts: String = (0..500).map(|n| format!("host-{n} A 10.0.{}.{}\n", n / 250, n % 250)).collect();
        let text = format!(
            "$TTL 60\n@ SOA ns1 noc {serial} 3600 60 86400 60\n@ NS ns1\nns1 A 127.0.0.1\nwww A 192.0.2.{serial}\n\
             txt TXT \"a b\" \"c\"\ncaa CAA 0 issue \"ca.test\"\nsrv SRV 1 2 3 ns1\nhttps HTTPS 1 . alpn=h2 port=8443\n{hosts}"
        );
        std::fs::write(folder.path().join("zone.db"), text).unwrap();
    };
    zone(1);
    let second = start(&secondary(free, ", key = \"xfr\"")).await;
    let at = second.addr("dns");
    let here = folder.path().display();
    let config = format!(
        "options {{ directory \"{here}\"; listen-on port {} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }}; pid-file \"named.pid\";\n\
         session-keyfile \"session.key\"; recursion no; notify explicit; dnssec-validation no; ixfr-from-differences yes; }};\ncontrols {{ }};\n\
         key xfr {{ algorithm hmac-sha256; secret \"{SECRET}\"; }};\n\
         zone example.test {{ type primary; file \"zone.db\"; allow-transfer {{ key xfr; }}; also-notify {{ 127.0.0.1 port {}; }}; }};\n",
        free.port(),
        at.port()
    );
    std::fs::write(folder.path().join("named.conf"), config).unwrap();
    let log = std::fs::File::create(folder.path().join("named.log")).unwrap();
    let named = tokio::process::Command::new("named")
        .args(["-g", "-n", "1", "-c"])
        .arg(folder.path().join("named.conf"))
        .stdout(Stdio::null())
        .stderr(log)
        .kill_on_drop(true)
        .spawn();
    let Ok(named) = named else {
        eprintln!("NOT CHECKED: `named` cannot be run");
        return;
    };
    answers(at, "www.example.test.", RecordType::A, "192.0.2.1").await;
    assert_eq!(answer(at, "host-499.example.test.", RecordType::A), ["10.0.1.249"]);
    for (name, of_type) in
        [("txt", RecordType::TXT), ("caa", RecordType::CAA), ("srv", RecordType::SRV), ("https", RecordType::HTTPS)]
    {
        let name = format!("{name}.example.test.");
        let theirs = answer(free, &name, of_type);
        assert!(!theirs.is_empty());
        assert_eq!(answer(at, &name, of_type), theirs, "{name}");
    }
    // SIGHUP reads the zone anew; named tells us, and we fetch.
    for serial in 2..5 {
        zone(serial);
        let pid = named.id().unwrap().to_string();
        std::process::Command::new("kill").args(["-HUP", &pid]).status().unwrap();
        answers(at, "www.example.test.", RecordType::A, &format!("192.0.2.{serial}")).await;
    }
    assert!(second.log().contains("kind=Changes"), "{}", second.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn named_and_knotd_follow_a_hundred_changes_by_ixfr_and_stay_identical() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path().display();
    let ports = [free_port(), free_port()];
    let named = format!(
        "options {{ directory \"{here}\"; listen-on port {} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }}; pid-file \"named.pid\";\n\
         session-keyfile \"session.key\"; recursion no; dnssec-validation no; min-refresh-time 1; }};\ncontrols {{ }};\n\
         key xfr {{ algorithm hmac-sha256; secret \"{SECRET}\"; }};\n\
         zone example.test {{ type secondary; primaries {{ 127.0.0.1 port PRIMARY key xfr; }}; file \"copy.db\"; }};\n",
        ports[0]
    );
    let knot = format!(
        "server:\n  listen: 127.0.0.1@{}\n  rundir: {here}\ndatabase:\n  storage: {here}/knot\nlog:\n  - target: stderr\n    any: info\n\
         key:\n  - id: xfr\n    algorithm: hmac-sha256\n    secret: {SECRET}\n\
         remote:\n  - id: us\n    address: 127.0.0.1@PRIMARY\n    key: xfr\n\
         acl:\n  - id: told\n    address: 127.0.0.1\n    action: notify\n\
         zone:\n  - domain: example.test\n    storage: {here}/knot\n    master: us\n    acl: told\n",
        ports[1]
    );
    let config = |round: u32| {
        let told = ports.map(|port| format!("\"127.0.0.1:{port}\"")).join(", ");
        let changing: String =
            (0..5).map(|n| format!("\"r{}-{n} 60 A 192.0.2.{n}\", ", round.saturating_sub(n))).collect();
        primary("192.0.2.1", "refresh = \"1h\"", None)
            .replace("records = [", &format!("records = [{changing}\"now 60 TXT {round}\", "))
            .replace("keys = [\"xfr\"]", &format!("keys = [\"xfr\"], notify = [{told}]"))
            + &format!(
                "[public_service.shop]\nhost = \"shop.example.test\"\nsites = {{ a = [\"192.0.2.{}\"] }}\n",
                1 + round % 200
            )
    };
    let mut ours = start(&config(0)).await;
    let port = ours.addr("dns").port().to_string();
    std::fs::create_dir(folder.path().join("knot")).unwrap();
    std::fs::write(folder.path().join("named.conf"), named.replace("PRIMARY", &port)).unwrap();
    std::fs::write(folder.path().join("knot.conf"), knot.replace("PRIMARY", &port)).unwrap();
    let mut followers = Vec::new();
    for (program, arguments, port) in [
        ("named", ["-g", "-n", "1", "-c", "named.conf"].as_slice(), ports[0]),
        ("knotd", &["-c", "knot.conf"], ports[1]),
    ] {
        if !have(program) {
            continue;
        }
        let log = std::fs::File::create(folder.path().join(format!("{program}.log"))).unwrap();
        let child = tokio::process::Command::new(program)
            .args(arguments)
            .current_dir(folder.path())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .kill_on_drop(true)
            .spawn();
        match child {
            Ok(child) => followers.push((program, SocketAddr::from(([127, 0, 0, 1], port)), child)),
            Err(error) => eprintln!("NOT CHECKED: `{program}` cannot be run: {error}"),
        }
    }
    let secret = format!("{{ file = \"{}/xfr.key\" }}", ours.path().display());
    for round in 0..=100 {
        if round > 0 {
            let (status, body) = ours.reload(&config(round).replace("{ env = \"XFR\" }", &secret)).await;
            assert_eq!(status, 200, "{body}");
        }
        for (program, at, _) in &followers {
            let what = format!("{program} has change {round}");
            eventually(&what, async || {
                let reply = try_answer(*at, "now.example.test.", RecordType::TXT);
                (reply? == [round.to_string()]).then_some(())
            })
            .await;
        }
    }
    for (program, at, _) in &followers {
        for name in ["r100-0", "r96-4", "host-3000", "shop", "www", "ns1"].map(|name| format!("{name}.example.test.")) {
            assert_eq!(
                answer(*at, &name, RecordType::A),
                answer(ours.addr("dns"), &name, RecordType::A),
                "{program} {name}"
            );
        }
        assert_eq!(ask(*at, "r1-0.example.test.", RecordType::A).metadata.response_code, ResponseCode::NXDomain);
        let soa = |server| answer(server, "example.test.", RecordType::SOA);
        assert_eq!(soa(*at), soa(ours.addr("dns")), "{program}");
        let log = std::fs::read_to_string(folder.path().join(format!("{program}.log"))).unwrap();
        // Each change by itself: a whole transfer has over 3000 records.
        let whole = log.lines().filter(|line| line.contains("3009 records") || line.contains("AXFR")).count();
        let steps = log.lines().filter(|line| line.contains("IXFR") || line.contains("transfer of")).count();
        assert!(steps > 50, "{program}: {steps} {whole}\n{log}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_at_the_apex_follows_addresses_that_are_found_elsewhere() {
    let target = |addresses: &str| {
        format!(
            "{LISTENER}[zone.lab]\nname = \"lab.test\"\nns = [\"ns.lab.test\"]\nsoa = {{ mname = \"ns.lab.test\", rname = \"a.b\" }}\n\
             records = [\"ns A 127.0.0.1\", {addresses}]\n"
        )
    };
    let mut elsewhere = Gateway::start(&target("\"www 1 A 192.0.2.50\"")).await;
    let config = format!(
        "{LISTENER}[zone.x]\nname = \"example.test\"\nns = [\"ns.other.test\"]\nsoa = {{ mname = \"ns.other.test\", rname = \"a.b\" }}\n\
         [discovery.lab]\ndns.servers = [\"{}\"]\n\
         [upstream.www]\ndiscover = {{ dns = \"www.lab.test:80\", family = \"ipv4\", through = \"lab\" }}\n\
         [public_service.apex]\nhost = \"example.test\"\nsites = {{ www = \"upstream:www\" }}\n",
        elsewhere.addr("dns")
    );
    let mut gateway = Gateway::start(&config).await;
    let at = gateway.addr("dns");
    let follows = async |expected: &[&str]| {
        eventually(&format!("{expected:?}"), async || {
            let mut found = answer(at, "example.test.", RecordType::A);
            found.sort();
            (found == expected).then_some(())
        })
        .await;
    };
    follows(&["192.0.2.50"]).await;
    elsewhere.reload(&target("\"www 1 A 192.0.2.51\", \"www 1 A 192.0.2.52\"")).await;
    follows(&["192.0.2.51", "192.0.2.52"]).await;
    // A reload begins with what was found, and does not wait to find it again.
    assert_eq!(gateway.reload(&config.replace("a.b", "c.d")).await.0, 200);
    follows(&["192.0.2.51", "192.0.2.52"]).await;
    assert_eq!(answer(at, "example.test.", RecordType::SOA).len(), 1);
}
