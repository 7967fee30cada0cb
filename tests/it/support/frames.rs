//! HTTP/2 octet by octet: frames and header blocks as a test writes them, and what the server says to that. It holds to no
//! rule of its own: breaking them is what it is for.

use super::client::Io;
use std::{collections::BTreeMap, fmt, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Frame types (RFC 9113 §6).
pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PUSH_PROMISE: u8 = 5;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

/// Flags. ACK has the bit of END_STREAM.
pub(crate) const ACK: u8 = 0x1;
pub(crate) const END_STREAM: u8 = 0x1;
pub(crate) const END_HEADERS: u8 = 0x4;
pub(crate) const PADDED: u8 = 0x8;
pub(crate) const WITH_PRIORITY: u8 = 0x20;
/// A whole request without a body.
pub(crate) const WHOLE: u8 = END_STREAM | END_HEADERS;

/// Error codes (RFC 9113 §7).
pub(crate) const NO_ERROR: u32 = 0;
pub(crate) const PROTOCOL_ERROR: u32 = 1;
pub(crate) const FLOW_CONTROL_ERROR: u32 = 3;
pub(crate) const STREAM_CLOSED: u32 = 5;
pub(crate) const FRAME_SIZE_ERROR: u32 = 6;
pub(crate) const REFUSED_STREAM: u32 = 7;
pub(crate) const CANCEL: u32 = 8;
pub(crate) const COMPRESSION_ERROR: u32 = 9;
pub(crate) const ENHANCE_YOUR_CALM: u32 = 11;

/// Settings (RFC 9113 §6.5.2).
pub(crate) const HEADER_TABLE_SIZE: u16 = 1;
pub(crate) const ENABLE_PUSH: u16 = 2;
pub(crate) const MAX_STREAMS: u16 = 3;
pub(crate) const INITIAL_WINDOW: u16 = 4;
pub(crate) const MAX_FRAME: u16 = 5;

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, high, middle, low] = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![high, middle, low, kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

pub(crate) fn settings(values: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> =
        values.iter().flat_map(|(name, value)| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat()).collect();
    frame(SETTINGS, 0, 0, &payload)
}

pub(crate) fn window_update(stream: u32, by: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &by.to_be_bytes())
}

pub(crate) fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes())
}

/// RFC 7541 §6.2.2: every field a literal without indexing and without Huffman, its name spelled out.
pub(crate) fn block<N: AsRef<[u8]>, V: AsRef<[u8]>>(fields: impl IntoIterator<Item = (N, V)>) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        string(&mut block, name.as_ref());
        string(&mut block, value.as_ref());
    }
    block
}

fn string(block: &mut Vec<u8>, text: &[u8]) {
    integer(block, 7, 0, text.len());
    block.extend(text);
}

/// RFC 7541 §5.1.
pub(crate) fn integer(block: &mut Vec<u8>, prefix: u8, pattern: u8, value: usize) {
    let most = (1 << prefix) - 1;
    if value < most {
        return block.push(pattern | u8::try_from(value).unwrap());
    }
    block.push(pattern | u8::try_from(most).unwrap());
    let mut rest = value - most;
    while rest >= 0x80 {
        block.push(u8::try_from(rest & 0x7f).unwrap() | 0x80);
        rest >>= 7;
    }
    block.push(u8::try_from(rest).unwrap());
}

/// The pseudo-header fields of a plain request, and then `more`.
pub(crate) fn request(method: &str, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let head = [(":method", method), (":scheme", "http"), (":authority", "a"), (":path", path)];
    block(head.iter().chain(more).copied())
}

/// A whole GET.
pub(crate) fn get(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, WHOLE, stream, &request("GET", path, &[]))
}

/// The head of a POST whose body follows.
pub(crate) fn post(stream: u32, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &request("POST", path, more))
}

pub(crate) fn data(flags: u8, stream: u32, body: &[u8]) -> Vec<u8> {
    frame(DATA, flags, stream, body)
}

/// What a server says.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Said {
    /// The status, where it can be told without a dynamic table; `None` for trailers.
    Head {
        stream: u32,
        status: Option<u16>,
        end: bool,
    },
    Data {
        stream: u32,
        body: Vec<u8>,
        end: bool,
    },
    Reset {
        stream: u32,
        code: u32,
    },
    Settings(BTreeMap<u16, u32>),
    SettingsAck,
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Goaway {
        last: u32,
        code: u32,
    },
    WindowUpdate {
        stream: u32,
    },
    Other(u8),
    /// The connection's end.
    End,
}

impl fmt::Debug for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Head { stream, status, end } => write!(f, "{stream}:{status:?}{}", if *end { "." } else { "" }),
            Self::Data { stream, body, end } => {
                write!(f, "{stream}:{} octets{}", body.len(), if *end { "." } else { "" })
            }
            Self::Reset { stream, code } => write!(f, "{stream}:reset({code})"),
            Self::Settings(_) => f.write_str("settings"),
            Self::SettingsAck => f.write_str("settings-ack"),
            Self::Ping(_) => f.write_str("ping"),
            Self::Pong(_) => f.write_str("pong"),
            Self::Goaway { last, code } => write!(f, "goaway({code}, last {last})"),
            Self::WindowUpdate { stream } => write!(f, "{stream}:window"),
            Self::Other(kind) => write!(f, "type {kind}"),
            Self::End => f.write_str("end"),
        }
    }
}

