//! Choosing where an attempt goes.

use super::Exchange;
use portcullis_policy::{Action, Cleared, Reason};
use portcullis_upstream::ClusterId;

/// An endpoint for the next attempt: upstream and index. Needs the proof that the guards were passed.
pub(crate) fn pick(exchange: &mut Exchange, _cleared: &Cleared, draw: u64) -> Result<(ClusterId, usize), Reason> {
    exchange.pick = None;
    let cluster = match exchange.cluster {
        Some(cluster) => cluster,
        None => {
            let Some(Action::Forward(split)) = exchange.plan().map(|plan| &plan.action) else {
                return Err(Reason::Internal);
            };
            split.choose(draw).0 as ClusterId
        }
    };
    exchange.cluster = Some(cluster);
    let snapshot = exchange.snapshot.clone();
    let cluster_ref = snapshot.clusters.get(cluster).ok_or(Reason::Internal)?;
    match cluster_ref.pick(draw.rotate_left(32), &mut exchange.tried) {
        Ok(pick) => {
            let index = pick.index;
            exchange.pick = Some(pick);
            exchange.attempts += 1;
            Ok((cluster, index))
        }
        // After a failed try its own reason says more.
        Err(_) => Err(exchange.fate.map_or(Reason::NoEndpoint, |(reason, _)| reason)),
    }
}
