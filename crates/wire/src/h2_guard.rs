//! Watches the frames of an HTTP/2 connection for abuse, below the codec: each frame costs a few instructions here, before
//! the codec has spent anything on it. It reads frame headers only and jumps over payloads.

use std::time::Duration;

/// What a peer did too much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum H2Abuse {
    /// RST_STREAM right after HEADERS, again and again (CVE-2023-44487).
    RapidReset,
    /// Frames that make *us* reset streams (CVE-2025-8671).
    MadeYouReset,
    /// Header blocks in endless CONTINUATION frames (CVE-2024-27316 and kin).
    Continuation,
    Settings,
    Ping,
    Priority,
    /// DATA, HEADERS or CONTINUATION frames without content (CVE-2019-9518).
    EmptyFrames,
    WindowUpdate,
    /// Frames of types that RFC 9113 does not define: they are ignored (§5.5), and yet cost (§10.5). And GOAWAY, of which one
    /// is enough.
    OtherFrames,
    /// A frame beyond SETTINGS_MAX_FRAME_SIZE (RFC 9113 §4.2).
    FrameTooLarge,
}

impl H2Abuse {
    pub const ALL: &[Self] = &[
        Self::RapidReset,
        Self::MadeYouReset,
        Self::Continuation,
        Self::Settings,
        Self::Ping,
        Self::Priority,
        Self::EmptyFrames,
        Self::WindowUpdate,
        Self::OtherFrames,
        Self::FrameTooLarge,
    ];

    /// Metric label and log field.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RapidReset => "h2_rapid_reset",
            Self::MadeYouReset => "h2_made_you_reset",
            Self::Continuation => "h2_continuation_flood",
            Self::Settings => "h2_settings_flood",
            Self::Ping => "h2_ping_flood",
            Self::Priority => "h2_priority_flood",
            Self::EmptyFrames => "h2_empty_frames",
            Self::WindowUpdate => "h2_window_update_flood",
            Self::OtherFrames => "h2_other_frames_flood",
            Self::FrameTooLarge => "h2_frame_too_large",
        }
    }
}

/// A count that leaks with time and with honest work, so that only an excess over both adds up.
#[derive(Debug, Clone, Copy, Default)]
struct Excess {
    level: f64,
    at: Duration,
}

impl Excess {
    fn add(&mut self, now: Duration, leak_per_second: f64) -> f64 {
        let passed = now.saturating_sub(self.at).as_secs_f64();
        self.at = now;
        self.level = (self.level - passed * leak_per_second).max(0.0) + 1.0;
        self.level
    }

    fn forgive(&mut self, work: f64) {
        self.level = (self.level - work).max(0.0);
    }
}

/// The watch over what one client sends.
#[derive(Debug, Default)]
pub struct H2Guard {
    reader: FrameReader,
    resets: Excess,
    server_resets: Excess,
    settings: Excess,
    pings: Excess,
    priorities: Excess,
    empties: Excess,
    windows: Excess,
    others: Excess,
    block_frames: u32,
    block_octets: u64,
    last_stream: u32,
    now: Duration,
}

/// Frames in excess before the connection is cut. Honest clients stay near zero: each leak is far above what one sends.
const EXCESS: f64 = 200.0;
/// An honest client may cancel as often as it asks, for a while: a browser leaving a page resets all it had open.
const RESET_EXCESS: f64 = 400.0;
const WINDOW_EXCESS: f64 = 900.0;
/// CONTINUATION frames and octets of one header block.
const BLOCK_FRAMES: u32 = 32;
const BLOCK_OCTETS: u64 = 256 << 10;
/// SETTINGS_MAX_FRAME_SIZE that we announce: the initial value.
const FRAME_MAX: u32 = 16_384;

mod kind {
    pub(super) const DATA: u8 = 0x0;
    pub(super) const HEADERS: u8 = 0x1;
    pub(super) const PRIORITY: u8 = 0x2;
    pub(super) const RST_STREAM: u8 = 0x3;
    pub(super) const SETTINGS: u8 = 0x4;
    pub(super) const PUSH_PROMISE: u8 = 0x5;
    pub(super) const PING: u8 = 0x6;
    pub(super) const WINDOW_UPDATE: u8 = 0x8;
    pub(super) const CONTINUATION: u8 = 0x9;
}
const END_STREAM: u8 = 0x1;

