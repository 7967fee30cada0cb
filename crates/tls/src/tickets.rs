//! Session tickets: who may resume what, and for how long. The keys never leave the process.

use rustls::{Error, crypto::aws_lc_rs, pki_types::UnixTime, server::ProducesTickets};
use std::sync::{Arc, PoisonError, RwLock};

/// Tickets of a listener that asks nobody for a certificate: rustls' own ticketer, which changes its key every six hours
/// and takes the key before for six hours more.
pub(crate) fn anonymous() -> Result<Arc<dyn ProducesTickets>, Error> {
    aws_lc_rs::Ticketer::new()
}

/// Tickets of a listener that checks client certificates.
///
/// A resumed session gets new tickets without a look at the certificate, so with overlapping keys a client could go on
/// for ever after its certificate expired. RFC 8446 §4.6.1 asks to limit the total lifetime by the peer's certificate.
/// Here every key ends hard: six hours at most, then all clients show their certificates again.
#[derive(Debug)]
pub(crate) struct ClientTickets(RwLock<Keys>);

#[derive(Debug)]
struct Keys {
    ticketer: Arc<dyn ProducesTickets>,
    /// Seconds since 1970.
    since: u64,
}

const KEY_SECONDS: u32 = 6 * 3_600;

impl ClientTickets {
    pub(crate) fn new(now: UnixTime) -> Result<Self, Error> {
        Ok(Self(RwLock::new(Keys { ticketer: aws_lc_rs::Ticketer::new()?, since: now.as_secs() })))
    }

    /// `None` without random numbers for a new key: then nobody resumes (fail closed).
    fn current(&self, now: UnixTime) -> Option<Arc<dyn ProducesTickets>> {
        let is_over = |keys: &Keys| now.as_secs().saturating_sub(keys.since) >= u64::from(KEY_SECONDS);
        {
            let keys = self.0.read().unwrap_or_else(PoisonError::into_inner);
            if !is_over(&keys) {
                return Some(keys.ticketer.clone());
            }
        }
        let mut keys = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if is_over(&keys) {
            *keys = Keys { ticketer: aws_lc_rs::Ticketer::new().ok()?, since: now.as_secs() };
        }
        Some(keys.ticketer.clone())
    }
}

impl ProducesTickets for ClientTickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        KEY_SECONDS
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.current(UnixTime::now())?.encrypt(plain)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.current(UnixTime::now())?.decrypt(cipher)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn tickets_of_checked_clients_end_with_their_key() {
        let at = |seconds: u64| UnixTime::since_unix_epoch(Duration::from_secs(1_000_000 + seconds));
        let tickets = ClientTickets::new(at(0)).unwrap();
        let ticket = tickets.current(at(1)).unwrap().encrypt(b"session").unwrap();
        let taken = |seconds: u64| tickets.current(at(seconds)).unwrap().decrypt(&ticket).is_some();
        assert!(taken(0) && taken(6 * 3_600 - 1));
        assert!(!taken(6 * 3_600), "the key before is not kept");
        assert!(!taken(1), "nor does it come back when the clock is set back");
    }
}
