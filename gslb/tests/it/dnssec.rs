//! Signed zones: every set that is ours is signed by a key of the zone, absences are proved, and nothing of it leaks to who did
//! not ask. Signatures are verified by another library; validators (unbound, delv) were used by hand on the same names.

use crate::support::{NOW, ask, clocks, compile_at, compile_in, question};
use hickory_proto::{
    dnssec::{
        Verifier,
        rdata::{DNSKEY, DNSSECRData, RRSIG},
    },
    op::Message,
    rr::{DNSClass, Name, RData, Record, RecordType},
};
use portcullis_gslb::{Algorithm, Snapshot, generate_key};
use std::{collections::BTreeMap, sync::Arc};

const ZONE: &str = "$TTL 300\n@ SOA ns1 noc 7 3600 900 604800 60\n@ NS ns1\nns1 A 192.0.2.53\nwww A 192.0.2.1\nwww A 192.0.2.2\n\
    alias CNAME www\ndangling CNAME nowhere\n*.wild TXT w\nx.ent.deep A 192.0.2.9\nsub NS ns.sub\nsub DS 1 13 2 AABBCC\n\
    ns.sub A 192.0.2.99\nplain NS ns.sub\nold DNAME new\na.new A 192.0.2.77\nMixed MX 10 Mail.Example.Test.\nmail A 192.0.2.3\n";

fn signed(denial: &str, algorithm: Algorithm) -> Arc<Snapshot> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("zone.key"), generate_key(algorithm).unwrap()).unwrap();
    std::fs::write(folder.path().join("example.zone"), ZONE).unwrap();
    let document = format!(
        "[zone.x]\nname = \"example.test\"\nfile = \"example.zone\"\n\
         dnssec = {{ keys = [{{ secret = {{ file = \"zone.key\" }} }}], denial = \"{denial}\", cds = \"on\" }}\n\
         [public_service.shop]\nhost = \"shop.example.test\"\nsites = {{ a = [\"192.0.2.11\", \"192.0.2.12\"] }}\n\
         https = {{ alpn = [\"h2\"] }}\n[public_service.any]\nhost = \"*.any.example.test\"\nsites = {{ a = [\"192.0.2.13\"] }}\n"
    );
    compile_in(folder.path(), &document, None).0.unwrap()
}

fn rrsig(record: &Record) -> Option<&RRSIG> {
    match &record.data {
        RData::DNSSEC(DNSSECRData::RRSIG(rrsig)) => Some(rrsig),
        _ => None,
    }
}

fn keys(server: &Snapshot) -> Vec<DNSKEY> {
    let answers = ask(server, "@ DNSKEY do tcp").answers;
    let keys = answers.into_iter().filter_map(|record| match record.data {
        RData::DNSSEC(DNSSECRData::DNSKEY(key)) => Some(key),
        _ => None,
    });
    keys.collect()
}

/// Verifies every signature of a section; gives the sets without one, and the types of all.
fn verify(keys: &[DNSKEY], section: &[Record], what: &str) -> (Vec<RecordType>, Vec<RecordType>) {
    let mut sets: BTreeMap<(Name, u16), Vec<Record>> = BTreeMap::new();
    for record in section.iter().filter(|record| rrsig(record).is_none()) {
        sets.entry((record.name.clone(), record.record_type().into())).or_default().push(record.clone());
    }
    let (mut unsigned, mut all) = (Vec::new(), Vec::new());
    for ((owner, of_type), records) in sets {
        let of_type = RecordType::from(of_type);
        all.push(of_type);
        let signatures: Vec<_> = section
            .iter()
            .filter(|record| record.name == owner)
            .filter_map(|record| Some((record, rrsig(record)?)))
            .filter(|(_, signature)| signature.input().type_covered == of_type)
            .collect();
        for (record, signature) in &signatures {
            let key = keys.iter().find(|key| key.calculate_key_tag().unwrap() == signature.input().key_tag).unwrap();
            key.verify_rrsig(&owner, DNSClass::IN, signature, records.iter())
                .unwrap_or_else(|error| panic!("{what}: {owner} {of_type}: {error}"));
            assert_eq!(record.ttl, records[0].ttl, "{what}: RFC 4034 §3: as long as what it covers");
            let (from, to) = (signature.input().sig_inception.get(), signature.input().sig_expiration.get());
            assert!(from < NOW - 3_000 && to > NOW + 86_400, "{what}: {from} {to}");
        }
        if signatures.is_empty() {
            unsigned.push(of_type);
        }
    }
    (unsigned, all)
}

