//! A simulated shop: two versions that fail and dawdle as told, requests by a seeded draw, and time that runs by ticks.

use portcullis_names::Percent;
use portcullis_rollout::{
    Candidate, Cause, Counts, Effect, Figures, Gate, LatencyObjective, MirrorFirst, Moment, Observations, OnFail,
    Outcome, Rollout, RolloutPlan, Slo, SloMeter, StateKind, Transition,
};
use std::{sync::Arc, time::Duration};

pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const MINUTE: Duration = Duration::from_secs(60);
pub(crate) const START: Moment = Moment::from_unix_millis(1_750_000_000_000);

/// How a version does at a moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Behaviour {
    pub(crate) errors: f64,
    pub(crate) median_millis: f64,
}

pub(crate) const WELL: Behaviour = Behaviour { errors: 0.000_5, median_millis: 40.0 };

pub(crate) fn failing(errors: f64) -> Behaviour {
    Behaviour { errors, ..WELL }
}

pub(crate) fn slower(factor: f64) -> Behaviour {
    Behaviour { median_millis: WELL.median_millis * factor, ..WELL }
}

/// Seconds since the start and the present share → how the version does.
pub(crate) type Script = Box<dyn Fn(f64, f64) -> Behaviour>;

pub(crate) struct World {
    pub(crate) rollout: Rollout,
    pub(crate) now: Moment,
    pub(crate) old: Script,
    pub(crate) new: Script,
    pub(crate) requests_per_second: f64,
    pub(crate) candidate: Candidate,
    pub(crate) transitions: Vec<Transition>,
    /// Requests of users (not copies) that the new version failed.
    pub(crate) harmed: u64,
    /// Requests of users that went to the new version.
    pub(crate) moved: u64,
    pub(crate) copied: u64,
    meter: SloMeter,
    random: fastrand::Rng,
}

pub(crate) fn slo() -> Arc<Slo> {
    Arc::new(Slo {
        name: "shop".parse().unwrap(),
        route: "shop".parse().unwrap(),
        availability: Some("99.9%".parse().unwrap()),
        latency: Some(LatencyObjective { target: "99%".parse().unwrap(), under: Duration::from_millis(300) }),
        window: Duration::from_secs(30 * 86_400),
    })
}

pub(crate) fn steps(steps: &[&str]) -> Vec<Percent> {
    steps.iter().map(|step| step.parse().unwrap()).collect()
}

/// The example of the language, with holds of two minutes.
pub(crate) fn plan() -> RolloutPlan {
    RolloutPlan {
        name: "shop-v2".parse().unwrap(),
        route: "shop".parse().unwrap(),
        from: "shop".parse().unwrap(),
        to: "shop-v2".parse().unwrap(),
        steps: steps(&["1%", "5%", "25%", "50%", "100%"]),
        hold: 2 * MINUTE,
        gate: Gate {
            slo: Some(slo()),
            min_requests: 200,
            max_burn: 2.0,
            max_error_ratio_over_baseline: 2.0,
            max_latency_ratio: 1.5,
        },
        on_fail: OnFail::Rollback,
        mirror_first: None,
        effect: Effect::Live,
    }
}

pub(crate) fn mirrored() -> RolloutPlan {
    RolloutPlan { mirror_first: Some(MirrorFirst { percent: Percent::from_whole(50), hold: MINUTE }), ..plan() }
}

impl World {
    pub(crate) fn new(plan: RolloutPlan, seed: u64) -> Self {
        Self {
            rollout: Rollout::new(Arc::new(plan), START),
            now: START,
            old: Box::new(|_, _| WELL),
            new: Box::new(|_, _| WELL),
            requests_per_second: 300.0,
            candidate: Candidate::Ready,
            transitions: Vec::new(),
            harmed: 0,
            moved: 0,
            copied: 0,
            meter: SloMeter::new(slo()),
            random: fastrand::Rng::with_seed(seed),
        }
    }

    pub(crate) fn with_new(mut self, new: impl Fn(f64, f64) -> Behaviour + 'static) -> Self {
        self.new = Box::new(new);
        self
    }

    pub(crate) fn with_old(mut self, old: impl Fn(f64, f64) -> Behaviour + 'static) -> Self {
        self.old = Box::new(old);
        self
    }

