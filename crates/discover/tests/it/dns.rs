//! DNS over real sockets: what a source publishes, and when.

use crate::server::{Over, Say, Server, alias, records, service};
use hickory_resolver::proto::{op::ResponseCode, rr::RecordType};
use portcullis_discover::{Discovery, DnsSource, Families, Nameservers, Seek, Servers, Source};
use std::{sync::Arc, time::Duration};

const LONG: Duration = Duration::from_secs(20);

fn through(servers: &[&Server]) -> Nameservers {
    Nameservers {
        servers: Servers::Listed(servers.iter().map(|server| server.address).collect()),
        timeout: Duration::from_millis(300),
        attempts: 1,
        ttl: Duration::from_millis(100)..=Duration::from_secs(3_600),
    }
}

fn source(seek: Seek, through: Nameservers) -> DnsSource {
    DnsSource { seek, families: Families::Ipv4, grace: Duration::from_millis(300), through: Arc::new(through) }
}

fn host(name: &str, server: &Server) -> Source {
    Source::Dns(source(Seek::Addresses { name: name.parse().unwrap(), port: 80 }, through(&[server])))
}

fn services(name: &str, server: &Server) -> Source {
    Source::Dns(source(Seek::Services { name: name.parse().unwrap() }, through(&[server])))
}

fn known(discovery: &Discovery, source: &Source) -> Vec<String> {
    discovery.snapshot(source).iter().map(|found| found.address.to_string()).collect()
}

/// Waits for news until the source has these endpoints.
async fn becomes(discovery: &Discovery, source: &Source, expected: &[&str]) {
    let mut changes = discovery.changes();
    let wait = async {
        while known(discovery, source) != expected {
            changes.changed().await.unwrap();
        }
    };
    if tokio::time::timeout(LONG, wait).await.is_err() {
        panic!("{:?} in place of {expected:?}", known(discovery, source));
    }
}

#[tokio::test]
async fn a_start_waits_for_the_first_answers() {
    let server = Server::start().await;
    server.addresses("shop.internal", &["10.0.0.2", "10.0.0.1"], 60);
    let source = host("shop.internal", &server);
    let discovery = Discovery::start([source.clone(), source.clone()], None);
    discovery.settled(LONG).await;
    assert_eq!(known(&discovery, &source), ["10.0.0.1:80", "10.0.0.2:80"]);
    assert_eq!(discovery.snapshot(&source).as_slice()[0].host.as_deref(), Some("shop.internal"));
    let status = discovery.status();
    assert_eq!((status.len(), status[0].endpoints, &status[0].trouble), (1, 2, &None));
    assert!(status[0].changed.is_some());
    assert_eq!(server.count(), 1, "two upstreams share one source");
}

#[tokio::test]
async fn endpoints_come_and_go_as_the_ttl_ends_and_equal_answers_are_no_news() {
    let mut server = Server::start().await;
    server.addresses("shop.internal", &["10.0.0.1"], 0);
    let source = host("shop.internal", &server);
    let discovery = Discovery::start([source.clone()], None);
    becomes(&discovery, &source, &["10.0.0.1:80"]).await;
    let changes = discovery.changes();
    server.heard_in_all(server.count() + 3).await;
    assert!(!changes.has_changed().unwrap(), "the same answer three times");
    server.addresses("shop.internal", &["10.0.0.2", "10.0.0.1"], 0);
    becomes(&discovery, &source, &["10.0.0.1:80", "10.0.0.2:80"]).await;
    server.addresses("shop.internal", &["10.0.0.2"], 0);
    becomes(&discovery, &source, &["10.0.0.2:80"]).await;
}

