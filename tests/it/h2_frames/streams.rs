//! Cases of streams: their identifiers, their states, their windows, header blocks in parts, and the end of it all.

use super::{
    Case,
    Expect::{Away, Farewell, Quiet, Reset, Saw, Status},
    LARGE,
    Step::{Body, Ended, Opened, Send},
    case,
};
use crate::support::frames::*;

pub(super) fn cases() -> Vec<Case> {
    [identifiers(), idle(), half_closed(), closed(), windows(), overrun(), blocks(), priorities(), ends()]
        .into_iter()
        .flatten()
        .collect()
}

fn block_of_get() -> Vec<u8> {
    request("GET", "/", &[])
}

fn identifiers() -> Vec<Case> {
    let wrong = |name, clause, bytes: Vec<u8>| case(name, clause, bytes, Away(PROTOCOL_ERROR));
    vec![
        wrong("DATA of stream 0", "§6.1", data(0, 0, b"x")),
        wrong("HEADERS of stream 0", "§6.2", frame(HEADERS, WHOLE, 0, &block_of_get())),
        wrong("PRIORITY of stream 0", "§6.3", frame(PRIORITY, 0, 0, &[0, 0, 0, 1, 1])),
        wrong("RST_STREAM of stream 0", "§6.4", reset(0)),
        wrong("SETTINGS of a stream", "§6.5", frame(SETTINGS, 0, 1, &[])),
        wrong("an acknowledgement of a stream", "§6.5", frame(SETTINGS, ACK, 3, &[])),
        wrong("GOAWAY of a stream", "§6.8", frame(GOAWAY, 0, 1, &[0; 8])),
        wrong("CONTINUATION of stream 0", "§6.10", frame(CONTINUATION, END_HEADERS, 0, &[])),
        wrong("PUSH_PROMISE of a client", "§8.4", [post(1, "/slow", &[]), promise(1)].concat()),
        wrong("PUSH_PROMISE on stream 0", "§8.4", promise(0)),
        wrong("a stream of even number", "§5.1.1", get(2, "/")),
        wrong("a stream of a lower number", "§5.1.1", [get(5, "/slow"), get(3, "/")].concat()),
        case(
            "streams of rising numbers with gaps",
            "§5.1.1",
            [get(7, "/"), get(9, "/"), get(1001, "/")],
            Status(1001, 200),
        ),
        case(
            "the reserved bit of a stream's number",
            "§4.1",
            frame(HEADERS, WHOLE, 1 | 1 << 31, &block_of_get()),
            Status(1, 200),
        ),
        case("undefined flags of HEADERS", "§4.1", frame(HEADERS, WHOLE | 0xd2, 1, &block_of_get()), Status(1, 200)),
    ]
}

fn promise(stream: u32) -> Vec<u8> {
    frame(PUSH_PROMISE, END_HEADERS, stream, &[&[0, 0, 0, 2][..], &block_of_get()].concat())
}

fn idle() -> Vec<Case> {
    vec![
        case("DATA of an idle stream", "§5.1", data(END_STREAM, 1, b"x"), Away(PROTOCOL_ERROR)),
        case("RST_STREAM of an idle stream", "§6.4", reset(1), Away(PROTOCOL_ERROR)),
        case("WINDOW_UPDATE of an idle stream", "§5.1", window_update(1, 1), Away(PROTOCOL_ERROR)),
        case(
            "CONTINUATION of an idle stream",
            "§6.10",
            frame(CONTINUATION, END_HEADERS, 1, &block_of_get()),
            Away(PROTOCOL_ERROR),
        ),
        case("PRIORITY of an idle stream", "§6.3", frame(PRIORITY, 0, 99, &[0, 0, 0, 1, 1]), Quiet),
        case("DATA of an idle stream of the server's", "§5.1", data(END_STREAM, 2, b"x"), Away(PROTOCOL_ERROR)),
        case("WINDOW_UPDATE of an idle stream of the server's", "§5.1", window_update(2, 1), Away(PROTOCOL_ERROR)),
        case(
            "an idle stream is used while another is open",
            "§5.1",
            [post(1, "/slow", &[]), data(0, 3, b"x")],
            Away(PROTOCOL_ERROR),
        ),
    ]
}

