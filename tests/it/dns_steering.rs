//! Every key of steering and of checks, asked for with dig of the whole program.

use crate::mmdb::{Value, country, database};
use crate::support::{
    dns::{LISTENER, answer, ask, run, zone},
    eventually,
    gateway::Gateway,
    have,
};
use bytes::Bytes;
use hickory_proto::{op::ResponseCode, rr::RecordType};
use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpListener, UdpSocket},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

/// Addresses of a name, as a client in `subnet` is given them.
fn dig(server: SocketAddr, name: &str, of_type: &str, subnet: &str) -> String {
    let (port, name, subnet) = (server.port().to_string(), format!("{name}.example.test"), format!("+subnet={subnet}"));
    let mut arguments = vec!["@127.0.0.1", "-p", &port, "+short", "+time=5", &name, of_type];
    if subnet != "+subnet=" {
        arguments.push(&subnet);
    }
    run("dig", &arguments).trim().replace('\n', " ")
}

fn databases(folder: &Path) {
    let deep = Value::Map(vec![
        ("continent", Value::Map(vec![("code", Value::Text("NA"))])),
        ("country", Value::Map(vec![("iso_code", Value::Text("US"))])),
        ("subdivisions", Value::List(vec![Value::Map(vec![("iso_code", Value::Text("CA"))])])),
    ]);
    let countries = database(vec![
        ("203.0.113.0/24", country("DE")),
        ("198.51.100.0/24", country("US")),
        ("192.0.2.0/24", deep),
        ("2001:db8::/32", country("FR")),
    ]);
    let asns = database(vec![("100.64.0.0/16", Value::Map(vec![("autonomous_system_number", Value::Number(64_500))]))]);
    std::fs::write(folder.join("country.mmdb"), countries).unwrap();
    std::fs::write(folder.join("asn.mmdb"), asns).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn place_latency_weight_and_turn_choose_the_site() {
    if !have("dig") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    databases(folder.path());
    let config = format!(
        "{}[dns.geo]\ndatabases = [{{ file = \"country.mmdb\" }}, {{ file = \"asn.mmdb\" }}]\nnets = {{ office = [\"10.0.0.0/8\"] }}\n\
         [public_service.place]\nhost = \"place.example.test\"\npolicy = \"geo\"\n\
         [public_service.place.sites]\n\
         de = {{ members = [\"192.0.2.1\"], areas = [\"country:DE\"] }}\n\
         eu = {{ members = [\"192.0.2.2\", \"2001:db8::2\"], areas = [\"continent:EU\"] }}\n\
         ca = {{ members = [\"192.0.2.3\"], areas = [\"subdivision:US-CA\"] }}\n\
         us = {{ members = [\"192.0.2.4\"], areas = [\"country:US\"] }}\n\
         isp = {{ members = [\"192.0.2.5\"], areas = [\"asn:64500\"] }}\n\
         office = {{ members = [\"192.0.2.6\"], areas = [\"nets:office\", \"net:172.16.0.0/12\"] }}\n\
         rest = {{ members = [\"192.0.2.7\"], areas = [\"*\"] }}\n\
         [public_service.near]\nhost = \"near.example.test\"\npolicy = [\"latency\", \"failover\"]\nlatency_tolerance = \"5ms\"\nfallback = [\"b\", \"a\"]\n\
         latency = {{ \"country:DE\" = {{ a = \"10ms\", b = \"14ms\", c = \"100ms\" }}, \"country:US\" = {{ a = \"90ms\", c = \"9ms\" }} }}\n\
         sites = {{ a = [\"192.0.2.1\"], b = [\"192.0.2.2\"], c = [\"192.0.2.3\"] }}\n\
         [public_service.spread]\nhost = \"spread.example.test\"\npolicy = \"weighted\"\n\
         sites = {{ a = {{ members = [\"192.0.2.1\"], weight = 3 }}, b = {{ members = [\"192.0.2.2\"] }}, none = {{ members = [\"192.0.2.9\"], weight = 0 }} }}\n\
         [public_service.dice]\nhost = \"dice.example.test\"\npolicy = \"weighted\"\nspread = \"random\"\n\
         sites = {{ a = [\"192.0.2.1\"], b = [\"192.0.2.2\"] }}\n\
         [public_service.turns]\nhost = \"turns.example.test\"\npolicy = \"round_robin\"\nsites = {{ a = [\"192.0.2.1\"], b = [\"192.0.2.2\"] }}\n\
         [public_service.both]\nhost = \"both.example.test\"\npolicy = [\"geo\", \"weighted\"]\n\
         [public_service.both.sites]\nx = {{ members = [\"192.0.2.1\"], areas = [\"country:DE\"], weight = 1 }}\n\
         y = {{ members = [\"192.0.2.2\"], areas = [\"country:DE\"], weight = 1 }}\nz = {{ members = [\"192.0.2.3\"], areas = [\"*\"] }}\n\
         [public_service.members]\nhost = \"members.example.test\"\n\
         sites.a = {{ members = [\"192.0.2.1\", \"192.0.2.2\", \"192.0.2.3\"], count = 2 }}\n\
         [public_service.first]\nhost = \"first.example.test\"\n\
         sites.a = {{ members = [\"192.0.2.1\", \"192.0.2.2\"], balance = \"failover\" }}\n\
         [public_service.hashed]\nhost = \"hashed.example.test\"\n\
         sites.a = {{ members = [{{ address = \"192.0.2.1\", weight = 9 }}, \"192.0.2.2\"], balance = \"weighted\" }}\n\
         [public_service.rota]\nhost = \"rota.example.test\"\nsites.a = {{ members = [\"192.0.2.1\", \"192.0.2.2\"], balance = \"round_robin\" }}\n\
         [public_service.other]\nhost = \"other.example.test\"\nsites.a = {{ cname = \"cdn.example.net\" }}\n",
        zone("192.0.2.1")
    );
    let gateway = Gateway::start_in(folder, &config).await;
    let server = gateway.addr("dns");
    for (name, of_type, subnet, expected) in [
        ("place", "A", "203.0.113.0/24", "192.0.2.1"),
        ("place", "AAAA", "2001:db8::/56", "2001:db8::2"),
        ("place", "A", "192.0.2.0/24", "192.0.2.3"),
        ("place", "A", "198.51.100.0/24", "192.0.2.4"),
        ("place", "A", "100.64.9.0/24", "192.0.2.5"),
        ("place", "A", "10.9.0.0/16", "192.0.2.6"),
        ("place", "A", "172.20.0.0/16", "192.0.2.6"),
        ("place", "A", "8.8.8.0/24", "192.0.2.7"),
        // 4 ms more than the nearest is as near; of both the operator likes b.
        ("near", "A", "203.0.113.0/24", "192.0.2.2"),
        ("near", "A", "198.51.100.0/24", "192.0.2.3"),
        ("both", "A", "8.8.8.0/24", "192.0.2.3"),
        ("members", "A", "", "192.0.2.1 192.0.2.2"),
        ("first", "A", "", "192.0.2.1"),
        ("other", "A", "", "cdn.example.net."),
    ] {
        assert_eq!(dig(server, name, of_type, subnet), expected, "{name} {of_type} {subnet}");
    }
    let count = |name: &str, times: u32, subnet: &dyn Fn(u32) -> String| {
        let mut counts: BTreeMap<String, u32> = BTreeMap::new();
        (0..times).for_each(|n| *counts.entry(dig(server, name, "A", &subnet(n))).or_default() += 1);
        counts
    };
    let networks = |n: u32| format!("10.{}.{}.0/24", n / 200, n % 200);
    let spread = count("spread", 200, &networks);
    // Five standard deviations of 200 draws at 3 : 1.
    assert!((119..=181).contains(&spread["192.0.2.1"]) && !spread.contains_key("192.0.2.9"), "{spread:?}");
    assert_eq!(count("spread", 10, &|_| "10.0.7.0/24".to_owned()).len(), 1, "one network, one answer");
    let hashed = count("hashed", 100, &networks);
    assert!((75..=100).contains(&hashed["192.0.2.1"]), "{hashed:?}");
    for (name, times) in [("dice", 60), ("turns", 4), ("rota", 4)] {
        assert_eq!(count(name, times, &|_| String::new()).len(), 2, "{name}");
    }
    let both = count("both", 20, &|n| format!("203.0.113.{}/32", n * 8));
    assert!(both.keys().all(|site| site != "192.0.2.3"), "{both:?}");
}

/// Two addresses with one port that is open on the first ones only.
fn doors(open: &[&str], shut: &[&str]) -> (Vec<TcpListener>, u16) {
    for _ in 0..100 {
        let mut own = vec![TcpListener::bind((open[0], 0)).unwrap()];
        let port = own[0].local_addr().unwrap().port();
        let rest: Result<Vec<_>, _> = open[1..].iter().map(|address| TcpListener::bind((*address, port))).collect();
        let is_free = shut.iter().all(|address| TcpListener::bind((*address, port)).is_ok());
        if let (Ok(rest), true) = (rest, is_free) {
            own.extend(rest);
            return (own, port);
        }
    }
    panic!("no port is free on all addresses");
}

async fn becomes(server: SocketAddr, name: &str, expected: &str) {
    eventually(&format!("{name} is {expected}"), async || {
        (answer(server, &format!("{name}.example.test."), RecordType::A).join(" ") == expected).then_some(())
    })
    .await;
}

const QUICK: &str = "interval = \"200ms\", timeout = \"200ms\", healthy = 1, unhealthy = 2";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_thresholds_fallbacks_hints_and_lives_follow_the_members() {
    let (mut open, port) = doors(&["127.0.0.1", "127.0.0.2"], &["127.0.0.3", "127.0.0.4"]);
    let service = |name: &str, rest: &str| {
        format!(
            "[public_service.{name}]\nhost = \"{name}.example.test\"\nport = {port}\nhealth_check = {{ {QUICK} }}\n{rest}\n"
        )
    };
    let dead = |name: &str, all_down: &str| {
        service(name, &format!("all_down = {all_down}\nsites = {{ a = [\"127.0.0.3\"], b = [\"127.0.0.4\"] }}"))
    };
    let config = [
        zone("192.0.2.1"),
        service("least", "sites.a = { members = [\"127.0.0.1\", \"127.0.0.3\"], min_up = 2 }\nsites.b = [\"127.0.0.2\"]"),
        service("guard", "max_withdraw = \"50%\"\nwithdraw_window = \"1h\"\nsites = { a = [\"127.0.0.1\"], b = [\"127.0.0.2\"] }"),
        service("slow", "policy = \"weighted\"\nslow_start = \"1h\"\nsites = { a = [\"127.0.0.1\"], b = [\"127.0.0.2\"] }"),
        service("hints", "https = { alpn = [\"h2\"], port = 8443 }\nsites.a = [\"127.0.0.1\", \"127.0.0.3\"]"),
        service("life", "ttl = \"60s\"\nttl_undecided = \"3s\"\nsites.a = [\"127.0.0.1\"]"),
        service("base", "sites = { a = [\"127.0.0.3\"], b = [\"127.0.0.2\"] }"),
        "[public_service.above]\nhost = \"above.example.test\"\nneeds = [\"base\"]\nsites = { a = [\"192.0.2.11\"], b = [\"192.0.2.12\"] }\n".to_owned(),
        service("fresh", "initial = \"down\"\nsites = { a = [\"127.0.0.1\"], b = [\"127.0.0.3\"] }"),
        service("known", "all_down = \"last_known\"\nsites = { a = [\"127.0.0.1\"], b = [\"127.0.0.3\"] }"),
        "[public_service.planned]\nhost = \"planned.example.test\"\n[public_service.planned.sites]\nb = [\"192.0.2.2\"]\n\
         a = { members = [\"192.0.2.1\"], maintenance = [{ from = \"2020-01-01T00:00:00Z\", until = \"2120-01-01T00:00:00+01:00\", why = \"new floor\" }] }\n"
            .to_owned(),
        "[public_service.fixed]\nhost = \"fixed.example.test\"\nlocked = true\nsites = { a = [\"192.0.2.1\"], b = [\"192.0.2.2\"] }\n".to_owned(),
        dead("all", "\"all\""),
        dead("sorry", "{ addresses = [\"192.0.2.99\"] }"),
        dead("spare", "{ site = \"b\" }"),
        dead("empty", "\"empty\""),
        dead("refuse", "\"refuse\""),
    ]
    .concat();
    let gateway = Gateway::start(&config).await;
    let server = gateway.addr("dns");
    let ttl = |name: &str| ask(server, &format!("{name}.example.test."), RecordType::A).answers[0].ttl;
    assert_eq!(ttl("planned"), 30);
    becomes(server, "life", "127.0.0.1").await;
    eventually("the state is settled", async || (ttl("life") == 60).then_some(())).await;
    for (name, expected) in [
        ("least", "127.0.0.2"),
        ("base", "127.0.0.2"),
        ("above", "192.0.2.12"),
        ("fresh", "127.0.0.1"),
        ("planned", "192.0.2.2"),
        ("known", "127.0.0.1"),
        ("all", "127.0.0.3"),
        ("sorry", "192.0.2.99"),
        ("spare", "127.0.0.4"),
    ] {
        becomes(server, name, expected).await;
    }
    let code = |name: &str| ask(server, &format!("{name}.example.test."), RecordType::A).metadata.response_code;
    eventually("nobody is answered", async || (code("refuse") == ResponseCode::Refused).then_some(())).await;
    eventually("nothing is answered", async || {
        let reply = ask(server, "empty.example.test.", RecordType::A);
        (reply.answers.is_empty() && reply.metadata.response_code == ResponseCode::NoError).then_some(())
    })
    .await;
    eventually("hints name who is up", async || {
        let data = answer(server, "hints.example.test.", RecordType::HTTPS).join(" ");
        let is_whole = ["h2", "8443", "127.0.0.1"].iter().all(|part| data.contains(part));
        (is_whole && !data.contains("127.0.0.3")).then_some(())
    })
    .await;
    let (_, out) = gateway.command(&["gslb", "status", "--admin", "admin.sock"]).await;
    assert!(out.contains("in maintenance (new floor)"), "{out}");
    let words = ["gslb", "drain", "fixed", "a", "--why", "x", "--admin", "admin.sock"];
    let (failed, out) = gateway.command(&words).await;
    assert!(failed != 0 && out.contains("locked"), "{out}");
    // The first ones fall.
    open.remove(0);
    becomes(server, "slow", "127.0.0.2").await;
    becomes(server, "known", "127.0.0.1").await;
    open.clear();
    eventually("the guard holds", async || {
        let (_, body) = gateway.admin("GET", "/gslb", "").await;
        let sites = body["sites"].as_array().unwrap();
        sites.iter().any(|site| site["service"] == "guard" && site["mood"] == "held").then_some(())
    })
    .await;
    becomes(server, "guard", "127.0.0.1").await;
    assert!(ttl("known") <= 8, "all are down: for short");
    let slow = async || {
        let (_, body) = gateway.admin("GET", "/gslb", "").await;
        let members = body["members"].as_array().unwrap();
        members.iter().find(|m| m["service"] == "slow" && m["member"] == "127.0.0.1").unwrap().clone()
    };
    // Its name says nothing of that: by weight it may be the other's address all along.
    eventually("it is seen to be down", async || (slow().await["state"] == "down").then_some(())).await;
    let _back = TcpListener::bind(("127.0.0.1", port)).unwrap();
    eventually("it begins with little", async || {
        (1..200).contains(&slow().await["share"].as_u64().unwrap()).then_some(())
    })
    .await;
}

/// Answers each question with its own header and one record, while it is told to.
fn name_server(speaks: Arc<AtomicBool>) -> u16 {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((length, client)) = socket.recv_from(&mut query) {
            let mut reply = query[..length].to_vec();
            (reply[2], reply[7]) = (0x84, 1);
            reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1]);
            if speaks.load(SeqCst) {
                socket.send_to(&reply, client).unwrap();
            }
        }
    });
    port
}

