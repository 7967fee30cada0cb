//! A zone that changes the algorithm of its keys while its parent, a validating resolver with a cache and another validator
//! without one look on.

use crate::support::{
    dns::{LISTENER, answer, run, socket, try_ask, zone},
    eventually,
    gateway::Gateway,
    have,
    validator::{Unbound, all_secure, all_secure_to_resolver, anchors},
};
use hickory_proto::rr::RecordType;
use std::{
    collections::BTreeSet,
    net::SocketAddr,
    time::{Duration, Instant},
};

/// Algorithms of the DNSKEY set, of the signatures over an answer, and of what the parent is told.
type Shown = [BTreeSet<String>; 3];

fn shown_once(server: SocketAddr) -> Shown {
    let dig = |name: &str, of_type: &str| {
        let port = server.port().to_string();
        let text = run("dig", &["@127.0.0.1", "-p", &port, name, of_type, "+short", "+dnssec", "+nosplit"]);
        text.lines().map(|line| line.split(' ').map(str::to_owned).collect::<Vec<_>>()).collect::<Vec<_>>()
    };
    let is_signature = |words: &Vec<String>| words.len() > 8;
    let third = |lines: Vec<Vec<String>>, signatures: bool, at: usize| -> BTreeSet<String> {
        lines.iter().filter(|words| is_signature(words) == signatures).map(|words| words[at].clone()).collect()
    };
    [
        third(dig("example.test", "DNSKEY"), false, 2),
        third(dig("www.example.test", "A"), true, 1),
        third(dig("example.test", "CDS"), false, 1),
    ]
}

/// Between two changes: what is asked for one after the other belongs together.
fn shown(server: SocketAddr) -> Shown {
    loop {
        let one = shown_once(server);
        if one == shown_once(server) {
            return one;
        }
    }
}

/// What the operator of the parent is to change.
async fn delegate(gateway: &Gateway, parent: SocketAddr) -> String {
    let parent = parent.to_string();
    gateway.command(&["gslb", "delegate", "example.test", "--parent", &parent, "--admin", "admin.sock"]).await.1
}