/// What is asked, which sets have no signature, and how many records prove an absence under NSEC, NSEC3 and compactly.
const CASES: [(&str, &[RecordType], [usize; 3]); 22] = [
    ("www A", &[], [0, 0, 0]),
    ("@ SOA", &[], [0, 0, 0]),
    ("@ CDS", &[], [0, 0, 0]),
    ("mixed MX", &[], [0, 0, 0]),
    ("www TXT", &[], [1, 1, 1]),
    ("nope A", &[], [2, 3, 1]),
    ("a.b.nope A", &[], [2, 3, 1]),
    ("deep A", &[], [1, 1, 1]),
    ("x.wild TXT", &[], [1, 1, 0]),
    ("x.y.wild TXT", &[], [1, 1, 0]),
    ("x.wild A", &[], [2, 3, 1]),
    ("alias A", &[], [0, 0, 0]),
    ("alias TXT", &[], [1, 1, 1]),
    ("dangling A", &[], [2, 3, 1]),
    ("a.old A", &[RecordType::CNAME], [0, 0, 0]),
    ("host.sub A", &[RecordType::NS], [0, 0, 0]),
    ("host.plain A", &[RecordType::NS], [1, 1, 1]),
    ("sub DS", &[], [0, 0, 0]),
    ("shop A", &[], [0, 0, 0]),
    ("shop HTTPS", &[], [0, 0, 0]),
    ("shop AAAA", &[], [1, 1, 1]),
    ("x.any A", &[], [1, 1, 0]),
];

#[test]
fn rfc4035_3_1_all_that_is_ours_is_signed_and_absence_is_proved() {
    for (column, (denial, algorithm)) in
        [("nsec", Algorithm::EcdsaP256Sha256), ("nsec3", Algorithm::Ed25519), ("compact", Algorithm::EcdsaP256Sha256)]
            .into_iter()
            .enumerate()
    {
        let server = signed(denial, algorithm);
        let keys = keys(&server);
        assert_eq!(keys.len(), 1);
        for (text, unsigned, proofs) in CASES {
            let what = format!("{denial}: {text}");
            let message = ask(&server, &format!("{text} do tcp"));
            let (bare_answers, _) = verify(&keys, &message.answers, &what);
            let (bare_authorities, types) = verify(&keys, &message.authorities, &what);
            assert_eq!([bare_answers, bare_authorities].concat(), unsigned, "{what}");
            let proof = |of_type: &&RecordType| matches!(**of_type, RecordType::NSEC | RecordType::NSEC3);
            // Where one record proves both name and wildcard absent, one is enough.
            let found = types.iter().filter(proof).count();
            let least = if proofs[column] > 1 { 1 } else { proofs[column] };
            assert!((least..=proofs[column]).contains(&found), "{what}: {found} proofs of {}", proofs[column]);
        }
    }
}

fn has_dnssec(message: &Message) -> bool {
    let sections = [&message.answers, &message.authorities, &message.additionals];
    sections.into_iter().flatten().any(|record| matches!(record.data, RData::DNSSEC(_)))
}

#[test]
fn rfc4035_3_1_who_did_not_ask_for_dnssec_gets_none() {
    for denial in ["nsec", "nsec3", "compact"] {
        let server = signed(denial, Algorithm::Ed25519);
        for text in ["www A", "nope A", "www TXT", "x.wild TXT", "host.sub A", "shop A"] {
            assert!(!has_dnssec(&ask(&server, text)), "{denial}: {text}");
            assert!(!has_dnssec(&ask(&server, &format!("{text} edns"))), "{denial}: {text}");
        }
        let code = |text: &str| ask(&server, text).metadata.response_code.to_string();
        assert_eq!(code("nope A"), "Non-Existent Domain");
        let denied = if denial == "compact" { "No Error" } else { "Non-Existent Domain" };
        assert_eq!(code("nope A do"), denied, "RFC 9824 §3.1");
    }
}

