//! Published services: policies, places, health, orders, fallbacks, and that `explain` says what the wire says.

use crate::{
    mmdb::{Value, country, database},
    support::{ask, clocks, compile, compile_all, compile_in, shown},
};
use portcullis_gslb::{Forced, Name, Order, Ordered, Snapshot, Stamp, Standing, WhatIf};
use portcullis_health::Failure;
use std::{collections::HashMap, net::IpAddr, sync::Arc};

const ZONE: &str = "[zone.x]\nname = \"example.test\"\nns = [\"ns.other.test\"]\n\
                    soa = { mname = \"ns.other.test\", rname = \"noc.other.test\", serial = 1 }\n\
                    records = [\"away 60 A 192.0.2.250\"]\n";

fn document(service: &str) -> String {
    format!("{ZONE}[public_service.shop]\nhost = \"shop.example.test\"\n{service}")
}

fn serve(service: &str) -> Arc<Snapshot> {
    compile(&document(service), "").unwrap_or_else(|problems| panic!("{problems:#?}"))
}

/// With a country database, a site for each of EU and US, and whatever else.
fn serve_with_places(service: &str) -> Arc<Snapshot> {
    let folder = tempfile::tempdir().unwrap();
    let deep = |continent, code| {
        let country = Value::Map(vec![("iso_code", Value::Text(code))]);
        let continent = Value::Map(vec![("code", Value::Text(continent))]);
        let part = Value::Map(vec![("iso_code", Value::Text("CA"))]);
        Value::Map(vec![("continent", continent), ("country", country), ("subdivisions", Value::List(vec![part]))])
    };
    let countries = database(vec![
        ("203.0.112.0/24", country("DE")),
        ("203.0.113.0/24", country("DE")),
        ("198.51.100.0/24", country("US")),
        ("2001:db8::/32", country("FR")),
        ("192.0.2.0/24", deep("NA", "US")),
    ]);
    let asns =
        database(vec![("203.0.113.0/25", Value::Map(vec![("autonomous_system_number", Value::Number(64_500))]))]);
    std::fs::write(folder.path().join("country.mmdb"), countries).unwrap();
    std::fs::write(folder.path().join("asn.mmdb"), asns).unwrap();
    let geo = "[dns.geo]\ndatabases = [{ file = \"country.mmdb\" }, { file = \"asn.mmdb\" }]\n\
               nets = { office = [\"10.0.0.0/8\"] }\n";
    let (snapshot, problems) = compile_in(folder.path(), &format!("{geo}{}", document(service)), None);
    snapshot.unwrap_or_else(|| panic!("{problems:#?}"))
}

const CHECK: &str = "health_check = { interval = \"1h\", healthy = 1, unhealthy = 1 }\n";

fn tell(server: &Snapshot, site: &str, member: &str, up: bool, at: u64) {
    let outcome = if up { Ok(()) } else { Err(Failure::Timeout) };
    let place = ("shop".parse().unwrap(), site.parse().unwrap(), member.parse().unwrap());
    server.observe(&place, outcome, clocks(at));
    server.tick(clocks(at));
}

/// The addresses of an answer, in short.
fn a(server: &Snapshot, question: &str) -> String {
    let message = ask(server, question);
    let data: Vec<_> = message.answers.iter().map(|record| record.data.to_string()).collect();
    data.join(" ")
}

fn scope(server: &Snapshot, question: &str) -> u8 {
    let question = crate::support::question(question);
    let reply = server.answer(&question.octets, &question.asked).unwrap();
    // ECS is the only option here: it begins behind the eleven octets of the OPT record, and its scope is its eighth octet.
    let opt = reply.windows(5).position(|part| part == [0, 0, 41, 0x04, 0xd0]).unwrap();
    reply[opt + 11 + 7]
}