    pub(crate) fn at(self, requests_per_second: f64) -> Self {
        Self { requests_per_second, ..self }
    }

    /// Runs for so long, or until the rollout is over.
    pub(crate) fn run(&mut self, time: Duration) -> StateKind {
        let end = self.now.plus(time);
        while self.now < end && self.rollout.state().phase().is_some() {
            self.second();
        }
        self.kind()
    }

    /// Runs until the share is at least this, for an hour at most.
    pub(crate) fn run_to(&mut self, share: &str) {
        let share: Percent = share.parse().unwrap();
        let end = self.now.plus(60 * MINUTE);
        while self.rollout.planned_share() < share {
            assert!(self.now < end && self.rollout.state().phase().is_some(), "{:?}", self.rollout.status(self.now));
            self.second();
        }
    }

    pub(crate) fn kind(&self) -> StateKind {
        self.rollout.state().kind()
    }

    pub(crate) fn last_cause(&self) -> Cause {
        self.transitions.last().unwrap().cause
    }

    /// The shares that it had, in order.
    pub(crate) fn shares(&self) -> Vec<String> {
        self.transitions.iter().map(|transition| transition.share.to_string()).collect()
    }

    pub(crate) fn second(&mut self) {
        let seen = self.requests();
        self.now = self.now.plus(SECOND);
        let before = self.rollout.share();
        let transition = self.rollout.tick(&seen, self.now);
        self.hold_to_the_promises(before, transition.as_ref());
        self.transitions.extend(transition);
    }

    fn requests(&mut self) -> Observations {
        let seconds = self.now.since(START).as_secs_f64();
        let (share, mirror) = (self.rollout.share(), self.rollout.mirror_percent());
        let (old, new) = ((self.old)(seconds, share.fraction()), (self.new)(seconds, share.fraction()));
        let mut seen = Observations { candidate: self.candidate, ..Observations::default() };
        let whole = self.requests_per_second.trunc();
        let requests = whole as u64 + u64::from(self.random.f64() < self.requests_per_second - whole);
        let mut all = Figures::default();
        for _ in 0..requests {
            if share.takes(self.random.u64(..)) {
                let outcome = self.request(new, &mut [&mut seen.new, &mut all]);
                self.moved += 1;
                self.harmed += u64::from(outcome == Outcome::Bad);
            } else {
                self.request(old, &mut [&mut seen.old, &mut all]);
                if mirror.takes(self.random.u64(..)) {
                    self.copied += 1;
                    self.request(new, &mut [&mut seen.new]);
                }
            }
        }
        self.meter.record(Counts { ..all.counts }, self.now);
        seen.alert = self.meter.alert(self.now);
        seen
    }

    fn request(&mut self, version: Behaviour, into: &mut [&mut Figures]) -> Outcome {
        let outcome = if self.random.f64() < version.errors { Outcome::Bad } else { Outcome::Good };
        // Log-normal, as latencies are: the p99 is some three times the median.
        let normal = ((0..4).map(|_| self.random.f64()).sum::<f64>() - 2.0) * 3f64.sqrt();
        let took = Duration::from_secs_f64(version.median_millis / 1e3 * (0.5 * normal).exp());
        for figures in into {
            figures.record(outcome, took, Some(Duration::from_millis(300)));
        }
        outcome
    }

    /// What holds at every tick of every simulation.
    fn hold_to_the_promises(&self, before: Percent, transition: Option<&Transition>) {
        let (share, plan) = (self.rollout.share(), self.rollout.plan());
        if share > before {
            let cause = transition.map(|transition| transition.cause);
            assert!(
                matches!(cause, Some(Cause::GatePassed | Cause::Ready)),
                "the share rose without the gate: {cause:?}"
            );
        }
        assert!(share == Percent::NONE || plan.steps.contains(&share), "{share} is no step");
        if plan.effect == Effect::DryRun || matches!(self.kind(), StateKind::RolledBack | StateKind::Aborted) {
            assert_eq!(share, Percent::NONE);
        }
        if let Some(transition) = transition {
            assert!(!transition.reason.is_empty() && transition.share == share);
        }
    }
}
