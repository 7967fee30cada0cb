//! Good and bad releases in simulated time.

use crate::world::{Behaviour, MINUTE, SECOND, WELL, World, failing, mirrored, plan, slower, steps};
use portcullis_names::Percent;
use portcullis_rollout::{Candidate, Cause, Effect, Failure, OnFail, RolloutPlan, StateKind::*};
use std::time::Duration;

#[test]
fn a_good_release_walks_its_steps_and_is_promoted() {
    for seed in 0..8 {
        let mut world = World::new(plan(), seed);
        assert_eq!(world.run(60 * MINUTE), Promoted, "seed {seed}: {:?}", world.rollout.status(world.now));
        assert_eq!(world.shares(), ["1%", "5%", "25%", "50%", "100%", "100%"], "seed {seed}");
        for pair in world.transitions.windows(2) {
            assert!(pair[1].at.since(pair[0].at) >= 2 * MINUTE);
        }
    }
}

#[test]
fn a_release_of_a_service_that_always_failed_a_little_is_no_worse_for_it() {
    for seed in 0..4 {
        let mut world = World::new(plan(), seed).with_old(|_, _| failing(0.03)).with_new(|_, _| failing(0.03));
        // Such a service burns its budget all the time, and the objective would hold it back for good.
        let mut lenient = plan();
        lenient.gate.slo = None;
        world.rollout = World::new(lenient, 0).rollout;
        assert_eq!(world.run(90 * MINUTE), Promoted, "seed {seed}: {:?}", world.rollout.status(world.now));
    }
}

#[test]
fn a_better_release_is_promoted() {
    let better = Behaviour { errors: 0.0, median_millis: 10.0 };
    let mut world = World::new(plan(), 1).with_old(|_, _| failing(0.001)).with_new(move |_, _| better);
    assert_eq!(world.run(60 * MINUTE), Promoted);
}

#[test]
fn a_bad_release_is_rolled_back_for_the_right_reason() {
    for (what, new, causes, harmed_most) in [
        ("fails always", failing(1.0), &[Failure::Broken][..], 40),
        ("fails every second request", failing(0.6), &[Failure::Broken], 60),
        ("fails a tenth", failing(0.1), &[Failure::ErrorRatio, Failure::Burn], 80),
        ("fails two of a hundred", failing(0.02), &[Failure::ErrorRatio, Failure::Burn], 80),
        ("takes twice as long", slower(2.0), &[Failure::Latency], 20),
        ("takes ten times as long", slower(10.0), &[Failure::Latency, Failure::Burn], 20),
    ] {
        for seed in 0..4 {
            let mut world = World::new(plan(), seed).with_new(move |_, _| new);
            assert_eq!(world.run(60 * MINUTE), RolledBack, "{what}: {:?}", world.rollout.status(world.now));
            let Cause::GateFailed(failure) = world.last_cause() else { panic!("{what}") };
            assert!(causes.contains(&failure), "{what}: {failure:?}");
            assert!(world.harmed <= harmed_most, "{what}: {} requests harmed", world.harmed);
            assert_eq!(world.rollout.share(), Percent::NONE);
            // It is over: nothing moves by itself any more.
            let before = world.rollout.clone();
            world.second();
            assert_eq!(world.rollout.state(), before.state());
        }
    }
}

#[test]
fn a_broken_release_is_cut_before_there_are_enough_requests_for_a_verdict() {
    let mut careful = plan();
    careful.gate.min_requests = 1_000_000;
    let mut world = World::new(careful, 3).with_new(|_, _| failing(1.0));
    assert_eq!(world.run(5 * MINUTE), RolledBack);
    assert!(world.moved < 60, "{}", world.moved);
    let reason = &world.transitions.last().unwrap().reason;
    assert!(reason.contains("shop-v2 fails 100% of"), "{reason}");
}

#[test]
fn a_release_that_is_bad_only_under_load_is_caught_at_that_step() {
    for seed in 0..4 {
        let mut world = World::new(plan(), seed).with_new(|_, share| if share >= 0.25 { failing(0.02) } else { WELL });
        assert_eq!(world.run(60 * MINUTE), RolledBack);
        assert_eq!(world.shares(), ["1%", "5%", "25%", "0%"]);
    }
}

#[test]
fn a_release_that_goes_bad_when_it_is_alone_is_held_against_what_the_old_version_was() {
    let mut world = World::new(plan(), 5).with_new(|_, share| if share >= 1.0 { slower(2.0) } else { WELL });
    assert_eq!(world.run(60 * MINUTE), RolledBack);
    assert_eq!(world.shares(), ["1%", "5%", "25%", "50%", "100%", "0%"]);
    assert_eq!(world.last_cause(), Cause::GateFailed(Failure::Latency));
}

