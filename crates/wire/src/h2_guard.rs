//! Watches the frames of an HTTP/2 connection for abuse, below the codec: each frame costs a few instructions here, before
//! the codec has spent anything on it. It reads frame headers only and jumps over payloads.

use crate::h2_blame::H2Blame;
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
    /// A frame of a length that its type cannot have (RFC 9113 §4.2, §6). No abuse by itself, as what follows: it is told here
    /// because the codec has one code, PROTOCOL_ERROR, for all of it.
    FrameLength,
    /// SETTINGS_INITIAL_WINDOW_SIZE beyond 2^31 - 1 (RFC 9113 §6.5.2).
    WindowTooLarge,
    /// Another setting beyond what it may be.
    BadSetting,
    /// A preface without its SETTINGS (RFC 9113 §3.4), which the codec does not miss.
    NoSettings,
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
        Self::FrameLength,
        Self::WindowTooLarge,
        Self::BadSetting,
        Self::NoSettings,
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
            Self::FrameLength => "h2_frame_length",
            Self::WindowTooLarge => "h2_window_too_large",
            Self::BadSetting => "h2_bad_setting",
            Self::NoSettings => "h2_no_settings",
        }
    }

    /// What GOAWAY calls it.
    pub const fn code(self) -> H2Code {
        match self {
            Self::RapidReset
            | Self::MadeYouReset
            | Self::Continuation
            | Self::Settings
            | Self::Ping
            | Self::Priority
            | Self::EmptyFrames
            | Self::WindowUpdate
            | Self::OtherFrames => H2Code::EnhanceYourCalm,
            Self::FrameTooLarge | Self::FrameLength => H2Code::FrameSize,
            Self::WindowTooLarge => H2Code::FlowControl,
            Self::BadSetting | Self::NoSettings => H2Code::Protocol,
        }
    }
}

/// The codes of RFC 9113 §7 that we have a use for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum H2Code {
    Protocol = 0x1,
    FlowControl = 0x3,
    StreamClosed = 0x5,
    FrameSize = 0x6,
    Compression = 0x9,
    EnhanceYourCalm = 0xb,
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
    greeted: bool,
    /// Of the SETTINGS that is being read.
    values: Option<SettingsValues>,
    blame: H2Blame,
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

pub(crate) mod kind {
    pub(crate) const DATA: u8 = 0x0;
    pub(crate) const HEADERS: u8 = 0x1;
    pub(crate) const PRIORITY: u8 = 0x2;
    pub(crate) const RST_STREAM: u8 = 0x3;
    pub(crate) const SETTINGS: u8 = 0x4;
    pub(crate) const PUSH_PROMISE: u8 = 0x5;
    pub(crate) const PING: u8 = 0x6;
    pub(crate) const GOAWAY: u8 = 0x7;
    pub(crate) const WINDOW_UPDATE: u8 = 0x8;
    pub(crate) const CONTINUATION: u8 = 0x9;
}

mod setting {
    pub(super) const ENABLE_PUSH: u16 = 0x2;
    pub(super) const INITIAL_WINDOW_SIZE: u16 = 0x4;
    pub(super) const MAX_FRAME_SIZE: u16 = 0x5;
    pub(super) const ENABLE_CONNECT_PROTOCOL: u16 = 0x8;
}

pub(crate) mod flag {
    pub(crate) const END_STREAM: u8 = 0x1;
    pub(crate) const ACK: u8 = 0x1;
    pub(crate) const END_HEADERS: u8 = 0x4;
    pub(crate) const PADDED: u8 = 0x8;
    pub(crate) const PRIORITY: u8 = 0x20;
}

impl H2Guard {
    /// Sees inbound bytes in any slices, preface included. `now` counts from the connection's start.
    pub fn inbound(&mut self, bytes: &[u8], now: Duration) -> Result<(), H2Abuse> {
        self.now = now;
        self.blame.begin(self.reader.payload_left > 0);
        let mut at = 0;
        loop {
            let rest = bytes.get(at..).unwrap_or_default();
            let payload = self.reader.payload(rest);
            if let Some(values) = &mut self.values {
                values.read(payload)?;
            }
            self.blame.payload(payload);
            let Some((frame, taken)) = self.reader.next(rest) else { return Ok(()) };
            at += taken;
            self.hold_to_its_form(frame)?;
            self.values = (frame.kind == kind::SETTINGS).then(SettingsValues::default);
            self.blame.note(frame, self.last_stream);
            self.frame(frame)?;
        }
    }

    /// When the codec ends the connection with PROTOCOL_ERROR: the code that the standard has for it.
    pub fn only_fault(&self) -> Option<H2Code> {
        self.blame.only_fault()
    }

