//! Cases of single frames: the preface, sizes, padding, settings, pings, extensions.

use super::{
    Case,
    Expect::{Away, Gone, Pong, Quiet, Saw, Status},
    Step, case,
};
use crate::support::frames::*;

pub(super) fn cases() -> Vec<Case> {
    [preface(), too_large(), wrong_length(), padding(), settings_values(), pings(), extensions()]
        .into_iter()
        .flatten()
        .collect()
}

fn greeted(rest: impl AsRef<[u8]>) -> Vec<u8> {
    [PREFACE, &settings(&[]), rest.as_ref()].concat()
}

fn preface() -> Vec<Case> {
    let wrong = |at: usize| {
        let mut preface = PREFACE.to_vec();
        preface[at] ^= 0x20;
        [preface, settings(&[]), get(1, "/")].concat()
    };
    let octets = |bytes: Vec<u8>| bytes.into_iter().map(|octet| Step::Send(vec![octet])).collect::<Vec<_>>();
    let mut slowly = case("a preface and a request octet by octet", "§3.4", [greeted(get(1, "/"))], Status(1, 200));
    slowly.steps = octets(greeted(get(1, "/")));
    vec![
        slowly,
        case("a preface, settings and a request in one piece", "§3.4", greeted(get(1, "/")), Status(1, 200)),
        case("the same over TLS", "§3.4", greeted(get(1, "/")), Status(1, 200)).over_tls(),
        case("a preface that is wrong in its first octet, over TLS", "§3.4", wrong(0), Gone).over_tls(),
        case("a preface that is wrong in its version, over TLS", "§3.4", wrong(10), Gone).over_tls(),
        case("a preface that is wrong in its last line, over TLS", "§3.4", wrong(18), Gone).over_tls(),
        case("HTTP/1.1 where ALPN chose h2", "§3.2", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), Gone).over_tls(),
        case("a ping before SETTINGS", "§3.4", [PREFACE.to_vec(), frame(PING, 0, 0, &[0; 8])], Away(PROTOCOL_ERROR)),
        case("a request before SETTINGS", "§3.4", [PREFACE.to_vec(), get(1, "/")], Away(PROTOCOL_ERROR)),
        case(
            "a request before SETTINGS, over TLS",
            "§3.4",
            [PREFACE.to_vec(), get(1, "/"), settings(&[])],
            Away(PROTOCOL_ERROR),
        )
        .over_tls(),
        case("a window update before SETTINGS", "§3.4", [PREFACE.to_vec(), window_update(0, 1)], Away(PROTOCOL_ERROR)),
        case("two prefaces", "§4.2", greeted(PREFACE), Away(FRAME_SIZE_ERROR)),
    ]
    .into_iter()
    .map(Case::greeting_itself)
    .collect()
}

/// One octet beyond SETTINGS_MAX_FRAME_SIZE, of which the server says nothing, so that it is 16,384.
fn too_large() -> Vec<Case> {
    let large = vec![0; 16_385];
    let unfinished = frame(HEADERS, END_STREAM, 1, &request("GET", "/", &[]));
    vec![
        case("DATA beyond the frame size", "§4.2", [post(1, "/slow", &[]), data(0, 1, &large)], Away(FRAME_SIZE_ERROR)),
        case("HEADERS beyond the frame size", "§4.2", frame(HEADERS, WHOLE, 1, &large), Away(FRAME_SIZE_ERROR)),
        case(
            "CONTINUATION beyond the frame size",
            "§4.2",
            [unfinished, frame(CONTINUATION, END_HEADERS, 1, &large)],
            Away(FRAME_SIZE_ERROR),
        ),
        case("SETTINGS beyond the frame size", "§4.2", frame(SETTINGS, 0, 0, &[0; 16_386]), Away(FRAME_SIZE_ERROR)),
        case("an unknown frame beyond the frame size", "§4.2", frame(0xbe, 0, 0, &large), Away(FRAME_SIZE_ERROR)),
        case(
            "DATA of just the frame size",
            "§4.2",
            [post(1, "/", &[]), data(0, 1, &large[1..]), data(END_STREAM, 1, b"whole")],
            Saw(1, "whole"),
        ),
    ]
}

