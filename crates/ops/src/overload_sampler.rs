//! Takes a reading four times a second, oftener when memory is short, and says what follows from it. Everything that can be got wrong is in
//! [`crate::OverloadMonitor`] and [`crate::OverloadSources`].

use crate::{
    Overload, OverloadMonitor, OverloadSources, Shedding,
    overload::{Resource, ResourceLevels},
    overload_monitor::Reading,
    overload_sources::ReadError,
};
use std::time::{Duration, Instant};

/// One for each process.
#[derive(Debug)]
pub struct OverloadSampler {
    sources: OverloadSources,
    shedding: Shedding,
    monitor: OverloadMonitor,
    levels: ResourceLevels,
    memory: Readable,
    cpu: Readable,
}

/// Whether the last reading worked: a file that is not there is not there four times a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Readable {
    Yes,
    No,
}

const INTERVAL: Duration = Duration::from_millis(250);
/// Where memory is nearly overloaded: at a gigabit a second 6 MB arrive in this time.
const INTERVAL_NEAR: Duration = Duration::from_millis(50);
/// How near, as a share of the limit.
const NEAR: f64 = 0.1;

impl OverloadSampler {
    pub fn new(sources: OverloadSources, shedding: Shedding) -> Self {
        let (monitor, levels) = (OverloadMonitor::default(), ResourceLevels::default());
        Self { sources, shedding, monitor, levels, memory: Readable::Yes, cpu: Readable::Yes }
    }

    /// Until the future is dropped. The files are the kernel's own: reading them waits for no disk.
    pub async fn run(mut self) {
        loop {
            self.sample(Instant::now());
            tokio::time::sleep(self.interval()).await;
        }
    }

    fn interval(&self) -> Duration {
        let (memory, plan) = (self.levels.memory.pressure, self.shedding.plan().memory);
        match (memory, plan) {
            (Some(pressure), Some(watch)) if pressure > watch.threshold.fraction() - NEAR => INTERVAL_NEAR,
            (Some(_) | None, Some(_) | None) => INTERVAL,
        }
    }

    /// One reading, and what follows.
    pub fn sample(&mut self, now: Instant) {
        let plan = self.shedding.plan();
        let reading = self.read(&plan);
        let levels = self.monitor.observe(now, &plan, &reading);
        self.shedding.publish(levels, plan.action);
        for resource in Resource::ALL {
            let (before, after) = (self.levels.of(resource), levels.of(resource));
            let pressure = after.pressure;
            match (before.overloaded, after.overloaded) {
                (false, true) => {
                    tracing::warn!(resource = resource.as_str(), pressure, action = ?plan.action, "overload begins");
                }
                (true, false) => tracing::info!(resource = resource.as_str(), pressure, "overload is over"),
                (true, true) | (false, false) => {}
            }
        }
        self.levels = levels;
    }

    fn read(&mut self, plan: &Overload) -> Reading {
        let memory = plan
            .memory
            .and_then(|watch| self.memory.checked(Resource::Memory, self.sources.memory(watch.against)).flatten());
        let cpu = plan.cpu.and_then(|_| self.cpu.checked(Resource::Cpu, self.sources.cpu()));
        Reading { memory, cpu }
    }
}

impl Readable {
    fn checked<T>(&mut self, resource: Resource, read: Result<T, ReadError>) -> Option<T> {
        let news = self.turns(if read.is_ok() { Self::Yes } else { Self::No });
        let resource = resource.as_str();
        match read {
            Ok(value) => {
                if news.is_some() {
                    tracing::info!(resource, "overload can be measured again");
                }
                Some(value)
            }
            // Availability fails open: what cannot be measured is not shed for.
            Err(error) => {
                if news.is_some() {
                    tracing::warn!(resource, %error, "overload cannot be measured: nothing is shed for it");
                }
                None
            }
        }
    }

