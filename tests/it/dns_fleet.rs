//! Many sites, live: three processes that tell one another what they see, over wires that are cut.

use crate::support::{
    authority::{Authority, Leaf},
    client,
    dns::{LISTENER, answer, run},
    eventually,
    gateway::Gateway,
    have,
    relay::Relay,
};
use hickory_proto::rr::RecordType;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    net::TcpListener,
    time::{Duration, Instant},
};

const NODES: [(&str, &str); 3] = [("eu-1", "eu"), ("us-1", "us"), ("ap-1", "ap")];

/// Three nodes; the wire from each to each other can be cut.
struct Fleet {
    ca: Authority,
    nodes: BTreeMap<&'static str, Gateway>,
    wires: BTreeMap<(&'static str, &'static str), Relay>,
    port: u16,
}

/// How often nodes hear of one another, and how often they ask members.
#[derive(Clone, Copy)]
struct Pace {
    fleet: &'static str,
    checks: &'static str,
}

/// So that a test is short.
const QUICK: Pace = Pace {
    fleet: "poll = \"300ms\"\nstale_after = \"1500ms\"\nforget_after = \"3s\"\nsettle = \"100ms\"\n",
    checks: "interval = \"300ms\", timeout = \"200ms\", unhealthy = 2, healthy = 1",
};
/// As it would be in service: down after two failures, two seconds from one to the next, all else at its default.
const USUAL: Pace = Pace { fleet: "", checks: "interval = \"2s\", timeout = \"1s\", unhealthy = 2" };

fn config(
    node: &str,
    site: &str,
    wires: &BTreeMap<(&'static str, &'static str), Relay>,
    port: u16,
    pace: Pace,
) -> String {
    let Pace { fleet, checks } = pace;
    let peers = NODES.iter().filter(|(name, _)| *name != node).map(|(name, site)| {
        let wire = wires.iter().find(|((from, to), _)| *from == node && to == name).unwrap().1.address;
        format!("[dns.fleet.peer.{name}]\nsite = \"{site}\"\naddress = \"{wire}\"\n")
    });
    let listener = LISTENER.replace("[dns]\n", "[dns]\nnsid = \"NODE\"\n").replace("NODE", node);
    format!(
        "{listener}[listener.peers]\naddress = \"127.0.0.1:0\"\nprotocol = \"verdicts\"\ncertificates = [\"node\"]\n\
         tls = {{ client_auth = \"required\", trust = \"nodes\" }}\n\
         [certificate.node]\ncert = {{ file = \"node.crt\" }}\nkey = {{ file = \"node.key\" }}\n[trust.nodes]\nca = {{ file = \"ca.crt\" }}\n\
         [dns.fleet]\nnode = \"{node}\"\nsite = \"{site}\"\ncertificate = \"node\"\ntrust = \"nodes\"\n{fleet}{}\
         [zone.x]\nname = \"example.test\"\nns = [\"ns1.example.test\"]\nrecords = [\"ns1 60 A 127.0.0.1\"]\n\
         soa = {{ mname = \"ns1.example.test\", rname = \"noc.example.test\", serial = 1 }}\n\
         [public_service.shop]\nhost = \"shop.example.test\"\nport = {port}\nttl = \"20s\"\nfallback = [\"eu\", \"us\"]\n\
         sites = {{ eu = [\"127.0.0.1\"], us = [\"127.0.0.2\"] }}\n\
         health_check = {{ {checks} }}\n",
        peers.collect::<String>()
    )
}

impl Fleet {
    async fn start(port: u16, pace: Pace) -> Self {
        let ca = Authority::new("nodes");
        let pairs = NODES.iter().flat_map(|(from, _)| NODES.iter().map(move |(to, _)| (*from, *to)));
        let wires: BTreeMap<_, _> = pairs.filter(|(from, to)| from != to).map(|pair| (pair, Relay::start())).collect();
        let mut fleet = Self { ca, nodes: BTreeMap::new(), wires, port };
        for (node, site) in NODES {
            let folder = tempfile::tempdir().unwrap();
            fleet.ca.leaf(&[node]).write(folder.path(), "node");
            std::fs::write(folder.path().join("ca.crt"), &fleet.ca.certificate_pem).unwrap();
            let gateway = Gateway::start_in(folder, &config(node, site, &fleet.wires, port, pace)).await;
            fleet.nodes.insert(node, gateway);
            fleet.lead(node);
        }
        fleet
    }

