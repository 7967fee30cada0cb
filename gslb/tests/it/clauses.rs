//! More of what each standard says of an answer, by clause: types, sizes, options, wildcards and redirections at their edges.

use crate::support::{ask, compile, question, shown};
use hickory_proto::op::Message;
use portcullis_gslb::{Snapshot, Transport};
use std::sync::{Arc, LazyLock};

static SERVER: LazyLock<Arc<Snapshot>> = LazyLock::new(|| {
    let document = "[dns]\nnsid = \"edge-1\"\n[zone.example]\nname = \"example.test\"\nfile = \"example.zone\"\n\
         [zone.moved]\nname = \"moved.test\"\nns = [\"ns1.example.test\"]\n\
         soa = { mname = \"ns1.example.test\", rname = \"noc@example.test\", serial = 3 }\n\
         records = [\"@ 60 DNAME example.test.\", \"@ 60 MX 10 mx.example.test.\"]\n\
         [public_service.geo]\nhost = \"geo.example.test\"\nsites = { a = [\"192.0.2.11\"] }\n";
    compile(document, ZONE).unwrap()
});

const ZONE: &str = r#"
$TTL 300
@ 30 SOA ns1 noc 7 3600 900 604800 60
@ NS ns1
ns1 A 192.0.2.53
ptr PTR ns1
mx MX 10 ns1
mx MX 20 .
txt TXT "a b" "c\"d\\e" ""
naptr NAPTR 1 2 "u" "E2U+sip" "!^.*$!sip:a@b!" .
caa CAA 128 issue "ca.example; x=1"
tlsa TLSA 3 1 1 AABBCC
smimea SMIMEA 3 0 0 AABB
sshfp SSHFP 4 2 AABB
svcb SVCB 1 ns1 alpn=dot,doq port=853 ipv4hint=192.0.2.53 key65001=x
https HTTPS 1 . alpn=h3,h2 port=8443 ech=AAEC ipv6hint=2001:db8::1
alias HTTPS 0 https
loc LOC \# 16 00161300895A2F7070BEA8C000989680
uri URI 1 2 "https://example.com/"
hinfo HINFO "a" "b"
rp RP ns1 txt
openpgp OPENPGPKEY AAEC
unknown TYPE731 \# 3 ABCDEF
empty TYPE732 \# 0
generic TYPE1 \# 4 C0000263
one DNAME two
two DNAME three
a.three A 192.0.2.3
*.below.w A 192.0.2.4
x.*.star A 192.0.2.5
*.redirected DNAME three
long DNAME aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
c1 CNAME c2
c2 CNAME c3
c3 CNAME d.one
d.three A 192.0.2.6
$GENERATE 1-20 n-${0,2} A 192.0.2.$
$GENERATE 1-9 wide TXT "$aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
"#;

const SOA: &str = "~ 30 SOA ns1.~ noc.~ 7 3600 900 604800 60;";

fn check(cases: &[(&str, &str)]) {
    for (question, expected) in cases {
        assert_eq!(shown(&ask(&SERVER, question)), expected.replace("SOA!", SOA), "{question}");
    }
}

/// The data of the first answer as the wire has it.
fn data(text: &str) -> String {
    let question = question(text);
    let reply = SERVER.answer(&question.octets, &question.asked).unwrap();
    // The owner is a pointer to the question; type, class, time to live and length follow.
    let at = question.octets.len() + 2 + 8;
    let length = usize::from(u16::from_be_bytes([reply[at], reply[at + 1]]));
    data_encoding::HEXLOWER.encode(&reply[at + 2..at + 2 + length])
}

