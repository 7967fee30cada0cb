//! The request head's grammar as a table: what is accepted, what is refused and under which name.
#![allow(clippy::unwrap_used)]

use portcullis_wire::{Cursor, Framing, Head, HeadLimits, Parse, Refusal, parse_head};

fn parse(bytes: &[u8]) -> Result<Option<(Head, usize)>, Refusal> {
    match parse_head(bytes, &HeadLimits::default(), &mut Cursor::default())? {
        Parse::Complete { head, len } => Ok(Some((head, len))),
        Parse::Incomplete => Ok(None),
    }
}

#[test]
fn heads_that_read_in_one_way_only_are_accepted() {
    for (head, method, target, framing) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET", "/", Framing::None),
        ("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET", "/", Framing::None),
        ("GET /a?b=c HTTP/1.1\r\nhOsT:a.example:8080\r\n\r\n", "GET", "/a?b=c", Framing::None),
        ("GET http://a/b HTTP/1.1\r\nHost: A\r\n\r\n", "GET", "http://a/b", Framing::None),
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "OPTIONS", "*", Framing::None),
        ("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", "CONNECT", "a:443", Framing::None),
        ("GET / HTTP/1.0\r\n\r\n", "GET", "/", Framing::None),
        ("GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", "GET", "/", Framing::None),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n", "POST", "/", Framing::Length(5)),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", "POST", "/", Framing::None),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n", "POST", "/", Framing::Chunked),
        ("M-SEARCH / HTTP/1.1\r\nHost: a\r\n\r\n", "M-SEARCH", "/", Framing::None),
        ("GET /{x}|\"^` HTTP/1.1\r\nHost: a\r\nX:\r\nY: \t z \t\r\n\r\n", "GET", "/{x}|\"^`", Framing::None),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: caf\u{e9}\r\n\r\n", "GET", "/", Framing::None),
        (
            "PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n",
            "PUT",
            "/",
            Framing::Length(1),
        ),
    ] {
        let bytes = head.as_bytes();
        let (parsed, len) = parse(bytes).unwrap_or_else(|refusal| panic!("{head:?}: {refusal}")).unwrap();
        assert_eq!(
            (parsed.method(bytes), parsed.target(bytes), parsed.framing(), len),
            (method, target, framing, bytes.len())
        );
        for cut in 0..bytes.len() {
            assert!(matches!(parse(&bytes[..cut]), Ok(None)), "{head:?} cut at {cut}");
        }
    }
}

#[test]
fn heads_that_two_readers_could_read_in_two_ways_are_refused_by_name() {
    use Refusal::*;
    for (head, refusal) in [
        ("GET / HTTP/1.1\nHost: a\n\n", BareLf),
        ("GET / HTTP/1.1\r\nHost: a\n\r\n", BareLf),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", BareCr),
        ("\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", EmptyLines),
        ("GET / HTTP/1.1\r\n\r\n", MissingHost),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", DuplicateHost),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", BadHost),
        ("GET / HTTP/1.1\r\nHost: a,b\r\n\r\n", BadHost),
        ("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", BadHost),
        ("GET / HTTP/1.1\r\nHost: a:99999\r\n\r\n", BadHost),
        ("GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", BadHost),
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n", BadHost),
        ("GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", HostMismatch),
        ("GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n", BadTarget),
        ("GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", BadTarget),
        ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", BadTarget),
        ("GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n", BadTarget),
        ("CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n", BadTarget),
        ("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", BadTarget),
        ("GET /a\\b HTTP/1.1\r\nHost: a\r\n\r\n", BadTarget),
        ("GET /\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n", BadTarget),
        ("GET /\x7f HTTP/1.1\r\nHost: a\r\n\r\n", BadTarget),
        ("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", BadTarget),
        ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", BadTarget),
        ("GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", BadRequestLine),
        ("get / HTTP/1.1\r\nHost: a\r\n\r\n", BadMethod),
        (" GET / HTTP/1.1\r\nHost: a\r\n\r\n", BadMethod),
        ("GET /\r\nHost: a\r\n\r\n", BadRequestLine),
        ("GET / HTTP/1.10\r\nHost: a\r\n\r\n", BadVersion),
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", BadVersion),
        ("GET / http/1.1\r\nHost: a\r\n\r\n", BadRequestLine),
        ("GET / HTTP/1.1 \r\nHost: a\r\n\r\n", BadRequestLine),
        ("GET / HTTP/1.1\r\nHost: a\r\n X: b\r\n\r\n", ObsFold),
        ("GET / HTTP/1.1\r\n Host: a\r\n\r\n", ObsFold),
        ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", SpaceBeforeColon),
        ("GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n", NoColon),
        ("GET / HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n", BadFieldName),
        ("GET / HTTP/1.1\r\nHost: a\r\nX(: x\r\n\r\n", BadFieldName),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n", BadFieldValue),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: \x7f\r\n\r\n", BadFieldValue),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n", DuplicateContentLength),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 3\r\n\r\n", BadContentLength),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\n", BadContentLength),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n", BadContentLength),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1 2\r\n\r\n", BadContentLength),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n", BadContentLength),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent_Length: 3\r\n\r\n", BadContentLength),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", LengthAndChunked),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            BadTransferEncoding,
        ),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", BadTransferEncoding),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked,\r\n\r\n", BadTransferEncoding),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n", BadTransferEncoding),
        ("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", OldTransferEncoding),
        ("PUT / HTTP/1.1\r\nHost: a\r\nExpect: 200-maybe\r\n\r\n", BadExpect),
    ] {
        assert_eq!(parse(head.as_bytes()).map(|_| ()).unwrap_err(), refusal, "{head:?}");
    }
}

#[test]
fn limits_are_crossed_by_one() {
    let limits = HeadLimits { bytes: 100, headers: 3, target: 10 };
    let run = |head: &str| parse_head(head.as_bytes(), &limits, &mut Cursor::default()).map(|_| ());
    let fields = |count: usize| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(count - 1));
    assert_eq!(run(&fields(3)), Ok(()));
    assert_eq!(run(&fields(4)), Err(Refusal::TooManyFields));
    let padded = |total: usize| {
        let empty = "GET / HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n".len();
        format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "p".repeat(total - empty))
    };
    assert_eq!(run(&padded(100)), Ok(()));
    assert_eq!(run(&padded(101)), Err(Refusal::HeadTooLarge));
    assert_eq!(run(&"a".repeat(101)), Err(Refusal::HeadTooLarge));
    assert_eq!(run("GET /234567890 HTTP/1.1\r\nHost: a\r\n\r\n"), Ok(()));
    assert_eq!(run("GET /2345678901 HTTP/1.1\r\nHost: a\r\n\r\n"), Err(Refusal::TargetTooLong));
}

#[test]
fn a_dripping_head_is_searched_once() {
    let head = "GET / HTTP/1.1\r\nHost: a\r\nX: yyyyyyyyyyyyyyyyyyyyyyyyy\r\n\r\n";
    let mut cursor = Cursor::default();
    for cut in 1..head.len() {
        assert!(matches!(
            parse_head(&head.as_bytes()[..cut], &HeadLimits::default(), &mut cursor),
            Ok(Parse::Incomplete)
        ));
    }
    assert!(matches!(parse_head(head.as_bytes(), &HeadLimits::default(), &mut cursor), Ok(Parse::Complete { .. })));
}

#[test]
fn every_refusal_has_a_name_of_its_own() {
    let mut names: Vec<_> = Refusal::ALL.iter().map(|refusal| refusal.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), Refusal::ALL.len());
}
