//! What every whole-program test needs: a gateway process, origins, clients, certificates.

pub(crate) mod authority;
pub(crate) mod cases;
pub(crate) mod client;
pub(crate) mod dns;
pub(crate) mod frames;
pub(crate) mod gateway;
pub(crate) mod h2_origin;
pub(crate) mod hello;
pub(crate) mod memory_group;
pub(crate) mod mesh;
pub(crate) mod origin;
pub(crate) mod outside;
pub(crate) mod relay;
pub(crate) mod s_client;
pub(crate) mod validator;

use std::time::{Duration, Instant};

/// Polls until `probe` gives a value; panics with `what` after forty seconds, which only a failure takes. Waiting on a condition, never on a guess.
pub(crate) async fn eventually<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = probe().await {
            return value;
        }
        assert!(start.elapsed() < Duration::from_secs(40), "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Whether a program of somebody else's is there. A test whose peer is missing says so and passes over its check.
pub(crate) fn have(program: &str) -> bool {
    let found = std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path).chain(["/usr/sbin".into()]).any(|folder| folder.join(program).is_file())
    });
    if !found {
        eprintln!("NOT CHECKED: `{program}` is not installed");
    }
    found
}
