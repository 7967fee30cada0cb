//! The way of a flow from "may it?" to addresses that may be dialled, the same for requests and tunnels.

use super::{CallerFacts, LiveEgress};
use portcullis_egress::{
    Checked, Decision, Facts, Permit, Reason, Refusal, Request, Resolved, Target, TunnelPlace, Verdict,
};
use std::time::{Duration, Instant, SystemTime};

/// A flow that the policy and the quotas let through.
#[derive(Debug)]
pub(crate) struct Admitted {
    pub(crate) permit: Permit,
}

/// A flow that is refused, with its grounds as far as there are any.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) reason: Reason,
    pub(crate) decision: Option<Box<Decision>>,
    pub(crate) retry_after: Option<Duration>,
}

impl From<Reason> for Refused {
    fn from(reason: Reason) -> Self {
        Self { reason, decision: None, retry_after: None }
    }
}

impl Refused {
    pub(crate) fn by(decision: &Decision, reason: Reason) -> Self {
        Self { reason, decision: Some(Box::new(decision.clone())), retry_after: None }
    }

    pub(crate) fn told(&self, request_id: &str) -> Refusal {
        let refusal = match &self.decision {
            Some(decision) => Refusal::of(decision, self.reason, request_id),
            None => Refusal::new(self.reason, request_id),
        };
        Refusal { retry_after: self.retry_after, ..refusal }
    }
}

/// Decides and counts. Nothing was resolved or dialled yet.
pub(crate) fn admit(
    egress: &LiveEgress,
    caller: &CallerFacts,
    target: &Target,
    request: Request<'_>,
) -> Result<Admitted, Refused> {
    let wall = SystemTime::now();
    let policy = &egress.plan.policy;
    let decision = policy.decide(&Facts { caller: caller.borrow(), target, request }, wall);
    policy.count(&decision);
    let permit = decision.clone().permit().map_err(|reason| Refused::by(&decision, reason))?;
    if let Some(destination) = permit.destination().filter(|destination| destination.counts_callers()) {
        let admitted = egress.state.quotas.admit(destination, &caller.name(), Instant::now(), wall);
        admitted.map_err(|refusal| Refused {
            reason: refusal.reason,
            decision: Some(Box::new(decision.clone())),
            retry_after: Some(refusal.retry_after),
        })?;
    }
    Ok(Admitted { permit })
}

/// What the policy says of a tunnel before anything of its inside is seen.
pub(crate) fn look_ahead(egress: &LiveEgress, caller: &CallerFacts, target: &Target) -> Decision {
    let facts = Facts { caller: caller.borrow(), target, request: Request::Unseen };
    egress.plan.policy.decide(&facts, SystemTime::now())
}

/// A place among the caller's open tunnels, held to the tunnel's end.
pub(crate) fn take_place(
    egress: &LiveEgress,
    caller: &CallerFacts,
    decision: &Decision,
) -> Result<Option<TunnelPlace>, Refused> {
    let counting = decision.destination.as_ref().filter(|destination| destination.counts_callers());
    let Some(destination) = counting else { return Ok(None) };
    let place = egress.state.quotas.open_tunnel(destination, &caller.name());
    place.map(Some).map_err(|reason| Refused::by(decision, reason))
}

/// Our own addresses for the permit's host, of those only what may be dialled.
pub(crate) async fn resolve(egress: &LiveEgress, permit: &Permit) -> Result<(Resolved, Vec<Checked>), Refused> {
    let refused = |reason| Refused::by(permit.decision(), reason);
    let resolved = egress.resolver.resolve(permit.target().host(), Instant::now()).await.map_err(refused)?;
    let checked = resolved.checked(&egress.addresses, permit.dial_port(), &permit.private_ranges());
    let checked = checked.map_err(|refusal| {
        tracing::debug!(target = %permit.target(), %refusal, "an address may not be dialled");
        refused(refusal.reason())
    })?;
    Ok((resolved, checked))
}

/// The word of metrics for what became of a flow.
pub(crate) fn outcome(decision: &Decision) -> &'static str {
    match decision.verdict {
        Verdict::Allow => "allowed",
        Verdict::Report(_) => "reported",
        Verdict::Deny(_) => "refused",
    }
}