#[test]
fn failover_gives_the_first_fit_site_of_the_order() {
    let server = serve(&format!(
        "sites = {{ eu = [\"192.0.2.1\", \"2001:db8::1\"], us = [\"192.0.2.2\"] }}\nfallback = [\"us\"]\n{CHECK}"
    ));
    assert_eq!(shown(&ask(&server, "shop A")), "NOERROR aa | shop.~ 7 A 192.0.2.2;", "unknown counts as up, for short");
    for (site, member) in [("eu", "192.0.2.1"), ("eu", "2001:db8::1"), ("us", "192.0.2.2")] {
        tell(&server, site, member, true, 0);
    }
    assert_eq!(shown(&ask(&server, "shop A")), "NOERROR aa | shop.~ 30 A 192.0.2.2;");
    assert_eq!(
        shown(&ask(&server, "shop AAAA")),
        "NOERROR aa | | ~ 30 SOA ns.other.test. noc.other.test. 1 3600 900 604800 60;"
    );
    tell(&server, "us", "192.0.2.2", false, 1);
    assert_eq!(a(&server, "shop A"), "192.0.2.1");
    assert_eq!(a(&server, "shop AAAA"), "2001:db8::1");
    tell(&server, "us", "192.0.2.2", true, 2);
    assert_eq!(a(&server, "shop A"), "192.0.2.2");
}

#[test]
fn other_types_at_the_name_are_the_zones_own() {
    let service = document("sites = { eu = [\"192.0.2.1\"] }").replace("\"away", "\"shop 60 TXT hello\", \"away");
    let server = compile(&service, "").unwrap();
    assert_eq!(shown(&ask(&server, "shop TXT")), "NOERROR aa | shop.~ 60 TXT hello;");
    assert!(shown(&ask(&server, "shop MX")).starts_with("NOERROR aa | | ~ 60 SOA"));
    assert!(shown(&ask(&server, "shop HTTPS")).starts_with("NOERROR aa | | ~ 60 SOA"));
    assert_eq!(a(&server, "shop ANY"), "192.0.2.1");
}

#[test]
fn places_choose_sites_the_narrowest_area_first() {
    let server = serve_with_places(
        "policy = \"geo\"\nsites = { de = { members = [\"192.0.2.1\"], areas = [\"country:DE\"] }, \
         eu = { members = [\"192.0.2.2\"], areas = [\"continent:EU\", \"asn:64500\"] }, \
         us = { members = [\"192.0.2.3\"], areas = [\"country:US\"] }, \
         ca = { members = [\"192.0.2.5\"], areas = [\"subdivision:US-CA\"] }, \
         office = { members = [\"192.0.2.6\"], areas = [\"nets:office\", \"net:10.9.0.0/16\"] }, \
         rest = { members = [\"192.0.2.4\"], areas = [\"*\"] } }\n",
    );
    for (question, address, expected_scope) in [
        ("shop A ecs=203.0.112.0/24", "192.0.2.1", 24),
        ("shop A ecs=203.0.113.128/25", "192.0.2.1", 25),
        ("shop A ecs=203.0.113.0/25", "192.0.2.2", 25),
        ("shop A ecs=203.0.112.0/16 from=1.2.3.4", "", 0),
        ("shop A ecs=2001:db8::/56", "192.0.2.2", 32),
        ("shop A ecs=198.51.100.0/24", "192.0.2.3", 24),
        ("shop A ecs=192.0.2.0/24", "192.0.2.5", 24),
        ("shop A ecs=10.0.0.0/24", "192.0.2.6", 13),
        ("shop A ecs=8.8.8.0/24", "192.0.2.4", 7),
        ("shop A ecs=8.8.8.0/0 from=198.51.100.7", "192.0.2.3", 0),
    ] {
        if address.is_empty() {
            continue;
        }
        assert_eq!((a(&server, question).as_str(), scope(&server, question)), (address, expected_scope), "{question}");
    }
    assert_eq!(a(&server, "shop A from=203.0.112.7"), "192.0.2.1");
}

