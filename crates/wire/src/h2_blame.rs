//! Finds the code of an error that the codec has no word for. It ends a connection with PROTOCOL_ERROR where RFC 9113 demands
//! COMPRESSION_ERROR (§4.3) or STREAM_CLOSED (§5.1); what it was given last often can be at fault in one way only. It judges
//! nothing and lets nothing pass: at worst the code stays what it was.

use crate::{
    h2_guard::{Frame, H2Code, flag, kind},
    hpack_form::{Form, form},
};

/// What the frames of the last read can be blamed for.
#[derive(Debug, Default)]
pub(crate) struct H2Blame {
    /// Of the frames that ended in this read.
    all: Suspicion,
    /// Of the newest frame.
    newest: Suspicion,
    /// The stream whose header block is unfinished, and what its begin can be blamed for.
    block: Option<(u32, Suspicion)>,
    /// Whether the client has said all that it may on its newest stream.
    ended: bool,
    /// Whether a stream was reset by us: the codec forgets them, and takes what follows on them for new.
    resets: bool,
    /// Header blocks that ended in this read, and the one that has not; where each begins.
    octets: Vec<u8>,
    begins: Vec<usize>,
    in_head: bool,
}

/// What is kept of header blocks until the codec has seen them. Those of an honest client are far smaller.
const OCTETS_MOST: usize = 64 << 10;
/// A buffer that is worth keeping.
const OCTETS_KEPT: usize = 2 << 10;

/// The ways in which frames can have made the codec say PROTOCOL_ERROR.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Suspicion {
    /// A header block that cannot be decoded.
    block: bool,
    /// A stream on which the client has nothing more to say.
    closed: bool,
    /// Something of which PROTOCOL_ERROR may be the right word.
    other: bool,
}

impl Suspicion {
    const NONE: Self = Self { block: false, closed: false, other: false };
    const BLOCK: Self = Self { block: true, ..Self::NONE };
    const CLOSED: Self = Self { closed: true, ..Self::NONE };
    const OTHER: Self = Self { other: true, ..Self::NONE };

    fn and(self, more: Self) -> Self {
        Self { block: self.block || more.block, closed: self.closed || more.closed, other: self.other || more.other }
    }
}

impl H2Blame {
    /// A new read: the codec has worked off all but a frame that is not whole.
    pub(crate) fn begin(&mut self, unfinished: bool) {
        let unfinished_head = self.block.is_some() || (unfinished && self.in_head);
        self.all = if unfinished || unfinished_head { self.newest } else { Suspicion::NONE };
        if unfinished_head {
            let begin = self.begins.last().copied().unwrap_or_default();
            self.octets.drain(..begin.min(self.octets.len()));
            self.begins = vec![0];
        } else if !self.begins.is_empty() {
            self.begins.clear();
            self.octets.clear();
            self.octets.shrink_to(OCTETS_KEPT);
        }
    }

    /// What of the newest frame's payload has come.
    pub(crate) fn payload(&mut self, octets: &[u8]) {
        if !self.in_head || octets.is_empty() {
            return;
        }
        if self.octets.len().saturating_add(octets.len()) > OCTETS_MOST {
            self.newest = Suspicion::OTHER;
            self.all = self.all.and(Suspicion::OTHER);
            return;
        }
        self.octets.extend_from_slice(octets);
    }

    /// We reset a stream.
    pub(crate) fn note_server_reset(&mut self) {
        self.resets = true;
    }

    /// `last_stream` is the newest stream before this frame.
    pub(crate) fn note(&mut self, frame: Frame, last_stream: u32) {
        self.in_head = matches!(frame.kind, kind::HEADERS | kind::CONTINUATION);
        if frame.kind == kind::HEADERS {
            self.begins.push(self.octets.len());
        }
        self.newest = self.suspicion(frame, last_stream);
        self.all = self.all.and(self.newest);
        let is_new = frame.kind == kind::HEADERS && frame.stream > last_stream;
        let ends = match frame.kind {
            kind::DATA | kind::HEADERS => frame.has(flag::END_STREAM),
            kind::RST_STREAM => true,
            _ => false,
        };
        if is_new {
            self.ended = ends;
        } else if frame.stream == last_stream {
            self.ended |= ends;
        }
    }