#[test]
fn rfc1035_3_3_rfc3597_4_every_type_has_its_wire_form_and_young_ones_no_pointers() {
    // ns1.example.test as RFC 1035 §4.1.4 may write it, and as RFC 3597 §4 must.
    let pointed = |name: &str| format!("036e7331c0{:02x}", 12 + name.len() + 1);
    let ns1 = "036e7331076578616d706c65047465737400";
    for (question, expected) in [
        ("ptr PTR", pointed("ptr")),
        ("mx MX", format!("000a{}", pointed("mx"))),
        ("txt TXT", "0361206205632264".to_owned() + "5c6500"),
        ("naptr NAPTR", "000100020175074532552b7369700e215e2e2a24217369703a61406221".to_owned() + "00"),
        ("caa CAA", "80056973737565".to_owned() + "63612e6578616d706c653b20783d31"),
        ("tlsa TLSA", "030101aabbcc".to_owned()),
        ("smimea SMIMEA", "030000aabb".to_owned()),
        ("sshfp SSHFP", "0402aabb".to_owned()),
        (
            "svcb SVCB",
            format!("0001{ns1}0001000803646f7403646f71000300020355000400 04c0000235fde9000178").replace(' ', ""),
        ),
        (
            "https HTTPS",
            "000100000100060268330268320003000220fb0005000300010200060010".to_owned()
                + "20010db8000000000000000000000001",
        ),
        ("alias HTTPS", "0000".to_owned() + "056874747073" + "076578616d706c65047465737400"),
        ("uri URI", "00010002".to_owned() + "68747470733a2f2f6578616d706c652e636f6d2f"),
        ("hinfo HINFO", "01610162".to_owned()),
        ("rp RP", format!("{ns1}03747874{}", &ns1[8..])),
        ("openpgp OPENPGPKEY", "000102".to_owned()),
        ("unknown TYPE731", "abcdef".to_owned()),
        ("empty TYPE732", String::new()),
        ("generic A", "c0000263".to_owned()),
        ("n-07 A", "c0000207".to_owned()),
    ] {
        assert_eq!(data(question), expected, "{question}");
    }
    assert_eq!(data("loc LOC"), "00161300895a2f7070bea8c000989680");
}

#[test]
fn rfc1035_2_3_4_names_of_255_octets_are_asked_and_answered() {
    let label = "a".repeat(63);
    let longest = format!("{label}.{label}.{label}.{}.example.test.", "b".repeat(47));
    check(&[(&format!("{longest} A"), "NXDOMAIN aa | | SOA!")]);
    // Binary labels, dots and all.
    check(&[("\\000\\255\\.x A", "NXDOMAIN aa | | SOA!")]);
}

#[test]
fn rfc6672_redirections_chain_end_and_may_stand_at_the_apex() {
    let two = "03".to_owned() + "74776f" + "076578616d706c65047465737400";
    let three = "05".to_owned() + "7468726565" + "076578616d706c65047465737400";
    check(&[
        (
            "a.one A",
            &format!(
                "NOERROR aa | one.~ 300 DNAME {two}; a.one.~ 300 CNAME a.two.~; two.~ 300 DNAME {three}; \
                 a.two.~ 300 CNAME a.three.~; a.three.~ 300 A 192.0.2.3;"
            ),
        ),
        (
            "c1 A",
            &format!(
                "NOERROR aa | c1.~ 300 CNAME c2.~; c2.~ 300 CNAME c3.~; c3.~ 300 CNAME d.one.~; one.~ 300 DNAME {two}; \
                 d.one.~ 300 CNAME d.two.~; two.~ 300 DNAME {three}; d.two.~ 300 CNAME d.three.~; d.three.~ 300 A 192.0.2.6;"
            ),
        ),
        (
            "ns1.moved.test. A",
            "NOERROR aa | moved.test. 60 DNAME 076578616d706c65047465737400; ns1.moved.test. 60 CNAME ns1.~;",
        ),
        // RFC 6672 §2.3: the owner itself is not redirected.
        ("moved.test. MX", "NOERROR aa | moved.test. 60 MX 10 mx.~;"),
        // RFC 6672 §3.3: a DNAME below a wildcard is the name's own data.
        ("x.redirected DNAME", &format!("NOERROR aa | x.redirected.~ 300 DNAME {three};")),
    ]);
    // RFC 6672 §2.2: what becomes too long is YXDOMAIN, with the DNAME that would make it.
    let label = "b".repeat(63);
    let reply = ask(&SERVER, &format!("{label}.{label}.long A tcp"));
    assert_eq!((u16::from(reply.metadata.response_code), reply.answers.len()), (6, 1));
}

