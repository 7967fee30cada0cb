//! Mutation fuzzing that runs with every `cargo test`, and for longer with PORTCULLIS_FUZZ_SECONDS. Deterministic for a
//! given number of rounds.
#![allow(clippy::unwrap_used)]

use portcullis_wire::{
    BodyLimits, BodyScanner, Cursor, Framing, H2Guard, HeadLimits, Parse, RequestKind, ResponseLimits, client_hello,
    parse_head, parse_response_head, proxy_protocol,
};
use std::time::{Duration, Instant};

const H1_SEEDS: &[&[u8]] = &[
    b"GET /a?b HTTP/1.1\r\nHost: example.com\r\nAccept: */*\r\nX-Y: z\r\n\r\n",
    b"POST http://a.test:80/x HTTP/1.1\r\nHost: a.test:80\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nT: v\r\n\r\n",
    b"PUT /u HTTP/1.0\r\nHost: [::1]:8080\r\nContent-Length: 12\r\n\r\nhello world!",
    b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc",
    b"HTTP/1.0 404 Not Found\r\nServer: x\r\n\r\n",
];
const PROXY_SEEDS: &[&[u8]] = &[
    b"PROXY TCP4 192.0.2.1 198.51.100.1 1000 443\r\nGET",
    b"PROXY UNKNOWN\r\n",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x01\x02\x03\x04\x05\x06\x07\x08\0\x50\x01\xbbrest",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x290123456789abcdef0123456789abcdef\0\x50\x01\xbb\x01\0\x02h2",
];
const HELLO_SEED: &[u8] = b"\x16\x03\x01\0\x45\x01\0\0\x41\x03\x030123456789abcdef0123456789abcdef\0\0\x02\x13\x01\x01\0\0\x16\0\0\0\x0b\0\x09\0\0\x06a.test\0\x10\0\x03\0\x01\x00";

/// Runs `check` over mutated seeds until the rounds or the time are used up.
fn fuzz(seeds: &[&[u8]], check: impl Fn(&[u8])) {
    let extra =
        std::env::var("PORTCULLIS_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok()).map(Duration::from_secs);
    let mut random = fastrand::Rng::with_seed(0x5eed);
    let start = Instant::now();
    for seed in seeds {
        check(seed);
    }
    let mut round = 0;
    while round < 20_000 || extra.is_some_and(|extra| start.elapsed() < extra) {
        let mut input = seeds[random.usize(..seeds.len())].to_vec();
        for _ in 0..random.usize(1..6) {
            mutate(&mut input, seeds, &mut random);
        }
        check(&input);
        round += 1;
    }
}

const TOKENS: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"\t",
    b":",
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Host: b\r\n",
    b"0\r\n\r\n",
    b"ffffffff\r\n",
    b"HTTP/1.1",
    b"\xff",
    b",",
    b";",
    b"http://",
    b"PRI * HTTP/2.0\r\n\r\n",
];

fn mutate(input: &mut Vec<u8>, seeds: &[&[u8]], random: &mut fastrand::Rng) {
    let at = random.usize(..=input.len());
    match random.u8(..6) {
        0 if at < input.len() => input[at] ^= 1 << random.u8(..8),
        1 if at < input.len() => input[at] = random.u8(..),
        2 => {
            let end = (at + random.usize(..8)).min(input.len());
            input.drain(at..end);
        }
        3 => {
            let other = seeds[random.usize(..seeds.len())];
            let cut = random.usize(..other.len());
            input.truncate(at);
            input.extend_from_slice(&other[cut..]);
        }
        4 => {
            let token = TOKENS[random.usize(..TOKENS.len())];
            input.splice(at..at, token.iter().copied());
        }
        _ => {
            let end = (at + random.usize(..16)).min(input.len());
            let copy = input[at..end].to_vec();
            input.splice(at..at, copy);
        }
    }
}

