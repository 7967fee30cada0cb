//! Decides from readings how much is shed. Arithmetic: neither a clock nor a file.
//!
//! The two resources differ. Memory follows the load late and shows how much of it is left, so the share shed grows with the
//! pressure. CPU follows the load at once and stands at 100 % whether twice or ten times as much is asked for as can be
//! done, so its pressure says only whether to shed more or less, and the share is steered.

use crate::overload::{Overload, ResourceLevel, ResourceLevels};
use portcullis_names::Percent;
use std::time::{Duration, Instant};

/// Decides for one process.
#[derive(Debug, Default)]
pub struct OverloadMonitor {
    memory: Memory,
    cpu: Cpu,
}

/// What was read at one moment; `None`: it could not be, or is not watched.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Reading {
    pub memory: Option<MemoryReading>,
    pub cpu: Option<CpuReading>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryReading {
    pub used_bytes: u64,
    pub limit_bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CpuReading {
    /// CPU time that the process has spent since it began.
    pub spent: Duration,
    /// How many seconds of it the process may spend in a second.
    pub cores: f64,
}

#[derive(Debug, Default)]
struct Memory {
    overloaded: bool,
}

#[derive(Debug, Default)]
struct Cpu {
    before: Option<(Instant, Duration)>,
    smoothed: Option<f64>,
    /// Share of requests let in while overloaded.
    admitted: Option<f64>,
}

/// Overload ends so far below its threshold, so that it does not come and go with every request.
const HYSTERESIS: f64 = 0.05;
/// CPU is shed towards the middle between where overload begins and where it ends.
const CPU_AIM_BELOW: f64 = HYSTERESIS / 2.0;
/// By how much a burst of CPU use outlasts itself: a garbage collection or a reload is no overload.
const CPU_SMOOTHING: Duration = Duration::from_secs(2);
/// CPU time is counted in ticks of 10 ms: over less than this, it is mostly rounding.
const CPU_SPAN_MIN: Duration = Duration::from_millis(50);
/// After a longer gap (a stopped machine), what lies before it is of no use.
const CPU_SPAN_MAX: Duration = Duration::from_secs(10);
/// In this time the share that is let in goes all the way to where the pressure would be right, if pressure were in
/// proportion to it and all were quick. It is not and they are not: half the way in each sample.
const CPU_STEP: Duration = Duration::from_millis(500);
/// The share that is let in grows by at most half in a sample: the pressure of an idle moment asks for any multiple.
const CPU_GROWTH_MAX: f64 = 1.5;
/// Turning requests away costs CPU too, so shedding all of them may not be enough; and who gets in is who tells that it
/// is over.
const CPU_ADMITTED_MIN: f64 = 0.05;

impl OverloadMonitor {
    /// What follows from a reading. A resource that could not be read is not shed for: availability fails open.
    pub fn observe(&mut self, now: Instant, plan: &Overload, reading: &Reading) -> ResourceLevels {
        let memory = match (plan.memory, reading.memory) {
            (Some(watch), Some(memory)) => self.memory.observe(watch.threshold, memory),
            (_, None) | (None, _) => {
                self.memory = Memory::default();
                ResourceLevel::default()
            }
        };
        let cpu = match (plan.cpu, reading.cpu) {
            (Some(threshold), Some(cpu)) => self.cpu.observe(now, threshold, cpu),
            (_, None) | (None, _) => {
                self.cpu = Cpu::default();
                ResourceLevel::default()
            }
        };
        ResourceLevels { memory, cpu }
    }
}

impl Memory {
    fn observe(&mut self, threshold: Percent, reading: MemoryReading) -> ResourceLevel {
        let pressure = reading.used_bytes as f64 / reading.limit_bytes.max(1) as f64;
        let off_below = threshold.fraction() - HYSTERESIS;
        self.overloaded = pressure > threshold.fraction() || (self.overloaded && pressure >= off_below);
        // From nothing where overload ends to all where memory does.
        let shed = if self.overloaded { ((pressure - off_below) / (1.0 - off_below)).clamp(0.0, 1.0) } else { 0.0 };
        ResourceLevel { pressure: Some(pressure), overloaded: self.overloaded, shed }
    }
}

impl Cpu {
    fn observe(&mut self, now: Instant, threshold: Percent, reading: CpuReading) -> ResourceLevel {
        let (at, spent) = *self.before.get_or_insert((now, reading.spent));
        let span = now.saturating_duration_since(at);
        if span > CPU_SPAN_MAX {
            *self = Self { before: Some((now, reading.spent)), ..Self::default() };
        } else if span >= CPU_SPAN_MIN {
            self.before = Some((now, reading.spent));
            let possible = span.as_secs_f64() * reading.cores.max(f64::MIN_POSITIVE);
            self.weigh(threshold.fraction(), reading.spent.saturating_sub(spent).as_secs_f64() / possible, span);
        }
        let shed = self.admitted.map_or(0.0, |admitted| 1.0 - admitted);
        ResourceLevel { pressure: self.smoothed, overloaded: self.admitted.is_some(), shed }
    }

    fn weigh(&mut self, threshold: f64, pressure: f64, span: Duration) {
        let weight = 1.0 - (-span.as_secs_f64() / CPU_SMOOTHING.as_secs_f64()).exp();
        // The first seconds of a process, which compile and connect, count against an idle past.
        let smoothed = self.smoothed.unwrap_or(0.0);
        let smoothed = smoothed + weight * (pressure - smoothed);
        self.smoothed = Some(smoothed);
        if self.admitted.is_none() && smoothed <= threshold {
            return;
        }
        let aim = threshold - CPU_AIM_BELOW;
        let part = (span.as_secs_f64() / CPU_STEP.as_secs_f64()).min(1.0);
        let step = (aim / pressure.max(0.01)).powf(part).min(CPU_GROWTH_MAX);
        let admitted = (self.admitted.unwrap_or(1.0) * step).clamp(CPU_ADMITTED_MIN, 1.0);
        let over = admitted >= 1.0 && smoothed < threshold - HYSTERESIS;
        self.admitted = (!over).then_some(admitted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::overload::{MemoryLimit, MemoryWatch, OverloadAction};

    const TICK: Duration = Duration::from_millis(250);

    fn plan(memory: u32, cpu: u32) -> Overload {
        let watch = MemoryWatch { threshold: Percent::from_whole(memory), against: MemoryLimit::CgroupOrMachine };
        let cpu = Some(Percent::from_whole(cpu));
        Overload { memory: Some(watch), cpu, action: OverloadAction::Shed }
    }

    fn memory(percent: f64) -> Reading {
        let used_bytes = (percent * 1e7) as u64;
        Reading { memory: Some(MemoryReading { used_bytes, limit_bytes: 1_000_000_000 }), cpu: None }
    }

    /// Memory in percent, one after the other; the share shed, in percent; `-` for no overload.
    #[track_caller]
    fn memory_sheds(threshold: u32, percents: &[f64], expected: &str) {
        let mut monitor = OverloadMonitor::default();
        let said: Vec<String> = percents
            .iter()
            .map(|percent| {
                let level = monitor.observe(Instant::now(), &plan(threshold, 90), &memory(*percent)).memory;
                if level.overloaded { format!("{:.0}", level.shed * 100.0) } else { "-".to_owned() }
            })
            .collect();
        assert_eq!(said.join(" "), expected, "{percents:?} at {threshold}%");
    }

    #[test]
    fn memory_sheds_the_more_the_less_is_left_until_five_points_below() {
        memory_sheds(85, &[0.0, 50.0, 85.0], "- - -");
        memory_sheds(85, &[85.1, 90.0, 95.0, 100.0, 130.0], "26 50 75 100 100");
        memory_sheds(85, &[82.0, 86.0, 82.0, 80.0, 79.9, 82.0, 85.0, 86.0], "- 30 10 0 - - - 30");
        memory_sheds(95, &[94.0, 96.0, 91.0, 89.0], "- 60 10 -");
        memory_sheds(10, &[9.0, 11.0, 6.0, 4.9], "- 6 1 -");
        memory_sheds(99, &[98.0, 100.0, 94.0], "- 100 0");
    }

    /// CPU use that follows what is let in.
    struct Cpus {
        monitor: OverloadMonitor,
        now: Instant,
        spent: Duration,
        level: ResourceLevel,
        random: u64,
    }

    impl Cpus {
        fn new() -> Self {
            let (monitor, level) = (OverloadMonitor::default(), ResourceLevel::default());
            Self { monitor, now: Instant::now(), spent: Duration::ZERO, level, random: 1 }
        }

        /// `load`: what is asked for, in parts of what can be done; turning away costs `refusing` of serving. Gives the
        /// pressure and the share shed of each tick.
        fn run(&mut self, span: Duration, load: f64, refusing: f64) -> Vec<(f64, f64)> {
            let ticks = span.as_millis() / TICK.as_millis();
            (0..ticks).map(|_| self.tick(TICK, load, refusing)).collect()
        }

        fn tick(&mut self, span: Duration, load: f64, refusing: f64) -> (f64, f64) {
            self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            // A tenth up or down.
            let noise = 0.9 + (self.random >> 40) as f64 / (1_u64 << 24) as f64 / 5.0;
            let shed = self.level.shed;
            let used = (load * noise * ((1.0 - shed) + refusing * shed)).min(1.0);
            self.now += span;
            self.spent += (span * 4).mul_f64(used);
            let ticks = self.spent.as_millis() / 10 * 10;
            let spent = Duration::from_millis(u64::try_from(ticks).unwrap());
            let reading = Reading { memory: None, cpu: Some(CpuReading { spent, cores: 4.0 }) };
            self.level = self.monitor.observe(self.now, &plan(85, 90), &reading).cpu;
            (used, shed)
        }
    }

    fn mean(of: impl Iterator<Item = f64> + Clone) -> f64 {
        of.clone().sum::<f64>() / of.count() as f64
    }

    #[test]
    fn cpu_sheds_what_is_too_much_and_settles() {
        for (load, refusing) in [(1.0, 0.05), (1.2, 0.05), (2.0, 0.1), (3.0, 0.0), (5.0, 0.05), (10.0, 0.03)] {
            let mut cpus = Cpus::new();
            cpus.run(Duration::from_secs(20), load, refusing);
            let seen = cpus.run(Duration::from_secs(60), load, refusing);
            let pressure = mean(seen.iter().map(|(pressure, _)| *pressure));
            assert!((0.85..0.92).contains(&pressure), "{load}: {pressure}");
            let shed = mean(seen.iter().map(|(_, shed)| *shed));
            let needed = (1.0 - 0.875 / load) / (1.0 - refusing);
            assert!((shed - needed).abs() < 0.05, "{load}: sheds {shed}, needs {needed}");
            let (least, most) =
                seen.iter().fold((1.0_f64, 0.0_f64), |(least, most), (_, shed)| (least.min(*shed), most.max(*shed)));
            assert!(most - least < 0.25, "{load}: {least} to {most}");
        }
    }

    #[test]
    fn cpu_begins_after_some_seconds_and_not_for_a_burst() {
        let mut cpus = Cpus::new();
        cpus.run(Duration::from_secs(20), 0.5, 0.0);
        for _ in 0..20 {
            let burst = cpus.run(Duration::from_secs(1), 5.0, 0.0);
            assert!(burst.iter().all(|(_, shed)| *shed == 0.0), "{burst:?}");
            cpus.run(Duration::from_secs(5), 0.5, 0.0);
        }
        let seen = cpus.run(Duration::from_secs(10), 5.0, 0.0);
        let begins = seen.iter().position(|(_, shed)| *shed > 0.0).unwrap();
        assert!((6..20).contains(&begins), "after {begins} ticks");
    }

    #[test]
    fn cpu_ends_soon_after_the_load() {
        for load in [1.5, 10.0] {
            let mut cpus = Cpus::new();
            cpus.run(Duration::from_secs(30), load, 0.01);
            assert!(cpus.level.overloaded);
            let seen = cpus.run(Duration::from_secs(6), 0.4, 0.01);
            assert!(!cpus.level.overloaded, "{load}: {seen:?}");
        }
    }

    #[test]
    fn cpu_below_the_threshold_is_never_shed() {
        for load in [0.0, 0.3, 0.7, 0.85] {
            let seen = Cpus::new().run(Duration::from_secs(600), load, 0.0);
            assert!(seen.iter().all(|(_, shed)| *shed == 0.0), "{load}");
        }
    }

    #[test]
    fn cpu_lets_some_in_even_where_turning_away_is_too_much() {
        let mut cpus = Cpus::new();
        cpus.run(Duration::from_secs(60), 30.0, 0.5);
        assert!((cpus.level.shed - 0.95).abs() < 1e-9, "{:?}", cpus.level);
    }

    #[test]
    fn late_and_early_samples_do_not_upset_it() {
        let mut cpus = Cpus::new();
        for round in 0..400_u64 {
            cpus.tick(Duration::from_millis([250, 10, 900, 0, 250, 60][(round % 6) as usize]), 2.0, 0.0);
        }
        assert!((0.4..0.7).contains(&cpus.level.shed), "{:?}", cpus.level);
        cpus.tick(Duration::from_secs(3600), 2.0, 0.0);
        assert_eq!(cpus.level, ResourceLevel::default(), "a machine that slept");
    }

    #[test]
    fn what_cannot_be_read_or_is_watched_no_more_is_not_shed_for() {
        let mut monitor = OverloadMonitor::default();
        let now = Instant::now();
        let full = memory(99.0);
        assert!(monitor.observe(now, &plan(85, 90), &full).memory.overloaded);
        assert_eq!(monitor.observe(now, &plan(85, 90), &Reading::default()), ResourceLevels::default());
        assert!(!monitor.observe(now, &plan(85, 90), &memory(83.0)).memory.overloaded, "it begins anew");
        assert!(monitor.observe(now, &plan(85, 90), &full).memory.overloaded);
        assert_eq!(monitor.observe(now, &Overload::OFF, &full), ResourceLevels::default());
    }

    #[test]
    fn memory_that_follows_the_load_late_settles_below_the_limit() {
        for load in [1.0, 1.5, 3.0] {
            let (mut monitor, mut used, mut seen) = (OverloadMonitor::default(), 30.0, Vec::new());
            let mut shed = 0.0;
            for _ in 0..1_200 {
                // A third of the memory is there always; the rest follows the requests within some seconds.
                let wanted = 30.0 + 70.0 * load * (1.0 - shed);
                used += (wanted - used) * 0.08;
                shed = monitor.observe(Instant::now(), &plan(85, 90), &memory(used)).memory.shed;
                seen.push(used);
            }
            let most = seen.iter().fold(0.0_f64, |most, used| most.max(*used));
            assert!(most < 100.0, "{load}: {most}");
        }
    }
}
