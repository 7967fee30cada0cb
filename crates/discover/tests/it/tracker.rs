//! What answers mean, in simulated time.

use portcullis_discover::{
    Answer, DnsSource, ENDPOINTS_MAX, Families, IpVersion, Nameservers, Question, SERVICES_MAX, Seek, Servers, Service,
    Tracker, Trouble,
};
use std::{
    collections::HashMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

const A: IpVersion = IpVersion::V4;
const AAAA: IpVersion = IpVersion::V6;

/// A source, the zone it asks, and a clock.
struct World {
    tracker: Tracker,
    zone: HashMap<Question, Answer>,
    start: Instant,
    now: Instant,
    asked: Vec<(u64, String)>,
}

impl World {
    fn new(seek: Seek, families: Families) -> Self {
        let through = Nameservers { servers: Servers::System, ..Nameservers::default() };
        let source = DnsSource { seek, families, grace: seconds(30), through: Arc::new(through) };
        let start = Instant::now();
        Self { tracker: Tracker::new(source), zone: HashMap::new(), start, now: start, asked: Vec::new() }
    }

    /// `shop:80`, both families.
    fn host() -> Self {
        Self::new(Seek::Addresses { name: "shop".parse().unwrap(), port: 80 }, Families::Both)
    }

    /// The service `_s`, over IPv4.
    fn service() -> Self {
        Self::new(Seek::Services { name: "_s".parse().unwrap() }, Families::Ipv4)
    }

    fn set(&mut self, question: Question, answer: Answer) -> &mut Self {
        self.zone.insert(question, answer);
        self
    }

    fn addresses(&mut self, name: &str, list: &[&str], ttl: u64) -> &mut Self {
        let addresses: Vec<IpAddr> = list.iter().map(|address| address.parse().unwrap()).collect();
        let version = if addresses.first().is_some_and(IpAddr::is_ipv6) { AAAA } else { A };
        self.set(address(name, version), Answer::Addresses { addresses, ttl: seconds(ttl) })
    }

    /// Priority, weight, port and host of each.
    fn services(&mut self, list: &[(u16, u16, u16, &str)], ttl: u64) -> &mut Self {
        let services = list.iter().map(|&(priority, weight, port, host)| Service {
            priority,
            weight,
            port,
            host: host.parse().unwrap(),
        });
        let services = services.collect();
        self.set(Question::Services("_s".parse().unwrap()), Answer::Services { services, ttl: seconds(ttl) })
    }

    /// Everything that happens up to `second`, that second included. What the zone does not have is nothing.
    fn until(&mut self, second: u64) -> Vec<String> {
        let end = self.start + seconds(second);
        while self.now <= end {
            loop {
                let due = self.tracker.due(self.now);
                if due.is_empty() {
                    break;
                }
                for question in due {
                    self.asked.push(((self.now - self.start).as_secs(), question.to_string()));
                    let answer = self.zone.get(&question).cloned().unwrap_or(Answer::Nothing { ttl: None });
                    self.tracker.take(question, answer, 0.0, self.now);
                }
            }
            let wake = self.tracker.wake(self.now);
            assert!(wake > self.now, "it would never sleep");
            if wake > end {
                break;
            }
            self.now = wake;
        }
        self.now = end;
        self.known()
    }

    /// `address weight/priority`.
    fn known(&self) -> Vec<String> {
        let endpoints = self.tracker.endpoints(self.now);
        endpoints.iter().map(|found| format!("{} {}/{}", found.address, found.weight, found.priority)).collect()
    }

    fn asked_at(&self, question: &str) -> Vec<u64> {
        self.asked.iter().filter(|(_, asked)| asked == question).map(|(second, _)| *second).collect()
    }
}

fn address(name: &str, version: IpVersion) -> Question {
    Question::Addresses(name.parse().unwrap(), version)
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

#[test]
fn addresses_of_both_families_become_endpoints_with_their_name() {
    let mut world = World::host();
    world.addresses("shop", &["10.0.0.2", "10.0.0.1", "10.0.0.1"], 60).addresses("shop", &["2001:db8::1"], 60);
    assert_eq!(world.until(0), ["10.0.0.1:80 1/0", "10.0.0.2:80 1/0", "[2001:db8::1]:80 1/0"]);
    let hosts = world.tracker.endpoints(world.now);
    assert!(hosts.iter().all(|found| found.host.as_deref() == Some("shop")));
    assert_eq!(world.tracker.trouble(world.now), None);
}

#[test]
fn only_the_wanted_family_is_asked_for() {
    for (families, expected) in [(Families::Ipv4, "A shop"), (Families::Ipv6, "AAAA shop")] {
        let mut world = World::new(Seek::Addresses { name: "shop".parse().unwrap(), port: 80 }, families);
        world.until(0);
        assert_eq!(world.asked, [(0, expected.to_owned())]);
    }
}

#[test]
fn a_ttl_is_obeyed_and_bent_into_the_configured_range() {
    for (ttl, expected) in
        [(10, &[0, 10, 20, 30][..]), (0, &(0..=30).collect::<Vec<_>>()), (1, &(0..=30).collect::<Vec<_>>())]
    {
        let mut world = World::host();
        world.addresses("shop", &["10.0.0.1"], ttl).until(30);
        assert_eq!(world.asked_at("A shop"), expected, "ttl {ttl}");
    }
    let mut world = World::host();
    world.addresses("shop", &["10.0.0.1"], 86_400).until(7_200);
    assert_eq!(world.asked_at("A shop"), [0, 3_600, 7_200]);
}

#[test]
fn each_question_has_its_own_time() {
    let mut world = World::service();
    world.services(&[(0, 1, 80, "a"), (0, 1, 80, "b")], 60);
    world.addresses("a", &["10.0.0.1"], 20).addresses("b", &["10.0.0.2"], 45).until(60);
    assert_eq!(world.asked_at("SRV _s"), [0, 60]);
    assert_eq!(world.asked_at("A a"), [0, 20, 40, 60]);
    assert_eq!(world.asked_at("A b"), [0, 45]);
}

#[test]
fn endpoints_come_and_go_with_the_answers() {
    let mut world = World::host();
    for (second, list, expected) in [
        (0, &["10.0.0.1"][..], &["10.0.0.1:80 1/0"][..]),
        (10, &["10.0.0.1", "10.0.0.2"], &["10.0.0.1:80 1/0", "10.0.0.2:80 1/0"]),
        (20, &["10.0.0.2"], &["10.0.0.2:80 1/0"]),
        (30, &["10.0.0.3"], &["10.0.0.3:80 1/0"]),
    ] {
        assert_eq!(world.addresses("shop", list, 10).until(second), expected, "{second}");
    }
}

#[test]
fn what_cannot_be_asked_keeps_its_last_answer_for_good() {
    for trouble in [Trouble::Timeout, Trouble::Failing, Trouble::Refused, Trouble::Unreachable, Trouble::Broken] {
        let mut world = World::host();
        world.addresses("shop", &["10.0.0.1"], 10).until(0);
        world.set(address("shop", A), Answer::Failed(trouble)).set(address("shop", AAAA), Answer::Failed(trouble));
        assert_eq!(world.until(86_400), ["10.0.0.1:80 1/0"]);
        assert_eq!(world.tracker.trouble(world.now).unwrap().1, trouble);
        world.addresses("shop", &["10.0.0.2"], 10);
        assert_eq!(world.until(86_430), ["10.0.0.2:80 1/0"], "a server that is back is heard within 30 s");
    }
}

#[test]
fn failures_are_repeated_at_growing_pauses_with_jitter() {
    let mut world = World::host();
    world.set(address("shop", A), Answer::Failed(Trouble::Timeout)).until(120);
    assert_eq!(world.asked_at("A shop"), [0, 1, 3, 7, 15, 31, 61, 91]);
    for (draw, millis) in [(0.0, 8_000), (0.5, 6_000), (1.0, 4_000)] {
        let mut world = World::new(Seek::Addresses { name: "shop".parse().unwrap(), port: 80 }, Families::Ipv4);
        for _ in 0..4 {
            world.tracker.take(address("shop", A), Answer::Failed(Trouble::Timeout), draw, world.now);
        }
        assert_eq!((world.tracker.wake(world.now) - world.now).as_millis(), millis, "draw {draw}");
    }
}

#[test]
fn a_name_that_has_nothing_keeps_its_endpoints_for_the_grace() {
    for ttl in [None, Some(seconds(0)), Some(seconds(86_400))] {
        let mut world = World::host();
        world.addresses("shop", &["10.0.0.1"], 10).until(0);
        world.set(address("shop", A), Answer::Nothing { ttl });
        assert_eq!(world.until(39), ["10.0.0.1:80 1/0"]);
        assert_eq!(world.tracker.trouble(world.now).unwrap().1, Trouble::Nothing);
        assert!(world.tracker.wake(world.now) <= world.start + seconds(40), "somebody has to see the grace end");
        assert!(world.until(40).is_empty(), "{ttl:?}");
        world.addresses("shop", &["10.0.0.1"], 10);
        assert_eq!(world.until(70), ["10.0.0.1:80 1/0"], "it is asked for every 30 s at least");
    }
}

#[test]
fn an_answer_within_the_grace_ends_it() {
    let mut world = World::host();
    world.addresses("shop", &["10.0.0.1"], 10).until(0);
    world.set(address("shop", A), Answer::Nothing { ttl: None }).until(30);
    world.addresses("shop", &["10.0.0.1"], 10).until(35);
    world.set(address("shop", A), Answer::Nothing { ttl: None });
    assert_eq!(world.until(64), ["10.0.0.1:80 1/0"]);
}

#[test]
fn a_family_that_goes_is_not_missed_while_the_other_is_there() {
    let mut world = World::host();
    world.addresses("shop", &["10.0.0.1"], 10).addresses("shop", &["2001:db8::1"], 10).until(0);
    world.set(address("shop", AAAA), Answer::Nothing { ttl: None });
    assert_eq!(world.until(10), ["10.0.0.1:80 1/0"]);
    assert_eq!(world.tracker.trouble(world.now), None);
    world.addresses("shop", &["2001:db8::1"], 10).until(20);
    world.set(address("shop", A), Answer::Failed(Trouble::Failing));
    assert_eq!(world.until(100), ["10.0.0.1:80 1/0", "[2001:db8::1]:80 1/0"], "a failure is not an absence");
}

#[test]
fn services_bring_ports_weights_and_ranks_of_priority() {
    let mut world = World::service();
    world.services(&[(20, 5, 8080, "c"), (10, 60, 80, "a"), (10, 40, 81, "b"), (30, 1, 80, "d")], 60);
    for (name, of) in [("a", "10.0.0.1"), ("b", "10.0.0.2"), ("c", "10.0.0.3"), ("d", "10.0.0.4")] {
        world.addresses(name, &[of], 60);
    }
    assert_eq!(world.until(0), ["10.0.0.1:80 60/0", "10.0.0.2:81 40/0", "10.0.0.3:8080 5/1", "10.0.0.4:80 1/2"]);
    let hosts: Vec<_> = world.tracker.endpoints(world.now).iter().map(|found| found.host.clone().unwrap()).collect();
    assert_eq!(hosts.iter().map(|host| &**host).collect::<Vec<_>>(), ["a", "b", "c", "d"]);
}

#[test]
fn a_targets_share_does_not_grow_with_its_addresses() {
    let mut world = World::service();
    world.services(&[(0, 10, 80, "a"), (0, 10, 80, "b")], 60);
    world.addresses("a", &["10.0.0.1", "10.0.0.2"], 60).addresses("b", &["10.0.0.3"], 60);
    assert_eq!(world.until(0), ["10.0.0.1:80 300/0", "10.0.0.2:80 300/0", "10.0.0.3:80 600/0"]);
}

#[test]
fn rfc2782_a_weight_of_zero_is_a_very_small_chance() {
    let mut world = World::service();
    world.services(&[(0, 0, 80, "a"), (0, 10, 80, "b")], 60);
    world.addresses("a", &["10.0.0.1"], 60).addresses("b", &["10.0.0.2"], 60);
    assert_eq!(world.until(0), ["10.0.0.1:80 1/0", "10.0.0.2:80 600/0"]);
}

#[test]
fn hosts_that_no_service_names_are_dropped_at_once_and_asked_no_more() {
    let mut world = World::service();
    world.services(&[(0, 1, 80, "a"), (0, 1, 80, "b")], 10);
    world.addresses("a", &["10.0.0.1"], 5).addresses("b", &["10.0.0.2"], 5).until(0);
    world.services(&[(0, 1, 80, "b"), (0, 1, 80, "c")], 10).addresses("c", &["10.0.0.3"], 5);
    assert_eq!(world.until(10), ["10.0.0.2:80 1/0", "10.0.0.3:80 1/0"]);
    world.until(40);
    assert_eq!(world.asked_at("A a").last(), Some(&10));
}

#[test]
fn a_service_that_fails_keeps_its_hosts_and_their_addresses_go_on() {
    let mut world = World::service();
    world.services(&[(0, 1, 80, "a")], 10).addresses("a", &["10.0.0.1"], 10).until(0);
    world.set(Question::Services("_s".parse().unwrap()), Answer::Failed(Trouble::Failing));
    assert_eq!(world.until(600), ["10.0.0.1:80 1/0"]);
    world.addresses("a", &["10.0.0.9"], 10);
    assert_eq!(world.until(610), ["10.0.0.9:80 1/0"]);
    world.set(Question::Services("_s".parse().unwrap()), Answer::Nothing { ttl: None });
    world.until(640);
    assert!(world.until(671).is_empty());
}

#[test]
fn one_host_of_a_service_that_vanishes_keeps_its_addresses_for_the_grace() {
    let mut world = World::service();
    world.services(&[(0, 1, 80, "a"), (0, 1, 80, "b")], 3_600);
    world.addresses("a", &["10.0.0.1"], 10).addresses("b", &["10.0.0.2"], 10).until(0);
    world.set(address("a", A), Answer::Nothing { ttl: None });
    assert_eq!(world.until(39), ["10.0.0.1:80 1/0", "10.0.0.2:80 1/0"]);
    assert_eq!(world.until(40), ["10.0.0.2:80 1/0"]);
}

#[test]
fn what_cannot_be_connected_to_is_no_endpoint() {
    let mut world = World::host();
    world.addresses("shop", &["0.0.0.0", "224.0.0.1", "10.0.0.1"], 60).addresses("shop", &["::", "ff02::1"], 60);
    assert_eq!(world.until(0), ["10.0.0.1:80 1/0"]);
    let mut world = World::service();
    world.services(&[(0, 1, 0, "a")], 60).addresses("a", &["10.0.0.1"], 60);
    assert!(world.until(0).is_empty());
    assert_eq!(world.tracker.trouble(world.now).unwrap().1, Trouble::Nothing);
}

#[test]
fn answers_without_end_are_cut_off() {
    let mut world = World::host();
    let many: Vec<_> = (0..1_500).map(|i| format!("10.0.{}.{}", i / 250, i % 250 + 1)).collect();
    world.addresses("shop", &many.iter().map(String::as_str).collect::<Vec<_>>(), 60);
    assert_eq!(world.until(0).len(), ENDPOINTS_MAX);
    let mut world = World::service();
    let hosts: Vec<_> = (0..500).map(|i| format!("h{i:03}")).collect();
    world.services(&hosts.iter().map(|host| (0, 1, 80, host.as_str())).collect::<Vec<_>>(), 60).until(0);
    assert_eq!(world.asked.len(), 1 + SERVICES_MAX);
}
