//! Authorisation of a request that came in, in the midst of the engine's stages.

use super::MeshCall;
use crate::{snapshot::Edge, stage::Exchange};
use portcullis_mesh::{Request, Verdict};
use portcullis_policy::Reason;

/// When in a request's life it is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    /// Before anything is spent on it.
    BeforeGuards,
    /// Once its token is verified; where rules ask what it says.
    AfterGuards,
}

/// `Err`: it is refused. Requests that did not come in by a sidecar's listener are none of ours.
pub(crate) fn judge_request(
    edge: &Edge,
    exchange: &mut Exchange,
    method: &str,
    path: &str,
    when: When,
) -> Result<(), (Reason, &'static str)> {
    let facts = exchange.facts.clone();
    let Some(mesh) = facts.mesh().filter(|mesh| mesh.application.is_some()) else { return Ok(()) };
    // By the plan of the moment, not the request's: whoever watches the connection asks about open calls when a plan is published, and
    // this one is open only from here on. Fails closed: without a plan nobody says who may call.
    let Some(live) = edge.snapshot().mesh.clone() else { return Err((Reason::MeshDenied, "mesh")) };
    let due = if live.plan.needs_claims() { When::AfterGuards } else { When::BeforeGuards };
    if when != due {
        return Ok(());
    }
    let claims = exchange.who.claims.as_ref().map(|claims| claims.object().clone());
    let decision = mesh.decide(&live, Request::Seen { method, path, claims: claims.as_ref() });
    let reason = match &decision.verdict {
        Verdict::Allowed(_) | Verdict::Reported(_) => None,
        Verdict::Denied(_) => Some(Reason::MeshDenied),
        Verdict::Quarantined(_) => Some(Reason::MeshQuarantined),
    };
    if let (Some(reason), Some(entry)) = (reason, &mesh.entry) {
        entry.denied(reason.as_str(), decision.verdict.rule().map(|rule| rule.as_str()));
    }
    exchange.mesh = MeshCall::open(&facts, &decision, method, path, claims).map(Box::new);
    exchange.would_refuse.clone_from(&decision.would_refuse);
    match reason {
        Some(reason) => Err((reason, "access")),
        None => Ok(()),
    }
}
