//! Bodies sent compressed, read as they come: no more is unpacked than the limit of the body allows.

use std::fmt;
use std::io::{self, Write};

use flate2::write::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};

/// The reader of one body.
pub(crate) enum Unpacker {
    /// Sent as it is.
    Plain,
    Gzip(Box<MultiGzDecoder<Bounded>>),
    /// `deflate` means the zlib format (RFC 9110 §8.4.1.2), but some send it bare; the first byte tells.
    Deflate(Deflate),
    Brotli(Box<brotli::DecompressorWriter<Bounded>>),
    Zstd(Box<zstd::stream::write::Decoder<'static, Bounded>>),
    /// An encoding, or several, that this engine does not read.
    Unknown,
    /// What came was not what it was said to be, or came to too much.
    Spent,
}

pub(crate) enum Deflate {
    Undecided,
    Zlib(Box<ZlibDecoder<Bounded>>),
    Bare(Box<DeflateDecoder<Bounded>>),
}

/// Why a body is not read any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Broken,
    TooLarge,
}

impl Unpacker {
    /// By the `Content-Encoding` header.
    pub(crate) fn new(encoding: &[u8]) -> Self {
        match encoding.trim_ascii().to_ascii_lowercase().as_slice() {
            b"" | b"identity" => Self::Plain,
            b"gzip" | b"x-gzip" => Self::Gzip(Box::new(MultiGzDecoder::new(Bounded::default()))),
            b"deflate" => Self::Deflate(Deflate::Undecided),
            b"br" => Self::Brotli(Box::new(brotli::DecompressorWriter::new(Bounded::default(), BUFFER_BYTES))),
            b"zstd" => zstd_decoder().map_or(Self::Unknown, |decoder| Self::Zstd(Box::new(decoder))),
            _ => Self::Unknown,
        }
    }

    /// Unpacks a piece, up to `room` bytes of it; `None` when bodies of this kind are handed on as they are.
    pub(crate) fn unpack(&mut self, chunk: &[u8], room: usize) -> Option<Result<Vec<u8>, Fault>> {
        let unpacked = match self {
            Self::Plain | Self::Unknown => return None,
            Self::Spent => return Some(Ok(Vec::new())),
            Self::Gzip(decoder) => through(decoder.as_mut(), MultiGzDecoder::get_mut, chunk, room),
            Self::Brotli(decoder) => through(decoder.as_mut(), brotli::DecompressorWriter::get_mut, chunk, room),
            Self::Zstd(decoder) => through(decoder.as_mut(), zstd::stream::write::Decoder::get_mut, chunk, room),
            Self::Deflate(kind) => {
                if let (Deflate::Undecided, Some(first)) = (&*kind, chunk.first()) {
                    // RFC 1950 §2.2: the low half of a zlib stream's first byte is 8.
                    *kind = match first & 15 {
                        8 => Deflate::Zlib(Box::new(ZlibDecoder::new(Bounded::default()))),
                        _ => Deflate::Bare(Box::new(DeflateDecoder::new(Bounded::default()))),
                    };
                }
                match kind {
                    Deflate::Undecided => Ok(Vec::new()),
                    Deflate::Zlib(decoder) => through(decoder.as_mut(), ZlibDecoder::get_mut, chunk, room),
                    Deflate::Bare(decoder) => through(decoder.as_mut(), DeflateDecoder::get_mut, chunk, room),
                }
            }
        };
        if unpacked.is_err() {
            *self = Self::Spent;
        }
        Some(unpacked)
    }
}

/// What brotli unpacks at a time, besides its window of at most 16 MiB (RFC 7932 §9.1).
const BUFFER_BYTES: usize = 4096;

/// RFC 9659 §3: as a content coding, zstd must not need a window of more than 8 MiB.
const ZSTD_WINDOW_LOG: u32 = 23;

fn zstd_decoder() -> io::Result<zstd::stream::write::Decoder<'static, Bounded>> {
    let mut decoder = zstd::stream::write::Decoder::new(Bounded::default())?;
    decoder.window_log_max(ZSTD_WINDOW_LOG)?;
    Ok(decoder)
}

