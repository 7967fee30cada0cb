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
    mover: Mover,
    keeping: Keeping,
    /// Why the file could not be written when that was last tried.
    unsaved: Option<String>,
}

/// Who moves the releases and writes their file: one process at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mover {
    We,
    /// It has read the file, and goes on from there.
    Successor,
}

/// Whether the file is ours to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keeping {
    On,
    /// It holds what could not be read, and stays as it is for the operator to repair.
    Off,
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

#[derive(Debug, PartialEq, Eq)]
enum Looked {
    Unchanged,
    Restored,
}

/// How often figures are looked at.
pub(crate) const TICK: Duration = Duration::from_millis(250);
/// Counts of objectives are written this often; a change of a rollout's state at once.
const SAVE_EVERY: Duration = Duration::from_secs(30);

impl ReleaseBoard {
    /// Goes on from what `file` holds, if there is one.
    pub(crate) fn open(file: PathBuf, compiled: &Compiled) -> Self {
        let mut board = Self {
            saved_at: now(),
            objectives: BTreeMap::new(),
            rollouts: BTreeMap::new(),
            mover: Mover::We,
            keeping: Keeping::On,
            unsaved: None,
            file,
        };
        match read(&board.file) {
            Ok(saved) => board.restore(compiled, &saved.unwrap_or_default()),
            Err(why) => {
                board.stop_keeping(&why);
                board.begin(compiled, &why);
            }
        }
        board
    }

    fn restore(&mut self, compiled: &Compiled, saved: &Saved) {
        let now = now();
        for (name, slo) in &compiled.slos {
            let kept = saved.objectives.get(name.as_str());
            let (meter, warning) = match kept {
                Some(kept) => SloMeter::restore(slo.clone(), kept, now),
                None => (SloMeter::new(slo.clone()), None),
            };
            if let Some(warning) = warning {
                tracing::warn!(slo = %name, "its saved state {warning}");
            }
            self.objectives.insert(name.clone(), Objective::new(meter));
        }
        for (name, plan) in &compiled.rollouts {
            let restored = Rollout::restore(plan.clone(), saved.rollouts.get(name.as_str()).map(String::as_str), now);
            self.take_in(name, restored, None);
        }
    }

    /// Without what was kept: objectives count anew, and rollouts are held until an operator says what becomes of them.
    fn begin(&mut self, compiled: &Compiled, why: &str) {
        for (name, slo) in &compiled.slos {
            self.objectives.insert(name.clone(), Objective::new(SloMeter::new(slo.clone())));
        }
        for (name, plan) in &compiled.rollouts {
            self.take_in(name, Rollout::held_back(plan.clone(), why.to_owned(), now()), None);
        }
    }

    /// Safety: what is in the file may be a release that was rolled back. Neither forget it nor write over it.
    fn stop_keeping(&mut self, why: &str) {
        self.keeping = Keeping::Off;
        tracing::error!(
            file = %self.file.display(),
            why,
            "the state of releases cannot be read: rollouts are held, and nothing is written; repair the file or remove it, then reload"
        );
    }

    /// Whether the file has been repaired or removed since it could not be read.
    fn look_again(&mut self, compiled: &Compiled) -> Looked {
        match (self.keeping, read(&self.file)) {
            (Keeping::On, _) => Looked::Unchanged,
            (Keeping::Off, Err(why)) => {
                self.stop_keeping(&why);
                Looked::Unchanged
            }
            (Keeping::Off, Ok(found)) => {
                self.keeping = Keeping::On;
                tracing::info!(file = %self.file.display(), "the state of releases is kept again");
                let Some(saved) = found else { return Looked::Unchanged };
                (self.objectives, self.rollouts) = (BTreeMap::new(), BTreeMap::new());
                self.restore(compiled, &saved);
                Looked::Restored
            }
        }
    }

    /// After a reload: what goes on under its name goes on, the rest begins or is forgotten.
    pub(crate) fn update(&mut self, compiled: &Compiled) {
        if self.look_again(compiled) == Looked::Restored {
            return;
        }
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
                    // Requests of the old snapshot are still being counted; but a meter keeps its limit for good.
                    let same_limit = before.rollout.plan().slow_over() == plan.slow_over();
                    self.take_in(name, restored, same_limit.then(|| before.live.clone()));
                }
                None if self.keeping == Keeping::Off => {
                    let why = format!("{} cannot be read", self.file.display());
                    self.take_in(name, Rollout::held_back(plan.clone(), why, now), None);
                }
                None => self.take_in(name, Rollout::restore(plan.clone(), None, now), None),
            }
        }
    }

    /// A successor is about to read the file: writes it once more, and then leaves it and the releases alone.
    pub(crate) fn rest(&mut self) {
        self.save();
        self.mover = Mover::Successor;
    }

    /// There is no successor after all.
    pub(crate) fn go_on(&mut self) {
        self.mover = Mover::We;
    }

    fn take_in(&mut self, name: &ObjectName, restored: portcullis_rollout::Restored, live: Option<Arc<LiveRollout>>) {
        if let Some(notice) = &restored.notice {
            if notice.is_a_loss() {
                tracing::error!(rollout = %name, "{notice}");
            } else {
                tracing::warn!(rollout = %name, "{notice}");
            }
        }
        let slow_over = restored.rollout.plan().slow_over();
        let live = live.unwrap_or_else(|| Arc::new(LiveRollout::new(name.as_str(), slow_over)));
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
        if self.mover == Mover::Successor {
            return;
        }
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
        if self.mover == Mover::Successor {
            let (rollout, state) = (name.clone(), release.rollout.state().kind());
            let way_out = "a new process is taking over; tell it when it serves";
            return Some(Err(CommandRefused { rollout, command, state, way_out }));
        }
        let done = release.rollout.command(command, why, now).map(|transition| {
            tell(name, &transition);
            release.publish();
            release.rollout.status(now)
        });
        if done.is_ok() {
            self.save();
            if self.keeping == Keeping::Off {
                tracing::error!("the operator's word holds until a restart: the state of releases is not kept");
            }
        }
        Some(done)
    }

    /// Why what an operator says now is forgotten with this process.
    pub(crate) fn forgets(&self) -> Option<String> {
        match self.keeping {
            Keeping::Off => Some(format!("{}: it could not be read and is left as it is", self.file.display())),
            Keeping::On => self.unsaved.clone(),
        }
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
        let nothing = self.objectives.is_empty() && self.rollouts.is_empty();
        if nothing || self.mover == Mover::Successor || self.keeping == Keeping::Off {
            return;
        }
        let saved = Saved {
            objectives: self.objectives.iter().map(|(name, own)| (name.to_string(), own.meter.save())).collect(),
            rollouts: (self.rollouts.iter())
                .map(|(name, release)| (name.to_string(), release.rollout.save().to_json()))
                .collect(),
        };
        // Availability: a disk that is full must not stop a release from being served.
        let written = write_atomically(&self.file, &serde_json::to_vec(&saved).unwrap_or_default());
        if let Err(error) = &written {
            tracing::error!(file = %self.file.display(), %error, "the state of releases cannot be kept");
        }
        self.unsaved = written.err().map(|error| format!("{}: {error}", self.file.display()));
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

/// `None`: there is no file, so nothing was kept. Any other trouble is not the same: there may be a state that we must not forget.
fn read(file: &std::path::Path) -> Result<Option<Saved>, String> {
    match std::fs::read_to_string(file) {
        Ok(text) => serde_json::from_str(&text).map(Some).map_err(|error| error.to_string()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.to_string()),
    }
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
