//! How much of the client's body has come, told apart from what a retry sends again.

use bytes::Bytes;

/// Counts a body that each attempt sends from its first octet.
#[derive(Debug, Default)]
pub(crate) struct BodyIn {
    received: u64,
    sent: u64,
}

impl BodyIn {
    /// Octets that the client sent.
    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    /// A new attempt sends the held body from the start.
    pub(crate) fn begin_attempt(&mut self) {
        self.sent = 0;
    }

    /// Takes in a chunk on its way upstream; gives the part of it that no attempt before has sent.
    pub(crate) fn pass(&mut self, chunk: &Bytes) -> Bytes {
        self.sent += chunk.len() as u64;
        let fresh = self.sent.saturating_sub(self.received);
        self.received = self.received.max(self.sent);
        let known = chunk.len().saturating_sub(usize::try_from(fresh).unwrap_or(usize::MAX));
        chunk.slice(known..)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_again_is_not_counted_again() {
        let mut body = BodyIn::default();
        body.begin_attempt();
        assert_eq!(body.pass(&Bytes::from_static(b"abc")), "abc");
        body.begin_attempt();
        assert_eq!(body.pass(&Bytes::from_static(b"ab")), "");
        assert_eq!(body.pass(&Bytes::from_static(b"cde")), "de", "a chunk half new");
        assert_eq!(body.pass(&Bytes::from_static(b"f")), "f");
        assert_eq!(body.received(), 6);
    }
}
