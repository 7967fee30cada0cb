//! Local and global say the same.

use crate::server::{Server, key, limit, store};
use portcullis_limit::{Gcra, Key, Nanos, Plan, SlidingWindow, Verdict, Window};
use std::{collections::HashMap, sync::Arc};

/// One client by the local algorithm, over times since 1970.
enum Local {
    TokenBucket(Gcra, Nanos),
    SlidingWindow(SlidingWindow, Window),
}

impl Local {
    fn new(plan: Plan) -> Self {
        match plan {
            Plan::TokenBucket(gcra) => Self::TokenBucket(gcra, Nanos::default()),
            Plan::SlidingWindow(window) => Self::SlidingWindow(window, Window::default()),
        }
    }

    fn check(&mut self, now: Nanos) -> Verdict {
        match self {
            Self::TokenBucket(gcra, tat) => gcra.check(tat, now),
            Self::SlidingWindow(sliding, window) => sliding.check(window, now),
        }
    }
}

/// Ten thousand requests of twenty clients in runs and pauses, some out of order, as with a clock that is set back.
fn requests(seed: u64) -> Vec<(Key, Nanos)> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut now = 1_790_000_000_123_456_789_u64;
    let mut request = |_| {
        now += match random.u8(0..20) {
            0..10 => 0,
            10..19 => random.u64(0..10_000_000),
            _ => random.u64(0..100_000_000),
        };
        let late = match random.u8(0..20) {
            0..12 => 0,
            12..19 => random.u64(0..4_000_000),
            _ => random.u64(0..900_000_000),
        };
        (key(&random.u8(0..20).to_string()), Nanos(now - late))
    };
    (0..10_000).map(&mut request).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_requests_get_the_same_verdicts_from_the_store_as_from_the_process() {
    let Some(server) = Server::start(&[]) else { return };
    for (seed, value) in [
        r#"{ rate = "7/s", burst = 20 }"#,
        r#"{ rate = "3/s" }"#,
        r#"{ rate = "1000/m", burst = 7, cost = 3 }"#,
        r#"{ rate = "7/s", algorithm = "sliding_window" }"#,
        r#"{ rate = "301/m", cost = 7, algorithm = "sliding_window" }"#,
        r#"{ rate = "4000000000/d", cost = 9000, burst = 100000 }"#,
        r#"{ rate = "3999999999/d", cost = 16000000, algorithm = "sliding_window" }"#,
    ]
    .into_iter()
    .enumerate()
    {
        let limit = Arc::new(limit(value));
        let store = store(&server);
        let mut clients: HashMap<Key, Vec<Nanos>> = HashMap::new();
        for (key, now) in requests(seed as u64) {
            clients.entry(key).or_default().push(now);
        }
        // All clients at once, each one's requests in their order.
        let mut asking = tokio::task::JoinSet::new();
        for (key, times) in clients {
            let (store, limit) = (store.clone(), limit.clone());
            asking.spawn(async move {
                let (mut local, mut refused) = (Local::new(limit.plan()), 0);
                for now in times {
                    let (global, expected) = (store.check_at(&limit, &key, now).await.unwrap(), local.check(now));
                    assert_eq!(global, expected, "{value} at {now:?}");
                    refused += u32::from(!expected.allowed);
                }
                refused
            });
        }
        let refused: u32 = asking.join_all().await.into_iter().sum();
        let counts = store.counts();
        println!("{value}: {refused} of 10000 refused, {} batches", counts.batches);
        assert!((100..9_900).contains(&refused), "{value}: {refused} refused");
        assert!(counts.asked == 10_000 && counts.batches < 10_000, "{counts:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_count_together_by_the_stores_clock() {
    let Some(server) = Server::start(&[]) else { return };
    for value in [r#"{ rate = "10/d" }"#, r#"{ rate = "10/d", algorithm = "sliding_window" }"#] {
        let limits = [limit(value), limit(value), limit(value)];
        let stores = [store(&server), store(&server), store(&server)];
        let mut admitted = 0;
        for turn in 0..30 {
            let verdict = stores[turn % 3].check(&limits[turn % 3], &key("a")).await.unwrap();
            admitted += u32::from(verdict.allowed);
        }
        assert_eq!(admitted, 10, "{value}");
        assert!(stores[0].check(&limits[0], &key("b")).await.unwrap().allowed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_keeps_no_client_in_clear_and_forgets_whom_it_need_not_know() {
    let Some(server) = Server::start(&[]) else { return };
    let store = store(&server);
    store.check(&limit(r#"{ rate = "10/s" }"#), &key("alice@example.com")).await.unwrap();
    let client = redis::Client::open(format!("unix://{}", server.socket())).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let keys: Vec<String> = redis::cmd("KEYS").arg("*").query_async(&mut connection).await.unwrap();
    let found = keys.iter().find(|key| key.starts_with("portcullis:api:bucket:10/s:")).unwrap();
    assert!(!keys.iter().any(|key| key.contains("alice")), "{keys:?}");
    let left: i64 = redis::cmd("PTTL").arg(found).query_async(&mut connection).await.unwrap();
    assert!((1..=2_100).contains(&left), "{left}");
}
