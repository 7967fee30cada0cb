//! Cases of messages: packed fields, pseudo-header fields, fields, lengths, trailers.

use super::{
    Case,
    Expect::{Away, Reset, Saw, Status},
    case,
};
use crate::support::frames::*;

pub(super) fn cases() -> Vec<Case> {
    [
        packing(),
        table(),
        missing_pseudo(),
        wrong_pseudo(),
        targets(),
        connects(),
        names(),
        values(),
        lengths(),
        trailers(),
        too_much(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// A whole request with this header block.
fn head(block: &[u8]) -> Vec<u8> {
    frame(HEADERS, WHOLE, 1, block)
}

/// The same, its block in parts.
fn joined(parts: &[&[u8]]) -> Vec<u8> {
    head(&parts.concat())
}

fn plain() -> Vec<u8> {
    request("GET", "/", &[])
}

fn with(fields: &[(&str, &str)]) -> Vec<u8> {
    head(&request("GET", "/", fields))
}

fn packing() -> Vec<Case> {
    let broken = |name, clause, more: &[u8]| case(name, clause, joined(&[&plain(), more]), Away(COMPRESSION_ERROR));
    vec![
        broken("index 0", "7541 §6.1", &[0x80]),
        broken("an index beyond both tables", "7541 §2.3.3", &[0xbe]),
        broken("a far index", "7541 §2.3.3", &[0xff, 0x80, 0x40]),
        broken("a name's index beyond both tables", "7541 §2.3.3", &[0x7e, 1, b'v']),
        broken("Huffman padding longer than seven bits", "7541 §5.2", &[0, 1, b'x', 0x82, 0x1f, 0xff]),
        broken("Huffman padding of zeros", "7541 §5.2", &[0, 1, b'x', 0x81, 0x18]),
        broken("Huffman's end of string", "7541 §5.2", &[0, 1, b'x', 0x84, 0xff, 0xff, 0xff, 0xff]),
        broken("a table's size in the midst of a block", "7541 §4.2", &[0x20]),
        broken("a string longer than its block", "7541 §5.2", &[0, 1, b'x', 20, b'v']),
        broken("a field without a value", "7541 §6.2", &[0, 1, b'x']),
        broken("a literal that is not there", "7541 §6.2", &[0]),
        broken(
            "an integer that never ends",
            "7541 §5.1",
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        ),
        broken("a length beyond 32 bits", "7541 §5.1", &[0, 1, b'x', 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]),
        broken("an index that ends too early", "7541 §5.1", &[0xff]),
        case(
            "a table's size beyond the setting",
            "7541 §6.3",
            joined(&[&[0x3f, 0xe2, 0x1f], &plain()]),
            Away(COMPRESSION_ERROR),
        ),
        case("a broken block over TLS", "§4.3", joined(&[&plain(), &[0x80]]), Away(COMPRESSION_ERROR)).over_tls(),
        case(
            "a broken block in CONTINUATION",
            "§4.3",
            [frame(HEADERS, END_STREAM, 1, &plain()), frame(CONTINUATION, END_HEADERS, 1, &[0x80])],
            Away(COMPRESSION_ERROR),
        ),
        case(
            "a broken block on a stream that was reset",
            "§4.3",
            [post(1, "/slow", &[]), reset(1), frame(HEADERS, WHOLE, 3, &[0x80])],
            Away(COMPRESSION_ERROR),
        ),
        case(
            "broken trailers",
            "§4.3",
            [post(1, "/slow", &[]), frame(HEADERS, WHOLE, 1, &[0xff, 0x80, 0x40])],
            Away(COMPRESSION_ERROR),
        ),
    ]
}

fn table() -> Vec<Case> {
    let again = |first: &[u8], second: &[u8]| {
        let one = frame(HEADERS, WHOLE, 1, &[&plain()[..], first].concat());
        [one, frame(HEADERS, WHOLE, 3, &[second, &plain(), &[0xbe]].concat())]
    };
    let field = [0x40, 1, b'k', 1, b'v'];
    vec![
        case("a field is remembered", "7541 §6.2.1", again(&field, &[]), Saw(3, "k: v")),
        case(
            "a remembered name with another value",
            "7541 §6.2.1",
            [joined(&[&plain(), &field]), frame(HEADERS, WHOLE, 3, &[&plain()[..], &[0x7e, 1, b'w', 0xbe]].concat())],
            Saw(3, "k: w"),
        ),
        case(
            "a field that is not to be remembered",
            "7541 §6.2.2",
            again(&[0, 1, b'k', 1, b'v'], &[]),
            Away(COMPRESSION_ERROR),
        ),
        case(
            "a field that is never to be remembered",
            "7541 §6.2.3",
            again(&[0x10, 1, b'k', 1, b'v'], &[]),
            Away(COMPRESSION_ERROR),
        ),
        case("a table that was emptied", "7541 §4.3", again(&field, &[0x20]), Away(COMPRESSION_ERROR)),
        case(
            "a table's size given twice",
            "7541 §4.2",
            again(&field, &[0x3f, 0xe1, 0x1f, 0x3f, 0xe1, 0x1f]),
            Saw(3, "k: v"),
        ),
        case(
            "a field larger than the table empties it",
            "7541 §4.4",
            again(&[&field[..], &[0x40, 1, b'l', 0x7f, 0xa1, 0x1f], &[b'v'; 4_128]].concat(), &[]),
            Away(COMPRESSION_ERROR),
        ),
        case(
            "Huffman's code",
            "7541 §5.2",
            joined(&[&plain(), &[0, 1, b'x', 0x8c], b"\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff"]),
            Saw(1, "x: www.example.com"),
        ),
        case(
            "fields of the static table",
            "7541 §6.1",
            joined(&[&[0x82, 0x86, 0x84, 0x01, 1, b'a', 0x90]]),
            Saw(1, "accept-encoding: gzip, deflate"),
        ),
        case(
            "a malformed request's fields are remembered",
            "§4.3",
            again(&[&[0, 2, b't', b'e', 1, b'v'][..], &field].concat(), &[]),
            Saw(3, "k: v"),
        ),
    ]
}

const PSEUDO: [(&str, &str); 4] = [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/")];

fn missing_pseudo() -> Vec<Case> {
    let without = |left_out: &str| head(&block(PSEUDO.into_iter().filter(|(name, _)| *name != left_out)));
    let twice = |name: &str| {
        head(&block(PSEUDO.into_iter().flat_map(|field| if field.0 == name { vec![field; 2] } else { vec![field] })))
    };
    let malformed = |name, bytes| case(name, "§8.3.1", bytes, Reset(1, PROTOCOL_ERROR));
    vec![
        malformed("no :method", without(":method")),
        malformed("no :scheme", without(":scheme")),
        malformed("no :path", without(":path")),
        case("neither :authority nor host", "§8.3.1", without(":authority"), Status(1, 400)),
        malformed("two :method", twice(":method")),
        malformed("two :scheme", twice(":scheme")),
        malformed("two :authority", twice(":authority")),
        malformed("two :path", twice(":path")),
        malformed("no fields at all", head(&[])),
    ]
}

// What is no field at all to the codec ends the connection, as a stream error may (RFC 9113 §5.4.1).
fn wrong_pseudo() -> Vec<Case> {
    let cut = |name, clause, bytes| case(name, clause, bytes, Away(PROTOCOL_ERROR));
    let malformed = |name, clause, bytes| case(name, clause, bytes, Reset(1, PROTOCOL_ERROR));
    let swapped = |name: &str, value: &str| {
        let fields = PSEUDO.map(|field| if field.0 == name { (field.0, value) } else { field });
        head(&block(fields))
    };
    let late = |name: &str| {
        let (after, before): (Vec<_>, Vec<_>) = PSEUDO.into_iter().partition(|field| field.0 == name);
        head(&block(before.into_iter().chain([("x", "y")]).chain(after)))
    };
    vec![
        malformed(":method behind a field", "§8.3", late(":method")),
        malformed(":scheme behind a field", "§8.3", late(":scheme")),
        malformed(":authority behind a field", "§8.3", late(":authority")),
        malformed(":path behind a field", "§8.3", late(":path")),
        cut("a pseudo-header field that nobody knows", "§8.3", with_pseudo(":color", "red")),
        malformed("one of an answer", "§8.3", with_pseudo(":status", "200")),
        cut("only a colon", "§8.3", with_pseudo(":", "x")),
        malformed(":protocol without the setting", "8441 §3", with_pseudo(":protocol", "websocket")),
        cut("an upper-case :Method", "§8.2", with_pseudo(":Method", "GET")),
        cut("an empty :method", "§8.3.1", swapped(":method", "")),
        cut("a :method with a space", "§8.3.1", swapped(":method", "GET /")),
        malformed("an empty :path", "§8.3.1", swapped(":path", "")),
        case("an empty :scheme", "§8.3.1", swapped(":scheme", ""), Status(1, 400)),
        malformed("a :scheme with a slash", "§8.3.1", swapped(":scheme", "http/")),
        malformed("an :authority with a space", "§8.3.1", swapped(":authority", "a b")),
        malformed("an :authority with a slash", "§8.3.1", swapped(":authority", "a/b")),
        case("an empty :authority", "§8.3.1", swapped(":authority", ""), Reset(1, PROTOCOL_ERROR)),
        case("an :authority with a user", "§8.3.1", swapped(":authority", "user@a"), Status(1, 400)),
    ]
}

fn with_pseudo(name: &str, value: &str) -> Vec<u8> {
    head(&block(PSEUDO.into_iter().chain([(name, value)])))
}

fn targets() -> Vec<Case> {
    let to =
        |name, clause, method: &str, path: &str, expect| case(name, clause, head(&request(method, path, &[])), expect);
    let host = |fields: &[(&str, &str)]| {
        let named = PSEUDO.into_iter().filter(|(name, _)| *name != ":authority");
        head(&block(named.chain(fields.iter().copied())))
    };
    vec![
        to("OPTIONS of *", "§8.3.1", "OPTIONS", "*", Status(1, 200)),
        to("GET of *", "§8.3.1", "GET", "*", Status(1, 400)),
        to("a path without a slash", "§8.3.1", "GET", "foo", Reset(1, PROTOCOL_ERROR)),
        to("a whole URI as the path", "§8.3.1", "GET", "http://b/", Reset(1, PROTOCOL_ERROR)),
        to("a query without a path", "§8.3.1", "GET", "?q", Status(1, 400)),
        to("a fragment is not passed on", "9110 §7.1", "GET", "/a#b", Saw(1, "get /a http/1.1")),
        to("a path with %00", "9110 §4.2.3", "GET", "/%00", Status(1, 400)),
        to("a path with a backslash", "3986 §3.3", "GET", "/a\\b", Status(1, 400)),
        case("host in the place of :authority", "§8.3.1", host(&[("host", "a")]), Saw(1, "host: a")),
        case("host and :authority alike", "§8.3.1", with(&[("host", "a")]), Saw(1, "host: a")),
        case("host and :authority that differ", "§8.3.1", with(&[("host", "b")]), Status(1, 400)),
        case("host twice", "9112 §3.2", host(&[("host", "a"), ("host", "a")]), Status(1, 400)),
        case("an empty host", "§8.3.1", host(&[("host", "")]), Status(1, 400)),
        case("a host with a user", "§8.3.1", host(&[("host", "u@a")]), Status(1, 400)),
        case("a host with a space", "9110 §7.2", host(&[("host", "a b")]), Status(1, 400)),
    ]
}

fn connects() -> Vec<Case> {
    let connect = |fields: &[(&str, &str)]| head(&block([(":method", "CONNECT")].iter().chain(fields).copied()));
    vec![
        case("CONNECT is nobody's tunnel", "§8.5", connect(&[(":authority", "a:443")]), Status(1, 405)),
        case("CONNECT without :authority", "§8.5", connect(&[]), Status(1, 400)),
        case(
            "CONNECT with :path",
            "§8.5",
            connect(&[(":authority", "a:443"), (":path", "/")]),
            Reset(1, PROTOCOL_ERROR),
        ),
        case(
            "CONNECT with :scheme",
            "§8.5",
            connect(&[(":authority", "a:443"), (":scheme", "http")]),
            Reset(1, PROTOCOL_ERROR),
        ),
        case(
            "CONNECT with :protocol",
            "8441 §4",
            connect(&[(":authority", "a"), (":scheme", "http"), (":path", "/"), (":protocol", "websocket")]),
            Reset(1, PROTOCOL_ERROR),
        ),
    ]
}

fn names() -> Vec<Case> {
    let cut = |name, clause, field: (&str, &str)| case(name, clause, with(&[field]), Away(PROTOCOL_ERROR));
    let malformed = |name, clause, field: (&str, &str)| case(name, clause, with(&[field]), Reset(1, PROTOCOL_ERROR));
    vec![
        cut("an upper-case name", "§8.2.1", ("X-Upper", "v")),
        cut("a name with one upper-case letter", "§8.2.1", ("x-uppeR", "v")),
        cut("an empty name", "§8.2.1", ("", "v")),
        cut("a name with a space", "§8.2.1", ("x y", "v")),
        cut("a name with a colon", "§8.2.1", ("x:y", "v")),
        cut("a name beyond ASCII", "§8.2.1", ("x\u{e9}", "v")),
        malformed("connection", "§8.2.2", ("connection", "close")),
        malformed("connection: te", "§8.2.2", ("connection", "te")),
        malformed("keep-alive", "§8.2.2", ("keep-alive", "timeout=5")),
        malformed("proxy-connection", "§8.2.2", ("proxy-connection", "close")),
        malformed("transfer-encoding", "§8.2.2", ("transfer-encoding", "chunked")),
        malformed("upgrade", "§8.2.2", ("upgrade", "websocket")),
        malformed("te: gzip", "§8.2.2", ("te", "gzip")),
        malformed("te: trailers and more", "§8.2.2", ("te", "trailers, deflate")),
        case("te: trailers", "§8.2.2", with(&[("te", "trailers")]), Status(1, 200)),
        case(
            "cookies in crumbs are one",
            "§8.2.3",
            with(&[("cookie", "a=1"), ("x", "y"), ("cookie", "b=2")]),
            Saw(1, "cookie: a=1; b=2\r\n"),
        ),
    ]
}

fn values() -> Vec<Case> {
    let value = |name, value: &str, expect| case(name, "§8.2.1", with(&[("x-v", value)]), expect);
    vec![
        value("a value that begins with a space", " v", Status(1, 400)),
        value("a value that ends with a space", "v ", Status(1, 400)),
        value("a value that begins with a tab", "\tv", Status(1, 400)),
        value("a value that ends with a tab", "v\t", Status(1, 400)),
        value("a value of one space", " ", Status(1, 400)),
        value("a value with a control octet", "a\u{1}b", Away(PROTOCOL_ERROR)),
        value("a value with DEL", "a\u{7f}b", Away(PROTOCOL_ERROR)),
        value("a value with spaces and tabs within", "a \t b", Saw(1, "x-v: a \t b")),
        value("an empty value", "", Saw(1, "x-v:")),
        value("a value beyond ASCII", "\u{e9}", Status(1, 200)),
    ]
}

fn lengths() -> Vec<Case> {
    let posts = |lengths: &[&str], body: &[u8]| {
        let fields: Vec<_> = lengths.iter().map(|length| ("content-length", *length)).collect();
        [post(1, "/", &fields), data(END_STREAM, 1, body)]
    };
    let wrong =
        |name, lengths: &[&str], body: &[u8]| case(name, "§8.1.1", posts(lengths, body), Reset(1, PROTOCOL_ERROR));
    vec![
        wrong("more DATA than its length", &["3"], b"four"),
        wrong("less DATA than its length", &["5"], b"four"),
        wrong("no DATA for its length", &["5"], b""),
        wrong("DATA for a length of nothing", &["0"], b"x"),
        wrong("two lengths that differ", &["4", "5"], b"four"),
        wrong("a list of lengths that differ", &["4, 5"], b"four"),
        wrong("a list of lengths", &["4, 4"], b"four"),
        wrong("a negative length", &["-4"], b"four"),
        wrong("a length with a sign", &["+4"], b"four"),
        wrong("a length in hexadecimal", &["0x4"], b"four"),
        wrong("a length that is a word", &["four"], b"four"),
        wrong("a length beyond 64 bits", &["99999999999999999999"], b"four"),
        case(
            "a length on a request that is whole",
            "§8.1.1",
            with(&[("content-length", "4")]),
            Reset(1, PROTOCOL_ERROR),
        ),
        case(
            "a length of nothing on a request that is whole",
            "§8.1.1",
            with(&[("content-length", "0")]),
            Status(1, 200),
        ),
        case("a length that is right", "§8.1.1", posts(&["4"], b"four"), Saw(1, "four")),
        case(
            "DATA in many pieces",
            "§8.1",
            [
                post(1, "/", &[("content-length", "4")]),
                b"four".iter().map(|octet| data(0, 1, &[*octet])).collect::<Vec<_>>().concat(),
                data(END_STREAM, 1, b""),
            ],
            Saw(1, "four"),
        ),
        case(
            "less DATA than its length, with trailers",
            "§8.1.1",
            [
                post(1, "/", &[("content-length", "5")]),
                data(0, 1, b"four"),
                frame(HEADERS, WHOLE, 1, &block([("x", "y")])),
            ],
            Reset(1, PROTOCOL_ERROR),
        ),
    ]
}

fn trailers() -> Vec<Case> {
    let ended = |flags, fields: &[(&str, &str)]| {
        [post(1, "/", &[]), data(0, 1, b"body"), frame(HEADERS, END_HEADERS | flags, 1, &block(fields.iter().copied()))]
    };
    let malformed =
        |name, clause, fields: &[(&str, &str)]| case(name, clause, ended(END_STREAM, fields), Reset(1, PROTOCOL_ERROR));
    let cut =
        |name, clause, fields: &[(&str, &str)]| case(name, clause, ended(END_STREAM, fields), Away(PROTOCOL_ERROR));
    vec![
        case("trailers", "§8.1", ended(END_STREAM, &[("x-sum", "1")]), Saw(1, "body")),
        case("empty trailers", "§8.1", ended(END_STREAM, &[]), Saw(1, "body")),
        case("trailers that do not end", "§8.1", ended(0, &[("x-sum", "1")]), Reset(1, PROTOCOL_ERROR)),
        malformed("trailers with :path", "§8.1", &[(":path", "/")]),
        malformed("trailers with :status", "§8.1", &[(":status", "200")]),
        malformed("trailers with connection", "§8.2.2", &[("connection", "close")]),
        cut("trailers with an upper-case name", "§8.2.1", &[("X-Sum", "1")]),
        malformed("trailers with transfer-encoding", "§8.2.2", &[("transfer-encoding", "chunked")]),
        case(
            "DATA behind trailers",
            "§8.1",
            [post(1, "/slow", &[]), frame(HEADERS, WHOLE, 1, &block([("x", "y")])), data(END_STREAM, 1, b"x")],
            Away(STREAM_CLOSED),
        ),
    ]
}

fn too_much() -> Vec<Case> {
    let long = "v".repeat(17 * 1024);
    let fields: Vec<(String, String)> = (0..120).map(|n| (format!("x-{n}"), "v".to_owned())).collect();
    let many: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let large = request("GET", "/", &[("x-long", &long)]);
    let (one, rest) = large.split_at(16_000);
    let bomb = [&plain()[..], &[0x40, 1, b'k', 0x7f, 0x81, 0x1e], &[b'v'; 3_968], &[0xbe; 200]].concat();
    vec![
        case(
            "a list beyond the limit",
            "§10.5.1",
            [frame(HEADERS, END_STREAM, 1, one), frame(CONTINUATION, END_HEADERS, 1, rest)],
            Status(1, 431),
        ),
        case("more fields than the limit", "§10.5.1", head(&request("GET", "/", &many)), Status(1, 431)),
        case("a list far beyond the limit", "§10.5.1", head(&bomb), Away(ENHANCE_YOUR_CALM)),
    ]
}
