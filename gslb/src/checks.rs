//! Runs the checks of all published services and lets time pass for them. The one place where steering meets sockets.

use crate::{
    metrics::DnsMetrics,
    snapshot::Snapshot,
    steer::{CheckTarget, Clocks},
};
use portcullis_config::Live;
use portcullis_health::{Prober, Target};
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;

/// How often slow starts grow and orders end.
const TICK: Duration = Duration::from_secs(1);

/// Until told to stop.
pub(crate) async fn run(live: Live<Snapshot>, metrics: Arc<DnsMetrics>, mut stop: watch::Receiver<()>) {
    let mut prober = Prober::default();
    let mut reloads = live.subscribe();
    let mut ticks = tokio::time::interval(TICK);
    prober.sync(targets(&live));
    loop {
        tokio::select! {
            _ = stop.changed() => return,
            Ok(()) = reloads.changed() => prober.sync(targets(&live)),
            _ = ticks.tick() => {
                let (snapshot, clocks) = (live.load().snapshot.clone(), Clocks::read());
                snapshot.services.tick(clocks);
                metrics.members(&snapshot.services.status(clocks));
            }
        }
    }
}

/// An outcome goes to whatever snapshot serves when it comes: a check that goes on over a reload tells the new one.
fn targets(live: &Live<Snapshot>) -> Vec<Target> {
    let snapshot = live.load().snapshot.clone();
    let one = |target: CheckTarget| {
        let CheckTarget { key, probe, service, site, member } = target;
        let (live, place) = (live.clone(), (service, site, member));
        Target {
            key,
            probe,
            tell: Arc::new(move |outcome| {
                live.load().snapshot.services.observe(&place, outcome, Clocks::read());
            }),
        }
    };
    snapshot.services.targets().into_iter().map(one).collect()
}
