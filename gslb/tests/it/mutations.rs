//! Mutated datagrams: no panic, no reply that another library cannot read, none larger than it may be, and no query answered that
//! the other library reads as another one. `examples/mutate.rs` runs the same for as long as is wanted.

use crate::support::{Question, compile_in, question};
use hickory_proto::op::Message;
use portcullis_gslb::{Algorithm, Snapshot, Transport, generate_key};
use std::sync::Arc;

pub(crate) fn server() -> Arc<Snapshot> {
    let zone = "$TTL 60\n@ SOA ns noc 1 2 3 4 5\n@ NS ns\nns A 192.0.2.1\n*.w TXT a\nd DNAME e\nc CNAME x.d\ns NS ns.s\n\
                ns.s A 192.0.2.2\nh HTTPS 1 . alpn=h2\nh A 192.0.2.3\n";
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("zone.key"), generate_key(Algorithm::Ed25519).unwrap()).unwrap();
    std::fs::write(folder.path().join("tsig.key"), "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=").unwrap();
    std::fs::write(folder.path().join("example.zone"), zone).unwrap();
    let document = "[dns.tsig.k]\nsecret = { file = \"tsig.key\" }\n[zone.x]\nname = \"example.test\"\nfile = \"example.zone\"\n\
                    update = { keys = [\"k\"] }\n\
                    dnssec = { keys = [{ secret = { file = \"zone.key\" } }], denial = \"nsec3\" }\n\
                    [public_service.p]\nhost = \"p.example.test\"\npolicy = \"weighted\"\n\
                    sites = { a = [\"192.0.2.1\"], b = [\"192.0.2.2\"] }\nhttps = { alpn = [\"h2\"] }\n";
    compile_in(folder.path(), document, None).0.unwrap()
}

pub(crate) fn seeds() -> Vec<Question> {
    let texts = [
        "ns A",
        "a.w TXT do",
        "a.d A",
        "c A edns",
        "x.s A ecs=203.0.113.0/24",
        "h HTTPS option=10:2464c4abcf10c957",
        "nope ANY",
        "@ SOA option=3: option=12:0000",
        "@ AXFR tcp",
        "p HTTPS do",
        "x.w A do",
        "p A ecs=2001:db8::/56",
    ];
    let mut seeds: Vec<_> = texts.iter().map(|text| question(text)).collect();
    // One that is signed, by nobody's key.
    let mut signed = question("ns A");
    signed.octets.extend(b"\x01k\0\0\xfa\0\xff\0\0\0\0\0\x1d\x0bhmac-sha256\0\0\0\0\0\0\0\x01\x2c\0\0\0\0\0\0\0\0");
    signed.octets[11] = 1;
    // IXFR with the serial that the client has, and a change to the zone.
    let mut ixfr = question("@ IXFR");
    ixfr.octets[9] = 1;
    ixfr.octets.extend(b"\xc0\x0c\0\x06\0\x01\0\0\0\0\0\x16\0\0\0\0\0\x07\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    let mut update = question("@ SOA");
    update.octets[2] = 5 << 3;
    update.octets[9] = 1;
    update.octets.extend(b"\x01n\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\xc0\0\x02\x01");
    seeds.extend([signed, ixfr, update]);
    seeds
}

pub(crate) fn mutate(octets: &mut Vec<u8>, random: &mut fastrand::Rng) {
    for _ in 0..random.usize(1..6) {
        let at = random.usize(..octets.len().max(1)).min(octets.len().saturating_sub(1));
        match random.u8(..6) {
            0 => octets.truncate(at),
            1 => octets.insert(at, random.u8(..)),
            2 if !octets.is_empty() => _ = octets.remove(at),
            3 => octets.extend_from_within(at..),
            _ => {
                let any = random.u8(..);
                if let Some(octet) = octets.get_mut(at) {
                    *octet = [0, 1, 12, 0x3f, 0x40, 0xc0, 0xff, any][random.usize(..8)];
                }
            }
        }
        octets.truncate(4_096);
    }
}

/// What the other library says of a query and its reply.
pub(crate) fn judge(octets: &[u8], reply: &[u8], transport: Transport) {
    let parsed = Message::from_vec(reply).unwrap_or_else(|error| panic!("{error}: {octets:?} → {reply:?}"));
    assert_eq!((reply[0], reply[1]), (octets[0], octets[1]));
    let limit = if transport == Transport::Udp { 1_232 + 300 } else { 65_535 };
    assert!(reply[2] & 0x80 != 0 && reply.len() <= limit && parsed.queries.len() <= 1, "{octets:?}");
    // What is answered with data was read by both, and alike. Of records behind the question the other library wants more than
    // RFC 6891 §6.1.1 does: they are taken off.
    if !parsed.answers.is_empty() {
        let mut end = 12;
        while octets[end] != 0 {
            end += 1 + usize::from(octets[end]);
        }
        let mut bare = octets[..end + 1 + 4].to_vec();
        bare[6..12].fill(0);
        let query = Message::from_vec(&bare).unwrap_or_else(|error| panic!("{error}: answered {octets:?}"));
        assert_eq!(query.queries, parsed.queries, "{octets:?}");
    }
}

#[test]
fn mutated_queries_never_panic_and_their_replies_can_be_read() {
    let (server, seeds) = (server(), seeds());
    let mut random = fastrand::Rng::with_seed(7);
    for round in 0..30_000 {
        let seed = &seeds[round % seeds.len()];
        let mut octets = seed.octets.clone();
        mutate(&mut octets, &mut random);
        if let Some(reply) = server.answer(&octets, &seed.asked) {
            judge(&octets, &reply, seed.asked.transport);
        }
    }
}