#[test]
fn rfc9276_3_1_and_rfc8624_keys_and_parameters_are_small_and_what_is_about_names_can_be_asked_for() {
    for denial in ["nsec", "nsec3", "compact"] {
        let server = signed(denial, Algorithm::EcdsaP256Sha256);
        let keys = keys(&server);
        let question = question("@ DNSKEY do");
        let reply = server.answer(&question.octets, &question.asked).unwrap();
        assert!(reply.len() < 512 && reply[2] & 2 == 0, "{denial}: {}", reply.len());
        let parameters = ask(&server, "@ NSEC3PARAM do");
        let shown: Vec<_> =
            parameters.answers.iter().filter(|r| rrsig(r).is_none()).map(|r| r.data.to_string()).collect();
        let expected: &[&str] = if denial == "nsec3" { &["1 0 0 -"] } else { &[] };
        assert_eq!(shown, expected, "{denial}");
        // A denial of RRSIG or NSEC would deny what every other answer shows.
        let signatures = ask(&server, "www RRSIG do").answers;
        assert!(signatures.len() == 1 && rrsig(&signatures[0]).is_some(), "{denial}: {signatures:?}");
        let links = ask(&server, "www NSEC do");
        let (_, types) = verify(&keys, &links.answers, denial);
        assert_eq!(types == [RecordType::NSEC], denial != "nsec3", "{denial}: {links}");
        // RFC 5155 §7.2.8: the owner of an NSEC3 record is no name of the zone.
        if denial == "nsec3" {
            let denied = ask(&server, "www TXT do");
            let proof = denied.authorities.iter().find(|record| record.record_type() == RecordType::NSEC3).unwrap();
            let owner = proof.name.to_string();
            assert_eq!(
                ask(&server, &format!("{owner} NSEC3 do tcp")).metadata.response_code.to_string(),
                "Non-Existent Domain"
            );
        }
    }
}

#[test]
fn signatures_are_kept_in_their_period_and_made_anew_in_the_next() {
    let server = signed("nsec", Algorithm::EcdsaP256Sha256);
    let at = |days: u32| {
        let mut question = question("www A do");
        question.asked.now = NOW + days * 86_400;
        server.answer(&question.octets, &question.asked).unwrap()
    };
    // ECDSA draws a number for each signature: equal ones were kept.
    assert_eq!(at(0), at(0));
    assert_ne!(at(0), at(14));
}

#[test]
fn floods_of_absent_names_are_sent_to_tcp_when_signatures_run_out() {
    let server = signed("compact", Algorithm::Ed25519);
    let mut truncated = 0;
    for name in 0..20_500 {
        let question = question(&format!("n{name} A do"));
        let reply = server.answer(&question.octets, &question.asked).unwrap();
        truncated += usize::from(reply[2] & 2 != 0);
    }
    assert!((400..=600).contains(&truncated), "{truncated}");
    assert_eq!(ask(&server, "fresh A do tcp").authorities.len(), 4);
}

#[test]
fn keys_that_cannot_sign_a_zone_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.key"), generate_key(Algorithm::Ed25519).unwrap()).unwrap();
    std::fs::write(folder.path().join("b.key"), generate_key(Algorithm::EcdsaP256Sha256).unwrap()).unwrap();
    std::fs::write(folder.path().join("example.zone"), ZONE).unwrap();
    for (dnssec, expected) in [
        ("keys = []", "expected at least 1 item"),
        ("keys = [{ secret = { file = \"example.zone\" } }]", "not a private key in PEM"),
        ("keys = [{ secret = { file = \"a.key\" }, role = \"ksk\" }]", "no key signs the keys, or none signs the rest"),
        (
            "keys = [{ secret = { file = \"a.key\" }, role = \"ksk\" }, { secret = { file = \"b.key\" }, role = \"zsk\" }]",
            "signs only a part",
        ),
        ("keys = [{ secret = { file = \"a.key\" } }], validity = \"1h\"", "between one day and 90"),
    ] {
        let document = format!("[zone.x]\nname = \"example.test\"\nfile = \"example.zone\"\ndnssec = {{ {dnssec} }}\n");
        let (snapshot, problems) = compile_in(folder.path(), &document, None);
        assert!(snapshot.is_none() && problems.iter().any(|line| line.contains(expected)), "{dnssec}: {problems:?}");
    }
}