    pub(crate) fn only_fault(&self) -> Option<H2Code> {
        match (self.all, self.first_fault()) {
            (Suspicion { other: true, .. }, _) => None,
            (Suspicion { block: true, .. }, Form::Broken) => Some(H2Code::Compression),
            // The codec has the same word for a field that cannot be, and there it is the right one (RFC 9113 §8.1.1).
            (Suspicion { block: true, .. }, Form::Malformed) => None,
            (Suspicion { closed: true, .. }, _) => Some(H2Code::StreamClosed),
            (Suspicion { block: true, .. }, Form::Sound) => Some(H2Code::Compression),
            (Suspicion { block: false, closed: false, other: false }, _) => None,
        }
    }

    fn first_fault(&self) -> Form {
        let ends = self.begins.iter().skip(1).copied().chain([self.octets.len()]);
        let blocks = self.begins.iter().zip(ends).map(|(begin, end)| self.octets.get(*begin..end).unwrap_or_default());
        blocks.map(form).find(|form| *form != Form::Sound).unwrap_or(Form::Sound)
    }

    fn suspicion(&mut self, frame: Frame, last_stream: u32) -> Suspicion {
        if let Some((stream, suspicion)) = self.block {
            if frame.kind != kind::CONTINUATION || frame.stream != stream {
                return Suspicion::OTHER;
            }
            if frame.has(flag::END_HEADERS) {
                self.block = None;
            }
            return suspicion;
        }
        let of_client = frame.stream % 2 == 1;
        match frame.kind {
            kind::HEADERS => {
                let suspicion = self.of_head(frame, last_stream);
                if !frame.has(flag::END_HEADERS) {
                    self.block = Some((frame.stream, suspicion));
                }
                suspicion
            }
            // How long padding claims to be stands in the payload.
            kind::DATA if of_client && frame.stream <= last_stream && !frame.has(flag::PADDED) => {
                if frame.stream == last_stream && !self.ended { Suspicion::NONE } else { Suspicion::CLOSED }
            }
            kind::PING if frame.stream == 0 => Suspicion::NONE,
            // Their values are the guard's to refuse.
            kind::SETTINGS if frame.stream == 0 && !frame.has(flag::ACK) => Suspicion::NONE,
            kind::PRIORITY if frame.stream != 0 => Suspicion::NONE,
            kind::RST_STREAM if of_client && frame.stream <= last_stream => Suspicion::NONE,
            kind::DATA..=kind::CONTINUATION => Suspicion::OTHER,
            // Unknown types are jumped over (RFC 9113 §5.5).
            _ => Suspicion::NONE,
        }
    }

