//! Who may be picked at this moment, and in which shares: worked out when health changes, not per request.

use crate::{
    Endpoint, Policy,
    balance::{Balance, Locality, next_draw, smooth_round},
};
use portcullis_health::HealthState;
use std::time::{Duration, Instant};

/// The usable endpoints of an upstream by priority, with each level's share of the requests.
#[derive(Debug, Default)]
pub(crate) struct View {
    /// Of the changes it has seen.
    pub(crate) epoch: u64,
    /// When time alone makes it old: an ejection ends, a slow start goes on.
    pub(crate) until: Option<Instant>,
    /// Shares are cumulative, of `WHOLE`.
    levels: Vec<(u64, Level)>,
    /// Endpoints that may have only one request at a time.
    trials: Vec<usize>,
}

#[derive(Debug)]
struct Level {
    all: Group,
    /// The endpoints of the own zone, and the share of the level's requests that they can carry.
    local: Option<(u64, Group)>,
}

/// Endpoints with their weights.
#[derive(Debug, Default)]
pub(crate) struct Group {
    members: Vec<usize>,
    /// Cumulative.
    weights: Vec<u64>,
    /// Indices into `members`; only for round robin.
    round: Vec<u32>,
}

/// What a view is made from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sight<'s> {
    pub(crate) endpoints: &'s [Endpoint],
    pub(crate) balance: &'s Balance,
    pub(crate) panic_threshold: f64,
    pub(crate) zone: Option<&'s str>,
    pub(crate) epoch: u64,
    pub(crate) now: Instant,
}

const WHOLE: u64 = 1 << 32;
/// A level counts as whole as long as this many times its usable share is (Envoy's overprovisioning factor).
const OVERPROVISION: f64 = 1.4;
/// The share that an endpoint begins a slow start with.
const SLOW_START_FLOOR: f64 = 0.1;
/// How often shares are raised while an endpoint starts slowly.
const SLOW_START_STEP: Duration = Duration::from_millis(500);

impl View {
    /// Of no epoch that there is: made when first asked for.
    pub(crate) fn unmade() -> Self {
        Self { epoch: u64::MAX, ..Self::default() }
    }

    pub(crate) fn new(sight: Sight<'_>) -> Self {
        let mut view = Self { epoch: sight.epoch, ..Self::default() };
        let states: Vec<HealthState> = sight.endpoints.iter().map(|endpoint| endpoint.state.state(sight.now)).collect();
        view.trials = indices(&states, |state| state == HealthState::Trial);
        let weights = view.weights(sight, &states);
        let mut priorities: Vec<u32> = sight.endpoints.iter().map(|endpoint| endpoint.priority).collect();
        priorities.sort_unstable();
        priorities.dedup();

        let levels: Vec<Standing> =
            priorities.iter().map(|priority| Standing::of(*priority, sight.endpoints, &states)).collect();
        let sum: f64 = levels.iter().map(Standing::availability).sum();
        let (mut left, mut upto) = (1.0, 0.0);
        for level in &levels {
            // With enough in all, each level takes what it can and the next one the rest; with too little, by their means.
            let share = match sum {
                0.0 => {
                    if level.priority == priorities.first().copied().unwrap_or(0) {
                        1.0
                    } else {
                        0.0
                    }
                }
                sum if sum < 1.0 => level.availability() / sum,
                _ => level.availability().min(left),
            };
            left -= share;
            // Health is not believed when too much of a level is down (availability fails open: a probe that lies must not
            // stop all traffic), unless other levels carry the load.
            let panic = sum < 1.0 && level.usable_share() < sight.panic_threshold || sum == 0.0;
            let members = indices(&states, |state| if panic { !state.is_withheld() } else { state.is_usable() })
                .into_iter()
                .filter(|index| {
                    sight.endpoints.get(*index).is_some_and(|endpoint| endpoint.priority == level.priority)
                });
            // Without a share too: for the retries of those before.
            if let Some(level) = Level::new(members.collect(), &weights, sight) {
                upto += share;
                view.levels.push(((upto * WHOLE as f64) as u64, level));
            }
        }
        view
    }

    /// Weights with slow start, and when the view becomes old.
    fn weights(&mut self, sight: Sight<'_>, states: &[HealthState]) -> Vec<u64> {
        let mut until: Option<Instant> = None;
        let mut soonest = |at: Instant| until = Some(until.map_or(at, |until| until.min(at)));
        let weights = sight.endpoints.iter().zip(states).map(|(endpoint, state)| {
            let health = endpoint.state.health();
            if let Some(at) = health.changes_at(sight.now) {
                soonest(at);
            }
            let Some(window) = sight.balance.slow_start else { return u64::from(endpoint.weight) };
            let age = sight.now.saturating_duration_since(health.since());
            let mut factor = 1.0;
            if state.is_usable() && age < window {
                soonest(sight.now + SLOW_START_STEP);
                factor = (age.as_secs_f64() / window.as_secs_f64()).max(SLOW_START_FLOOR);
            }
            (f64::from(endpoint.weight) * 100.0 * factor).ceil() as u64
        });
        let weights = weights.collect();
        self.until = until;
        weights
    }

