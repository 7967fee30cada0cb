//! Whether requests are turned away because memory or CPU gives out, and which: what the data path asks.
//!
//! Measures nothing: [`crate::OverloadMonitor`] decides from readings, and [`crate::OverloadSampler`] takes them and writes
//! the outcome here. Kept over reloads; a new configuration is adopted.

use portcullis_names::Percent;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

/// What is watched, and what follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overload {
    pub memory: Option<MemoryWatch>,
    /// Above this share of the CPU time that the process may use, requests are shed.
    pub cpu: Option<Percent>,
    pub action: OverloadAction,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryWatch {
    pub threshold: Percent,
    pub against: MemoryLimit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryLimit {
    /// That of the control group; without one, nothing is watched.
    Cgroup,
    /// That of the control group; without one, what the machine has.
    CgroupOrMachine,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OverloadAction {
    /// Answers a share of the requests with 503.
    #[default]
    Shed,
    /// Counts what it would shed, and sheds nothing.
    Shadow,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Resource {
    Memory,
    Cpu,
}

/// The data path's handle; clones are the same one.
#[derive(Debug, Clone)]
pub struct Shedding(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// [`Orders`] in one word, so that the data path loads once.
    orders: AtomicU64,
    counts: [[AtomicU64; 2]; 2],
    slow: Mutex<Slow>,
}

/// What only the sampler, reloads and admin touch.
#[derive(Debug)]
struct Slow {
    plan: Overload,
    levels: ResourceLevels,
}

/// How it stands with both resources.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct ResourceLevels {
    pub memory: ResourceLevel,
    pub cpu: ResourceLevel,
}

/// How it stands with one resource.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct ResourceLevel {
    /// Used share of what there is; `None`: not watched, or not known.
    pub pressure: Option<f64>,
    /// Whether it went above its threshold and has not come back far enough since.
    pub overloaded: bool,
    /// Share of requests that are shed for it, from 0 to 1.
    pub shed: f64,
}

/// For admin and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct OverloadState {
    pub action: OverloadAction,
    pub memory: ResourceState,
    pub cpu: ResourceState,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ResourceState {
    pub threshold: Option<Percent>,
    #[serde(flatten)]
    pub level: ResourceLevel,
    /// Requests shed for it since the process began.
    pub shed_total: u64,
    /// Requests that it would have shed, were the action not "shadow".
    pub shadowed_total: u64,
}

/// Of 2^32 requests, half: in the middle between where shedding ends and the limit. By default that is 95 % of it, where
/// Envoy's edge example frees what it can; at 98 % it stops accepting.
const SHORT_OF_MEMORY_FROM: u32 = u32::MAX / 2;

/// What the data path has to do.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Orders {
    /// Of 2^32 requests.
    share: u32,
    resource: Resource,
    action: OverloadAction,
}

/// With a limit on memory the kernel kills the process, and with it every connection, where there is no more: turning some
/// requests away before is better in any case, so this is watched unasked, and late. Without one, and for CPU, what is too
/// much depends on what else the machine is for: nothing is shed until it is asked for.
impl Default for Overload {
    fn default() -> Self {
        let memory = MemoryWatch { threshold: Percent::from_whole(95), against: MemoryLimit::Cgroup };
        Self { memory: Some(memory), ..Self::OFF }
    }
}

impl Overload {
    pub const OFF: Self = Self { memory: None, cpu: None, action: OverloadAction::Shed };
}

impl Resource {
    pub const ALL: [Self; 2] = [Self::Memory, Self::Cpu];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
        }
    }
}

impl ResourceLevels {
    pub fn of(&self, resource: Resource) -> &ResourceLevel {
        match resource {
            Resource::Memory => &self.memory,
            Resource::Cpu => &self.cpu,
        }
    }
}

impl OverloadState {
    pub fn of(&self, resource: Resource) -> &ResourceState {
        match resource {
            Resource::Memory => &self.memory,
            Resource::Cpu => &self.cpu,
        }
    }
}

impl Shedding {
    /// Sheds nothing until a sampler says so.
    pub fn new(plan: Overload) -> Self {
        let slow = Mutex::new(Slow { plan, levels: ResourceLevels::default() });
        Self(Arc::new(Shared { orders: AtomicU64::new(0), counts: Default::default(), slow }))
    }

    /// After a reload; takes effect with the next sample.
    pub fn adopt(&self, plan: Overload) {
        self.slow().plan = plan;
    }

    pub fn plan(&self) -> Overload {
        self.slow().plan
    }

    /// Whether this request is answered 503 instead of being served. `draw` is uniform over all of `u64`. Counts it.
    pub fn sheds(&self, draw: u64) -> bool {
        let Some(orders) = Orders::unpack(self.0.orders.load(Ordering::Relaxed)) else { return false };
        if draw >> 32 >= u64::from(orders.share) {
            return false;
        }
        self.count(orders.resource, orders.action).fetch_add(1, Ordering::Relaxed);
        orders.action == OverloadAction::Shed
    }

    /// Whether memory is so short that even those who are turned away with an answer are too many: no new connection is
    /// taken, and bodies of the requests that were let in are read slowly. For CPU neither would save anything.
    pub fn is_short_of_memory(&self) -> bool {
        Orders::unpack(self.0.orders.load(Ordering::Relaxed)).is_some_and(|orders| {
            orders.resource == Resource::Memory
                && orders.action == OverloadAction::Shed
                && orders.share >= SHORT_OF_MEMORY_FROM
        })
    }

