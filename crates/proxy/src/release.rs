//! What objectives and releases have to do with single requests: where each goes, and what is counted of it.

use portcullis_names::Percent;
use portcullis_rollout::{Figures, Outcome, VersionMeter};
use portcullis_upstream::{ClusterId, hash_key};
use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

/// A rollout as requests meet it. Kept over reloads; only the gateway's clock moves its shares.
#[derive(Debug)]
pub struct LiveRollout {
    /// A client stays on its side of one rollout, and is on another side of the next.
    seed: Vec<u8>,
    share: AtomicU32,
    mirror: AtomicU32,
    old: VersionMeter,
    new: VersionMeter,
}

/// The same with the upstreams of one snapshot.
#[derive(Debug, Clone)]
pub struct ReleaseStep {
    pub live: Arc<LiveRollout>,
    pub from: ClusterId,
    pub to: ClusterId,
}

/// Everything that watches the requests of one rule.
#[derive(Debug, Clone, Default)]
pub struct Releases {
    pub objectives: Vec<Arc<VersionMeter>>,
    pub rollouts: Vec<ReleaseStep>,
}

/// For whom a version is chosen.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Asker {
    /// It stays with the version that it got.
    Client(IpAddr),
    /// A sidecar's own, which is one address for all that it does: each request is drawn for.
    Application { draw: u64 },
}

impl LiveRollout {
    /// `slow_over`: the latency limit of the gate's objective, if it has one.
    pub fn new(name: &str, slow_over: Option<Duration>) -> Self {
        Self {
            seed: name.as_bytes().to_vec(),
            share: AtomicU32::new(0),
            mirror: AtomicU32::new(0),
            old: VersionMeter::new(slow_over),
            new: VersionMeter::new(slow_over),
        }
    }

    pub fn set(&self, share: Percent, mirror: Percent) {
        self.share.store(share.millionths(), Relaxed);
        self.mirror.store(mirror.millionths(), Relaxed);
    }

    /// What came since the last call, of the old version and the new one.
    pub fn take(&self) -> (Figures, Figures) {
        (self.old.take(), self.new.take())
    }

    /// Whether this one is among those who get the new version.
    fn moves(&self, asker: Asker) -> bool {
        let share = Percent::from_millionths(self.share.load(Relaxed));
        if share == Percent::NONE {
            return false;
        }
        let mut octets = self.seed.clone();
        match asker {
            Asker::Client(IpAddr::V4(v4)) => octets.extend_from_slice(&v4.octets()),
            Asker::Client(IpAddr::V6(v6)) => octets.extend_from_slice(&v6.octets()),
            Asker::Application { draw } => octets.extend_from_slice(&draw.to_ne_bytes()),
        }
        share.takes(hash_key(&octets))
    }

    pub(crate) fn mirrors(&self, draw: u64) -> bool {
        Percent::from_millionths(self.mirror.load(Relaxed)).takes(draw)
    }

    /// The outcome of a copy that was sent to the new version.
    pub(crate) fn mirrored(&self, outcome: Outcome, took: Duration) {
        self.new.record(outcome, took);
    }
}

impl Releases {
    /// Where a request for `cluster` goes.
    pub(crate) fn redirect(&self, cluster: ClusterId, asker: Asker) -> ClusterId {
        let moved = self.rollouts.iter().find(|step| step.from == cluster && step.live.moves(asker));
        moved.map_or(cluster, |step| step.to)
    }

    /// The rollout whose new version gets a copy of this request.
    pub(crate) fn mirror(&self, draw: u64) -> Option<&ReleaseStep> {
        self.rollouts.iter().find(|step| step.live.mirrors(draw))
    }

    /// Counts an answered request, or one that got no answer.
    pub(crate) fn record(&self, cluster: Option<ClusterId>, outcome: Outcome, took: Duration) {
        for objective in &self.objectives {
            objective.record(outcome, took);
        }
        for step in &self.rollouts {
            match cluster {
                Some(id) if id == step.from => step.live.old.record(outcome, took),
                Some(id) if id == step.to => step.live.new.record(outcome, took),
                Some(_) | None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_stays_on_its_side_and_shares_only_grow() {
        let live = Arc::new(LiveRollout::new("v2", None));
        let releases =
            Releases { rollouts: vec![ReleaseStep { live: live.clone(), from: 1, to: 2 }], ..Releases::default() };
        let clients: Vec<IpAddr> = (0..2000_u32).map(|n| IpAddr::from((0x0a00_0000 + n).to_be_bytes())).collect();
        let moved = |percent: u32| -> Vec<bool> {
            live.set(Percent::from_whole(percent), Percent::NONE);
            clients.iter().map(|client| releases.redirect(1, Asker::Client(*client)) == 2).collect()
        };
        let (none, some, more, all) = (moved(0), moved(5), moved(25), moved(100));
        assert!(none.iter().all(|moved| !moved) && all.iter().all(|moved| *moved));
        let count = some.iter().filter(|moved| **moved).count();
        assert!((60..=140).contains(&count), "{count} of 2000 at 5 %");
        assert!(some.iter().zip(&more).all(|(some, more)| *more || !some), "nobody goes back as the share grows");
        assert_eq!(releases.redirect(3, Asker::Client(clients[0])), 3, "other upstreams are left alone");
    }
}
