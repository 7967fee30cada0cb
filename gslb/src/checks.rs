//! Runs the checks of all published services, lets time pass for them, and tells secondaries of new zones.

use crate::{
    Name, dnssec, fetch,
    fleet::pull,
    notify,
    server::{Host, Random},
    snapshot::Snapshot,
    steer::{CheckTarget, Clocks},
    updater,
};
use portcullis_config::Live;
use portcullis_health::{Prober, Target};
use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    io,
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};
use tokio::sync::watch;

/// The checks of one process: members are asked once, however many listeners it has. Dropping it ends them.
#[derive(Debug)]
pub struct Checks {
    stop: watch::Sender<()>,
    thread: Option<JoinHandle<()>>,
}

impl Checks {
    /// Also fetches zones of which this is a secondary, replaces keys in time, and takes changes to zones in.
    pub fn start(live: &Live<Snapshot>, host: &Host) -> io::Result<Self> {
        let (stop, stopped) = watch::channel(());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (live, host) = (live.clone(), host.clone());
        let thread = std::thread::Builder::new().name("dns-checks".to_owned());
        let thread = thread.spawn(move || runtime.block_on(run(live, host, stopped)))?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Checks {
    fn drop(&mut self) {
        self.stop.send_replace(());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread of DNS checks panicked");
        }
    }
}

/// How often slow starts grow and orders end.
const TICK: Duration = Duration::from_secs(1);
/// How often what the nodes of a fleet say is looked at: an outcome is believed once it has held for a moment.
const FLEET_TICK: Duration = Duration::from_millis(100);
/// News that come together go out together.
const GATHER: Duration = Duration::from_millis(10);
const SAVE_EVERY: u32 = 5;

/// Until told to stop.
async fn run(live: Live<Snapshot>, Host { metrics, republish, .. }: Host, mut stop: watch::Receiver<()>) {
    let _fetching = tokio::spawn(fetch::run(live.clone(), republish.clone()));
    let _keeping = tokio::spawn(dnssec::keep(live.clone(), republish.clone()));
    let _updating = tokio::spawn(updater::run(live.clone(), republish));
    let _pulling = tokio::spawn(pull(live.clone(), metrics.clone()));
    let _publishing = tokio::spawn(publish(live.clone()));
    let _merging = tokio::spawn(merge(live.clone()));
    let mut ticked = 0u32;
    let mut prober = Prober::default();
    let mut reloads = live.subscribe();
    let mut ticks = tokio::time::interval(TICK);
    let mut told = HashMap::new();
    prober.sync(targets(&live));
    tell_secondaries(&live, &mut told);
    loop {
        tokio::select! {
            _ = stop.changed() => {
                // The disk is waited for: nothing else is to be done.
                save(&live.load().snapshot, Clocks::read());
                return;
            }
            Ok(()) = reloads.changed() => {
                prober.sync(targets(&live));
                tell_secondaries(&live, &mut told);
            }
            _ = ticks.tick() => {
                let (snapshot, clocks) = (live.load().snapshot.clone(), Clocks::read());
                snapshot.services.tick(clocks);
                metrics.members(&snapshot.services.status(clocks));
                metrics.sites(&snapshot.services.sites(clocks));
                metrics.fleet(snapshot.fleet(clocks).as_ref());
                ticked = ticked.wrapping_add(1);
                if ticked.is_multiple_of(SAVE_EVERY) {
                    tokio::task::spawn_blocking(move || save(&snapshot, clocks));
                }
            }
        }
    }
}

/// Availability: what cannot be kept is known all the same.
fn save(snapshot: &Snapshot, clocks: Clocks) {
    if let Err(error) = snapshot.save_memory(clocks) {
        tracing::debug!(%error, "what is known of members cannot be kept over a restart");
    }
}

/// Tells the fleet what this node sees as soon as it changes.
async fn publish(live: Live<Snapshot>) {
    let mut reloads = live.subscribe();
    loop {
        let snapshot = live.load().snapshot.clone();
        snapshot.services.publish(Clocks::read());
        match &snapshot.services.fleet {
            None => _ = reloads.changed().await,
            Some(fleet) => {
                tokio::select! {
                    () = fleet.changed() => {}
                    _ = reloads.changed() => {}
                }
                tokio::time::sleep(GATHER).await;
            }
        }
    }
}

/// Looks at what the fleet says, again and again: words grow stale, and outcomes hold.
async fn merge(live: Live<Snapshot>) {
    let mut ticks = tokio::time::interval(FLEET_TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let snapshot = live.load().snapshot.clone();
        if snapshot.services.fleet.is_some() {
            snapshot.services.merge(Clocks::read());
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
            tell: Arc::new(move |outcome, took| {
                live.load().snapshot.services.observe(&place, outcome, Some(took), Clocks::read());
            }),
        }
    };
    snapshot.services.targets().into_iter().map(one).collect()
}

/// Of zones whose serial is another than was told last.
fn tell_secondaries(live: &Live<Snapshot>, told: &mut HashMap<Name, u32>) {
    let snapshot = live.load().snapshot.clone();
    for served in &snapshot.zones.zones {
        let Some(transfer) = served.transfer.as_ref().filter(|transfer| !transfer.notify.is_empty()) else { continue };
        let (apex, serial) = (served.zone.apex.clone(), served.zone.serial);
        if told.insert(apex.clone(), serial) == Some(serial) {
            continue;
        }
        for to in &transfer.notify {
            let seed = RandomState::new().hash_one(to);
            tokio::spawn(notify::tell(apex.clone(), *to, Random::new(seed)));
        }
    }
}
