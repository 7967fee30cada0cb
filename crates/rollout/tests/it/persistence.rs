//! State that survives restarts and reloads, and never raises the share by itself.

use crate::world::{MINUTE, SECOND, World, failing, mirrored, plan, steps};
use portcullis_names::Percent;
use portcullis_rollout::{Command, Effect, Notice, Rollout, RolloutPlan, StateKind, StateKind::*};
use std::sync::Arc;

impl World {
    /// Dies, and comes back after a while under this plan.
    fn restart(&mut self, plan: RolloutPlan, after: std::time::Duration) -> Option<Notice> {
        let saved = self.rollout.save().to_json();
        self.now = self.now.plus(after);
        let restored = Rollout::restore(Arc::new(plan), Some(&saved), self.now);
        self.rollout = restored.rollout;
        restored.notice
    }
}

#[test]
fn a_restart_in_the_middle_of_a_step_goes_on_there() {
    let mut world = World::new(plan(), 1);
    world.run_to("25%");
    world.run(MINUTE);
    let before = world.rollout.status(world.now);
    assert_eq!(world.restart(plan(), 10 * SECOND), None);
    let after = world.rollout.status(world.now);
    assert_eq!((after.share, after.step, after.since), (before.share, before.step, before.since));
    assert_eq!((&after.new, &after.old, &after.history), (&before.new, &before.old, &before.history));
    let left = after.next_step_at.unwrap().since(world.now);
    assert!((59 * SECOND..=61 * SECOND).contains(&left), "{left:?}");
    assert_eq!(world.run(60 * MINUTE), Promoted);
    assert_eq!(world.shares(), ["1%", "5%", "25%", "50%", "100%", "100%"]);
}

#[test]
fn time_in_which_nobody_watched_does_not_count() {
    let mut world = World::new(plan(), 2);
    world.run_to("5%");
    world.restart(plan(), 24 * 60 * MINUTE);
    world.run(MINUTE);
    assert_eq!(world.rollout.share().to_string(), "5%");
    // A gateway that was stopped, or a clock that leapt.
    world.now = world.now.plus(24 * 60 * MINUTE);
    world.second();
    assert_eq!(world.rollout.share().to_string(), "5%");
}

#[test]
fn a_clock_that_goes_back_stops_nothing() {
    let mut world = World::new(plan(), 3);
    world.run_to("5%");
    world.now = portcullis_rollout::Moment::from_unix_millis(world.now.unix_millis() - 86_400_000);
    assert_eq!(world.run(60 * MINUTE), Promoted);
}

#[test]
fn restarts_at_every_moment_change_nothing_but_the_time_it_takes() {
    let mut world = World::new(mirrored(), 4);
    for _ in 0..60 {
        world.run(17 * SECOND);
        assert_eq!(world.restart(mirrored(), 3 * SECOND), None);
    }
    assert_eq!(world.run(60 * MINUTE), Promoted);
    let mut world = World::new(plan(), 4).with_new(|_, share| failing(if share > 0.1 { 0.05 } else { 0.0 }));
    while world.rollout.state().phase().is_some() {
        world.run(17 * SECOND);
        world.restart(plan(), 3 * SECOND);
    }
    assert_eq!(world.kind(), RolledBack);
    assert_eq!(world.restart(plan(), MINUTE), None);
    assert_eq!((world.kind(), world.rollout.share()), (RolledBack, Percent::NONE));
}

/// Brought to 25 % under the plan of the example, then restarted under another.
fn changed(change: impl Fn(&mut RolloutPlan)) -> (StateKind, String, Option<Notice>) {
    let mut world = World::new(plan(), 5);
    world.run_to("25%");
    let mut plan = plan();
    change(&mut plan);
    let reloaded = world.rollout.with_plan(Arc::new(plan.clone()), world.now);
    let notice = world.restart(plan, SECOND);
    assert_eq!(reloaded.notice, notice, "a reload does as a restart does");
    assert_eq!(reloaded.rollout.state().kind(), world.kind());
    assert_eq!(reloaded.rollout.share(), world.rollout.share());
    (world.kind(), world.rollout.share().to_string(), notice)
}

