//! Signed zones under the eyes of validators: every kind of answer, and a key that is rolled over while it is looked at.

use crate::support::{
    dns::{LISTENER, answer, run, socket, try_ask, zone},
    eventually,
    gateway::{Gateway, run_in},
    have,
    validator::{SECURE, Unbound, all_secure, all_secure_to_resolver, anchors, delv},
};
use hickory_proto::rr::RecordType;
use std::{net::SocketAddr, path::Path};

/// A zone signed with `keys`, and published names in it.
fn config(keys: &str, denial: &str) -> String {
    format!(
        "{}dnssec = {{ keys = [{keys}], denial = \"{denial}\", cds = \"on\" }}\n\
         [public_service.shop]\nhost = \"shop.example.test\"\nsites = {{ a = [\"192.0.2.11\"] }}\nhttps = {{ alpn = [\"h2\"] }}\n\
         [public_service.any]\nhost = \"*.any.example.test\"\nsites = {{ a = [\"192.0.2.12\"] }}\n",
        zone("192.0.2.1").replace(
            "records = [",
            "records = [\"alias 60 CNAME www\", \"*.w 60 A 192.0.2.3\", \"x.ent 60 A 192.0.2.4\", "
        )
    )
}

fn key(name: &str, role: &str) -> String {
    format!("{{ secret = {{ file = \"{name}.key\" }}, role = \"{role}\" }}")
}

