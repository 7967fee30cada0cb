//! What each standard says of a query, one line a case. The groups are those of the design's list of protocol checks.

use crate::support::{ask, compile, question, shown};
use portcullis_gslb::Snapshot;
use std::sync::{Arc, LazyLock};

static SERVER: LazyLock<Arc<Snapshot>> = LazyLock::new(|| {
    let document = "[dns]\nnsid = \"edge-1\"\n[zone.example]\nname = \"example.test\"\nfile = \"example.zone\"\n\
                    [zone.child]\nname = \"child.example.test\"\nns = [\"ns1.example.test\"]\n\
                    soa = { mname = \"ns1.example.test\", rname = \"noc@example.test\", serial = 3 }\n\
                    records = [\"www 60 A 192.0.2.111\"]\n";
    compile(document, ZONE).unwrap()
});

const ZONE: &str = r#"
$TTL 300
@ SOA ns1 noc 7 3600 900 604800 60
@ NS ns1
@ NS ns2
@ MX 10 mail
ns1 A 192.0.2.53
ns2 AAAA 2001:db8::53
mail A 192.0.2.25
www A 192.0.2.1
    A 192.0.2.2
    AAAA 2001:db8::1
alias CNAME Www
alias2 CNAME alias
out CNAME www.example.org.
loop1 CNAME loop2
loop2 CNAME loop1
dangling CNAME nowhere
nodata CNAME ns2
tosub CNAME host.sub
*.wild TXT "w"
exists.wild A 192.0.2.3
a.b.wild A 192.0.2.4
*.cwild CNAME www
x.ent.deep A 192.0.2.9
sub NS ns.sub
sub NS ns.other.test.
sub DS 1 13 2 AABBCC
ns.sub A 192.0.2.99
ns.sub AAAA 2001:db8::99
child NS ns1
old DNAME new
a.new A 192.0.2.77
svc HTTPS 1 www alpn=h2
own HTTPS 1 . alpn=h2
own A 192.0.2.12
caa CAA 0 issue "ca.example"
srv SRV 0 0 443 www
unknown TYPE65280 \# 3 ABCDEF
bin\000ary A 192.0.2.13
$GENERATE 1-9 big TXT "$aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
$GENERATE 1-40 many A 192.0.2.$
"#;

const SOA: &str = "~ 60 SOA ns1.~ noc.~ 7 3600 900 604800 60;";

fn check(cases: &[(&str, &str)]) {
    for (question, expected) in cases {
        assert_eq!(shown(&ask(&SERVER, question)), expected.replace("SOA!", SOA), "{question}");
    }
}

#[test]
fn rfc1034_4_3_2_positive_answers() {
    check(&[
        ("www A", "NOERROR aa | www.~ 300 A 192.0.2.1; www.~ 300 A 192.0.2.2;"),
        ("www AAAA", "NOERROR aa | www.~ 300 AAAA 2001:db8::1;"),
        ("@ NS", "NOERROR aa | ~ 300 NS ns1.~; ~ 300 NS ns2.~;"),
        ("@ SOA", "NOERROR aa | ~ 300 SOA ns1.~ noc.~ 7 3600 900 604800 60;"),
        ("caa CAA", "NOERROR aa | caa.~ 300 CAA 0 issue \"ca.example\";"),
        ("srv SRV", "NOERROR aa | srv.~ 300 SRV 0 0 443 www.~;"),
        ("unknown TYPE65280", "NOERROR aa | unknown.~ 300 Unknown abcdef;"),
        ("bin\\000ary A", "NOERROR aa | bin\\000ary.~ 300 A 192.0.2.13;"),
    ]);
}

#[test]
fn rfc2308_2_negative_answers_carry_the_soa_with_the_lesser_time() {
    check(&[
        ("nope A", "NXDOMAIN aa | | SOA!"),
        ("www TXT", "NOERROR aa | | SOA!"),
        ("www DS", "NOERROR aa | | SOA!"),
        ("a.b.c.www A", "NXDOMAIN aa | | SOA!"),
        ("www TYPE65000", "NOERROR aa | | SOA!"),
    ]);
}