fn wrong_length() -> Vec<Case> {
    let short = |name, clause, kind, stream, length: usize| {
        case(name, clause, frame(kind, 0, stream, &vec![0; length]), Away(FRAME_SIZE_ERROR))
    };
    let opened = |kind, length: usize| [post(1, "/slow", &[]), frame(kind, 0, 1, &vec![1; length])];
    vec![
        short("SETTINGS of five octets", "§6.5", SETTINGS, 0, 5),
        short("SETTINGS of seven octets", "§6.5", SETTINGS, 0, 7),
        case("an acknowledgement with a setting", "§6.5", frame(SETTINGS, ACK, 0, &[0; 6]), Away(FRAME_SIZE_ERROR)),
        case("an acknowledgement with an octet", "§6.5", frame(SETTINGS, ACK, 0, &[0]), Away(FRAME_SIZE_ERROR)),
        short("PING of no octets", "§6.7", PING, 0, 0),
        short("PING of seven octets", "§6.7", PING, 0, 7),
        short("PING of nine octets", "§6.7", PING, 0, 9),
        short("WINDOW_UPDATE of three octets", "§6.9", WINDOW_UPDATE, 0, 3),
        short("WINDOW_UPDATE of five octets", "§6.9", WINDOW_UPDATE, 0, 5),
        case("WINDOW_UPDATE of a stream of five octets", "§6.9", opened(WINDOW_UPDATE, 5), Away(FRAME_SIZE_ERROR)),
        case("RST_STREAM of three octets", "§6.4", opened(RST_STREAM, 3), Away(FRAME_SIZE_ERROR)),
        case("RST_STREAM of five octets", "§6.4", opened(RST_STREAM, 5), Away(FRAME_SIZE_ERROR)),
        short("GOAWAY of seven octets", "§4.2", GOAWAY, 0, 7),
        // A stream error, which may be treated as one of the connection (§5.4.1).
        short("PRIORITY of four octets", "§6.3", PRIORITY, 3, 4),
        short("PRIORITY of six octets", "§6.3", PRIORITY, 3, 6),
        case("HEADERS too short for its priority", "§4.2", headers(WITH_PRIORITY, &[0; 4]), Away(FRAME_SIZE_ERROR)),
        case("HEADERS too short for its padding's length", "§4.2", headers(PADDED, &[]), Away(FRAME_SIZE_ERROR)),
        case(
            "DATA too short for its padding's length",
            "§4.2",
            [post(1, "/slow", &[]), data(PADDED, 1, &[])],
            Away(FRAME_SIZE_ERROR),
        ),
    ]
}

fn headers(flags: u8, payload: &[u8]) -> Vec<u8> {
    frame(HEADERS, WHOLE | flags, 1, payload)
}

/// A payload in padding: how long it claims to be, what is padded, how long it is.
fn padded(claim: u8, inner: &[u8], padding: &[u8]) -> Vec<u8> {
    [&[claim][..], inner, padding].concat()
}

fn padding() -> Vec<Case> {
    let body = |claim, inner: &[u8], padding: &[u8]| {
        [post(1, "/", &[]), data(PADDED | END_STREAM, 1, &padded(claim, inner, padding))]
    };
    let head = request("GET", "/padded", &[]);
    let with_priority = [&[3, 0, 0, 0, 0, 15][..], &head, &[0; 3]].concat();
    vec![
        case("DATA whose padding is all of its payload", "§6.1", body(6, b"hello", &[]), Away(PROTOCOL_ERROR)),
        case("DATA whose padding is longer than its payload", "§6.1", body(255, b"hello", &[]), Away(PROTOCOL_ERROR)),
        case(
            "HEADERS whose padding is longer than its payload",
            "§6.2",
            headers(PADDED, &[9, 0x82]),
            Away(PROTOCOL_ERROR),
        ),
        case(
            "HEADERS whose padding would eat its priority",
            "§6.2",
            headers(PADDED | WITH_PRIORITY, &[6, 0, 0, 0, 0, 15, 0x82]),
            Away(PROTOCOL_ERROR),
        ),
        case("DATA with 255 octets of padding", "§6.1", body(255, b"hello", &[0; 255]), Saw(1, "hello")),
        case("DATA that is nothing but padding", "§6.1", body(3, b"", &[0; 3]), Status(1, 200)),
        case("padding that is not zero", "§6.1", body(3, b"hello", b"xyz"), Saw(1, "hello")),
        case("HEADERS with padding", "§6.2", headers(PADDED, &padded(4, &head, &[0; 4])), Saw(1, "get /padded ")),
        case(
            "HEADERS with padding and priority",
            "§6.2",
            headers(PADDED | WITH_PRIORITY, &with_priority),
            Saw(1, "get /padded "),
        ),
    ]
}

