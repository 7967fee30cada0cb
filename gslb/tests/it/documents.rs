//! Mutated verdict documents: no panic, no word in another's name, no answer that nobody configured. `examples/mutate_documents.rs`
//! runs the same for as long as is wanted.

use crate::support::{clocks, compile_at, question};
use portcullis_gslb::{Document, Forced, Order, Ordered, Snapshot, Standing};
use portcullis_health::Failure;
use std::sync::Arc;

/// A node of a fleet of two, and what the other one says.
pub(crate) struct Pair {
    pub(crate) node: Arc<Snapshot>,
    pub(crate) whole: Vec<u8>,
}

const NUMBERS: [&str; 12] = [
    "0",
    "1",
    "-1",
    "0.5",
    "1e400",
    "65536",
    "4294967296",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "null",
    "[{}]",
];

fn document(node: &str, site: &str, peer: &str, peer_site: &str) -> String {
    format!(
        "[dns.fleet]\nnode = \"{node}\"\nsite = \"{site}\"\ncertificate = \"node\"\ntrust = \"nodes\"\n\
         [dns.fleet.peer.{peer}]\nsite = \"{peer_site}\"\naddress = \"127.0.0.1:9000\"\n\
         [zone.x]\nname = \"example.test\"\nns = [\"ns.other.test\"]\n\
         soa = {{ mname = \"ns.other.test\", rname = \"noc.other.test\", serial = 1 }}\n\
         [public_service.shop]\nhost = \"shop.example.test\"\npolicy = \"weighted\"\nload_target = \"80%\"\n\
         sites = {{ eu = [\"192.0.2.1\"], us = [\"192.0.2.2\", \"192.0.2.3\"] }}\nhealth_check = {{ interval = \"2s\" }}\n"
    )
}

pub(crate) fn pair() -> Pair {
    let made = rcgen::generate_simple_self_signed(vec!["node".to_owned()]).unwrap();
    let compile = |text: &str| {
        let folder = tempfile::tempdir().unwrap();
        for (file, pem) in [("node.crt", made.cert.pem()), ("ca.crt", made.cert.pem())] {
            std::fs::write(folder.path().join(file), pem).unwrap();
        }
        std::fs::write(folder.path().join("node.key"), made.signing_key.serialize_pem()).unwrap();
        let (snapshot, problems) = compile_at(folder.path(), text, None, clocks(0));
        snapshot.unwrap_or_else(|| panic!("{problems:#?}"))
    };
    let (node, peer) = (compile(&document("eu-1", "eu", "us-1", "us")), compile(&document("us-1", "us", "eu-1", "eu")));
    for member in peer.members(clocks(1)) {
        let outcome = if member.site.as_str() == "eu" { Err(Failure::Timeout) } else { Ok(()) };
        peer.observe(&(member.service, member.site, member.member), outcome, clocks(1));
    }
    let order = Order {
        target: Ordered { service: "shop".parse().unwrap(), site: "us".parse().unwrap(), member: None },
        forced: Forced::Drain,
        author: "ann".to_owned(),
        reason: "drill".to_owned(),
        from: clocks(1).unix,
        until: clocks(1).unix + 14_400,
        standing: Standing::Given,
        stamp: peer.stamp(clocks(1)).unwrap(),
    };
    peer.order(order, clocks(1)).unwrap();
    let whole = peer.publish(clocks(1)).unwrap().to_vec();
    Pair { node, whole }
}

/// Changes octets, or what they mean: numbers to others, texts to those of elsewhere, values to what is nested too deep.
pub(crate) fn mutate(octets: &mut Vec<u8>, random: &mut fastrand::Rng) {
    for _ in 0..random.usize(1..4) {
        let at = random.usize(..octets.len().max(1)).min(octets.len().saturating_sub(1));
        match random.u8(..8) {
            0 => octets.truncate(at),
            1 => octets.insert(at, *random.choice(b"0123456789\"{}[],:-e.\\\0\xff").unwrap()),
            2 if !octets.is_empty() => _ = octets.remove(at),
            3 => octets.extend_from_within(at..),
            4 => {
                let nested = [b"[", &b"{\"a\":"[..]][random.usize(..2)].repeat(random.usize(1..2_000));
                octets.splice(at..at, nested);
            }
            5 => {
                let texts: Vec<&[u8]> = octets.split(|octet| *octet == b'"').collect();
                let (from, to) = (random.usize(..texts.len()), random.usize(..texts.len()));
                let mut swapped = texts.clone();
                swapped[to] = texts[from];
                *octets = swapped.join(&b'"');
            }
            _ => {
                let is_digit = |place: &usize| octets[*place].is_ascii_digit();
                let Some(begin) = (at..octets.len()).find(is_digit) else { continue };
                let end = (begin..octets.len()).find(|place| !is_digit(place)).unwrap_or(octets.len());
                octets.splice(begin..end, random.choice(NUMBERS).unwrap().bytes());
            }
        }
        octets.truncate(64 << 10);
    }
}

/// Makes a document newer than all before it, or none would be looked into once a number of far ahead was taken.
pub(crate) fn renew(octets: &mut Vec<u8>, epoch: u64) {
    const KEY: &[u8] = b"\"epoch\":";
    let Some(begin) = octets.windows(KEY.len()).position(|window| window == KEY).map(|at| at + KEY.len()) else {
        return;
    };
    let end = (begin..octets.len()).find(|place| !octets[*place].is_ascii_digit()).unwrap_or(octets.len());
    octets.splice(begin..end, (1 << 40 | epoch).to_string().bytes());
}

/// Lets the node hear it; whether it was taken.
pub(crate) fn hear(pair: &Pair, octets: &[u8], second: u64) -> bool {
    let at = clocks(second);
    let taken = pair.node.hear(&"us-1".parse().unwrap(), octets, at.unix, at).is_ok();
    if taken {
        let document = Document::parse(octets).unwrap();
        assert_eq!((document.node.as_str(), document.site.as_str()), ("us-1", "us"), "a word in another's name");
        let again = serde_json::to_vec(&document).unwrap();
        assert_eq!(Document::parse(&again).unwrap(), document);
    }
    pair.node.tick(at);
    taken
}

/// Whatever was heard, what is answered was configured.
pub(crate) fn judge(pair: &Pair) {
    let question = question("shop A");
    let octets = pair.node.answer(&question.octets, &question.asked).unwrap();
    let reply = hickory_proto::op::Message::from_vec(&octets).unwrap();
    assert!(!reply.answers.is_empty(), "{reply:?}");
    for record in &reply.answers {
        assert!(["192.0.2.1", "192.0.2.2", "192.0.2.3"].contains(&record.data.to_string().as_str()), "{reply:?}");
    }
}

#[test]
fn mutated_documents_never_panic_and_move_answers_only_among_what_is_configured() {
    let pair = pair();
    assert!(hear(&pair, &pair.whole, 2));
    let mut random = fastrand::Rng::with_seed(7);
    let mut taken = 0;
    for round in 0..5_000 {
        let mut octets = pair.whole.clone();
        mutate(&mut octets, &mut random);
        renew(&mut octets, round);
        taken += u32::from(hear(&pair, &octets, 2 + round / 100));
        judge(&pair);
    }
    assert!(taken > 100, "{taken}: many are documents still");
}
