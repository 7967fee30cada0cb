//! Cases of what h2 can carry and HTTP/1.1 cannot: octets that would end a line there, and so begin another request
//! (RFC 9113 §10.3). All are refused, and nothing of them reaches an origin.

use super::{
    Case,
    Expect::{self, Away, Reset},
    case,
};
use crate::support::frames::*;

const SECOND: &str = "\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: b\r\n\r\n";

pub(super) fn cases() -> Vec<Case> {
    [values(), names(), pseudo(), bodies()].into_iter().flatten().collect()
}

const MALFORMED: Expect = Reset(1, PROTOCOL_ERROR);
/// What is no field at all to the codec ends the connection, as a stream error may (RFC 9113 §5.4.1).
const CUT: Expect = Away(PROTOCOL_ERROR);

fn get_with(fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, WHOLE, 1, &request("GET", "/refused", fields))
}

fn values() -> Vec<Case> {
    let value = |name, value: &str| case(name, "§8.2.1", get_with(&[("x-v", value)]), CUT);
    let second = format!("v{SECOND}");
    vec![
        value("CR in a value", "a\rb"),
        value("LF in a value", "a\nb"),
        value("CRLF in a value", "a\r\nx-smuggled: 1"),
        value("NUL in a value", "a\0b"),
        value("a value that ends in CR", "a\r"),
        value("a value that ends in LF", "a\n"),
        value("a value that begins with CRLF", "\r\na"),
        value("a value with a whole request", &second),
        value("a value with a chunked body", "a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        case("a cookie with CRLF", "§8.2.1", get_with(&[("cookie", "a=1\r\nx-smuggled: 1")]), CUT),
        case("a cookie's second crumb with LF", "§8.2.3", get_with(&[("cookie", "a=1"), ("cookie", "b\n=2")]), CUT),
        case("a host with CRLF", "§8.2.1", get_with(&[("host", "a\r\nx-smuggled: 1")]), CUT),
        case("a length with CRLF", "§8.2.1", get_with(&[("content-length", "0\r\nx-smuggled: 1")]), CUT),
        case("a value with CRLF in Huffman's code", "7541 §5.2", huffman_crlf(), CUT),
    ]
}

/// `\r` and `\n` have thirty bits each: 0x3ffffffd and 0x3ffffffc; padded by ones.
fn huffman_crlf() -> Vec<u8> {
    let bits = (0x3fff_fffd_u64 << 30 | 0x3fff_fffc) << 4 | 0xf;
    let packed = [&[0, 1, b'x', 0x88][..], &bits.to_be_bytes()].concat();
    frame(HEADERS, WHOLE, 1, &[&request("GET", "/refused", &[])[..], &packed].concat())
}

fn names() -> Vec<Case> {
    let name = |what, name: &str| case(what, "§8.2.1", get_with(&[(name, "v")]), CUT);
    vec![
        name("CR in a name", "x\ry"),
        name("LF in a name", "x\ny"),
        name("CRLF in a name", "x: 1\r\nx-smuggled"),
        name("NUL in a name", "x\0y"),
        name("a name with a whole line", "transfer-encoding: chunked\r\nx"),
        name("a name that ends in a colon", "transfer-encoding:"),
        name("a name that ends in a space", "transfer-encoding "),
        name("a name that ends in a tab", "content-length\t"),
    ]
}

fn pseudo() -> Vec<Case> {
    let swapped = |what, name: &str, value: &str, expect| {
        let plain = [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/refused")];
        let fields = plain.map(|field| if field.0 == name { (field.0, value) } else { field });
        case(what, "§8.3.1", frame(HEADERS, WHOLE, 1, &block(fields)), expect)
    };
    let second = format!("/refused HTTP/1.1{SECOND}");
    vec![
        swapped("CR in :path", ":path", "/refused\r", MALFORMED),
        swapped("LF in :path", ":path", "/refused\n", MALFORMED),
        swapped("CRLF in :path", ":path", "/refused\r\nx-smuggled: 1", MALFORMED),
        swapped("NUL in :path", ":path", "/refused\0", MALFORMED),
        swapped("a space in :path", ":path", "/refused HTTP/1.1", MALFORMED),
        swapped("a tab in :path", ":path", "/refused\tHTTP/1.1", MALFORMED),
        swapped("a whole request in :path", ":path", &second, MALFORMED),
        swapped("CRLF in :method", ":method", "GET /smuggled HTTP/1.1\r\nhost: b\r\n\r\nGET", CUT),
        swapped("LF in :method", ":method", "GET\n", CUT),
        swapped("a tab in :method", ":method", "GET\t", CUT),
        swapped("CRLF in :authority", ":authority", "a\r\nx-smuggled: 1", MALFORMED),
        swapped("NUL in :authority", ":authority", "a\0", MALFORMED),
        swapped("a whole request in :authority", ":authority", &format!("a{SECOND}"), MALFORMED),
        swapped("CRLF in :scheme", ":scheme", "http\r\nx-smuggled: 1", MALFORMED),
        swapped("a URL in :scheme", ":scheme", "http://b/smuggled?", MALFORMED),
    ]
}

/// Framing of HTTP/1.1 that h2 does not have.
fn bodies() -> Vec<Case> {
    let inner = b"0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: b\r\n\r\n";
    let chunked = [post(1, "/refused", &[("transfer-encoding", "chunked")]), data(END_STREAM, 1, inner)];
    let both = post(1, "/refused", &[("content-length", "5"), ("transfer-encoding", "chunked")]);
    let upgrade = get_with(&[("upgrade", "h2c"), ("http2-settings", "AAMAAABkAARAAAAAAAIAAAAA")]);
    vec![
        case("transfer-encoding with a chunked body", "§8.2.2", chunked, MALFORMED),
        case("transfer-encoding beside a length", "§8.2.2", [both, data(END_STREAM, 1, b"0\r\n\r\n")], MALFORMED),
        case("upgrade to h2c", "§8.2.2", upgrade, MALFORMED),
        case("a length with a body behind its end", "§8.1.1", get_with(&[("content-length", "5")]), MALFORMED),
        case("two lengths", "§8.1.1", get_with(&[("content-length", "0"), ("content-length", "44")]), MALFORMED),
    ]
}
