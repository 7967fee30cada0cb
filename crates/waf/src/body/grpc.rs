//! The strings in gRPC messages, found without a schema: `grpc.1.2` is field 2 of field 1.
//!
//! Protocol buffers do not tell strings, bytes and messages apart; what can be text is inspected as text, and what can be a
//! message is also taken apart.

use super::Contents;
use super::content_encoding::unpack_gzip;

/// Messages inside each other.
const DEPTH: usize = 16;

/// How compressed messages are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    Gzip,
    Unknown,
}

/// Reads a body of length-prefixed messages (gRPC over HTTP/2, "Length-Prefixed-Message"); `room` bounds what all messages come to unpacked.
pub(crate) fn read(body: &[u8], packing: Packing, mut room: usize, most: usize, contents: &mut Contents) {
    let mut reader = Reader { most, contents, path: b"grpc".to_vec() };
    let mut rest = body;
    while let Some((frame, after)) = frame(rest) {
        rest = after;
        let unpacked;
        let message = match (frame.compressed, packing) {
            (false, _) => frame.message,
            (true, Packing::Gzip) => match unpack_gzip(frame.message, room) {
                Ok(message) => {
                    room = room.saturating_sub(message.len());
                    unpacked = message;
                    unpacked.as_slice()
                }
                Err(_) => return reader.fail("a message cannot be unpacked, or not within the limit of the body"),
            },
            (true, Packing::Unknown) => return reader.fail("a message is compressed in an unknown way"),
        };
        if !is_message(message) {
            return reader.fail("a message is no protocol buffer");
        }
        reader.message(message, 0);
    }
    if !rest.is_empty() {
        reader.fail("the last message is incomplete");
    }
}

struct Frame<'b> {
    compressed: bool,
    message: &'b [u8],
}

fn frame(body: &[u8]) -> Option<(Frame<'_>, &[u8])> {
    let (flag, rest) = body.split_first()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    let (message, rest) = rest.split_at_checked(length)?;
    Some((Frame { compressed: flag & 1 == 1, message }, rest))
}

struct Reader<'c> {
    most: usize,
    contents: &'c mut Contents,
    path: Vec<u8>,
}

impl Reader<'_> {
    fn fail(&mut self, error: &str) {
        self.contents.error.get_or_insert_with(|| format!("gRPC: {error}"));
    }

    fn message(&mut self, message: &[u8], depth: usize) {
        let mut rest = message;
        while let Some((field, after)) = field(rest) {
            rest = after;
            let Some(bytes) = field.bytes else { continue };
            let before = self.path.len();
            self.path.extend(format!(".{}", field.number).bytes());
            let text = is_text(bytes);
            let nested = !bytes.is_empty() && is_message(bytes);
            if text || !nested {
                if self.contents.args.len() >= self.most {
                    self.contents.truncated = true;
                    self.path.truncate(before);
                    return self.fail("too many values");
                }
                self.contents.args.push(&self.path, bytes);
            }
            if nested && depth < DEPTH {
                self.message(bytes, depth + 1);
            } else if nested {
                self.contents.truncated = true;
            }
            self.path.truncate(before);
        }
    }
}

struct Field<'m> {
    number: u64,
    /// The contents of a length-delimited field.
    bytes: Option<&'m [u8]>,
}

/// The field at the beginning of a message, and what follows it.
fn field(message: &[u8]) -> Option<(Field<'_>, &[u8])> {
    let (key, rest) = varint(message)?;
    let number = key >> 3;
    if number == 0 {
        return None;
    }
    let (bytes, rest) = match key & 7 {
        0 => (None, varint(rest)?.1),
        1 => (None, rest.get(8..)?),
        2 => {
            let (length, rest) = varint(rest)?;
            let (bytes, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
            (Some(bytes), rest)
        }
        5 => (None, rest.get(4..)?),
        _ => return None,
    };
    Some((Field { number, bytes }, rest))
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0u64;
    for (place, byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f).checked_shl(u32::try_from(place * 7).ok()?)?;
        if byte & 0x80 == 0 {
            return Some((value, bytes.get(place + 1..)?));
        }
    }
    None
}

fn is_message(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    while !rest.is_empty() {
        match field(rest) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    true
}

fn is_text(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes)
        .is_ok_and(|text| !text.chars().any(|char| char.is_control() && !matches!(char, '\t' | '\n' | '\r')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delimited(number: u8, bytes: &[u8]) -> Vec<u8> {
        let mut field = vec![number << 3 | 2, u8::try_from(bytes.len()).unwrap()];
        field.extend(bytes);
        field
    }

    fn framed(message: &[u8]) -> Vec<u8> {
        let mut frame = vec![0];
        frame.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
        frame.extend(message);
        frame
    }

    #[track_caller]
    fn check(body: &[u8], expected: &str, error: Option<&str>) {
        let mut contents = Contents::default();
        read(body, Packing::Unknown, 1000, 3, &mut contents);
        let one = |(name, value): (&[u8], &[u8])| format!("{}={}", name.escape_ascii(), value.escape_ascii());
        assert_eq!(contents.args.iter().map(one).collect::<Vec<_>>().join("|"), expected);
        assert_eq!(contents.error.as_deref(), error);
    }

    #[test]
    fn strings_are_found_by_their_place() {
        let inner = [delimited(2, b"union select"), vec![0x18, 0x96, 0x01]].concat();
        let message = [vec![0x08, 0x01], delimited(1, &inner), delimited(3, b"plain")].concat();
        check(&framed(&message), "grpc.1.2=union select|grpc.3=plain", None);
        check(&[framed(&delimited(1, b"ab")), framed(&delimited(1, b"cd"))].concat(), "grpc.1=ab|grpc.1=cd", None);
        check(&framed(&delimited(1, b"\xff\xfe\xfd")), "grpc.1=\\xff\\xfe\\xfd", None);
        check(&framed(b""), "", None);
    }

    #[test]
    fn what_is_wrong_is_named() {
        check(b"\0\0\0\0\x09abc", "", Some("gRPC: the last message is incomplete"));
        check(&framed(b"\x0f"), "", Some("gRPC: a message is no protocol buffer"));
        check(b"\x01\0\0\0\x01a", "", Some("gRPC: a message is compressed in an unknown way"));
        let many = delimited(1, b"xy").repeat(4);
        check(&framed(&many), "grpc.1=xy|grpc.1=xy|grpc.1=xy", Some("gRPC: too many values"));
        let mut deep = b"ab".to_vec();
        for _ in 0..40 {
            deep = delimited(1, &deep);
        }
        let mut contents = Contents::default();
        read(&framed(&deep), Packing::Unknown, 1000, 1000, &mut contents);
        assert!(contents.truncated);
    }

    #[test]
    fn packed_messages_are_unpacked_within_one_limit() {
        use std::io::Write;
        let packed = |message: &[u8]| {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
            encoder.write_all(message).unwrap();
            let mut frame = framed(&encoder.finish().unwrap());
            if let Some(flag) = frame.first_mut() {
                *flag = 1;
            }
            frame
        };
        let message = delimited(1, &[b'a'; 100]);
        let too_much = Some("gRPC: a message cannot be unpacked, or not within the limit of the body");
        for (messages, found, error) in [(1, 1, None), (2, 2, None), (3, 2, too_much)] {
            let mut contents = Contents::default();
            read(&packed(&message).repeat(messages), Packing::Gzip, 250, 10, &mut contents);
            assert_eq!((contents.args.len(), contents.error.as_deref()), (found, error));
        }
    }
}