    /// `None`: as it was.
    fn turns(&mut self, now: Self) -> Option<Self> {
        let before = std::mem::replace(self, now);
        (before != now).then_some(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MemoryLimit, MemoryWatch, OverloadAction, OverloadState};
    use portcullis_names::Percent;
    use std::path::Path;

    /// A sampler before files that a test writes.
    struct Bench {
        folder: tempfile::TempDir,
        sampler: OverloadSampler,
        shedding: Shedding,
        now: Instant,
    }

    fn plan(memory: u32, cpu: u32) -> Overload {
        let watch = MemoryWatch { threshold: Percent::from_whole(memory), against: MemoryLimit::Cgroup };
        Overload { memory: Some(watch), cpu: Some(Percent::from_whole(cpu)), action: OverloadAction::Shed }
    }

    fn write(folder: &Path, name: &str, text: &str) {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    impl Bench {
        fn new(plan: Overload) -> Self {
            let folder = tempfile::tempdir().unwrap();
            for (name, text) in [
                ("proc/self/cgroup", "0::/box\n"),
                ("cgroup/box/memory.max", "1000\n"),
                ("cgroup/box/memory.stat", "inactive_file 100\n"),
                ("cgroup/box/cpu.max", "200000 100000\n"),
            ] {
                write(folder.path(), name, text);
            }
            let sources = OverloadSources::at(&folder.path().join("proc"), &folder.path().join("cgroup"), 8);
            let shedding = Shedding::new(plan);
            let sampler = OverloadSampler::new(sources, shedding.clone());
            let mut bench = Self { folder, sampler, shedding, now: Instant::now() };
            bench.uses(0, 0);
            bench.sampler.sample(bench.now);
            bench
        }

        fn uses(&mut self, memory: u32, ticks: u64) {
            write(self.folder.path(), "cgroup/box/memory.current", &format!("{}\n", memory + 100));
            let stat = format!("7 (gate) R 1 7 1 0 -1 4194304 100 0 0 0 {ticks} 0 0 0 20 0 5 0 2468\n");
            write(self.folder.path(), "proc/self/stat", &stat);
        }

        fn sample(&mut self) -> OverloadState {
            self.now += INTERVAL;
            self.sampler.sample(self.now);
            self.shedding.state()
        }
    }

    #[test]
    fn files_become_shed_requests_and_none_again() {
        let mut bench = Bench::new(plan(85, 90));
        bench.uses(850, 0);
        assert!(!bench.sample().memory.level.overloaded && !bench.shedding.sheds(0));
        assert_eq!(bench.sampler.interval(), INTERVAL_NEAR, "the next look is soon");
        bench.uses(950, 0);
        let state = bench.sample();
        assert!((state.memory.level.shed - 0.75).abs() < 1e-6 && state.memory.level.overloaded, "{state:?}");
        assert!(bench.shedding.sheds(u64::MAX / 4 * 3 - 1_000_000_000_000) && !bench.shedding.sheds(u64::MAX / 10 * 9));
        bench.uses(799, 0);
        assert!(!bench.sample().memory.level.overloaded && !bench.shedding.sheds(0));
        bench.uses(700, 0);
        bench.sample();
        assert_eq!((bench.shedding.state().memory.shed_total, bench.sampler.interval()), (1, INTERVAL));
    }

    #[test]
    fn cpu_time_is_seen_against_the_quota() {
        let mut bench = Bench::new(plan(85, 90));
        let a_second = rustix::param::clock_ticks_per_second();
        let mut ticks = 0;
        for _ in 0..40 {
            // Two CPUs' worth, of the two that there are.
            ticks += a_second / 2;
            bench.uses(0, ticks);
            bench.sample();
        }
        let state = bench.shedding.state();
        assert!(state.cpu.level.overloaded && state.cpu.level.shed > 0.2, "{state:?}");
        for _ in 0..40 {
            bench.uses(0, ticks);
            bench.sample();
        }
        assert!(!bench.shedding.state().cpu.level.overloaded);
    }

    #[test]
    fn a_new_plan_holds_from_the_next_sample() {
        let mut bench = Bench::new(Overload::OFF);
        bench.uses(950, 0);
        assert_eq!(bench.sample().memory.level.pressure, None);
        bench.shedding.adopt(Overload { action: OverloadAction::Shadow, ..plan(85, 90) });
        assert!(bench.sample().memory.level.overloaded && !bench.shedding.sheds(0));
        assert_eq!(bench.shedding.state().memory.shadowed_total, 1);
        bench.shedding.adopt(Overload::OFF);
        assert!(!bench.sample().memory.level.overloaded);
    }

    #[test]
    fn what_cannot_be_read_is_not_shed_for() {
        let mut bench = Bench::new(plan(85, 90));
        bench.uses(950, 0);
        assert!(bench.sample().memory.level.overloaded);
        std::fs::remove_file(bench.folder.path().join("cgroup/box/memory.current")).unwrap();
        for _ in 0..5 {
            assert!(!bench.sample().memory.level.overloaded && !bench.shedding.sheds(0));
            assert_eq!((bench.sampler.memory, bench.sampler.cpu), (Readable::No, Readable::Yes));
        }
        bench.uses(950, 0);
        assert!(bench.sample().memory.level.overloaded);
    }

    #[test]
    fn only_a_turn_is_news() {
        let mut readable = Readable::Yes;
        let news: Vec<_> = [Readable::Yes, Readable::No, Readable::No, Readable::No, Readable::Yes, Readable::Yes]
            .map(|now| readable.turns(now))
            .into();
        assert_eq!(news, [None, Some(Readable::No), None, None, Some(Readable::Yes), None]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_task_samples_four_times_a_second() {
        let bench = Bench::new(plan(85, 90));
        let Bench { folder, sampler, shedding, .. } = bench;
        let task = tokio::spawn(sampler.run());
        write(folder.path(), "cgroup/box/memory.current", "1050\n");
        tokio::time::sleep(INTERVAL * 2).await;
        assert!(shedding.state().memory.level.overloaded);
        task.abort();
    }
}
