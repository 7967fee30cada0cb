//! Adaptive limits before a simulated server: many clients, a queue, hours in milliseconds.

use portcullis_limit::{AdaptiveLimit, AdaptivePermit, AdaptivePlan, Outcome};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, VecDeque},
    time::{Duration, Instant},
};

/// A server that works on `at_a_time` and lets the others wait, and clients who come at random.
struct World {
    limit: AdaptiveLimit,
    origin: Instant,
    now: Duration,
    random: fastrand::Rng,
    server: Server,
    /// Requests that the server works on, by when it is done; the number tells them apart.
    busy: BinaryHeap<Reverse<(Duration, u64)>>,
    queue: VecDeque<u64>,
    inside: BTreeMap<u64, (AdaptivePermit, Duration)>,
    next: u64,
}

#[derive(Clone, Copy)]
struct Server {
    at_a_time: usize,
    service: Duration,
    varies: Varies,
    /// One more than these inside and waiting is refused (503).
    room: usize,
}

#[derive(Clone, Copy)]
enum Varies {
    Never,
    Exponentially,
}

/// What clients saw of a stretch of time.
#[derive(Debug, Default)]
struct Seen {
    answered: u32,
    refused: u32,
    dropped: u32,
    latencies: Vec<Duration>,
    lowest: u32,
    highest: u32,
}

impl Seen {
    fn percentile(&mut self, percent: usize) -> Duration {
        self.latencies.sort_unstable();
        self.latencies[(self.latencies.len() - 1) * percent / 100]
    }
}

fn plan(min: u32, max: u32) -> AdaptivePlan {
    AdaptivePlan {
        min: min.try_into().unwrap(),
        max: max.try_into().unwrap(),
        tolerance: 0.25,
        measure_every: Duration::from_secs(60),
    }
}

fn server(at_a_time: usize, service_millis: u64) -> Server {
    let service = Duration::from_millis(service_millis);
    Server { at_a_time, service, varies: Varies::Never, room: usize::MAX }
}

impl World {
    fn new(plan: AdaptivePlan, server: Server) -> Self {
        let origin = Instant::now();
        Self {
            limit: AdaptiveLimit::new(plan, origin, 7),
            origin,
            now: Duration::ZERO,
            random: fastrand::Rng::with_seed(42),
            server,
            busy: BinaryHeap::new(),
            queue: VecDeque::new(),
            inside: BTreeMap::new(),
            next: 0,
        }
    }

    /// `per_second` requests come at random for `span`.
    fn run(&mut self, span: Duration, per_second: f64) -> Seen {
        let until = self.now + span;
        let mut seen = Seen { lowest: u32::MAX, ..Seen::default() };
        let mut arrival = self.now + self.between(per_second);
        loop {
            let done = self.busy.peek().map_or(Duration::MAX, |Reverse((at, _))| *at);
            if arrival.min(done) > until {
                break;
            }
            if done <= arrival {
                self.done(&mut seen);
            } else {
                self.now = arrival;
                self.arrive(&mut seen);
                arrival = self.now + self.between(per_second);
            }
            let limit = self.limit.limit();
            (seen.lowest, seen.highest) = (seen.lowest.min(limit), seen.highest.max(limit));
        }
        self.now = until;
        seen
    }

    fn between(&mut self, per_second: f64) -> Duration {
        Duration::from_secs_f64(-self.random.f64().max(1e-12).ln() / per_second)
    }

    fn arrive(&mut self, seen: &mut Seen) {
        let Some(permit) = self.limit.enter(self.origin + self.now) else {
            seen.refused += 1;
            return;
        };
        if self.inside.len() >= self.server.room {
            seen.dropped += 1;
            return permit.finish(self.origin + self.now, Outcome::Dropped);
        }
        self.next += 1;
        self.inside.insert(self.next, (permit, self.now));
        self.queue.push_back(self.next);
        self.work();
    }

    fn done(&mut self, seen: &mut Seen) {
        let Some(Reverse((at, id))) = self.busy.pop() else { return };
        self.now = at;
        let (permit, entered) = self.inside.remove(&id).unwrap();
        permit.finish(self.origin + at, Outcome::Answered);
        seen.answered += 1;
        seen.latencies.push(at - entered);
        self.work();
    }

    fn work(&mut self) {
        while self.busy.len() < self.server.at_a_time {
            let Some(id) = self.queue.pop_front() else { return };
            let factor = match self.server.varies {
                Varies::Never => 1.0,
                Varies::Exponentially => -self.random.f64().max(1e-12).ln(),
            };
            self.busy.push(Reverse((self.now + self.server.service.mul_f64(factor), id)));
        }
    }
}

const MINUTE: Duration = Duration::from_secs(60);

/// A server sent `load` times what it can do, for a minute to settle and another one to look at.
fn under_load(plan: AdaptivePlan, server: Server, load: f64, seed: u64) -> (World, Seen, f64) {
    let capacity = server.at_a_time as f64 / server.service.as_secs_f64();
    let mut world = World::new(plan, server);
    world.random.seed(seed);
    world.run(MINUTE, capacity * load);
    let seen = world.run(MINUTE, capacity * load);
    let served = f64::from(seen.answered) / (60.0 * capacity);
    (world, seen, served)
}

