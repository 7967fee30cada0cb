//! Keys of traffic policy, each with the difference that it makes to a client.

use crate::support::{
    client::Client,
    eventually,
    gateway::Gateway,
    origin::{Origin, ok},
};
use std::{collections::HashMap, net::Ipv4Addr, net::SocketAddr};
use tokio::net::UdpSocket;

async fn edge(files: &[(&str, &str)], upstream: &str, rest: &str) -> Gateway {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    Gateway::start_in(folder, &config(upstream, rest)).await
}

fn config(upstream: &str, rest: &str) -> String {
    format!(
        "[listener.http]\naddress = \"127.0.0.1:0\"\n[upstream.app]\n{upstream}\n[route.app]\nupstream = \"app\"\n{rest}\n"
    )
}

fn list(origins: &[&Origin]) -> String {
    let list: Vec<String> = origins.iter().map(|origin| format!("\"{}\"", origin.addr)).collect();
    format!("endpoints = [{}]\n", list.join(", "))
}

/// How often each text was answered.
async fn texts(gateway: &Gateway, count: usize) -> HashMap<String, usize> {
    let mut client = Client::connect(gateway.addr("http")).await;
    let mut all = HashMap::new();
    for _ in 0..count {
        *all.entry(client.get("a", "/").await.text()).or_default() += 1;
    }
    all
}

async fn status(gateway: &Gateway) -> u16 {
    Client::connect(gateway.addr("http")).await.get("a", "/").await.status
}

/// The health of an upstream's endpoints, as the operator sees it.
async fn health(gateway: &Gateway, address: SocketAddr) -> String {
    let (_, status) = gateway.admin("GET", "/upstreams", "").await;
    let endpoints = status["upstreams"][0]["endpoints"].as_array().unwrap();
    let endpoint = endpoints.iter().find(|endpoint| endpoint["address"] == address.to_string()).unwrap();
    endpoint["health"].as_str().unwrap().to_owned()
}

async fn becomes(gateway: &Gateway, address: SocketAddr, wanted: &str) {
    eventually(wanted, async || (health(gateway, address).await == wanted).then_some(())).await;
}

#[tokio::test]
async fn allow_file_lets_in_whom_it_lists_and_is_followed() {
    let origin = Origin::fixed("ok").await;
    let list_of = |text: &str| format!("# who may\n{text}\n");
    let gateway = edge(&[("who.txt", &list_of("127.0.0.0/8"))], &list(&[&origin]), "ip.allow_file = \"who.txt\"").await;
    assert_eq!(status(&gateway).await, 200);
    std::fs::write(gateway.path().join("who.txt"), list_of("192.0.2.0/24")).unwrap();
    eventually("the list is followed", async || (status(&gateway).await == 403).then_some(())).await;
}

#[tokio::test]
async fn below_panic_threshold_the_sick_are_asked_as_well() {
    let well = Origin::start(|_| ok("well")).await;
    let sick = Origin::start(|seen| match seen.path() {
        "/healthz" => b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n".to_vec(),
        _ => ok("sick"),
    })
    .await;
    for (threshold, asked) in [("40%", false), ("80%", true)] {
        let upstream = format!(
            "{}panic_threshold = \"{threshold}\"\nhealth_check = {{ path = \"/healthz\", interval = \"100ms\", unhealthy = 1 }}\nbalance.policy = \"round_robin\"\n",
            list(&[&well, &sick])
        );
        let gateway = edge(&[], &upstream, "").await;
        becomes(&gateway, sick.addr, "down").await;
        let seen = texts(&gateway, 20).await;
        assert_eq!(seen.contains_key("sick"), asked, "{threshold}: {seen:?}");
    }
}

#[tokio::test]
async fn who_comes_new_starts_slowly_when_told() {
    let (old, new) = (Origin::fixed("old").await, Origin::fixed("new").await);
    let mut shares = Vec::new();
    for slow_start in ["", ", slow_start = \"2s\""] {
        let balance = format!("balance = {{ policy = \"round_robin\"{slow_start} }}\n");
        let mut gateway = edge(&[], &format!("{}{balance}", list(&[&old])), "").await;
        assert_eq!(texts(&gateway, 10).await["old"], 10);
        eventually("the old one is past its own start", async || {
            let (_, status) = gateway.admin("GET", "/upstreams", "").await;
            status["upstreams"][0]["endpoints"][0]["since_seconds"].as_u64().filter(|age| *age >= 2)
        })
        .await;
        assert_eq!(gateway.reload(&config(&format!("{}{balance}", list(&[&old, &new])), "")).await.0, 200);
        shares.push(texts(&gateway, 100).await.get("new").copied().unwrap_or(0));
    }
    assert!(shares[0] >= 45 && shares[1] <= 20, "{shares:?}");
}

#[tokio::test]
async fn consecutive_connect_says_how_many_failures_are_too_many() {
    let origin = Origin::fixed("ok").await;
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (limit, ejected) in [(1, "ejected"), (1000, "up")] {
        let upstream = format!(
            "endpoints = [\"{}\", \"{dead}\"]\nbalance.policy = \"round_robin\"\noutlier = {{ consecutive_connect = {limit}, consecutive_gateway = 1000, consecutive_5xx = 1000, eject = \"1h\" }}\n",
            origin.addr
        );
        let gateway = edge(&[], &upstream, "").await;
        assert_eq!(texts(&gateway, 20).await["ok"], 20);
        let (_, status) = gateway.admin("GET", "/upstreams", "").await;
        let told = status["upstreams"][0].to_string();
        assert_eq!(told.contains("\"ejected\""), ejected == "ejected", "{limit}: {told}");
    }
}

