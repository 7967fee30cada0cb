//! Keys of limits and of their stores, each with the difference that it makes to a client.

use crate::{
    limits::{PLAIN, Valkey, ask, edge, statuses},
    support::{client::Client, eventually, gateway::Gateway, origin::Origin},
};
use std::time::{Duration, Instant};

#[tokio::test]
async fn so_many_clients_are_remembered_and_an_attacker_fills_no_memory() {
    for (keys, evicts) in [("", false), (", keys = 100", true)] {
        let (gateway, _origin) =
            edge("", &format!("rate_limit = {{ rate = \"1/h\", key = \"header:x-user\"{keys} }}")).await;
        let mut client = Client::connect(gateway.addr("http")).await;
        for user in 0..1000 {
            client.send(format!("GET / HTTP/1.1\r\nHost: a\r\nX-User: {user}\r\n\r\n")).await;
            assert_eq!(client.response().await.status, 200, "{user}");
        }
        let known = gateway.metric("portcullis_rate_limit_keys", &["limit=\"app\""]).await;
        let evicted = gateway.metric("portcullis_rate_limit_total", &["limit=\"app\"", "what=\"evicted\""]).await;
        assert_eq!((known < 200.0, evicted > 0.0), (evicts, evicts), "{keys}: {known} known, {evicted} evicted");
    }
}

#[tokio::test]
async fn a_store_is_entered_as_its_table_says_and_databases_are_apart() {
    let Some(valkey) = Valkey::start_with(&["--requirepass", "open sesame"]) else { return };
    let rest = "rate_limit = { rate = \"1/h\", key = \"path\", store = \"shared\" }";
    let enter = async |keys: &str| {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("good.pass"), "open sesame").unwrap();
        std::fs::write(folder.path().join("bad.pass"), "open barley").unwrap();
        let origin = Origin::fixed("ok").await;
        let text = format!(
            "[listener.http]\naddress = \"127.0.0.1:0\"\n[store.shared]\nvalkey = {{ nodes = [\"{}\"], timeout = \"5s\"{keys} }}\non_fail = \"deny\"\n\
             [upstream.app]\nendpoints = [\"{}\"]\n[route.app]\nupstream = \"app\"\n{rest}\n",
            valkey.node(),
            origin.addr
        );
        (Gateway::start_in(folder, &text).await, origin)
    };
    let password = ", password = { file = \"good.pass\" }";
    let settled = async |gateway: &Gateway| {
        eventually("the store counts", async || {
            // Each comes on a connection of its own, and so to either core, which has its own connection to the store.
            for _ in 0..16 {
                let head = format!("/warm-{} HTTP/1.1\r\nHost: a", fastrand::u64(..));
                if ask(gateway, &head).await.status != 200 {
                    return None;
                }
            }
            Some(())
        })
        .await;
    };
    let head = "/one HTTP/1.1\r\nHost: a";
    let (first, _a) = enter(password).await;
    settled(&first).await;
    assert_eq!(statuses(&first, &[head, head]).await, [200, 429]);
    let (same, _b) = enter(&format!("{password}, username = \"default\", database = 0")).await;
    settled(&same).await;
    assert_eq!(statuses(&same, &[head]).await, [429], "the same database");
    let (other, _c) = enter(&format!("{password}, database = 3")).await;
    settled(&other).await;
    assert_eq!(statuses(&other, &[head, head]).await, [200, 429], "another one");
    for wrong in
        ["", ", password = { file = \"bad.pass\" }", ", password = { file = \"good.pass\" }, username = \"eve\""]
    {
        let (gateway, _origin) = enter(wrong).await;
        for _ in 0..3 {
            assert_eq!(ask(&gateway, "/two HTTP/1.1\r\nHost: a").await.status, 503, "{wrong}");
        }
    }
}

#[tokio::test]
async fn a_store_that_hangs_is_waited_for_as_long_as_it_may_be() {
    let Some(valkey) = Valkey::start_with(&[]) else { return };
    let mut waited = Vec::new();
    for timeout in ["20ms", "2s"] {
        let table =
            format!("[store.shared]\nvalkey = {{ nodes = [\"{}\"], timeout = \"{timeout}\" }}\n", valkey.node());
        let (gateway, _origin) =
            edge(&table, "rate_limit = { rate = \"1000/h\", key = \"path\", store = \"shared\" }").await;
        eventually("the store counts", async || {
            let before = gateway.metric("portcullis_store_failures_total", &[]).await;
            ask(&gateway, PLAIN).await;
            (gateway.metric("portcullis_store_failures_total", &[]).await == before).then_some(())
        })
        .await;
        valkey.signal("-STOP");
        let began = Instant::now();
        assert_eq!(ask(&gateway, PLAIN).await.status, 200, "it counts for itself meanwhile");
        waited.push(began.elapsed());
        valkey.signal("-CONT");
    }
    assert!(waited[0] < Duration::from_millis(1500) && waited[1] >= Duration::from_secs(2), "{waited:?}");
}
