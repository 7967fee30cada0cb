//! OCSP responses: stapled when good, refused or left out when not.

use crate::{
    authority::{Authority, Issued},
    handshake::{Client, ONLY_12, shake},
    workbench::{Told, Workbench},
};
use serde_json::json;

fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let length = u8::try_from(body.len()).unwrap();
    let mut out = if length < 128 { vec![tag, length] } else { vec![tag, 0x81, length] };
    out.extend(body);
    out
}

/// As much of an OCSP response as is looked at: RFC 6960 §4.2.1. `status`: 0 good, 1 revoked, 2 unknown.
fn response(serial: u64, status: u8, next_update: Option<&str>) -> Vec<u8> {
    let time = |text: &str| tlv(0x18, &[text.as_bytes()]);
    let number = tlv(2, &[&serial.to_be_bytes()[6..]]);
    let id = tlv(0x30, &[&tlv(0x30, &[]), &tlv(4, &[b"n"]), &tlv(4, &[b"k"]), &number]);
    let next = next_update.map(|text| tlv(0xa0, &[&time(text)])).unwrap_or_default();
    let single = tlv(0x30, &[&id, &[0x80 | status, 0], &time("20260101000000Z"), &next]);
    let data = tlv(0x30, &[&tlv(0xa2, &[&tlv(4, &[b"r"])]), &time("20260101000000Z"), &tlv(0x30, &[&single])]);
    let bytes = tlv(0x30, &[&tlv(6, &[&[0x2b]]), &tlv(4, &[&tlv(0x30, &[&data])])]);
    tlv(0x30, &[&tlv(0x0a, &[&[0]]), &tlv(0xa0, &[&bytes])])
}

fn with(issued: &Issued, der: &[u8]) -> (Workbench, Told) {
    let mut bench = Workbench::new();
    let file = bench.file("ocsp.der", der);
    bench.certificate_of("a", &issued.pem(), &issued.key_pem(), json!({ "ocsp": { "file": file } }));
    let told = bench.load().2;
    (bench, told)
}

const FAR: Option<&str> = Some("21000101000000Z");

#[test]
fn a_good_response_reaches_the_client_octet_by_octet() {
    let authority = Authority::new("ca");
    let issued = authority.issue(&["a.example"]);
    let der = response(issued.serial, 0, FAR);
    let (bench, told) = with(&issued, &der);
    assert!(told.errors.is_empty() && told.warnings.is_empty(), "{told:?}");
    let server = bench.listener(&["a"], json!({}));
    for versions in [rustls::ALL_VERSIONS, ONLY_12] {
        let (client, staples) = Client { versions, ..Client::default() }.build(&authority);
        shake(&client, &server, "a.example").unwrap();
        assert_eq!(staples.lock().unwrap().as_slice(), std::slice::from_ref(&der));
    }
}

#[test]
fn a_stale_response_is_left_out_with_a_warning() {
    let authority = Authority::new("ca");
    let issued = authority.issue(&["a.example"]);
    let (bench, told) = with(&issued, &response(issued.serial, 0, Some("20200101000000Z")));
    assert!(told.errors.is_empty() && told.warnings[0].contains("due for renewal"), "{told:?}");
    let (client, staples) = Client::default().build(&authority);
    shake(&client, &bench.listener(&["a"], json!({})), "a.example").unwrap();
    assert_eq!(*staples.lock().unwrap(), [Vec::<u8>::new()]);
}

#[test]
fn responses_of_no_use_are_refused() {
    let issued = Authority::new("ca").issue(&["a.example"]);
    let check = |der: &[u8], part: &str| {
        let (_, told) = with(&issued, der);
        assert!(told.errors.len() == 1 && told.errors[0].contains(part), "want {part:?}, told {told:?}");
    };
    check(&response(issued.serial, 1, FAR), "revoked");
    check(&response(issued.serial, 2, None), "does not know");
    check(&response(issued.serial ^ 1, 0, FAR), "nothing about this certificate");
    check(&tlv(0x30, &[&tlv(0x0a, &[&[6]])]), "status 6");
    check(b"", "not an OCSP response");
    check(b"-----BEGIN OCSP RESPONSE-----", "not an OCSP response");
    let whole = response(issued.serial, 0, FAR);
    for end in 0..whole.len() {
        check(&whole[..end], "not an OCSP response");
    }
}

#[test]
fn damage_anywhere_never_panics() {
    let issued = Authority::new("ca").issue(&["a.example"]);
    let whole = response(issued.serial, 0, FAR);
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 0xff;
        with(&issued, &damaged);
    }
}
