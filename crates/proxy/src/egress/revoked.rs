//! Flows that a new policy, or the end of their grant, no longer allows.

use super::EgressPlan;
use crate::snapshot::Edge;
use portcullis_egress::{FlowStanding, LiveFlow, Reason};
use std::{
    future::ready,
    sync::{Arc, Weak},
    time::{Duration, SystemTime},
};
use tokio::sync::watch;

/// Resolves when the policy has not allowed the flow for the whole of the drain window. A policy that takes it back in
/// meanwhile saves it.
pub(crate) async fn revoked(
    live: &LiveFlow,
    grant_end: Option<SystemTime>,
    edge: &Edge,
    mut changes: watch::Receiver<u64>,
    decided_by: &Weak<EgressPlan>,
) -> Reason {
    let mut ends_at = grant_end;
    // Between the decision and the wish to be told of changes a name was resolved, a destination dialled, a client waited for.
    let now = edge.snapshot();
    let mut is_decided =
        now.egress.as_ref().is_some_and(|egress| std::ptr::eq(Weak::as_ptr(decided_by), Arc::as_ptr(&egress.plan)));
    drop(now);
    // Why, and when it is cut.
    let mut ending: Option<(Reason, tokio::time::Instant)> = None;
    loop {
        tokio::select! {
            biased;
            () = until_instant(ending.map(|(_, at)| at)) => {
                if let Some((reason, _)) = ending {
                    return reason;
                }
            }
            changed = changes.changed() => {
                if changed.is_err() {
                    return std::future::pending().await;
                }
            }
            () = until_time(ends_at), if ending.is_none() => {}
            () = ready(()), if !is_decided => {}
        }
        is_decided = true;
        let snapshot = edge.snapshot();
        let standing = match &snapshot.egress {
            Some(egress) => live.standing(&egress.plan.policy, SystemTime::now()),
            None => FlowStanding::Ends(Reason::PolicyChanged),
        };
        match standing {
            FlowStanding::Stays(until) => (ends_at, ending) = (until, None),
            FlowStanding::Ends(reason) if ending.is_none() => {
                let drain = snapshot.egress.as_ref().map_or(Duration::ZERO, |egress| egress.plan.drain);
                ending = Some((reason, tokio::time::Instant::now() + drain));
            }
            FlowStanding::Ends(_) => {}
        }
    }
}

async fn until_instant(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// The wall clock may be set while we wait: looked at again every minute.
async fn until_time(at: Option<SystemTime>) {
    const LOOK: Duration = Duration::from_secs(60);
    let Some(at) = at else { return std::future::pending().await };
    while let Ok(left) = at.duration_since(SystemTime::now()) {
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(LOOK)).await;
    }
}