    /// The wires to a node lead to where it listens now.
    fn lead(&self, node: &str) {
        let at = self.nodes[node].addr("peers");
        self.wires.iter().filter(|((_, to), _)| *to == node).for_each(|(_, wire)| wire.lead_to(at));
    }

    fn wires_of(&self, node: &str) -> impl Iterator<Item = &Relay> {
        self.wires.iter().filter(move |((from, to), _)| *from == node || *to == node).map(|(_, wire)| wire)
    }

    fn shop(&self, node: &str) -> String {
        answer(self.nodes[node].addr("dns"), "shop.example.test.", RecordType::A).join(" ")
    }

    /// How long it takes until these answer so.
    async fn answer(&self, nodes: &[&str], expected: &str) -> Duration {
        let begun = Instant::now();
        eventually(&format!("{nodes:?} answer {expected}"), async || {
            nodes.iter().all(|node| self.shop(node) == expected).then_some(())
        })
        .await;
        begun.elapsed()
    }

    async fn status(&self, node: &str) -> Value {
        self.nodes[node].admin("GET", "/gslb", "").await.1
    }

    async fn peer_state(&self, node: &str, peer: &str) -> String {
        let status = self.status(node).await;
        let peers = status["fleet"]["peers"].as_array().unwrap();
        peers.iter().find(|one| one["node"] == peer).unwrap()["state"].as_str().unwrap().to_owned()
    }

    async fn peers_are(&self, node: &str, peer: &str, state: &str) {
        eventually(&format!("{node} sees {peer} {state}"), async || {
            (self.peer_state(node, peer).await == state).then_some(())
        })
        .await;
    }

    async fn all_hear_all(&self) {
        for (node, _) in NODES {
            for (peer, _) in NODES.iter().filter(|(peer, _)| *peer != node) {
                self.peers_are(node, peer, "fresh").await;
            }
        }
    }

    async fn order(&self, node: &str, site: &str, forced: &str) {
        let wish = json!({ "target": { "service": "shop", "site": site }, "forced": forced, "author": "ann", "reason": "drill" });
        let (status, body) = self.nodes[node].admin("POST", "/gslb/order", &wish.to_string()).await;
        assert_eq!(status, 200, "{body}");
    }

    async fn withdraw(&self, node: &str, site: &str) {
        let wish = json!({ "target": { "service": "shop", "site": site }, "author": "ann" });
        let (status, body) = self.nodes[node].admin("POST", "/gslb/withdraw", &wish.to_string()).await;
        assert_eq!(status, 200, "{body}");
    }
}

/// Two listeners on one port of two addresses: the members of sites eu and us.
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