#[tokio::test]
async fn a_check_looks_into_the_body_as_far_as_told() {
    let origin = Origin::start(|seen| match seen.path() {
        "/healthz" => ok(&format!("{}ready", " ".repeat(100))),
        _ => ok("app"),
    })
    .await;
    for (body, wanted) in [
        ("{ contains = \"ready\" }", "up"),
        ("{ contains = \"steady\" }", "down"),
        ("{ contains = \"ready\", within = \"50B\" }", "down"),
        ("{ regex = \"rea.y$\" }", "up"),
    ] {
        let upstream = format!(
            "{}health_check = {{ path = \"/healthz\", interval = \"100ms\", healthy = 1, unhealthy = 1, body = {body} }}\n",
            list(&[&origin])
        );
        let gateway = edge(&[], &upstream, "").await;
        // Of a single endpoint that is down the reason is told, though it is asked in panic.
        becomes(&gateway, origin.addr, wanted).await;
    }
}

/// A name server: for SRV what the test wrote, each with a TTL of an hour.
async fn service_server(records: std::sync::Arc<std::sync::Mutex<Vec<(u16, u16, u16)>>>) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let own = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut query = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut query).await {
            let reply = service_answer(&query[..length], &records.lock().unwrap());
            let _ = socket.send_to(&reply, from).await;
        }
    });
    own
}

/// RFC 2782: priority, weight, port and target; the target is `h.` and answers with the loopback address.
fn service_answer(query: &[u8], records: &[(u16, u16, u16)]) -> Vec<u8> {
    let name_end = 12 + query[12..].iter().position(|octet| *octet == 0).unwrap();
    let (question_end, kind) = (name_end + 5, query[name_end + 2]);
    let count = match kind {
        1 => 1,
        33 => u8::try_from(records.len()).unwrap(),
        _ => 0,
    };
    let mut reply = query[..2].to_vec();
    reply.extend([0x85, 0x80, 0, 1, 0, count, 0, 0, 0, 0]);
    reply.extend(&query[12..question_end]);
    let hour = 3600_u32.to_be_bytes();
    if kind == 1 {
        reply.extend([0xc0, 12, 0, 1, 0, 1].iter().chain(&hour).chain(&[0, 4]));
        reply.extend(Ipv4Addr::LOCALHOST.octets());
    }
    for (priority, weight, port) in records.iter().filter(|_| kind == 33) {
        reply.extend([0xc0, 12, 0, 33, 0, 1].iter().chain(&hour).chain(&[0, 9]));
        for number in [priority, weight, port] {
            reply.extend(number.to_be_bytes());
        }
        reply.extend([1, b'h', 0]);
    }
    reply
}

#[tokio::test]
async fn srv_records_give_ports_weights_and_priorities_and_max_ttl_has_them_asked_again() {
    let (heavy, light, spare) =
        (Origin::fixed("heavy").await, Origin::fixed("light").await, Origin::fixed("spare").await);
    let records = std::sync::Arc::new(std::sync::Mutex::new(vec![
        (10, 30, heavy.addr.port()),
        (10, 10, light.addr.port()),
        (20, 10, spare.addr.port()),
    ]));
    let server = service_server(records.clone()).await;
    let upstream = "discover = { srv = \"_http._tcp.shop.test\", family = \"ipv4\", through = \"own\" }\nbalance.policy = \"round_robin\"\n";
    let own = format!("[discovery.own]\ndns = {{ servers = [\"{server}\"], max_ttl = \"1s\" }}\n");
    let gateway = edge(&[], upstream, &own).await;
    eventually("the answer is there", async || (status(&gateway).await == 200).then_some(())).await;
    let seen = texts(&gateway, 40).await;
    assert_eq!((seen.get("heavy"), seen.get("light"), seen.get("spare")), (Some(&30), Some(&10), None), "{seen:?}");
    *records.lock().unwrap() = vec![(20, 10, spare.addr.port())];
    eventually("the hour of the TTL is cut short", async || {
        texts(&gateway, 4).await.get("spare").copied().filter(|n| *n == 4)
    })
    .await;
}

#[tokio::test]
async fn an_outbound_threshold_and_exclusions_by_tag() {
    let leak = "<html>Fatal error: Uncaught PDOException: SQLSTATE[42000]: Syntax error or access violation: 1064 You have an error in your SQL syntax in /var/www/app/db.php:17</html>";
    let origin = Origin::start(move |_| {
        format!("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\n\r\n{leak}", leak.len())
            .into_bytes()
    })
    .await;
    for (waf, seen) in [
        ("waf.mode = \"block\"", false),
        ("waf = { mode = \"block\", score = { outbound = 1000 } }", true),
        ("waf = { mode = \"block\", exclude = [{ tag = \"class/leaks\" }] }", true),
        ("waf = { mode = \"block\", exclude = [{ tag = \"class/sqli\" }] }", false),
    ] {
        let gateway = edge(&[], &list(&[&origin]), waf).await;
        let mut client = Client::connect(gateway.addr("http")).await;
        client.send("GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: Mozilla/5.0\r\nAccept: */*\r\n\r\n").await;
        let answer = client.try_response(false).await;
        assert_eq!(answer.is_some_and(|answer| answer.text().contains("PDOException")), seen, "{waf}");
    }
}