    fn of_head(&self, frame: Frame, last_stream: u32) -> Suspicion {
        let of_client = frame.stream % 2 == 1;
        // What is in front of the block stands in its payload.
        if !of_client || frame.has(flag::PADDED | flag::PRIORITY) || frame.stream < last_stream {
            return Suspicion::OTHER;
        }
        match frame.stream == last_stream {
            false => Suspicion::BLOCK,
            true if self.ended => Suspicion::CLOSED,
            // Trailers that do not end, and those of a stream that we have reset.
            true if self.resets || !frame.has(flag::END_STREAM) => Suspicion::OTHER,
            true => Suspicion::BLOCK,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32) -> Frame {
        Frame { length: 8, kind, flags, stream }
    }

    /// The code after reads of these frames, the newest stream being followed as the guard does.
    fn code(reads: &[&[Frame]]) -> Option<H2Code> {
        let (mut blame, mut last) = (H2Blame::default(), 0);
        for frames in reads {
            blame.begin(false);
            for frame in *frames {
                blame.note(*frame, last);
                if frame.kind == kind::HEADERS {
                    last = last.max(frame.stream);
                }
            }
        }
        blame.only_fault()
    }

    #[test]
    fn a_field_that_cannot_be_is_no_error_of_compression() {
        let ended = |block: &[u8], cut: usize| {
            let mut blame = H2Blame::default();
            blame.begin(false);
            blame.note(frame(kind::HEADERS, flag::END_HEADERS, 1), 0);
            blame.payload(&[0x82]);
            blame.note(frame(kind::HEADERS, flag::END_HEADERS, 3), 1);
            blame.payload(&block[..cut]);
            blame.begin(true);
            blame.payload(&block[cut..]);
            blame.only_fault()
        };
        for cut in 0..5 {
            assert_eq!(ended(&[0, 1, b'X', 1, b'v'], cut), None, "{cut}");
            assert_eq!(ended(&[0, 1, b'x', 9, b'v'], cut), Some(H2Code::Compression), "{cut}");
            assert_eq!(ended(&[0, 1, b'x', 1, b'v', 0xbe], cut), Some(H2Code::Compression), "{cut}");
        }
        let mut blame = H2Blame::default();
        blame.note(frame(kind::HEADERS, flag::END_HEADERS, 1), 0);
        for _ in 0..5 {
            blame.payload(&[0; 16_384]);
        }
        assert_eq!((blame.only_fault(), blame.octets.len()), (None, OCTETS_MOST), "what is not kept is not judged");
    }

    #[test]
    fn what_can_be_at_fault_in_one_way_only_is_called_so() {
        let (whole, open) = (flag::END_HEADERS | flag::END_STREAM, flag::END_HEADERS);
        let head = |flags, stream| frame(kind::HEADERS, flags, stream);
        let compression = Some(H2Code::Compression);
        let closed = Some(H2Code::StreamClosed);
        let cases: &[(&str, &[&[Frame]], Option<H2Code>)] = &[
            ("a head", &[&[head(whole, 1)]], compression),
            ("two heads", &[&[head(whole, 1), head(whole, 3)]], compression),
            ("a head and a ping", &[&[head(whole, 1), frame(kind::PING, 0, 0)]], compression),
            ("a head and an unknown frame", &[&[head(whole, 1), frame(0xbe, 0, 0)]], compression),
            ("trailers", &[&[head(open, 1)], &[head(whole, 1)]], compression),
            ("a block in parts", &[&[head(0, 1)], &[frame(kind::CONTINUATION, 4, 1)]], compression),
            ("DATA of a stream that ended", &[&[head(whole, 1)], &[frame(kind::DATA, 0, 1)]], closed),
            ("DATA of an older stream", &[&[head(whole, 1), head(open, 3)], &[frame(kind::DATA, 0, 1)]], closed),
            ("HEADERS of a stream that ended", &[&[head(whole, 1)], &[head(whole, 1)]], closed),
            ("HEADERS after RST_STREAM", &[&[head(open, 1), frame(kind::RST_STREAM, 0, 1)], &[head(whole, 1)]], closed),
            ("a head and DATA of its stream", &[&[head(open, 1), frame(kind::DATA, 0, 1)]], compression),
            ("a head that ends and DATA of its stream", &[&[head(whole, 1), frame(kind::DATA, 0, 1)]], closed),
            ("trailers that do not end", &[&[head(open, 1)], &[head(open, 1)]], None),
            ("a head and settings", &[&[frame(kind::SETTINGS, 0, 0), head(whole, 1)]], compression),
            ("a head and an acknowledgement", &[&[head(whole, 1), frame(kind::SETTINGS, 1, 0)]], None),
            ("a head and a window update", &[&[head(whole, 1), frame(kind::WINDOW_UPDATE, 0, 0)]], None),
            ("a head with padding", &[&[head(whole | flag::PADDED, 1)]], None),
            ("a head of an even stream", &[&[head(whole, 2)]], None),
            ("a head of stream 0", &[&[head(whole, 0)]], None),
            ("a head of an older stream", &[&[head(whole, 3)], &[head(whole, 1)]], None),
            ("DATA of an idle stream", &[&[frame(kind::DATA, 0, 1)]], None),
            ("a ping in a block", &[&[head(0, 1)], &[frame(kind::PING, 0, 0)]], None),
            ("another stream's part of a block", &[&[head(0, 1)], &[frame(kind::CONTINUATION, 4, 3)]], None),
            ("a part of no block", &[&[frame(kind::CONTINUATION, 4, 1)]], None),
            ("nothing", &[&[head(whole, 1)], &[]], None),
        ];
        for (name, reads, expected) in cases {
            assert_eq!(code(reads), *expected, "{name}");
        }
    }
}