impl Said {
    /// Whether nothing more is to come on this stream.
    pub(crate) fn ends(&self, wanted: u32) -> bool {
        match self {
            Self::Head { stream, end, .. } | Self::Data { stream, end, .. } => *end && *stream == wanted,
            Self::Reset { stream, .. } => *stream == wanted,
            Self::End => true,
            _ => false,
        }
    }
}

/// A connection of which both directions are in the test's hands.
pub(crate) struct Wire {
    pub stream: Box<dyn Io>,
    buffer: Vec<u8>,
    /// All that was said so far.
    pub said: Vec<Said>,
}

const PATIENCE: Duration = Duration::from_secs(20);

impl Wire {
    /// Nothing is sent yet, not even the preface.
    pub(crate) fn over(stream: impl Io + 'static) -> Self {
        Self { stream: Box::new(stream), buffer: Vec::new(), said: Vec::new() }
    }

    /// For connections that the peer may have ended: what it said before that can still be read.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> bool {
        timeout(PATIENCE, async { self.stream.write_all(bytes).await.is_ok() && self.stream.flush().await.is_ok() })
            .await
            .unwrap_or(false)
    }

    /// The next frame, or the end.
    pub(crate) async fn next(&mut self) -> Said {
        let said = timeout(PATIENCE, async {
            loop {
                if let Some(said) = take(&mut self.buffer) {
                    return said;
                }
                match self.stream.read_buf(&mut self.buffer).await {
                    Ok(0) | Err(_) => return Said::End,
                    Ok(_) => {}
                }
            }
        })
        .await
        .unwrap_or_else(|_| panic!("silence after {:?}", self.said));
        self.said.push(said.clone());
        said
    }

    /// Reads until `wanted`, or the end.
    pub(crate) async fn until(&mut self, wanted: impl Fn(&Said) -> bool) -> Said {
        loop {
            let said = self.next().await;
            if said == Said::End || wanted(&said) {
                return said;
            }
        }
    }

    /// The body of a stream so far.
    pub(crate) fn body(&self, wanted: u32) -> Vec<u8> {
        let parts = self.said.iter().filter_map(|said| match said {
            Said::Data { stream, body, .. } if *stream == wanted => Some(body.as_slice()),
            _ => None,
        });
        parts.flatten().copied().collect()
    }
}

/// Takes one whole frame off the front.
pub(crate) fn take(buffer: &mut Vec<u8>) -> Option<Said> {
    let header = buffer.get(..9)?;
    let length = usize::from(header[0]) << 16 | usize::from(header[1]) << 8 | usize::from(header[2]);
    let (kind, flags) = (header[3], header[4]);
    let stream = u32::from_be_bytes([header[5] & 0x7f, header[6], header[7], header[8]]);
    let payload = buffer.get(9..9 + length)?.to_vec();
    buffer.drain(..9 + length);
    let number = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
    Some(match kind {
        DATA => Said::Data { stream, end: flags & END_STREAM != 0, body: payload },
        HEADERS => Said::Head { stream, status: status(&payload), end: flags & END_STREAM != 0 },
        RST_STREAM => Said::Reset { stream, code: number(0) },
        SETTINGS if flags & ACK != 0 => Said::SettingsAck,
        SETTINGS => Said::Settings(
            payload
                .chunks_exact(6)
                .map(|one| (u16::from_be_bytes([one[0], one[1]]), u32::from_be_bytes(one[2..].try_into().unwrap())))
                .collect(),
        ),
        PING if flags & ACK != 0 => Said::Pong(payload),
        PING => Said::Ping(payload),
        GOAWAY => Said::Goaway { last: number(0), code: number(4) },
        WINDOW_UPDATE => Said::WindowUpdate { stream },
        other => Said::Other(other),
    })
}

/// RFC 7541 §6: `:status` comes first, behind updates of the table's size; as an index or as a literal.
fn status(block: &[u8]) -> Option<u16> {
    let mut at = 0;
    while block.get(at)? & 0xe0 == 0x20 {
        if block[at] & 0x1f == 0x1f {
            at += 1;
            while block.get(at)? & 0x80 != 0 {
                at += 1;
            }
        }
        at += 1;
    }
    match *block.get(at)? {
        index @ 0x88..=0x8e => Some([200, 204, 206, 304, 400, 404, 500][usize::from(index - 0x88)]),
        // A literal whose name is `:status` of the static table.
        0x48 | 0x08 | 0x18 => {
            let length = *block.get(at + 1)?;
            let text = block.get(at + 2..at + 2 + usize::from(length & 0x7f))?;
            if length & 0x80 == 0 { std::str::from_utf8(text).ok()?.parse().ok() } else { huffman_digits(text) }
        }
        _ => None,
    }
}

/// RFC 7541 appendix B, of which digits are enough: `0` to `2` have five bits, the others six.
fn huffman_digits(text: &[u8]) -> Option<u16> {
    let bits = text.iter().fold(0_u64, |bits, octet| bits << 8 | u64::from(*octet));
    let (mut left, mut number) = (text.len() * 8, 0);
    for _ in 0..3 {
        let short = bits >> left.checked_sub(5)? & 0x1f;
        let digit = if short < 3 {
            left -= 5;
            short
        } else {
            left = left.checked_sub(6)?;
            (bits >> left & 0x3f) - 0x19 + 3
        };
        number = number * 10 + u16::try_from(digit).ok()?;
    }
    Some(number)
}