/// The request is whole, its answer has not come.
fn half_closed() -> Vec<Case> {
    let then = |name, bytes: Vec<u8>, expect| case(name, "§5.1", [get(1, "/slow"), bytes], expect);
    vec![
        then("DATA of a half-closed stream", data(0, 1, b"x"), Away(STREAM_CLOSED)),
        then("empty DATA of a half-closed stream", data(END_STREAM, 1, b""), Away(STREAM_CLOSED)),
        then("trailers of a half-closed stream", frame(HEADERS, WHOLE, 1, &block([("x", "y")])), Away(STREAM_CLOSED)),
        then("CONTINUATION of a half-closed stream", frame(CONTINUATION, END_HEADERS, 1, &[]), Away(PROTOCOL_ERROR)),
        then("WINDOW_UPDATE of a half-closed stream", window_update(1, 100), Quiet),
        then("PRIORITY of a half-closed stream", frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 1]), Quiet),
        then("RST_STREAM of a half-closed stream", reset(1), Quiet),
    ]
}

fn closed() -> Vec<Case> {
    let after_end = |name, bytes, expect| case(name, "§5.1", [Send(get(1, "/")), Ended(1), Send(bytes)], expect);
    let after_reset = |name, bytes, expect| case(name, "§5.1", [post(1, "/slow", &[]), reset(1), bytes], expect);
    let trailers = || frame(HEADERS, WHOLE, 1, &block([("x", "y")]));
    vec![
        after_end("WINDOW_UPDATE of a stream that was answered", window_update(1, 100), Quiet),
        after_end("RST_STREAM of a stream that was answered", reset(1), Quiet),
        after_end("PRIORITY of a stream that was answered", frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 1]), Quiet),
        after_end("DATA of a stream that was answered", data(END_STREAM, 1, b"x"), Reset(1, STREAM_CLOSED)),
        after_end("HEADERS of a stream that was answered", get(1, "/again"), Away(STREAM_CLOSED)),
        after_reset("DATA after one's own RST_STREAM", data(END_STREAM, 1, b"x"), Reset(1, STREAM_CLOSED)),
        after_reset("HEADERS after one's own RST_STREAM", trailers(), Away(STREAM_CLOSED)),
        after_reset("RST_STREAM twice", reset(1), Quiet),
        after_reset("WINDOW_UPDATE after one's own RST_STREAM", window_update(1, 1), Quiet),
        case(
            "DATA on its way when the server resets",
            "§5.1",
            [post(1, "/", &[("content-length", "3")]), data(0, 1, b"four"), data(END_STREAM, 1, b"more")],
            Reset(1, PROTOCOL_ERROR),
        ),
        case(
            "a stream that was passed over is closed",
            "§5.1.1",
            [get(5, "/slow"), data(END_STREAM, 3, b"x")],
            Reset(3, STREAM_CLOSED),
        ),
    ]
}

fn windows() -> Vec<Case> {
    let most = (1 << 31) - 1;
    let large = [settings(&[(INITIAL_WINDOW, 1_000)]), get(1, "/large")].concat();
    let rest = |length: usize| u32::try_from(LARGE - length).unwrap();
    vec![
        case("the connection's window opened by nothing", "§6.9", window_update(0, 0), Away(PROTOCOL_ERROR)),
        // A stream error, which may be treated as one of the connection (§5.4.1).
        case(
            "a stream's window opened by nothing",
            "§6.9",
            [post(1, "/slow", &[]), window_update(1, 0)],
            Away(PROTOCOL_ERROR),
        ),
        case(
            "the connection's window opened beyond 2^31 - 1",
            "§6.9.1",
            window_update(0, most),
            Away(FLOW_CONTROL_ERROR),
        ),
        case(
            "a stream's window opened beyond 2^31 - 1",
            "§6.9.1",
            [post(1, "/slow", &[]), window_update(1, most)],
            Reset(1, FLOW_CONTROL_ERROR),
        ),
        case(
            "a stream's window opened beyond, in two steps",
            "§6.9.1",
            [post(1, "/slow", &[]), window_update(1, most - 65_535), window_update(1, 1)],
            Reset(1, FLOW_CONTROL_ERROR),
        ),
        case(
            "windows opened to just 2^31 - 1",
            "§6.9.1",
            [post(1, "/slow", &[]), window_update(1, most - 65_535), window_update(0, most - 65_535)],
            Quiet,
        ),
        case(
            "a setting that pushes a window beyond 2^31 - 1",
            "§6.9.2",
            [post(1, "/slow", &[]), window_update(1, 1_000), settings(&[(INITIAL_WINDOW, most)])],
            Away(FLOW_CONTROL_ERROR),
        ),
        case("the reserved bit of an increment", "§6.9", window_update(0, 1 | 1 << 31), Quiet),
        case(
            "an answer keeps within its stream's window",
            "§6.9.1",
            [
                Send(large.clone()),
                Body(1, 1_000),
                Send(window_update(1, 10)),
                Body(1, 1_010),
                Send(
                    [settings(&[(INITIAL_WINDOW, 65_535)]), window_update(0, most - 65_535), window_update(1, rest(0))]
                        .concat(),
                ),
                Body(1, LARGE),
            ],
            Status(1, 200),
        ),
        case(
            "a window that became negative",
            "§6.9.2",
            [
                Send(large.clone()),
                Body(1, 1_000),
                Send([settings(&[(INITIAL_WINDOW, 0)]), window_update(1, 1_000)].concat()),
                Body(1, 1_000),
                Send(window_update(1, 1)),
                Body(1, 1_001),
                Send(
                    [settings(&[(INITIAL_WINDOW, 65_535)]), window_update(0, 200_000), window_update(1, rest(0))]
                        .concat(),
                ),
                Body(1, LARGE),
            ],
            Status(1, 200),
        ),
        case(
            "an answer keeps within the connection's window",
            "§6.9.1",
            [
                Send([settings(&[(INITIAL_WINDOW, most)]), get(1, "/large")].concat()),
                Body(1, 65_535),
                Send(window_update(0, 200_000)),
                Body(1, LARGE),
            ],
            Status(1, 200),
        ),
    ]
}