#[test]
fn rfc4592_2_2_2_empty_non_terminals_exist() {
    check(&[
        ("ent.deep A", "NOERROR aa | | SOA!"),
        ("deep A", "NOERROR aa | | SOA!"),
        ("y.deep A", "NXDOMAIN aa | | SOA!"),
    ]);
}

#[test]
fn rfc4592_wildcards_stand_in_below_the_closest_encloser_only() {
    check(&[
        ("foo.wild TXT", "NOERROR aa | foo.wild.~ 300 TXT w;"),
        ("foo.bar.wild TXT", "NOERROR aa | foo.bar.wild.~ 300 TXT w;"),
        ("foo.wild A", "NOERROR aa | | SOA!"),
        ("exists.wild TXT", "NOERROR aa | | SOA!"),
        ("x.exists.wild TXT", "NXDOMAIN aa | | SOA!"),
        ("b.wild TXT", "NOERROR aa | | SOA!"),
        ("c.b.wild TXT", "NXDOMAIN aa | | SOA!"),
        ("*.wild TXT", "NOERROR aa | *.wild.~ 300 TXT w;"),
        ("x.cwild AAAA", "NOERROR aa | x.cwild.~ 300 CNAME www.~; www.~ 300 AAAA 2001:db8::1;"),
    ]);
}

#[test]
fn rfc1034_3_6_2_aliases_are_followed_within_the_zone() {
    check(&[
        ("alias AAAA", "NOERROR aa | alias.~ 300 CNAME Www.~; Www.~ 300 AAAA 2001:db8::1;"),
        (
            "alias2 AAAA",
            "NOERROR aa | alias2.~ 300 CNAME alias.~; alias.~ 300 CNAME Www.~; Www.~ 300 AAAA 2001:db8::1;",
        ),
        ("alias CNAME", "NOERROR aa | alias.~ 300 CNAME Www.~;"),
        ("out A", "NOERROR aa | out.~ 300 CNAME www.example.org.;"),
        ("nodata A", "NOERROR aa | nodata.~ 300 CNAME ns2.~; | SOA!"),
    ]);
}

#[test]
fn rfc6604_3_an_alias_to_nothing_is_nxdomain_and_a_loop_ends() {
    check(&[
        ("dangling A", "NXDOMAIN aa | dangling.~ 300 CNAME nowhere.~; | SOA!"),
        ("loop1 A", "NOERROR aa | loop1.~ 300 CNAME loop2.~; loop2.~ 300 CNAME loop1.~;"),
    ]);
}

#[test]
fn rfc6672_3_names_below_a_dname_are_rewritten() {
    check(&[
        (
            "a.old A",
            "NOERROR aa | old.~ 300 DNAME 036e6577076578616d706c65047465737400; a.old.~ 300 CNAME a.new.~; a.new.~ 300 A 192.0.2.77;",
        ),
        (
            "b.old A",
            "NXDOMAIN aa | old.~ 300 DNAME 036e6577076578616d706c65047465737400; b.old.~ 300 CNAME b.new.~; | SOA!",
        ),
        ("old DNAME", "NOERROR aa | old.~ 300 DNAME 036e6577076578616d706c65047465737400;"),
        ("old A", "NOERROR aa | | SOA!"),
        (
            "a.old CNAME",
            "NOERROR aa | old.~ 300 DNAME 036e6577076578616d706c65047465737400; a.old.~ 300 CNAME a.new.~;",
        ),
    ]);
}

#[test]
fn rfc1034_4_2_1_delegations_are_referred_with_glue_and_without_authority() {
    let referral = "| | sub.~ 300 NS ns.sub.~; sub.~ 300 NS ns.other.test.; | ns.sub.~ 300 A 192.0.2.99; ns.sub.~ 300 AAAA 2001:db8::99;";
    check(&[
        ("sub A", &format!("NOERROR {referral}")),
        ("a.b.sub A", &format!("NOERROR {referral}")),
        ("sub NS", &format!("NOERROR {referral}")),
        ("ns.sub A", &format!("NOERROR {referral}")),
        ("sub DS", "NOERROR aa | sub.~ 300 DS 1 13 2 AABBCC;"),
        ("tosub A", &format!("NOERROR aa | tosub.~ 300 CNAME host.sub.~; {}", &referral[2..])),
    ]);
}

