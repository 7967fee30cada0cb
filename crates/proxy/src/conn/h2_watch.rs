//! Keeps watch over an h2 connection's frames under the engine: abuse is counted before the engine spends on it.

use portcullis_wire::{H2Abuse, H2Guard, OutboundFrames, goaway_frame};
use std::time::Instant;

/// RFC 9113 §7.
const ENHANCE_YOUR_CALM: u32 = 0xb;

/// Both directions of one h2 connection.
pub(crate) struct H2Watch {
    guard: H2Guard,
    out: OutboundFrames,
    server_resets: u64,
    made_us_reset: Option<H2Abuse>,
    born: Instant,
}

impl H2Watch {
    pub(crate) fn new(guard: H2Guard, now: Instant) -> Self {
        Self { guard, out: OutboundFrames::default(), server_resets: 0, made_us_reset: None, born: now }
    }

    /// Sees bytes before the engine does.
    pub(crate) fn inbound(&mut self, bytes: &[u8], now: Instant) -> Option<H2Abuse> {
        let passed = self.guard.inbound(bytes, now.saturating_duration_since(self.born));
        passed.err().or(self.made_us_reset)
    }

    /// Sees bytes that were sent. Streams that we had to reset count against the client (MadeYouReset, CVE-2025-8671).
    pub(crate) fn outbound(&mut self, bytes: &[u8]) {
        self.out.advance(bytes);
        while self.server_resets < self.out.resets() {
            self.server_resets += 1;
            if let Err(abuse) = self.guard.note_server_reset() {
                self.made_us_reset = Some(abuse);
            }
        }
    }

    /// The farewell to an abuser, when it can be said without cutting a frame in two.
    pub(crate) fn goaway(&self) -> Option<[u8; 17]> {
        self.out.at_boundary().then(|| goaway_frame(self.guard.last_stream(), ENHANCE_YOUR_CALM))
    }
}
