//! Memory that an attacker cannot grow, and clients that he cannot push out.

use crate::limits::{key, limit};
use portcullis_limit::{Gcra, Key, KeyTable, Limit};
use std::time::{Duration, Instant};

fn number(n: u32) -> Key {
    [Some(n.to_be_bytes().as_slice())].into_iter().collect()
}

fn gcra(rate: &str, burst: u32) -> Gcra {
    let limit = Limit { rate: rate.parse().unwrap(), burst: burst.try_into().unwrap(), cost: 1.try_into().unwrap() };
    Gcra::new(&limit).unwrap()
}

#[test]
fn ten_million_keys_take_the_room_of_the_configured_number() {
    let (now, gcra) = (Instant::now(), gcra("1/h", 1));
    let table = KeyTable::<1>::new(100_000.try_into().unwrap(), now);
    let room = table.capacity();
    assert!((100_000..126_000).contains(&room), "{room}");
    let mut key = Key::default();
    for n in 0..10_000_000_u32 {
        key.clear();
        key.push(Some(&n.to_be_bytes()));
        table.check(&gcra, &key, now);
    }
    assert!(table.capacity() == room && table.len() <= room);
    assert_eq!(table.evicted(), 10_000_000 - table.len() as u64);
}

#[test]
fn as_many_keys_as_configured_are_held_at_a_time() {
    for keys in [1, 100, 5_000, 100_000, 1_000_000_u32] {
        let (now, gcra) = (Instant::now(), gcra("1/h", 1));
        let table = KeyTable::<1>::new(keys.try_into().unwrap(), now);
        for n in 0..keys {
            table.check(&gcra, &number(n), now);
        }
        let forgotten = table.evicted();
        assert!(forgotten <= 10 + u64::from(keys) / 1_000, "{forgotten} of {keys}");
    }
}

#[test]
fn a_flood_of_fresh_keys_does_not_free_the_one_that_is_held_back() {
    for value in
        [r#"{ rate = "10/m", keys = 1000 }"#, r#"{ rate = "10/m", keys = 1000, algorithm = "sliding_window" }"#]
    {
        let origin = Instant::now();
        let limit = limit(value, origin);
        while limit.check(&key("heavy"), origin).allowed {}
        for n in 0..200_000 {
            limit.check(&number(n), origin + Duration::from_micros(n.into()));
        }
        assert!(!limit.check(&key("heavy"), origin + Duration::from_secs(1)).allowed, "{value}");
        assert!(limit.counts().evicted > 190_000);
    }
}

#[test]
fn what_is_full_again_makes_room_first() {
    for value in [r#"{ rate = "1/s", keys = 1000 }"#, r#"{ rate = "1/s", keys = 1000, algorithm = "sliding_window" }"#]
    {
        let origin = Instant::now();
        let limit = limit(value, origin);
        for n in 0..100_000_u32 {
            // Five hundred at a time count.
            limit.check(&number(n), origin + Duration::from_millis(u64::from(n) * 4));
        }
        // Where the few buckets of a key are all in use by chance, a thousandth.
        assert!(limit.counts().evicted <= 100, "{value}");
    }
}

#[test]
fn a_table_is_shared_by_threads_without_losing_a_count() {
    let origin = Instant::now();
    let limit = limit(r#"{ rate = "1000/d" }"#, origin);
    let admitted: usize = std::thread::scope(|scope| {
        let ask = || (0..1_000).filter(|_| limit.check(&key("a"), origin).allowed).count();
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(admitted, 1_000);
}
