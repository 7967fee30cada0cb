//! `explain` says what the wire says: random services in random states, asked by random clients over UDP.

use crate::support::{compile, question};
use hickory_proto::{
    op::{Edns, Message, ResponseCode},
    rr::{
        RData,
        rdata::opt::{EdnsCode, EdnsOption},
    },
};
use portcullis_config::{ContentHash, Live};
use portcullis_gslb::{Clocks, DnsMetrics, Host, Listeners, Name, Order, Republish, Server, Snapshot, WhatIf};
use portcullis_health::Failure;
use std::{
    net::{IpAddr, Ipv4Addr, UdpSocket},
    sync::Arc,
    time::{Duration, SystemTime},
};

const SNAPSHOTS: usize = 100;
const QUERIES: usize = 100;
/// Before the first reply of a batch is read: fewer than a socket's queue holds.
const BATCH: usize = 50;

fn pick<'a>(random: &mut fastrand::Rng, words: &[&'a str]) -> &'a str {
    words[random.usize(..words.len())]
}

/// Services of every policy that does not draw anew for each query: what chance says, nobody can say before.
fn document(random: &mut fastrand::Rng) -> String {
    let mut text = String::from(
        "[dns]\nrate_limit = { mode = \"off\" }\n[dns.geo.nets]\na = [\"10.0.0.0/9\"]\nb = [\"10.128.0.0/10\", \"192.0.2.0/25\"]\n\
         [zone.x]\nname = \"example.test\"\nns = [\"ns.other.test\"]\nsoa = { mname = \"ns.other.test\", rname = \"noc.other.test\" }\n",
    );
    for service in 0..5 {
        let first = pick(random, &["", "\"geo\", ", "\"latency\", "]);
        let last = pick(random, &["weighted", "round_robin", "failover"]);
        let all_down = pick(
            random,
            &["\"all\"", "\"empty\"", "\"refuse\"", "\"last_known\"", "{ addresses = [\"192.0.2.250\"] }"],
        );
        text += &format!(
            "[public_service.s{service}]\nhost = \"s{service}.example.test\"\npolicy = [{first}\"{last}\"]\nall_down = {all_down}\n\
             ttl = \"{}s\"\nhealth_check = {{ interval = \"1h\", timeout = \"1s\", healthy = 1, unhealthy = 1 }}\n",
            random.u32(4..600)
        );
        if first.contains("latency") {
            let mut row = |area: &str| {
                let times: Vec<_> = (0..3).map(|site| format!("x{site} = \"{}ms\"", random.u32(1..200))).collect();
                format!("\"{area}\" = {{ {} }}", times.join(", "))
            };
            text += &format!("latency = {{ {}, {}, {} }}\n", row("nets:a"), row("net:10.64.0.0/12"), row("*"));
        }
        for site in 0..3 {
            let balance = pick(random, &["all", "weighted", "round_robin", "failover"]);
            let members: Vec<_> = (0..random.u8(1..5))
                .map(|member| {
                    let address = format!("192.0.2.{}", service * 40 + site * 10 + i32::from(member) + 1);
                    let weight = random.u32(0..9);
                    let weighted = format!("{{ address = \"{address}\", weight = {weight} }}");
                    if balance == "weighted" { weighted } else { format!("\"{address}\"") }
                })
                .collect();
            text += &format!(
                "[public_service.s{service}.sites.x{site}]\nbalance = \"{balance}\"\ncount = {}\nmembers = [{}]\n",
                random.u8(1..4),
                members.join(", ")
            );
            if last == "weighted" {
                text += &format!("weight = {}\n", random.u32(0..100));
            }
            if first.contains("geo") {
                text += &format!("areas = [\"{}\"]\n", ["nets:a", "nets:b", "*"][site as usize]);
            }
        }
    }
    text
}

/// Members up and down, orders over some.
fn shake(snapshot: &Snapshot, random: &mut fastrand::Rng, clocks: Clocks) {
    for member in snapshot.members(clocks) {
        let key = (member.service.clone(), member.site.clone(), member.member);
        let outcome = if random.u8(..10) < 6 { Ok(()) } else { Err(Failure::Refused) };
        snapshot.observe(&key, outcome, clocks);
        if random.u8(..20) == 0 {
            let (author, reason) = ("test".to_owned(), "chance".to_owned());
            let forced = serde_json::from_str(pick(random, &["\"up\"", "\"down\"", "\"drain\""])).unwrap();
            let address = random.bool().then_some(member.member);
            let target = portcullis_gslb::Ordered { service: key.0, site: key.1, member: address };
            let (standing, stamp) = Default::default();
            let order = Order { target, forced, author, reason, from: 0, until: 7_000_000, standing, stamp };
            snapshot.order(Order { from: clocks.unix - 10, until: clocks.unix + 600, ..order }, clocks).unwrap();
        }
    }
}

