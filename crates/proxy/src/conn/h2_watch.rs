//! Keeps watch over an h2 connection's frames under the engine: abuse is counted before the engine spends on it.

use portcullis_wire::{H2Abuse, H2Guard, OutboundFrames, goaway_frame};
use std::time::Instant;

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

    /// What the client has made us do too often. It need not say more: what it provoked may answer its last word. `None` as
    /// long as a frame of ours is under way, behind which the farewell must go.
    pub(crate) fn provoked(&self) -> Option<H2Abuse> {
        self.made_us_reset.filter(|_| self.out.at_boundary())
    }

    /// The farewell to an abuser, when it can be said without cutting a frame in two.
    pub(crate) fn goaway(&self, abuse: H2Abuse) -> Option<[u8; 17]> {
        self.out.at_boundary().then(|| goaway_frame(self.guard.last_stream(), abuse.code()))
    }

    /// What to send in the place of `bytes`, when they end the connection with PROTOCOL_ERROR and the standard has a more
    /// specific code for it. Only the last octet is another: a part of it sent is a part of both.
    pub(crate) fn specific(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        if !self.out.ends_in_protocol_error(bytes) {
            return None;
        }
        let code = self.guard.only_fault()?;
        let (_, before) = bytes.split_last()?;
        Some([before, &[code as u8]].concat())
    }
}
