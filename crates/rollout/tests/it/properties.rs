//! What holds for any plan, any behaviour, any command and any restart.

use crate::world::{Behaviour, SECOND, World, mirrored, plan};
use portcullis_names::Percent;
use portcullis_rollout::{Candidate, Cause, Command, Effect, OnFail, Rollout, RolloutPlan, StateKind};
use std::sync::Arc;

const COMMANDS: [Command; 4] = [Command::Pause, Command::Resume, Command::Promote, Command::Abort];

/// A few rising steps, any gate, any way to fail.
fn any_plan(random: &mut fastrand::Rng) -> RolloutPlan {
    let mut shares: Vec<u32> = (0..random.usize(1..6)).map(|_| random.u32(1..=100)).collect();
    shares.sort_unstable();
    shares.dedup();
    let mut plan = if random.bool() { plan() } else { mirrored() };
    plan.steps = shares.into_iter().map(Percent::from_whole).collect();
    plan.hold = SECOND * random.u32(1..40);
    plan.gate.min_requests = random.u64(1..300);
    plan.gate.slo = plan.gate.slo.filter(|_| random.bool());
    plan.on_fail = if random.bool() { OnFail::Rollback } else { OnFail::Pause };
    plan.effect = if random.u8(..) < 40 { Effect::DryRun } else { Effect::Live };
    plan
}

fn any_behaviour(random: &mut fastrand::Rng) -> Behaviour {
    let errors = [0.0, 0.0, 0.001, 0.01, 0.2, 1.0];
    let errors = random.choice(errors).unwrap();
    Behaviour { errors, median_millis: random.choice([20.0, 20.0, 30.0, 200.0]).unwrap() }
}

#[test]
fn whatever_happens_the_share_keeps_its_promises() {
    let mut promoted_by_gate = 0;
    for seed in 0..150 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut world = World::new(any_plan(&mut random), seed).at(60.0);
        for _ in 0..25 {
            let (old, new) = (any_behaviour(&mut random), any_behaviour(&mut random));
            world.old = Box::new(move |_, _| old);
            world.new = Box::new(move |_, _| new);
            world.candidate = if random.u8(..) < 40 { Candidate::Absent } else { Candidate::Ready };
            // `World::second` checks the promises at every tick.
            for _ in 0..random.usize(1..30) {
                world.second();
            }
            promoted_by_gate += usize::from(world.transitions.iter().any(|t| t.to == StateKind::Promoted));
            match random.u8(..) {
                0..60 => command(&mut world, random.choice(COMMANDS).unwrap()),
                60..100 => restart(&mut world, &mut random),
                _ => {}
            }
        }
    }
    assert!(promoted_by_gate > 10, "{promoted_by_gate}: the draw exercises nothing");
}

fn command(world: &mut World, command: Command) {
    let (before, state) = (world.rollout.share(), world.rollout.state().clone());
    let outcome = world.rollout.command(command, None, world.now);
    let after = world.rollout.share();
    match (command, &outcome) {
        (_, Err(_)) => assert_eq!((after, world.rollout.state()), (before, &state)),
        (Command::Promote, Ok(_)) => assert!(after >= before),
        (Command::Pause | Command::Resume, Ok(_)) => assert_eq!(after, before),
        (Command::Abort, Ok(_)) => assert_eq!(after, Percent::NONE),
    }
    if let Ok(transition) = outcome {
        assert_eq!((transition.cause, transition.share), (Cause::Operator, after));
    }
}

/// Under the same plan nothing changes; under any other the share does not rise.
fn restart(world: &mut World, random: &mut fastrand::Rng) {
    let before = world.rollout.clone();
    let text = before.save().to_json();
    let same = Rollout::restore(before.plan().clone(), Some(&text), world.now);
    assert_eq!((same.rollout.save(), same.notice), (before.save(), None));
    let plan = if random.bool() { (**before.plan()).clone() } else { any_plan(random) };
    world.now = world.now.plus(SECOND * random.u32(0..100));
    world.rollout = Rollout::restore(Arc::new(plan), Some(&text), world.now).rollout;
    assert!(world.rollout.share() <= before.share());
    assert!(world.rollout.planned_share() <= before.planned_share() || before.plan().effect == Effect::DryRun);
}

#[test]
fn a_release_that_always_fails_never_has_a_second_step() {
    for seed in 0..40 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut plan = any_plan(&mut random);
        plan.effect = Effect::Live;
        let first = plan.steps[0];
        let mut world = World::new(plan, seed).at(60.0).with_new(|_, _| Behaviour { errors: 1.0, median_millis: 1.0 });
        for _ in 0..600 {
            world.second();
            assert!(world.rollout.share() <= first, "seed {seed}");
        }
    }
}

#[test]
fn state_with_flipped_bytes_is_refused_or_kept_within_the_plan() {
    let mut world = World::new(plan(), 1);
    world.run_to("25%");
    let good = world.rollout.save().to_json().into_bytes();
    let mut random = fastrand::Rng::with_seed(1);
    for _ in 0..3_000 {
        let mut bytes = good.clone();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..bytes.len());
            bytes[at] = random.u8(0x20..0x7f);
        }
        let text = String::from_utf8(bytes).unwrap();
        let restored = Rollout::restore(world.rollout.plan().clone(), Some(&text), world.now);
        let share = restored.rollout.share();
        assert!(share == Percent::NONE || restored.rollout.plan().steps.contains(&share), "{text}");
        restored.rollout.status(world.now);
    }
}
