//! Body framing, requests' and responses'.
#![allow(clippy::unwrap_used)]

use portcullis_wire::{
    BodyLimits, BodyScanner, Cursor, Framing, Parse, Refusal, RequestKind, ResponseFraming, ResponseLimits,
    parse_response_head,
};

/// Feeds a body in steps of every size; all must agree. Gives payload and octets taken.
fn scan(framing: Framing, bytes: &[u8]) -> Result<(u64, usize, bool), Refusal> {
    let run = |step: usize| {
        let mut scanner = BodyScanner::new(framing, BodyLimits::default());
        let mut taken = 0;
        for part in bytes.chunks(step) {
            let advance = scanner.advance(part)?;
            taken += advance.taken;
            if advance.done {
                break;
            }
        }
        Ok((scanner.payload(), taken, scanner.is_done()))
    };
    let whole = run(bytes.len().max(1));
    for step in 1..8 {
        assert_eq!(run(step), whole, "step {step}: {:?}", String::from_utf8_lossy(bytes));
    }
    whole
}

#[test]
fn bodies_end_where_they_end() {
    for (framing, bytes, payload, taken, done) in [
        (Framing::None, &b"GET /"[..], 0, 0, true),
        (Framing::Length(3), b"abcGET", 3, 3, true),
        (Framing::Length(5), b"abc", 3, 3, false),
        (Framing::Chunked, b"0\r\n\r\nGET", 0, 5, true),
        (Framing::Chunked, b"5\r\nhello\r\n0\r\n\r\nX", 5, 15, true),
        (Framing::Chunked, b"5;a=b;c\r\nhello\r\nA\r\n0123456789\r\n0\r\nX-T: 1\r\n\r\n", 15, 44, true),
        (Framing::Chunked, b"005\r\nhello\r\n", 5, 12, false),
    ] {
        assert_eq!(scan(framing, bytes).unwrap(), (payload, taken, done), "{:?}", String::from_utf8_lossy(bytes));
    }
}

#[test]
fn content_is_told_from_its_framing_however_it_is_cut() {
    for (framing, bytes, content) in [
        (Framing::None, &b"GET /"[..], &b""[..]),
        (Framing::Length(3), b"abcGET", b"abc"),
        (Framing::Chunked, b"5;a=b\r\nhello\r\nA\r\n 123456789\r\n0\r\nX-T: 1\r\n\r\nX", b"hello 123456789"),
        (Framing::Chunked, b"0\r\n\r\n", b""),
    ] {
        for step in 1..=bytes.len() {
            let mut scanner = BodyScanner::new(framing, BodyLimits::default());
            let mut found = Vec::new();
            for part in bytes.chunks(step) {
                scanner.advance_through(part, |piece| found.extend_from_slice(&part[piece])).unwrap();
            }
            assert_eq!(found, content, "{step}: {:?}", String::from_utf8_lossy(bytes));
        }
    }
}

#[test]
fn chunked_framing_is_held_to_the_letter() {
    use Refusal::*;
    for (bytes, refusal) in [
        (&b"5\nhello\r\n"[..], BareLf),
        (b"\r\n", BadChunkSize),
        (b"0x5\r\n", BadChunkSize),
        (b"+5\r\n", BadChunkSize),
        (b" 5\r\n", BadChunkSize),
        (b"5 \r\n", BadChunkSize),
        (b"g\r\n", BadChunkSize),
        (b"ffffffffffffffff\r\n", BadChunkSize),
        (b"00000000000000005\r\n", BadChunkSize),
        (b"5\rX", BareCr),
        (b"5\r\nhelloX\r\n", BadChunkEnd),
        (b"5\r\nhello\rX", BadChunkEnd),
        (b"5;a\x01\r\n", BadChunkExtension),
        (b"5;a\nhello", BareLf),
        (b"0\r\nX: a\n\r\n", BareLf),
        (b"0\r\nContent-Length: 5\r\n\r\n", BadTrailer),
        (b"0\r\nTransfer-Encoding: chunked\r\n\r\n", BadTrailer),
        (b"0\r\nX\r\n\r\n", BadTrailer),
    ] {
        assert_eq!(scan(Framing::Chunked, bytes).unwrap_err(), refusal, "{:?}", String::from_utf8_lossy(bytes));
    }
    let long = format!("5;{}\r\n", "x".repeat(300));
    assert_eq!(scan(Framing::Chunked, long.as_bytes()).unwrap_err(), BadChunkExtension);
    let many = format!("1;{}\r\na\r\n", "x".repeat(200)).repeat(100);
    assert_eq!(scan(Framing::Chunked, many.as_bytes()).unwrap_err(), BadChunkExtension);
    let trailers = format!("0\r\nX: {}\r\n", "x".repeat(9000));
    assert_eq!(scan(Framing::Chunked, trailers.as_bytes()).unwrap_err(), BadTrailer);
}

