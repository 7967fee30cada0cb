//! Bodies that hide what they hold: compressed, in GraphQL, in gRPC.
#![allow(clippy::unwrap_used)]

use flate2::Compression;
use flate2::write::GzEncoder;
use portcullis_waf::{Audit, Cause, Connection, Cut, InMemory, Source, Waf};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

const RULES: &str = r#"
SecRuleEngine On
SecRequestBodyAccess On
SecRequestBodyLimit 100000
SecRequestBodyNoFilesLimit 100000
SecResponseBodyAccess On
SecResponseBodyMimeType text/html
SecResponseBodyLimit 100000
SecRule REQUEST_HEADERS:Content-Type "@contains json" "id:1,phase:1,pass,nolog,ctl:requestBodyProcessor=JSON"
SecRule ARGS "@rx ^union select$" "id:10,phase:2,pass"
SecRule REQBODY_ERROR "!@eq 0" "id:11,phase:2,deny,status:400"
SecRule RESPONSE_BODY "@contains ORA-00933" "id:20,phase:4,deny,status:502"
"#;

fn send(headers: &[(&str, &str)], body: &[u8], answer: Option<(&[(&str, &str)], &[u8])>) -> Audit {
    let waf =
        Waf::compile(&[Source::Text { name: "test".to_owned(), text: RULES.to_owned() }], &InMemory::new()).unwrap();
    let mut transaction = waf.transaction(Connection {
        client: IpAddr::V4(Ipv4Addr::LOCALHOST),
        client_port: 1,
        server: IpAddr::V4(Ipv4Addr::LOCALHOST),
        server_port: 80,
        unique_id: String::new(),
        now: Duration::from_secs(1),
    });
    transaction.request_line(b"POST", b"/", b"HTTP/2.0");
    headers.iter().for_each(|(name, value)| transaction.request_header(name.as_bytes(), value.as_bytes()));
    transaction.request_headers_done();
    body.chunks(7).for_each(|chunk| _ = transaction.request_body_chunk(chunk));
    transaction.request_body_done();
    if let Some((headers, body)) = answer {
        transaction.response_line(200, b"HTTP/1.1");
        headers.iter().for_each(|(name, value)| transaction.response_header(name.as_bytes(), value.as_bytes()));
        transaction.response_headers_done();
        body.chunks(7).for_each(|chunk| _ = transaction.response_body_chunk(chunk));
        transaction.response_body_done();
    }
    transaction.finish()
}

fn ids(audit: &Audit) -> Vec<u32> {
    audit.matches.iter().map(|matched| matched.id).collect()
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");
const GZIP: (&str, &str) = ("content-encoding", "gzip");

#[test]
fn a_compressed_body_is_read_like_any_other() {
    assert_eq!(ids(&send(&[FORM, GZIP], &gzip(b"a=union+select"), None)), [10]);
    let broken = send(&[FORM, GZIP], b"a=union+select", None);
    assert_eq!((ids(&broken), broken.cut), (vec![11], vec![Cut::Encoding]));
    let unknown = send(&[FORM, ("content-encoding", "x-own")], b"a=1", None);
    assert_eq!(unknown.cut, [Cut::Encoding]);
    let bomb = send(&[FORM, GZIP], &gzip(&vec![b'a'; 10_000_000]), None);
    assert_eq!(bomb.intervention.map(|intervention| intervention.cause), Some(Cause::RequestBodyLimit));
}

#[test]
fn graphql_literals_are_arguments() {
    let json = ("content-type", "application/json");
    assert_eq!(ids(&send(&[json], br#"{"query":"{ user(name: \"union select\") { id } }"}"#, None)), [10]);
    let graphql = ("content-type", "application/graphql");
    assert_eq!(ids(&send(&[graphql], b"{ user(name: \"union \\u0073elect\") }", None)), [10]);
}

#[test]
fn grpc_strings_are_arguments() {
    let message = [b"\x0a\x0e\x12\x0c".as_slice(), b"union select"].concat();
    let body = [b"\0\0\0\0\x10".as_slice(), &message].concat();
    assert_eq!(ids(&send(&[("content-type", "application/grpc+proto")], &body, None)), [10]);
    let packed = gzip(&message);
    let body = [&[1, 0, 0, 0, u8::try_from(packed.len()).unwrap()][..], &packed].concat();
    assert_eq!(ids(&send(&[("content-type", "application/grpc"), ("grpc-encoding", "gzip")], &body, None)), [10]);
}

#[test]
fn compressed_answers_are_inspected() {
    let page = b"<html>ORA-00933: SQL command not properly ended</html>";
    let html = ("content-type", "text/html; charset=utf-8");
    assert_eq!(ids(&send(&[], b"", Some((&[html], page)))), [20]);
    assert_eq!(ids(&send(&[], b"", Some((&[html, GZIP], &gzip(page))))), [20]);
    assert_eq!(ids(&send(&[], b"", Some((&[("content-type", "image/png")], page)))), Vec::<u32>::new());
    let unknown = send(&[], b"", Some((&[html, ("content-encoding", "br")], page)));
    assert_eq!(unknown.cut, [Cut::Encoding]);
}

/// What is accepted and does nothing is told: mostly it stands in the wrong place.
#[test]
fn lines_that_change_nothing_are_told_with_their_place() {
    for (text, note) in [
        ("SecRuleRemoveById 77\n", "SecRuleRemoveById changes nothing: no rule before this line is of it"),
        ("SecRuleRemoveByTag attack-x\n", "SecRuleRemoveByTag changes nothing"),
        ("SecRuleUpdateTargetById 77 \"!ARGS:a\"\n", "SecRuleUpdateTargetById changes nothing"),
        ("SecAction \"id:9,phase:1,pass,skipAfter:END\"\n", "skipAfter:END skips the rest of the phase"),
        ("SecMarker END\nSecAction \"id:9,phase:1,pass,skipAfter:END\"\n", "skipAfter:END skips the rest of the phase"),
        ("SecAction \"id:9,phase:1,pass,skipAfter:END\"\nSecMarker END\n", ""),
        ("SecAction \"id:9,phase:1,pass\"\nSecRuleRemoveById 1-20\n", ""),
    ] {
        let source = portcullis_waf::Source::Text { name: "own.conf".to_owned(), text: text.to_owned() };
        let waf = portcullis_waf::Waf::compile(&[source], &portcullis_waf::Disk).unwrap();
        let told: Vec<String> = waf.notes().iter().map(|note| format!("{}: {}", note.origin, note.message)).collect();
        match note {
            "" => assert!(told.is_empty(), "{text}: {told:?}"),
            note => assert!(told.len() == 1 && told[0].starts_with("own.conf:") && told[0].contains(note), "{told:?}"),
        }
    }
}