#[tokio::test]
async fn a_ttl_of_a_second_is_a_second_and_a_maximum_shortens_it() {
    let mut server = Server::start().await;
    server.addresses("short.internal", &["10.0.0.1"], 1);
    server.addresses("long.internal", &["10.0.0.1"], 3_600);
    // The alias is shorter than what it leads to.
    let chain = [vec![alias("alias.internal", "long.internal", 1)], records("long.internal", &["10.0.0.1"], 3_600)];
    server.set("alias.internal", RecordType::A, Say::Records(chain.concat()));
    let mut bent = through(&[&server]);
    bent.ttl = Duration::from_millis(100)..=Duration::from_millis(200);
    let bent = Source::Dns(source(Seek::Addresses { name: "long.internal".parse().unwrap(), port: 81 }, bent));
    let (short, long, alias) =
        (host("short.internal", &server), host("long.internal", &server), host("alias.internal", &server));
    let discovery = Discovery::start([short, alias.clone()], None);
    let times = |server: &Server, name: &str| {
        server.heard(name, RecordType::A).iter().map(|heard| heard.at).collect::<Vec<_>>()
    };
    server.heard_in_all(6).await;
    for name in ["short.internal", "alias.internal"] {
        let times = times(&server, name);
        for pair in times.windows(2) {
            assert!(pair[1] - pair[0] >= Duration::from_millis(950), "{name} {:?}", pair[1] - pair[0]);
        }
    }
    assert_eq!(known(&discovery, &alias), ["10.0.0.1:80"]);
    drop(discovery);
    let _once = Discovery::start([long], None);
    let often = Discovery::start([bent], None);
    server.heard_in_all(server.count() + 4).await;
    drop(often);
    assert!(times(&server, "long.internal").len() >= 4, "no cache may stand between");
}

#[tokio::test]
async fn services_bring_hosts_ports_weights_and_priorities() {
    let server = Server::start().await;
    let list = [(10, 30, 8080, "a.internal"), (10, 70, 8081, "b.internal"), (20, 0, 8082, "c.internal")];
    let list = list.map(|entry| service("_http._tcp.shop.internal", entry, 60));
    server.set("_http._tcp.shop.internal", RecordType::SRV, Say::Records(list.to_vec()));
    for (name, address) in [("a.internal", "10.0.0.1"), ("b.internal", "10.0.0.2"), ("c.internal", "10.0.0.3")] {
        server.addresses(name, &[address], 60);
    }
    let source = services("_http._tcp.shop.internal", &server);
    let discovery = Discovery::start([source.clone()], None);
    discovery.settled(LONG).await;
    let found: Vec<_> = discovery.snapshot(&source).iter().cloned().collect();
    let told: Vec<_> = found.iter().map(|f| (f.address.to_string(), f.weight, f.priority, f.host.as_deref())).collect();
    assert_eq!(
        told,
        [
            ("10.0.0.1:8080".to_owned(), 30, 0, Some("a.internal")),
            ("10.0.0.2:8081".to_owned(), 70, 0, Some("b.internal")),
            ("10.0.0.3:8082".to_owned(), 1, 1, Some("c.internal")),
        ]
    );
}

#[tokio::test]
async fn an_answer_too_long_for_udp_is_fetched_over_tcp() {
    let server = Server::start().await;
    let many: Vec<_> = (1..=200).map(|i| format!("10.0.0.{i}")).collect();
    let many = records("shop.internal", &many.iter().map(String::as_str).collect::<Vec<_>>(), 60);
    server.set("shop.internal", RecordType::A, Say::Truncated(many));
    let source = host("shop.internal", &server);
    let discovery = Discovery::start([source.clone()], None);
    discovery.settled(LONG).await;
    assert_eq!(discovery.snapshot(&source).len(), 200);
    let over: Vec<_> = server.heard("shop.internal", RecordType::A).iter().map(|heard| heard.over).collect();
    assert_eq!(over, [Over::Udp, Over::Tcp]);
}

