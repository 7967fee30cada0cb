//! Whom to ask, how long to wait and how long to believe: a resolver's settings, compiled.

use std::{net::SocketAddr, ops::RangeInclusive, time::Duration};

/// How DNS is asked.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Nameservers {
    pub servers: Servers,
    /// How long one try may take.
    pub timeout: Duration,
    /// Tries of one question, the first included.
    pub attempts: u32,
    /// What TTLs are bent into.
    pub ttl: RangeInclusive<Duration>,
}

/// Who is asked.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Servers {
    /// `/etc/resolv.conf` with its search list, and `/etc/hosts` before it.
    System,
    Listed(Vec<SocketAddr>),
}

impl Default for Nameservers {
    fn default() -> Self {
        Self {
            servers: Servers::System,
            timeout: Duration::from_secs(2),
            attempts: 2,
            ttl: Duration::from_secs(1)..=Duration::from_secs(3_600),
        }
    }
}

impl Nameservers {
    /// A time to live, bent into what is configured.
    pub(crate) fn clamp(&self, ttl: Duration) -> Duration {
        ttl.clamp(*self.ttl.start(), *self.ttl.end())
    }
}
