//! Finds the end of a message body in a byte stream, and holds chunked framing to the letter.

use crate::{Refusal, fields};
use std::ops::Range;

/// How a message's body is delimited (RFC 9112 §6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    None,
    Length(u64),
    Chunked,
}

/// What chunked framing may cost besides its data.
#[derive(Debug, Clone, Copy)]
pub struct BodyLimits {
    /// Octets of one chunk's extensions.
    pub extension: usize,
    /// Octets of all extensions of a message: many small ones are an attack as well.
    pub extensions: usize,
    /// Octets of the trailer section.
    pub trailers: usize,
}

impl Default for BodyLimits {
    fn default() -> Self {
        Self { extension: 256, extensions: 16 << 10, trailers: 8 << 10 }
    }
}

/// Follows one body through whatever slices it comes in.
#[derive(Debug)]
pub struct BodyScanner {
    state: State,
    limits: BodyLimits,
    payload: u64,
    extensions: usize,
    line: Vec<u8>,
    trailers: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Length(u64),
    Size { digits: u8, size: u64 },
    Extension { size: u64, length: usize },
    SizeLf { size: u64 },
    Data(u64),
    DataCr,
    DataLf,
    Trailer,
    Done,
}

/// What a slice held of the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Advance {
    /// Octets that belong to this message; what follows is the next one's.
    pub taken: usize,
    /// The body is complete.
    pub done: bool,
}

/// 16 digits are all a 64-bit size can need; leading zeros count.
const SIZE_DIGITS: u8 = 16;

impl BodyScanner {
    pub fn new(framing: Framing, limits: BodyLimits) -> Self {
        let state = match framing {
            Framing::None | Framing::Length(0) => State::Done,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Size { digits: 0, size: 0 },
        };
        Self { state, limits, payload: 0, extensions: 0, line: Vec::new(), trailers: 0 }
    }

    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Octets of content so far, framing not counted.
    pub fn payload(&self) -> u64 {
        self.payload
    }

    /// Reads on. After an error the stream cannot be trusted any more.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<Advance, Refusal> {
        self.advance_through(bytes, |_| {})
    }

    /// The same, and tells where in `bytes` the content is: pieces in their order, without framing and trailers.
    pub fn advance_through(&mut self, bytes: &[u8], mut content: impl FnMut(Range<usize>)) -> Result<Advance, Refusal> {
        let mut taken = 0;
        while let Some(rest) = bytes.get(taken..).filter(|rest| !rest.is_empty()) {
            if self.state == State::Done {
                break;
            }
            let before = self.payload;
            let step = self.step(rest)?;
            if self.payload > before {
                content(taken..taken + step);
            }
            taken += step;
        }
        Ok(Advance { taken, done: self.is_done() })
    }

    /// Takes at least one octet of `rest`, which is not empty.
    fn step(&mut self, rest: &[u8]) -> Result<usize, Refusal> {
        let octet = rest.first().copied().unwrap_or_default();
        match self.state {
            State::Length(left) | State::Data(left) => {
                let taken = rest.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                self.payload += taken as u64;
                let left = left - taken as u64;
                self.state = match (self.state, left) {
                    (State::Length(_), 0) => State::Done,
                    (State::Length(_), left) => State::Length(left),
                    (_, 0) => State::DataCr,
                    (_, left) => State::Data(left),
                };
                return Ok(taken);
            }
            State::Size { digits, size } => self.state = self.size(octet, digits, size)?,
            State::Extension { size, length } => self.state = self.extension(octet, size, length)?,
            State::SizeLf { size } => {
                if octet != b'\n' {
                    return Err(Refusal::BareCr);
                }
                self.state = if size == 0 { State::Trailer } else { State::Data(size) };
            }
            State::DataCr => {
                if octet != b'\r' {
                    return Err(Refusal::BadChunkEnd);
                }
                self.state = State::DataLf;
            }
            State::DataLf => {
                if octet != b'\n' {
                    return Err(Refusal::BadChunkEnd);
                }
                self.state = State::Size { digits: 0, size: 0 };
            }
            State::Trailer => return self.trailer(rest),
            State::Done => {}
        }
        Ok(1)
    }

    fn size(&self, octet: u8, digits: u8, size: u64) -> Result<State, Refusal> {
        let digit = match octet {
            b'0'..=b'9' => octet - b'0',
            b'a'..=b'f' => octet - b'a' + 10,
            b'A'..=b'F' => octet - b'A' + 10,
            b'\r' if digits > 0 => return Ok(State::SizeLf { size }),
            b';' if digits > 0 => return Ok(State::Extension { size, length: 0 }),
            b'\n' => return Err(Refusal::BareLf),
            _ => return Err(Refusal::BadChunkSize),
        };
        // The top bit stays free: no later sum of sizes overflows what a counter of octets holds.
        if digits >= SIZE_DIGITS || size >> 59 != 0 {
            return Err(Refusal::BadChunkSize);
        }
        Ok(State::Size { digits: digits + 1, size: size << 4 | u64::from(digit) })
    }

    fn extension(&mut self, octet: u8, size: u64, length: usize) -> Result<State, Refusal> {
        match octet {
            b'\r' => return Ok(State::SizeLf { size }),
            b'\n' => return Err(Refusal::BareLf),
            b'\t' | 0x20..=0x7e => {}
            _ => return Err(Refusal::BadChunkExtension),
        }
        self.extensions += 1;
        if length >= self.limits.extension || self.extensions > self.limits.extensions {
            return Err(Refusal::BadChunkExtension);
        }
        Ok(State::Extension { size, length: length + 1 })
    }

    /// One trailer line at a time; the empty one ends the message.
    fn trailer(&mut self, rest: &[u8]) -> Result<usize, Refusal> {
        let (taken, ended) = match memchr::memchr(b'\n', rest) {
            Some(at) => (at + 1, true),
            None => (rest.len(), false),
        };
        self.trailers += taken;
        if self.trailers > self.limits.trailers {
            return Err(Refusal::BadTrailer);
        }
        self.line.extend_from_slice(rest.get(..taken).unwrap_or_default());
        if ended {
            let line = std::mem::take(&mut self.line);
            match line.as_slice() {
                b"\r\n" => self.state = State::Done,
                [line @ .., b'\r', b'\n'] => fields::trailer(line)?,
                _ => return Err(Refusal::BareLf),
            }
        }
        Ok(taken)
    }
}
