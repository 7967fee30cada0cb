//! The law by which an adaptive limit moves: after gradient2 of Netflix's concurrency-limits and the gradient controller of
//! Envoy's adaptive concurrency.
//!
//! Little's law makes latency the measure: while a server has room, one more request at a time costs no latency; beyond
//! that, each waits for the others. So the limit follows `unloaded latency / latency now`, and gets √limit on top of it to
//! find out whether there is more. Arithmetic only: [`crate::AdaptiveLimit`] collects what the windows hold.

use crate::{Nanos, adaptive_latencies::Typical};
use std::{num::NonZeroU32, time::Duration};

/// What the operator chose.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdaptivePlan {
    pub min: NonZeroU32,
    pub max: NonZeroU32,
    /// Latency above the unloaded one that is not yet taken for waiting, as a fraction of it.
    pub tolerance: f64,
    /// How often the unloaded latency is measured anew.
    pub measure_every: Duration,
}

/// Where the limit stands and what it knows.
#[derive(Debug)]
pub(crate) struct Gradient {
    limit: f64,
    unloaded: Option<Duration>,
    phase: Phase,
    began: Nanos,
    measure_at: Nanos,
    /// The highest limit since the last measuring.
    highest: f64,
    /// Windows in a row that ended far below it, or at the minimum and wanting less.
    sunk: u32,
    draw: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Steering,
    /// Few are let in, so that those who are meet no queue.
    Measuring,
}

/// What happened since the last one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    pub(crate) typical: Option<Typical>,
    /// Requests that ended in a way that says "too much".
    pub(crate) dropped: u32,
    /// The most requests at a time.
    pub(crate) peak: u32,
}

/// What is to be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// The window goes on.
    Wait,
    /// A new window begins, under the same rules.
    Next,
    /// A new window begins, and whoever entered before it has met other conditions than it is about.
    Afresh,
}

/// A window is at least this long, and as long as a request takes unloaded.
const WINDOW: Duration = Duration::from_millis(100);
const WINDOW_MAX: Duration = Duration::from_secs(5);
/// Requests that say enough; with fewer a window lasts up to [`PATIENCE`] times as long.
const SAMPLES: u32 = 30;
const PATIENCE: u32 = 10;
/// A measuring has so many samples to each request that has not ended yet.
const FAIR_SHARE: u32 = 8;
/// The first window, when nothing is known of how long requests take.
const FIRST_MAX: Duration = Duration::from_secs(10);
/// A measuring lets in a third of the limit. The limit stands at about 1.3 of what the server does at a time, so that a
/// third meets no queue; and where the unloaded latency was measured too high, the next measuring finds less.
const MEASURE_SHARE: f64 = 1.0 / 3.0;
/// A measuring under load costs requests: at most this part of all time goes into it.
const MEASURE_TIME_PART: u32 = 50;
/// How much the time between measurings varies, so that gateways before one server do not measure all at once.
const JITTER: f64 = 0.15;
/// A measuring that found much less is repeated after so many windows: it may not have found the end.
const SOON_WINDOWS: u32 = 10;
/// Where the limit has sunk for so many windows, the server may have become slower rather than overloaded by us: what it
/// takes unloaded is measured before its time.
const SUNK_WINDOWS: u32 = 10;
/// One window shrinks the limit to no less than half.
const SHRINK_MIN: f64 = 0.5;
/// A window that is a little faster than the unloaded latency moves that by this part of the difference: the lowest of
/// many windows would be the luckiest one.
const DOWN: f64 = 0.1;

impl AdaptivePlan {
    pub(crate) fn clamp(&self, limit: f64) -> f64 {
        let (min, max) = (f64::from(self.min.get()), f64::from(self.max.get()));
        // Not f64::clamp, which panics where the bounds are the wrong way round.
        limit.min(max).max(min)
    }
}

impl Gradient {
    /// Begins at the maximum: nothing is known, and availability fails open.
    pub(crate) fn new(plan: &AdaptivePlan, draw: u64) -> Self {
        Self {
            limit: f64::from(plan.max.get()),
            unloaded: None,
            phase: Phase::Steering,
            began: Nanos(0),
            measure_at: Nanos(0),
            highest: 0.0,
            sunk: 0,
            draw,
        }
    }

    /// How many may be inside.
    pub(crate) fn allowed(&self, plan: &AdaptivePlan) -> u32 {
        let allowed = match self.phase {
            Phase::Steering => self.limit,
            Phase::Measuring => self.limit * MEASURE_SHARE,
        };
        // The cast holds: it lies between the bounds, which are u32.
        plan.clamp(allowed) as u32
    }

    pub(crate) fn unloaded(&self) -> Option<Duration> {
        self.unloaded
    }

    /// When to look at the window next.
    pub(crate) fn look_at(&self, now: Nanos) -> Nanos {
        match self.phase {
            Phase::Steering => self.began.plus(nanos(self.window())).max(now.plus(nanos(self.window()) / 4)),
            // Short, and every moment of it may cost requests.
            Phase::Measuring => now.plus(nanos(WINDOW) / 10),
        }
    }

