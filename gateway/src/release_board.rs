//! The objectives and rollouts of a running gateway: fed by the data path, moved by the clock and by operators, kept on disk.

use crate::Compiled;
use portcullis_names::ObjectName;
use portcullis_ops::metrics::Metrics;
use portcullis_proxy::{LiveRollout, ReleaseStep, Releases};
use portcullis_rollout::{
    Candidate, Command, CommandRefused, Moment, Observations, Rollout, RolloutStatus, SloMeter, SloReport, StateKind,
    Transition, VersionMeter,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    io::Write,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Everything that is being released, and how it is doing.
#[derive(Debug)]
pub(crate) struct ReleaseBoard {
    file: PathBuf,
    objectives: BTreeMap<ObjectName, Objective>,
    rollouts: BTreeMap<ObjectName, Release>,
    saved_at: Moment,
}

#[derive(Debug)]
struct Objective {
    fed: Arc<VersionMeter>,
    meter: SloMeter,
}

#[derive(Debug)]
struct Release {
    live: Arc<LiveRollout>,
    rollout: Rollout,
}

/// The file of states: each as its crate writes it.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Saved {
    objectives: BTreeMap<String, String>,
    rollouts: BTreeMap<String, String>,
}

/// How often figures are looked at.
pub(crate) const TICK: Duration = Duration::from_millis(250);
/// Counts of objectives are written this often; a change of a rollout's state at once.
const SAVE_EVERY: Duration = Duration::from_secs(30);

impl ReleaseBoard {
    /// Goes on from what `file` holds, if anything.
    pub(crate) fn open(file: PathBuf, compiled: &Compiled) -> Self {
        let saved = match std::fs::read_to_string(&file) {
            Ok(text) => serde_json::from_str(&text).unwrap_or_else(|error| {
                tracing::warn!(file = %file.display(), %error, "the state of releases cannot be read; they begin anew");
                Saved::default()
            }),
            Err(_) => Saved::default(),
        };
        let now = now();
        let mut board = Self { file, objectives: BTreeMap::new(), rollouts: BTreeMap::new(), saved_at: now };
        for (name, slo) in &compiled.slos {
            let kept = saved.objectives.get(name.as_str());
            let (meter, warning) = match kept {
                Some(kept) => SloMeter::restore(slo.clone(), kept, now),
                None => (SloMeter::new(slo.clone()), None),
            };
            if let Some(warning) = warning {
                tracing::warn!(slo = %name, "its saved state {warning}");
            }
            board.objectives.insert(name.clone(), Objective::new(meter));
        }
        for (name, plan) in &compiled.rollouts {
            let restored = Rollout::restore(plan.clone(), saved.rollouts.get(name.as_str()).map(String::as_str), now);
            board.take_in(name, restored, None);
        }
        board
    }

    /// After a reload: what goes on under its name goes on, the rest begins or is forgotten.
    pub(crate) fn update(&mut self, compiled: &Compiled) {
        let now = now();
        let (objectives, rollouts) = (std::mem::take(&mut self.objectives), std::mem::take(&mut self.rollouts));
        for (name, slo) in &compiled.slos {
            let objective = match objectives.get(name) {
                Some(before) => before.with_slo(slo, now),
                None => Objective::new(SloMeter::new(slo.clone())),
            };
            self.objectives.insert(name.clone(), objective);
        }
        for (name, plan) in &compiled.rollouts {
            match rollouts.get(name) {
                Some(before) => {
                    let restored = before.rollout.with_plan(plan.clone(), now);
                    self.take_in(name, restored, Some(before.live.clone()));
                }
                None => self.take_in(name, Rollout::restore(plan.clone(), None, now), None),
            }
        }
    }

    fn take_in(&mut self, name: &ObjectName, restored: portcullis_rollout::Restored, live: Option<Arc<LiveRollout>>) {
        if let Some(notice) = &restored.notice {
            tracing::warn!(rollout = %name, "{notice}");
        }
        let slow_over = restored.rollout.plan().gate.slo.as_ref().and_then(|slo| slo.latency);
        let live =
            live.unwrap_or_else(|| Arc::new(LiveRollout::new(name.as_str(), slow_over.map(|latency| latency.under))));
        let release = Release { live, rollout: restored.rollout };
        release.publish();
        self.rollouts.insert(name.clone(), release);
    }

    /// What the data path needs of each rule, in the order of the plans.
    pub(crate) fn releases(&self, compiled: &Compiled) -> Vec<Releases> {
        let of_plan = |plan: &portcullis_policy::Plan| Releases {
            objectives: (self.objectives.values())
                .filter(|objective| objective.meter.slo().route == plan.route)
                .map(|objective| objective.fed.clone())
                .collect(),
            rollouts: (self.rollouts.values())
                .filter(|release| release.rollout.plan().route == plan.route)
                .filter_map(|release| release.step(compiled))
                .collect(),
        };
        compiled.routes.plans().map(of_plan).collect()
    }