/// The limit ends between `limit`, the server stays busy, and an answer takes at most `slower` times the service.
#[track_caller]
fn settles(server: Server, load: f64, seed: u64, limit: std::ops::RangeInclusive<u32>, slower: f64) {
    let (world, mut seen, served) = under_load(plan(3, 1_000), server, load, seed);
    let (name, state) = (format!("{} at a time, {load} times the load", server.at_a_time), world.limit.state());
    assert!(limit.contains(&state.limit), "{name}: {state:?}");
    assert!(served > 0.92, "{name}: served {served}");
    let median = seen.percentile(50);
    assert!(median <= server.service.mul_f64(slower), "{name}: {median:?}");
    let offered = f64::from(seen.answered + seen.refused);
    let excess = 1.0 - 1.0 / load;
    assert!((f64::from(seen.refused) / offered - excess).abs() < 0.05, "{name}: {seen:?}");
}

#[test]
fn the_limit_settles_near_what_the_server_does_at_a_time() {
    settles(server(100, 50), 1.2, 42, 100..=165, 1.6);
    settles(server(100, 50), 2.0, 42, 100..=165, 1.6);
    settles(server(100, 50), 5.0, 42, 100..=165, 1.6);
    settles(server(20, 20), 2.0, 42, 20..=42, 2.0);
    settles(server(20, 200), 3.0, 42, 20..=42, 2.0);
    settles(server(4, 10), 2.0, 42, 3..=10, 2.5);
    settles(server(200, 1_000), 1.5, 42, 200..=330, 1.5);
}

#[test]
fn service_times_that_vary_do_not_lead_it_astray() {
    for seed in 0..4 {
        let varied = |server: Server| Server { varies: Varies::Exponentially, ..server };
        // The median of exponential times is 0.69 of their mean.
        settles(varied(server(50, 20)), 2.0, seed, 40..=90, 1.4);
        settles(varied(server(20, 50)), 2.0, seed, 15..=45, 1.6);
    }
}

#[test]
fn nobody_is_refused_while_the_server_has_room() {
    for load in [0.1, 0.5, 0.8] {
        let (world, seen, _) = under_load(plan(10, 500), server(50, 20), load, 42);
        assert_eq!((seen.refused, world.limit.state().refused), (0, 0), "{load}");
    }
}

#[test]
fn without_a_limit_of_use_the_queue_would_have_no_end() {
    let fixed = AdaptivePlan { min: 100_000.try_into().unwrap(), ..plan(1, 100_000) };
    let (_, mut seen, _) = under_load(fixed, server(20, 20), 1.5, 42);
    assert!(seen.percentile(50) > Duration::from_secs(10));
}

#[test]
fn a_server_that_becomes_slower_is_learnt_and_one_that_becomes_faster_again_too() {
    for slower in [2_u32, 5, 20] {
        let mut world = World::new(plan(5, 500), server(50, 20));
        world.run(MINUTE, 2_000.0);
        world.server.service *= slower;
        world.run(Duration::from_secs(30), 2_000.0);
        let slow = world.run(MINUTE, 2_000.0);
        let possible = 60.0 * 2_500.0 / f64::from(slower);
        let served = f64::from(slow.answered) / possible.min(60.0 * 2_000.0);
        assert!(served > 0.9, "{slower} times slower: served {served} of what it can, {:?}", world.limit.state());
        world.server.service /= slower;
        world.run(Duration::from_secs(15), 2_000.0);
        let mut fast = world.run(MINUTE, 2_000.0);
        let refused = f64::from(fast.refused) / f64::from(fast.answered + fast.refused);
        assert!(refused < 0.01, "{slower} times slower, then well: {refused} refused, {:?}", world.limit.state());
        assert!(fast.percentile(99) < Duration::from_millis(40), "{:?}", fast.percentile(99));
    }
}

#[test]
fn a_server_that_loses_half_of_itself_is_sent_half() {
    let mut world = World::new(plan(5, 500), server(100, 50));
    world.run(MINUTE, 1_600.0);
    world.server.at_a_time = 50;
    world.run(Duration::from_secs(30), 1_600.0);
    let mut seen = world.run(MINUTE, 1_600.0);
    let state = world.limit.state();
    assert!((50..=90).contains(&state.limit), "{state:?}");
    assert!(seen.percentile(50) < Duration::from_millis(90), "{:?}", seen.percentile(50));
    world.server.at_a_time = 100;
    world.run(Duration::from_secs(15), 1_600.0);
    let refused = world.run(MINUTE, 1_600.0).refused;
    assert!(refused < 960, "{refused} of 96000");
}