#[test]
fn rfc4035_3_1_4_1_ds_is_the_parents_when_both_zones_are_here() {
    check(&[
        ("www.child A", "NOERROR aa | www.child.~ 60 A 192.0.2.111;"),
        ("child NS", "NOERROR aa | child.~ 300 NS ns1.~;"),
        ("child DS", "NOERROR aa | | SOA!"),
        ("child SOA", "NOERROR aa | child.~ 60 SOA ns1.~ noc.~ 3 3600 900 604800 60;"),
    ]);
}

#[test]
fn what_is_not_ours_is_refused() {
    check(&[
        ("www.example.org. A", "REFUSED"),
        (". NS", "REFUSED"),
        ("test. A", "REFUSED"),
        ("badexample.test. A", "REFUSED"),
        ("version.bind. TXT class=3", "REFUSED"),
        ("www A class=4", "REFUSED"),
        ("www A class=255", "REFUSED"),
        ("@ AXFR", "FORMERR"),
        ("@ AXFR tcp", "REFUSED"),
        ("@ IXFR", "REFUSED"),
        ("www AXFR tcp", "NOTAUTH"),
        ("www MAILA", "NOTIMP"),
        ("www MAILB", "NOTIMP"),
        ("www OPT", "FORMERR"),
        ("www TSIG", "FORMERR"),
        ("www NXNAME", "FORMERR"),
        ("www TYPE0", "FORMERR"),
    ]);
}

#[test]
fn rfc8482_4_1_any_is_one_set() {
    check(&[
        ("www ANY", "NOERROR aa | www.~ 300 A 192.0.2.1; www.~ 300 A 192.0.2.2;"),
        ("ent.deep ANY", "NOERROR aa | | SOA!"),
    ]);
}

#[test]
fn rfc9460_4_1_addresses_of_service_targets_are_added() {
    check(&[
        (
            "svc HTTPS",
            "NOERROR aa | svc.~ 300 HTTPS 1 www.~ alpn=h2,; | | www.~ 300 A 192.0.2.1; www.~ 300 A 192.0.2.2; www.~ 300 AAAA 2001:db8::1;",
        ),
        ("own HTTPS", "NOERROR aa | own.~ 300 HTTPS 1 . alpn=h2,; | | own.~ 300 A 192.0.2.12;"),
    ]);
}

#[test]
fn rfc2181_9_what_does_not_fit_is_truncated_and_whole_by_tcp() {
    for (question, expected) in [
        ("big TXT", "NOERROR aa tc"),
        ("big TXT edns", "NOERROR aa tc"),
        ("big TXT size=65535", "NOERROR aa tc"),
        ("many A", "NOERROR aa tc"),
    ] {
        assert_eq!(shown(&ask(&SERVER, question)), expected, "{question}");
    }
    assert_eq!(ask(&SERVER, "big TXT tcp").answers.len(), 9);
    assert_eq!(ask(&SERVER, "many A edns").answers.len(), 40);
    assert_eq!(ask(&SERVER, "many A size=512").edns.unwrap().max_payload(), 1232);
}

#[test]
fn rfc6891_the_opt_record_answers_an_opt_record_only() {
    // 16 is BADVERS here; the reader prints TSIG's name of it.
    assert!(ask(&SERVER, "www A").edns.is_none());
    for (question, dnssec) in
        [("www A edns", false), ("www A do", true), ("www A size=4096", false), ("nope A do", true)]
    {
        let edns = ask(&SERVER, question).edns.unwrap();
        assert_eq!((edns.version(), edns.max_payload(), edns.flags().dnssec_ok), (0, 1232, dnssec), "{question}");
    }
    assert_eq!(shown(&ask(&SERVER, "www A version=1")), "BADSIG");
    assert_eq!(shown(&ask(&SERVER, "www A version=255 option=8:00")), "BADSIG");
    assert_eq!(ask(&SERVER, "www A version=1").edns.unwrap().version(), 0);
    assert!(ask(&SERVER, "www.example.org. A edns").edns.is_some());
}