async fn make_key(folder: &Path, name: &str, algorithm: &str) {
    let file = format!("{name}.key");
    let (code, out) = run_in(folder, &["gslb", "key", &file, "--algorithm", algorithm]).await;
    assert_eq!(code, 0, "{out}");
    let (code, out) = run_in(folder, &["gslb", "key", &file]).await;
    assert!(code == 2 && out.contains("cannot write"), "a key is never written over: {out}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_of_every_kind_are_secure_to_delv_under_every_denial_and_algorithm() {
    if !have("delv") {
        return;
    }
    for (denial, algorithm) in [("nsec", "ecdsap256"), ("nsec3", "ed25519"), ("compact", "ecdsap256")] {
        let folder = tempfile::tempdir().unwrap();
        make_key(folder.path(), "a", algorithm).await;
        let gateway = Gateway::start_in(folder, &config(&key("a", "csk"), denial)).await;
        let ds = anchors(&gateway).await;
        all_secure(gateway.path(), gateway.addr("dns"), &ds, denial);
        // Of the digest, which stands last, another digit.
        let (digest, last) = ds[0].split_at(ds[0].len() - 1);
        let forged = [format!("{digest}{}", if last == "0" { "1" } else { "0" })];
        let out = delv(gateway.path(), gateway.addr("dns"), &forged, "www.example.test", "A");
        assert!(!out.contains("fully validated"), "an anchor of another key proves nothing: {out}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rfc6781_4_1_a_key_is_rolled_over_and_the_zone_is_secure_at_each_step() {
    if !have("delv") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    make_key(folder.path(), "old", "ecdsap256").await;
    make_key(folder.path(), "new", "ecdsap256").await;
    let mut gateway = Gateway::start_in(folder, &config(&key("old", "csk"), "compact")).await;
    let server = gateway.addr("dns");
    let cds = || answer(server, "example.test.", RecordType::CDS);
    let old = anchors(&gateway).await;
    all_secure(gateway.path(), server, &old, "before");
    let before = cds();
    // The next key is published, and waits until every resolver has seen it.
    gateway.reload(&config(&[key("old", "csk"), key("new", "standby")].join(", "), "compact")).await;
    all_secure(gateway.path(), server, &old, "published");
    assert_eq!((anchors(&gateway).await, cds()), (old.clone(), before.clone()));
    // Both sign: the parent is told of both (CDS), and takes them over.
    gateway.reload(&config(&[key("old", "csk"), key("new", "csk")].join(", "), "compact")).await;
    let both = anchors(&gateway).await;
    assert_eq!((both.len(), cds().len()), (2, 2));
    let new: Vec<_> = both.iter().filter(|ds| !old.contains(ds)).cloned().collect();
    all_secure(gateway.path(), server, &old, "both, by the old DS");
    all_secure(gateway.path(), server, &new, "both, by the new DS");
    // The old one goes when the parent has the new one and no copy of the old DS is left.
    gateway.reload(&config(&key("new", "csk"), "compact")).await;
    all_secure(gateway.path(), server, &new, "after");
    assert_eq!(anchors(&gateway).await, new);
    assert!(cds() != before && cds().len() == 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unbound_calls_every_kind_of_answer_secure() {
    if !have("unbound") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    make_key(folder.path(), "a", "ecdsap256").await;
    let gateway = Gateway::start_in(folder, &config(&key("a", "csk"), "compact")).await;
    let anchor = format!("example.test. DS {}", anchors(&gateway).await[0]);
    let Some(unbound) = Unbound::start(gateway.path(), &anchor, &[("example.test", gateway.addr("dns"))]) else {
        return;
    };
    let resolver = unbound.address;
    eventually("unbound answers", async || try_ask(&socket(resolver), 1, "example.test.", RecordType::SOA)).await;
    let client = socket(resolver);
    // Ten thousand queries, most of them for names that nobody has asked for.
    (0..910).for_each(|number| all_secure_to_resolver(&client, number, "unbound"));
}

/// Whether a DNSKEY has the flags of an entry point, 257: as its type is written, or as base 64 has its first octets.
fn is_entry(key: &str) -> bool {
    key.starts_with("257 ") || key.starts_with("AQED")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rfc7583_3_keys_replace_one_another_while_every_answer_stays_secure() {
    if !have("delv") {
        return;
    }
    let parent_of = |ds: &[String]| {
        let ds: String = ds.iter().map(|ds| format!("\"example 1 DS {ds}\", ")).collect();
        format!(
            "{LISTENER}[zone.t]\nname = \"test\"\nns = [\"ns.test\"]\nsoa = {{ mname = \"ns.test\", rname = \"a.b\" }}\n\
             records = [\"ns 1 A 127.0.0.1\", {ds}\"example 1 NS ns.test.\"]\n"
        )
    };
    let mut parent = Gateway::start(&parent_of(&[])).await;
    let child = format!(
        "{LISTENER}[zone.x]\nname = \"example.test\"\nttl = \"1s\"\n\
         records = [\"@ 1 SOA ns1 noc 1 1 1 1 1\", \"@ 1 NS ns1\", \"ns1 1 A 127.0.0.1\", \"www 1 A 192.0.2.1\"]\n\
         dnssec = {{ automatic = {{ keys = \"ksk_zsk\", zsk_lifetime = \"6s\", entry_lifetime = \"8s\", parent = [\"{}\"], \
         parent_ttl = \"1s\", propagation = \"1s\" }} }}\n",
        parent.addr("dns")
    );
    let gateway = Gateway::start(&child).await;
    let server = gateway.addr("dns");
    let (mut zsks, mut ksks) = (std::collections::BTreeSet::new(), std::collections::BTreeSet::new());
    let mut at_parent = Vec::new();
    let begin = std::time::Instant::now();
    while zsks.len() < 4 || ksks.len() < 3 {
        assert!(begin.elapsed().as_secs() < 90, "{zsks:?} {ksks:?}\n{}", gateway.log());
        let wanted = anchors(&gateway).await;
        let cds = answer(server, "example.test.", RecordType::CDS).len();
        assert!(cds == wanted.len() || anchors(&gateway).await != wanted, "the parent is told the same by CDS");
        if wanted != at_parent {
            assert_eq!(parent.reload(&parent_of(&wanted)).await.0, 200);
            at_parent = wanted;
        }
        for key in answer(server, "example.test.", RecordType::DNSKEY) {
            if is_entry(&key) {
                ksks.insert(key)
            } else {
                zsks.insert(key)
            };
        }
        for (name, of_type, expected) in [
            ("www.example.test", "A", "; fully validated"),
            ("example.test", "DNSKEY", "; fully validated"),
            ("nope.example.test", "A", "; negative response, fully validated"),
        ] {
            let out = delv(gateway.path(), server, &at_parent, name, of_type);
            assert!(out.contains(expected), "{name} {of_type} by {at_parent:?}\n{out}\n{}", gateway.log());
        }
    }
    // Keys are secrets, and outlive the process.
    let keys = answer(server, "example.test.", RecordType::DNSKEY);
    let file = gateway.path().join("zones").read_dir().unwrap().next().unwrap().unwrap();
    let mode = std::os::unix::fs::PermissionsExt::mode(&file.metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600, "{file:?}");
    let gateway = gateway.restart().await;
    let after = answer(gateway.addr("dns"), "example.test.", RecordType::DNSKEY);
    assert!(keys.iter().any(|key| is_entry(key) && after.contains(key)), "{keys:?} {after:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signed_zone_is_given_away_with_its_signatures_and_its_copy_is_as_secure() {
    for denial in ["nsec", "nsec3"] {
        let zone_of = |more: &str| {
            format!(
                "{}transfer = {{ to = [\"127.0.0.0/8\"] }}\ndnssec = {{ automatic = {{}}, denial = \"{denial}\" }}\n",
                zone("192.0.2.1").replace(
                    "records = [",
                    &format!(
                        "records = [{more}\"alias 60 CNAME www\", \"*.w 60 A 192.0.2.3\", \"x.ent 60 A 192.0.2.4\", \
                         \"sub 60 NS ns.sub\", \"ns.sub 60 A 192.0.2.5\", \"old 60 DNAME www\", "
                    )
                )
            )
        };
        let mut first = Gateway::start(&zone_of("")).await;
        let at = first.addr("dns");
        let second = Gateway::start(&format!(
            "{LISTENER}[zone.x]\nname = \"example.test\"\nsecondary = {{ of = [\"{at}\"] }}\ntransfer = {{ to = [\"127.0.0.0/8\"] }}\n"
        ))
        .await;
        let copy = second.addr("dns");
        eventually("the copy", async || {
            let reply = try_ask(&socket(copy), 1, "www.example.test.", RecordType::A)?;
            (!reply.answers.is_empty()).then_some(())
        })
        .await;
        let ds = anchors(&first).await;
        if have("delv") {
            let names = SECURE.iter().filter(|(name, _, _)| !name.contains("shop") && !name.contains("any"));
            for (name, of_type, expected) in names {
                for server in [at, copy] {
                    let out = delv(second.path(), server, &ds, name, of_type);
                    assert!(out.contains(expected), "{denial}: {name} {of_type}\n{out}");
                }
            }
            let out = delv(second.path(), copy, &ds, "x.sub.example.test", "A");
            assert!(!out.contains("bogus") && !out.contains("broken trust chain"), "an unsigned cut is proved: {out}");
        }
        if have("dig") && have("ldns-verify-zone") {
            let whole = |server: SocketAddr| {
                let port = server.port().to_string();
                run("dig", &["@127.0.0.1", "-p", &port, "example.test", "AXFR", "+onesoa", "+noall", "+answer"])
            };
            let file = second.path().join("axfr.zone");
            for server in [at, copy] {
                std::fs::write(&file, whole(server)).unwrap();
                let out = run("ldns-verify-zone", &[&file.display().to_string()]);
                assert!(out.contains("Zone is verified and complete"), "{denial}: {out}");
            }
            let sorted = |text: String| {
                let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
                lines.sort();
                lines
            };
            assert_eq!(sorted(whole(at)), sorted(whole(copy)));
        }
        // A change comes with its signatures, and brings no others: the copy is the same zone again.
        let config = zone_of("\"new 60 A 192.0.2.9\", ")
            .replace("dnssec =", &format!("# {copy}\ndnssec ="))
            .replace("to = [\"127.0.0.0/8\"]", &format!("to = [\"127.0.0.0/8\"], notify = [\"{copy}\"]"));
        assert_eq!(first.reload(&config).await.0, 200);
        eventually("the change", async || {
            (answer(copy, "new.example.test.", RecordType::A) == ["192.0.2.9"]).then_some(())
        })
        .await;
        assert!(second.log().contains("kind=Changes"), "{}", second.log());
        assert_eq!(answer(copy, "example.test.", RecordType::SOA), answer(at, "example.test.", RecordType::SOA));
        if have("delv") {
            let out = delv(second.path(), copy, &ds, "new.example.test", "A");
            assert!(out.contains("; fully validated"), "{out}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_given_away_signed_is_refused_where_it_stands() {
    let folder = tempfile::tempdir().unwrap();
    let signed = |dnssec: &str| {
        format!("{}transfer = {{ to = [\"127.0.0.0/8\"] }}\ndnssec = {{ {dnssec} }}\n", zone("192.0.2.1"))
    };
    let service = "[public_service.shop]\nhost = \"shop.example.test\"\nsites = { a = [\"192.0.2.11\"] }\n";
    for (config, expected) in [
        (format!("{}{service}", signed("automatic = {}")), "which cannot sign what this service answers"),
        (signed("automatic = {}, denial = \"compact\""), "proved one by one cannot be given"),
        (signed("automatic = {}").replace("soa = {", "soa = { serial = 7,"), "counts its own serial"),
        (signed("automatic = { zsk_lifetime = \"30d\" }"), "has no effect without a zsk"),
        (signed("automatic = { entry_lifetime = \"30d\" }"), "nobody says when the parent has the next key's DS"),
        (signed("automatic = { keys = \"ksk_zsk\", zsk_lifetime = \"1h\" }"), "cannot be replaced in less than"),
        (signed(""), "a zone has one to 8 keys"),
    ] {
        std::fs::write(folder.path().join("edge.toml"), format!("schema = \"1\"\n{config}")).unwrap();
        let (code, out) = run_in(folder.path(), &["check", "edge.toml"]).await;
        assert!(code == 1 && out.contains(expected), "{expected}: {out}");
    }
}
