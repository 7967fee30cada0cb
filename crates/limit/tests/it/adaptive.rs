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

/// A server sent `load` times what it can do settles at a limit near what it does at a time.
#[track_caller]
fn settles(name: &str, plan: AdaptivePlan, server: Server, load: f64) {
    let capacity = server.at_a_time as f64 / server.service.as_secs_f64();
    let mut world = World::new(plan, server);
    let start = world.run(MINUTE, capacity * load);
    let mut seen = world.run(5 * MINUTE, capacity * load);
    let state = world.limit.state();
    let served = f64::from(seen.answered) / (300.0 * capacity);
    let (median, p99) = (seen.percentile(50), seen.percentile(99));
    println!(
        "{name}: limit {} ({}..{}), served {served:.3}, unloaded {:?}, median {median:?}, p99 {p99:?}, refused {} (start {})",
        state.limit, seen.lowest, seen.highest, state.unloaded, seen.refused, start.refused,
    );
}

#[test]
fn look() {
    for load in [0.5, 0.9, 1.2, 2.0, 5.0] {
        settles(&format!("c100 10ms x{load}"), plan(10, 500), server(100, 10), load);
    }
    for load in [0.9, 2.0] {
        settles(&format!("c20 50ms x{load}"), plan(5, 1000), server(20, 50), load);
        settles(&format!("c1 5ms x{load}"), plan(1, 100), server(1, 5), load);
        settles(&format!("c50 1s x{load}"), plan(10, 500), server(50, 1000), load);
        settles(&format!("c50 10s x{load}"), plan(10, 500), server(50, 10_000), load);
        let noisy = Server { varies: Varies::Exponentially, ..server(100, 10) };
        settles(&format!("c100 exp 10ms x{load}"), plan(10, 500), noisy, load);
        let noisy = Server { varies: Varies::Exponentially, ..server(10, 100) };
        settles(&format!("c10 exp 100ms x{load}"), plan(3, 500), noisy, load);
    }
}