#[tokio::test]
async fn a_server_that_fails_or_dies_changes_nothing() {
    let mut server = Server::start().await;
    server.addresses("shop.internal", &["10.0.0.1"], 0);
    let source = host("shop.internal", &server);
    let discovery = Discovery::start([source.clone()], None);
    becomes(&discovery, &source, &["10.0.0.1:80"]).await;
    let changes = discovery.changes();
    for say in [Say::Code(ResponseCode::ServFail), Say::Code(ResponseCode::Refused), Say::Silence] {
        server.set("shop.internal", RecordType::A, say.clone());
        server.heard_in_all(server.count() + 1).await;
        server.addresses("shop.internal", &["10.0.0.1"], 0);
        server.heard_in_all(server.count() + 1).await;
    }
    server.stop();
    let trouble = async {
        while discovery.status()[0].trouble.is_none() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONG, trouble).await.unwrap();
    assert_eq!(known(&discovery, &source), ["10.0.0.1:80"]);
    assert!(!changes.has_changed().unwrap());
}

#[tokio::test]
async fn a_name_that_vanishes_keeps_its_endpoints_for_the_grace_only() {
    let mut server = Server::start().await;
    server.addresses("shop.internal", &["10.0.0.1"], 0);
    let source = host("shop.internal", &server);
    let discovery = Discovery::start([source.clone()], None);
    becomes(&discovery, &source, &["10.0.0.1:80"]).await;
    server.set("shop.internal", RecordType::A, Say::NoSuchName);
    server.heard_in_all(server.count() + 1).await;
    assert_eq!(known(&discovery, &source), ["10.0.0.1:80"]);
    becomes(&discovery, &source, &[]).await;
    assert!(discovery.status()[0].trouble.as_ref().unwrap().contains("A shop.internal: no such record"));
    server.addresses("shop.internal", &["10.0.0.1"], 0);
    becomes(&discovery, &source, &["10.0.0.1:80"]).await;
}

#[tokio::test]
async fn a_start_without_dns_is_bounded_and_recovers() {
    let server = Server::start().await;
    server.set("shop.internal", RecordType::A, Say::Silence);
    let source = host("shop.internal", &server);
    let discovery = Discovery::start([source.clone()], None);
    discovery.settled(Duration::from_millis(50)).await;
    assert!(known(&discovery, &source).is_empty());
    assert!(discovery.status()[0].changed.is_none());
    server.addresses("shop.internal", &["10.0.0.1"], 60);
    becomes(&discovery, &source, &["10.0.0.1:80"]).await;
}

#[tokio::test]
async fn when_one_server_is_dead_the_other_is_asked() {
    let (dead, server) = (Server::start().await, Server::start().await);
    dead.stop();
    server.addresses("shop.internal", &["10.0.0.1"], 60);
    let through = through(&[&dead, &server]);
    let source = Source::Dns(source(Seek::Addresses { name: "shop.internal".parse().unwrap(), port: 80 }, through));
    let discovery = Discovery::start([source.clone()], None);
    becomes(&discovery, &source, &["10.0.0.1:80"]).await;
}

#[tokio::test]
async fn a_server_that_fails_has_not_the_last_word() {
    let codes = [ResponseCode::ServFail, ResponseCode::Refused, ResponseCode::NotImp].map(Say::Code);
    for say in codes.into_iter().chain([Say::Silence]) {
        let (failing, worse, server) = (Server::start().await, Server::start().await, Server::start().await);
        failing.set("shop.internal", RecordType::A, say.clone());
        worse.set("shop.internal", RecordType::A, say.clone());
        server.addresses("shop.internal", &["10.0.0.1"], 60);
        let through = through(&[&failing, &worse, &server]);
        let source = Source::Dns(source(Seek::Addresses { name: "shop.internal".parse().unwrap(), port: 80 }, through));
        let discovery = Discovery::start([source.clone()], None);
        discovery.settled(LONG).await;
        assert_eq!(known(&discovery, &source), ["10.0.0.1:80"], "{say:?}");
    }
}

#[tokio::test]
async fn more_attempts_get_an_answer_out_of_a_server_that_loses_some() {
    let mut server = Server::start().await;
    server.set("shop.internal", RecordType::A, Say::Silence);
    let mut through = through(&[&server]);
    through.attempts = 10;
    let source = Source::Dns(source(Seek::Addresses { name: "shop.internal".parse().unwrap(), port: 80 }, through));
    let discovery = Discovery::start([source.clone()], None);
    server.heard_in_all(1).await;
    server.addresses("shop.internal", &["10.0.0.1"], 60);
    becomes(&discovery, &source, &["10.0.0.1:80"]).await;
    assert_eq!(discovery.status()[0].trouble, None);
}

