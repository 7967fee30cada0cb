//! Compresses a response body as it passes.

use bytes::Bytes;
use portcullis_policy::Coding;
use std::io::{self, Write};

/// One body's encoder. What a chunk becomes leaves with the chunk: nobody waits for the next one.
pub(crate) enum Encoder {
    Gzip(flate2::write::GzEncoder<Vec<u8>>),
    Br(Box<brotli::CompressorWriter<Vec<u8>>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
}

/// Where each coding gives the most for its time; slower levels belong to files that are compressed once.
const GZIP_LEVEL: u32 = 5;
const BR_QUALITY: u32 = 4;
const ZSTD_LEVEL: i32 = 3;
/// 256 KiB of history bound what a stream holds.
const WINDOW_LOG: u32 = 18;
const BUFFER: usize = 4096;

impl Encoder {
    pub(crate) fn new(coding: Coding) -> io::Result<Self> {
        Ok(match coding {
            Coding::Gzip => Self::Gzip(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(GZIP_LEVEL))),
            Coding::Br => Self::Br(Box::new(brotli::CompressorWriter::new(Vec::new(), BUFFER, BR_QUALITY, WINDOW_LOG))),
            Coding::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), ZSTD_LEVEL)?;
                encoder.window_log(WINDOW_LOG)?;
                Self::Zstd(encoder)
            }
        })
    }

    /// The encoded form of a chunk.
    pub(crate) fn chunk(&mut self, chunk: &[u8]) -> io::Result<Bytes> {
        if chunk.is_empty() {
            return Ok(Bytes::new());
        }
        let done = match self {
            Self::Gzip(encoder) => {
                encoder.write_all(chunk)?;
                encoder.flush()?;
                std::mem::take(encoder.get_mut())
            }
            Self::Br(encoder) => {
                encoder.write_all(chunk)?;
                encoder.flush()?;
                std::mem::take(encoder.get_mut())
            }
            Self::Zstd(encoder) => {
                encoder.write_all(chunk)?;
                encoder.flush()?;
                std::mem::take(encoder.get_mut())
            }
        };
        Ok(done.into())
    }

    /// What ends the body.
    pub(crate) fn finish(self) -> io::Result<Bytes> {
        Ok(match self {
            Self::Gzip(encoder) => encoder.finish()?.into(),
            Self::Br(encoder) => encoder.into_inner().into(),
            Self::Zstd(encoder) => encoder.finish()?.into(),
        })
    }
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Gzip(_) => "Encoder::Gzip",
            Self::Br(_) => "Encoder::Br",
            Self::Zstd(_) => "Encoder::Zstd",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn each_coding_gives_back_what_went_in_and_holds_nothing_back() {
        let text: Vec<u8> = (0..20_000_u32).flat_map(|n| n.to_string().into_bytes()).collect();
        for coding in [Coding::Gzip, Coding::Br, Coding::Zstd] {
            let mut encoder = Encoder::new(coding).unwrap();
            let mut sent = Vec::new();
            for chunk in text.chunks(7000) {
                let encoded = encoder.chunk(chunk).unwrap();
                assert!(!encoded.is_empty(), "{coding:?} holds a chunk back");
                sent.extend_from_slice(&encoded);
            }
            sent.extend_from_slice(&encoder.finish().unwrap());
            assert!(sent.len() < text.len() / 2, "{coding:?} {}", sent.len());
            let mut back = Vec::new();
            match coding {
                Coding::Gzip => flate2::read::GzDecoder::new(&*sent).read_to_end(&mut back).unwrap(),
                Coding::Br => brotli::Decompressor::new(&*sent, 4096).read_to_end(&mut back).unwrap(),
                Coding::Zstd => zstd::stream::read::Decoder::new(&*sent).unwrap().read_to_end(&mut back).unwrap(),
            };
            assert!(back == text, "{coding:?}");
        }
    }
}