/// Bodies that nobody reads: the windows of 65,535 octets (until our acknowledgement) and 1 MiB stay as they are.
fn overrun() -> Vec<Case> {
    let piece = [0; 16_384];
    let filled = |stream: u32| {
        let pieces = (0..3).flat_map(|_| data(0, stream, &piece)).chain(data(0, stream, &piece[1..]));
        post(stream, "/slow", &[]).into_iter().chain(pieces).collect::<Vec<u8>>()
    };
    let connection: Vec<u8> = (0..17).flat_map(|n| filled(2 * n + 1)).collect();
    let padded = [&[255][..], &[0; 255]].concat();
    let opened = |name, clause, [one, two]: [Vec<u8>; 2], expect| {
        case(name, clause, [Opened, Send([one, two].concat())], expect)
    };
    vec![
        opened("DATA beyond a stream's window", "§6.9.1", [filled(1), data(0, 1, b"xx")], Reset(1, FLOW_CONTROL_ERROR)),
        opened(
            "padding beyond a stream's window",
            "§6.1",
            [filled(1), data(PADDED, 1, &padded)],
            Reset(1, FLOW_CONTROL_ERROR),
        ),
        opened("DATA of just a stream's window", "§6.9.1", [filled(1), data(END_STREAM, 1, b"")], Quiet),
        opened("DATA beyond the connection's window", "§6.9.1", [connection, Vec::new()], Away(FLOW_CONTROL_ERROR)),
    ]
}

fn blocks() -> Vec<Case> {
    let head = request("GET", "/parts", &[("x-long", "0123456789")]);
    let (one, rest) = head.split_at(20);
    let open = |part: &[u8]| frame(HEADERS, END_STREAM, 1, part);
    let more = |flags, part: &[u8]| frame(CONTINUATION, flags, 1, part);
    let broken = |name, bytes: Vec<u8>| case(name, "§6.10", [open(one), bytes], Away(PROTOCOL_ERROR));
    let octets = head.iter().map(|octet| more(0, &[*octet])).take(4).collect::<Vec<_>>().concat();
    let tail = more(END_HEADERS, &head[4..]);
    vec![
        case("a block in two parts", "§6.10", [open(one), more(END_HEADERS, rest)], Saw(1, "x-long: 0123456789")),
        case(
            "a block in three parts, cut anywhere",
            "§4.3",
            [open(&head[..3]), more(0, &head[3..50]), more(END_HEADERS, &head[50..])],
            Saw(1, "x-long: 0123456789"),
        ),
        case("a block that begins octet by octet", "§4.3", [open(&[]), octets, tail], Saw(1, "x-long: 0123456789")),
        case(
            "a block whose last part is empty",
            "§6.10",
            [open(&head), more(END_HEADERS, &[])],
            Saw(1, "x-long: 0123456789"),
        ),
        broken("DATA in a block", data(0, 1, b"x")),
        broken("a ping in a block", frame(PING, 0, 0, &[0; 8])),
        broken("SETTINGS in a block", settings(&[])),
        broken("another stream's HEADERS in a block", get(3, "/")),
        broken("another stream's CONTINUATION in a block", frame(CONTINUATION, END_HEADERS, 3, rest)),
        broken("RST_STREAM in a block", reset(1)),
        broken("PRIORITY in a block", frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 1])),
        case(
            "CONTINUATION after the block's end",
            "§6.10",
            [get(1, "/slow"), more(END_HEADERS, &[])],
            Away(PROTOCOL_ERROR),
        ),
        case(
            "trailers in two parts",
            "§8.1",
            [
                post(1, "/", &[]),
                data(0, 1, b"body"),
                frame(HEADERS, END_STREAM, 1, &[]),
                more(END_HEADERS, &block([("x-sum", "1")])),
            ],
            Saw(1, "body"),
        ),
    ]
}

