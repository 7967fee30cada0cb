//! Every kind and size of frame, both ways, octet for octet. Frames that RFC 6455 forbids pass too: to judge them is the ends' affair.

use super::meeting::{Lab, PATIENCE, Pair, Way, carry, rest, say};
use crate::support::cases::Cases;
use std::sync::Arc;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

/// What a sender masks with; a server does not (RFC 6455 §5.1).
type Key = Option<[u8; 4]>;

const KEY: Key = Some([0x37, 0xfa, 0x21, 0x3d]);
const FIN: u8 = 0x80;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

const MESSAGES: &[(&str, fn(Key) -> Vec<u8>)] = &[
    ("text", |key| frame(FIN | TEXT, key, "grüße, 世界".as_bytes())),
    ("binary", |key| frame(FIN | BINARY, key, &(0..=255).collect::<Vec<u8>>())),
    ("ping", |key| frame(FIN | PING, key, b"are you there")),
    ("ping without content", |key| frame(FIN | PING, key, b"")),
    ("ping of 125 octets", |key| frame(FIN | PING, key, &[b'p'; 125])),
    ("pong", |key| frame(FIN | PONG, key, b"are you there")),
    ("a message in two fragments", |key| [frame(TEXT, key, b"one "), frame(FIN, key, b"two")].concat()),
    ("a message in a hundred fragments", |key| {
        let middle = (0..98).flat_map(|n| frame(0, key, &[n; 33]));
        frame(BINARY, key, b"first").into_iter().chain(middle).chain(frame(FIN, key, b"last")).collect()
    }),
    ("control frames between fragments", |key| {
        [
            frame(TEXT, key, b"one"),
            frame(FIN | PING, key, b"?"),
            frame(0, key, b"two"),
            frame(FIN | PONG, key, b"!"),
            frame(FIN, key, b"three"),
        ]
        .concat()
    }),
    ("empty fragments", |key| [frame(TEXT, key, b""), frame(0, key, b""), frame(FIN, key, b"")].concat()),
    ("an empty text", |key| frame(FIN | TEXT, key, b"")),
    ("of 1 octet", |key| frame(FIN | BINARY, key, &[1])),
    ("of 125 octets", |key| frame(FIN | BINARY, key, &filled(125))),
    ("of 126 octets", |key| frame(FIN | BINARY, key, &filled(126))),
    ("of 127 octets", |key| frame(FIN | BINARY, key, &filled(127))),
    ("of 65535 octets", |key| frame(FIN | BINARY, key, &filled(65_535))),
    ("of 65536 octets", |key| frame(FIN | BINARY, key, &filled(65_536))),
    ("of 1 MiB", |key| frame(FIN | BINARY, key, &filled(1 << 20))),
    ("of 5 MiB", |key| frame(FIN | BINARY, key, &filled(5 << 20))),
    ("with the bit of compression", |key| frame(FIN | 0x40 | TEXT, key, b"\xca\xc9\xc9\x07\x00")),
    ("with the other reserved bits", |key| frame(FIN | 0x30 | BINARY, key, b"reserved")),
    ("of every reserved opcode", |key| {
        [3, 4, 5, 6, 7, 11, 12, 13, 14, 15].map(|opcode| frame(FIN | opcode, key, b"?")).concat()
    }),
    ("that is no UTF-8", |key| frame(FIN | TEXT, key, b"\xff\xfe\xc0\x80")),
    ("that looks like a request", |key| frame(FIN | TEXT, key, b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")),
    ("that looks like an answer", |key| frame(FIN | TEXT, key, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")),
    ("a length said in more octets than needed", |_| {
        [&[FIN | BINARY, 127, 0, 0, 0, 0, 0, 0, 0, 5][..], b"hello"].concat()
    }),
    ("a length that nobody has", |_| vec![FIN | BINARY, 127, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
    ("masked by zeroes", |_| frame(FIN | TEXT, Some([0; 4]), b"bare")),
    ("masked where it should not be, and not where it should", |key| {
        frame(FIN | TEXT, if key.is_some() { None } else { KEY }, b"turned")
    }),
    ("five thousand in one go", |key| {
        (0..5_000_u32).flat_map(|n| frame(FIN | BINARY, key, &n.to_be_bytes())).collect()
    }),
    ("close without a code", |key| frame(FIN | CLOSE, key, b"")),
    ("close with half a code", |key| frame(FIN | CLOSE, key, b"\x03")),
    ("close with a reason of 123 octets", |key| {
        frame(FIN | CLOSE, key, &[&1000_u16.to_be_bytes()[..], &[b'r'; 123]].concat())
    }),
];

/// RFC 6455 §7.4.1, the first and the last of each free range, and those that must not be sent.
const CODES: [u16; 18] =
    [1000, 1001, 1002, 1003, 1004, 1005, 1006, 1007, 1008, 1009, 1010, 1011, 1015, 2999, 3000, 3999, 4000, 4999];

pub(super) fn add(lab: &Arc<Lab>, cases: &mut Cases) {
    for (name, octets) in MESSAGES {
        cases.case(format!("message {name}"), both_ways(lab.clone(), octets(KEY), octets(None)));
    }
    for code in CODES {
        let octets = |key| frame(FIN | CLOSE, key, &[&code.to_be_bytes()[..], b"why"].concat());
        cases.case(format!("message close {code}"), both_ways(lab.clone(), octets(KEY), octets(None)));
    }
    cases.case("message one octet at a time", octet_by_octet(lab.clone()));
    cases.case("message both ways at the same time", at_the_same_time(lab.clone()));
    cases.case("message answered a thousand times", ping_pong(lab.clone()));
}

fn frame(first: u8, key: Key, content: &[u8]) -> Vec<u8> {
    let mask = if key.is_some() { 0x80 } else { 0 };
    let mut octets = vec![first];
    match (u8::try_from(content.len()), u16::try_from(content.len())) {
        (Ok(length @ 0..=125), _) => octets.push(mask | length),
        (_, Ok(length)) => {
            octets.push(mask | 126);
            octets.extend(length.to_be_bytes());
        }
        (_, Err(_)) => {
            octets.push(mask | 127);
            octets.extend((content.len() as u64).to_be_bytes());
        }
    }
    match key {
        None => octets.extend(content),
        Some(key) => {
            octets.extend(key);
            octets.extend(content.iter().zip(key.iter().cycle()).map(|(octet, mask)| octet ^ mask));
        }
    }
    octets
}

/// No two stretches of it are alike.
fn filled(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    let next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// Up, down, and nothing more when the client ends.
async fn both_ways(lab: Arc<Lab>, up: Vec<u8>, down: Vec<u8>) {
    let Pair { mut near, mut far, .. } = lab.open(Way::Clear).await;
    carry(&mut near, &mut far, &up).await;
    carry(&mut far, &mut near, &down).await;
    near.shutdown().await.unwrap();
    assert!(rest(&mut far).await.is_empty(), "octets that nobody sent");
}

async fn octet_by_octet(lab: Arc<Lab>) {
    let Pair { mut near, mut far, .. } = lab.open(Way::Clear).await;
    let (up, down) = (frame(FIN | BINARY, KEY, &filled(300)), frame(FIN | BINARY, None, &filled(300)));
    for octet in up {
        carry(&mut near, &mut far, &[octet]).await;
    }
    for octet in down {
        carry(&mut far, &mut near, &[octet]).await;
    }
}

async fn at_the_same_time(lab: Arc<Lab>) {
    let Pair { near, far, .. } = lab.open(Way::Clear).await;
    let (up, down) = (frame(FIN | BINARY, KEY, &filled(3 << 20)), frame(FIN | BINARY, None, &filled(3 << 20)));
    let (mut near_read, mut near_write) = tokio::io::split(near);
    let (mut far_read, mut far_write) = tokio::io::split(far);
    let (mut at_far, mut at_near) = (vec![0; up.len()], vec![0; down.len()]);
    let all = async {
        tokio::try_join!(
            near_write.write_all(&up),
            far_write.write_all(&down),
            async { near_read.read_exact(&mut at_near).await.map(drop) },
            async { far_read.read_exact(&mut at_far).await.map(drop) },
        )
    };
    timeout(PATIENCE, all).await.expect("neither way waits for the other").unwrap();
    assert!(at_far == up && at_near == down);
}

async fn ping_pong(lab: Arc<Lab>) {
    let Pair { mut near, mut far, .. } = lab.open(Way::Clear).await;
    for n in 0..1_000_u32 {
        carry(&mut near, &mut far, &frame(FIN | PING, KEY, &n.to_be_bytes())).await;
        carry(&mut far, &mut near, &frame(FIN | PONG, None, &n.to_be_bytes())).await;
    }
    say(&mut near, &frame(FIN | CLOSE, KEY, b"")).await;
}