impl fmt::Debug for Unpacker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "plain",
            Self::Gzip(_) => "gzip",
            Self::Deflate(_) => "deflate",
            Self::Brotli(_) => "br",
            Self::Zstd(_) => "zstd",
            Self::Unknown => "unknown",
            Self::Spent => "spent",
        })
    }
}

fn through<D: Write>(
    decoder: &mut D,
    sink: impl Fn(&mut D) -> &mut Bounded,
    chunk: &[u8],
    room: usize,
) -> Result<Vec<u8>, Fault> {
    sink(decoder).room = room;
    let written = decoder.write_all(chunk).and_then(|()| decoder.flush());
    let sink = sink(decoder);
    match written {
        Ok(()) => Ok(std::mem::take(&mut sink.bytes)),
        Err(_) if sink.room == 0 => Err(Fault::TooLarge),
        Err(_) => Err(Fault::Broken),
    }
}

/// Takes a number of bytes and no more.
#[derive(Debug, Default)]
pub(crate) struct Bounded {
    bytes: Vec<u8>,
    room: usize,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.get(..self.room).unwrap_or(bytes);
        self.bytes.extend_from_slice(taken);
        self.room -= taken.len();
        if taken.is_empty() && !bytes.is_empty() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(taken.len()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Unpacks what is there as a whole, up to `room` bytes.
pub(crate) fn unpack_gzip(packed: &[u8], room: usize) -> Result<Vec<u8>, Fault> {
    let mut unpacker = Unpacker::new(b"gzip");
    unpacker.unpack(packed, room).unwrap_or(Ok(Vec::new()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};

    const TEXT: &[u8] = b"a=1&b=union+select&a=1&b=union+select";

    fn read(encoding: &str, packed: &[u8], piece: usize, room: usize) -> Result<Vec<u8>, Fault> {
        let mut unpacker = Unpacker::new(encoding.as_bytes());
        let mut all = Vec::new();
        for chunk in packed.chunks(piece) {
            all.extend(unpacker.unpack(chunk, room - all.len()).unwrap()?);
        }
        Ok(all)
    }

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn brotli(text: &[u8]) -> Vec<u8> {
        let mut packed = Vec::new();
        brotli::CompressorWriter::new(&mut packed, 4096, 5, 22).write_all(text).unwrap();
        packed
    }

    #[test]
    fn bodies_are_unpacked_in_any_pieces() {
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::best());
        zlib.write_all(TEXT).unwrap();
        let mut bare = DeflateEncoder::new(Vec::new(), Compression::best());
        bare.write_all(TEXT).unwrap();
        let packed = [
            ("gzip", gzip(TEXT)),
            ("deflate", zlib.finish().unwrap()),
            ("deflate", bare.finish().unwrap()),
            ("br", brotli(TEXT)),
            ("zstd", zstd::stream::encode_all(TEXT, 3).unwrap()),
        ];
        for (encoding, packed) in packed {
            for piece in [1, 7, 1000] {
                assert_eq!(read(encoding, &packed, piece, 1000).as_deref(), Ok(TEXT), "{encoding} {piece}");
            }
        }
        assert!(Unpacker::new(b"identity").unpack(b"x", 9).is_none());
        assert!(matches!(Unpacker::new(b"gzip, gzip"), Unpacker::Unknown));
    }

    #[test]
    fn bombs_go_off_within_bounds() {
        let bomb = gzip(&vec![0; 50_000_000]);
        assert!(bomb.len() < 100_000);
        assert_eq!(read("gzip", &bomb, 1000, 10_000), Err(Fault::TooLarge));
        let zeros = vec![0; 50_000_000];
        assert_eq!(read("br", &brotli(&zeros), 1000, 10_000), Err(Fault::TooLarge));
        assert_eq!(read("zstd", &zstd::stream::encode_all(&*zeros, 3).unwrap(), 1000, 10_000), Err(Fault::TooLarge));
        for encoding in ["gzip", "deflate", "br", "zstd"] {
            assert_eq!(read(encoding, b"not packed at all", 100, 10_000), Err(Fault::Broken), "{encoding}");
        }
        // A frame that asks for a window of 128 MiB: magic, descriptor without a content size, window descriptor.
        let wide = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 17 << 3, 0x03, 0x00, 0x00, b'x'];
        assert_eq!(read("zstd", &wide, 100, 10_000), Err(Fault::Broken));
    }
}