fn priorities() -> Vec<Case> {
    let priority = |stream, on: u32| frame(PRIORITY, 0, stream, &[&on.to_be_bytes()[..], &[15]].concat());
    let dependent =
        |on: u32, head: &[u8]| frame(HEADERS, WHOLE | WITH_PRIORITY, 1, &[&on.to_be_bytes()[..], &[15], head].concat());
    let remembered = [&block_of_get()[..], &[0x40, 1, b'k', 1, b'v']].concat();
    vec![
        case(
            "a stream that depends on itself by HEADERS",
            "7540 §5.3.1",
            dependent(1, &block_of_get()),
            Reset(1, PROTOCOL_ERROR),
        ),
        case(
            "a stream that depends on itself by PRIORITY",
            "7540 §5.3.1",
            [post(1, "/slow", &[]), priority(1, 1)],
            Reset(1, PROTOCOL_ERROR),
        ),
        case(
            "its fields are remembered all the same",
            "§4.3",
            [dependent(1, &remembered), frame(HEADERS, WHOLE, 3, &[&block_of_get()[..], &[0xbe]].concat())],
            Saw(3, "k: v"),
        ),
        case("a dependency on a stream that is not there", "§5.3.2", dependent(9_999, &block_of_get()), Status(1, 200)),
        case("an exclusive dependency on stream 0", "§5.3.2", dependent(1 << 31, &block_of_get()), Status(1, 200)),
        case(
            "a ring of dependencies",
            "§5.3.2",
            [priority(3, 5), priority(5, 7), priority(7, 3), get(9, "/")],
            Status(9, 200),
        ),
    ]
}

fn ends() -> Vec<Case> {
    let goaway = |code: u32, text: &[u8]| frame(GOAWAY, 0, 0, &[&[0; 4][..], &code.to_be_bytes(), text].concat());
    let many: Vec<u8> = (0..101).flat_map(|n| get(2 * n + 1, "/slow")).collect();
    let remembered = |stream| {
        frame(HEADERS, WHOLE, stream, &[&request("GET", "/slow", &[])[..], &[0x40, 1, b'k', 1, b'v']].concat())
    };
    let full: Vec<u8> = (0..100).flat_map(|n| get(2 * n + 1, "/slow")).collect();
    vec![
        case(
            "a stream beyond the most at one time",
            "§5.1.2",
            [Send(many), Ended(201), Send(reset(1))],
            Reset(201, REFUSED_STREAM),
        ),
        case(
            "a stream may be opened when another has ended",
            "§5.1.2",
            [full.clone(), reset(1), get(201, "/")],
            Status(201, 200),
        ),
        case(
            "what a refused stream said is remembered",
            "§4.3",
            [full, remembered(201), reset(1), frame(HEADERS, WHOLE, 203, &[&block_of_get()[..], &[0xbe]].concat())],
            Saw(203, "k: v"),
        ),
        case("GOAWAY lets what is under way end", "§6.8", [get(1, "/"), goaway(NO_ERROR, b"")], Farewell(1)),
        case("GOAWAY with a code that nobody knows", "§7", [get(1, "/"), goaway(0xdead_beef, b"why")], Farewell(1)),
        case(
            "GOAWAY while a body comes",
            "§6.8",
            [post(1, "/", &[]), goaway(NO_ERROR, b""), data(END_STREAM, 1, b"rest")],
            Farewell(1),
        ),
        case(
            "RST_STREAM with a code that nobody knows",
            "§7",
            [post(1, "/slow", &[]), frame(RST_STREAM, 0, 1, &[0xde; 4])],
            Quiet,
        ),
        case(
            "an answer before the body's end",
            "§8.1",
            [post(1, "/", &[("content-length", "2")]), data(0, 1, b"o"), data(END_STREAM, 1, b"k")],
            Status(1, 200),
        ),
    ]
}