#[test]
fn a_fault_after_hours_of_good_service_does_not_hide_behind_them() {
    for (what, late, min_requests, within) in [
        // Broken is half of the last minute at the most: 30 seconds of it, and some for chance.
        ("all requests fail, and a verdict takes more than there will be", failing(1.0), 1_000_000, 40),
        ("three of a hundred fail", failing(0.03), 200, 180),
        ("twice as slow", slower(2.0), 200, 180),
    ] {
        let mut patient = RolloutPlan { hold: 120 * MINUTE, steps: steps(&["25%"]), ..plan() };
        patient.gate.min_requests = min_requests;
        let mut world =
            World::new(patient, 6).at(60.0).with_new(move |seconds, _| if seconds > 6_000.0 { late } else { WELL });
        assert_eq!(world.run(110 * MINUTE), RolledBack, "{what}");
        let after = world.now.since(crate::world::START).as_secs() - 6_000;
        assert!(after <= within, "{what}: {after}s");
    }
}

#[test]
fn a_release_that_flaps_is_rolled_back() {
    for seed in 0..4 {
        let mut world =
            World::new(plan(), seed).with_new(|seconds, _| if seconds as u64 % 60 < 10 { failing(0.3) } else { WELL });
        assert_eq!(world.run(60 * MINUTE), RolledBack);
        assert_eq!(world.rollout.share(), Percent::NONE);
    }
}

#[test]
fn an_old_version_that_flaps_is_not_the_fault_of_the_new_one() {
    for seed in 0..4 {
        let mut world =
            World::new(plan(), seed).with_old(|seconds, _| if seconds as u64 % 60 < 10 { failing(0.3) } else { WELL });
        // The objective pages for it until the new version has taken over enough.
        assert_ne!(world.run(30 * MINUTE), RolledBack);
    }
}

#[test]
fn trouble_that_both_share_holds_the_release_and_does_not_end_it() {
    let outage = |seconds: f64, _| if (60.0..180.0).contains(&seconds) { failing(1.0) } else { WELL };
    let mut world = World::new(plan(), 8).with_old(outage).with_new(outage);
    world.run(4 * MINUTE);
    assert_eq!((world.kind(), world.shares()), (Step, vec!["1%".to_owned()]));
    let waits = world.rollout.status(world.now).waits_for.unwrap();
    assert!(waits.contains("slo shop burns its error budget"), "{waits}");
    assert_eq!(world.run(240 * MINUTE), Promoted, "{:?}", world.rollout.status(world.now));
}

#[test]
fn too_little_traffic_waits_and_says_so() {
    let mut world = World::new(plan(), 9).at(1.0);
    assert_eq!(world.run(60 * MINUTE), Step);
    let status = world.rollout.status(world.now);
    assert_eq!(status.share.to_string(), "1%");
    assert!(status.waits_for.as_ref().unwrap().contains("of the 200 requests"), "{:?}", status.waits_for);
    world.requests_per_second = 300.0;
    assert_eq!(world.run(60 * MINUTE), Promoted);
}

#[test]
fn a_few_errors_in_little_traffic_decide_nothing() {
    // Three errors early on, in some five requests a minute.
    let mut world =
        World::new(plan(), 10).at(8.0).with_new(|seconds, _| failing(if seconds < 40.0 { 0.9 } else { 0.0 }));
    assert_eq!(world.run(30 * MINUTE), Step);
}

#[test]
fn a_version_that_is_not_up_yet_is_waited_for() {
    let mut world = World::new(plan(), 11);
    world.candidate = Candidate::Absent;
    assert_eq!(world.run(10 * MINUTE), Waiting);
    let status = world.rollout.status(world.now);
    assert_eq!(status.waits_for.as_deref(), Some("no endpoint of shop-v2 is up"));
    world.candidate = Candidate::Ready;
    world.second();
    assert_eq!((world.kind(), world.last_cause()), (Step, Cause::Ready));
    world.candidate = Candidate::Absent;
    assert_eq!(world.run(10 * MINUTE), Step);
    assert_eq!(world.rollout.share().to_string(), "1%");
}

#[test]
fn a_dark_launch_comes_first_and_catches_what_it_can() {
    let mut world = World::new(mirrored(), 12);
    world.second();
    assert_eq!((world.kind(), world.rollout.mirror_percent().to_string()), (Mirroring, "50%".to_owned()));
    world.run(30 * SECOND);
    assert!(world.copied > 3_000 && world.moved == 0, "{} {}", world.copied, world.moved);
    assert_eq!(world.run(60 * MINUTE), Promoted);
    assert_eq!(world.shares(), ["0%", "1%", "5%", "25%", "50%", "100%", "100%"]);
    assert_eq!(world.rollout.mirror_percent(), Percent::NONE);
    for bad in [failing(1.0), failing(0.05), slower(3.0)] {
        let mut world = World::new(mirrored(), 13).with_new(move |_, _| bad);
        assert_eq!((world.run(60 * MINUTE), world.moved), (RolledBack, 0), "{bad:?}");
        assert_eq!(world.rollout.mirror_percent(), Percent::NONE);
    }
}

