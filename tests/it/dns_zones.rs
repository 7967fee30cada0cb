//! Zones that move between servers: fetched from a primary, told of by NOTIFY, kept over restarts, given up when they expire.

use crate::support::{
    dns::{LISTENER, answer, ask},
    eventually,
    gateway::Gateway,
    have,
};
use hickory_proto::{op::ResponseCode, rr::RecordType};
use std::{
    net::{SocketAddr, UdpSocket},
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
    drop(first);
    let second = second.restart().await;
    assert_eq!(answer(second.addr("dns"), "www.example.test.", RecordType::A), ["192.0.2.5"]);
    assert_eq!(answer(second.addr("dns"), "mail.example.test.", RecordType::MX), ["10 ns1.example.test."]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rfc1034_4_3_5_a_zone_that_expired_or_never_came_is_answered_servfail() {
    let first = start(&primary("192.0.2.1", "refresh = \"1s\", retry = \"1s\", expire = \"3s\"", None)).await;
    let second = start(&secondary(first.addr("dns"), ", key = \"xfr\"")).await;
    let unsigned = start(&secondary(first.addr("dns"), "")).await;
    let at = second.addr("dns");
    answers(at, "www.example.test.", RecordType::A, "192.0.2.1").await;
    eventually("the refusal is told", async || unsigned.log().contains("zone cannot be fetched").then_some(())).await;
    assert_eq!(
        ask(unsigned.addr("dns"), "www.example.test.", RecordType::A).metadata.response_code,
        ResponseCode::ServFail
    );
    // As long as the primary confirms it, it holds.
    tokio::time::sleep(std::time::Duration::from_secs(4)).await;
    assert_eq!(answer(at, "www.example.test.", RecordType::A), ["192.0.2.1"]);
    drop(first);
    eventually("it expires", async || {
        (ask(at, "www.example.test.", RecordType::A).metadata.response_code == ResponseCode::ServFail).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_zone_of_named_is_fetched_with_tsig_and_followed() {
    if !have("named") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let free = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
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
         session-keyfile \"session.key\"; recursion no; notify explicit; dnssec-validation no; }};\ncontrols {{ }};\n\
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
}