    /// We reset one of the client's streams: counted against the client.
    pub fn note_server_reset(&mut self) -> Result<(), H2Abuse> {
        self.blame.note_server_reset();
        over(self.server_resets.add(self.now, 10.0), EXCESS, H2Abuse::MadeYouReset)
    }

    /// The highest stream that the client opened.
    pub fn last_stream(&self) -> u32 {
        self.last_stream
    }

    /// What a frame's header alone shows to be wrong.
    fn hold_to_its_form(&mut self, frame: Frame) -> Result<(), H2Abuse> {
        if frame.length > FRAME_MAX {
            return Err(H2Abuse::FrameTooLarge);
        }
        if !std::mem::replace(&mut self.greeted, true) && frame.kind != kind::SETTINGS {
            return Err(H2Abuse::NoSettings);
        }
        let padding = u32::from(frame.has(flag::PADDED));
        let fits = match frame.kind {
            kind::DATA => frame.length >= padding,
            kind::HEADERS => frame.length >= padding + if frame.has(flag::PRIORITY) { 5 } else { 0 },
            // A stream error, which may be treated as one of the connection (RFC 9113 §5.4.1).
            kind::PRIORITY => frame.length == 5,
            kind::RST_STREAM | kind::WINDOW_UPDATE => frame.length == 4,
            kind::SETTINGS if frame.has(flag::ACK) => frame.length == 0,
            kind::SETTINGS => frame.length.is_multiple_of(6),
            kind::PING => frame.length == 8,
            kind::GOAWAY => frame.length >= 8,
            _ => true,
        };
        if fits { Ok(()) } else { Err(H2Abuse::FrameLength) }
    }

