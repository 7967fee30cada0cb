//! A tunnel that is open, and whether it may stay so: asked again at each new policy and at its grant's end.

use crate::{Caller, EgressPolicy, Facts, Permit, Reason, Request, Target, Verdict};
use portcullis_names::ObjectName;
use std::{net::IpAddr, time::SystemTime};

/// What is kept of a tunnel to decide about it anew.
#[derive(Debug, Clone)]
pub struct LiveTunnel {
    address: IpAddr,
    spiffe: Option<String>,
    certificate_names: Vec<String>,
    user: Option<String>,
    uid: Option<u32>,
    cgroup: Option<String>,
    target: Target,
    destination: Option<ObjectName>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TunnelStanding {
    /// To be asked again at this moment at the latest.
    Stays(Option<SystemTime>),
    /// To be cut within the drain window.
    Ends(Reason),
}

impl LiveTunnel {
    pub fn new(caller: &Caller<'_>, permit: &Permit) -> Self {
        Self {
            address: caller.address,
            spiffe: caller.spiffe.map(str::to_owned),
            certificate_names: caller.certificate_names.to_vec(),
            user: caller.user.map(str::to_owned),
            uid: caller.uid,
            cgroup: caller.cgroup.map(str::to_owned),
            target: permit.target().clone(),
            destination: permit.destination().map(|destination| destination.name().clone()),
        }
    }

    pub fn standing(&self, policy: &EgressPolicy, now: SystemTime) -> TunnelStanding {
        let caller = Caller {
            address: self.address,
            spiffe: self.spiffe.as_deref(),
            certificate_names: &self.certificate_names,
            user: self.user.as_deref(),
            uid: self.uid,
            cgroup: self.cgroup.as_deref(),
        };
        let decision = policy.decide(&Facts { caller, target: &self.target, request: Request::Unseen }, now);
        let destination = decision.destination.as_ref().map(|destination| destination.name());
        match decision.verdict {
            Verdict::Deny(Reason::Expired) => TunnelStanding::Ends(Reason::Expired),
            Verdict::Deny(_) => TunnelStanding::Ends(Reason::PolicyChanged),
            // What was compared was compared for another destination's settings.
            Verdict::Allow | Verdict::Report(_) if destination != self.destination.as_ref() => {
                TunnelStanding::Ends(Reason::PolicyChanged)
            }
            Verdict::Allow | Verdict::Report(_) => TunnelStanding::Stays(decision.grant_end),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{noon, policy};
    use std::time::Duration;

    #[test]
    fn a_tunnel_stays_as_long_as_the_policy_would_open_it() {
        let base = "[destination.a]\nhosts=[\"a.example\"]\n[access.x]\nfrom=[\"user:ci\"]\nto=[\"destination:a\"]\n";
        let first = policy(&format!("{base}action=\"allow\"\nuntil=\"2026-11-22T00:00:00Z\"\n"));
        let target = Target::parse("a.example:443").unwrap();
        let caller = Caller { user: Some("ci"), ..Caller::from_address([10, 0, 0, 1].into()) };
        let facts = Facts { caller, target: &target, request: Request::Unseen };
        let tunnel = LiveTunnel::new(&caller, &first.decide(&facts, noon()).permit().unwrap());
        let end = noon() + Duration::from_secs(86_400);
        assert_eq!(tunnel.standing(&first, noon()), TunnelStanding::Stays(Some(end)));
        assert_eq!(tunnel.standing(&first, end), TunnelStanding::Ends(Reason::Expired));
        for (text, expected) in [
            (format!("{base}action=\"allow\"\n"), TunnelStanding::Stays(None)),
            (format!("{base}action=\"report\"\n"), TunnelStanding::Stays(None)),
            (format!("{base}action=\"deny\"\n"), TunnelStanding::Ends(Reason::PolicyChanged)),
            (String::new(), TunnelStanding::Ends(Reason::PolicyChanged)),
            (
                format!("{base}action=\"allow\"\n")
                    .replace("destination.a", "destination.b")
                    .replace("destination:a", "destination:b"),
                TunnelStanding::Ends(Reason::PolicyChanged),
            ),
        ] {
            assert_eq!(tunnel.standing(&policy(&text), noon()), expected, "{text}");
        }
    }
}