    /// The group that a request with this draw is for.
    pub(crate) fn group(&self, draw: &mut u64) -> Option<&Group> {
        let point = next_draw(draw) % WHOLE;
        let (_, level) = self.levels.iter().find(|(upto, _)| point < *upto).or(self.levels.first())?;
        match &level.local {
            Some((share, local)) if next_draw(draw) % WHOLE < *share => Some(local),
            _ => Some(&level.all),
        }
    }

    /// All groups, for a request that found nobody in its own.
    pub(crate) fn all_groups(&self) -> impl Iterator<Item = &Group> {
        self.levels.iter().map(|(_, level)| &level.all)
    }

    pub(crate) fn is_trial(&self, index: usize) -> bool {
        self.trials.contains(&index)
    }
}

fn indices(states: &[HealthState], wanted: impl Fn(HealthState) -> bool) -> Vec<usize> {
    states.iter().enumerate().filter(|(_, state)| wanted(**state)).map(|(index, _)| index).collect()
}

/// How a priority level is doing.
struct Standing {
    priority: u32,
    usable: usize,
    total: usize,
}

impl Standing {
    fn of(priority: u32, endpoints: &[Endpoint], states: &[HealthState]) -> Self {
        let mut standing = Self { priority, usable: 0, total: 0 };
        for (endpoint, state) in endpoints.iter().zip(states) {
            if endpoint.priority == priority && endpoint.weight > 0 && !state.is_withheld() {
                standing.total += 1;
                standing.usable += usize::from(state.is_usable());
            }
        }
        standing
    }

    fn usable_share(&self) -> f64 {
        if self.total == 0 { 0.0 } else { self.usable as f64 / self.total as f64 }
    }

    fn availability(&self) -> f64 {
        (self.usable_share() * OVERPROVISION).min(1.0)
    }
}

impl Level {
    fn new(members: Vec<usize>, weights: &[u64], sight: Sight<'_>) -> Option<Self> {
        let in_zone = |index: &usize| {
            sight.zone.is_some()
                && sight.endpoints.get(*index).is_some_and(|endpoint| endpoint.zone.as_deref() == sight.zone)
        };
        let local = (sight.balance.locality == Locality::Prefer).then(|| {
            let here: Vec<usize> = members.iter().copied().filter(|index| in_zone(index)).collect();
            let total = (0..sight.endpoints.len()).filter(in_zone).count();
            let share = (here.len() as f64 / total.max(1) as f64 * OVERPROVISION).min(1.0);
            Some(((share * WHOLE as f64) as u64, Group::new(here, weights, sight.balance.policy)?))
        });
        Some(Self { all: Group::new(members, weights, sight.balance.policy)?, local: local.flatten() })
    }
}

impl Group {
    /// `None` when nobody in it gets requests.
    fn new(members: Vec<usize>, weights: &[u64], policy: Policy) -> Option<Self> {
        let members: Vec<usize> =
            members.into_iter().filter(|index| weights.get(*index).is_some_and(|weight| *weight > 0)).collect();
        let own: Vec<u64> = members.iter().filter_map(|index| weights.get(*index).copied()).collect();
        let round = if policy == Policy::RoundRobin { smooth_round(&own) } else { Vec::new() };
        let mut total = 0;
        let weights: Vec<u64> = own
            .iter()
            .map(|weight| {
                total += weight;
                total
            })
            .collect();
        (total > 0).then_some(Self { members, weights, round })
    }

    pub(crate) fn contains(&self, index: usize) -> bool {
        self.members.binary_search(&index).is_ok()
    }

    /// The first from `turn` on that may be taken.
    pub(crate) fn in_turn(&self, turn: usize, takes: impl Fn(usize) -> bool) -> Option<usize> {
        let length = self.round.len();
        (0..length).find_map(|step| {
            let place = *self.round.get(turn.wrapping_add(step) % length)? as usize;
            let index = *self.members.get(place)?;
            takes(index).then_some(index)
        })
    }

    /// One by weight that may be taken.
    pub(crate) fn drawn(&self, draw: &mut u64, takes: impl Fn(usize) -> bool) -> Option<usize> {
        for _ in 0..DRAWS {
            let index = self.any(draw)?;
            if takes(index) {
                return Some(index);
            }
        }
        // Nearly all are taken: the next in line from a random place.
        let start = usize::try_from(next_draw(draw) % self.members.len() as u64).unwrap_or(0);
        let mut around = self.members.iter().cycle().skip(start).take(self.members.len()).copied();
        around.find(|index| takes(*index))
    }

    /// Of two drawn the one with the smaller cost (power of two choices: Mitzenmacher 1996).
    pub(crate) fn better_of_two(
        &self,
        draw: &mut u64,
        takes: impl Fn(usize) -> bool,
        cost: impl Fn(usize) -> f64,
    ) -> Option<usize> {
        let first = self.drawn(draw, &takes)?;
        match self.drawn(draw, |index| index != first && takes(index)) {
            Some(second) if cost(second) < cost(first) => Some(second),
            _ => Some(first),
        }
    }

    fn any(&self, draw: &mut u64) -> Option<usize> {
        let point = next_draw(draw) % self.weights.last()?;
        self.members.get(self.weights.partition_point(|upto| *upto <= point)).copied()
    }
}

/// Draws before looking at each in turn.
const DRAWS: usize = 8;