async fn moves(keys: &str, from: (&str, &str), to: (&str, &str)) {
    if !have("delv") || !have("unbound") || !have("dig") {
        return;
    }
    let parent_of = |ds: &[String]| {
        let ds: String = ds.iter().map(|ds| format!("\"example 1 DS {ds}\", ")).collect();
        format!(
            "{LISTENER}[zone.t]\nname = \"test\"\nns = [\"ns.test\"]\nttl = \"1s\"\n\
             soa = {{ mname = \"ns.test\", rname = \"a.b\", minimum = \"1s\" }}\n\
             records = [\"ns 1 A 127.0.0.1\", {ds}\"example 1 NS ns.test.\"]\ndnssec = {{ automatic = {{}} }}\n"
        )
    };
    let mut parent = Gateway::start(&parent_of(&[])).await;
    let service = "ttl = \"1s\"\n";
    let plain = zone("192.0.2.1")
        .replace("records = [", "records = [\"alias 60 CNAME www\", \"*.w 60 A 192.0.2.3\", \"x.ent 60 A 192.0.2.4\", ")
        .replace(" 60 ", " 1 ")
        .replace("rname = \"noc.example.test\"", "rname = \"noc.example.test\", minimum = \"1s\"");
    let child = |algorithm: &str| {
        format!(
            "{plain}ttl = \"1s\"\ndnssec = {{ denial = \"compact\", automatic = {{ keys = \"{keys}\", algorithm = \"{algorithm}\", \
             parent = [\"{}\"], parent_ttl = \"1s\", propagation = \"5s\" }} }}\n\
             [public_service.shop]\nhost = \"shop.example.test\"\n{service}sites = {{ a = [\"192.0.2.11\"] }}\nhttps = {{ alpn = [\"h2\"] }}\n\
             [public_service.any]\nhost = \"*.any.example.test\"\n{service}sites = {{ a = [\"192.0.2.12\"] }}\n",
            parent.addr("dns")
        )
    };
    let (before, after) = (child(from.0), child(to.0));
    let mut gateway = Gateway::start(&before).await;
    let server = gateway.addr("dns");
    let mut at_parent = anchors(&gateway).await;
    assert_eq!(parent.reload(&parent_of(&at_parent)).await.0, 200);
    let (code, out) = parent.command(&["gslb", "delegate", "test", "--admin", "admin.sock"]).await;
    assert_eq!(code, 0, "{out}");
    let ds = out.lines().find_map(|line| line.split_once(" IN DS ")).unwrap().1;
    let stubs = [("test", parent.addr("dns")), ("example.test", server)];
    let Some(unbound) = Unbound::start(gateway.path(), &format!("test. DS {ds}"), &stubs) else { return };
    let resolver = socket(unbound.address);
    eventually("unbound answers", async || try_ask(&socket(unbound.address), 1, "example.test.", RecordType::SOA))
        .await;
    all_secure_to_resolver(&resolver, 0, "before");
    all_secure(gateway.path(), server, &at_parent, "before");

    let mut steps = vec![shown(server)];
    assert_eq!(gateway.reload(&after).await.0, 200, "{}", gateway.log());
    let begin = Instant::now();
    let mut followed = false;
    let is_over = |shown: &Shown| shown.iter().all(|algorithms| algorithms.iter().eq([to.1]));
    for number in 1.. {
        assert!(begin.elapsed() < Duration::from_secs(300), "{steps:?}\n{}", gateway.log());
        let now = shown(server);
        let is_new = steps.last() != Some(&now);
        if is_new {
            steps.push(now.clone());
        }
        let what = format!("{now:?}");
        all_secure_to_resolver(&resolver, number, &what);
        if is_new {
            all_secure(gateway.path(), server, &at_parent, &what);
        }
        let wanted = anchors(&gateway).await;
        if wanted != at_parent {
            // Whoever still has the DS that was there, and whoever has the new one.
            all_secure(gateway.path(), server, &at_parent, &what);
            all_secure(gateway.path(), server, &wanted, &what);
            // The way back is closed while the parent may be about to follow.
            let (status, problems) = gateway.reload(&before).await;
            assert!(
                status != 200 && problems.to_string().contains("is on its way to algorithm"),
                "{status} {problems}"
            );
            assert_eq!(gateway.reload(&after).await.0, 200);
            let out = delegate(&gateway, parent.addr("dns")).await;
            assert!(out.contains("lacks: example.test. DS") && out.contains("should not: example.test. DS"), "{out}");
            assert_eq!(parent.reload(&parent_of(&wanted)).await.0, 200);
            let out = delegate(&gateway, parent.addr("dns")).await;
            assert!(!out.contains("lacks: example.test. DS") && !out.contains("should not: example.test. DS"), "{out}");
            (at_parent, followed) = (wanted, true);
        }
        if is_over(&now) {
            break;
        }
    }
    assert!(followed);
    let of = |algorithms: &[&str]| -> BTreeSet<String> { algorithms.iter().map(|one| (*one).to_owned()).collect() };
    let (old, new, both) = (of(&[from.1]), of(&[to.1]), of(&[from.1, to.1]));
    let expected: Vec<Shown> = vec![
        [old.clone(), old.clone(), old.clone()],
        [old.clone(), both.clone(), old.clone()],
        [both.clone(), both.clone(), old],
        [both.clone(), both.clone(), new.clone()],
        [new.clone(), both, new.clone()],
        [new.clone(), new.clone(), new],
    ];
    assert_eq!(steps, expected, "{}", gateway.log());
    // Keys of the new kind outlive the process, and nothing of the old ones is left.
    let keys = answer(server, "example.test.", RecordType::DNSKEY);
    let gateway = gateway.restart().await;
    assert_eq!(answer(gateway.addr("dns"), "example.test.", RecordType::DNSKEY), keys);
    all_secure(gateway.path(), gateway.addr("dns"), &at_parent, "after a restart");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rfc6781_4_1_4_a_zone_moves_from_ecdsa_to_ed25519_and_every_answer_stays_secure() {
    moves("csk", ("ecdsap256", "13"), ("ed25519", "15")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rfc6781_4_1_4_a_zone_of_two_keys_moves_from_ed25519_to_ecdsa_and_every_answer_stays_secure() {
    moves("ksk_zsk", ("ed25519", "15"), ("ecdsap256", "13")).await;
}
