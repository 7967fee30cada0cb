//! Bursts, again and again: what they took is given back. One burst as a rule; `MESH_SOAK_SECONDS=86400` makes a day of it.

use crate::support::{
    client::Client,
    eventually,
    gateway::Gateway,
    mesh::{Mesh, allow},
    origin::{Origin, ok},
};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

const USUAL: usize = 5;
/// A hundred times as many as usual.
const BURST: usize = 500;

/// Resident, in KiB.
fn resident(sidecar: &Gateway) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", sidecar.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// So many connections at once, each with requests, all of which must be answered.
async fn load(addr: std::net::SocketAddr, connections: usize) {
    let mut all = JoinSet::new();
    for _ in 0..connections {
        all.spawn(async move {
            let mut client = Client::connect(addr).await;
            for _ in 0..4 {
                assert_eq!(client.get("api", "/").await.status, 200);
            }
            client
        });
    }
    // Held until the last one is there.
    all.join_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_bursts_took_is_given_back() {
    let mesh = Mesh::new();
    let app = Origin::start(|_| ok(&"x".repeat(2000))).await;
    let api = mesh.server("acme.lab/api", app.addr, &allow("cart", "service:cart")).await;
    let cart = mesh.client("acme.lab/cart", "acme.lab/api", api.addr("inbound"), "").await;
    let whole = std::env::var("MESH_SOAK_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    // Of the first one much stays that is made once: tables grow, code is touched. It counts as usual.
    load(cart.addr("outbound"), BURST).await;
    for _ in 0..20 {
        load(cart.addr("outbound"), USUAL).await;
    }
    tokio::time::sleep(Duration::from_secs(21)).await;
    let usual = [resident(&api), resident(&cart)];
    let began = Instant::now();
    loop {
        load(cart.addr("outbound"), BURST).await;
        let high = [resident(&api), resident(&cart)];
        for ((sidecar, usual), high) in [&api, &cart].into_iter().zip(usual).zip(high) {
            assert!(high > usual, "a burst that takes nothing shows nothing: {high} KiB, usually {usual}");
            eventually(&format!("of {high} KiB all but the {usual} of before are given back"), async || {
                (resident(sidecar) * 10 <= usual * 11).then_some(())
            })
            .await;
        }
        load(cart.addr("outbound"), USUAL).await;
        if began.elapsed() >= Duration::from_secs(whole) {
            return;
        }
    }
}