/// Addresses, time to live, scope, as the reply has them.
fn heard(octets: &[u8]) -> (Vec<IpAddr>, Option<u32>, Option<u8>, bool) {
    let reply = Message::from_vec(octets).unwrap();
    let address = |data: &RData| match data {
        RData::A(a) => Some(IpAddr::V4(a.0)),
        _ => None,
    };
    let scope = reply.edns.as_ref().and_then(|edns: &Edns| match edns.option(EdnsCode::Subnet) {
        Some(EdnsOption::Subnet(subnet)) => Some(subnet.scope_prefix()),
        _ => None,
    });
    let addresses = reply.answers.iter().filter_map(|record| address(&record.data)).collect();
    let refused = reply.metadata.response_code == ResponseCode::Refused;
    (addresses, reply.answers.first().map(|record| record.ttl), scope, refused)
}

#[test]
fn what_explain_says_is_what_the_wire_says_ten_thousand_times() {
    let mut random = fastrand::Rng::with_seed(5);
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let at = udp.local_addr().unwrap();
    let live = Live::new(compile(&document(&mut random), "").unwrap(), ContentHash([0; 32]), SystemTime::UNIX_EPOCH);
    let host = Host {
        metrics: Arc::new(DnsMetrics::new(&prometheus::Registry::new()).unwrap()),
        log: None,
        republish: Republish::default(),
    };
    let _server = Server::start(Listeners { udp: vec![udp], ..Listeners::default() }, &live, &host).unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(at).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let (mut cases, mut different) = (0, std::collections::HashSet::new());
    for _ in 0..SNAPSHOTS {
        let snapshot = compile(&document(&mut random), "").unwrap();
        let clocks = Clocks::read();
        shake(&snapshot, &mut random, clocks);
        live.publish(snapshot.clone(), ContentHash([1; 32]), "test", SystemTime::UNIX_EPOCH);
        for _ in 0..QUERIES / BATCH {
            let mut expected = Vec::new();
            for id in 0..BATCH {
                let service = random.u8(..5);
                let client = match random.u8(..3) {
                    0 => Ipv4Addr::new(10, random.u8(..), random.u8(..), 0),
                    1 => Ipv4Addr::new(192, 0, 2, 0),
                    _ => Ipv4Addr::new(random.u8(1..223), random.u8(..), random.u8(..), 0),
                };
                let name = format!("s{service}.example.test.");
                let mut query = question(&format!("{name} A ecs={client}/24"));
                query.octets[..2].copy_from_slice(&(id as u16).to_be_bytes());
                // In this order: a turn that is explained is the one that the next query takes.
                let explained = snapshot.explain(
                    &Name::absolute(&name).unwrap(),
                    "127.0.0.1".parse().unwrap(),
                    Some((client.into(), 24)),
                    &WhatIf::default(),
                    clocks,
                );
                socket.send(&query.octets).unwrap();
                let mut reply = [0; 4_096];
                let length = socket.recv(&mut reply).unwrap();
                assert_eq!(reply[..2], query.octets[..2]);
                expected.push((query.octets, explained.unwrap(), reply[..length].to_vec()));
            }
            for (query, explained, reply) in expected {
                let (addresses, ttl, scope, refused) = heard(&reply);
                let what = format!("{query:?}\n{explained:#?}");
                assert_eq!(explained.refused, refused, "{what}");
                assert_eq!(explained.ipv4, addresses, "{what}");
                assert_eq!(ttl, (!addresses.is_empty()).then_some(explained.ttl), "{what}");
                if !refused {
                    assert_eq!(scope, Some(explained.scope), "{what}");
                }
                different.insert(addresses);
                cases += 1;
            }
        }
    }
    assert_eq!(cases, 10_000);
    assert!(different.len() > 300, "too few different answers to show anything: {}", different.len());
}