    /// Looks at what came since the last tick, and moves what is to be moved.
    pub(crate) fn tick(&mut self, compiled: &Compiled, metrics: &Metrics) {
        let now = now();
        for (name, objective) in &mut self.objectives {
            objective.meter.record(objective.fed.take().counts, now);
            let report = objective.meter.report(now);
            metrics.objective(name.as_str(), report.budget_left);
            for window in &report.burn {
                metrics.burn(name.as_str(), window.window_seconds, window.burn);
            }
        }
        let mut changed = false;
        for (name, release) in &mut self.rollouts {
            let gate = release.rollout.plan().gate.slo.as_ref().and_then(|slo| self.objectives.get(&slo.name));
            let alert = gate.and_then(|objective| objective.meter.alert(now));
            if let Some(transition) = release.tick(compiled, alert, now) {
                tell(name, &transition);
                changed = true;
            }
            release.publish();
            let status = release.rollout.status(now);
            let states = StateKind::ALL.into_iter().map(|state| (state.as_str(), state == status.state));
            metrics.rollout(name.as_str(), status.share.fraction(), states);
        }
        if changed || now >= self.saved_at.plus(SAVE_EVERY) {
            self.save();
        }
    }

    /// `None`: there is no such rollout.
    pub(crate) fn command(
        &mut self,
        name: &str,
        command: Command,
        why: Option<&str>,
    ) -> Option<Result<RolloutStatus, CommandRefused>> {
        let now = now();
        let (name, release) = self.rollouts.iter_mut().find(|(own, _)| own.as_str() == name)?;
        let done = release.rollout.command(command, why, now).map(|transition| {
            tell(name, &transition);
            release.publish();
            release.rollout.status(now)
        });
        if done.is_ok() {
            self.save();
        }
        Some(done)
    }

    pub(crate) fn rollouts(&self) -> Vec<RolloutStatus> {
        let now = now();
        self.rollouts.values().map(|release| release.rollout.status(now)).collect()
    }

    pub(crate) fn objectives(&self) -> Vec<SloReport> {
        let now = now();
        self.objectives.values().map(|objective| objective.meter.report(now)).collect()
    }

    /// Writes beside the file and renames: a crash leaves the old state or the new one.
    pub(crate) fn save(&mut self) {
        self.saved_at = now();
        if self.objectives.is_empty() && self.rollouts.is_empty() {
            return;
        }
        let saved = Saved {
            objectives: self.objectives.iter().map(|(name, own)| (name.to_string(), own.meter.save())).collect(),
            rollouts: (self.rollouts.iter())
                .map(|(name, release)| (name.to_string(), release.rollout.save().to_json()))
                .collect(),
        };
        // Availability: a disk that is full must not stop a release from being served.
        if let Err(error) = write_atomically(&self.file, &serde_json::to_vec(&saved).unwrap_or_default()) {
            tracing::error!(file = %self.file.display(), %error, "the state of releases cannot be kept");
        }
    }
}

impl Objective {
    fn new(meter: SloMeter) -> Self {
        let slow_over = meter.slo().latency.map(|latency| latency.under);
        Self { fed: Arc::new(VersionMeter::new(slow_over)), meter }
    }

    fn with_slo(&self, slo: &Arc<portcullis_rollout::Slo>, now: Moment) -> Self {
        let same = self.meter.slo().latency == slo.latency;
        let next = Self::new(self.meter.with_slo(slo.clone(), now));
        // Requests of the old snapshot are still being counted.
        if same { Self { fed: self.fed.clone(), ..next } } else { next }
    }
}

impl Release {
    fn publish(&self) {
        self.live.set(self.rollout.share(), self.rollout.mirror_percent());
    }

    fn step(&self, compiled: &Compiled) -> Option<ReleaseStep> {
        let plan = self.rollout.plan();
        let (from, _) = compiled.clusters.find(plan.from.as_str())?;
        let (to, _) = compiled.clusters.find(plan.to.as_str())?;
        Some(ReleaseStep { live: self.live.clone(), from, to })
    }

    fn tick(
        &mut self,
        compiled: &Compiled,
        alert: Option<portcullis_rollout::BurnAlert>,
        now: Moment,
    ) -> Option<Transition> {
        let (old, new) = self.live.take();
        let to = compiled.clusters.find(self.rollout.plan().to.as_str());
        let ready = to.is_some_and(|(_, cluster)| cluster.is_serving(std::time::Instant::now()));
        let candidate = if ready { Candidate::Ready } else { Candidate::Absent };
        self.rollout.tick(&Observations { old, new, candidate, alert }, now)
    }
}

fn tell(name: &ObjectName, transition: &Transition) {
    tracing::info!(
        rollout = %name,
        from = transition.from.as_str(),
        to = transition.to.as_str(),
        reason = transition.reason,
        "release"
    );
}

fn write_atomically(file: &std::path::Path, content: &[u8]) -> std::io::Result<()> {
    let beside = file.with_extension("json.new");
    let mut written = std::fs::File::create(&beside)?;
    written.write_all(content)?;
    written.sync_all()?;
    std::fs::rename(beside, file)
}

fn now() -> Moment {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Moment::from_unix_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
