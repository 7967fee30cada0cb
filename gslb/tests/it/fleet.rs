//! Many sites in virtual time: real nodes, whose checks, links and clocks are simulated. One test a row of what can fail.

use crate::support::{ask, clocks_in_millis, compile_at};
use portcullis_gslb::{
    Clocks, Forced, GatewayReport, Order, Ordered, PeerState, Presence, Sight, Snapshot, Standing, Why, Word,
};
use portcullis_health::Failure;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, LazyLock},
};
use tempfile::TempDir;

/// Nodes and the sites at which they stand.
const THREE: &[(&str, &str)] = &[("eu-1", "eu"), ("us-1", "us"), ("ap-1", "ap")];
const TWO: &[(&str, &str)] = &[("eu-1", "eu"), ("us-1", "us")];
const FIVE: &[(&str, &str)] = &[("eu-1", "eu"), ("eu-2", "eu"), ("us-1", "us"), ("us-2", "us"), ("ap-1", "ap")];

/// As in the design: interval 2 s, fall 2.
const SHOP: &str = "[public_service.shop]\nhost = \"shop.example.test\"\nfallback = [\"eu\", \"us\"]\nttl = \"20s\"\n\
                    sites = { eu = [\"192.0.2.1\"], us = [\"192.0.2.2\"], ap = [\"192.0.2.3\"] }\n\
                    health_check = { interval = \"2s\", timeout = \"1s\", healthy = 2, unhealthy = 2 }\n";
const STEP: u64 = 100;
const INTERVAL: u64 = 2_000;

struct Node {
    snapshot: Arc<Snapshot>,
    folder: TempDir,
    config: String,
    /// Where in the interval its checks lie.
    phase: u64,
    /// Seconds that its clock is ahead.
    ahead: i64,
    /// When it last heard each peer.
    heard: BTreeMap<String, (u64, Vec<u8>)>,
}

/// Nodes, members, and what is between them.
struct World {
    nodes: BTreeMap<String, Node>,
    now: u64,
    /// Members that do not serve.
    dead: BTreeSet<IpAddr>,
    /// Node and member between which no probe passes.
    unreachable: BTreeSet<(String, IpAddr)>,
    /// Nodes between which no document passes.
    cut: BTreeSet<(String, String)>,
}

