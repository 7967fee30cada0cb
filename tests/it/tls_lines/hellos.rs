//! Hellos written by hand: offers that no client makes, and what is no hello at all.

use super::{HANDSHAKE_FAILURE, PROTOCOL_VERSION};
use crate::support::hello::{Answer, Hello, ServerHello};

/// What a hello must be answered.
#[derive(Clone, Copy)]
pub(super) enum Wanted {
    Alert(u8),
    /// An alert of whichever kind, or just the end.
    End,
    Hello(fn(&ServerHello) -> bool),
}

impl Wanted {
    pub(super) fn holds(self, answer: Answer) {
        match (self, &answer) {
            (Self::Alert(alert), Answer::Alert(given)) if alert == *given => {}
            (Self::End, Answer::Alert(_) | Answer::Closed) => {}
            (Self::Hello(fits), Answer::Hello(hello)) if fits(hello) => {}
            (Self::Alert(_) | Self::End | Self::Hello(_), _) => panic!("{answer:?}"),
        }
    }
}

/// RFC 8446 §4.1.3.
const DOWNGRADED: &[u8] = b"DOWNGRD\x01";
const DECODE_ERROR: u8 = 50;
const ILLEGAL_PARAMETER: u8 = 47;
const UNEXPECTED_MESSAGE: u8 = 10;

