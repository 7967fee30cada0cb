//! How an attempt ended: what the endpoint's health learns of it, and whether there is another attempt.

use super::Exchange;
use portcullis_health::{EjectReason, TryOutcome};
use portcullis_policy::{Body, Failed};
use portcullis_upstream::{Cluster, Pick};
use std::time::{Duration, Instant};

/// Tells outlier detection of the attempt; once per attempt, later calls are of no effect.
pub(crate) fn judge(exchange: &mut Exchange, outcome: TryOutcome, now: Instant) {
    if std::mem::replace(&mut exchange.judged, true) {
        return;
    }
    let (Some(pick), Some(cluster)) = (&exchange.pick, exchange.serving()) else { return };
    let ejected = cluster.record(pick, outcome, now);
    let Some(id) = exchange.cluster else { return tell(&cluster, pick, ejected) };
    let peers = exchange.snapshot.peers.cluster(id);
    if let Some(endpoint) = peers.and_then(|peers| peers.endpoints.get(pick.index)).filter(|_| !outcome.is_good()) {
        endpoint.metrics.failed();
    }
    if let Some(reason) = ejected {
        exchange.snapshot.peers.ejected(id, pick.index, reason);
    }
}

/// Ends the trial of an endpoint by the head of its answer: the end of a stream may be hours away.
pub(crate) fn judge_trial(exchange: &Exchange, outcome: TryOutcome, now: Instant) {
    let (Some(pick), Some(cluster)) = (&exchange.pick, exchange.serving()) else { return };
    let ejected = cluster.judge_trial(pick, outcome, now);
    match (exchange.cluster, ejected) {
        (Some(id), Some(reason)) => exchange.snapshot.peers.ejected(id, pick.index, reason),
        (_, ejected) => tell(&cluster, pick, ejected),
    }
}

/// Of an external host's addresses: there is no metric for each, because callers choose hosts.
fn tell(pool: &Cluster, pick: &Pick, ejected: Option<EjectReason>) {
    if let (Some(reason), Some(endpoint)) = (ejected, pool.endpoints.get(pick.index)) {
        tracing::warn!(destination = %pool.name, endpoint = %endpoint.address, %reason, "address ejected");
    }
}

/// Whether the request is tried again after this failure; if so, `exchange.retry_wait` says after how long.
pub(crate) fn try_again(exchange: &mut Exchange, failed: Failed, method: &str, body: Body, now: Instant) -> bool {
    let snapshot = exchange.snapshot.clone();
    let Some(plan) = exchange.plan.and_then(|plan| snapshot.routes.plan(plan)) else { return false };
    let Some(cluster) = exchange.serving() else { return false };
    if !plan.retry.allows(failed, exchange.attempts, method, body) || now >= exchange.deadline(plan) {
        return false;
    }
    let Some(permit) = cluster.allow_retry(now) else { return false };
    exchange.retry_permit = Some(permit);
    exchange.retry_wait = plan.retry.wait(failed, exchange.attempts, fastrand::f64());
    true
}

impl Exchange {
    /// When the route's `timeout` is over.
    pub(crate) fn deadline(&self, plan: &portcullis_policy::Plan) -> Instant {
        self.started + plan.timeout
    }

    /// What is left of the route's `timeout`, but at least a little: a timeout of zero would be none.
    pub(crate) fn time_left(&self, plan: &portcullis_policy::Plan, now: Instant) -> Duration {
        self.deadline(plan).saturating_duration_since(now).max(Duration::from_millis(1))
    }
}