#[tokio::test]
async fn families_decide_what_is_asked() {
    for (families, a, aaaa) in [(Families::Both, 1, 1), (Families::Ipv4, 1, 0), (Families::Ipv6, 0, 1)] {
        let server = Server::start().await;
        server.addresses("shop.internal", &["10.0.0.1"], 60);
        server.set("shop.internal", RecordType::AAAA, Say::Records(records("shop.internal", &["2001:db8::1"], 60)));
        let seek = Seek::Addresses { name: "shop.internal".parse().unwrap(), port: 80 };
        let source = Source::Dns(DnsSource { families, ..source(seek, through(&[&server])) });
        let discovery = Discovery::start([source.clone()], None);
        discovery.settled(LONG).await;
        assert_eq!(discovery.snapshot(&source).len(), a + aaaa);
        assert_eq!(server.heard("shop.internal", RecordType::A).len(), a);
        assert_eq!(server.heard("shop.internal", RecordType::AAAA).len(), aaaa);
    }
}

#[tokio::test]
async fn what_a_server_adds_unasked_does_not_count() {
    let server = Server::start().await;
    let answer = [records("shop.internal", &["10.0.0.1"], 60), records("other.internal", &["10.0.0.66"], 60)];
    server.set("shop.internal", RecordType::A, Say::Records(answer.concat()));
    let source = host("shop.internal", &server);
    let discovery = Discovery::start([source.clone()], None);
    discovery.settled(LONG).await;
    assert_eq!(known(&discovery, &source), ["10.0.0.1:80"]);
}

#[tokio::test]
async fn a_circle_of_aliases_ends() {
    let server = Server::start().await;
    server.set("a.internal", RecordType::A, Say::Records(vec![alias("a.internal", "b.internal", 60)]));
    server.set("b.internal", RecordType::A, Say::Records(vec![alias("b.internal", "a.internal", 60)]));
    let source = host("a.internal", &server);
    let discovery = Discovery::start([source.clone()], None);
    let changes = discovery.changes();
    discovery.settled(LONG).await;
    assert!(!changes.has_changed().unwrap(), "nothing after nothing is no news");
    assert!(known(&discovery, &source).is_empty());
    assert!(discovery.status()[0].trouble.is_some());
    assert!(server.count() < 20, "{}", server.count());
}

#[tokio::test]
async fn a_source_survives_reloads_that_keep_it_and_ends_with_the_last_that_has_it() {
    let mut server = Server::start().await;
    server.addresses("kept.internal", &["10.0.0.1"], 3_600);
    server.addresses("gone.internal", &["10.0.0.2"], 0);
    server.addresses("new.internal", &["10.0.0.3"], 3_600);
    let (kept, gone, new) =
        (host("kept.internal", &server), host("gone.internal", &server), host("new.internal", &server));
    let first = Discovery::start([kept.clone(), gone.clone()], None);
    first.settled(LONG).await;
    let mut changes = first.changes();
    changes.mark_unchanged();
    let second = Discovery::start([kept.clone(), new.clone()], Some(&first));
    drop(first);
    assert_eq!(known(&second, &kept), ["10.0.0.1:80"], "at once, without a new question");
    assert!(known(&second, &gone).is_empty());
    changes.changed().await.unwrap();
    assert_eq!(known(&second, &new), ["10.0.0.3:80"], "the receiver serves over reloads");
    assert_eq!(server.heard("kept.internal", RecordType::A).len(), 1);
    // Whoever was told to stop asks no more: a third source's questions bound the time.
    let asked = server.heard("gone.internal", RecordType::A).len();
    server.addresses("tick.internal", &["10.0.0.4"], 0);
    let _tick = Discovery::start([host("tick.internal", &server)], None);
    server.heard_in_all(server.count() + 5).await;
    assert!(server.heard("gone.internal", RecordType::A).len() <= asked + 1);
}
