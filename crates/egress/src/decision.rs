//! What the policy said about a flow, and the token that an allowed flow goes on with.

use crate::{
    Destination, PrivateRanges, Reason, Target, TlsMode,
    binding::{Bind, EchPolicy},
    protocol::Protocol,
};
use portcullis_names::ObjectName;
use std::{sync::Arc, time::SystemTime};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Allow,
    /// Let through by a rule that only reports; it would be denied for this reason.
    Report(Reason),
    Deny(Reason),
}

/// One decision with its grounds.
#[derive(Debug, Clone)]
pub struct Decision {
    pub verdict: Verdict,
    /// The rule that decided, or that came nearest to allowing it.
    pub rule: Option<ObjectName>,
    /// That rule's `reason`.
    pub why: Option<Arc<str>>,
    /// None when the host belongs to no destination.
    pub destination: Option<Arc<Destination>>,
    /// When the grant is over, and a tunnel under it is cut.
    pub grant_end: Option<SystemTime>,
    pub(crate) target: Target,
}

/// That the policy lets a flow through, allowed or reported. Resolving, comparing and dialling want one; only
/// [`Decision::permit`] makes one.
#[derive(Debug, Clone)]
pub struct Permit(Decision);

impl Decision {
    /// The grounds for a metric's label: of what is let through on report, what it would have been.
    pub fn reason(&self) -> Option<Reason> {
        match self.verdict {
            Verdict::Allow => None,
            Verdict::Report(reason) | Verdict::Deny(reason) => Some(reason),
        }
    }

    /// Goes on, or gives the reason to refuse.
    pub fn permit(self) -> Result<Permit, Reason> {
        match self.verdict {
            Verdict::Allow | Verdict::Report(_) => Ok(Permit(self)),
            Verdict::Deny(reason) => Err(reason),
        }
    }
}

impl Permit {
    pub fn decision(&self) -> &Decision {
        &self.0
    }

    pub fn destination(&self) -> Option<&Arc<Destination>> {
        self.0.destination.as_ref()
    }

    /// What the client asked for.
    pub fn target(&self) -> &Target {
        &self.0.target
    }

    /// Where it is dialled: the asked port, or the destination's where the gateway opens the TLS.
    pub fn dial_port(&self) -> u16 {
        let asked = self.0.target.port();
        self.destination().and_then(|destination| destination.port_for(asked)).unwrap_or(asked)
    }

    pub fn grant_end(&self) -> Option<SystemTime> {
        self.0.grant_end
    }

    pub fn tls(&self) -> TlsMode {
        self.destination().map_or(TlsMode::Passthrough, |destination| destination.tls)
    }

    pub fn private_ranges(&self) -> PrivateRanges {
        self.destination().map(|destination| destination.private.clone()).unwrap_or_default()
    }

    /// What no destination speaks for is let through on report only: nothing is demanded of it.
    pub(crate) fn protocol(&self) -> Protocol {
        self.destination().map_or(Protocol::Opaque, |destination| destination.protocol)
    }

    pub(crate) fn bind(&self) -> Bind {
        match (self.destination(), self.0.verdict) {
            (None, _) | (_, Verdict::Report(_)) => Bind::Report,
            (Some(destination), Verdict::Allow | Verdict::Deny(_)) => destination.bind,
        }
    }

    pub(crate) fn ech(&self) -> EchPolicy {
        self.destination().map_or(EchPolicy::Allow, |destination| destination.ech)
    }
}
