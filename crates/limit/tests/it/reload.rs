//! What survives a reload.

use crate::limits::{compile, key, limit, reload};
use std::time::Instant;

/// Whether a client held back before the reload is held back after it.
#[track_caller]
fn survives(before: &str, after: &str, expected: bool) {
    let now = Instant::now();
    let before = limit(before, now);
    while before.check(&key("a"), now).allowed {}
    let mut carried = limit(after, now);
    carried.carry_over(&before);
    assert_eq!(!carried.check(&key("a"), now).allowed, expected, "{after}");
}

#[test]
fn counts_survive_unless_they_mean_something_else() {
    let before = r#"{ rate = "10/m" }"#;
    survives(before, before, true);
    survives(before, r#"{ rate = "10/m", burst = 5 }"#, true);
    survives(before, r#"{ rate = "10/m", mode = "shadow" }"#, true);
    survives(before, r#"{ rate = "10/m", store = "shared" }"#, true);
    survives(before, r#"{ rate = "20/m" }"#, false);
    survives(before, r#"{ rate = "10/m", keys = 7 }"#, false);
    survives(before, r#"{ rate = "10/m", key = "host" }"#, false);
    survives(before, r#"{ rate = "10/m", algorithm = "sliding_window" }"#, false);
    let sliding = r#"{ rate = "10/m", algorithm = "sliding_window" }"#;
    survives(sliding, sliding, true);
}

#[test]
fn counters_go_on() {
    let now = Instant::now();
    let before = limit(r#"{ rate = "1/m" }"#, now);
    for _ in 0..3 {
        before.decide(&before.check(&key("a"), now));
    }
    let mut after = limit(r#"{ rate = "1/m", burst = 2 }"#, now);
    after.carry_over(&before);
    assert_eq!(after.counts().refused, 2);
}

#[test]
fn a_reload_goes_on_by_name() {
    let now = Instant::now();
    let shared = "[rate_limit.api]\nrate = \"1/m\"\n[rule]\nrate_limit = ";
    let before = compile(&format!("{shared}[\"api\", {{ rate = \"1/m\" }}]"), now).unwrap();
    before.iter().for_each(|limit| assert!(limit.check(&key("a"), now).allowed));
    // The named one is found again; the second one's name is now another's, whose rate is different.
    let after =
        reload(&format!("{shared}[\"api\", {{ rate = \"2/m\" }}, {{ rate = \"1/m\" }}]"), &before, now).unwrap();
    let allowed: Vec<_> = after.iter().map(|limit| limit.check(&key("a"), now).allowed).collect();
    assert_eq!(allowed, [false, true, true]);
}