#[test]
fn rfc4592_2_1_1_stars_elsewhere_are_labels_like_any() {
    check(&[
        ("y.z.below.w A", "NOERROR aa | y.z.below.w.~ 300 A 192.0.2.4;"),
        ("w A", "NOERROR aa | | SOA!"),
        ("below.w A", "NOERROR aa | | SOA!"),
        // `*.star` exists without data: it stands in for names below `star`, with nothing.
        ("y.star A", "NOERROR aa | | SOA!"),
        ("x.*.star A", "NOERROR aa | x.*.star.~ 300 A 192.0.2.5;"),
        ("x.y.star A", "NOERROR aa | | SOA!"),
    ]);
}

#[test]
fn rfc2308_5_the_soa_of_an_absence_lives_for_the_lesser_time() {
    check(&[("nope A", "NXDOMAIN aa | | SOA!"), ("ns1 AAAA", "NOERROR aa | | SOA!")]);
    check(&[("@ SOA", "NOERROR aa | ~ 30 SOA ns1.~ noc.~ 7 3600 900 604800 60;")]);
}

fn reply(text: &str) -> Vec<u8> {
    let question = question(text);
    SERVER.answer(&question.octets, &question.asked).unwrap()
}

#[test]
fn rfc6891_6_2_5_replies_fill_what_the_client_takes_to_the_octet_and_1232_at_most() {
    let opt = 11;
    let whole = reply("wide TXT tcp").len() + opt;
    assert!(whole > 1_232, "{whole}");
    for name in ["wide TXT", "txt TXT", "mx MX", "n-07 A"] {
        let whole = reply(&format!("{name} tcp")).len() + opt;
        for size in
            (512..1_300).step_by(13).chain([512, 1_231, 1_232, 1_233, 4_096, 65_535, whole, whole.saturating_sub(1)])
        {
            let octets = reply(&format!("{name} size={size}"));
            let message = Message::from_vec(&octets).unwrap();
            let limit = size.clamp(512, 1_232);
            assert!(octets.len() <= limit, "{name} {size}: {}", octets.len());
            assert_eq!(message.metadata.truncation, whole > limit, "{name} {size}");
            assert!(message.edns.is_some(), "RFC 6891 §7: a truncated reply keeps its OPT");
        }
        // RFC 1035 §4.2.1: without EDNS 512.
        let octets = reply(name);
        assert_eq!(octets[2] & 2 != 0, whole - opt > 512, "{name}");
        assert!(octets.len() <= 512);
    }
}

#[test]
fn rfc6891_6_1_4_flags_that_nobody_knows_are_not_sent_back() {
    let mut question = question("ns1 A do");
    let flags = question.octets.len() - 4;
    question.octets[flags] = 0xff;
    question.octets[flags + 1] = 0xff;
    let octets = SERVER.answer(&question.octets, &question.asked).unwrap();
    assert_eq!(octets[octets.len() - 4..octets.len() - 2], [0x80, 0]);
    // RFC 6891 §6.1.2: an option twice, unknown ones, and empty ones.
    let ours = reply("ns1 A option=65001: option=65001:00 option=3: option=3:");
    assert_eq!(ours.windows(6).filter(|part| part == b"edge-1").count(), 1);
}

#[test]
fn rfc7871_scope_is_zero_for_all_but_steered_answers_and_families_are_told_apart() {
    let subnet = |text: &str| {
        let octets = reply(text);
        let at = octets.windows(2).rposition(|part| part == [0, 8])?;
        Some(data_encoding::HEXLOWER.encode(&octets[at + 4..]))
    };
    for (question, expected) in [
        ("ns1 A ecs=203.0.113.0/24", Some("00011800cb0071")),
        ("nope A ecs=203.0.113.0/24", Some("00011800cb0071")),
        ("ns1 AAAA ecs=203.0.113.0/24", Some("00011800cb0071")),
        // A service with one answer for all.
        ("geo A ecs=203.0.113.0/24", Some("00011800cb0071")),
        ("geo A ecs=0.0.0.0/0", Some("00010000")),
        ("geo A ecs=::/0", Some("00020000")),
        ("geo A ecs=2001:db8::/56", Some("0002380020010db8000000")),
        ("geo A option=8:00000000", Some("00000000")),
        ("geo A edns", None),
        // RFC 7871 §7.1.2: who is refused is told the subnet all the same.
        ("www.example.org. A ecs=203.0.113.0/24", Some("00011800cb0071")),
    ] {
        let found = subnet(question);
        let found = found.filter(|_| question.contains("ecs") || question.contains("option"));
        assert!(
            match (&found, expected) {
                (Some(found), Some(expected)) => found.starts_with(expected),
                (None, None) => true,
                _ => false,
            },
            "{question}: {found:?}"
        );
    }
}