const ALL: [&str; 3] = ["eu-1", "us-1", "ap-1"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_agree_through_kill_partition_and_restart() {
    let (first, _second, port) = members();
    let mut fleet = Fleet::start(port, QUICK).await;
    fleet.all_hear_all().await;
    fleet.answer(&ALL, "127.0.0.1").await;

    // A member dies, and comes back.
    drop(first);
    let took = fleet.answer(&ALL, "127.0.0.2").await;
    assert!(took < Duration::from_secs(6), "{took:?}");
    let (_, out) = fleet.nodes["ap-1"].command(&["gslb", "status", "--admin", "admin.sock"]).await;
    assert!(
        out.contains("node ap-1 at site ap\n") && out.contains("peer eu-1 at site eu: fresh, heard 0 s ago"),
        "{out}"
    );
    assert!(out.contains("127.0.0.1 down for") && out.contains("(down by "), "{out}");
    let words = ["gslb", "explain", "shop.example.test", "--from", "192.0.2.1", "--admin", "admin.sock"];
    let (_, out) = fleet.nodes["ap-1"].command(&words).await;
    assert!(out.contains("eu/127.0.0.1 is out (refused): ") && out.contains("nodes say down"), "{out}");
    eventually("the metric says why", async || {
        let text = fleet.nodes["ap-1"].metrics().await;
        let line = text.lines().find(|line| line.contains("member=\"127.0.0.1\",reason=\"refused\""))?;
        line.ends_with(" 0").then_some(())
    })
    .await;
    let _first = TcpListener::bind(("127.0.0.1", port)).unwrap();
    fleet.answer(&ALL, "127.0.0.1").await;

    // A word of one node reaches all others.
    let mut took = Vec::new();
    for _ in 0..20 {
        fleet.order("us-1", "eu", "drain").await;
        took.push(fleet.answer(&["eu-1", "ap-1"], "127.0.0.2").await);
        fleet.withdraw("eu-1", "eu").await;
        took.push(fleet.answer(&["us-1", "ap-1"], "127.0.0.1").await);
    }
    took.sort_unstable();
    assert!(took[took.len() * 99 / 100] < Duration::from_millis(1_200), "{took:?}");

    // A node is killed: its word counts no more, and what was ordered there holds.
    fleet.order("us-1", "eu", "down").await;
    fleet.answer(&ALL, "127.0.0.2").await;
    fleet.nodes["us-1"].signal("-KILL");
    fleet.peers_are("eu-1", "us-1", "stale").await;
    fleet.peers_are("ap-1", "us-1", "unreachable").await;
    fleet.answer(&["eu-1", "ap-1"], "127.0.0.2").await;
    fleet.nodes["eu-1"].counts("portcullis_dns_isolated ", &[], 0.0).await;
    fleet.nodes["eu-1"].counts("portcullis_dns_peer_up", &["us-1"], 0.0).await;
    // A node that begins anew knows at once what was ordered, also elsewhere.
    for node in ["us-1", "ap-1"] {
        let again = fleet.nodes.remove(node).unwrap().restart().await;
        fleet.nodes.insert(node, again);
        assert_eq!(fleet.shop(node), "127.0.0.2", "{node}");
        fleet.lead(node);
    }
    fleet.all_hear_all().await;
    fleet.withdraw("ap-1", "eu").await;
    fleet.answer(&ALL, "127.0.0.1").await;

    // One node is cut off from the others, and is not cut off from the members.
    fleet.wires_of("us-1").for_each(Relay::cut);
    eventually("it says that it is alone", async || {
        (fleet.nodes["us-1"].metric("portcullis_dns_isolated", &[]).await == 1.0).then_some(())
    })
    .await;
    fleet.peers_are("eu-1", "us-1", "unreachable").await;
    fleet.answer(&ALL, "127.0.0.1").await;
    let (_, out) = fleet.nodes["us-1"].command(&["gslb", "status", "--admin", "admin.sock"]).await;
    assert!(out.contains("ISOLATED") && out.contains("peer eu-1 at site eu: unreachable"), "{out}");
    if have("dig") {
        let port = fleet.nodes["us-1"].addr("dns").port().to_string();
        let out = run("dig", &["@127.0.0.1", "-p", &port, "+nsid", "shop.example.test"]);
        assert!(out.contains("us-1 (isolated)"), "{out}");
    }
    fleet.wires_of("us-1").for_each(Relay::mend);
    fleet.all_hear_all().await;
    fleet.nodes["us-1"].counts("portcullis_dns_isolated ", &[], 0.0).await;

    // A reload forgets nothing that was heard, and takes another rule.
    let other =
        config("ap-1", "ap", &fleet.wires, port, QUICK).replace("settle = \"100ms\"", "settle = \"0s\"\nquorum = 1");
    let (status, body) = fleet.nodes.get_mut("ap-1").unwrap().reload(&other).await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(fleet.peer_state("ap-1", "eu-1").await, "fresh");

    // A site that ends says so before it is gone: the others leave it while its members still answer checks.
    fleet.nodes["eu-1"].signal("-TERM");
    let took = fleet.answer(&["us-1", "ap-1"], "127.0.0.2").await;
    assert!(took < Duration::from_millis(1_200), "{took:?}");
}

/// A first failure at the next check, a second one an interval later, its timeout, and the nodes' agreement.
const BOUND: Duration = Duration::from_secs(6);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_an_interval_of_two_seconds_three_nodes_have_the_new_answer_within_six() {
    let (first, _second, port) = members();
    let mut fleet = Fleet::start(port, USUAL).await;
    fleet.all_hear_all().await;
    fleet.answer(&ALL, "127.0.0.1").await;

    // A member dies.
    drop(first);
    let took = fleet.answer(&ALL, "127.0.0.2").await;
    assert!(took < BOUND, "all hear all: {took:?}");
    // A node that begins anew answers at once, and soon what is so: its own checks may not have seen it before.
    let again = fleet.nodes.remove("ap-1").unwrap().restart().await;
    fleet.nodes.insert("ap-1", again);
    assert!(["127.0.0.1", "127.0.0.2"].contains(&fleet.shop("ap-1").as_str()), "{}", fleet.shop("ap-1"));
    fleet.lead("ap-1");
    let took = fleet.answer(&ALL, "127.0.0.2").await;
    assert!(took < BOUND, "one restarted: {took:?}");
    fleet.all_hear_all().await;
    let first = TcpListener::bind(("127.0.0.1", port)).unwrap();
    fleet.answer(&ALL, "127.0.0.1").await;

    // One node is cut off: both sides judge by what they see, and the member dies for both.
    fleet.wires_of("us-1").for_each(Relay::cut);
    fleet.peers_are("us-1", "eu-1", "stale").await;
    fleet.peers_are("us-1", "ap-1", "stale").await;
    fleet.peers_are("eu-1", "us-1", "stale").await;
    drop(first);
    let took = fleet.answer(&ALL, "127.0.0.2").await;
    assert!(took < BOUND, "one cut off: {took:?}");
    fleet.wires_of("us-1").for_each(Relay::mend);
    let first = TcpListener::bind(("127.0.0.1", port)).unwrap();
    fleet.answer(&ALL, "127.0.0.1").await;

    // A node is killed together with the member: its last word still counts for a while.
    fleet.nodes["us-1"].signal("-KILL");
    drop(first);
    let took = fleet.answer(&["eu-1", "ap-1"], "127.0.0.2").await;
    assert!(took < BOUND, "one killed: {took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verdicts_are_given_to_peers_alone_and_a_successor_goes_on() {
    let (_first, _second, port) = members();
    let mut fleet = Fleet::start(port, QUICK).await;
    fleet.all_hear_all().await;
    let at = fleet.nodes["eu-1"].addr("peers");
    let get = async |leaf: Option<Leaf>| {
        let ca = &fleet.ca.certificate_pem;
        let config = match leaf {
            None => client::tls_config(ca, &["h2"]),
            Some(leaf) => client::tls_config_with(ca, &leaf.certificate_pem, &leaf.key_pem, &["h2"]),
        };
        let stream = client::tls(at, "eu-1", config).await.ok()?;
        // In TLS 1.3 a client learns that it was refused when it reads.
        let (h2, connection) = h2::client::handshake(stream).await.ok()?;
        let driver = tokio::spawn(connection);
        let (parts, _) = client::h2_get(&h2, "https://eu-1/verdicts").await.ok()?;
        driver.abort();
        Some(parts.status.as_u16())
    };
    for (leaf, expected) in [
        (Some(fleet.ca.leaf(&["us-1"])), Some(200)),
        // Of the right authority, and no peer.
        (Some(fleet.ca.leaf(&["mars-1"])), Some(403)),
        (Some(Authority::new("others").leaf(&["us-1"])), None),
        (None, None),
    ] {
        assert_eq!(get(leaf).await, expected);
    }
    // A peer that shows the certificate of another is not heard.
    fleet.ca.leaf(&["mars-1"]).write(fleet.nodes["us-1"].path(), "node");
    let (status, body) = fleet.nodes["us-1"].admin("POST", "/reload", "").await;
    assert_eq!(status, 200, "{body}");
    fleet.wires_of("us-1").for_each(Relay::cut);
    fleet.wires_of("us-1").for_each(Relay::mend);
    fleet.peers_are("eu-1", "us-1", "unreachable").await;
    fleet.ca.leaf(&["us-1"]).write(fleet.nodes["us-1"].path(), "node");
    assert_eq!(fleet.nodes["us-1"].admin("POST", "/reload", "").await.0, 200);
    fleet.all_hear_all().await;

    let before = fleet.nodes["eu-1"].pid();
    assert_eq!(fleet.nodes["eu-1"].command(&["upgrade", "--admin", "admin.sock"]).await.0, 0);
    let successor = eventually("a new process answers", async || {
        let (_, body) = fleet.nodes["eu-1"].try_admin("GET", "/status", "").await?;
        body["pid"].as_u64().filter(|pid| *pid != u64::from(before))
    })
    .await;
    let node = fleet.nodes.get_mut("eu-1").unwrap();
    assert!(node.ended(Duration::from_secs(20)).await.success());
    fleet.all_hear_all().await;
    assert_eq!(fleet.port, port);
    run("kill", &["-TERM", &successor.to_string()]);
}

#[tokio::test]
async fn mistakes_about_a_fleet_are_told_where_they_stand() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Authority::new("nodes");
    ca.leaf(&["eu-1"]).write(folder.path(), "node");
    std::fs::write(folder.path().join("ca.crt"), &ca.certificate_pem).unwrap();
    let wires: BTreeMap<_, _> = [(("eu-1", "us-1"), Relay::start()), (("eu-1", "ap-1"), Relay::start())].into();
    let whole = config("eu-1", "eu", &wires, 80, QUICK);
    for (from, to, expected) in [
        ("client_auth = \"required\"", "client_auth = \"optional\"", "peers prove who they are, and so do we"),
        ("certificate = \"node\"", "certificate = \"none\"", "none"),
        (
            "protocol = \"verdicts\"",
            "protocol = \"verdicts\"\nlimits = { header = \"8KiB\" }",
            "`limits` has no effect on a listener of protocol verdicts",
        ),
        (
            "[listener.peers]\naddress = \"127.0.0.1:0\"",
            "[listener.peers]\naddress = \"unix:x.sock\"",
            "peers do not come over a unix socket",
        ),
    ] {
        assert!(whole.contains(from), "{from}");
        std::fs::write(folder.path().join("a.toml"), &whole).unwrap();
        let (code, out) = crate::support::gateway::run_in(folder.path(), &["check", "a.toml"]).await;
        assert_eq!(code, 0, "{out}");
        std::fs::write(folder.path().join("a.toml"), whole.replacen(from, to, 1)).unwrap();
        let (_, out) = crate::support::gateway::run_in(folder.path(), &["check", "a.toml"]).await;
        assert!(out.contains(expected), "{to}\n{out}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_carries_the_words_of_nodes_that_have_no_way_to_one_another() {
    let Some(valkey) = crate::limits::Valkey::start() else { return };
    let (_first, _second, port) = members();
    let ca = Authority::new("nodes");
    let mut nodes = BTreeMap::new();
    for (node, site, peer, peer_site) in [("eu-1", "eu", "us-1", "us"), ("us-1", "us", "eu-1", "eu")] {
        let folder = tempfile::tempdir().unwrap();
        ca.leaf(&[node]).write(folder.path(), "node");
        std::fs::write(folder.path().join("ca.crt"), &ca.certificate_pem).unwrap();
        let whole = config(
            node,
            site,
            &BTreeMap::from([
                ((node, "us-1"), Relay::start()),
                ((node, "eu-1"), Relay::start()),
                ((node, "ap-1"), Relay::start()),
            ]),
            port,
            QUICK,
        );
        let (before, rest) = whole.split_once("[dns.fleet.peer.").unwrap();
        let (_, after) = rest.split_once("[zone.x]").unwrap();
        let (before, _) = (before.replace("poll = \"300ms\"", "poll = \"300ms\"\nstore = \"shared\""), ());
        let text = format!(
            "{before}[dns.fleet.peer.{peer}]\nsite = \"{peer_site}\"\n{}[zone.x]{after}",
            valkey.table("local")
        );
        nodes.insert(node, Gateway::start_in(folder, &text).await);
    }
    let state = async |node: &str| nodes[node].admin("GET", "/gslb", "").await.1["fleet"]["peers"][0]["state"].clone();
    for node in ["eu-1", "us-1"] {
        eventually("the peer is heard", async || (state(node).await == "fresh").then_some(())).await;
    }
    let wish =
        json!({ "target": { "service": "shop", "site": "eu" }, "forced": "down", "author": "ann", "reason": "drill" });
    assert_eq!(nodes["us-1"].admin("POST", "/gslb/order", &wish.to_string()).await.0, 200);
    let shop = |node: &str| answer(nodes[node].addr("dns"), "shop.example.test.", RecordType::A).join(" ");
    eventually("the order is heard", async || (shop("eu-1") == "127.0.0.2").then_some(())).await;
    // The store is gone: each goes on with what it sees and knows.
    drop(valkey);
    eventually("the peer is not heard", async || (state("eu-1").await == "unreachable").then_some(())).await;
    assert_eq!(shop("eu-1"), "127.0.0.2");
}