/// Options of a reply as `code:hex`.
fn options(text: &str) -> Vec<String> {
    let question = question(text);
    let reply = SERVER.answer(&question.octets, &question.asked).unwrap();
    // The OPT record has a root owner, type 41 and our size; nothing else in these replies looks like it.
    let at = reply.windows(5).position(|part| part == [0, 0, 41, 0x04, 0xd0]).unwrap() + 11;
    let mut rest = &reply[at..];
    let mut found = Vec::new();
    while let [c0, c1, l0, l1, tail @ ..] = rest {
        let (data, behind) = tail.split_at(usize::from(u16::from_be_bytes([*l0, *l1])));
        found.push(format!("{}:{}", u16::from_be_bytes([*c0, *c1]), data_encoding::HEXLOWER.encode(data)));
        rest = behind;
    }
    found
}

#[test]
fn options_are_answered_as_their_standards_say() {
    for (question, expected) in [
        ("www A edns", vec![]),
        ("www A option=3:", vec!["3:656467652d31"]),
        ("www A option=65001:abcd", vec![]),
        ("www A ecs=203.0.113.0/24", vec!["8:00011800cb0071"]),
        ("www A ecs=203.0.113.0/0", vec!["8:00010000"]),
        ("www A ecs=2001:db8::/32", vec!["8:0002200020010db8"]),
        ("www A option=11:", vec![]),
        ("www A option=11: tcp", vec!["11:0064"]),
        ("www A option=12:00", vec![]),
        ("www A option=12:00 tcp", vec![]),
    ] {
        assert_eq!(options(question), expected, "{question}");
    }
    let padded = question("www A option=12:00 tls");
    assert_eq!(SERVER.answer(&padded.octets, &padded.asked).unwrap().len(), 468);
}

#[test]
fn rfc6891_7_and_rfc7871_7_1_2_broken_options_are_formerr_with_an_opt() {
    for option in
        ["8:00", "8:00011818cb0071", "8:00012100cb007100ff", "8:00011700cb0071", "10:00", "10:0011223344556677ff"]
    {
        let reply = ask(&SERVER, &format!("www A option={option}"));
        assert_eq!((shown(&reply).as_str(), reply.edns.is_some()), ("FORMERR", true), "{option}");
    }
}

#[test]
fn rfc9018_a_cookie_comes_back_and_is_known_again() {
    let first = options("www A option=10:2464c4abcf10c957");
    let [cookie] = &first[..] else { panic!("{first:?}") };
    assert!(cookie.starts_with("10:2464c4abcf10c95701000000") && cookie.len() == 3 + 48, "{cookie}");
    assert_eq!(options(&format!("www A option={cookie}")), first);
    assert_ne!(options(&format!("www A option={cookie} from=192.0.2.201")), first);
}

#[test]
fn rfc1035_4_1_1_the_header_of_a_reply() {
    let mut question = question("wWw A edns");
    // RD, AD, CD and the reserved bit are set; TC and RA mean nothing in a query.
    question.octets[2] |= 0x03;
    question.octets[3] |= 0xf0;
    question.octets[13..16].copy_from_slice(b"wWw");
    let reply = SERVER.answer(&question.octets, &question.asked).unwrap();
    assert_eq!(reply[..4], [0x12, 0x34, 0x85, 0x10]);
    assert_eq!(reply[12..12 + 22], question.octets[12..12 + 22]);
    assert_eq!(reply[34..36], [0xc0, 0x0c], "the owner points to the question");
}

#[test]
fn rfc7873_5_4_a_cookie_without_a_question_is_answered() {
    let mut octets = vec![0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 12, 0, 10, 0, 8];
    octets.extend([1; 8]);
    let asked = question("www A").asked;
    let reply = SERVER.answer(&octets, &asked).unwrap();
    assert_eq!((reply[3] & 15, reply[5], reply[11], reply.len()), (0, 0, 1, 12 + 11 + 4 + 24));
}

#[test]
fn rfc1996_and_rfc2136_messages_that_are_no_queries() {
    for (opcode, rcode) in [(1u8, 4), (2, 4), (4, 5), (5, 5), (6, 4)] {
        let mut question = question("www A");
        question.octets[2] = opcode << 3;
        let reply = SERVER.answer(&question.octets, &question.asked).unwrap();
        assert_eq!((reply.len(), reply[2], reply[3]), (12, 0x80 | opcode << 3, rcode), "{opcode}");
    }
}
