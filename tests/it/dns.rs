//! DNS in the whole program: served, reloaded under load, steered by health and by hand, signed, ended and handed over.

use crate::support::{
    authority::Authority,
    client,
    dns::{LISTENER, Load, answer, ask, framed, query, read_framed, receive, run, socket, try_ask, zone},
    eventually,
    gateway::{Gateway, run_in},
    have,
};
use hickory_proto::{
    op::{Message, ResponseCode},
    rr::RecordType,
};
use std::{
    net::{SocketAddr, TcpListener},
    path::Path,
    sync::atomic::Ordering::SeqCst,
    time::{Duration, Instant},
};
use tokio::io::AsyncWriteExt;

fn certificates(folder: &Path) -> Authority {
    let ca = Authority::new("ca");
    ca.leaf(&["localhost", "127.0.0.1"]).write(folder, "localhost");
    std::fs::write(folder.join("ca.crt"), &ca.certificate_pem).unwrap();
    ca
}

const CERTIFICATE: &str =
    "[certificate.own]\ncert = { file = \"localhost.crt\" }\nkey = { file = \"localhost.key\" }\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn zones_are_served_counted_logged_and_shown() {
    let log = "[telemetry]\nquery_log = { to = { file = \"queries.json\" } }\n";
    let gateway = Gateway::start(&format!("{}{log}", zone("192.0.2.1"))).await;
    let server = gateway.addr("dns");
    assert_eq!(answer(server, "www.example.test.", RecordType::A), ["192.0.2.1"]);
    assert_eq!(ask(server, "nope.example.test.", RecordType::A).metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(ask(server, "example.org.", RecordType::A).metadata.response_code, ResponseCode::Refused);
    assert_eq!(gateway.metric("portcullis_dns_answers_total", &["udp", "NOERROR"]).await, 1.0);
    assert_eq!(gateway.metric("portcullis_dns_zone_answers_total", &["zone=\"x\"", "NXDOMAIN"]).await, 1.0);
    let lines = eventually("three lines of the log", async || {
        let text = std::fs::read_to_string(gateway.path().join("queries.json")).unwrap_or_default();
        (text.lines().count() == 3).then_some(text)
    });
    let lines = lines.await;
    assert!(lines.contains("\"name\":\"www.example.test.\",\"type\":\"A\"") && lines.contains("\"time\":"), "{lines}");
    let (code, out) = gateway.command(&["gslb", "status", "--admin", "admin.sock"]).await;
    assert!(code == 0 && out.contains("zone example.test. serial "), "{out}");
    let (_, status) = gateway.admin("GET", "/status", "").await;
    assert_eq!(status["listeners"][0]["protocol"], "dns");
    if have("dig") {
        let port = server.port().to_string();
        for transport in ["+notcp", "+tcp"] {
            let out = run("dig", &["@127.0.0.1", "-p", &port, transport, "+short", "www.example.test"]);
            assert_eq!(out, "192.0.2.1\n", "{transport}");
        }
    }
}

