//! Sequences of requests in simulated time.

use crate::limits::{key, limit};
use portcullis_limit::{Gcra, Limit, Nanos, SlidingWindow, Window};
use std::time::{Duration, Instant};

/// Requests of one key at these milliseconds; what is admitted (`+`) and refused (`-`).
#[track_caller]
fn check(value: &str, at_millis: &[u64], expected: &str) {
    let origin = Instant::now();
    let limit = limit(value, origin);
    let said = at_millis.iter().map(|at| limit.check(&key("a"), origin + Duration::from_millis(*at)).allowed);
    let said: String = said.map(|allowed| if allowed { '+' } else { '-' }).collect();
    assert_eq!(said, expected, "{value} at {at_millis:?}");
}

#[test]
fn a_bucket_gives_its_burst_and_then_the_rate() {
    check(r#"{ rate = "1/s" }"#, &[0, 0, 999, 1_000, 1_000, 2_500, 2_999, 3_000], "+--+-+--");
    check(r#"{ rate = "1/s", burst = 3 }"#, &[0, 0, 0, 0, 1_000, 1_000], "+++-+-");
    check(r#"{ rate = "10/s" }"#, &[0; 12], "++++++++++--");
    check(r#"{ rate = "10/s", burst = 1 }"#, &[0, 99, 100, 150, 200], "+-+-+");
    check(r#"{ rate = "60/m", burst = 2 }"#, &[0, 0, 0, 500, 1_000, 1_001], "++--+-");
    check(r#"{ rate = "1/d" }"#, &[0, 86_399_999, 86_400_000, 86_400_001], "+-+-");
}

#[test]
fn a_refused_request_takes_nothing() {
    check(r#"{ rate = "1/s" }"#, &[0, 900, 910, 920, 930, 1_000], "+----+");
    check(r#"{ rate = "2/s", algorithm = "sliding_window" }"#, &[0, 0, 10, 20, 30, 1_500], "++---+");
}

#[test]
fn an_idle_bucket_fills_to_its_burst_and_no_further() {
    check(r#"{ rate = "1/s", burst = 2 }"#, &[0, 3_600_000, 3_600_000, 3_600_000], "+++-");
}

#[test]
fn a_request_costs_what_it_is_said_to() {
    check(r#"{ rate = "10/s", cost = 4 }"#, &[0, 0, 0, 199, 200], "++--+");
    check(r#"{ rate = "10/s", cost = 4, algorithm = "sliding_window" }"#, &[0, 0, 0], "++-");
}

#[test]
fn a_window_weighs_the_one_before_it() {
    let sliding = r#"{ rate = "10/s", algorithm = "sliding_window" }"#;
    check(sliding, &[0; 11], "++++++++++-");
    // Half of the ten still count in the middle of the next window.
    check(
        sliding,
        &[[900; 10].as_slice(), &[1_000, 1_500, 1_500, 1_500, 1_500, 1_500, 1_500]].concat(),
        "++++++++++-+++++-",
    );
    check(sliding, &[[900; 10].as_slice(), &[2_900; 11]].concat(), "++++++++++++++++++++-");
}

#[test]
fn keys_count_apart() {
    let origin = Instant::now();
    let limit = limit(r#"{ rate = "1/s" }"#, origin);
    assert!(limit.check(&key("a"), origin).allowed && limit.check(&key("b"), origin).allowed);
    assert!(!limit.check(&key("a"), origin).allowed && !limit.check(&key("b"), origin).allowed);
}

#[test]
fn a_time_before_the_last_one_locks_nobody_out() {
    let gcra = Gcra::new(&numbers("10/s", 10, 1)).unwrap();
    let mut tat = Nanos(u64::MAX);
    assert!(!gcra.check(&mut tat, Nanos(0)).allowed);
    assert_eq!(gcra.check(&mut tat, Nanos(0)).reset_after, Duration::from_secs(1));
    check(r#"{ rate = "5/s", algorithm = "sliding_window" }"#, &[1_000, 999, 1_000], "+++");
}

#[test]
fn peeking_counts_nothing() {
    let origin = Instant::now();
    for value in [r#"{ rate = "1/s" }"#, r#"{ rate = "1/s", algorithm = "sliding_window" }"#] {
        let limit = limit(value, origin);
        assert!((0..5).all(|_| limit.peek(&key("a"), origin).allowed) && limit.counts().keys == 0);
        assert!(limit.check(&key("a"), origin).allowed && !limit.peek(&key("a"), origin).allowed);
    }
}

#[test]
fn what_is_told_to_a_client_is_true() {
    for value in [
        r#"{ rate = "7/s", burst = 9 }"#,
        r#"{ rate = "7/s", burst = 9, cost = 2 }"#,
        r#"{ rate = "7/s", algorithm = "sliding_window" }"#,
        r#"{ rate = "7/s", cost = 3, algorithm = "sliding_window" }"#,
        r#"{ rate = "1000/m", algorithm = "sliding_window" }"#,
        r#"{ rate = "1000/m" }"#,
    ] {
        let origin = Instant::now();
        let limit = limit(value, origin);
        let full = limit.peek(&key("a"), origin).remaining + u64::from(true);
        let mut random = fastrand::Rng::with_seed(7);
        let mut now = origin;
        for _ in 0..5_000 {
            now += Duration::from_micros(random.u64(0..180_000));
            let before = limit.peek(&key("a"), now);
            let verdict = limit.check(&key("a"), now);
            assert_eq!(before, verdict, "{value}");
            if verdict.allowed {
                assert_eq!(limit.peek(&key("a"), now).allowed, verdict.remaining > 0, "{value}: remaining");
            } else {
                // Not a tick earlier, and then surely.
                let early = now + verdict.retry_after - Duration::from_micros(2);
                assert!(limit.peek(&key("a"), now + verdict.retry_after).allowed, "{value}: {verdict:?}");
                assert!(
                    verdict.retry_after < Duration::from_micros(3) || !limit.peek(&key("a"), early).allowed,
                    "{value}"
                );
            }
            let reset = limit.peek(&key("a"), now + verdict.reset_after).remaining + 1;
            assert_eq!(reset, full, "{value}: reset");
        }
    }
}

fn numbers(rate: &str, burst: u32, cost: u32) -> Limit {
    Limit { rate: rate.parse().unwrap(), burst: burst.try_into().unwrap(), cost: cost.try_into().unwrap() }
}

/// For random limits and sequences, every stretch of time between two admitted requests holds at most `burst + rate × time`.
#[test]
fn no_sequence_is_admitted_more_than_burst_and_rate_over_time() {
    let mut random = fastrand::Rng::with_seed(3);
    for round in 0..400 {
        let (count, unit) = (random.u64(1..40), *random.choice(&["s", "m", "h"]).unwrap());
        let rate = format!("{count}/{unit}");
        let burst = if round % 2 == 0 { random.u32(1..60) } else { count as u32 };
        let cost = random.u32(1..=burst);
        let limit = numbers(&rate, burst, cost);
        let period = limit.rate.per().as_nanos() as u64;
        let (gcra, window) = (Gcra::new(&limit).unwrap(), SlidingWindow::new(&limit).unwrap());
        let (mut tat, mut counters) = (Nanos::default(), Window::default());
        let mut now = Nanos(random.u64(..period * 4));
        let mut admitted = Vec::new();
        for _ in 0..300 {
            let verdict = if round % 2 == 0 { gcra.check(&mut tat, now) } else { window.check(&mut counters, now) };
            if verdict.allowed {
                admitted.push(now);
            }
            // Runs, single requests, pauses, and clients that come back in the very moment that they were told.
            now = now.plus(match random.u8(0..20) {
                0..10 => 0,
                10..13 => random.u64(..=period / count),
                13 => random.u64(..=period * 2),
                _ => verdict.retry_after.as_nanos() as u64,
            });
        }
        for (first, from) in admitted.iter().enumerate() {
            for (last, to) in admitted.iter().enumerate().skip(first) {
                let spent = u128::from(cost) * (last - first + 1) as u128;
                let most = u128::from(burst) * u128::from(period) + u128::from(count) * u128::from(from.until(*to));
                assert!(
                    spent * u128::from(period) <= most,
                    "{limit:?}: {} in {} ns",
                    last - first + 1,
                    from.until(*to)
                );
            }
        }
        assert!(!admitted.is_empty());
    }
}