fn settings_values() -> Vec<Case> {
    let wrong = |name, values: &[(u16, u32)], code| case(name, "§6.5.2", settings(values), Away(code));
    let right = |name, values: &[(u16, u32)]| case(name, "§6.5.2", [settings(values), get(1, "/")], Status(1, 200));
    vec![
        wrong("ENABLE_PUSH of 2", &[(ENABLE_PUSH, 2)], PROTOCOL_ERROR),
        wrong("ENABLE_PUSH of 2 behind one that is right", &[(ENABLE_PUSH, 0), (ENABLE_PUSH, 2)], PROTOCOL_ERROR),
        wrong("a window of 2^31", &[(INITIAL_WINDOW, 1 << 31)], FLOW_CONTROL_ERROR),
        wrong("a window of 2^32 - 1", &[(INITIAL_WINDOW, u32::MAX)], FLOW_CONTROL_ERROR),
        wrong("a frame size below 16,384", &[(MAX_FRAME, 16_383)], PROTOCOL_ERROR),
        wrong("a frame size of 2^24", &[(MAX_FRAME, 1 << 24)], PROTOCOL_ERROR),
        right("ENABLE_PUSH of 0 and of 1", &[(ENABLE_PUSH, 0), (ENABLE_PUSH, 1)]),
        right("a window of 2^31 - 1", &[(INITIAL_WINDOW, (1 << 31) - 1)]),
        right("the smallest and the largest frame size", &[(MAX_FRAME, 16_384), (MAX_FRAME, (1 << 24) - 1)]),
        right("no table of fields", &[(HEADER_TABLE_SIZE, 0)]),
        right("a table of 4 GiB", &[(HEADER_TABLE_SIZE, u32::MAX)]),
        right("no streams of the server's", &[(MAX_STREAMS, 0)]),
        right("a list of one octet, which is advice", &[(6, 1)]),
        right("the last of several values holds", &[(INITIAL_WINDOW, 0), (INITIAL_WINDOW, 65_535)]),
        right("settings that nobody knows", &[(0, 0), (0xbeef, u32::MAX), (0x0a0a, 7)]),
        case("unknown flags of SETTINGS", "§4.1", [frame(SETTINGS, 0xfe, 0, &[]), get(1, "/")], Status(1, 200)),
        case(
            "settings in the midst of a request",
            "§6.5",
            [post(1, "/", &[]), settings(&[(MAX_FRAME, 20_000)]), data(END_STREAM, 1, b"late")],
            Saw(1, "late"),
        ),
    ]
}

fn pings() -> Vec<Case> {
    let ping = |flags, stream| frame(PING, flags, stream, b"12345678");
    vec![
        case("a ping is answered with its octets", "§6.7", ping(0, 0), Pong(*b"12345678")),
        case("a ping with flags that nobody knows", "§4.1", ping(0xfe, 0), Pong(*b"12345678")),
        case("an answer to no ping", "§6.7", ping(ACK, 0), Quiet),
        case("a ping of a stream", "§6.7", ping(0, 1), Away(PROTOCOL_ERROR)),
        case("a ping with the reserved bit", "§4.1", ping(0, 1 << 31), Pong(*b"12345678")),
    ]
}

fn extensions() -> Vec<Case> {
    let known = |name, clause, bytes: Vec<u8>| case(name, clause, [bytes, get(1, "/")], Status(1, 200));
    vec![
        known("an unknown frame of the connection", "§5.5", frame(0xbe, 0xff, 0, b"grease")),
        known("an unknown frame of an idle stream", "§5.5", frame(0x0b, 0, 7, &[])),
        case(
            "an unknown frame between head and body",
            "§5.5",
            [post(1, "/", &[]), frame(0xbe, 1, 1, &[1]), data(END_STREAM, 1, b"rest")],
            Saw(1, "rest"),
        ),
        case(
            "an unknown frame in a header block",
            "§5.5",
            [frame(HEADERS, END_STREAM, 1, &request("GET", "/", &[])), frame(0xbe, 0, 1, &[])],
            Away(PROTOCOL_ERROR),
        ),
        known("PRIORITY_UPDATE", "9218 §7.1", frame(0x10, 0, 0, b"\0\0\0\x01u=1, i")),
        known(
            "ORIGIN and ALTSVC of a client",
            "8336 §2.1",
            [frame(0x0c, 0, 0, &[]), frame(0x0a, 0, 0, &[0, 0])].concat(),
        ),
        case(
            "a priority that is right",
            "9218 §4",
            frame(HEADERS, WHOLE, 1, &request("GET", "/", &[("priority", "u=1, i")])),
            Status(1, 200),
        ),
        case(
            "a priority that is none",
            "9218 §4",
            frame(HEADERS, WHOLE, 1, &request("GET", "/", &[("priority", "u=99;;=(")])),
            Status(1, 200),
        ),
    ]
}
