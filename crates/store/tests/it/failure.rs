//! Stores that die, hang, come back, and refuse.

use crate::server::{Server, eventually, key, limit, store, store_config};
use portcullis_limit::RateLimit;
use portcullis_store::{OnFail, Store, StoreError};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::runtime::Handle;

fn hasty(nodes: &str) -> Store {
    Store::start(
        store_config(&format!("{{ valkey = {{ nodes = [{nodes}], timeout = \"100ms\" }} }}")).unwrap(),
        &Handle::current(),
    )
}

/// Asks until it is so.
async fn asks_until(store: &Store, limit: &RateLimit, is_so: impl Fn(&Result<(), StoreError>) -> bool) {
    let begun = Instant::now();
    loop {
        let said = store.check(limit, &key("a")).await.map(drop);
        if is_so(&said) {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "still {said:?}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// What a thousand requests pay when nobody asks the store.
async fn costs_nothing(store: &Store, limit: &RateLimit) {
    let begun = Instant::now();
    for _ in 0..1_000 {
        assert_eq!(store.check(limit, &key("a")).await, Err(StoreError::Open));
    }
    // A microsecond each, and room for a busy machine.
    assert!(begun.elapsed() < Duration::from_millis(100), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_killed_under_load_costs_nothing_and_is_used_again_when_it_is_back() {
    let Some(mut server) = Server::start(&[]) else { return };
    let (store, limit) = (store(&server), Arc::new(limit(r#"{ rate = "1000000/s" }"#)));
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (store, limit) = (store.clone(), limit.clone());
        asking.spawn(async move {
            let (mut answered, mut failed) = (0_u64, 0_u64);
            while failed < 1_000 {
                match store.check(&limit, &key("a")).await {
                    Ok(_) => answered += 1,
                    Err(StoreError::Lost | StoreError::Open) => failed += 1,
                    Err(error) => panic!("{error}"),
                }
            }
            answered
        });
    }
    eventually("requests are answered", || store.counts().asked > 500);
    server.kill();
    while let Some(answered) = asking.join_next().await {
        assert!(answered.unwrap() > 0);
    }
    eventually("the breaker opens", || store.is_open());
    costs_nothing(&store, &limit).await;
    server.restart();
    eventually("the breaker closes", || !store.is_open());
    assert!(store.check(&limit, &key("a")).await.unwrap().allowed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_hangs_is_given_up_in_time_and_taken_back() {
    let Some(server) = Server::start(&[]) else { return };
    let (store, limit) = (hasty(&format!("\"unix:{}\"", server.socket())), limit(r#"{ rate = "1000000/s" }"#));
    asks_until(&store, &limit, |said| said.is_ok()).await;
    server.signal("-STOP");
    let begun = Instant::now();
    let said = store.check(&limit, &key("a")).await;
    assert_eq!(said, Err(StoreError::Timeout));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    asks_until(&store, &limit, |said| *said == Err(StoreError::Open)).await;
    server.signal("-CONT");
    eventually("the breaker closes", || !store.is_open());
    asks_until(&store, &limit, |said| said.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_that_the_store_has_lost_are_given_again_without_losing_a_count() {
    let Some(server) = Server::start(&[]) else { return };
    let (store, limit) = (store(&server), limit(r#"{ rate = "3/d" }"#));
    let client = redis::Client::open(format!("unix://{}", server.socket())).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    asks_until(&store, &crate::server::limit(r#"{ rate = "1000000/s" }"#), |said| said.is_ok()).await;
    let mut admitted = Vec::new();
    for _ in 0..5 {
        let () = redis::cmd("SCRIPT").arg("FLUSH").query_async(&mut connection).await.unwrap();
        admitted.push(store.check(&limit, &key("a")).await.unwrap().allowed);
    }
    assert_eq!(admitted, [true, true, true, false, false]);
    assert_eq!(store.counts().failures, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_store_that_nobody_missed_is_connected_to_again() {
    let Some(mut server) = Server::start(&[]) else { return };
    let (store, limit) = (store(&server), limit(r#"{ rate = "1000000/s" }"#));
    asks_until(&store, &limit, |said| said.is_ok()).await;
    server.restart();
    asks_until(&store, &limit, |said| said.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_takes_no_writes_or_is_not_there_is_passed_over() {
    let (Some(primary), Some(replica)) = (Server::start(&[]), Server::start(&["--replicaof", "127.0.0.1", "1"])) else {
        return;
    };
    let nodes = format!("\"unix:/nowhere/s\", \"unix:{}\", \"unix:{}\"", replica.socket(), primary.socket());
    let (store, limit) = (hasty(&nodes), limit(r#"{ rate = "1000000/s" }"#));
    asks_until(&store, &limit, |said| said.is_ok()).await;
    assert!(store.counts().failures >= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_is_entered_with_the_right_password_into_the_right_database() {
    let Some(server) = Server::start(&["--requirepass", "sesame"]) else { return };
    let limit = limit(r#"{ rate = "1000000/s" }"#);
    for (password, right) in [("sesame\n", true), ("wrong", false)] {
        let file = server.directory.path().join("password");
        std::fs::write(&file, password).unwrap();
        let (socket, file) = (server.socket(), file.display());
        let value = format!(
            "{{ valkey = {{ nodes = [\"unix:{socket}\"], database = 3, timeout = \"10s\", password = {{ file = \"{file}\" }} }}, on_fail = \"deny\" }}"
        );
        let config = store_config(&value).unwrap();
        assert!(!format!("{config:?}").contains("sesame"));
        let store = Store::start(config, &Handle::current());
        assert_eq!(store.on_fail(), OnFail::Deny);
        if right {
            assert!(store.check(&limit, &key("a")).await.unwrap().allowed);
            let client = redis::Client::open(format!("redis+unix://{socket}?db=3&pass=sesame")).unwrap();
            let mut connection = client.get_multiplexed_async_connection().await.unwrap();
            let held: i64 = redis::cmd("DBSIZE").query_async(&mut connection).await.unwrap();
            assert!(held >= 1);
        } else {
            eventually("the breaker opens", || store.is_open());
            assert_eq!(store.check(&limit, &key("a")).await, Err(StoreError::Open));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_needs_no_more_rights_than_are_documented() {
    let rights = ["on", ">sesame", "~portcullis:*", "+script|load", "+evalsha", "+time", "+get", "+set"];
    let Some(server) = Server::start(&[&["--user", "gate"], rights.as_slice()].concat()) else { return };
    let limit = limit(r#"{ rate = "1000000/s" }"#);
    let file = server.directory.path().join("password");
    std::fs::write(&file, "sesame").unwrap();
    for (user, right) in [("gate", true), ("nobody", false)] {
        let (socket, file) = (server.socket(), file.display());
        let value = format!(
            "{{ valkey = {{ nodes = [\"unix:{socket}\"], timeout = \"10s\", username = \"{user}\", password = {{ file = \"{file}\" }} }} }}"
        );
        let store = Store::start(store_config(&value).unwrap(), &Handle::current());
        assert_eq!(store.check(&limit, &key("a")).await.is_ok(), right, "{user}");
    }
}

#[tokio::test]
async fn a_store_that_never_was_costs_nothing() {
    let (store, limit) = (hasty("\"unix:/nowhere/s\""), limit(r#"{ rate = "1/s" }"#));
    asks_until(&store, &limit, |said| *said == Err(StoreError::Open)).await;
    costs_nothing(&store, &limit).await;
}

#[tokio::test]
async fn a_store_that_takes_connections_and_says_nothing_costs_one_timeout() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("s");
    let _mute = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let (store, limit) = (hasty(&format!("\"unix:{}\"", socket.display())), limit(r#"{ rate = "1/s" }"#));
    assert!(matches!(store.check(&limit, &key("a")).await, Err(StoreError::Timeout | StoreError::Open)));
    asks_until(&store, &limit, |said| *said == Err(StoreError::Open)).await;
    costs_nothing(&store, &limit).await;
}

#[tokio::test]
async fn the_queue_is_bounded() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("s");
    let _mute = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let value = format!("{{ valkey = {{ nodes = [\"unix:{}\"], timeout = \"1s\" }} }}", socket.display());
    let store = Store::start(store_config(&value).unwrap(), &Handle::current());
    let (mut asking, limit) = (tokio::task::JoinSet::new(), Arc::new(limit(r#"{ rate = "1/s" }"#)));
    for _ in 0..1_100 {
        let (store, limit) = (store.clone(), limit.clone());
        asking.spawn(async move { store.check(&limit, &key("a")).await });
    }
    let said = asking.join_all().await;
    let overloaded = said.iter().filter(|said| **said == Err(StoreError::Overloaded)).count();
    assert_eq!(overloaded, 1_100 - 1_024);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_connection_ends_with_the_last_handle() {
    let Some(server) = Server::start(&[]) else { return };
    let (store, limit) = (store(&server), limit(r#"{ rate = "1/s" }"#));
    store.check(&limit, &key("a")).await.unwrap();
    drop(store);
    let client = redis::Client::open(format!("unix://{}", server.socket())).unwrap();
    let mut connection = client.get_connection().unwrap();
    eventually("only the test's own connection is left", || {
        let list: String = redis::cmd("CLIENT").arg("LIST").query(&mut connection).unwrap();
        list.lines().count() == 1
    });
}
