//! What goes on beside requests as long as the gateway lives: comparing endpoints, taking in discovery, moving releases.

use super::{Gateway, Inner};
use crate::release_board;
use portcullis_proxy::IdentityNews;
use std::{
    collections::HashMap,
    sync::Weak,
    time::{Duration, Instant, SystemTime},
};

/// Compares the endpoints of each upstream at the end of each of its intervals, as long as the gateway lives.
pub(super) async fn judge_endpoints(gateway: Weak<Inner>) {
    let mut judged: HashMap<String, Instant> = HashMap::new();
    loop {
        tokio::time::sleep(JUDGE_STEP).await;
        let Some(gateway) = gateway.upgrade() else { return };
        let snapshot = gateway.edge.snapshot();
        let now = Instant::now();
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

/// Looks at the source of a sidecar's identity as long as the gateway lives.
pub(super) async fn renew_identity(gateway: Weak<Inner>) {
    let mut trouble = None;
    loop {
        tokio::time::sleep(IDENTITY_STEP).await;
        let Some(inner) = gateway.upgrade() else { return };
        let Some(live) = inner.edge.snapshot().mesh.clone() else { continue };
        let looked_at = live.clone();
        // Three files: not on a runtime thread.
        let Ok(news) = tokio::task::spawn_blocking(move || looked_at.renew(SystemTime::now())).await else { continue };
        let metrics = &inner.edge.metrics.mesh;
        match &news {
            IdentityNews::Unchanged => {}
            IdentityNews::Taken => {
                metrics.renewed("taken");
                tracing::info!(workload = %live.plan.workload.spiffe, "a new identity is in use");
            }
            IdentityNews::Older => {}
            IdentityNews::Trouble(why) if trouble.as_ref() != Some(why) => {
                metrics.renewed("trouble");
                tracing::warn!(why, "the identity cannot be renewed; the one in use stays");
            }
            IdentityNews::Trouble(_) => {}
        }
        trouble = if let IdentityNews::Trouble(why) = news { Some(why) } else { None };
    }
}

/// How often the source of an identity is looked at: a certificate of seconds is renewed in time, and three small files cost
/// nothing.
const IDENTITY_STEP: Duration = Duration::from_millis(250);

/// The shortest interval of outlier detection.
const JUDGE_STEP: Duration = Duration::from_millis(100);