    fn frame(&mut self, frame: Frame) -> Result<(), H2Abuse> {
        let now = self.now;
        match frame.kind {
            kind::DATA => {
                // Upload progress earns window updates nothing, but shows an honest client.
                if frame.length == 0 && !frame.has(flag::END_STREAM) {
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

/// The payload of SETTINGS, however it comes in pieces.
#[derive(Debug, Default)]
struct SettingsValues {
    value: [u8; 6],
    have: usize,
}

impl SettingsValues {
    /// RFC 9113 §6.5.2, RFC 8441 §3: a window beyond 2^31 - 1 is an error of flow control, other wrong values are of protocol.
    fn read(&mut self, payload: &[u8]) -> Result<(), H2Abuse> {
        for octet in payload {
            if let Some(next) = self.value.get_mut(self.have) {
                *next = *octet;
            }
            self.have = (self.have + 1) % self.value.len();
            if self.have == 0 {
                self.hold_value()?;
            }
        }
        Ok(())
    }

    fn hold_value(&self) -> Result<(), H2Abuse> {
        let [n1, n0, v3, v2, v1, v0] = self.value;
        let value = u32::from_be_bytes([v3, v2, v1, v0]);
        match u16::from_be_bytes([n1, n0]) {
            setting::ENABLE_PUSH | setting::ENABLE_CONNECT_PROTOCOL if value > 1 => Err(H2Abuse::BadSetting),
            setting::INITIAL_WINDOW_SIZE if value > (1 << 31) - 1 => Err(H2Abuse::WindowTooLarge),
            setting::MAX_FRAME_SIZE if !(FRAME_MAX..1 << 24).contains(&value) => Err(H2Abuse::BadSetting),
            _ => Ok(()),
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Frame {
    pub(crate) length: u32,
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
}

impl Frame {
    pub(crate) fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// Cuts a byte stream into frame headers (RFC 9113 §4.1).
#[derive(Debug, Clone)]
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

    /// What of `bytes` belongs to the payload of the frame before.
    fn payload<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        bytes.get(..self.payload_left.min(bytes.len())).unwrap_or_default()
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

    /// Whether what is to be sent now ends with a whole GOAWAY of PROTOCOL_ERROR.
    pub fn ends_in_protocol_error(&self, bytes: &[u8]) -> bool {
        let Some((before, goaway)) = bytes.split_last_chunk::<17>() else { return false };
        if !matches!(goaway, [0, 0, 8, kind::GOAWAY, 0, 0, 0, 0, 0, _, _, _, _, 0, 0, 0, 1]) {
            return false;
        }
        // A body may have such octets.
        let (mut reader, mut at) = (self.reader.clone(), 0);
        while let Some((_, taken)) = reader.next(before.get(at..).unwrap_or_default()) {
            at += taken;
        }
        reader.at_boundary()
    }

    /// RST_STREAM frames sent so far.
    pub fn resets(&self) -> u64 {
        self.resets
    }
}

/// A whole GOAWAY frame (RFC 9113 §6.8).
pub fn goaway_frame(last_stream: u32, code: H2Code) -> [u8; 17] {
    let mut frame = [0; 17];
    frame[2] = 8;
    frame[3] = 0x7;
    frame[9..13].copy_from_slice(&(last_stream & 0x7fff_ffff).to_be_bytes());
    frame[13..].copy_from_slice(&(code as u32).to_be_bytes());
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

    /// A preface and its SETTINGS.
    fn greeting() -> Vec<u8> {
        [vec![b'x'; 24], frame(4, 0, 0, 0)].concat()
    }

    /// Feeds the frames of each round at a pace; gives the number of frames until the cut.
    fn frames_until_cut(mut round: impl FnMut(u32) -> Vec<u8>, rounds: u32, per_second: u32) -> Option<(u32, H2Abuse)> {
        let mut guard = H2Guard::default();
        guard.inbound(&greeting(), Duration::ZERO).unwrap();
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
        guard.inbound(&greeting(), Duration::ZERO).unwrap();
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
        let mut stream = greeting();
        stream.extend((0..50).flat_map(|n| frame(0xbe, 0, 0, n)));
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
    fn rfc9113_4_2_a_frame_has_the_length_of_its_type() {
        let check = |kind, flags, length| {
            let mut guard = H2Guard::default();
            guard.inbound(&greeting(), Duration::ZERO).unwrap();
            guard.inbound(&frame(kind, flags, 1, length), Duration::ZERO).err()
        };
        for (kind, flags, right) in [
            (2, 0, &[5][..]),
            (3, 0, &[4]),
            (4, 0, &[0, 6, 12]),
            (4, 1, &[0]),
            (6, 0, &[8]),
            (7, 0, &[8, 9, 10, 11, 12]),
            (8, 0, &[4]),
            (0, 8, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]),
            (1, 0x28, &[6, 7, 8, 9, 10, 11, 12]),
        ] {
            for length in 0..13 {
                let expected = (!right.contains(&length)).then_some(H2Abuse::FrameLength);
                assert_eq!(check(kind, flags, length), expected, "type {kind}, flags {flags:#x}, {length} octets");
            }
        }
        assert_eq!(check(0xbe, 0xff, 7), None, "unknown types have any length");
    }

    #[test]
    fn rfc9113_3_4_the_first_frame_is_settings() {
        let mut guard = H2Guard::default();
        let ping = [vec![b'x'; 24], frame(6, 0, 0, 8)].concat();
        assert_eq!(guard.inbound(&ping, Duration::ZERO), Err(H2Abuse::NoSettings));
        assert_eq!(H2Abuse::NoSettings.code(), H2Code::Protocol);
    }

    #[test]
    fn rfc9113_6_5_2_settings_are_within_their_limits() {
        let (too_large, bad) = (Err(H2Abuse::WindowTooLarge), Err(H2Abuse::BadSetting));
        for (setting, value, expected) in [
            (1_u16, u32::MAX, Ok(())),
            (2, 1, Ok(())),
            (2, 2, bad),
            (3, u32::MAX, Ok(())),
            (4, (1 << 31) - 1, Ok(())),
            (4, 1 << 31, too_large),
            (5, 16_383, bad),
            (5, 16_384, Ok(())),
            (5, (1 << 24) - 1, Ok(())),
            (5, 1 << 24, bad),
            (6, 0, Ok(())),
            (8, 1, Ok(())),
            (8, 2, bad),
            (0xbeef, u32::MAX, Ok(())),
        ] {
            let mut settings = frame(4, 0, 0, 12);
            settings[15..21].copy_from_slice(&[&setting.to_be_bytes()[..], &value.to_be_bytes()].concat());
            let whole = [vec![b'x'; 24], settings].concat();
            for step in 1..whole.len() {
                let mut guard = H2Guard::default();
                let outcome = whole.chunks(step).try_for_each(|part| guard.inbound(part, Duration::ZERO));
                assert_eq!(outcome, expected, "{setting}: {value}, {step} octets at a time");
            }
        }
    }

    #[test]
    fn a_goaway_at_the_end_is_told_from_a_body_that_looks_like_one() {
        let goaway = goaway_frame(7, H2Code::Protocol);
        let body = [&frame(0, 0, 1, 17)[..9], &goaway].concat();
        let out = OutboundFrames::default();
        assert!(out.ends_in_protocol_error(&goaway));
        assert!(out.ends_in_protocol_error(&[&frame(3, 0, 1, 4)[..], &goaway].concat()));
        assert!(out.ends_in_protocol_error(&[&body[..], &goaway].concat()));
        assert!(!out.ends_in_protocol_error(&body));
        assert!(!out.ends_in_protocol_error(&goaway_frame(7, H2Code::FrameSize)));
        let mut within = OutboundFrames::default();
        within.advance(&body[..9]);
        assert!(!within.ends_in_protocol_error(&goaway));
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
        assert_eq!(goaway_frame(7, H2Code::EnhanceYourCalm), [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 11]);
    }
}