#[test]
fn rfc7830_padding_is_for_encrypted_streams_and_to_blocks_of_468() {
    for (text, expected) in [
        ("ns1 A option=12:0000 tls", 468),
        ("wide TXT option=12: tls", 468 * 4),
        ("nope A option=12: tls", 468),
        ("ns1 A edns tls", 56),
        ("ns1 A option=12: tcp", 56),
        ("ns1 A option=12:", 56),
    ] {
        let length = reply(text).len();
        assert!(
            length == expected || (expected != 56 && length.is_multiple_of(468)) || (expected == 56 && length < 80),
            "{text}: {length}"
        );
    }
}

#[test]
fn rfc7828_3_3_2_keepalive_is_answered_on_streams_alone() {
    let has = |text: &str| reply(text).windows(6).any(|part| part == [0, 11, 0, 2, 0, 100]);
    assert!(has("ns1 A option=11: tcp") && has("ns1 A option=11: tls") && has("nope A option=11: tcp"));
    assert!(!has("ns1 A option=11:") && !has("ns1 A edns tcp"));
}

#[test]
fn rfc4892_chaos_tells_nothing_of_what_runs_here() {
    for name in ["version.bind.", "version.server.", "hostname.bind.", "id.server.", "authors.bind.", "example.test."] {
        for extra in ["", " edns", " option=3: tcp"] {
            let message = ask(&SERVER, &format!("{name} TXT class=3{extra}"));
            assert!(shown(&message).starts_with("REFUSED"), "{name}{extra}: {}", shown(&message));
            assert!(message.answers.is_empty());
        }
    }
}

#[test]
fn rfc8482_4_any_is_small_whatever_there_is_and_however_it_is_asked() {
    for text in ["mx ANY", "mx ANY tcp", "mx ANY do", "txt ANY"] {
        let message = ask(&SERVER, text);
        let mut types: Vec<_> = message.answers.iter().map(hickory_proto::rr::Record::record_type).collect();
        types.dedup();
        assert_eq!(types.len(), 1, "{text}");
    }
    check(&[("a.one ANY", &shown(&ask(&SERVER, "a.one ANY"))), ("nope ANY", "NXDOMAIN aa | | SOA!")]);
}

#[test]
fn rfc9460_2_4_2_and_4_1_aliases_of_services_bring_what_stands_at_their_target() {
    check(&[(
        "svcb SVCB",
        "NOERROR aa | svcb.~ 300 SVCB 1 ns1.~ alpn=dot,doq, port=853 ipv4hint=192.0.2.53, unknown65001=\"x\",; | | ns1.~ 300 A 192.0.2.53;",
    )]);
    let alias = ask(&SERVER, "alias HTTPS");
    assert_eq!((alias.answers.len(), alias.additionals.len()), (1, 0));
}

#[test]
fn rfc1995_2_rfc5936_4_2_transfers_by_udp_and_of_what_nobody_may_have() {
    for (text, transport, expected) in [
        ("@ AXFR", Transport::Udp, "FORMERR"),
        ("@ AXFR", Transport::Tls, "REFUSED"),
        ("@ IXFR", Transport::Udp, "REFUSED"),
        ("ns1 IXFR", Transport::Tcp, "NOTAUTH"),
        ("example.org. AXFR", Transport::Tcp, "NOTAUTH"),
    ] {
        let mut question = question(text);
        question.asked.transport = transport;
        let reply = SERVER.answer(&question.octets, &question.asked).unwrap();
        assert_eq!(shown(&Message::from_vec(&reply).unwrap()), expected, "{text}");
    }
}