#[test]
fn a_head_means_the_same_at_once_and_in_drops_and_to_another_parser() {
    fuzz(H1_SEEDS, |input| {
        let limits = HeadLimits { bytes: 200, headers: 6, target: 60 };
        let at_once = parse_head(input, &limits, &mut Cursor::default()).map(|parse| match parse {
            Parse::Complete { len, head } => Some((len, head.framing())),
            Parse::Incomplete => None,
        });
        let mut cursor = Cursor::default();
        let mut in_drops = Ok(None);
        for end in 1..=input.len() {
            in_drops = parse_head(&input[..end], &limits, &mut cursor).map(|parse| match parse {
                Parse::Complete { len, head } => Some((len, head.framing())),
                Parse::Incomplete => None,
            });
            if !matches!(in_drops, Ok(None)) {
                break;
            }
        }
        assert_eq!(at_once.is_ok(), in_drops.is_ok(), "{:?}", String::from_utf8_lossy(input));
        if at_once.is_ok() {
            assert_eq!(at_once, in_drops);
        }
        if let Ok(Parse::Complete { head, len }) = parse_head(input, &limits, &mut Cursor::default()) {
            let mut headers = [httparse::EMPTY_HEADER; 64];
            let mut other = httparse::Request::new(&mut headers);
            let parsed =
                other.parse(input).unwrap_or_else(|error| panic!("{error}: {:?}", String::from_utf8_lossy(input)));
            assert_eq!(parsed, httparse::Status::Complete(len));
            assert_eq!((other.method, other.path), (Some(head.method(input)), Some(head.target(input))));
            let theirs: Vec<_> = other.headers.iter().map(|header| (header.name, header.value)).collect();
            let ours: Vec<_> = head.fields(input).collect();
            assert_eq!(ours, theirs);
        }
    });
}

#[test]
fn a_body_ends_at_the_same_octet_however_it_is_cut() {
    fuzz(H1_SEEDS, |input| {
        for framing in [Framing::Chunked, Framing::Length(17)] {
            let run = |step: usize| {
                let mut scanner = BodyScanner::new(framing, BodyLimits::default());
                let mut taken = 0;
                for part in input.chunks(step) {
                    let advance = scanner.advance(part)?;
                    assert!(advance.taken <= part.len());
                    taken += advance.taken;
                    if advance.done {
                        break;
                    }
                }
                Ok::<_, portcullis_wire::Refusal>((taken, scanner.payload(), scanner.is_done()))
            };
            let whole = run(input.len().max(1));
            assert_eq!(run(1).is_ok(), whole.is_ok());
            if whole.is_ok() {
                assert_eq!(run(1), whole);
                assert_eq!(run(3), whole);
            }
        }
    });
}

#[test]
fn responses_headers_hellos_and_frames_never_panic_and_never_read_beyond() {
    fuzz(H1_SEEDS, |input| {
        if let Ok(Parse::Complete { len, .. }) =
            parse_response_head(input, RequestKind::Other, &ResponseLimits::default(), &mut Cursor::default())
        {
            assert!(len <= input.len());
        }
    });
    fuzz(PROXY_SEEDS, |input| {
        if let Ok(Parse::Complete { len, .. }) = proxy_protocol::parse(input) {
            assert!(len <= input.len());
        }
    });
    fuzz(&[HELLO_SEED], |input| {
        let whole = client_hello::peek(input);
        if let Ok(Parse::Complete { head, len }) = whole {
            assert!(len <= input.len());
            assert!(head.sni.is_none_or(|name| !name.is_empty() && name.is_ascii()));
        }
    });
    fuzz(&[HELLO_SEED, H1_SEEDS[0]], |input| {
        let mut at_once = H2Guard::default();
        let mut in_drops = H2Guard::default();
        let whole = at_once.inbound(input, Duration::ZERO);
        let drops = input.iter().try_for_each(|octet| in_drops.inbound(&[*octet], Duration::ZERO));
        assert_eq!(whole, drops);
    });
}