/// As editors do: whoever watches the file never sees a part of it.
fn save(file: &Path, text: &str) {
    let beside = file.with_extension("new");
    std::fs::write(&beside, text).unwrap();
    std::fs::rename(beside, file).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_under_load_loses_no_query_and_a_broken_zone_file_changes_nothing() {
    let document =
        |records: &str| zone("192.0.2.1").replace("records = [", &format!("file = \"x.zone\"\nrecords = [{records}"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.zone");
    std::fs::write(&file, "first 60 A 192.0.2.7\n").unwrap();
    let mut gateway = Gateway::start_in(folder, &document("")).await;
    let server = gateway.addr("dns");
    let load = Load::start(server, 4);
    for round in 0..10 {
        save(&file, &format!("first 60 A 192.0.2.{round}\n$GENERATE 1-2000 host-$ A 10.0.0.1\n"));
        let (status, body) = gateway.reload(&document(&format!("\"r{round} 60 A 192.0.2.9\", "))).await;
        assert_eq!(status, 200, "{body}");
        assert_eq!(answer(server, "first.example.test.", RecordType::A), [format!("192.0.2.{round}")]);
        assert_eq!(answer(server, &format!("r{round}.example.test."), RecordType::A), ["192.0.2.9"]);
    }
    save(&file, "first 60 A 192.0.2.99\nsecond 60 A 192.0.2.1000\n third 60 XYZ 1\n");
    let (code, out) = gateway.command(&["check", "edge.toml"]).await;
    assert!(code == 1 && out.contains("x.zone:2:13: ") && out.contains("x.zone:3:"), "{out}");
    let (status, body) = gateway.admin("POST", "/reload", "").await;
    assert!(status == 422 && body["text"].as_str().unwrap().contains("x.zone:2:13: "), "{body}");
    assert_eq!(answer(server, "first.example.test.", RecordType::A), ["192.0.2.9"]);
    let (asked, lost) = load.end();
    assert_eq!(lost, 0, "of {asked}");
    assert!(asked > 500, "{asked}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_reload_of_a_hundred_thousand_records_under_load_loses_no_query() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.zone");
    let records = |last: u8| {
        format!(
            "$TTL 60\nfirst A 192.0.2.{last}\n$GENERATE 0-49999 a-$ A 10.0.0.{last}\n$GENERATE 0-49999 b-$ TXT \"$\"\n"
        )
    };
    std::fs::write(&file, records(1)).unwrap();
    let config = zone("192.0.2.1").replace("records = [", "file = \"x.zone\"\nrecords = [");
    let gateway = Gateway::start_in(folder, &config).await;
    let server = gateway.addr("dns");
    let load = Load::start(server, 8);
    for round in 2..4u8 {
        save(&file, &records(round));
        let (status, body) = gateway.admin("POST", "/reload", "").await;
        assert_eq!(status, 200, "{body}");
        let expected = [format!("10.0.0.{round}")];
        assert_eq!(answer(server, "a-49999.example.test.", RecordType::A), expected);
    }
    let (asked, lost) = load.end();
    assert_eq!(lost, 0, "of {asked}");
    assert!(asked > 1_000, "{asked}");
}

/// Not as editors do: truncated first, and written in parts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_zone_file_that_is_being_written_is_not_served_in_part() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.zone");
    let whole = |last: u8| format!("first 60 A 192.0.2.{last}\nsecond 60 A 192.0.2.{last}\n");
    std::fs::write(&file, whole(6)).unwrap();
    let config = zone("192.0.2.1").replace("records = [", "file = \"x.zone\"\nrecords = [");
    let gateway = Gateway::start_in(folder, &config).await;
    let server = gateway.addr("dns");
    // Only whoever watches the file already sees that its writing has begun.
    std::fs::write(&file, whole(7)).unwrap();
    eventually("the file is watched", async || {
        (answer(server, "second.example.test.", RecordType::A) == ["192.0.2.7"]).then_some(())
    })
    .await;
    let text = whole(8);
    let mut writer = std::fs::File::create(&file).unwrap();
    let begin = Instant::now();
    let mut halves = text.split_inclusive('\n');
    // Longer than the watcher waits for a burst of events to end.
    for until in [Duration::from_millis(1_500), Duration::from_secs(3)] {
        while begin.elapsed() < until {
            for name in ["first.example.test.", "second.example.test."] {
                assert_eq!(answer(server, name, RecordType::A), ["192.0.2.7"], "{name}");
            }
            tokio::task::yield_now().await;
        }
        std::io::Write::write_all(&mut writer, halves.next().unwrap().as_bytes()).unwrap();
    }
    drop(writer);
    eventually("the new records", async || {
        (answer(server, "second.example.test.", RecordType::A) == ["192.0.2.8"]).then_some(())
    })
    .await;
    assert_eq!(answer(server, "first.example.test.", RecordType::A), ["192.0.2.8"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_saved_zone_file_is_served_without_being_told() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.zone");
    std::fs::write(&file, "first 60 A 192.0.2.7\n").unwrap();
    let config = zone("192.0.2.1").replace("records = [", "file = \"x.zone\"\nrecords = [");
    let gateway = Gateway::start_in(folder, &config).await;
    let server = gateway.addr("dns");
    std::fs::write(&file, "first 60 A 192.0.2.8\n").unwrap();
    eventually("the new record", async || {
        (answer(server, "first.example.test.", RecordType::A) == ["192.0.2.8"]).then_some(())
    })
    .await;
}

fn service(port: u16) -> String {
    format!(
        "{}[public_service.shop]\nhost = \"shop.example.test\"\nport = {port}\nttl = \"20s\"\n\
         sites = {{ a = [\"127.0.0.1\"], b = [\"127.0.0.2\"] }}\n\
         health_check = {{ interval = \"2s\", timeout = \"1s\", unhealthy = 2, healthy = 1 }}\n",
        zone("192.0.2.1")
    )
}

/// Two listeners on one port of two addresses: the members of sites a and b.
fn members() -> (TcpListener, TcpListener, u16) {
    for _ in 0..50 {
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = first.local_addr().unwrap().port();
        if let Ok(second) = TcpListener::bind(("127.0.0.2", port)) {
            return (first, second, port);
        }
    }
    panic!("no port is free on both addresses");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_that_fails_is_replaced_within_six_seconds_at_an_interval_of_two() {
    let (first, _second, port) = members();
    let gateway = Gateway::start(&service(port)).await;
    let server = gateway.addr("dns");
    // The first answer waits for no check.
    assert_eq!(answer(server, "shop.example.test.", RecordType::A), ["127.0.0.1"]);
    eventually("both are seen to be up", async || {
        let (_, body) = gateway.admin("GET", "/gslb", "").await;
        body["members"].as_array().unwrap().iter().all(|member| member["state"] == "up").then_some(())
    })
    .await;
    let failed = Instant::now();
    drop(first);
    eventually("the other site is answered", async || {
        (answer(server, "shop.example.test.", RecordType::A) == ["127.0.0.2"]).then_some(())
    })
    .await;
    assert!(failed.elapsed() < Duration::from_secs(6), "{:?}", failed.elapsed());
    let (code, out) = gateway.command(&["gslb", "status", "--admin", "admin.sock"]).await;
    assert!(code == 0 && out.contains("127.0.0.1 down for") && out.contains("connection refused"), "{out}");
    assert_eq!(gateway.metric("portcullis_dns_member_up", &["site=\"b\"", "127.0.0.2"]).await, 1.0);
    let answers = gateway.metric("portcullis_dns_service_answers_total", &["service=\"shop\"", "NOERROR"]).await;
    assert!(answers >= 2.0, "{answers}");
    let _back = TcpListener::bind(("127.0.0.1", port)).unwrap();
    eventually("it comes back", async || {
        (answer(server, "shop.example.test.", RecordType::A) == ["127.0.0.1"]).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_of_the_gateways_own_upstreams_moves_answers() {
    let (first, _second, port) = members();
    let config = format!(
        "{}[upstream.one]\nendpoints = [\"127.0.0.1:{port}\"]\nhealth_check = {{ interval = \"200ms\", timeout = \"100ms\" }}\n\
         [upstream.two]\nendpoints = [\"127.0.0.2:{port}\"]\n\
         [public_service.shop]\nhost = \"shop.example.test\"\nsites = {{ a = \"upstream:one\", b = {{ upstream = \"two\" }} }}\n",
        zone("192.0.2.1")
    );
    let mut gateway = Gateway::start(&config).await;
    let server = gateway.addr("dns");
    let answered = async |expected: &str| {
        eventually(expected, async || {
            (answer(server, "shop.example.test.", RecordType::A) == [expected]).then_some(())
        })
        .await;
    };
    answered("127.0.0.1").await;
    drop(first);
    answered("127.0.0.2").await;
    let _back = TcpListener::bind(("127.0.0.1", port)).unwrap();
    answered("127.0.0.1").await;
    // An operator's word on an endpoint counts as well.
    let endpoint = format!("127.0.0.1:{port}");
    assert_eq!(gateway.command(&["force", "one", &endpoint, "down", "--admin", "admin.sock"]).await.0, 0);
    answered("127.0.0.2").await;
    let (status, body) = gateway.reload(&config.replace("upstream = \"two\"", "upstream = \"tow\"")).await;
    assert!(status == 422 && body.to_string().contains("`two`") || body.to_string().contains("two"), "{body}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_hold_over_reload_and_restart_and_end_when_taken_back() {
    let (_first, _second, port) = members();
    let mut gateway = Gateway::start(&service(port)).await;
    let shop = |gateway: &Gateway| answer(gateway.addr("dns"), "shop.example.test.", RecordType::A);
    assert_eq!(shop(&gateway), ["127.0.0.1"]);
    let cli = async |gateway: &Gateway, words: &str| {
        let arguments: Vec<_> = words.split(' ').chain(["--admin", "admin.sock", "--author", "ann"]).collect();
        gateway.command(&arguments).await
    };
    let (code, out) = cli(&gateway, "gslb site-off a --why flood --for 2h").await;
    assert!(code == 0 && out.contains("order: shop/a down") && out.contains("by ann: flood"), "{out}");
    assert_eq!(shop(&gateway), ["127.0.0.2"]);
    let audited = |gateway: &Gateway, words: &[&str]| {
        let log = gateway.log();
        assert!(log.lines().any(|line| words.iter().all(|word| line.contains(word))), "{words:?}\n{log}");
    };
    audited(&gateway, &["ordered by an operator", "site=a", "Down", "ann", "flood", "until="]);
    gateway.reload(&service(port).replace("192.0.2.1", "192.0.2.2")).await;
    assert_eq!(shop(&gateway), ["127.0.0.2"]);
    let mut gateway = gateway.restart().await;
    assert_eq!(shop(&gateway), ["127.0.0.2"]);
    let (_, body) = gateway.admin("GET", "/gslb", "").await;
    let order = &body["orders"][0];
    assert_eq!((order["author"].as_str(), order["reason"].as_str()), (Some("ann"), Some("flood")));
    assert_eq!(order["until"].as_u64().unwrap() - order["from"].as_u64().unwrap(), 7_200);
    let (code, out) = cli(&gateway, "gslb site-off a --undo").await;
    assert!(code == 0 && out.contains("shop/a: as its health says"), "{out}");
    audited(&gateway, &["order taken back", "site=a", "ann"]);
    assert_eq!(shop(&gateway), ["127.0.0.1"]);
    for (words, expected, answered) in [
        ("gslb drain shop a 127.0.0.1 --why patch", "shop/a/127.0.0.1 drain", "127.0.0.2"),
        ("gslb drain shop a 127.0.0.1 --undo", "as its health says", "127.0.0.1"),
        ("gslb disable shop a --why patch", "shop/a down", "127.0.0.2"),
        ("gslb force up shop a --why sure", "shop/a up", "127.0.0.1"),
        ("gslb force down shop a --why sure --after 1h", "shop/a down", "127.0.0.1"),
    ] {
        let (code, out) = cli(&gateway, words).await;
        assert!(code == 0 && out.contains(expected), "{words}: {out}");
        assert_eq!(shop(&gateway), [answered], "{words}");
    }
    for (words, expected) in [
        ("gslb drain shop c --why x", "has no site \"c\""),
        ("gslb site-off c --why x", "no service has a site \"c\""),
        ("gslb drain none a --why x", "service \"none\" is not defined"),
        ("gslb drain shop b --undo", "no such order"),
        ("gslb drain shop a --why x --for 400d", "at most 90 days"),
    ] {
        let (code, out) = cli(&gateway, words).await;
        assert!(code != 0 && out.contains(expected), "{words}: {out}");
    }
    // What cannot be read is neither written over nor forgotten.
    let file = gateway.path().join("gslb.json");
    std::fs::write(&file, "{").unwrap();
    gateway = gateway.restart().await;
    assert_eq!(cli(&gateway, "gslb drain shop a --why x").await.0, 0);
    assert_eq!(shop(&gateway), ["127.0.0.2"]);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "{");
    assert!(gateway.log().contains("orders of operators cannot be read"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rfc7766_6_2_1_1_pipelined_queries_on_one_stream_are_all_answered() {
    let gateway = Gateway::start(&zone("192.0.2.1")).await;
    let mut stream = tokio::net::TcpStream::connect(gateway.addr("dns")).await.unwrap();
    let all: Vec<u8> = (0..200).flat_map(|id| framed(id, "www.example.test.", RecordType::A)).collect();
    stream.write_all(&all).await.unwrap();
    for id in 0..200 {
        let reply = read_framed(&mut stream).await;
        assert_eq!((reply.metadata.id, reply.answers.len()), (id, 1));
    }
    // What is too large for UDP is whole over TCP.
    assert!(ask(gateway.addr("dns"), "big.example.test.", RecordType::A).metadata.truncation);
    stream.write_all(&framed(9, "big.example.test.", RecordType::A)).await.unwrap();
    assert_eq!(read_framed(&mut stream).await.answers.len(), 60);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dns_over_tls_is_spoken_and_follows_a_new_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let first = certificates(folder.path());
    let config = format!(
        "{}[listener.dot]\naddress = \"127.0.0.1:0\"\nprotocol = \"dns\"\ncertificates = [\"own\"]\n{CERTIFICATE}",
        zone("192.0.2.1")
    );
    let mut gateway = Gateway::start_in(folder, &config).await;
    let at = gateway.addr("dot");
    let asked = async |ca: &Authority, alpn: &[&str]| {
        let mut stream = client::tls(at, "localhost", client::tls_config(&ca.certificate_pem, alpn)).await.ok()?;
        stream.write_all(&framed(3, "www.example.test.", RecordType::A)).await.ok()?;
        Some(read_framed(&mut stream).await.answers.len())
    };
    assert_eq!(asked(&first, &["dot"]).await, Some(1));
    assert_eq!(asked(&first, &[]).await, Some(1));
    if have("kdig") {
        let port = at.port().to_string();
        let ca = gateway.path().join("ca.crt");
        let tls = format!("+tls-ca={}", ca.display());
        let out =
            run("kdig", &["@127.0.0.1", "-p", &port, &tls, "+tls-hostname=localhost", "+short", "www.example.test"]);
        assert_eq!(out, "192.0.2.1\n");
        // RFC 9250: the same port by UDP, the same certificate.
        let quic = ["@127.0.0.1", "-p", &port, &tls, "+tls-hostname=localhost", "+quic", "+short", "www.example.test"];
        let out = run("kdig", &quic);
        match out.contains("not supported") || out.contains("invalid option") {
            true => eprintln!("NOT CHECKED: this `kdig` has no QUIC"),
            false => assert_eq!(out, "192.0.2.1\n"),
        }
    }
    let second = certificates(gateway.path());
    let (status, body) = gateway.admin("POST", "/reload", "").await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(gateway.addr("dot"), at);
    assert_eq!((asked(&second, &["dot"]).await, asked(&first, &["dot"]).await), (Some(1), None));
    // Nothing in the clear on that port: its UDP is QUIC's.
    let clear = socket(at);
    clear.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(try_ask(&clear, 5, "www.example.test.", RecordType::A).is_none());
    gateway.refresh_listeners().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_answers_what_was_asked_and_ends() {
    let mut gateway = Gateway::start(&zone("192.0.2.1")).await;
    let server = gateway.addr("dns");
    let udp = socket(server);
    assert!(try_ask(&udp, 1, "www.example.test.", RecordType::A).is_some());
    let mut stream = tokio::net::TcpStream::connect(server).await.unwrap();
    let all: Vec<u8> = (0..100).flat_map(|id| framed(id, "www.example.test.", RecordType::A)).collect();
    stream.write_all(&all).await.unwrap();
    (0..100).for_each(|id| _ = udp.send(&query(id, "www.example.test.", RecordType::A)).unwrap());
    gateway.signal("-TERM");
    let mut reply = [0; 512];
    (0..100).for_each(|_| _ = receive(&udp, &mut reply).expect("each query has its reply"));
    for id in 0..100 {
        assert_eq!(read_framed(&mut stream).await.metadata.id, id);
    }
    assert!(gateway.ended(Duration::from_secs(10)).await.success());
    assert!(tokio::net::TcpStream::connect(server).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_takes_over_under_load_and_no_query_is_lost() {
    let mut gateway = Gateway::start(&zone("192.0.2.1")).await;
    let before = gateway.pid();
    let load = Load::start(gateway.addr("dns"), 4);
    assert_eq!(gateway.command(&["upgrade", "--admin", "admin.sock"]).await.0, 0);
    let successor = eventually("a new process answers", async || {
        let (_, body) = gateway.try_admin("GET", "/status", "").await?;
        body["pid"].as_u64().filter(|pid| *pid != u64::from(before))
    })
    .await;
    assert!(gateway.ended(Duration::from_secs(20)).await.success());
    let asked = load.asked.load(SeqCst);
    eventually("the successor answers", async || (load.asked.load(SeqCst) > asked + 200).then_some(())).await;
    let (asked, lost) = load.end();
    std::process::Command::new("kill").args(["-TERM", &successor.to_string()]).status().unwrap();
    assert_eq!(lost, 0, "of {asked}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn explain_delegate_and_replay_answer_on_the_command_line() {
    let config = format!(
        "{}[dns.geo.nets]\neurope = [\"10.1.0.0/16\"]\n[public_service.shop]\nhost = \"shop.example.test\"\npolicy = [\"geo\", \"weighted\"]\n\
         [public_service.shop.sites.eu]\nmembers = [\"192.0.2.11\"]\nareas = [\"nets:europe\"]\n\
         [public_service.shop.sites.us]\nmembers = [\"192.0.2.12\"]\nareas = [\"*\"]\n",
        zone("192.0.2.1")
    );
    let gateway = Gateway::start(&config).await;
    let cli = async |words: &str| {
        let arguments: Vec<_> = words.split(' ').chain(["--admin", "admin.sock"]).collect();
        gateway.command(&arguments).await
    };
    for (words, expected) in [
        ("--from 10.1.2.3", "site eu: 192.0.2.11, ttl 30, for /16 of the client"),
        ("--from 10.2.2.3", "site us: 192.0.2.12, ttl 30"),
        ("--from 10.2.2.3 --subnet 10.1.9.0/24", "site eu: 192.0.2.11"),
        ("--from 10.1.2.3 --down shop/eu", "fit sites: us"),
        ("--from 10.1.2.3 --config edge.toml", "site eu: 192.0.2.11"),
    ] {
        let (code, out) = cli(&format!("gslb explain shop.example.test {words}")).await;
        assert!(code == 0 && out.contains(expected), "{words}: {out}");
    }
    let (code, out) = cli("gslb explain www.example.test --from 10.1.2.3").await;
    assert!(code == 1 && out.contains("no published service answers"), "{out}");

    let server = gateway.addr("dns");
    let (code, out) = cli(&format!("gslb delegate example.test --parent {server}")).await;
    assert!(
        code == 0 && out.contains("example.test. 300 IN NS ns1.example.test.") && out.contains("has the same"),
        "{out}"
    );
    let parent = format!(
        "{LISTENER}[zone.parent]\nname = \"test\"\nns = [\"ns.test\"]\nsoa = {{ mname = \"ns.test\", rname = \"noc.test\" }}\n\
         records = [\"ns A 127.0.0.1\", \"example NS ns1.example\", \"example NS ns2.other.test.\", \"ns1.example A 192.0.2.66\"]\n"
    );
    let above = Gateway::start(&parent).await;
    let (code, out) = cli(&format!("gslb delegate example.test --parent {}", above.addr("dns"))).await;
    assert_eq!(code, 1, "{out}");
    for line in [
        "the parent lacks: ns1.example.test. A 127.0.0.1",
        "should not: ns1.example.test. A 192.0.2.66",
        "should not: example.test. NS ns2.other.test.",
    ] {
        assert!(out.contains(line), "{line}\n{out}");
    }

    let line =
        |client: &str, name: &str| format!("{{\"client\":\"{client}:5353\",\"name\":\"{name}\",\"type\":\"A\"}}\n");
    let log: String = (0..100).map(|n| line(&format!("10.1.{n}.1"), "shop.example.test.")).collect();
    let log = format!("{log}{}cut", line("10.1.1.1", "www.example.test."));
    std::fs::write(gateway.path().join("queries.json"), log).unwrap();
    gateway.write_as("candidate.toml", &config.replace("areas = [\"nets:europe\"]", "areas = [\"net:10.1.0.0/18\"]"));
    let (code, out) = cli("gslb replay queries.json --config candidate.toml").await;
    assert_eq!(code, 0, "{out}");
    assert!(out.contains("service shop site eu: 100 queries (100.0%) -> 64 (64.0%), -36.0 points"), "{out}");
    assert!(out.contains("service shop site us: 0 queries (0.0%) -> 36 (36.0%), +36.0 points"), "{out}");
    assert!(out.contains("101 queries, 36 go elsewhere (35.6%), 1 are for other names"), "{out}");
    // The candidate was asked, not served.
    assert_eq!(gateway.admin("GET", "/status", "").await.1["generation"], 1);
}

#[tokio::test]
async fn mistakes_about_dns_are_told_where_they_stand() {
    let folder = tempfile::tempdir().unwrap();
    let zone =
        "[zone.x]\nname = \"example.test\"\nns = [\"ns.other.test\"]\nsoa = { mname = \"a.b\", rname = \"c.d\" }\n";
    let listener = "[listener.dns]\naddress = \"127.0.0.1:5300\"\nprotocol = \"dns\"\n";
    let http = "[listener.http]\naddress = \"127.0.0.1:8080\"\n";
    for (config, expected) in [
        (format!("{http}{zone}"), "no listener serves `zone`"),
        (format!("{http}[dns]\nnsid = \"a\"\n"), "no listener serves `dns`"),
        (
            format!("{http}[telemetry]\nquery_log = {{}}\n"),
            "`query_log` has no effect without a listener of protocol dns",
        ),
        (format!("{listener}{zone}"), ""),
        (listener.to_owned(), "there is no zone: every query is answered REFUSED"),
        (
            format!("{listener}tls = {{ min_version = \"1.3\" }}\n{zone}"),
            "`tls` has no effect on a dns listener without",
        ),
        (
            format!("{listener}limits = {{ header = \"8KiB\" }}\n{zone}"),
            "`limits` has no effect on a listener of protocol dns",
        ),
        (
            format!("{listener}http_redirect = true\n{zone}"),
            "`http_redirect` has no effect on a listener of protocol dns",
        ),
        (format!("{listener}certificates = [\"none\"]\n{zone}"), "none"),
        (listener.replace("127.0.0.1:5300", "unix:x.sock") + zone, "DNS is not served on a unix socket"),
        (format!("{listener}{zone}[listener.b]\naddress = \"127.0.0.1:5300\"\n"), "cannot both have this address"),
        (
            format!(
                "{listener}{zone}[public_service.s]\nhost = \"s.example.test\"\nsites = {{ a = \"upstream:none\" }}\n"
            ),
            "upstream",
        ),
        (
            format!(
                "{listener}{zone}[public_service.s]\nhost = \"s.example.org\"\nsites = {{ a = [\"192.0.2.1\"] }}\n"
            ),
            "no zone holds s.example.org.",
        ),
    ] {
        std::fs::write(folder.path().join("a.toml"), &config).unwrap();
        let (_, out) = run_in(folder.path(), &["check", "a.toml"]).await;
        assert!(out.contains(expected), "{config}\n{out}");
        if expected.is_empty() {
            assert_eq!(out, "no mistakes found\n", "{config}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_demo_answers_by_the_health_of_its_origins_and_fails_over() {
    let folder = tempfile::tempdir().unwrap();
    let out = std::fs::File::create(folder.path().join("out.txt")).unwrap();
    let mut demo = tokio::process::Command::new(crate::support::gateway::binary())
        .args(["demo", "--folder", "demo", "--port", "0", "--dns-port", "0"])
        .current_dir(folder.path())
        .stdout(out.try_clone().unwrap())
        .stderr(out)
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let invitation = eventually("the invitation", async || {
        let text = std::fs::read_to_string(folder.path().join("out.txt")).unwrap();
        text.contains("Ctrl-C ends the demo").then_some(text)
    })
    .await;
    let behind = |mark: &str| {
        let rest = invitation.split_once(mark).unwrap_or_else(|| panic!("{mark}: {invitation}")).1;
        rest.split_whitespace().next().unwrap().to_owned()
    };
    let server: SocketAddr = format!("127.0.0.1:{}", behind("dig @127.0.0.1 -p ")).parse().unwrap();
    assert_eq!(answer(server, "shop.demo.test.", RecordType::A), ["127.0.0.1"]);
    let blue: SocketAddr = behind("POST http://").trim_end_matches("/stop").parse().unwrap();
    let mut stop = tokio::net::TcpStream::connect(blue).await.unwrap();
    stop.write_all(b"POST /stop HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await.unwrap();
    eventually("green is answered", async || {
        (answer(server, "shop.demo.test.", RecordType::A) == ["127.0.0.2"]).then_some(())
    })
    .await;
    demo.kill().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rfc8484_dns_over_https_is_answered_by_get_and_post_over_h2_and_http1() {
    let folder = tempfile::tempdir().unwrap();
    let ca = certificates(folder.path());
    let config = format!(
        "{}[listener.doh]\naddress = \"127.0.0.1:0\"\nprotocol = \"dns\"\ncertificates = [\"own\"]\n{CERTIFICATE}",
        zone("192.0.2.1")
    );
    let mut gateway = Gateway::start_in(folder, &config).await;
    let at = gateway.addr("doh");
    let octets = query(0, "www.example.test.", RecordType::A);
    let mut http1 =
        client::Client::tls(at, "localhost", client::tls_config(&ca.certificate_pem, &["http/1.1"])).await.unwrap();
    let encoded = data_encoding::BASE64URL_NOPAD.encode(&octets);
    let get = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n").into_bytes();
    let post = |kind: &str, body: &[u8]| {
        let head = format!(
            "POST /dns-query HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        [head.as_bytes(), body].concat()
    };
    let message = "application/dns-message";
    for (request, status) in [
        (get(&format!("/dns-query?dns={encoded}")), 200),
        (get(&format!("/dns-query?ct=x&dns={encoded}")), 200),
        (post(message, &octets), 200),
        (get("/dns-query"), 400),
        (get("/dns-query?dns=%%%"), 400),
        (get("/dns-query?dns=AAAA"), 400),
        (get("/"), 404),
        (post("text/plain", &octets), 415),
        (post(message, &[0; 4]), 400),
        (b"DELETE /dns-query HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(), 405),
    ] {
        http1.send(&request).await;
        let response = http1.response().await;
        assert_eq!(response.status, status, "{}", String::from_utf8_lossy(&request));
        if status == 200 {
            let reply = Message::from_vec(&response.body).unwrap();
            assert_eq!(reply.answers[0].data.to_string(), "192.0.2.1");
            assert_eq!(
                (response.header("content-type"), response.header("cache-control")),
                (Some(message), Some("max-age=60"))
            );
        }
    }
    let nothing = data_encoding::BASE64URL_NOPAD.encode(&query(0, "nope.example.test.", RecordType::A));
    http1.send(get(&format!("/dns-query?dns={nothing}"))).await;
    let response = http1.response().await;
    assert_eq!(Message::from_vec(&response.body).unwrap().metadata.response_code, ResponseCode::NXDomain);
    assert_eq!((response.status, response.header("cache-control")), (200, Some("max-age=60")));

    let stream = client::tls(at, "localhost", client::tls_config(&ca.certificate_pem, &["h2"])).await.unwrap();
    let mut h2 = client::h2(stream).await;
    for _ in 0..50 {
        let uri = format!("https://localhost/dns-query?dns={encoded}");
        let request = http::Request::get(uri).body(()).unwrap();
        let (response, _) = h2.send_request(request, true).unwrap();
        let mut response = response.await.unwrap();
        let body = response.body_mut().data().await.unwrap().unwrap();
        assert_eq!(Message::from_vec(&body).unwrap().answers.len(), 1);
        h2 = h2.ready().await.unwrap();
    }
    assert_eq!(gateway.metric("portcullis_dns_answers_total", &["https", "NOERROR"]).await, 53.0);
    if have("kdig") {
        let port = at.port().to_string();
        let out = run("kdig", &["@127.0.0.1", "-p", &port, "+https=/dns-query", "+short", "www.example.test"]);
        assert_eq!(out, "192.0.2.1\n");
    }
    // Idle connections of both kinds end with the process, and do not hold it up.
    gateway.signal("-TERM");
    assert!(gateway.ended(Duration::from_secs(10)).await.success());
}