impl H2Guard {
    /// Sees inbound bytes in any slices, preface included. `now` counts from the connection's start.
    pub fn inbound(&mut self, bytes: &[u8], now: Duration) -> Result<(), H2Abuse> {
        self.now = now;
        let mut at = 0;
        while let Some((frame, taken)) = self.reader.next(bytes.get(at..).unwrap_or_default()) {
            at += taken;
            self.frame(frame)?;
        }
        Ok(())
    }

    /// We reset one of the client's streams: counted against the client.
    pub fn note_server_reset(&mut self) -> Result<(), H2Abuse> {
        over(self.server_resets.add(self.now, 10.0), EXCESS, H2Abuse::MadeYouReset)
    }

    /// The highest stream that the client opened.
    pub fn last_stream(&self) -> u32 {
        self.last_stream
    }

    fn frame(&mut self, frame: Frame) -> Result<(), H2Abuse> {
        let now = self.now;
        if frame.length > FRAME_MAX {
            return Err(H2Abuse::FrameTooLarge);
        }
        match frame.kind {
            kind::DATA => {
                // Upload progress earns window updates nothing, but shows an honest client.
                if frame.length == 0 && frame.flags & END_STREAM == 0 {
                    over(self.empties.add(now, 20.0), EXCESS, H2Abuse::EmptyFrames)?;
                }
            }
            kind::HEADERS => {
                self.block_frames = 0;
                self.block_octets = u64::from(frame.length);
                if frame.stream > self.last_stream {
                    self.last_stream = frame.stream;
                    // A request may be cancelled, and may need its windows opened: half of them in the long run.
                    self.resets.forgive(0.5);
                    self.windows.forgive(8.0);
                    self.pings.forgive(0.2);
                }
                if frame.length == 0 {
                    over(self.empties.add(now, 20.0), EXCESS, H2Abuse::EmptyFrames)?;
                }
            }
            kind::CONTINUATION => {
                self.block_frames += 1;
                self.block_octets += u64::from(frame.length);
                if self.block_frames > BLOCK_FRAMES || self.block_octets > BLOCK_OCTETS {
                    return Err(H2Abuse::Continuation);
                }
                if frame.length == 0 {
                    over(self.empties.add(now, 20.0), EXCESS, H2Abuse::EmptyFrames)?;
                }
            }
            kind::RST_STREAM => over(self.resets.add(now, 50.0), RESET_EXCESS, H2Abuse::RapidReset)?,
            kind::SETTINGS => over(self.settings.add(now, 5.0), EXCESS, H2Abuse::Settings)?,
            kind::PING => over(self.pings.add(now, 20.0), EXCESS, H2Abuse::Ping)?,
            kind::PRIORITY => over(self.priorities.add(now, 50.0), EXCESS, H2Abuse::Priority)?,
            kind::WINDOW_UPDATE => over(self.windows.add(now, 2_000.0), WINDOW_EXCESS, H2Abuse::WindowUpdate)?,
            // The first one of a client ends the connection (RFC 9113 §8.4); the codec sees to it.
            kind::PUSH_PROMISE => {}
            // Extensions, and frames that only keep extensions possible: browsers send one or two a connection.
            _ => over(self.others.add(now, 5.0), EXCESS, H2Abuse::OtherFrames)?,
        }
        Ok(())
    }
}

fn over(level: f64, most: f64, abuse: H2Abuse) -> Result<(), H2Abuse> {
    if level > most { Err(abuse) } else { Ok(()) }
}

#[derive(Debug, Clone, Copy)]
struct Frame {
    length: u32,
    kind: u8,
    flags: u8,
    stream: u32,
}

/// Cuts a byte stream into frame headers (RFC 9113 §4.1).
#[derive(Debug)]
struct FrameReader {
    preface_left: usize,
    payload_left: usize,
    header: [u8; 9],
    have: usize,
}

const PREFACE: usize = 24;

impl Default for FrameReader {
    fn default() -> Self {
        Self { preface_left: PREFACE, payload_left: 0, header: [0; 9], have: 0 }
    }
}

impl FrameReader {
    /// A stream without a preface: what a server sends.
    fn server() -> Self {
        Self { preface_left: 0, ..Self::default() }
    }

