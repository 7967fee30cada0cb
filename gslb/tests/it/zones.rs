//! Zones as wholes: what is refused, what is warned of, what a reload keeps.

use crate::support::{ask, compile_all, shown};

const HEAD: &str = "[zone.x]\nname = \"example.test\"\nfile = \"example.zone\"\n";
const SOA: &str = "$TTL 60\n@ SOA ns noc 1 2 3 4 5\n@ NS ns\nns A 192.0.2.1\n";

fn problems(zone: &str) -> Vec<String> {
    compile_all(HEAD, zone, None).1
}

#[test]
fn a_zone_that_cannot_be_right_is_refused_where_it_is_wrong() {
    for (zone, expected) in [
        ("www 1 A 192.0.2.1", "zone example.test. has no SOA"),
        ("@ 1 SOA ns noc 1 2 3 4 5", "zone example.test. has no NS"),
        (&format!("{SOA}@ SOA ns noc 2 2 3 4 5"), "example.test. has 2 SOAs; one is right"),
        (&format!("{SOA}w CNAME a\nw A 192.0.2.1"), "example.zone:5: w.example.test. has a CNAME and A beside it"),
        (&format!("{SOA}w CNAME a\nw CNAME b"), "has 2 CNAME records; one is right"),
        (&format!("{SOA}w SOA ns noc 1 2 3 4 5"), "a SOA stands at the apex"),
        (&format!("{SOA}w DS 1 13 2 AA"), "DS needs NS beside it"),
        (&format!("{SOA}d DNAME a\nx.d A 192.0.2.1"), "x.d.example.test. is below the DNAME at d.example.test."),
        (&format!("{SOA}sub NS ns.sub"), "example.zone:5: sub.example.test. NS ns.sub.example.test. has no address"),
    ] {
        let found = problems(zone);
        assert!(found.iter().any(|line| line.contains(expected)), "{zone}: {found:?}");
        assert!(compile_all(HEAD, zone, None).0.is_none(), "{zone}");
    }
}

#[test]
fn likely_mistakes_are_warned_of_and_served() {
    for (zone, expected) in [
        (format!("{SOA}w A 192.0.2.1\nw A 192.0.2.1"), "w.example.test. A is given twice"),
        (format!("{SOA}w 1 A 192.0.2.1\nw 2 A 192.0.2.2"), "w.example.test. A has two times to live; 1 is used"),
        (format!("{SOA}w MX 1 nowhere"), "MX nowhere.example.test. has no address"),
        (format!("{SOA}w MX 1 a\na CNAME ns"), "MX a.example.test. is an alias"),
        (format!("{SOA}sub NS ns\nx.sub TXT a"), "x.sub.example.test. TXT is below the delegation sub.example.test."),
    ] {
        let (snapshot, found) = compile_all(HEAD, &zone, None);
        assert!(snapshot.is_some() && found.len() == 1 && found[0].contains(expected), "{zone}: {found:?}");
    }
}

#[test]
fn mistakes_in_the_document_are_told_at_their_keys() {
    for (document, expected) in [
        ("[zone.x]\nname = \"a..b\"\n", "dns.toml:2:8: `a..b` is not a domain name: a label is empty"),
        (
            "[zone.x]\nname = \"a\"\nrecords = [\"w 1 A x\"]\n",
            "dns.toml:3:12: character 7: A: expected an IPv4 address",
        ),
        ("[zone.x]\nname = \"a\"\n[zone.y]\nname = \"A.\"\n", "zone a. is defined twice"),
        ("[zone.x]\nname = \"a\"\nfile = \"none\"\n", "cannot read"),
        ("[zone.x]\nname = \"a\"\nrecords = [\"$INCLUDE x\"]\n", "$INCLUDE is for zone files"),
        ("[zone.x]\nname = \"a\"\nttl = \"1500ms\"\n", "DNS counts in whole seconds"),
        ("[dns]\nudp_size = 100\n", "512"),
        ("[dns]\nnsid = \"\"\n", "an nsid has 1 to 128 octets"),
        ("[dns]\ncookies = { secret = { env = \"PORTCULLIS_NO_SUCH\" } }\n", "is not set"),
        ("[dns]\nrate_limit = { responses = \"1/h\" }\n", "less than one reply a second"),
        ("[dns]\ntcp = { idle_timeout = \"0s\" }\n", "idle_timeout cannot be zero"),
    ] {
        let (snapshot, found) = compile_all(document, "", None);
        assert!(snapshot.is_none() && found.iter().any(|line| line.contains(expected)), "{document}: {found:?}");
    }
}

#[test]
fn a_serial_that_nobody_gave_moves_only_when_the_zone_does() {
    let document = |records: &str| {
        format!(
            "[zone.x]\nname = \"example.test\"\nns = [\"ns.other.test\"]\nrecords = [{records}]\n\
             soa = {{ mname = \"ns.other.test\", rname = \"a.b@other.test\" }}\n"
        )
    };
    let first = compile_all(&document(""), "", None).0.unwrap();
    let shown_first = shown(&ask(&first, "@ SOA"));
    assert!(
        shown_first.contains("SOA ns.other.test. a\\.b.other.test. 1800000000 3600 900 604800 60"),
        "{shown_first}"
    );
    let same = compile_all(&document(""), "", Some(&first)).0.unwrap();
    assert_eq!(shown(&ask(&same, "@ SOA")), shown_first);
    let changed = compile_all(&document("\"w A 192.0.2.1\""), "", Some(&first)).0.unwrap();
    assert!(shown(&ask(&changed, "@ SOA")).contains(" 1800000001 3600 "));
}
