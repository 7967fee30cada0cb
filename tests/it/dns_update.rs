//! Zones that clients change (RFC 2136): who may, what is taken for granted, what is kept, and who is told.

use crate::support::{
    dns::{LISTENER, Load, answer, ask, run},
    eventually,
    gateway::Gateway,
    have,
};
use hickory_proto::{op::ResponseCode, rr::RecordType};
use std::{
    io::Write,
    net::SocketAddr,
    process::{Command, Stdio},
};

const SECRET: &str = "c2VjcmV0LW9mLTMyLW9jdGV0cy1pbi1iYXNlLTY0ISE=";

fn keys(folder: &str) -> String {
    format!(
        "[dns.tsig.ddns]\nsecret = {{ file = \"{folder}/ddns.key\" }}\n[dns.tsig.other]\nsecret = {{ file = \"{folder}/ddns.key\" }}\n"
    )
}

fn zone(more: &str) -> String {
    format!(
        "[zone.x]\nname = \"example.test\"\nns = [\"ns1.example.test\"]\n\
         soa = {{ mname = \"ns1.example.test\", rname = \"noc.example.test\" }}\n\
         records = [\"ns1 60 A 127.0.0.1\", \"www 60 A 192.0.2.1\", \"old 60 A 192.0.2.2\"]\n{more}\n\
         [public_service.shop]\nhost = \"shop.example.test\"\nsites = {{ a = [\"192.0.2.11\"] }}\n"
    )
}

async fn start(more: &str) -> Gateway {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("ddns.key"), SECRET).unwrap();
    let here = folder.path().display().to_string();
    let config = format!("{LISTENER}{}{}", keys(&here), zone(more));
    Gateway::start_in(folder, &config).await
}

