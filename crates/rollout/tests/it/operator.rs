//! What an operator can do, when, and what is told.

use crate::world::{MINUTE, World, failing, mirrored, plan};
use portcullis_rollout::{Cause, Command, Failure, StateKind, StateKind::*};

/// A rollout brought into a state.
fn in_state(kind: StateKind) -> World {
    let mut world = World::new(if kind == Mirroring { mirrored() } else { plan() }, 1);
    let command = |world: &mut World, command| {
        let now = world.now;
        world.rollout.command(command, None, now).unwrap();
    };
    match kind {
        Waiting => {}
        Mirroring => world.second(),
        Step => world.run_to("5%"),
        Paused => {
            world.run_to("5%");
            command(&mut world, Command::Pause);
        }
        Promoted => command(&mut world, Command::Promote),
        Aborted => command(&mut world, Command::Abort),
        RolledBack => {
            world = world.with_new(|_, _| failing(1.0));
            world.run(60 * MINUTE);
        }
    }
    assert_eq!(world.kind(), kind);
    world
}

#[test]
fn every_command_in_every_state() {
    use Command::{Abort, Pause, Promote, Resume};
    for (from, command, expected) in [
        (Waiting, Pause, Some((Paused, "0%"))),
        (Waiting, Resume, None),
        (Waiting, Promote, Some((Promoted, "100%"))),
        (Waiting, Abort, Some((Aborted, "0%"))),
        (Mirroring, Pause, Some((Paused, "0%"))),
        (Mirroring, Resume, None),
        (Mirroring, Promote, Some((Promoted, "100%"))),
        (Mirroring, Abort, Some((Aborted, "0%"))),
        (Step, Pause, Some((Paused, "5%"))),
        (Step, Resume, None),
        (Step, Promote, Some((Promoted, "100%"))),
        (Step, Abort, Some((Aborted, "0%"))),
        (Paused, Pause, None),
        (Paused, Resume, Some((Step, "5%"))),
        (Paused, Promote, Some((Promoted, "100%"))),
        (Paused, Abort, Some((Aborted, "0%"))),
        (Promoted, Pause, None),
        (Promoted, Resume, None),
        (Promoted, Promote, None),
        (Promoted, Abort, Some((Aborted, "0%"))),
        (RolledBack, Pause, None),
        (RolledBack, Resume, Some((Waiting, "0%"))),
        (RolledBack, Promote, None),
        (RolledBack, Abort, None),
        (Aborted, Pause, None),
        (Aborted, Resume, Some((Waiting, "0%"))),
        (Aborted, Promote, None),
        (Aborted, Abort, None),
    ] {
        let mut world = in_state(from);
        let before = world.rollout.save();
        let outcome = world.rollout.command(command, None, world.now);
        let what = format!("{} in {}", command.as_str(), from.as_str());
        match (expected, outcome) {
            (None, Err(refused)) => {
                assert_eq!(world.rollout.save(), before, "{what}");
                let text = refused.to_string();
                assert!(text.contains(from.as_str()) && text.contains(command.as_str()), "{text}");
            }
            (Some((to, share)), Ok(transition)) => {
                assert_eq!((world.kind(), world.rollout.share().to_string().as_str()), (to, share), "{what}");
                assert_eq!((transition.cause, transition.from, transition.to), (Cause::Operator, from, to), "{what}");
                assert!(transition.reason.contains("by an operator"), "{what}");
            }
            (expected, outcome) => panic!("{what}: {outcome:?} and not {expected:?}"),
        }
    }
}

#[test]
fn a_pause_holds_the_share_and_a_resume_looks_afresh() {
    let mut world = in_state(Step);
    world.run(MINUTE);
    world.rollout.command(Command::Pause, Some("lunch"), world.now).unwrap();
    assert_eq!(world.run(60 * MINUTE), Paused);
    let status = world.rollout.status(world.now);
    assert_eq!((status.share.to_string().as_str(), status.step, status.next_step_at), ("5%", Some(2), None));
    assert_eq!(status.reason.as_deref(), Some("paused by an operator: lunch"));
    assert_eq!(status.waits_for.as_deref(), Some("an operator"));
    world.rollout.command(Command::Resume, None, world.now).unwrap();
    let status = world.rollout.status(world.now);
    assert_eq!((status.new.requests, status.next_step_at), (0, Some(world.now.plus(2 * MINUTE))));
    world.run(MINUTE);
    assert_eq!(world.rollout.share().to_string(), "5%");
    assert_eq!(world.run(60 * MINUTE), Promoted);
}

#[test]
fn a_paused_release_that_fails_is_still_rolled_back() {
    let mut world = in_state(Paused).with_new(|_, _| failing(0.9));
    assert_eq!(world.run(5 * MINUTE), RolledBack);
    assert_eq!(world.last_cause(), Cause::GateFailed(Failure::Broken));
}

#[test]
fn a_pause_before_anything_moved_keeps_it_from_moving() {
    let mut world = in_state(Waiting);
    world.rollout.command(Command::Pause, None, world.now).unwrap();
    assert_eq!((world.run(30 * MINUTE), world.moved), (Paused, 0));
    world.rollout.command(Command::Resume, None, world.now).unwrap();
    assert_eq!(world.run(60 * MINUTE), Promoted);
}

#[test]
fn what_was_rolled_back_starts_from_the_beginning_when_told_to() {
    let mut world = in_state(RolledBack).with_new(|_, _| crate::world::WELL);
    let transition = world.rollout.command(Command::Resume, Some("fixed\u{1b}[31m"), world.now).unwrap();
    assert_eq!(transition.reason, "started anew by an operator: fixed [31m");
    assert_eq!(world.run(60 * MINUTE), Promoted);
}

#[test]
fn an_operators_words_have_a_limit_and_so_has_the_history() {
    let mut world = in_state(Step);
    for round in 0..100 {
        let command = if round % 2 == 0 { Command::Pause } else { Command::Resume };
        world.rollout.command(command, Some(&"x".repeat(10_000)), world.now).unwrap();
    }
    let history: Vec<_> = world.rollout.history().collect();
    assert_eq!(history.len(), 20);
    assert!(history.iter().all(|transition| transition.reason.len() < 300));
}

#[test]
fn the_status_tells_where_it_stands_and_what_was_seen() {
    let mut world = in_state(Step);
    world.run(MINUTE);
    let status = serde_json::to_value(world.rollout.status(world.now)).unwrap();
    for (key, expected) in [
        ("name", "\"shop-v2\""),
        ("route", "\"shop\""),
        ("state", "\"step\""),
        ("step", "2"),
        ("share", "\"5%\""),
        ("planned_share", "\"5%\""),
        ("mirror", "\"0%\""),
        ("effect", "\"live\""),
        ("waits_for", "\"the hold is not over\""),
    ] {
        assert_eq!(status[key].to_string(), expected, "{key}");
    }
    let since = world.rollout.state().since().plus(2 * MINUTE).unix_millis();
    assert_eq!(status["next_step_at"].as_u64(), Some(since));
    let (old, new) = (&status["old"], &status["new"]);
    assert_eq!((old["upstream"].as_str(), new["upstream"].as_str()), (Some("shop"), Some("shop-v2")));
    assert!(old["requests"].as_u64() > new["requests"].as_u64() && new["requests"].as_u64() > Some(500));
    let p99 = new["p99_millis"].as_f64().unwrap();
    assert!((90.0..170.0).contains(&p99) && new["p50_millis"].as_f64().unwrap() < 50.0, "{new}");
    assert_eq!(status["history"].as_array().unwrap().len(), 2);
}
