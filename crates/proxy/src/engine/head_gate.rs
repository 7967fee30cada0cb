//! Keeps a request's head from the upstream for as long as the request's body is held back: of a request that is refused for
//! its body the upstream sees nothing.
//!
//! Only over HTTP/1.1, where a connection carries one request at a time. On a shared HTTP/2 connection no head can wait: there
//! [`ahead`](super::ahead) looks at the body first.

use pingora::{
    http::ResponseHeader,
    protocols::{Digest, raw_connect::ProxyDigest},
};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// One upstream connection's; open unless told otherwise.
#[derive(Debug, Clone, Default)]
pub(crate) struct HeadGate(Arc<AtomicBool>);

impl HeadGate {
    /// The gate of the connection that a digest is of.
    pub(super) fn of(digest: Option<&Digest>) -> Option<Self> {
        digest?.proxy_digest.as_ref()?.user_data.as_ref()?.downcast_ref::<Self>().cloned()
    }

    /// In the one field of a digest that takes values of our own: there are no CONNECT proxies of pingora's here, whose it is.
    pub(super) fn carried(&self) -> Option<Arc<ProxyDigest>> {
        let response = ResponseHeader::build(200, Some(0)).ok()?;
        Some(Arc::new(ProxyDigest::new(Box::new(response), Some(Box::new(self.clone())))))
    }

    /// What is written from now on waits.
    pub(super) fn close(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// What waited goes out with whatever is written next.
    pub(super) fn open(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    pub(super) fn is_closed(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_is_found_again_in_the_digest_of_its_connection() {
        let gate = HeadGate::default();
        assert!(!gate.is_closed());
        let digest = Digest { proxy_digest: gate.carried(), ..Digest::default() };
        let found = HeadGate::of(Some(&digest)).unwrap();
        found.close();
        assert!(gate.is_closed());
        gate.open();
        assert!(!found.is_closed());
        assert!(HeadGate::of(Some(&Digest::default())).is_none() && HeadGate::of(None).is_none());
    }
}
