//! Unpacks a body as it passes, so that it can be read. What one piece of it unpacks to is bounded.

use std::io::{self, Write};

/// A content coding that can be read (RFC 9110 §8.4.1, RFC 7932, RFC 8878).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    Gzip,
    Zlib,
    Br,
    Zstd,
}

/// How the octets of a body are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coded {
    Plain,
    Packed(Packing),
    /// A coding, or several, that nobody here reads.
    Unknown,
}

/// One body's decoder.
pub(super) enum Decoder {
    Gzip(Box<flate2::write::MultiGzDecoder<Bounded>>),
    Zlib(Box<flate2::write::ZlibDecoder<Bounded>>),
    Br(Box<brotli::DecompressorWriter<Bounded>>),
    Zstd(Box<zstd::stream::write::Decoder<'static, Bounded>>),
}

/// Why a body is read no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unreadable {
    Broken,
    TooLarge,
}

/// Pieces are some ten kilobytes; honest text shrinks to a twentieth.
const PIECE_MAX: usize = 8 << 20;
/// RFC 8878 §3.1.1.1.2: what a decoder should support, and no more.
const WINDOW_LOG_MAX: u32 = 23;
const BUFFER: usize = 4096;

impl Coded {
    pub(super) fn of(headers: &http::HeaderMap) -> Self {
        let mut fields = headers.get_all(http::header::CONTENT_ENCODING).iter();
        let (Some(first), None) = (fields.next(), fields.next()) else {
            return if headers.contains_key(http::header::CONTENT_ENCODING) { Self::Unknown } else { Self::Plain };
        };
        match first.as_bytes().trim_ascii().to_ascii_lowercase().as_slice() {
            b"" | b"identity" => Self::Plain,
            b"gzip" | b"x-gzip" => Self::Packed(Packing::Gzip),
            b"deflate" => Self::Packed(Packing::Zlib),
            b"br" => Self::Packed(Packing::Br),
            b"zstd" => Self::Packed(Packing::Zstd),
            _ => Self::Unknown,
        }
    }
}

impl Decoder {
    pub(super) fn new(packing: Packing) -> io::Result<Self> {
        let sink = Bounded::default();
        Ok(match packing {
            Packing::Gzip => Self::Gzip(Box::new(flate2::write::MultiGzDecoder::new(sink))),
            Packing::Zlib => Self::Zlib(Box::new(flate2::write::ZlibDecoder::new(sink))),
            Packing::Br => Self::Br(Box::new(brotli::DecompressorWriter::new(sink, BUFFER))),
            Packing::Zstd => {
                let mut decoder = zstd::stream::write::Decoder::new(sink)?;
                decoder.window_log_max(WINDOW_LOG_MAX)?;
                Self::Zstd(Box::new(decoder))
            }
        })
    }

    /// What a piece unpacks to.
    pub(super) fn piece(&mut self, piece: &[u8]) -> Result<Vec<u8>, Unreadable> {
        match self {
            Self::Gzip(decoder) => through(decoder.as_mut(), flate2::write::MultiGzDecoder::get_mut, piece),
            Self::Zlib(decoder) => through(decoder.as_mut(), flate2::write::ZlibDecoder::get_mut, piece),
            Self::Br(decoder) => through(decoder.as_mut(), brotli::DecompressorWriter::get_mut, piece),
            Self::Zstd(decoder) => through(decoder.as_mut(), zstd::stream::write::Decoder::get_mut, piece),
        }
    }

    /// Whether it came to its end. Half a body must not look like a whole one.
    pub(super) fn finish(&mut self) -> Result<(), Unreadable> {
        let finished = match self {
            Self::Gzip(decoder) => decoder.try_finish(),
            Self::Zlib(decoder) => decoder.try_finish(),
            Self::Br(decoder) => decoder.close(),
            Self::Zstd(decoder) => decoder.do_finish(),
        };
        finished.map_err(|_| Unreadable::Broken)
    }
}

fn through<D: Write>(
    decoder: &mut D,
    sink: impl Fn(&mut D) -> &mut Bounded,
    piece: &[u8],
) -> Result<Vec<u8>, Unreadable> {
    let written = decoder.write_all(piece).and_then(|()| decoder.flush());
    let sink = sink(decoder);
    match written {
        Ok(()) => Ok(std::mem::take(&mut sink.octets)),
        Err(_) if sink.full => Err(Unreadable::TooLarge),
        Err(_) => Err(Unreadable::Broken),
    }
}

/// Takes so many octets at a time and no more.
#[derive(Debug, Default)]
pub(super) struct Bounded {
    octets: Vec<u8>,
    full: bool,
}

impl Write for Bounded {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        if self.octets.len() + octets.len() > PIECE_MAX {
            self.full = true;
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.octets.extend_from_slice(octets);
        Ok(octets.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Decoder")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Encoder;
    use portcullis_policy::Coding;

    fn pack(coding: Coding, text: &[u8]) -> Vec<u8> {
        let mut encoder = Encoder::new(coding).unwrap();
        let mut packed = encoder.chunk(text).unwrap().to_vec();
        packed.extend_from_slice(&encoder.finish().unwrap());
        packed
    }

    const ALL: [(Coding, Packing); 3] =
        [(Coding::Gzip, Packing::Gzip), (Coding::Br, Packing::Br), (Coding::Zstd, Packing::Zstd)];

    #[test]
    fn what_was_packed_is_read_in_any_pieces_and_half_of_it_is_not_whole() {
        let text: Vec<u8> = (0..9000_u32).flat_map(|n| n.to_string().into_bytes()).collect();
        for (coding, packing) in ALL {
            let packed = pack(coding, &text);
            for piece in [1, 13, 100_000] {
                let mut decoder = Decoder::new(packing).unwrap();
                let mut read = Vec::new();
                for chunk in packed.chunks(piece) {
                    read.extend(decoder.piece(chunk).unwrap());
                }
                assert_eq!(decoder.finish(), Ok(()), "{packing:?}");
                assert!(read == text, "{packing:?} by {piece}");
            }
            let mut decoder = Decoder::new(packing).unwrap();
            let half = decoder.piece(&packed[..packed.len() / 2]).unwrap();
            assert!(text.starts_with(&half), "{packing:?}");
            assert_eq!(decoder.finish(), Err(Unreadable::Broken), "{packing:?}");
        }
    }

    #[test]
    fn bombs_and_rubbish_end_the_reading() {
        for (coding, packing) in ALL {
            let bomb = pack(coding, &vec![0; PIECE_MAX + 1]);
            assert_eq!(Decoder::new(packing).unwrap().piece(&bomb), Err(Unreadable::TooLarge), "{packing:?}");
            let rubbish = Decoder::new(packing).unwrap().piece(&[b'x'; 1000]);
            assert_eq!(rubbish, Err(Unreadable::Broken), "{packing:?}");
        }
    }
}
