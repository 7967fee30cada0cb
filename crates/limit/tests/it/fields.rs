//! What a client is told.

use crate::limits::{key, limit};
use portcullis_limit::{Decision, write_policy, write_retry_after, write_state};
use std::time::{Duration, Instant};

#[track_caller]
fn told(value: &str, asked: usize, after: Duration, expected: [&str; 3]) {
    let origin = Instant::now();
    let limit = limit(value, origin);
    for _ in 1..asked {
        limit.check(&key("a"), origin);
    }
    let verdict = limit.check(&key("a"), origin + after);
    let (mut policy, mut state, mut retry) = (String::new(), String::new(), String::new());
    write_policy(&mut policy, &limit);
    write_state(&mut state, &limit, &verdict);
    write_retry_after(&mut retry, &verdict);
    assert_eq!([policy.as_str(), &state, &retry], expected, "{value}");
}

#[test]
fn ratelimit_headers_10_the_policy_and_what_is_left() {
    let now = Duration::ZERO;
    told(r#"{ rate = "100/s" }"#, 1, now, [r#""shop/api";q=100;w=1"#, r#""shop/api";r=99;t=1"#, "1"]);
    told(r#"{ rate = "100/s", burst = 200 }"#, 1, now, [r#""shop/api";q=200;w=2"#, r#""shop/api";r=199;t=1"#, "1"]);
    told(r#"{ rate = "10/m", cost = 5 }"#, 1, now, [r#""shop/api";q=2;w=60"#, r#""shop/api";r=1;t=30"#, "1"]);
    told(r#"{ rate = "1/m" }"#, 2, now, [r#""shop/api";q=1;w=60"#, r#""shop/api";r=0;t=60"#, "60"]);
    let sliding = r#"{ rate = "2/m", algorithm = "sliding_window" }"#;
    told(sliding, 3, now, [r#""shop/api";q=2;w=60"#, r#""shop/api";r=0;t=120"#, "90"]);
}

#[test]
fn rfc9110_10_2_3_retry_after_is_whole_seconds_rounded_up_and_at_least_one() {
    let (one, policy) = (r#"{ rate = "1/m" }"#, r#""shop/api";q=1;w=60"#);
    told(one, 2, Duration::from_millis(1), [policy, r#""shop/api";r=0;t=60"#, "60"]);
    told(one, 2, Duration::from_millis(59_001), [policy, r#""shop/api";r=0;t=1"#, "1"]);
    told(
        r#"{ rate = "100/s", burst = 1 }"#,
        2,
        Duration::ZERO,
        [r#""shop/api";q=1;w=1"#, r#""shop/api";r=0;t=1"#, "1"],
    );
}

#[test]
fn several_limits_are_members_of_one_field() {
    let limit = limit(r#"{ rate = "1/s" }"#, Instant::now());
    let mut field = String::new();
    write_policy(&mut field, &limit);
    write_policy(&mut field, &limit);
    assert_eq!(field, r#""shop/api";q=1;w=1, "shop/api";q=1;w=1"#);
}

#[test]
fn a_shadow_counts_and_refuses_nothing() {
    let origin = Instant::now();
    for (mode, expected, counted) in [("enforce", Decision::Refuse, (2, 0)), ("shadow", Decision::Shadow, (0, 2))] {
        let limit = limit(&format!(r#"{{ rate = "1/s", mode = "{mode}" }}"#), origin);
        let decided: Vec<_> = (0..3).map(|_| limit.decide(&limit.check(&key("a"), origin))).collect();
        assert_eq!(decided, [Decision::Admit, expected, expected]);
        assert_eq!((limit.counts().refused, limit.counts().shadowed), counted);
    }
}
