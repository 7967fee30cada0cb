//! Who is at the other end of a connection, kept for as long as the connection may be asked about.

use crate::conn::ConnFacts;
use portcullis_egress::{Caller, CallerName};
use std::net::{IpAddr, Ipv4Addr};

/// Everything that is known of a caller.
#[derive(Debug, Clone)]
pub(crate) struct CallerFacts {
    address: IpAddr,
    spiffe: Option<String>,
    certificate_names: Vec<String>,
    user: Option<String>,
    uid: Option<u32>,
    cgroup: Option<String>,
}

impl CallerFacts {
    /// `user`: after the password was checked.
    pub(crate) fn new(facts: &ConnFacts, user: Option<String>) -> Self {
        let identity = facts.tls.as_ref().and_then(|tls| tls.identity.as_ref());
        let process = facts.process();
        Self {
            // A unix socket has no address: whoever may open it is local.
            address: facts.source.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |source| source.ip()),
            spiffe: identity.and_then(|identity| identity.spiffe.clone()),
            certificate_names: identity.map(|identity| identity.dns.clone()).unwrap_or_default(),
            user,
            uid: process.map(|process| process.uid),
            cgroup: process.and_then(|process| process.cgroup.clone()),
        }
    }

    pub(crate) fn borrow(&self) -> Caller<'_> {
        Caller {
            address: self.address,
            spiffe: self.spiffe.as_deref(),
            certificate_names: &self.certificate_names,
            user: self.user.as_deref(),
            uid: self.uid,
            cgroup: self.cgroup.as_deref(),
        }
    }

    pub(crate) fn address(&self) -> IpAddr {
        self.address
    }

    pub(crate) fn user(&self) -> Option<String> {
        self.user.clone()
    }

    pub(crate) fn name(&self) -> CallerName {
        self.borrow().name()
    }
}