    /// The next complete frame header in `bytes` and how many octets were used. `None`: all were used, none complete.
    fn next(&mut self, bytes: &[u8]) -> Option<(Frame, usize)> {
        let skipped = (self.preface_left + self.payload_left).min(bytes.len());
        let of_preface = self.preface_left.min(skipped);
        self.preface_left -= of_preface;
        self.payload_left -= skipped - of_preface;
        let rest = bytes.get(skipped..)?;
        let wanted = self.header.len() - self.have;
        let taken = wanted.min(rest.len());
        self.header.get_mut(self.have..self.have + taken)?.copy_from_slice(rest.get(..taken)?);
        self.have += taken;
        if self.have < self.header.len() {
            return None;
        }
        self.have = 0;
        let [l2, l1, l0, kind, flags, s3, s2, s1, s0] = self.header;
        let length = u32::from_be_bytes([0, l2, l1, l0]);
        self.payload_left = length as usize;
        Some((Frame { length, kind, flags, stream: u32::from_be_bytes([s3 & 0x7f, s2, s1, s0]) }, skipped + taken))
    }

    fn at_boundary(&self) -> bool {
        self.preface_left == 0 && self.payload_left == 0 && self.have == 0
    }
}

/// Follows what we send, to know where a frame of our own may go in between.
#[derive(Debug)]
pub struct OutboundFrames {
    reader: FrameReader,
    resets: u64,
}

impl Default for OutboundFrames {
    fn default() -> Self {
        Self { reader: FrameReader::server(), resets: 0 }
    }
}

impl OutboundFrames {
    pub fn advance(&mut self, bytes: &[u8]) {
        let mut at = 0;
        while let Some((frame, taken)) = self.reader.next(bytes.get(at..).unwrap_or_default()) {
            at += taken;
            if frame.kind == kind::RST_STREAM {
                self.resets += 1;
            }
        }
    }

    pub fn at_boundary(&self) -> bool {
        self.reader.at_boundary()
    }

    /// RST_STREAM frames sent so far.
    pub fn resets(&self) -> u64 {
        self.resets
    }
}

