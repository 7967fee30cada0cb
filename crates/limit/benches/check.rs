//! What one request pays for one local limit, aim: under 200 ns. `cargo bench --profile dist -p portcullis-limit`.

use portcullis_config::Document;
use portcullis_limit::{AdaptiveLimit, AdaptivePlan, Key, Known, Outcome, RateLimit, RateLimitSpec};
use std::{
    collections::{BTreeMap, BTreeSet},
    hint::black_box,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

fn main() {
    divan::main();
}

#[derive(serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct Spec {
    rate_limit: RateLimitSpec,
}

fn limit(table: &str) -> RateLimit {
    let (document, report) = Document::parse("bench.toml", &format!("rate_limit = {table}"));
    let (spec, mut cx) = Arc::new(document).read::<Spec>(report, &[]);
    let known = Known { limits: &BTreeMap::new(), stores: &BTreeSet::new(), previous: &BTreeMap::new() };
    let at = portcullis_config::Path::root().key("rate_limit");
    let spec = spec.expect("the bench's document is right").rate_limit;
    spec.compile("bench", &known, Instant::now(), &at, &mut cx).expect("the bench's limit is right")
}

fn keys(count: u32) -> Vec<Key> {
    (0..count).map(|n| [Some(n.to_be_bytes().as_slice())].into_iter().collect()).collect()
}

/// Allowed and refused requests of many clients in turn, a microsecond apart.
fn turn(bencher: divan::Bencher<'_, '_>, table: &str, clients: u32) {
    let (limit, keys) = (limit(table), keys(clients));
    let mut now = Instant::now();
    let mut turn = keys.iter().cycle();
    bencher.bench_local(|| {
        now += Duration::from_micros(1);
        turn.next().map(|key| limit.check(black_box(key), now))
    });
}

#[divan::bench(args = [1, 1_000, 100_000])]
fn token_bucket(bencher: divan::Bencher<'_, '_>, clients: u32) {
    turn(bencher, "{ rate = \"10/s\" }", clients);
}

#[divan::bench(args = [1, 1_000, 100_000])]
fn sliding_window(bencher: divan::Bencher<'_, '_>, clients: u32) {
    turn(bencher, "{ rate = \"10/s\", algorithm = \"sliding_window\" }", clients);
}

/// Every request a key never seen, into a full table: two buckets are searched for a victim.
#[divan::bench]
fn flood_of_fresh_keys(bencher: divan::Bencher<'_, '_>) {
    turn(bencher, "{ rate = \"10/s\", keys = 10000 }", 500_000);
}

fn adaptive(max: u32) -> AdaptiveLimit {
    let min = NonZeroU32::MIN;
    let max = NonZeroU32::new(max).expect("not zero");
    let plan = AdaptivePlan { min, max, tolerance: 0.25, measure_every: Duration::from_secs(60) };
    AdaptiveLimit::new(plan, Instant::now(), 1)
}

/// In and out again, a microsecond apart.
#[divan::bench(threads = [1, 2])]
fn adaptive_concurrency(bencher: divan::Bencher<'_, '_>) {
    let limit = adaptive(500);
    let origin = Instant::now();
    let count = AtomicU64::new(0);
    bencher.bench(|| {
        let now = origin + Duration::from_micros(count.fetch_add(1, Ordering::Relaxed));
        if let Some(permit) = black_box(&limit).enter(now) {
            permit.finish(now + Duration::from_millis(5), Outcome::Answered);
        }
    });
}

#[divan::bench]
fn adaptive_concurrency_refuses(bencher: divan::Bencher<'_, '_>) {
    let limit = adaptive(1);
    let now = Instant::now();
    let _inside = limit.enter(now);
    bencher.bench_local(|| black_box(&limit).enter(now).is_none());
}
