//! Lets time pass for signed zones: keys are replaced, and zones that are given away signed are signed anew before their
//! signatures end. Decides nothing itself; `roll` and `signer` do.

use super::parent;
use crate::{Name, server::Republish, snapshot::Snapshot, steer::Clocks};
use portcullis_config::Live;
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

const STEP: Duration = Duration::from_secs(1);
/// Between two questions to a parent, at most: it takes hours to follow.
const ASK_MAX: Duration = Duration::from_secs(30);

/// Until the runtime ends.
pub(crate) async fn run(live: Live<Snapshot>, republish: Republish) {
    let mut steps = tokio::time::interval(STEP);
    let mut asked: HashMap<Name, Instant> = HashMap::new();
    loop {
        steps.tick().await;
        let snapshot = live.load().snapshot.clone();
        let clocks = Clocks::read();
        if step(&snapshot, clocks) {
            let republish = republish.clone();
            // It compiles, and may wait for locks: not on this thread.
            tokio::task::spawn_blocking(move || republish.tell()).await.ok();
        }
        for served in &snapshot.zones.zones {
            let Some(plan) = served.roll.as_ref().filter(|plan| !plan.parent.is_empty()) else { continue };
            let apex = &served.zone.apex;
            let pause = Duration::from_secs(plan.parent_ttl / 10).min(ASK_MAX);
            if asked.get(apex).is_some_and(|at| clocks.instant.saturating_duration_since(*at) < pause) {
                continue;
            }
            let awaited = snapshot.kept.keys.awaited(apex);
            if awaited.is_empty() {
                continue;
            }
            asked.insert(apex.clone(), clocks.instant);
            for awaited in awaited {
                let (parents, apex, keys) = (plan.parent.clone(), apex.clone(), snapshot.kept.keys.clone());
                tokio::spawn(async move {
                    if parent::shows(&parents, &apex, &awaited).await {
                        tracing::info!(zone = %apex, key = awaited.tag, "the parent has the DS of the next key");
                        keys.seen_at_parent(&apex, awaited.tag, Clocks::read().unix);
                    }
                });
            }
        }
    }
}

/// Whether a zone is to be compiled anew.
fn step(snapshot: &Snapshot, clocks: Clocks) -> bool {
    let mut is_new = false;
    for served in &snapshot.zones.zones {
        if let Some(plan) = &served.roll {
            for moved in snapshot.kept.keys.step(&served.zone.apex, plan, clocks.unix) {
                tracing::info!(zone = %served.zone.apex, key = moved.tag, change = moved.what, "key replacement");
                is_new = true;
            }
        }
        is_new |= served.is_signed_before(clocks.unix as u32);
    }
    is_new
}
