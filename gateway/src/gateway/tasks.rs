//! What goes on beside requests as long as the gateway lives: comparing endpoints, taking in discovery, moving releases.

use super::{Gateway, Inner};
use crate::release_board;
use std::{
    collections::HashMap,
    sync::Weak,
    time::{Duration, Instant},
};

/// Compares the endpoints of each upstream at the end of each of its intervals, as long as the gateway lives.
pub(super) async fn judge_endpoints(gateway: Weak<Inner>) {
    let mut judged: HashMap<String, Instant> = HashMap::new();
    let mut looked = Instant::now();
    loop {
        tokio::time::sleep(JUDGE_STEP).await;
        let Some(gateway) = gateway.upgrade() else { return };
        let snapshot = gateway.edge.snapshot();
        let now = Instant::now();
        if let Some(egress) = snapshot.egress.as_ref().filter(|_| now.saturating_duration_since(looked) >= LOOK_STEP) {
            looked = now;
            egress.look_at_interfaces();
        }
        for ejected in snapshot.egress.iter().flat_map(|egress| egress.judge(now)) {
            let (destination, address, reason) = (&ejected.destination, &ejected.address, ejected.reason);
            tracing::warn!(%destination, endpoint = %address, %reason, "address ejected");
        }
        let before = std::mem::take(&mut judged);
        for (id, cluster) in snapshot.clusters.iter().enumerate() {
            let last = before.get(cluster.name.as_str()).copied().unwrap_or(now);
            let due = now.saturating_duration_since(last) >= cluster.outlier.interval;
            judged.insert(cluster.name.to_string(), if due { now } else { last });
            if due {
                for (index, reason) in cluster.judge_interval(now) {
                    snapshot.peers.ejected(id, index, reason);
                }
            }
        }
    }
}

/// Takes in changes of endpoints as long as the gateway lives.
pub(super) async fn follow_discovery(gateway: Weak<Inner>, mut news: tokio::sync::watch::Receiver<u64>) {
    while news.changed().await.is_ok() {
        let Some(inner) = gateway.upgrade() else { return };
        let gateway = Gateway(inner);
        // It builds tables and takes the state's lock: not on a runtime thread.
        let taken_in = move || {
            gateway.take_in_found();
            gateway.republish_found();
        };
        let _ = tokio::task::spawn_blocking(taken_in).await;
    }
}

/// Lets releases go on as long as the gateway lives.
pub(super) async fn move_releases(gateway: Weak<Inner>) {
    let mut ticks = tokio::time::interval(release_board::TICK);
    loop {
        ticks.tick().await;
        let Some(inner) = gateway.upgrade() else { return };
        let gateway = Gateway(inner);
        // It takes the state's lock and writes to the disk: not on a runtime thread.
        let _ = tokio::task::spawn_blocking(move || gateway.move_releases()).await;
    }
}

/// How long an address that an interface got is not known as our own.
const LOOK_STEP: Duration = Duration::from_secs(5);
/// The shortest interval of outlier detection.
const JUDGE_STEP: Duration = Duration::from_millis(100);