fn certificate(folder: &TempDir) {
    static PEM: LazyLock<(String, String)> = LazyLock::new(|| {
        let made = rcgen::generate_simple_self_signed(vec!["node".to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    });
    for (file, text) in [("node.crt", &PEM.0), ("ca.crt", &PEM.0), ("node.key", &PEM.1)] {
        std::fs::write(folder.path().join(file), text).unwrap();
    }
}

fn document(node: &str, site: &str, nodes: &[(&str, &str)], fleet: &str, service: &str) -> String {
    let peers = nodes.iter().enumerate().filter(|(_, (name, _))| *name != node);
    let peers = peers.map(|(index, (name, site))| {
        format!("[dns.fleet.peer.{name}]\nsite = \"{site}\"\naddress = \"127.0.0.1:{}\"\n", 9_000 + index)
    });
    format!(
        "[dns]\nnsid = \"{node}\"\n[dns.fleet]\nnode = \"{node}\"\nsite = \"{site}\"\ncertificate = \"node\"\ntrust = \"nodes\"\n{fleet}{}\
         [zone.x]\nname = \"example.test\"\nns = [\"ns.other.test\"]\n\
         soa = {{ mname = \"ns.other.test\", rname = \"noc.other.test\", serial = 1 }}\n{service}",
        peers.collect::<String>()
    )
}

impl World {
    fn new(nodes: &[(&str, &str)], fleet: &str, service: &str) -> Self {
        let mut world = Self {
            nodes: BTreeMap::new(),
            now: 0,
            dead: BTreeSet::new(),
            unreachable: BTreeSet::new(),
            cut: BTreeSet::new(),
        };
        for (index, (name, site)) in nodes.iter().enumerate() {
            let folder = tempfile::tempdir().unwrap();
            certificate(&folder);
            let config = document(name, site, nodes, fleet, service);
            let (snapshot, problems) = compile_at(folder.path(), &config, None, clocks_in_millis(0));
            let snapshot = snapshot.unwrap_or_else(|| panic!("{problems:#?}"));
            let phase = index as u64 * 300;
            let node = Node { snapshot, folder, config, phase, ahead: 0, heard: BTreeMap::new() };
            world.nodes.insert((*name).to_owned(), node);
        }
        world
    }

    fn clocks(&self, node: &Node) -> Clocks {
        let clocks = clocks_in_millis(self.now);
        Clocks { unix: clocks.unix.checked_add_signed(node.ahead).unwrap(), ..clocks }
    }

    /// Lets so many seconds pass.
    fn run(&mut self, seconds: u64) {
        self.run_until(seconds, |_| false);
    }

    /// Until something is so; gives the milliseconds that it took, or `None` after so many seconds.
    fn run_until(&mut self, seconds: u64, is_so: impl Fn(&Self) -> bool) -> Option<u64> {
        let begun = self.now;
        while self.now < begun + seconds * 1_000 {
            self.step();
            if is_so(self) {
                return Some(self.now - begun);
            }
        }
        None
    }

    fn step(&mut self) {
        self.now += STEP;
        for (name, node) in &self.nodes {
            let clocks = self.clocks(node);
            if self.now % INTERVAL == node.phase % INTERVAL {
                for member in node.snapshot.members(clocks) {
                    let passes = !self.unreachable.contains(&(name.clone(), member.member));
                    let serves = passes && !self.dead.contains(&member.member);
                    let outcome = if serves { Ok(()) } else { Err(Failure::Timeout) };
                    node.snapshot.observe(&(member.service, member.site, member.member), outcome, clocks);
                }
            }
            node.snapshot.tick(clocks);
        }
        self.exchange();
    }

    /// As long polls do: what is new at once, and a sign of life each second.
    fn exchange(&mut self) {
        let each = self.nodes.iter().map(|(name, node)| {
            let clocks = self.clocks(node);
            (name.clone(), node.snapshot.publish(clocks).unwrap().to_vec(), clocks.unix)
        });
        let published: Vec<_> = each.collect();
        let now = self.now;
        let mut deliveries = Vec::new();
        for (name, node) in &self.nodes {
            for (author, octets, their_clock) in published.iter().filter(|(author, ..)| author != name) {
                let last = node.heard.get(author);
                let is_due = last.is_none_or(|(at, known)| known != octets || now >= at + 1_000);
                if is_due && !self.is_cut(name, author) {
                    deliveries.push((name.clone(), author.clone(), octets.clone(), *their_clock, self.clocks(node)));
                }
            }
        }
        for (name, author, octets, their_clock, clocks) in deliveries {
            let node = self.nodes.get_mut(&name).unwrap();
            node.snapshot.hear(&author.parse().unwrap(), &octets, their_clock, clocks).unwrap();
            node.heard.insert(author, (now, octets));
        }
    }

    fn is_cut(&self, one: &str, other: &str) -> bool {
        let has = |a: &str, b: &str| self.cut.contains(&(a.to_owned(), b.to_owned()));
        has(one, other) || has(other, one)
    }

    /// No document passes between these and all others.
    fn cut_off(&mut self, side: &[&str]) {
        let names: Vec<_> = self.nodes.keys().cloned().collect();
        for name in names.iter().filter(|name| !side.contains(&name.as_str())) {
            self.cut.extend(side.iter().map(|own| ((*own).to_owned(), name.clone())));
        }
    }

    /// No probe passes from these nodes to these members.
    fn hide(&mut self, nodes: &[&str], members: &[&str]) {
        for node in nodes {
            self.unreachable.extend(members.iter().map(|member| ((*node).to_owned(), member.parse().unwrap())));
        }
    }

    fn kill(&mut self, member: &str) {
        self.dead.insert(member.parse().unwrap());
    }

    fn answer(&self, node: &str) -> String {
        let message = ask(&self.nodes[node].snapshot, "shop A");
        let data: Vec<_> = message.answers.iter().map(|record| record.data.to_string()).collect();
        data.join(" ")
    }

    fn answers(&self) -> Vec<String> {
        self.nodes.keys().map(|name| self.answer(name)).collect()
    }

    fn all_answer(&self, expected: &str) -> bool {
        self.answers().iter().all(|answer| answer == expected)
    }

    fn member(&self, node: &str, member: &str) -> portcullis_gslb::MemberStatus {
        let node = &self.nodes[node];
        let member = member.parse::<IpAddr>().unwrap();
        node.snapshot.members(self.clocks(node)).into_iter().find(|status| status.member == member).unwrap()
    }

    fn why(&self, node: &str, member: &str) -> Why {
        self.member(node, member).votes.unwrap().why
    }

    fn order(&self, node: &str, site: &str, forced: Forced) {
        self.say(node, site, forced, Standing::Given);
    }

    fn say(&self, node: &str, site: &str, forced: Forced, standing: Standing) {
        let node = &self.nodes[node];
        let clocks = self.clocks(node);
        let order = Order {
            target: Ordered { service: "shop".parse().unwrap(), site: site.parse().unwrap(), member: None },
            forced,
            author: "ann".to_owned(),
            reason: "drill".to_owned(),
            from: clocks.unix,
            until: clocks.unix + 14_400,
            standing,
            stamp: node.snapshot.stamp(clocks).unwrap(),
        };
        node.snapshot.order(order, clocks).unwrap();
    }

    /// The process ends without a word, and another begins in its folder.
    fn restart(&mut self, name: &str) {
        let (now, clocks) = (self.now, self.clocks(&self.nodes[name]));
        let node = self.nodes.get_mut(name).unwrap();
        let (snapshot, problems) = compile_at(node.folder.path(), &node.config, None, clocks);
        node.snapshot = snapshot.unwrap_or_else(|| panic!("{now}: {problems:#?}"));
        node.heard.clear();
    }
}

#[test]
fn a_member_that_dies_is_replaced_on_all_nodes_within_six_seconds() {
    for begin in (0..INTERVAL).step_by(500) {
        let mut world = World::new(THREE, "", SHOP);
        world.run(20);
        assert!(world.all_answer("192.0.2.1"), "{:?}", world.answers());
        world.now += begin;
        world.kill("192.0.2.1");
        let took = world.run_until(10, |world| world.all_answer("192.0.2.2")).expect("another site is answered");
        assert!(took <= 6_000, "{took} ms from {begin}");
        let votes = world.member("us-1", "192.0.2.1").votes.unwrap();
        assert!(votes.own == Word::Down && votes.down > 0);
        world.dead.clear();
        assert!(world.run_until(10, |world| world.all_answer("192.0.2.1")).is_some(), "and it comes back");
    }
}

#[test]
fn in_a_cut_each_side_judges_by_its_own_probes_and_answers_what_it_can_reach() {
    let mut world = World::new(FIVE, "", SHOP);
    world.run(20);
    world.cut_off(&["us-1", "us-2"]);
    world.hide(&["us-1", "us-2"], &["192.0.2.1", "192.0.2.3"]);
    world.hide(&["eu-1", "eu-2", "ap-1"], &["192.0.2.2"]);
    world.run(15);
    assert_eq!(world.answers(), ["192.0.2.1", "192.0.2.1", "192.0.2.1", "192.0.2.2", "192.0.2.2"]);
    assert_eq!(world.member("us-1", "192.0.2.1").votes.unwrap().of, 2, "who is not heard leaves the count");
    let status = |node: &str| {
        let node = &world.nodes[node];
        node.snapshot.fleet(world.clocks(node)).unwrap()
    };
    assert_eq!(status("eu-1").peers.iter().filter(|peer| peer.state == PeerState::Stale).count(), 2);
    assert!(!status("us-1").isolated);
    world.run(60);
    let node = &world.nodes["eu-1"];
    let lost = node.snapshot.fleet(world.clocks(node)).unwrap().peers;
    assert_eq!(lost.iter().filter(|peer| peer.state == PeerState::Unreachable).count(), 2);
    world.cut.clear();
    world.unreachable.clear();
    assert!(world.run_until(10, |world| world.all_answer("192.0.2.1")).is_some(), "{:?}", world.answers());
}

#[test]
fn documents_that_are_cut_off_while_probes_pass_move_no_answer() {
    let mut world = World::new(THREE, "", SHOP);
    world.run(20);
    world.cut_off(&["us-1"]);
    assert_eq!(world.run_until(120, |world| !world.all_answer("192.0.2.1")), None);
    assert_eq!(world.why("us-1", "192.0.2.1"), Why::Isolated, "loss of all peers changes nothing but votes");
}

#[test]
fn a_failover_that_needs_a_peer_holds_while_site_and_witnesses_vanish_together() {
    for (needs, expected) in [("probe", 6_000), ("probe+peer", 36_000)] {
        let mut world = World::new(TWO, &format!("failover_needs = \"{needs}\"\nhold = \"30s\"\n"), SHOP);
        world.run(20);
        world.cut_off(&["us-1"]);
        world.hide(&["us-1"], &["192.0.2.1"]);
        let took = world.run_until(60, |world| world.answer("us-1") != "192.0.2.1").expect("held, not for ever");
        assert!((expected - 6_000..=expected + 6_000).contains(&took), "{needs}: {took} ms");
        assert_eq!(world.answer("eu-1"), "192.0.2.1");
    }
}

#[test]
fn a_node_with_a_bad_network_is_outvoted() {
    let mut world = World::new(THREE, "", SHOP);
    world.run(20);
    world.hide(&["ap-1"], &["192.0.2.1", "192.0.2.2"]);
    assert_eq!(world.run_until(120, |world| !world.all_answer("192.0.2.1")), None);
    let status = world.member("ap-1", "192.0.2.1");
    let votes = status.votes.unwrap();
    assert_eq!((votes.own, votes.down, votes.of), (Word::Down, 1, 3));
}

#[test]
fn a_node_that_sees_nothing_distrusts_itself_and_then_fails_open() {
    let all = ["192.0.2.1", "192.0.2.2", "192.0.2.3"];
    let mut world = World::new(THREE, "hold = \"30s\"\n", SHOP);
    world.run(20);
    world.kill("192.0.2.2");
    world.run(60);
    world.cut_off(&["us-1"]);
    world.hide(&["us-1"], &all);
    world.run(12);
    assert_eq!(world.answer("us-1"), "192.0.2.1", "as it was before all fell");
    assert_eq!(world.why("us-1", "192.0.2.1"), Why::Held);
    assert_eq!(world.member("us-1", "192.0.2.2").share, 0, "what was down before stays down");
    let fleet = |world: &World| {
        let node = &world.nodes["us-1"];
        node.snapshot.fleet(world.clocks(node)).unwrap()
    };
    assert!(fleet(&world).isolated);
    assert_eq!(fleet(&world).sight, Sight::Blind);
    let nsid = |world: &World| String::from_utf8_lossy(&nsid(&world.nodes["us-1"].snapshot)).into_owned();
    assert!(nsid(&world).contains("us-1 (isolated)"), "{}", nsid(&world));
    world.run(40);
    assert_eq!(world.why("us-1", "192.0.2.2"), Why::FailOpen);
    assert_eq!(world.member("us-1", "192.0.2.2").share, 1_000, "all are answered");
    world.unreachable.clear();
    world.cut.clear();
    world.run(15);
    assert!(!fleet(&world).isolated && fleet(&world).sight == Sight::Clear);
    assert_eq!(world.member("us-1", "192.0.2.2").share, 0);
    assert!(world.all_answer("192.0.2.1") && !nsid(&world).contains("isolated"));
}

fn nsid(snapshot: &Snapshot) -> Vec<u8> {
    let question = crate::support::question("shop A option=3:");
    snapshot.answer(&question.octets, &question.asked).unwrap()
}

#[test]
fn clocks_that_are_off_are_shown_and_change_neither_freshness_nor_the_order_of_orders() {
    let mut world = World::new(THREE, "", SHOP);
    world.nodes.get_mut("us-1").unwrap().ahead = 1_800;
    world.nodes.get_mut("ap-1").unwrap().ahead = -86_400;
    world.run(20);
    assert!(world.all_answer("192.0.2.1"));
    let eu = &world.nodes["eu-1"];
    let peers = eu.snapshot.fleet(world.clocks(eu)).unwrap().peers;
    let skews: Vec<_> = peers.iter().map(|peer| (peer.skew_seconds, peer.state)).collect();
    assert_eq!(skews, [(-86_400, PeerState::Fresh), (1_800, PeerState::Fresh)]);
    world.kill("192.0.2.1");
    assert!(world.run_until(6, |world| world.all_answer("192.0.2.2")).is_some());
    world.dead.clear();
    world.run(20);
    // Given at a node whose clock is half an hour ahead, taken back at one whose clock is not.
    world.order("us-1", "eu", Forced::Down);
    world.run(1);
    assert_eq!(world.answer("us-1"), "192.0.2.2");
    assert_eq!(world.answer("eu-1"), "192.0.2.1", "it begins when its time has come");
    world.say("eu-1", "eu", Forced::Down, Standing::TakenBack);
    world.run(1);
    assert_eq!((world.answer("us-1"), world.answer("eu-1")), ("192.0.2.1".to_owned(), "192.0.2.1".to_owned()));
}

#[test]
fn a_restarted_node_answers_at_once_from_disk_then_from_peers_then_as_configured() {
    let mut world = World::new(THREE, "", SHOP);
    world.run(20);
    world.kill("192.0.2.1");
    world.run(10);
    let save = |world: &World, name: &str| {
        let node = &world.nodes[name];
        node.snapshot.save_memory(world.clocks(node)).unwrap();
    };
    save(&world, "us-1");
    // The disk knows, and neither check nor peer has spoken.
    world.restart("us-1");
    assert_eq!(world.answer("us-1"), "192.0.2.2");
    assert_eq!(world.why("us-1", "192.0.2.1"), Why::Recalled);
    let epoch = |world: &World| {
        let text = world.nodes["us-1"].snapshot.publish(world.clocks(&world.nodes["us-1"])).unwrap();
        serde_json::from_slice::<serde_json::Value>(&text).unwrap()["epoch"].as_u64().unwrap()
    };
    let before = epoch(&world);
    world.restart("us-1");
    world.run(1);
    assert!(world.all_answer("192.0.2.2"));
    assert_ne!(epoch(&world), 0);
    assert!(epoch(&world) >= before);
    // What is on the disk is old: peers are asked, and nothing is known before.
    save(&world, "us-1");
    world.nodes.get_mut("us-1").unwrap().ahead = 700;
    world.restart("us-1");
    assert_eq!(world.answer("us-1"), "192.0.2.1");
    world.exchange();
    assert_eq!(world.answer("us-1"), "192.0.2.2", "by the peers' word");
    // Nobody knows.
    for (initial, expected) in [("up", "192.0.2.1"), ("down", "192.0.2.1 192.0.2.2")] {
        let service =
            format!("{SHOP}initial = \"{initial}\"\n").replace("us = [\"192.0.2.2\"]", "us = [\"192.0.2.2\"]");
        let world = World::new(THREE, "", &service);
        let status = world.member("eu-1", "192.0.2.1");
        assert_eq!(status.state == portcullis_health::HealthState::Down, initial == "down");
        assert!(expected.contains(&world.answer("eu-1")), "the first answer never waits: {}", world.answer("eu-1"));
    }
}

#[test]
fn checks_that_all_break_at_once_trip_the_guard_and_all_are_answered() {
    let service = format!("{SHOP}max_withdraw = \"50%\"\n");
    let mut world = World::new(THREE, "", &service);
    world.run(20);
    ["192.0.2.1", "192.0.2.2", "192.0.2.3"].iter().for_each(|member| world.kill(member));
    world.run(10);
    assert!(world.all_answer("192.0.2.1"), "{:?}", world.answers());
    let status = world.member("eu-1", "192.0.2.1");
    assert!(status.held && status.share == 1_000);
    assert_eq!(world.nodes["eu-1"].snapshot.sites(clocks_in_millis(world.now))[0].mood, Some("held"));
}

#[test]
fn a_document_of_another_author_or_an_older_one_is_not_taken() {
    let mut world = World::new(THREE, "", SHOP);
    world.run(20);
    let of = |world: &World, name: &str| {
        let node = &world.nodes[name];
        node.snapshot.publish(world.clocks(node)).unwrap().to_vec()
    };
    let (old, eu) = (of(&world, "us-1"), of(&world, "eu-1"));
    world.kill("192.0.2.3");
    world.run(10);
    let now = clocks_in_millis(world.now);
    let ap = &world.nodes["ap-1"].snapshot;
    for (octets, peer, expected) in [
        // Who proved to be us-1 brings the word of eu-1.
        (eu.clone(), "us-1", "written by node \"eu-1\""),
        (old, "us-1", "older than what is known"),
        (eu, "mars-1", "no such peer"),
        (b"{".to_vec(), "us-1", "no document"),
        (
            String::from_utf8(of(&world, "us-1"))
                .unwrap()
                .replace("\"site\":\"us\",\"epoch\"", "\"site\":\"eu\",\"epoch\"")
                .into(),
            "us-1",
            "at site \"eu\"",
        ),
    ] {
        let error = ap.hear(&peer.parse().unwrap(), &octets, now.unix, now).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_node_brings_its_own_orders_alone_and_none_of_far_ahead() {
    let mut world = World::new(THREE, "", SHOP);
    world.run(20);
    world.order("us-1", "eu", Forced::Down);
    let us = &world.nodes["us-1"];
    let text = String::from_utf8(us.snapshot.publish(world.clocks(us)).unwrap().to_vec()).unwrap();
    let now = clocks_in_millis(world.now);
    let given = format!("\"stamp\":{{\"at\":{}", now.unix);
    let ahead = format!("\"stamp\":{{\"at\":{}", now.unix + 86_400);
    let of_another = text.replace("\"count\":0,\"node\":\"us-1\"", "\"count\":0,\"node\":\"eu-1\"");
    assert!(text.contains(&given) && text != of_another, "{text}");
    for (document, expected) in
        [(&of_another, "192.0.2.1"), (&text.replace(&given, &ahead), "192.0.2.1"), (&text, "192.0.2.2")]
    {
        world.nodes["ap-1"].snapshot.hear(&"us-1".parse().unwrap(), document.as_bytes(), now.unix, now).unwrap();
        assert_eq!(world.answer("ap-1"), expected, "{document}");
    }
}

#[test]
fn no_mutation_of_a_document_makes_a_node_panic() {
    let mut world = World::new(THREE, "", SHOP);
    world.run(20);
    world.order("us-1", "ap", Forced::Drain);
    let us = &world.nodes["us-1"];
    let whole = us.snapshot.publish(world.clocks(us)).unwrap().to_vec();
    let (now, peer) = (clocks_in_millis(world.now), "us-1".parse().unwrap());
    let mut random = fastrand::Rng::with_seed(7);
    let mut taken = 0;
    for _ in 0..20_000 {
        let mut octets = whole.clone();
        for _ in 0..random.usize(1..4) {
            let Some(at) = random.choice(0..octets.len()) else { break };
            match random.u8(..4) {
                0 => octets[at] = random.u8(..),
                1 => _ = octets.remove(at),
                2 => octets.insert(at, *random.choice(b"0123456789\"{}[],:-e.").unwrap()),
                _ => octets.truncate(at.max(1)),
            }
        }
        taken += u32::from(world.nodes["ap-1"].snapshot.hear(&peer, &octets, now.unix, now).is_ok());
        world.answer("ap-1");
    }
    assert!(taken > 0, "some are documents still");
}

#[test]
fn a_site_that_lies_has_one_vote() {
    // A node that says everything of others is down: its documents are what its probes say.
    let mut world = World::new(FIVE, "", SHOP);
    world.run(20);
    world.hide(&["ap-1"], &["192.0.2.1", "192.0.2.2"]);
    assert_eq!(world.run_until(60, |world| !world.all_answer("192.0.2.1")), None);
}

#[test]
fn load_moves_shares_by_steps_and_comes_to_rest() {
    let service = SHOP.replace("fallback = [\"eu\", \"us\"]", "policy = \"weighted\"\nload_target = \"80%\"");
    let mut world = World::new(THREE, "", &service);
    world.run(20);
    let share = |world: &World| {
        let node = &world.nodes["us-1"];
        let sites = node.snapshot.sites(world.clocks(node));
        sites.into_iter().find(|site| site.site.as_str() == "eu").unwrap().load_share
    };
    let mut last = 1_000u16;
    for second in 0..400 {
        // Clients follow the share, and so does the load.
        let load = u16::try_from(u32::from(last) * 1_400 / 1_000).unwrap();
        world.nodes["eu-1"].snapshot.report(GatewayReport { load: Some(load), ..GatewayReport::default() });
        world.run(1);
        let now = share(&world);
        assert!(last.abs_diff(now) <= 100, "{second}: {last} {now}");
        last = now;
    }
    assert!((520..=620).contains(&last), "{last}");
    assert!(world.member("us-1", "192.0.2.1").share < 700);
    // Who turns requests away is full, whatever it says.
    world.nodes["eu-1"].snapshot.report(GatewayReport { load: Some(10), shed: 50, ..GatewayReport::default() });
    world.run(200);
    assert!(share(&world) < 400, "{}", share(&world));
}

#[test]
fn an_order_spreads_outlives_its_node_and_is_taken_back_anywhere() {
    let mut world = World::new(THREE, "", SHOP);
    world.run(20);
    world.order("us-1", "eu", Forced::Down);
    let took = world.run_until(5, |world| world.all_answer("192.0.2.2")).expect("everywhere");
    assert!(took <= 1_200, "{took} ms");
    // The node is gone; what was ordered there holds, also at a node that begins anew and hears of it only later.
    world.cut_off(&["us-1"]);
    assert_eq!(world.run_until(90, |world| world.answer("ap-1") != "192.0.2.2"), None);
    world.say("eu-1", "eu", Forced::Down, Standing::TakenBack);
    world.run(2);
    assert_eq!(world.answers(), ["192.0.2.1", "192.0.2.1", "192.0.2.2"]);
    world.cut.clear();
    assert!(world.run_until(3, |world| world.all_answer("192.0.2.1")).is_some(), "the newest for a target wins");
    // The same target, twice within one second.
    world.order("us-1", "eu", Forced::Down);
    world.run(1);
    world.order("ap-1", "eu", Forced::Up);
    assert!(world.run_until(3, |world| world.all_answer("192.0.2.1")).is_some());
}

#[test]
fn a_locked_service_takes_no_order_from_anywhere() {
    let mut world = World::new(THREE, "", &format!("{SHOP}locked = true\n"));
    world.run(20);
    let node = &world.nodes["us-1"];
    let clocks = world.clocks(node);
    let order = Order {
        target: Ordered { service: "shop".parse().unwrap(), site: "eu".parse().unwrap(), member: None },
        forced: Forced::Down,
        author: "ann".to_owned(),
        reason: "drill".to_owned(),
        from: clocks.unix,
        until: clocks.unix + 60,
        standing: Standing::Given,
        stamp: node.snapshot.stamp(clocks).unwrap(),
    };
    assert!(node.snapshot.order(order, clocks).unwrap_err().to_string().contains("is locked"));
    assert!(world.all_answer("192.0.2.1"));
}

#[test]
fn a_site_whose_gateways_all_drain_is_left_by_everybody() {
    let mut world = World::new(FIVE, "", SHOP);
    world.run(20);
    let drain = |world: &World, node: &str| {
        let report = GatewayReport { presence: Presence::Draining, ..GatewayReport::default() };
        world.nodes[node].snapshot.report(report);
    };
    drain(&world, "eu-1");
    assert_eq!(world.run_until(5, |world| !world.all_answer("192.0.2.1")), None, "one of two");
    drain(&world, "eu-2");
    let took = world.run_until(5, |world| world.all_answer("192.0.2.2")).expect("all leave");
    assert!(took <= 1_200, "{took} ms");
    assert_eq!(world.why("ap-1", "192.0.2.1"), Why::OwnSite);
}

#[test]
fn a_site_knows_when_it_is_down_and_is_not_believed_when_it_says_up() {
    let mut world = World::new(THREE, "", SHOP);
    world.run(20);
    world.hide(&["eu-1"], &["192.0.2.1"]);
    assert!(world.run_until(6, |world| world.all_answer("192.0.2.2")).is_some());
    assert_eq!(world.why("us-1", "192.0.2.1"), Why::OwnSite);
    world.unreachable.clear();
    world.run(20);
    world.hide(&["us-1", "ap-1"], &["192.0.2.1"]);
    assert!(world.run_until(6, |world| world.all_answer("192.0.2.2")).is_some());
}

#[test]
fn a_node_without_some_members_leaves_them_to_the_vantages_named() {
    let service = format!("{SHOP}vantages = [\"eu\", \"us-1\"]\n");
    let world = World::new(THREE, "", &service);
    for (node, checks) in [("eu-1", 3), ("us-1", 3), ("ap-1", 0)] {
        assert_eq!(world.nodes[node].snapshot.checks(), checks, "{node}");
    }
}

#[test]
fn nodes_with_other_services_are_pointed_out() {
    let mut world = World::new(THREE, "", SHOP);
    world.run(2);
    let differs = |world: &World| -> Vec<bool> {
        let node = &world.nodes["eu-1"];
        node.snapshot.fleet(world.clocks(node)).unwrap().peers.iter().map(|peer| peer.config_differs).collect()
    };
    assert_eq!(differs(&world), [false, false]);
    let us = world.nodes.get_mut("us-1").unwrap();
    us.config = us.config.replace("ttl = \"20s\"", "ttl = \"21s\"");
    world.restart("us-1");
    world.run(2);
    assert_eq!(differs(&world), [false, true]);
}

#[test]
fn mistakes_in_a_fleet_are_told_where_they_stand() {
    let folder = tempfile::tempdir().unwrap();
    certificate(&folder);
    for (from, to, expected) in [
        ("trust = \"nodes\"", "trust = \"none\"", "none"),
        ("node = \"eu-1\"", "node = \"us-1\"", "no peer of itself"),
        ("site = \"eu\"\n", "site = \"eu\"\nmin_vantages = 4\n", "would always be alone"),
        ("site = \"eu\"\n", "site = \"eu\"\nquorum = 9\n", "nothing would ever be down"),
        ("site = \"eu\"\n", "site = \"eu\"\nstale_after = \"1s\"\n", "`stale_after` is from"),
        ("ttl = \"20s\"", "ttl = \"20s\"\nvantages = [\"mars\"]", "mars"),
        ("ttl = \"20s\"", "ttl = \"20s\"\nload_target = \"80%\"", "without policy \"weighted\""),
        ("site = \"eu\"\n", "site = \"eu\"\nfailover_needs = \"luck\"\n", "probe+peer"),
    ] {
        let config = document("eu-1", "eu", THREE, "", SHOP);
        assert!(config.contains(from), "{from}");
        let (snapshot, problems) = compile_at(folder.path(), &config.replacen(from, to, 1), None, clocks_in_millis(0));
        assert!(snapshot.is_none() && problems.join("\n").contains(expected), "{to}: {problems:#?}");
    }
    // Each node asks every other: a limit is told, and not found out by who is last.
    let names: Vec<_> = (0..64).map(|n| format!("ap-{n}")).collect();
    let nodes: Vec<_> = [("eu-1", "eu")].into_iter().chain(names.iter().map(|name| (name.as_str(), "ap"))).collect();
    for (count, fits) in [(64, true), (65, false)] {
        let config = document("eu-1", "eu", &nodes[..count], "", SHOP);
        let (snapshot, problems) = compile_at(folder.path(), &config, None, clocks_in_millis(0));
        assert_eq!(snapshot.is_some(), fits, "{problems:#?}");
        assert_eq!(problems.join("\n").contains("a fleet has at most 63 peers"), !fits, "{problems:#?}");
    }
}