#[test]
fn a_changed_plan_never_raises_the_share() {
    let moved =
        |share: &str| Some(Notice::StepsChanged { before: Percent::from_whole(25), share: share.parse().unwrap() });
    for (what, change, expected) in [
        ("nothing", (|_| {}) as fn(&mut RolloutPlan), (Step, "25%", None)),
        ("the hold", |plan| plan.hold = MINUTE, (Step, "25%", None)),
        ("the gate", |plan| plan.gate.min_requests = 7, (Step, "25%", None)),
        ("a mirror, too late", |plan| plan.mirror_first = mirrored().mirror_first, (Step, "25%", None)),
        ("steps around it", |plan| plan.steps = steps(&["2%", "25%", "60%"]), (Step, "25%", None)),
        ("steps below it", |plan| plan.steps = steps(&["2%", "10%", "60%"]), (Step, "10%", moved("10%"))),
        ("all steps below it", |plan| plan.steps = steps(&["2%", "10%"]), (Step, "10%", moved("10%"))),
        ("all steps above it", |plan| plan.steps = steps(&["30%", "60%"]), (Waiting, "0%", moved("0%"))),
        (
            "another upstream",
            |plan| plan.to = "shop-v3".parse().unwrap(),
            (Waiting, "0%", Some(Notice::ReleaseChanged)),
        ),
        (
            "another baseline",
            |plan| plan.from = "shop-v0".parse().unwrap(),
            (Waiting, "0%", Some(Notice::ReleaseChanged)),
        ),
        ("another route", |plan| plan.route = "cart".parse().unwrap(), (Waiting, "0%", Some(Notice::ReleaseChanged))),
        ("a dry run", |plan| plan.effect = Effect::DryRun, (Waiting, "0%", Some(Notice::EffectChanged))),
    ] {
        let (kind, share, notice) = changed(change);
        assert_eq!((kind, share.as_str(), notice), expected, "{what}");
    }
}

#[test]
fn what_is_over_stays_over() {
    for (steps_after, command, expected) in [
        (&["1%", "100%"][..], Command::Promote, (Promoted, "100%")),
        (&["1%", "50%"], Command::Promote, (Promoted, "50%")),
        (&["1%", "30%"], Command::Abort, (Aborted, "0%")),
    ] {
        let mut world = World::new(plan(), 6);
        world.run_to("5%");
        world.rollout.command(command, None, world.now).unwrap();
        world.restart(RolloutPlan { steps: steps(steps_after), ..plan() }, SECOND);
        assert_eq!((world.kind(), world.rollout.share().to_string().as_str()), expected, "{steps_after:?}");
    }
}

#[test]
fn a_promotion_that_is_extended_goes_on_from_where_it_was() {
    let mut world = World::new(RolloutPlan { steps: steps(&["5%", "50%"]), ..plan() }, 7);
    assert_eq!(world.run(60 * MINUTE), Promoted);
    let notice = world.restart(RolloutPlan { steps: steps(&["5%", "50%", "100%"]), ..plan() }, SECOND);
    assert!(notice.is_some_and(|notice| !notice.is_a_loss()));
    assert_eq!((world.kind(), world.rollout.share().to_string().as_str()), (Step, "50%"));
    assert_eq!(world.run(60 * MINUTE), Promoted);
    assert_eq!(world.rollout.share(), Percent::ALL);
}

#[test]
fn a_pause_survives_whatever_changes() {
    let mut world = World::new(plan(), 8);
    world.run_to("25%");
    world.rollout.command(Command::Pause, None, world.now).unwrap();
    for (steps_after, share) in [(&["10%", "25%"][..], "25%"), (&["10%", "100%"], "10%"), (&["60%"], "0%")] {
        world.restart(RolloutPlan { steps: steps(steps_after), ..plan() }, SECOND);
        assert_eq!((world.kind(), world.rollout.share().to_string().as_str()), (Paused, share));
    }
    let mut world = World::new(mirrored(), 8);
    world.run(30 * SECOND);
    world.rollout.command(Command::Pause, None, world.now).unwrap();
    assert_eq!(world.restart(plan(), SECOND), Some(Notice::MirrorRemoved));
    assert_eq!((world.kind(), world.rollout.mirror_percent()), (Paused, Percent::NONE));
}

#[test]
fn damaged_state_is_held_until_an_operator_decides() {
    let mut world = World::new(plan(), 9);
    world.run_to("25%");
    let good = world.rollout.save().to_json();
    assert!(good.len() < 20_000, "{}", good.len());
    for (what, text) in [
        ("empty", String::new()),
        ("cut", good.chars().take(good.len() / 2).collect()),
        ("no object", "[1, 2]".to_owned()),
        ("another version", good.replace("\"version\":1", "\"version\":2")),
        ("an unknown key", good.replace("\"version\":1", "\"version\":1,\"extra\":1")),
        ("an impossible step", good.replace("\"index\":2", "\"index\":5")),
        ("an impossible share", good.replace("\"25%\"", "\"250%\"")),
        ("a negative count", good.replace("\"bad\":", "\"bad\":-")),
        ("too long", format!("{good}{}", " ".repeat(2 << 20))),
    ] {
        assert_ne!(text, good, "{what}");
        let restored = Rollout::restore(Arc::new(plan()), Some(&text), world.now);
        let notice = restored.notice.unwrap();
        assert!(notice.is_a_loss() && notice.to_string().contains("until an operator"), "{what}: {notice}");
        world.rollout = restored.rollout;
        assert_eq!(world.run(60 * MINUTE), Paused, "{what}");
        assert_eq!(world.rollout.share(), Percent::NONE, "{what}");
    }
    world.rollout.command(Command::Resume, None, world.now).unwrap();
    assert_eq!(world.run(3 * 60 * MINUTE), Promoted);
    let none = Rollout::restore(Arc::new(plan()), None, world.now);
    assert!(none.notice.is_none() && none.rollout.state().kind() == Waiting);
}