#[test]
fn a_zone_that_is_given_away_signed_is_signed_anew_in_time_and_only_then_counts_its_serial() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.key"), generate_key(Algorithm::EcdsaP256Sha256).unwrap()).unwrap();
    let document = "[zone.x]\nname = \"example.test\"\nns = [\"ns1.example.test\"]\n\
                    soa = { mname = \"ns1.example.test\", rname = \"noc.example.test\" }\n\
                    records = [\"ns1 60 A 192.0.2.1\", \"www 60 A 192.0.2.2\"]\n\
                    transfer = { to = [\"127.0.0.0/8\"] }\ndnssec = { keys = [{ secret = { file = \"a.key\" } }] }\n";
    const DAY: u64 = 86_400;
    let serial = |snapshot: &Snapshot| snapshot.zones(clocks(0))[0].serial;
    let signature = |snapshot: &Snapshot, seconds: u64| {
        let mut question = question("www A do");
        question.asked.now = NOW + seconds as u32;
        snapshot.answer(&question.octets, &question.asked).unwrap()
    };
    let first = compile_at(folder.path(), document, None, clocks(0)).0.unwrap();
    let same = compile_at(folder.path(), document, Some(&first), clocks(3 * DAY)).0.unwrap();
    assert_eq!(serial(&same), serial(&first), "a reload makes no new signatures");
    assert_eq!(signature(&same, DAY), signature(&first, 0), "and those that were made go on");
    // A third of 14 days is a time of signatures; the next began in between.
    let next = compile_at(folder.path(), document, Some(&same), clocks(4 * DAY)).0.unwrap();
    assert!(serial(&next) > serial(&first));
    assert_ne!(signature(&next, 4 * DAY), signature(&first, 0));
    let changed =
        compile_at(folder.path(), &document.replace("192.0.2.2", "192.0.2.3"), Some(&next), clocks(4 * DAY)).0.unwrap();
    assert!(serial(&changed) > serial(&next));
}

#[test]
fn keys_are_made_as_they_are_wanted_and_the_parent_is_told() {
    let of = |automatic: &str| {
        let document = format!(
            "[zone.x]\nname = \"example.test\"\nfile = \"example.zone\"\ndnssec = {{ automatic = {{ {automatic} }} }}\n"
        );
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("example.zone"), ZONE).unwrap();
        let server = compile_in(folder.path(), &document, None).0.unwrap();
        let made: Vec<_> = keys(&server).iter().map(|key| (key.flags(), u8::from(key.algorithm()))).collect();
        let told = ask(&server, "@ CDS do tcp").answers.iter().filter(|record| rrsig(record).is_none()).count();
        let secure = ask(&server, "www A do").answers;
        let (bare, _) = verify(&keys(&server), &secure, automatic);
        (made, told, bare.len())
    };
    assert_eq!(of(""), (vec![(257, 13)], 1, 0));
    assert_eq!(of("algorithm = \"ed25519\""), (vec![(257, 15)], 1, 0));
    let (mut made, told, bare) = of("keys = \"ksk_zsk\"");
    made.sort_unstable();
    assert_eq!((made, told, bare), (vec![(256, 13), (257, 13)], 1, 0));
}

#[test]
fn rfc6781_4_1_4_other_kinds_of_keys_than_those_that_serve_are_refused_with_the_way_out() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("example.zone"), ZONE).unwrap();
    for name in ["one.key", "two.key"] {
        std::fs::write(folder.path().join(name), generate_key(Algorithm::Ed25519).unwrap()).unwrap();
    }
    let of = |dnssec: &str, previous: Option<&Snapshot>| {
        let text = format!("[zone.x]\nname = \"example.test\"\nfile = \"example.zone\"\ndnssec = {{ {dnssec} }}\n");
        compile_in(folder.path(), &text, previous)
    };
    let keys_of = |file: &str| format!("keys = [{{ secret = {{ file = \"{file}\" }} }}]");
    let first = of("automatic = {}", None).0.unwrap();
    for (dnssec, expected) in [
        ("automatic = { algorithm = \"ed25519\" }".to_owned(), "is signed with algorithm = \"ecdsap256\""),
        ("automatic = { keys = \"ksk_zsk\" }".to_owned(), "is signed with keys = \"csk\""),
    ] {
        let (snapshot, problems) = of(&dnssec, Some(&first));
        assert!(snapshot.is_none() && problems.join("\n").contains(expected), "{problems:#?}");
    }
    // With somebody who says what the parent has, one algorithm takes over from the other.
    assert!(of("automatic = { algorithm = \"ed25519\", parent = [\"192.0.2.1:53\"] }", Some(&first)).0.is_some());
    assert!(of("automatic = { keys = \"csk\", algorithm = \"ecdsap256\" }", Some(&first)).0.is_some());
    // Keys that are given are the operator's affair: it is said when all of them go at once.
    let given = of(&keys_of("one.key"), None).0.unwrap();
    for (dnssec, warned) in [
        (keys_of("one.key"), false),
        (keys_of("two.key"), true),
        (format!("{}, {{ secret = {{ file = \"two.key\" }} }}]", keys_of("one.key").trim_end_matches(']')), false),
        ("automatic = {}".to_owned(), true),
    ] {
        let (snapshot, problems) = of(&dnssec, Some(&given));
        assert!(snapshot.is_some(), "{problems:#?}");
        assert_eq!(problems.join("\n").contains("none of the keys left"), warned, "{dnssec}: {problems:#?}");
    }
}