/// `grpc.health.v1.Health`: serving, while it is told to.
async fn grpc_server(serves: Arc<AtomicBool>) -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let serves = serves.clone();
            tokio::spawn(async move {
                let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    let head = http::Response::builder().header("content-type", "application/grpc").body(()).unwrap();
                    let Ok(mut body) = respond.send_response(head, false) else { return };
                    let status = if serves.load(SeqCst) { 1 } else { 2 };
                    body.send_data(Bytes::copy_from_slice(&[0, 0, 0, 0, 2, 8, status]), false).ok();
                    let trailers = [("grpc-status", "0")].map(|(name, value)| {
                        (http::HeaderName::from_static(name), http::HeaderValue::from_static(value))
                    });
                    body.send_trailers(trailers.into_iter().collect()).ok();
                }
            });
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_check_takes_a_member_out_and_brings_it_back() {
    let folder = tempfile::tempdir().unwrap();
    let (speaks, serves) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(true)));
    let (names, grpc) = (name_server(speaks.clone()), grpc_server(serves.clone()).await);
    let (mut door, port) = doors(&["127.0.0.1"], &[]);
    let flag = folder.path().join("flag");
    let word = folder.path().join("states");
    let say = |is_up: bool| {
        speaks.store(is_up, SeqCst);
        serves.store(is_up, SeqCst);
        if is_up {
            std::fs::write(&flag, "").unwrap()
        } else {
            std::fs::remove_file(&flag).unwrap()
        }
        std::fs::write(&word, format!("127.0.0.1 {}\n", if is_up { "up" } else { "down" })).unwrap();
    };
    say(true);
    let service = |name: &str, check: &str| {
        format!(
            "[public_service.{name}]\nhost = \"{name}.example.test\"\nsites = {{ a = [\"127.0.0.1\"], b = {{ cname = \"b.example.net\" }} }}\n\
             health_check = {{ {QUICK}, {check} }}\n"
        )
    };
    let command = format!("command = [\"sh\", \"-c\", \"test -e {} && test $ADDRESS = 127.0.0.1\"]", flag.display());
    let config = [
        zone("192.0.2.1"),
        service("dns", &format!("dns = {{ name = \"www.example.org\", type = \"A\" }}, port = {names}")),
        service("grpc", &format!("grpc = \"\", port = {grpc}")),
        service("command", &command),
        service("file", "file = \"states\""),
        service("two", &format!("need = 2, of = [{{ {command} }}, {{ file = \"states\" }}, {{ port = {port} }}]")),
        service("one", &format!("need = 1, of = [{{ {command} }}, {{ port = {port} }}]")),
        service("tcp", &format!("port = {port}")),
    ]
    .concat();
    let gateway = Gateway::start_in(folder, &config).await;
    let server = gateway.addr("dns");
    let kinds = ["dns", "grpc", "command", "file", "two"];
    for name in kinds.into_iter().chain(["one", "tcp"]) {
        becomes(server, name, "127.0.0.1").await;
    }
    say(false);
    for name in kinds {
        becomes(server, name, "b.example.net.").await;
    }
    let (_, body) = gateway.admin("GET", "/gslb", "").await;
    let reasons: BTreeMap<String, String> = body["members"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| (m["service"].as_str().unwrap().to_owned(), m["reason"].as_str().unwrap_or("none").to_owned()))
        .collect();
    for (name, expected) in [
        ("dns", "timeout"),
        ("grpc", "grpc service not serving"),
        ("command", "the program ended with 1"),
        ("file", "out of service"),
        ("two", "too few of its checks went well"),
        ("one", "none"),
    ] {
        assert!(reasons[name].starts_with(expected), "{name}: {reasons:?}");
    }
    for (name, code) in [("command", "exit"), ("grpc", "not_serving"), ("two", "quorum")] {
        let labels = [format!("service=\"{name}\""), format!("reason=\"{code}\"")];
        eventually(&format!("the metric of {name} says why"), async || {
            let text = gateway.metrics().await;
            let line = text.lines().find(|line| labels.iter().all(|label| line.contains(label)))?;
            line.ends_with(" 0").then_some(())
        })
        .await;
    }
    say(true);
    for name in kinds {
        becomes(server, name, "127.0.0.1").await;
    }
    door.clear();
    for (name, expected) in [("tcp", "b.example.net."), ("one", "127.0.0.1"), ("two", "127.0.0.1")] {
        becomes(server, name, expected).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_echo_is_asked_for_where_the_system_permits_it() {
    let config = format!(
        "{}[public_service.echo]\nhost = \"echo.example.test\"\n\
         sites = {{ a = [\"240.0.0.1\"], b = [\"127.0.0.1\"] }}\nhealth_check = {{ icmp = true, {QUICK} }}\n",
        zone("192.0.2.1")
    );
    let gateway = Gateway::start(&config).await;
    let server = gateway.addr("dns");
    let state = eventually("it was tried", async || {
        let (_, body) = gateway.admin("GET", "/gslb", "").await;
        let members = body["members"].as_array().unwrap().clone();
        let own = members.iter().find(|member| member["member"] == "127.0.0.1").unwrap();
        let unheard = gateway.log().contains("the check cannot be made");
        (own["state"] == "up" || unheard).then(|| own["state"].as_str().unwrap().to_owned())
    })
    .await;
    if state == "up" {
        becomes(server, "echo", "127.0.0.1").await;
    } else {
        eprintln!("NOT CHECKED: this system permits no echo; what cannot be asked stays as it was");
        assert_eq!(answer(server, "echo.example.test.", RecordType::A), ["240.0.0.1"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_replies_over_the_rate_every_nth_is_sent_cut_and_the_others_are_not() {
    for (slip, cut, lost) in [(1, 20, 0), (0, 0, 20), (2, 10, 10)] {
        let limit = format!("rate_limit = {{ responses = \"1/s\", slip = {slip} }}");
        let config = zone("192.0.2.1").replace("rate_limit = { mode = \"off\" }", &limit);
        assert!(config.contains("slip") && LISTENER.contains("rate_limit"));
        let gateway = Gateway::start(&config).await;
        let socket = crate::support::dns::socket(gateway.addr("dns"));
        socket.set_read_timeout(Some(std::time::Duration::from_millis(300))).unwrap();
        let replies: Vec<_> =
            (0..24).map(|id| crate::support::dns::try_ask(&socket, id, "www.example.test.", RecordType::A)).collect();
        let count =
            |is: &dyn Fn(&hickory_proto::op::Message) -> bool| replies.iter().flatten().filter(|r| is(r)).count();
        // A second or more may pass on a busy machine, and each gives one reply more.
        let (truncated, silent) =
            (count(&|reply| reply.metadata.truncation), replies.iter().filter(|r| r.is_none()).count());
        assert!(
            truncated.abs_diff(cut) <= 8 && silent.abs_diff(lost) <= 8,
            "slip {slip}: {truncated} cut, {silent} lost"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_whose_upstream_is_full_gives_clients_away() {
    // An origin that answers nobody: what was sent to it stays under way.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let origin = silent.local_addr().unwrap();
    let config = format!(
        "{}[listener.http]\naddress = \"127.0.0.1:0\"\n[route.all]\nupstream = \"one\"\n\
         [upstream.one]\nendpoints = [\"{origin}\"]\ncircuit_breaker = {{ requests = 2 }}\n\
         [public_service.shop]\nhost = \"shop.example.test\"\npolicy = \"weighted\"\nttl = \"1s\"\nload_target = \"50%\"\n\
         sites = {{ here = \"upstream:one\", there = [\"192.0.2.2\"] }}\n",
        zone("192.0.2.1")
    );
    let gateway = Gateway::start(&config).await;
    let site = async || {
        let (_, body) = gateway.admin("GET", "/gslb", "").await;
        body["sites"].as_array().unwrap().iter().find(|site| site["site"] == "here").unwrap().clone()
    };
    eventually("it has room", async || (site().await["load"] == 0).then_some(())).await;
    assert_eq!(site().await["load_share"], 1_000);
    let mut clients = Vec::new();
    for _ in 0..2 {
        let mut client = crate::support::client::Client::connect(gateway.addr("http")).await;
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        clients.push(client);
    }
    eventually("it is full", async || (site().await["load"] == 1_000).then_some(())).await;
    eventually("it gives a tenth away", async || (site().await["load_share"] == 900).then_some(())).await;
    let (_, out) = gateway.command(&["gslb", "status", "--admin", "admin.sock"]).await;
    assert!(out.contains("load 100%, keeps 90% of its clients"), "{out}");
    eventually("the metric says so", async || {
        (gateway.metric("portcullis_dns_site_share_permille", &["here"]).await == 900.0).then_some(())
    })
    .await;
    drop(clients);
    eventually("it has room again, and all its clients", async || (site().await["load_share"] == 1_000).then_some(()))
        .await;
}