#[test]
fn rfc7871_7_2_1_an_answer_for_everybody_has_scope_zero() {
    let server = serve("sites = { eu = [\"192.0.2.1\"], us = [\"192.0.2.2\"] }\n");
    assert_eq!(scope(&server, "shop A ecs=203.0.113.0/24"), 0);
    let one_left =
        serve(&format!("policy = \"weighted\"\nsites = {{ eu = [\"192.0.2.1\"], us = [\"192.0.2.2\"] }}\n{CHECK}"));
    assert_eq!(scope(&one_left, "shop A ecs=203.0.113.0/24"), 24);
    assert_eq!(scope(&one_left, "shop A ecs=203.0.113.0/22".replace("113", "112").as_str()), 22);
    tell(&one_left, "us", "192.0.2.2", false, 0);
    assert_eq!(scope(&one_left, "shop A ecs=203.0.113.0/24"), 0, "one site is fit: no choice was made");
}

#[test]
fn composed_policies_narrow_one_after_the_other() {
    let server = serve_with_places(&format!(
        "policy = [\"geo\", \"failover\"]\nfallback = [\"eu2\", \"eu1\", \"us\"]\n{CHECK}\
         sites = {{ eu1 = {{ members = [\"192.0.2.1\"], areas = [\"continent:EU\"] }}, \
         eu2 = {{ members = [\"192.0.2.2\"], areas = [\"continent:EU\"] }}, \
         us = {{ members = [\"192.0.2.3\"], areas = [\"country:US\"] }} }}\n"
    ));
    let europe = "shop A ecs=203.0.113.0/24";
    assert_eq!(a(&server, europe), "192.0.2.2");
    tell(&server, "eu2", "192.0.2.2", false, 0);
    assert_eq!(a(&server, europe), "192.0.2.1");
    tell(&server, "eu1", "192.0.2.1", false, 0);
    assert_eq!(a(&server, europe), "192.0.2.3", "a place without a fit site falls back");
}

#[test]
fn latency_leaves_the_near_sites() {
    let server = serve_with_places(
        "policy = [\"latency\", \"failover\"]\nfallback = [\"us\", \"eu\", \"ap\"]\n\
         latency = { \"country:DE\" = { eu = \"20ms\", us = \"110ms\" }, \"continent:EU\" = { eu = \"30ms\", us = \"35ms\" } }\n\
         sites = { eu = [\"192.0.2.1\"], us = [\"192.0.2.2\"], ap = [\"192.0.2.3\"] }\n",
    );
    assert_eq!(a(&server, "shop A ecs=203.0.113.0/24"), "192.0.2.1");
    assert_eq!(a(&server, "shop A ecs=2001:db8::/32"), "192.0.2.2", "both are near: the order decides");
    assert_eq!(a(&server, "shop A ecs=8.8.8.0/24"), "192.0.2.2", "nothing is known of this place");
}

fn counts(server: &Snapshot, clients: u32, random: bool) -> HashMap<String, f64> {
    let mut counts = HashMap::new();
    let mut draws = fastrand::Rng::with_seed(5);
    for client in 0..clients {
        let address = IpAddr::V4((0x0b00_0000 + client * 256).into());
        let draw = if random { draws.u64(..) } else { 0 };
        *counts.entry(a(server, &format!("shop A from={address} draw={draw}"))).or_default() += 1.0;
    }
    counts
}

/// Within five standard deviations of a binomial.
fn near(count: f64, share: f64, all: f64) -> bool {
    (count - share * all).abs() < 5.0 * (all * share * (1.0 - share)).sqrt()
}

#[test]
fn weights_hold_by_client_network_and_by_chance() {
    for (spread, random) in [("client", false), ("random", true)] {
        let server = serve(&format!(
            "policy = \"weighted\"\nspread = \"{spread}\"\nsites = {{ a = {{ members = [\"192.0.2.1\"], weight = 6 }}, \
             b = {{ members = [\"192.0.2.2\"], weight = 3 }}, c = {{ members = [\"192.0.2.3\"], weight = 1 }}, \
             d = {{ members = [\"192.0.2.4\"], weight = 0 }} }}\n"
        ));
        let counts = counts(&server, 10_000, random);
        for (address, share) in [("192.0.2.1", 0.6), ("192.0.2.2", 0.3), ("192.0.2.3", 0.1)] {
            assert!(near(counts[address], share, 10_000.0), "{spread}: {counts:?}");
        }
        assert!(!counts.contains_key("192.0.2.4"));
    }
}

