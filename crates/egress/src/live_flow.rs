//! A tunnel that is open, or a request that is under way, and whether it may stay so: asked again at each new policy and at its
//! grant's end.

use crate::{Caller, EgressPolicy, Facts, Permit, Reason, Request, Target, Verdict};
use portcullis_names::ObjectName;
use std::{net::IpAddr, time::SystemTime};

/// What is kept of it to decide about it anew.
#[derive(Debug, Clone)]
pub struct LiveFlow {
    address: IpAddr,
    spiffe: Option<String>,
    certificate_names: Vec<String>,
    user: Option<String>,
    uid: Option<u32>,
    cgroup: Option<String>,
    target: Target,
    destination: Option<ObjectName>,
    /// Method and path, where they were seen.
    request: Option<(String, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlowStanding {
    /// To be asked again at this moment at the latest.
    Stays(Option<SystemTime>),
    /// To be cut within the drain window.
    Ends(Reason),
}

impl LiveFlow {
    /// `request`: as it was decided about.
    pub fn new(caller: &Caller<'_>, permit: &Permit, request: Request<'_>) -> Self {
        let request = match request {
            Request::Unseen => None,
            Request::Seen { method, path } => Some((method.to_owned(), path.to_owned())),
        };
        Self {
            request,
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

    pub fn standing(&self, policy: &EgressPolicy, now: SystemTime) -> FlowStanding {
        let caller = Caller {
            address: self.address,
            spiffe: self.spiffe.as_deref(),
            certificate_names: &self.certificate_names,
            user: self.user.as_deref(),
            uid: self.uid,
            cgroup: self.cgroup.as_deref(),
        };
        let request = match &self.request {
            None => Request::Unseen,
            Some((method, path)) => Request::Seen { method, path },
        };
        let decision = policy.decide(&Facts { caller, target: &self.target, request }, now);
        let destination = decision.destination.as_ref().map(|destination| destination.name());
        match decision.verdict {
            Verdict::Deny(Reason::Expired) => FlowStanding::Ends(Reason::Expired),
            Verdict::Deny(_) => FlowStanding::Ends(Reason::PolicyChanged),
            // What was compared was compared for another destination's settings.
            Verdict::Allow | Verdict::Report(_) if destination != self.destination.as_ref() => {
                FlowStanding::Ends(Reason::PolicyChanged)
            }
            Verdict::Allow | Verdict::Report(_) => FlowStanding::Stays(decision.grant_end),
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
        let tunnel = LiveFlow::new(&caller, &first.decide(&facts, noon()).permit().unwrap(), Request::Unseen);
        let end = noon() + Duration::from_secs(86_400);
        assert_eq!(tunnel.standing(&first, noon()), FlowStanding::Stays(Some(end)));
        assert_eq!(tunnel.standing(&first, end), FlowStanding::Ends(Reason::Expired));
        for (text, expected) in [
            (format!("{base}action=\"allow\"\n"), FlowStanding::Stays(None)),
            (format!("{base}action=\"report\"\n"), FlowStanding::Stays(None)),
            (format!("{base}action=\"deny\"\n"), FlowStanding::Ends(Reason::PolicyChanged)),
            (String::new(), FlowStanding::Ends(Reason::PolicyChanged)),
            (
                format!("{base}action=\"allow\"\n")
                    .replace("destination.a", "destination.b")
                    .replace("destination:a", "destination:b"),
                FlowStanding::Ends(Reason::PolicyChanged),
            ),
        ] {
            assert_eq!(tunnel.standing(&policy(&text), noon()), expected, "{text}");
        }
    }
}