#[test]
fn what_a_server_refuses_shrinks_the_limit() {
    let full = Server { room: 30, ..server(20, 50) };
    let (world, seen, _) = under_load(plan(3, 500), full, 3.0, 42);
    assert!(world.limit.state().limit <= 45, "{:?}", world.limit.state());
    // Of what is too much, most is refused before it gets there.
    assert!(seen.refused > 2 * seen.dropped, "{} refused, {} dropped", seen.refused, seen.dropped);
}

#[test]
fn some_errors_do_not_close_the_gate() {
    for (failing, least) in [(1_u32, 500), (5, 500), (10, 250), (20, 50), (50, 3)] {
        let limit = AdaptiveLimit::new(plan(3, 500), Instant::now(), 1);
        let lowest = errors(&limit, failing, 20_000);
        assert!(lowest >= least, "{failing}% errors: {lowest}");
    }
}

/// As many as may, again and again, each for 10 ms; `failing` percent are dropped. Gives the lowest limit, but for the times
/// of measuring.
fn errors(limit: &AdaptiveLimit, failing: u32, rounds: u32) -> u32 {
    let origin = Instant::now();
    let (mut count, mut seen) = (0_u32, Vec::new());
    for round in 0..rounds {
        let now = origin + Duration::from_millis(10) * round;
        let permits: Vec<_> = std::iter::from_fn(|| limit.enter(now)).take(500).collect();
        seen.push(limit.limit());
        for permit in permits {
            count += 1;
            let outcome = if count * 37 % 100 < failing { Outcome::Dropped } else { Outcome::Answered };
            permit.finish(now + Duration::from_millis(10), outcome);
        }
    }
    seen.sort_unstable();
    seen[seen.len() / 20]
}

#[test]
fn never_below_the_minimum_nor_above_the_maximum() {
    for (min, max) in [(1, 1), (1, 7), (40, 60), (200, 200), (5, 500)] {
        for load in [0.3, 1.0, 10.0] {
            let mut world = World::new(plan(min, max), server(20, 20));
            for slower in [1, 30, 1] {
                world.server.service = Duration::from_millis(20) * slower;
                let seen = world.run(Duration::from_secs(20), 1_000.0 * load);
                assert!(seen.lowest >= min && seen.highest <= max, "{min}..{max} at {load}: {seen:?}");
                assert!(world.inside.len() <= max as usize);
            }
        }
    }
}

#[test]
fn a_permit_is_given_back_whatever_becomes_of_it() {
    let now = Instant::now();
    let limit = AdaptiveLimit::new(plan(1, 2), now, 0);
    let (first, mut second) = (limit.enter(now).unwrap(), limit.enter(now).unwrap());
    assert!(limit.enter(now).is_none());
    drop(first);
    second.sample(now, Outcome::Answered);
    assert_eq!(limit.state().taken, 1);
    second.finish(now, Outcome::Unrelated);
    assert_eq!((limit.state().taken, limit.state().refused), (0, 1));
}

#[test]
fn what_was_learnt_and_who_is_inside_go_on_over_a_reload_within_the_new_bounds() {
    let (world, _, _) = under_load(plan(3, 500), server(20, 20), 2.0, 42);
    let before = world.limit.state();
    let mut same = AdaptiveLimit::new(plan(3, 400), world.origin, 1);
    same.carry_over(&world.limit);
    assert_eq!(same.state(), before);
    for (min, max) in [(100, 200), (1, 5)] {
        let mut other = AdaptiveLimit::new(plan(min, max), world.origin, 1);
        other.carry_over(&world.limit);
        assert_eq!(other.limit(), before.limit.clamp(min, max));
        assert_eq!(other.state().taken, before.taken);
        assert_eq!(world.limit.state(), before, "a reload that is refused changes nothing");
    }
}

#[test]
fn never_more_than_the_limit_from_many_threads() {
    let limit = AdaptiveLimit::new(plan(1, 4), Instant::now(), 3);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..5_000 {
                    let now = Instant::now();
                    if let Some(permit) = limit.enter(now) {
                        assert!(limit.state().taken <= 4);
                        permit.finish(now, Outcome::Answered);
                    }
                }
            });
        }
    });
    assert_eq!(limit.state().taken, 0);
}

#[test]
fn the_unloaded_latency_is_measured_as_often_as_told() {
    // While it is measured only a third of the limit is let in, and some are refused.
    let refused = |every| {
        let plan = AdaptivePlan { measure_every: Duration::from_secs(every), ..plan(1, 20) };
        World::new(plan, server(20, 50)).run(Duration::from_secs(120), 200.0).refused
    };
    let (often, seldom) = (refused(2), refused(3600));
    assert!(often > 2 * seldom, "{often} and {seldom}");
}

#[test]
fn who_tolerates_more_latency_lets_more_in() {
    let settled = |tolerance| {
        let mut world = World::new(AdaptivePlan { tolerance, ..plan(2, 200) }, server(10, 50));
        world.run(Duration::from_secs(50), 400.0);
        world.limit.limit()
    };
    let (strict, lenient) = (settled(0.05), settled(1.0));
    assert!(lenient > strict, "{strict} and {lenient}");
}