    /// Whether the window has come to its end: `samples` were taken while `inside` are still at it.
    pub(crate) fn is_over(&self, samples: u32, inside: u32, now: Nanos) -> bool {
        let age = self.began.until(now);
        let window = nanos(self.window());
        let impatient = age >= window.saturating_mul(u64::from(PATIENCE));
        let enough = samples >= SAMPLES;
        // Of those who began together the quick ones end first: until most have ended, the samples are too fast.
        let fair = samples >= inside.saturating_mul(FAIR_SHARE);
        match (self.phase, self.unloaded) {
            (Phase::Steering, Some(_)) => age >= window && (enough || impatient),
            (Phase::Steering, None) => age >= window && ((enough && fair) || age >= nanos(FIRST_MAX)),
            (Phase::Measuring, _) => (enough && fair) || impatient,
        }
    }

    /// Ends the window.
    pub(crate) fn close(&mut self, plan: &AdaptivePlan, window: &Window, now: Nanos) -> Turn {
        let turn = match self.phase {
            Phase::Steering => self.steer(plan, window, now),
            Phase::Measuring => self.measured(plan, window, now),
        };
        self.began = now;
        turn
    }

    fn steer(&mut self, plan: &AdaptivePlan, window: &Window, now: Nanos) -> Turn {
        if let Some(Typical { latency, answers }) = window.typical {
            match self.unloaded {
                None => {
                    self.unloaded = Some(latency);
                    self.measure_at = self.soon(now);
                }
                Some(_) if answers < SAMPLES => {}
                // Far below: the server has become faster, which no luck explains.
                Some(unloaded) if latency < unloaded / 2 => self.unloaded = Some(latency),
                Some(unloaded) if latency < unloaded => {
                    self.unloaded = Some(unloaded.mul_f64(1.0 - DOWN) + latency.mul_f64(DOWN));
                }
                Some(_) => {}
            }
        }
        self.limit = plan.clamp(self.limit);
        let wanted = self.wanted(plan, window);
        self.limit = plan.clamp(wanted);
        self.highest = self.highest.max(self.limit);
        let sunk = wanted < f64::from(plan.min.get()) || self.limit < self.highest / 2.0;
        self.sunk = if sunk { self.sunk + 1 } else { 0 };
        if now < self.measure_at && self.sunk < SUNK_WINDOWS {
            return Turn::Next;
        }
        (self.sunk, self.highest) = (0, self.limit);
        self.phase = Phase::Measuring;
        Turn::Afresh
    }

    /// The law itself.
    fn wanted(&self, plan: &AdaptivePlan, window: &Window) -> f64 {
        let answers = window.typical.map_or(0, |typical| typical.answers);
        let ended = f64::from(answers) + f64::from(window.dropped);
        let dropped = if ended > 0.0 { f64::from(window.dropped) / ended } else { 0.0 };
        // A limit that is not reached is not what latency comes from, and must not grow to where it protects nothing.
        let in_use = f64::from(window.peak) * 2.0 >= self.limit;
        let (gradient, room) = match (self.unloaded, window.typical) {
            (Some(unloaded), Some(typical)) if in_use => {
                let tolerated = unloaded.as_secs_f64() * (1.0 + plan.tolerance);
                let gradient = tolerated / typical.latency.as_secs_f64().max(f64::MIN_POSITIVE);
                (gradient.min(1.0), self.limit.sqrt())
            }
            // What was dropped speaks for itself.
            _ if dropped > 0.0 => (1.0, self.limit.sqrt()),
            _ => return self.limit,
        };
        // Some errors have nothing to do with load. The two parts settle where limit = (2 (1 - d) / d)²: a server that
        // fails one request in twenty is still sent 1444 at a time, one that refuses half of them four.
        let wanted = self.limit * gradient * (1.0 - dropped / 2.0) + room * (1.0 - dropped);
        let wanted = wanted.max(self.limit * SHRINK_MIN);
        if in_use { wanted } else { wanted.min(self.limit) }
    }

    fn measured(&mut self, plan: &AdaptivePlan, window: &Window, now: Nanos) -> Turn {
        let took = self.began.until(now);
        let before = self.unloaded;
        if let Some(typical) = window.typical {
            self.unloaded = Some(typical.latency);
        }
        let found_less = matches!((before, self.unloaded), (Some(before), Some(after)) if after < before.mul_f64(0.9));
        self.measure_at = if found_less {
            self.soon(now)
        } else {
            let every = nanos(plan.measure_every).max(took.saturating_mul(u64::from(MEASURE_TIME_PART)));
            now.plus(self.jittered(every))
        };
        self.phase = Phase::Steering;
        // Who is inside met no queue, and is not left out: without them the next window had only the quick ones of those
        // who come now.
        Turn::Next
    }

    fn soon(&mut self, now: Nanos) -> Nanos {
        let windows = nanos(self.window()).saturating_mul(u64::from(SOON_WINDOWS));
        now.plus(self.jittered(windows))
    }

    fn jittered(&mut self, span: u64) -> u64 {
        self.draw = next_draw(self.draw);
        // The upper 53 bits, as a fraction of one.
        let unit = (self.draw >> 11) as f64 / (1_u64 << 53) as f64;
        (span as f64 * (1.0 + (unit * 2.0 - 1.0) * JITTER)) as u64
    }

    fn window(&self) -> Duration {
        self.unloaded.map_or(WINDOW, |unloaded| unloaded.clamp(WINDOW, WINDOW_MAX))
    }
}

/// SplitMix64: each draw is made from the one before it, so that one draw from outside is enough.
fn next_draw(draw: u64) -> u64 {
    let draw = draw.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mixed = (draw ^ (draw >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

fn nanos(span: Duration) -> u64 {
    Nanos::from(span).0
}