#[test]
fn a_change_of_one_weight_moves_only_its_share() {
    let with = |weight: u32| {
        serve(&format!(
            "policy = \"weighted\"\nsites = {{ a = {{ members = [\"192.0.2.1\"], weight = {weight} }}, \
             b = {{ members = [\"192.0.2.2\"], weight = 5 }}, c = {{ members = [\"192.0.2.3\"], weight = 5 }} }}\n"
        ))
    };
    let (before, after) = (with(10), with(5));
    let moved = (0..4_000u32).filter(|client| {
        let question = format!("shop A from={}", IpAddr::V4((0x0b00_0000 + client * 256).into()));
        let (old, new) = (a(&before, &question), a(&after, &question));
        assert!(old == new || old == "192.0.2.1", "{old} → {new}");
        old != new
    });
    // From a half to a third of all: a sixth moves.
    assert!(near(moved.count() as f64, 1.0 / 6.0, 4_000.0));
}

#[test]
fn members_of_a_site_are_balanced_as_told() {
    let site = |balance: &str| {
        let weight = if balance.contains("weighted") { ", weight = 3" } else { "" };
        let first = format!("{{ address = \"192.0.2.1\"{weight} }}");
        serve(&format!("sites = {{ eu = {{ members = [{first}, \"192.0.2.2\", \"192.0.2.3\"], {balance} }} }}\n"))
    };
    assert_eq!(a(&site("count = 2"), "shop A"), "192.0.2.1 192.0.2.2");
    assert_eq!(a(&site("balance = \"failover\""), "shop A"), "192.0.2.1");
    let round = site("balance = \"round_robin\"");
    let turns: Vec<_> = (0..4).map(|_| a(&round, "shop A")).collect();
    assert_eq!(turns, ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.1"]);
    let counts = counts(&site("balance = \"weighted\""), 5_000, false);
    assert!(near(counts["192.0.2.1"], 0.6, 5_000.0) && near(counts["192.0.2.2"], 0.2, 5_000.0), "{counts:?}");
    let two = site("balance = \"weighted\", count = 2");
    assert_eq!(ask(&two, "shop A").answers.len(), 2);
    let sites = serve("policy = \"round_robin\"\nsites = { a = [\"192.0.2.1\"], b = [\"192.0.2.2\"] }");
    assert_eq!([a(&sites, "shop A"), a(&sites, "shop AAAA"), a(&sites, "shop A")], ["192.0.2.1", "", "192.0.2.2"]);
}

#[test]
fn a_site_may_answer_with_another_name() {
    let server = serve(&format!(
        "sites = {{ here = {{ members = [\"192.0.2.1\"] }}, there = {{ cname = \"away.example.test\" }} }}\n{CHECK}"
    ));
    tell(&server, "here", "192.0.2.1", true, 0);
    assert_eq!(a(&server, "shop A"), "192.0.2.1");
    tell(&server, "here", "192.0.2.1", false, 0);
    assert_eq!(shown(&ask(&server, "shop A")), "NOERROR aa | shop.~ 30 CNAME away.~; away.~ 60 A 192.0.2.250;");
    assert_eq!(shown(&ask(&server, "shop CNAME")), "NOERROR aa | shop.~ 30 CNAME away.~;");
}

#[test]
fn https_answers_follow_health() {
    let server = serve(&format!(
        "sites = {{ eu = [\"192.0.2.1\", \"192.0.2.2\", \"2001:db8::1\"] }}\nhttps = {{ alpn = [\"h2\", \"h3\"], port = 8443 }}\n{CHECK}"
    ));
    let https = |server: &Snapshot| a(server, "shop HTTPS");
    assert_eq!(https(&server), "1 . alpn=h2,h3, port=8443 ipv4hint=192.0.2.1,192.0.2.2, ipv6hint=2001:db8::1,");
    tell(&server, "eu", "192.0.2.1", false, 0);
    assert_eq!(https(&server), "1 . alpn=h2,h3, port=8443 ipv4hint=192.0.2.2, ipv6hint=2001:db8::1,");
    assert_eq!(a(&server, "shop SVCB"), "", "nobody asked for it");
}

#[test]
fn rfc9460_2_3_svcb_answers_follow_health_with_parameters_of_their_own() {
    let server = serve(&format!(
        "sites = {{ eu = [\"192.0.2.1\", \"2001:db8::1\"], us = [\"192.0.2.2\"] }}\nsvcb = {{ alpn = [\"dot\"], port = 8853 }}\n\
         https = {{ alpn = [\"h2\"] }}\n{CHECK}"
    ));
    assert_eq!(a(&server, "shop SVCB"), "1 . alpn=dot, port=8853 ipv4hint=192.0.2.1, ipv6hint=2001:db8::1,");
    assert_eq!(a(&server, "shop HTTPS"), "1 . alpn=h2, ipv4hint=192.0.2.1, ipv6hint=2001:db8::1,");
    tell(&server, "eu", "192.0.2.1", false, 0);
    assert_eq!(a(&server, "shop SVCB"), "1 . alpn=dot, port=8853 ipv6hint=2001:db8::1,");
    tell(&server, "eu", "2001:db8::1", false, 0);
    assert_eq!(a(&server, "shop SVCB"), "1 . alpn=dot, port=8853 ipv4hint=192.0.2.2,");
}

#[test]
fn min_up_withdraws_a_site_that_is_too_weak() {
    let server = serve(&format!(
        "sites = {{ a = {{ members = [\"192.0.2.1\", \"192.0.2.2\"], min_up = 2 }}, b = [\"192.0.2.3\"] }}\n{CHECK}"
    ));
    assert_eq!(a(&server, "shop A"), "192.0.2.1 192.0.2.2");
    tell(&server, "a", "192.0.2.1", false, 0);
    assert_eq!(a(&server, "shop A"), "192.0.2.3");
}

#[test]
fn all_down_is_answered_as_configured() {
    for (policy, expected) in [
        ("", "NOERROR aa | shop.~ 7 A 192.0.2.1;"),
        ("all_down = \"all\"", "NOERROR aa | shop.~ 7 A 192.0.2.1;"),
        ("all_down = \"last_known\"", "NOERROR aa | shop.~ 7 A 192.0.2.2;"),
        ("all_down = { addresses = [\"192.0.2.99\"] }", "NOERROR aa | shop.~ 7 A 192.0.2.99;"),
        ("all_down = { site = \"b\" }", "NOERROR aa | shop.~ 7 A 192.0.2.2;"),
        ("all_down = \"empty\"", "NOERROR aa | | ~ 7 SOA ns.other.test. noc.other.test. 1 3600 900 604800 60;"),
        ("all_down = \"refuse\"", "REFUSED"),
    ] {
        let server = serve(&format!("sites = {{ a = [\"192.0.2.1\"], b = [\"192.0.2.2\"] }}\n{policy}\n{CHECK}"));
        tell(&server, "a", "192.0.2.1", false, 0);
        tell(&server, "b", "192.0.2.2", true, 0);
        assert_eq!(a(&server, "shop A"), "192.0.2.2");
        tell(&server, "b", "192.0.2.2", false, 1);
        assert_eq!(shown(&ask(&server, "shop A")), expected, "{policy}");
    }
}

#[test]
fn a_state_in_doubt_is_answered_for_short() {
    let server = serve(
        "sites = { a = [\"192.0.2.1\"] }\nttl = \"60s\"\nttl_undecided = \"5s\"\nhealth_check = { interval = \"1h\", unhealthy = 3 }\n",
    );
    let ttl = |server: &Snapshot| ask(server, "shop A").answers[0].ttl;
    assert_eq!(ttl(&server), 5);
    for (up, expected) in [(true, 60), (false, 5), (true, 60), (false, 5), (false, 5), (false, 5)] {
        tell(&server, "a", "192.0.2.1", up, 0);
        assert_eq!(ttl(&server), expected);
    }
}

#[test]
fn too_many_falls_at_once_are_not_believed() {
    let members: Vec<_> = (1..=4).map(|n| format!("192.0.2.{n}")).collect();
    let server =
        serve(&format!("sites = {{ a = {members:?} }}\nmax_withdraw = \"50%\"\nwithdraw_window = \"60s\"\n{CHECK}"));
    members.iter().for_each(|member| tell(&server, "a", member, true, 0));
    tell(&server, "a", &members[0], false, 10);
    tell(&server, "a", &members[1], false, 20);
    assert_eq!(a(&server, "shop A"), "192.0.2.3 192.0.2.4");
    tell(&server, "a", &members[2], false, 30);
    assert_eq!(a(&server, "shop A"), "192.0.2.1 192.0.2.2 192.0.2.3 192.0.2.4");
    assert!(server.members(clocks(30)).iter().all(|member| member.held));
    // The first fall leaves the window; something has to look.
    tell(&server, "a", &members[3], true, 71);
    assert_eq!(a(&server, "shop A"), "192.0.2.4");
}

#[test]
fn a_member_that_comes_back_is_given_its_share_slowly() {
    let server = serve(&format!(
        "policy = \"weighted\"\nspread = \"random\"\nslow_start = \"100s\"\nsites = {{ a = [\"192.0.2.1\"], b = [\"192.0.2.2\"] }}\n{CHECK}"
    ));
    for (up, at) in [(true, 0), (false, 1), (true, 2)] {
        tell(&server, "a", "192.0.2.1", up, at);
    }
    let share = |server: &Snapshot| counts(server, 4_000, true)["192.0.2.1"];
    assert!(near(share(&server), 0.1 / 1.1, 4_000.0));
    tell(&server, "a", "192.0.2.1", true, 52);
    assert!(near(share(&server), 0.5 / 1.5, 4_000.0));
    tell(&server, "a", "192.0.2.1", true, 103);
    assert!(near(share(&server), 0.5, 4_000.0));
}

fn order(site: &str, member: Option<&str>, forced: Forced, from: u64, until: u64) -> Order {
    Order {
        target: Ordered {
            service: "shop".parse().unwrap(),
            site: site.parse().unwrap(),
            member: member.map(|member| member.parse().unwrap()),
        },
        forced,
        author: "ann".to_owned(),
        reason: "maintenance".to_owned(),
        from: clocks(from).unix,
        until: clocks(until).unix,
        standing: Standing::Given,
        stamp: Stamp::default(),
    }
}

#[test]
fn a_member_that_flaps_does_not_make_health_unbelievable() {
    let server = serve(&format!("sites = {{ a = [\"192.0.2.1\"], b = [\"192.0.2.2\"] }}\n{CHECK}"));
    tell(&server, "b", "192.0.2.2", true, 0);
    for second in 0..20 {
        tell(&server, "a", "192.0.2.1", second % 2 == 0, second);
        assert_eq!(a(&server, "shop A"), if second % 2 == 0 { "192.0.2.1" } else { "192.0.2.2" }, "{second}");
    }
}

#[test]
fn orders_win_over_checks_end_by_themselves_and_survive_reloads() {
    let text = document(&format!("sites = {{ a = [\"192.0.2.1\", \"192.0.2.2\"], b = [\"192.0.2.3\"] }}\n{CHECK}"));
    let server = compile(&text, "").unwrap();
    assert_eq!(a(&server, "shop A"), "192.0.2.1 192.0.2.2");
    server.order(order("a", Some("192.0.2.1"), Forced::Drain, 0, 100), clocks(1)).unwrap();
    assert_eq!(a(&server, "shop A"), "192.0.2.2");
    server.order(order("a", None, Forced::Down, 0, 50), clocks(2)).unwrap();
    assert_eq!(a(&server, "shop A"), "192.0.2.3", "site off");
    let reloaded = compile_all(&text, "", Some(&server)).0.unwrap();
    assert_eq!((a(&reloaded, "shop A").as_str(), reloaded.orders().len()), ("192.0.2.3", 2));
    tell(&reloaded, "b", "192.0.2.3", false, 3);
    assert_eq!(a(&reloaded, "shop A"), "192.0.2.3", "what an operator took out stays out, even when all are down");
    reloaded.withdraw(&order("a", None, Forced::Down, 0, 50).target, clocks(4));
    assert_eq!(a(&reloaded, "shop A"), "192.0.2.2");
    tell(&reloaded, "a", "192.0.2.2", true, 101);
    assert_eq!(a(&reloaded, "shop A"), "192.0.2.1 192.0.2.2", "the drain has ended");
    let far = order("a", None, Forced::Down, 0, 10_000_000);
    let nowhere = order("c", None, Forced::Down, 0, 9);
    let nobody = Order { author: String::new(), ..order("a", None, Forced::Down, 0, 9) };
    for (wrong, message) in [(far, "at most 90 days"), (nowhere, "no site \"c\""), (nobody, "author and reason")] {
        assert!(reloaded.order(wrong, clocks(0)).unwrap_err().to_string().contains(message));
    }
}

#[test]
fn explain_says_what_the_wire_says() {
    let server = serve_with_places(&format!(
        "policy = [\"geo\", \"weighted\"]\nall_down = \"last_known\"\n{CHECK}\
         sites = {{ eu1 = {{ members = [\"192.0.2.1\", \"192.0.2.11\"], areas = [\"continent:EU\"], weight = 2, balance = \"weighted\" }}, \
         eu2 = {{ members = [\"192.0.2.2\"], areas = [\"continent:EU\"] }}, \
         us = {{ members = [\"192.0.2.3\"], areas = [\"country:US\", \"*\"] }} }}\n"
    ));
    let name = Name::absolute("shop.example.test").unwrap();
    let members = [("eu1", "192.0.2.1"), ("eu1", "192.0.2.11"), ("eu2", "192.0.2.2"), ("us", "192.0.2.3")];
    let networks = [0xcb00_7000u32, 0xc633_6400, 0x0808_0800, 0xc000_0200];
    let mut random = fastrand::Rng::with_seed(3);
    for round in 0..2_000 {
        if round % 20 == 0 {
            let (site, member) = members[random.usize(..members.len())];
            tell(&server, site, member, random.bool(), round);
        }
        let prefix = random.u8(16..=32);
        let address = networks[random.usize(..networks.len())] | random.u32(..0x400);
        let address = IpAddr::V4((address & (u32::MAX << (32 - prefix))).into());
        let question = format!("shop A ecs={address}/{prefix}");
        let explained = server
            .explain(&name, "192.0.2.200".parse().unwrap(), Some((address, prefix)), &WhatIf::default(), clocks(round))
            .unwrap();
        let shown: Vec<_> = explained.ipv4.iter().map(ToString::to_string).collect();
        assert_eq!(a(&server, &question), shown.join(" "), "{question}: {:?}", explained.steps);
        assert_eq!(scope(&server, &question), explained.scope.min(prefix), "{question}: {:?}", explained.steps);
    }
    let down = vec![order("eu1", None, Forced::Down, 0, 1).target, order("eu2", None, Forced::Down, 0, 1).target];
    let what_if = WhatIf { down, draw: 0, turn: None };
    let europe = Some(("203.0.113.0".parse().unwrap(), 24));
    tell(&server, "us", "192.0.2.3", true, 9_000);
    let explained = server.explain(&name, "192.0.2.200".parse().unwrap(), europe, &what_if, clocks(9_000)).unwrap();
    assert_eq!(explained.site.as_deref(), Some("us"));
    assert_eq!(
        explained.steps[..3],
        [
            "the client is in continent:EU, continent:EU, * (/23)".to_owned(),
            "fit sites: us".to_owned(),
            "geo leaves us".to_owned(),
        ]
    );
}

#[test]
fn mistakes_in_services_are_told_at_their_keys() {
    let sites = "sites = { a = [\"192.0.2.1\"], b = [\"192.0.2.2\"] }\n";
    for (service, expected) in [
        ("sites = {}\n", "a service has 1 to 64 sites"),
        ("sites = { a = [] }\n", "a site without members answers nothing"),
        ("sites = { a = [\"x\"] }\n", "`x` is not an IP address"),
        ("sites = { a = [\"192.0.2.1\", \"192.0.2.1\"] }\n", "192.0.2.1 is given twice"),
        (&format!("{sites}policy = \"nearest\"\n"), "nearest"),
        (&format!("{sites}policy = [\"weighted\", \"geo\"]\n"), "nothing behind them has an effect"),
        (&format!("{sites}policy = \"geo\"\n"), "policy \"geo\" needs `areas` at the sites"),
        (&format!("{sites}policy = \"latency\"\n"), "needs a table `latency`"),
        (&format!("{sites}fallback = [\"c\"]\n"), "site \"c\" is not defined (defined: a, b)"),
        (&format!("{sites}all_down = {{ site = \"c\" }}\n"), "site \"c\" is not defined"),
        (&format!("{sites}all_down = \"maybe\"\n"), "all_down"),
        (&format!("{sites}slow_start = \"3s\"\n"), "`slow_start` has no effect without `health_check`"),
        (&format!("{sites}slow_start = \"3s\"\n{CHECK}"), "`slow_start` has no effect where nothing is weighted"),
        (&format!("{sites}spread = \"random\"\n"), "`spread` has no effect where nothing is weighted"),
        (&format!("{sites}withdraw_window = \"9s\"\n{CHECK}"), "has no effect without `max_withdraw`"),
        ("sites = { a = [{ address = \"192.0.2.1\", weight = 2 }] }\n", "a member's weight has no effect"),
        (&format!("{sites}ttl = \"5s\"\nttl_undecided = \"6s\"\n"), "longer than `ttl`"),
        (&format!("{sites}https = {{ alpn = [] }}\n"), "a protocol is missing"),
        (&format!("{sites}wieght = 1\n"), "unknown key `wieght`"),
        ("sites = { a = { members = [\"192.0.2.1\"], weight = 2 } }\n", "`weight` has no effect without policy"),
        ("sites = { a = { members = [\"192.0.2.1\"], min_up = 2 } }\n", "it would never be fit"),
        ("sites = { a = { members = [\"192.0.2.1\"], count = 17 } }\n", "16"),
        (
            "policy = \"geo\"\nsites = { a = { members = [\"192.0.2.1\"], areas = [\"country:DE\"] } }\n",
            "country:DE is known from a database only",
        ),
        (
            "policy = \"geo\"\nsites = { a = { members = [\"192.0.2.1\"], areas = [\"nets:x\"] } }\n",
            "nets \"x\" is not defined",
        ),
        ("policy = \"geo\"\nsites = { a = { members = [\"192.0.2.1\"], areas = [\"DE\"] } }\n", "`DE` is not an area"),
    ] {
        let (snapshot, problems) = compile_all(&document(service), "", None);
        assert!(snapshot.is_none() && problems.iter().any(|line| line.contains(expected)), "{service}: {problems:?}");
    }
    for (host, expected) in [
        ("shop.example.org", "no zone holds shop.example.org."),
        ("away.example.test", "away.example.test. has A records in the zone"),
        ("a..b", "is not a domain name"),
    ] {
        let text = document(sites).replace("shop.example.test", host);
        let (snapshot, problems) = compile_all(&text, "", None);
        assert!(snapshot.is_none() && problems.iter().any(|line| line.contains(expected)), "{host}: {problems:?}");
    }
}

#[test]
fn the_example_compiles_and_answers() {
    let document = include_str!("../../examples/gslb.toml");
    let server = compile(document, "").unwrap();
    assert_eq!(a(&server, "shop.demo.test. A ecs=10.1.2.0/24"), "127.0.0.1 127.0.0.2");
    assert_eq!(a(&server, "shop.demo.test. A ecs=10.9.0.0/24"), "127.0.0.3");
}
