//! When endpoints are asked, and how many answers it takes.

use crate::endpoint::{check, h1, probe};
use portcullis_health::{Changed, Failure, Health, HealthState, ProbeKind, Prober, Target};
use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

fn target(key: &'static str, address: SocketAddr, json: &str, sender: &UnboundedSender<&'static str>) -> Target {
    let sender = sender.clone();
    let tell = Arc::new(move |_: Result<(), Failure>, _| sender.send(key).unwrap_or_default());
    Target { key: key.to_owned(), probe: probe(address, ProbeKind::Clear, json), tell }
}

async fn count(outcomes: &mut UnboundedReceiver<&'static str>, key: &str, wanted: usize) -> usize {
    let (mut counted, mut others) = (0, 0);
    while counted < wanted {
        let told = outcomes.recv().await.unwrap();
        *(if told == key { &mut counted } else { &mut others }) += 1;
    }
    others
}

#[tokio::test]
async fn each_endpoint_is_asked_at_its_own_interval_with_its_own_jitter() {
    let (address, _) = h1("HTTP/1.1 200 OK\r\n\r\n", None).await;
    let (sender, mut outcomes) = mpsc::unbounded_channel();
    let mut prober = Prober::default();
    let (fast, slow) = (r#"{"interval":"100ms","jitter":"0%"}"#, r#"{"interval":"10s"}"#);
    prober.sync(vec![target("fast", address, fast, &sender), target("slow", address, slow, &sender)]);
    count(&mut outcomes, "fast", 1).await;
    let begun = Instant::now();
    assert!(count(&mut outcomes, "fast", 5).await <= 1);
    assert!(
        begun.elapsed() >= Duration::from_millis(495),
        "without jitter the interval is exact: {:?}",
        begun.elapsed()
    );
    // Full jitter draws intervals from nothing to twice the interval: ten in a row are not all long.
    prober.sync(vec![target("wild", address, r#"{"interval":"200ms","jitter":"100%"}"#, &sender)]);
    count(&mut outcomes, "wild", 1).await;
    let mut shortest = Duration::MAX;
    for _ in 0..10 {
        let begun = Instant::now();
        count(&mut outcomes, "wild", 1).await;
        shortest = shortest.min(begun.elapsed());
    }
    assert!(shortest < Duration::from_millis(190), "{shortest:?}");
}

#[tokio::test]
async fn checks_that_are_taken_out_end_and_those_that_stay_go_on() {
    let (address, seen) = h1("HTTP/1.1 200 OK\r\n\r\n", None).await;
    let (sender, mut outcomes) = mpsc::unbounded_channel();
    let mut prober = Prober::default();
    let json = r#"{"path":"/","interval":"100ms"}"#;
    prober.sync(vec![target("a", address, json, &sender), target("b", address, json, &sender)]);
    count(&mut outcomes, "b", 1).await;
    prober.sync(vec![target("a", address, json, &sender)]);
    while outcomes.try_recv().is_ok() {}
    assert!(count(&mut outcomes, "a", 4).await == 0, "b was taken out");
    drop(prober);
    let before = seen.lock().unwrap().len();
    assert!(before >= 4);
}

#[test]
fn rise_and_fall_are_what_the_check_says() {
    let now = Instant::now();
    for (json, falls, rises) in [("{}", 3, 2), (r#"{"healthy":1,"unhealthy":5}"#, 5, 1), (r#"{"healthy":4}"#, 3, 4)] {
        let check = check(json);
        let mut health = Health::new(now);
        assert_eq!(health.observe(Ok(()), check.healthy, check.unhealthy, now), Changed::Yes);
        let mut until = |outcome: Result<(), Failure>, state| {
            let mut outcomes = 0;
            while health.state(now) != state {
                let _ = health.observe(outcome, check.healthy, check.unhealthy, now);
                outcomes += 1;
            }
            outcomes
        };
        assert_eq!(until(Err(Failure::Body), HealthState::Down), falls, "{json}");
        assert_eq!(until(Ok(()), HealthState::Up), rises, "{json}");
    }
}