    pub fn state(&self) -> OverloadState {
        let Slow { plan, levels } = *self.slow();
        let of = |resource, threshold| ResourceState {
            threshold,
            level: *levels.of(resource),
            shed_total: self.count(resource, OverloadAction::Shed).load(Ordering::Relaxed),
            shadowed_total: self.count(resource, OverloadAction::Shadow).load(Ordering::Relaxed),
        };
        OverloadState {
            action: plan.action,
            memory: of(Resource::Memory, plan.memory.map(|memory| memory.threshold)),
            cpu: of(Resource::Cpu, plan.cpu),
        }
    }

    /// What the monitor has decided.
    pub(crate) fn publish(&self, levels: ResourceLevels, action: OverloadAction) {
        self.slow().levels = levels;
        let worst = if levels.memory.shed >= levels.cpu.shed { Resource::Memory } else { Resource::Cpu };
        // The cast saturates.
        let share = (levels.of(worst).shed * f64::from(u32::MAX)).round() as u32;
        self.0.orders.store(Orders { share, resource: worst, action }.pack(), Ordering::Relaxed);
    }

    fn count(&self, resource: Resource, action: OverloadAction) -> &AtomicU64 {
        let [memory, cpu] = &self.0.counts;
        let [shed, shadowed] = match resource {
            Resource::Memory => memory,
            Resource::Cpu => cpu,
        };
        match action {
            OverloadAction::Shed => shed,
            OverloadAction::Shadow => shadowed,
        }
    }

    fn slow(&self) -> MutexGuard<'_, Slow> {
        self.0.slow.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const CPU_BIT: u64 = 1;
const SHADOW_BIT: u64 = 2;

impl Orders {
    fn pack(self) -> u64 {
        let resource = match self.resource {
            Resource::Memory => 0,
            Resource::Cpu => CPU_BIT,
        };
        let action = match self.action {
            OverloadAction::Shed => 0,
            OverloadAction::Shadow => SHADOW_BIT,
        };
        u64::from(self.share) << 32 | resource | action
    }

    /// `None`: nothing is shed.
    fn unpack(word: u64) -> Option<Self> {
        // What is above 32 bits after the shift is nothing.
        let share = (word >> 32) as u32;
        let resource = if word & CPU_BIT == 0 { Resource::Memory } else { Resource::Cpu };
        let action = if word & SHADOW_BIT == 0 { OverloadAction::Shed } else { OverloadAction::Shadow };
        (share > 0).then_some(Self { share, resource, action })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn levels(memory: f64, cpu: f64) -> ResourceLevels {
        let level = |shed| ResourceLevel { pressure: Some(0.9), overloaded: shed > 0.0, shed };
        ResourceLevels { memory: level(memory), cpu: level(cpu) }
    }

    /// Of 1000 evenly spread draws.
    fn shed_of_1000(shedding: &Shedding) -> usize {
        (0..1_000_u64).filter(|n| shedding.sheds(n * (u64::MAX / 1_000))).count()
    }

    #[test]
    fn the_larger_share_is_shed_and_counted_where_it_comes_from() {
        for (memory, cpu, expected) in
            [(0.0, 0.0, 0), (0.25, 0.0, 250), (0.25, 0.5, 500), (1.0, 0.5, 1_000), (0.0, 0.001, 1)]
        {
            let shedding = Shedding::new(Overload::default());
            shedding.publish(levels(memory, cpu), OverloadAction::Shed);
            let shed = shed_of_1000(&shedding);
            assert!(shed.abs_diff(expected) <= 1, "{memory} {cpu}: {shed}");
            let worst = if memory >= cpu { Resource::Memory } else { Resource::Cpu };
            let state = shedding.state();
            assert_eq!(state.of(worst).shed_total, shed as u64);
            assert_eq!(state.memory.shed_total + state.cpu.shed_total, shed as u64);
        }
    }

    #[test]
    fn a_shadow_counts_and_sheds_nothing() {
        let shedding = Shedding::new(Overload::default());
        shedding.publish(levels(0.0, 0.5), OverloadAction::Shadow);
        assert_eq!(shed_of_1000(&shedding), 0);
        let cpu = shedding.state().cpu;
        assert!(cpu.shed_total == 0 && cpu.shadowed_total.abs_diff(500) <= 1, "{cpu:?}");
    }

    #[test]
    fn memory_is_short_when_half_of_the_requests_are_shed_for_it() {
        for (memory, cpu, action, expected) in [
            (0.49, 0.0, OverloadAction::Shed, false),
            (0.51, 0.0, OverloadAction::Shed, true),
            (1.0, 0.0, OverloadAction::Shadow, false),
            (0.9, 0.95, OverloadAction::Shed, false),
            (0.0, 0.0, OverloadAction::Shed, false),
        ] {
            let shedding = Shedding::new(Overload::default());
            shedding.publish(levels(memory, cpu), action);
            assert_eq!(shedding.is_short_of_memory(), expected, "{memory} {cpu} {action:?}");
        }
    }

    #[test]
    fn nothing_is_shed_before_the_first_sample_and_all_at_a_share_of_one() {
        let shedding = Shedding::new(Overload::default());
        assert!(!shedding.sheds(0));
        shedding.publish(levels(1.0, 0.0), OverloadAction::Shed);
        assert!(shedding.sheds(0) && shedding.sheds(u64::MAX >> 1));
    }

    #[test]
    fn admin_sees_the_resources_by_name() {
        let shedding = Shedding::new(Overload::default());
        shedding.publish(levels(0.5, 0.0), OverloadAction::Shed);
        let json = serde_json::to_value(shedding.state()).unwrap();
        assert_eq!(json["memory"]["threshold"], "95%");
        assert_eq!((&json["memory"]["shed"], &json["action"]), (&0.5.into(), &"shed".into()));
        assert_eq!(json["cpu"]["threshold"], serde_json::Value::Null);
    }
}