/// A whole GOAWAY frame (RFC 9113 §6.8).
pub fn goaway_frame(last_stream: u32, code: u32) -> [u8; 17] {
    let mut frame = [0; 17];
    frame[2] = 8;
    frame[3] = 0x7;
    frame[9..13].copy_from_slice(&(last_stream & 0x7fff_ffff).to_be_bytes());
    frame[13..].copy_from_slice(&code.to_be_bytes());
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: usize) -> Vec<u8> {
        let mut bytes = vec![0, (payload >> 8) as u8, payload as u8, kind, flags];
        bytes.extend(stream.to_be_bytes());
        bytes.resize(9 + payload, 0);
        bytes
    }

    /// Feeds the frames of each round at a pace; gives the number of frames until the cut.
    fn frames_until_cut(mut round: impl FnMut(u32) -> Vec<u8>, rounds: u32, per_second: u32) -> Option<(u32, H2Abuse)> {
        let mut guard = H2Guard::default();
        guard.inbound(&[b'x'; 24], Duration::ZERO).unwrap();
        for n in 0..rounds {
            let now = Duration::from_secs_f64(f64::from(n) / f64::from(per_second));
            if let Err(abuse) = guard.inbound(&round(n), now) {
                return Some((n, abuse));
            }
        }
        None
    }

    #[test]
    fn each_flood_is_cut_within_a_thousand_frames() {
        let cases: [(H2Abuse, fn(u32) -> Vec<u8>); 10] = [
            (H2Abuse::RapidReset, |n| [frame(1, 5, n * 2 + 1, 20), frame(3, 0, n * 2 + 1, 4)].concat()),
            (H2Abuse::Settings, |_| frame(4, 0, 0, 6)),
            (H2Abuse::Ping, |_| frame(6, 0, 0, 8)),
            (H2Abuse::Priority, |n| frame(2, 0, n * 2 + 1, 5)),
            (H2Abuse::EmptyFrames, |_| frame(0, 0, 1, 0)),
            (H2Abuse::WindowUpdate, |_| frame(8, 0, 0, 4)),
            (H2Abuse::Continuation, |_| frame(9, 0, 1, 100)),
            (H2Abuse::OtherFrames, |n| frame(0xa + n.to_be_bytes()[3] % 0xf0, 0, n, 5)),
            (H2Abuse::OtherFrames, |_| frame(7, 0, 0, 8)),
            (H2Abuse::FrameTooLarge, |_| vec![0, 0x40, 1, 0, 0, 0, 0, 0, 1]),
        ];
        for (expected, round) in cases {
            let (frames, abuse) = frames_until_cut(round, 10_000, 100_000).unwrap_or_else(|| panic!("{expected:?}"));
            assert!(abuse == expected && frames < 1_000, "{expected:?}: {abuse:?} after {frames}");
        }
    }

    /// Frames of unknown types are ignored, so a peer may use extensions that we do not know.
    #[test]
    fn rfc9113_5_5_a_few_frames_of_unknown_types_are_no_abuse() {
        let grease = |n: u32| [frame(0x0b + 0x1f * (n % 5) as u8, 0xff, 0, 30), frame(1, 5, n * 2 + 1, 60)].concat();
        assert_eq!(frames_until_cut(grease, 150, 100_000), None, "in a burst");
        assert_eq!(frames_until_cut(grease, 100_000, 4), None, "for hours");
    }

    /// Features that cost the receiver may be counted and the connection ended with ENHANCE_YOUR_CALM.
    #[test]
    fn rfc9113_10_5_frames_of_unknown_types_without_end_are_abuse() {
        let cut = frames_until_cut(|_| frame(0xbe, 0, 0, 0), 200_000, 1_000_000);
        assert_eq!(cut, Some((200, H2Abuse::OtherFrames)));
    }

    #[test]
    fn a_busy_honest_client_is_never_cut() {
        let round = |n: u32| {
            let mut bytes = frame(1, 5, n * 2 + 1, 60);
            bytes.extend(frame(8, 0, n * 2 + 1, 4));
            bytes.extend(frame(8, 0, 0, 4));
            if n.is_multiple_of(20) {
                bytes.extend(frame(3, 0, n * 2 + 1, 4));
            }
            if n.is_multiple_of(100) {
                bytes.extend(frame(6, 0, 0, 8));
            }
            bytes
        };
        assert_eq!(frames_until_cut(round, 100_000, 10_000), None);
    }

    #[test]
    fn a_browser_that_leaves_a_page_may_cancel_all_it_had_open() {
        let mut guard = H2Guard::default();
        guard.inbound(&[b'x'; 24], Duration::ZERO).unwrap();
        for page in 0..20 {
            for stream in 0..100 {
                guard
                    .inbound(&frame(1, 5, page * 200 + stream * 2 + 1, 30), Duration::from_secs(u64::from(page) * 3))
                    .unwrap();
            }
            for stream in 0..100 {
                guard
                    .inbound(&frame(3, 0, page * 200 + stream * 2 + 1, 4), Duration::from_secs(u64::from(page) * 3))
                    .unwrap();
            }
        }
    }

    #[test]
    fn frames_are_found_however_the_bytes_are_split() {
        let mut stream = vec![b'x'; 24];
        stream.extend((0..50).flat_map(|n| frame(6, 0, 0, n)));
        stream.extend(frame(1, 4, 77, 10));
        for step in 1..40 {
            let mut guard = H2Guard::default();
            for part in stream.chunks(step) {
                guard.inbound(part, Duration::ZERO).unwrap();
            }
            assert_eq!((guard.last_stream(), guard.reader.at_boundary()), (77, true), "{step}");
        }
    }

    #[test]
    fn streams_that_we_must_reset_count_against_the_client() {
        let mut guard = H2Guard::default();
        let cut = (0..1_000).position(|_| guard.note_server_reset().is_err());
        assert!(cut.is_some_and(|frames| frames < 1_000));
    }

    #[test]
    fn a_goaway_of_ours_fits_only_between_frames() {
        let mut out = OutboundFrames::default();
        assert!(out.at_boundary());
        out.advance(&frame(0, 0, 1, 100)[..50]);
        assert!(!out.at_boundary());
        out.advance(&frame(0, 0, 1, 100)[50..]);
        out.advance(&frame(3, 0, 1, 4));
        assert!(out.at_boundary() && out.resets() == 1);
        assert_eq!(goaway_frame(7, 0xb), [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 11]);
    }
}
