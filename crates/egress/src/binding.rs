//! The names of one flow must be one name: of policy, tunnel, ClientHello, Host, and of what we resolved.
//!
//! Any two that differ are a way out: a tunnel to an allowed name with another server's hello inside, an allowed hello with
//! another site's Host (domain fronting), an allowed name that leads to an address of the client's choosing. Pure: facts
//! in, [`Binding`] out. Reading the facts is `protocol` and the caller's; dialling is [`crate::dial`].

use crate::{
    Host, Permit, Reason, Resolved, Target, TlsMode,
    protocol::{Ech, FirstOctets, Hello, Protocol},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How strictly names must agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Bind {
    #[default]
    Strict,
    /// Differences are counted and let through.
    Report,
    /// Nothing is compared but the name that was resolved, which is never a matter of choice.
    Off,
}

/// What becomes of a ClientHello with `encrypted_client_hello`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EchPolicy {
    /// Refused, also where it is only GREASE: the two look the same.
    #[default]
    Deny,
    /// Taken when the name in the clear is the one asked for.
    OuterListed,
    /// Taken, whatever the name in the clear.
    Allow,
}

/// The outcome of comparing.
#[derive(Debug)]
pub enum Binding {
    Bound(Bound),
    /// Names differ, and the destination only reports that.
    Reported(Bound, Reason),
    Refused(Reason),
}

/// A flow whose names were compared. Credentials are added to nothing else.
#[derive(Debug, Clone)]
pub struct Bound(Permit);

impl Bound {
    pub fn permit(&self) -> &Permit {
        &self.0
    }

    /// Compares a request's Host or `:authority`, and does so for each request: one connection of h2 carries many
    /// (RFC 9113 §9.1.1), and one of HTTP/1 may.
    pub fn check_host(&self, authority: &str) -> HostVerdict {
        match self.0.bind() {
            Bind::Off => HostVerdict::Same,
            _ if names_the_same(authority, self.0.target()) => HostVerdict::Same,
            Bind::Report => HostVerdict::Report(Reason::HostMismatch),
            Bind::Strict => HostVerdict::Refuse(Reason::HostMismatch),
        }
    }
}

/// What becomes of one request's Host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostVerdict {
    Same,
    Report(Reason),
    Refuse(Reason),
}

/// Host without a port is taken: several clients leave it out whatever the port. A port that is said must be right.
fn names_the_same(authority: &str, target: &Target) -> bool {
    Target::parse_with_default(authority, target.port()).is_ok_and(|named| named == *target)
}

/// Compares the names of a flow. `first`: its first octets towards the destination; `resolved`: where it will be dialled.
pub fn bind(permit: Permit, first: &FirstOctets, resolved: &Resolved) -> Binding {
    // Of our own making, not the client's: a difference here is a fault of ours, so no mode excuses it.
    if resolved.host() != permit.target().host() {
        return Binding::Refused(Reason::NotResolved);
    }
    let differs = compare(&permit, first).err();
    match (permit.bind(), differs) {
        (_, None) | (Bind::Off, Some(_)) => Binding::Bound(Bound(permit)),
        (Bind::Report, Some(reason)) => Binding::Reported(Bound(permit), reason),
        (Bind::Strict, Some(reason)) => Binding::Refused(reason),
    }
}

fn compare(permit: &Permit, first: &FirstOctets) -> Result<(), Reason> {
    // Where the gateway opens the TLS itself, what comes is http; of an inspected one the hello was compared before.
    let expected = match permit.tls() {
        TlsMode::Originate | TlsMode::Inspect => Protocol::Http,
        TlsMode::Passthrough => permit.protocol(),
    };
    match (expected, first) {
        (Protocol::Opaque, _) => Ok(()),
        (Protocol::Tls, FirstOctets::Tls(hello)) => compare_hello(permit, hello),
        (Protocol::Postgres, FirstOctets::Postgres) => Ok(()),
        (Protocol::Http, FirstOctets::Http) | (Protocol::Ssh, FirstOctets::Ssh) => Ok(()),
        (_, FirstOctets::Silence) => Err(Reason::Silent),
        (Protocol::Tls, FirstOctets::BrokenHello) => Err(Reason::HelloMalformed),
        (Protocol::Tls | Protocol::Http | Protocol::Ssh | Protocol::Postgres, _) => Err(Reason::ProtocolMismatch),
    }
}

/// Compares the hello of a client that the gateway is about to answer in the destination's place, with what the client asked for.
/// Whether it hides another name does not matter: it is answered for this one, or not at all.
pub fn compare_inspected(asked: &Host, first: &FirstOctets) -> Result<(), Reason> {
    match first {
        FirstOctets::Tls(hello) => compare_sni(asked, hello.sni.as_deref()),
        FirstOctets::BrokenHello => Err(Reason::HelloMalformed),
        FirstOctets::Silence => Err(Reason::Silent),
        FirstOctets::Http | FirstOctets::Ssh | FirstOctets::Postgres | FirstOctets::Unknown => {
            Err(Reason::ProtocolMismatch)
        }
    }
}

fn compare_hello(permit: &Permit, hello: &Hello) -> Result<(), Reason> {
    let named = compare_sni(permit.target().host(), hello.sni.as_deref());
    match (hello.ech, permit.ech()) {
        (Ech::Absent, _) => named,
        (Ech::Present, EchPolicy::Allow) => Ok(()),
        (Ech::Present, EchPolicy::OuterListed) => named.map_err(|_| Reason::Ech),
        (Ech::Present, EchPolicy::Deny) => Err(Reason::Ech),
    }
}

fn compare_sni(asked: &Host, sni: Option<&str>) -> Result<(), Reason> {
    match (asked, sni.map(Host::parse_bare)) {
        // RFC 6066 §3: no name goes with an address.
        (Host::Address(_), None) => Ok(()),
        (Host::Name(_), None) => Err(Reason::SniMissing),
        (_, Some(Ok(Host::Address(_)) | Err(_))) => Err(Reason::SniAddress),
        (asked, Some(Ok(named))) if named == *asked => Ok(()),
        (_, Some(Ok(_))) => Err(Reason::SniMismatch),
    }
}

#[cfg(test)]
mod tests;