/// Name, what is sent, what must come back.
pub(super) const HELLOS: &[(&str, fn() -> Vec<u8>, Wanted)] = &[
    (
        "hello: TLS 1.2, as a control",
        || Hello::tls12().records(),
        Wanted::Hello(|hello| hello.version == 0x0303 && !hello.extensions.contains(&43)),
    ),
    (
        "hello: TLS 1.3, as a control",
        || Hello::tls13().records(),
        Wanted::Hello(|hello| hello.extensions.contains(&43) && hello.suite == 0x1301),
    ),
    (
        "version: SSL 3 is refused",
        || Hello::tls12().with(|hello| hello.version = 0x0300).records(),
        Wanted::Alert(HANDSHAKE_FAILURE),
    ),
    (
        "version: 1.0 with all that a modern hello has is told its version",
        || Hello::tls12().with(|hello| hello.version = 0x0301).records(),
        Wanted::Alert(PROTOCOL_VERSION),
    ),
    (
        "version: 1.1 with all that a modern hello has is told its version",
        || Hello::tls12().with(|hello| hello.version = 0x0302).records(),
        Wanted::Alert(PROTOCOL_VERSION),
    ),
    (
        "version: SSL 2 is refused",
        || {
            b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10\x07\x00\xc0\x03\x00\x80\x01\x00\x80\x06\x00\x40\x04\x00\x80\x02\x00\x800123456789abcdef".to_vec()
        },
        Wanted::End,
    ),
    (
        "version: supported_versions without one of ours",
        || Hello::tls13().with(|hello| hello.versions = vec![0x7a7a, 0x0302, 0x0301]).records(),
        Wanted::Alert(PROTOCOL_VERSION),
    ),
    (
        "version: of the future is answered by 1.2",
        || Hello::tls12().with(|hello| hello.version = 0x0399).records(),
        Wanted::Hello(|hello| hello.version == 0x0303),
    ),
    (
        "version: a draft among the versions is passed over",
        || Hello::tls13().with(|hello| hello.versions = vec![0x7f1c, 0x2a2a, 0x0304]).records(),
        Wanted::Hello(|hello| hello.extensions.contains(&43)),
    ),
    (
        "version: a fallback is marked in the random",
        || Hello::tls12().with(|hello| hello.suites.push(0x5600)).records(),
        Wanted::Hello(|hello| hello.random.ends_with(DOWNGRADED)),
    ),
    (
        "hello: what is unknown in it is passed over",
        || {
            Hello::tls12()
                .with(|hello| {
                    hello.suites.insert(0, 0x1a1a);
                    hello.groups.insert(0, 0x3a3a);
                    hello.schemes.insert(0, 0x7a7a);
                    hello.more.push((0x4a4a, vec![0]));
                })
                .records()
        },
        Wanted::Hello(|hello| hello.suite == 0xc02b && !hello.extensions.contains(&0x4a4a)),
    ),
    (
        "extensions: only what was asked for is answered",
        || {
            Hello::tls12()
                .with(|hello| hello.more = vec![(15, vec![1]), (1, vec![4]), (4, vec![]), (22, vec![])])
                .records()
        },
        Wanted::Hello(|hello| hello.extensions == [0]),
    ),
    (
        "extensions: no heartbeat",
        || Hello::tls12().with(|hello| hello.more.push((15, vec![1]))).records(),
        Wanted::Hello(|hello| !hello.extensions.contains(&15)),
    ),
    (
        "extensions: renegotiation_info by its signal",
        || Hello::tls12().with(|hello| hello.suites.push(0x00ff)).records(),
        Wanted::Hello(|hello| hello.extensions.contains(&0xff01)),
    ),
    (
        "extensions: a duplicate is refused",
        || Hello::tls12().with(|hello| hello.more.push((23, Vec::new()))).records(),
        Wanted::Alert(ILLEGAL_PARAMETER),
    ),
    (
        "compression: offered beside none, is not taken",
        || Hello::tls12().with(|hello| hello.compressions = vec![1, 0]).records(),
        Wanted::Hello(|hello| hello.compression == 0),
    ),
    (
        "compression: an offer without none is refused",
        || Hello::tls12().with(|hello| hello.compressions = vec![1]).records(),
        Wanted::End,
    ),
    (
        "compression: any offer in 1.3 is refused",
        || Hello::tls13().with(|hello| hello.compressions = vec![1, 0]).records(),
        Wanted::End,
    ),
    (
        "group: unknown ones alone are refused",
        || Hello::tls12().with(|hello| hello.groups = vec![0x6399, 0x01ff]).records(),
        Wanted::Alert(HANDSHAKE_FAILURE),
    ),
    (
        "group: no share at all is answered by a retry",
        || Hello::tls13().with(|hello| hello.more = vec![(51, vec![0, 0])]).records(),
        Wanted::Hello(ServerHello::is_retry),
    ),
    (
        "group: a share cut short is refused",
        || {
            Hello::tls13()
                .with(|hello| hello.more = vec![(51, vec![0x00, 0x08, 0x00, 0x1d, 0x00, 0x04, 9, 9, 9, 9])])
                .records()
        },
        Wanted::Alert(ILLEGAL_PARAMETER),
    ),
    (
        "group: a share of zeroes is refused",
        || {
            Hello::tls13()
                .with(|hello| hello.more = vec![(51, [&[0x00, 0x24, 0x00, 0x1d, 0x00, 0x20][..], &[0; 32]].concat())])
                .records()
        },
        Wanted::Alert(ILLEGAL_PARAMETER),
    ),
    (
        "signature: SHA-1 and MD5 alone are refused",
        || Hello::tls12().with(|hello| hello.schemes = vec![0x0201, 0x0203, 0x0101]).records(),
        Wanted::Alert(HANDSHAKE_FAILURE),
    ),
    (
        "signature: an offer without any is refused",
        || Hello::tls12().with(|hello| hello.schemes.clear()).records(),
        Wanted::End,
    ),
    (
        "SNI: two names are refused",
        || {
            Hello::tls12()
                .with(|hello| {
                    hello.server_name = None;
                    hello.more.push((0, b"\x00\x0c\x00\x00\x03a.b\x00\x00\x03c.d".to_vec()));
                })
                .records()
        },
        Wanted::End,
    ),
    (
        "SNI: an empty name is refused",
        || Hello::tls12().with(|hello| hello.server_name = Some(Vec::new())).records(),
        Wanted::End,
    ),
    (
        "SNI: a name beyond the length of names is refused",
        || Hello::tls12().with(|hello| hello.server_name = Some([&[b'a'; 63][..], b"."].concat().repeat(5))).records(),
        Wanted::End,
    ),
    (
        "SNI: octets that no name has are refused",
        || Hello::tls12().with(|hello| hello.server_name = Some(b"a\x00.test/..".to_vec())).records(),
        Wanted::End,
    ),
    ("hello: in records of one octet", || Hello::tls12().records_of(1), Wanted::Hello(|hello| hello.suite == 0xc02b)),
    (
        "hello: of fifteen KiB is served",
        || Hello::tls12().with(|hello| hello.more.push((21, vec![0; 15 << 10]))).records(),
        Wanted::Hello(|hello| hello.suite == 0xc02b),
    ),
    (
        "hello: that says it has sixteen MiB is refused at once",
        || [&[22, 3, 1, 0, 9, 1, 0xff, 0xff, 0xff, 3, 3][..], &[0; 3]].concat(),
        Wanted::End,
    ),
    (
        "hello: with a length beyond its content is refused",
        || {
            let mut octets = Hello::tls12().records();
            octets[43] = 200;
            octets
        },
        Wanted::Alert(DECODE_ERROR),
    ),
    (
        "hello: another message in its place is refused",
        || {
            let mut octets = Hello::tls12().records();
            octets[5] = 2;
            octets
        },
        Wanted::End,
    ),
    (
        "hello: application data in its place is refused",
        || b"\x17\x03\x03\x00\x05hello".to_vec(),
        Wanted::Alert(UNEXPECTED_MESSAGE),
    ),
    (
        "hello: a record larger than any may be is refused",
        || [&[22, 3, 1, 0x50, 0][..], &[1; 0x5000]].concat(),
        Wanted::End,
    ),
    (
        "garbage: HTTP in the clear is not answered by HTTP",
        || b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n".to_vec(),
        Wanted::End,
    ),
    ("garbage: h2's preface in the clear", || b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), Wanted::End),
    (
        "garbage: octets by chance",
        || (0..600_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8 | 0x80).collect(),
        Wanted::End,
    ),
];