/// What nsupdate says to these lines; nothing when all went well.
fn nsupdate(server: SocketAddr, key: &str, arguments: &[&str], lines: &str) -> String {
    let key = if key.is_empty() { String::new() } else { format!("key hmac-sha256:{key} {SECRET}\n") };
    let text = format!("server 127.0.0.1 {}\nzone example.test\n{key}{lines}\nsend\n", server.port());
    let mut child = Command::new("nsupdate")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

fn serial(server: SocketAddr) -> u32 {
    answer(server, "example.test.", RecordType::SOA)[0].split(' ').nth(2).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rfc2136_3_3_updates_are_refused_to_strangers_and_where_nobody_may_change_anything() {
    if !have("nsupdate") {
        return;
    }
    let closed = start("").await;
    let change = "update add new.example.test 60 A 192.0.2.7";
    for key in ["", "ddns"] {
        let out = nsupdate(closed.addr("dns"), key, &[], change);
        assert!(out.contains("REFUSED"), "{key}: {out}");
    }
    let open = start("update = { keys = [\"ddns\"] }").await;
    let elsewhere = start("update = { keys = [\"ddns\"], from = [\"192.0.2.0/24\"] }").await;
    for (server, key, arguments, expected) in [
        (&open, "", &[][..], "REFUSED"),
        (&open, "other", &[], "REFUSED"),
        (&open, "nobody", &[], "NOTAUTH"),
        (&open, "ddns", &["-v"], ""),
        (&elsewhere, "ddns", &[], "REFUSED"),
    ] {
        let out = nsupdate(server.addr("dns"), key, arguments, change);
        assert!(if expected.is_empty() { out.is_empty() } else { out.contains(expected) }, "{key}: {out}");
    }
    assert_eq!(answer(open.addr("dns"), "new.example.test.", RecordType::A), ["192.0.2.7"]);
    assert_eq!(
        ask(elsewhere.addr("dns"), "new.example.test.", RecordType::A).metadata.response_code,
        ResponseCode::NXDomain
    );
    let (code, out) = {
        let config = format!("{LISTENER}{}{}", keys("."), zone("update = { keys = [\"none\"] }"));
        open.write_as("wrong.toml", &config);
        open.command(&["check", "wrong.toml"]).await
    };
    assert!(code != 0 && out.contains("tsig \"none\" is not defined"), "{out}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rfc2136_2_4_and_2_5_conditions_and_changes_are_those_of_the_standard() {
    if !have("nsupdate") {
        return;
    }
    let gateway = start("update = { keys = [\"ddns\"] }").await;
    let at = gateway.addr("dns");
    let name = |owner: &str| format!("{owner}.example.test.");
    for (lines, expected) in [
        ("prereq nxdomain www.example.test\nupdate add a.example.test 60 A 192.0.2.7", "YXDOMAIN"),
        ("prereq yxdomain none.example.test\nupdate add a.example.test 60 A 192.0.2.7", "NXDOMAIN"),
        ("prereq nxrrset www.example.test A\nupdate add a.example.test 60 A 192.0.2.7", "YXRRSET"),
        ("prereq yxrrset www.example.test AAAA\nupdate add a.example.test 60 A 192.0.2.7", "NXRRSET"),
        ("prereq yxrrset www.example.test A 192.0.2.9\nupdate add a.example.test 60 A 192.0.2.7", "NXRRSET"),
        ("update add a.example.org 60 A 192.0.2.7", "NOTZONE"),
        ("update add shop.example.test 60 A 192.0.2.7", "REFUSED"),
        ("update add b.example.test 60 NS ns.b.example.test", "REFUSED"),
    ] {
        let out = nsupdate(at, "ddns", &[], lines);
        assert!(out.contains(expected), "{lines}: {out}");
    }
    assert_eq!(ask(at, &name("a"), RecordType::A).metadata.response_code, ResponseCode::NXDomain);
    let before = serial(at);
    for (lines, owner, of_type, expected) in [
        (
            "prereq yxrrset www.example.test A 192.0.2.1\nupdate add www.example.test 90 A 192.0.2.8",
            "www",
            RecordType::A,
            &["192.0.2.1", "192.0.2.8"][..],
        ),
        ("update delete www.example.test A 192.0.2.1", "www", RecordType::A, &["192.0.2.8"]),
        ("update delete www.example.test A", "www", RecordType::A, &[]),
        (
            "update add m.example.test 60 MX 5 ns1.example.test\nupdate add m.example.test 60 TXT \"a b\"",
            "m",
            RecordType::MX,
            &["5 ns1.example.test."],
        ),
        ("update delete m.example.test", "m", RecordType::TXT, &[]),
        ("update add c.example.test 60 CNAME old.example.test", "c", RecordType::CNAME, &["old.example.test."]),
        // RFC 2136 §3.4.2.2: nothing beside an alias, and an alias beside nothing.
        ("update add c.example.test 60 A 192.0.2.9", "c", RecordType::CNAME, &["old.example.test."]),
        ("update add old.example.test 60 CNAME c.example.test", "old", RecordType::A, &["192.0.2.2"]),
        ("update add c.example.test 60 CNAME ns1.example.test", "c", RecordType::CNAME, &["ns1.example.test."]),
    ] {
        let out = nsupdate(at, "ddns", &[], lines);
        assert_eq!(out, "", "{lines}");
        assert_eq!(answer(at, &name(owner), of_type), expected, "{lines}");
    }
    // RFC 2136 §3.4.2.3 and §3.4.2.4: a zone keeps its SOA and its last name server.
    for lines in [
        "update delete example.test NS",
        "update delete example.test NS ns1.example.test",
        "update delete example.test",
    ] {
        assert_eq!(nsupdate(at, "ddns", &[], lines), "", "{lines}");
        assert_eq!(answer(at, "example.test.", RecordType::NS), ["ns1.example.test."]);
        assert_eq!(answer(at, "example.test.", RecordType::SOA).len(), 1);
    }
    assert!(serial(at).wrapping_sub(before) as i32 >= 7, "each change counts: {before} {}", serial(at));
    let (_, status) = gateway.admin("GET", "/status", "").await;
    assert_eq!(status["generation"], 1, "an update is no change of the configuration");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn updates_outlive_reloads_and_restarts_beside_what_the_operator_writes() {
    if !have("nsupdate") {
        return;
    }
    let mut gateway = start("update = { keys = [\"ddns\"] }").await;
    let at = gateway.addr("dns");
    let out = nsupdate(at, "ddns", &[], "update add new.example.test 60 A 192.0.2.7\nupdate delete old.example.test A");
    assert_eq!(out, "");
    let before = serial(at);
    let here = gateway.path().display().to_string();
    let config = format!("{LISTENER}{}{}", keys(&here), zone("update = { keys = [\"ddns\"] }"));
    let config = config.replace("records = [", "records = [\"more 60 A 192.0.2.9\", ");
    assert_eq!(gateway.reload(&config).await.0, 200);
    let all =
        |at| ["new", "old", "more", "www"].map(|name| answer(at, &format!("{name}.example.test."), RecordType::A));
    let expected = [vec!["192.0.2.7"], vec![], vec!["192.0.2.9"], vec!["192.0.2.1"]];
    assert_eq!(all(at), expected);
    let gateway = gateway.restart().await;
    assert_eq!(all(gateway.addr("dns")), expected);
    assert!(serial(gateway.addr("dns")).wrapping_sub(before) as i32 >= 0, "a serial never goes back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secondaries_follow_updates_by_notify_and_ixfr_while_queries_are_answered() {
    if !have("nsupdate") {
        return;
    }
    // Nobody can be told before both are there: the secondary asks first.
    let port = loop {
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = tcp.local_addr().unwrap().port();
        if std::net::UdpSocket::bind(("127.0.0.1", port)).is_ok() {
            break port;
        }
    };
    let transfer = format!(
        "update = {{ keys = [\"ddns\"] }}\ntransfer = {{ to = [\"127.0.0.0/8\"], notify = [\"127.0.0.1:{port}\"] }}"
    );
    let first = start(&transfer).await;
    let at = first.addr("dns");
    let second = Gateway::start(&format!(
        "{}[zone.x]\nname = \"example.test\"\nsecondary = {{ of = [\"{at}\"] }}\n",
        LISTENER.replace("127.0.0.1:0", &format!("127.0.0.1:{port}"))
    ))
    .await;
    let load = Load::start(at, 2);
    for round in 1..=10 {
        let arguments: &[&str] = if round % 2 == 0 { &["-v"] } else { &[] };
        let lines = format!("update delete n.example.test TXT\nupdate add n.example.test 60 TXT {round}");
        assert_eq!(nsupdate(at, "ddns", arguments, &lines), "");
        eventually(&format!("change {round}"), async || {
            (answer(second.addr("dns"), "n.example.test.", RecordType::TXT) == [round.to_string()]).then_some(())
        })
        .await;
    }
    assert_eq!(load.end().1, 0, "no query is lost while zones change");
    assert!(second.log().matches("kind=Changes").count() >= 5, "{}", second.log());
    if have("dig") {
        let axfr = |server: SocketAddr| {
            let out = run(
                "dig",
                &["@127.0.0.1", "-p", &server.port().to_string(), "example.test", "AXFR", "+noall", "+answer"],
            );
            let mut lines: Vec<_> = out.lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        assert!(axfr(at).len() > 5);
    }
}