#[test]
fn a_failed_release_may_pause_instead_and_keeps_its_share() {
    let pausing = RolloutPlan { on_fail: OnFail::Pause, ..plan() };
    let mut world = World::new(pausing, 14).with_new(|_, share| if share >= 0.25 { failing(0.05) } else { WELL });
    assert_eq!(world.run(60 * MINUTE), Paused);
    assert_eq!(world.rollout.share().to_string(), "25%");
    assert!(matches!(world.last_cause(), Cause::GateFailed(_)));
    assert_eq!(world.transitions.len(), 4, "a pause is told once");
}

#[test]
fn a_release_may_end_below_all_traffic() {
    let partly = RolloutPlan { steps: steps(&["5%", "30%"]), ..plan() };
    let mut world = World::new(partly, 15);
    assert_eq!(world.run(60 * MINUTE), Promoted);
    assert_eq!(world.rollout.share().to_string(), "30%");
}

#[test]
fn a_dry_run_moves_nothing_and_shows_the_way() {
    let dry = RolloutPlan { effect: Effect::DryRun, ..plan() };
    let mut world = World::new(dry, 16);
    assert_eq!(world.run(60 * MINUTE), Promoted);
    assert_eq!((world.moved, world.copied), (0, 0));
    assert_eq!(world.rollout.planned_share(), Percent::ALL);
    assert!(world.transitions.iter().all(|transition| transition.reason.starts_with("dry run: ")));
}

#[test]
fn a_dry_run_with_copies_judges_them_at_every_step() {
    let dry = RolloutPlan { effect: Effect::DryRun, ..mirrored() };
    let mut world = World::new(dry.clone(), 17);
    assert_eq!((world.run(60 * MINUTE), world.moved), (Promoted, 0));
    let mut world = World::new(dry, 18).with_new(|seconds, _| if seconds > 400.0 { failing(0.1) } else { WELL });
    assert_eq!((world.run(60 * MINUTE), world.moved), (RolledBack, 0));
}

#[test]
fn every_key_of_the_gate_changes_what_passes() {
    let run = |new: Behaviour, change: fn(&mut RolloutPlan)| {
        let mut plan = RolloutPlan { steps: steps(&["25%"]), ..plan() };
        change(&mut plan);
        World::new(plan, 19).with_new(move |_, _| new).run(20 * MINUTE)
    };
    let no_slo: fn(&mut RolloutPlan) = |plan| plan.gate.slo = None;
    let ratio: fn(&mut RolloutPlan) = |plan| {
        plan.gate.slo = None;
        plan.gate.max_error_ratio_over_baseline = 20.0;
    };
    let burn: fn(&mut RolloutPlan) = |plan| plan.gate.max_error_ratio_over_baseline = 20.0;
    let lenient: fn(&mut RolloutPlan) = |plan| {
        plan.gate.max_error_ratio_over_baseline = 20.0;
        plan.gate.max_burn = 20.0;
    };
    for (what, new, change, expected) in [
        ("errors over the default ratio", failing(0.006), no_slo, RolledBack),
        ("a ratio that allows them", failing(0.006), ratio, Promoted),
        ("the objective does not", failing(0.006), burn, RolledBack),
        ("a burn that allows them too", failing(0.006), lenient, Promoted),
        ("late over the default ratio", slower(2.0), no_slo, RolledBack),
        ("late, and allowed to be", slower(2.0), |plan| plan.gate.max_latency_ratio = 3.0, Promoted),
        ("more requests than come", WELL, |plan| plan.gate.min_requests = 10_000_000, Step),
    ] {
        assert_eq!(run(new, change), expected, "{what}");
    }
}

#[test]
fn the_reason_names_both_versions_and_the_limit() {
    let mut world = World::new(plan(), 20).with_new(|_, _| failing(0.05));
    world.run(60 * MINUTE);
    let reason = &world.transitions.last().unwrap().reason;
    assert!(reason.contains("shop-v2 fails") && reason.contains("over the limit of 0.2%"), "{reason}");
    assert!(reason.contains("(shop fails"), "{reason}");
    let mut world = World::new(plan(), 20);
    world.run_to("5%");
    let reason = &world.transitions.last().unwrap().reason;
    assert!(reason.starts_with("passed after 2m: shop-v2 fails ") && reason.contains("p99"), "{reason}");
}

#[test]
fn a_release_takes_seconds_when_the_holds_are_short() {
    let mut quick = RolloutPlan { hold: Duration::from_millis(500), ..plan() };
    quick.gate.min_requests = 1;
    let mut world = World::new(quick, 21);
    assert_eq!(world.run(10 * MINUTE), Promoted);
}