fn response(bytes: &str, kind: RequestKind) -> Result<Option<(u16, ResponseFraming)>, Refusal> {
    match parse_response_head(bytes.as_bytes(), kind, &ResponseLimits::default(), &mut Cursor::default())? {
        Parse::Complete { head, .. } => Ok(Some((head.status, head.framing))),
        Parse::Incomplete => Ok(None),
    }
}

#[test]
fn response_heads_tell_their_framing() {
    use Framing::*;
    use ResponseFraming::*;
    for (head, kind, status, framing) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", RequestKind::Other, 200, Message(Length(5))),
        ("HTTP/1.1 200\r\nContent-Length: 5\r\n\r\n", RequestKind::Other, 200, Message(Length(5))),
        ("HTTP/1.1 200 \r\nContent-Length: 5\r\n\r\n", RequestKind::Head, 200, Message(None)),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", RequestKind::Other, 200, Message(Chunked)),
        ("HTTP/1.0 200 OK\r\n\r\n", RequestKind::Other, 200, UntilClose),
        ("HTTP/1.1 204 No\r\n\r\n", RequestKind::Other, 204, Message(None)),
        ("HTTP/1.1 304 Not\r\nContent-Length: 5\r\n\r\n", RequestKind::Other, 304, Message(None)),
        ("HTTP/1.1 100 Continue\r\n\r\n", RequestKind::Other, 100, Message(None)),
    ] {
        assert_eq!(response(head, kind), Ok(Some((status, framing))), "{head:?}");
    }
}

#[test]
fn garbled_responses_are_refused() {
    use Refusal::*;
    for (head, refusal) in [
        ("garbage\r\n\r\n", UpstreamStatusLine),
        ("g", UpstreamStatusLine),
        ("ICY 200 OK\r\n\r\n", UpstreamStatusLine),
        ("HTTP/1.1 1000 X\r\n\r\n", UpstreamStatusLine),
        ("HTTP/1.1 99 X\r\n\r\n", UpstreamStatusLine),
        ("HTTP/1.1 2x0 X\r\n\r\n", UpstreamStatusLine),
        ("HTTP/1.1  200 X\r\n\r\n", UpstreamStatusLine),
        ("HTTP/1.1 600 X\r\n\r\n", UpstreamStatus),
        ("HTTP/1.1 000 X\r\n\r\n", UpstreamStatus),
        ("HTTP/2.0 200 X\r\n\r\n", UpstreamStatusLine),
        ("HTTP/1.1 200 OK\nContent-Length: 5\n\n", UpstreamHead),
        ("HTTP/1.1 200 OK\r\nContent-Length: 3, 7\r\n\r\n", UpstreamFraming),
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n", UpstreamFraming),
        ("HTTP/1.1 200 OK\r\nContent-Length: -3\r\n\r\n", UpstreamFraming),
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", UpstreamFraming),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", UpstreamFraming),
        ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", UpstreamFraming),
        ("HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n", UpstreamHead),
        ("HTTP/1.1 200 OK\r\nX : a\r\n\r\n", UpstreamHead),
        ("HTTP/1.1 200 OK\r\nX: a\0\r\n\r\n", UpstreamHead),
        ("HTTP/1.1 200 O\x01K\r\n\r\n", UpstreamStatusLine),
    ] {
        assert_eq!(response(head, RequestKind::Other).unwrap_err(), refusal, "{head:?}");
    }
    let large = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(70_000));
    assert_eq!(response(&large, RequestKind::Other).unwrap_err(), UpstreamHeadTooLarge);
}

#[test]
fn what_a_request_allows_its_response_is_read_from_its_head() {
    for (request, kind) in [
        ("HEAD / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n", RequestKind::Head),
        ("GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n", RequestKind::Upgrade),
        ("GET / HTTP/1.1\r\nupgrade: websocket\r\n\r\n", RequestKind::Upgrade),
        ("GET / HTTP/1.1\r\nX-Upgrade: websocket\r\n\r\n", RequestKind::Other),
        ("GET / HTTP/1.1\r\nUpgrade-Insecure-Requests: 1\r\n\r\n", RequestKind::Other),
        ("GET /?q=Upgrade: HTTP/1.1\r\n\r\n", RequestKind::Other),
        ("pgrade: ", RequestKind::Other),
    ] {
        assert_eq!(RequestKind::of(request.as_bytes()), kind, "{request}");
    }
}
