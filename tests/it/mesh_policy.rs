//! Traffic policy between services: what an edge has, a sidecar has, because a service is an upstream with a route.

use crate::support::{
    client::Client,
    eventually,
    gateway::Gateway,
    mesh::{Mesh, inbound, outbound},
    origin::{Origin, ok},
};
use std::{collections::BTreeMap, net::SocketAddr};

const ALL: &str = "[access.all]\nfrom = [\"*\"]\nto = [\"*\"]\naction = \"allow\"\n";

/// How often each body was the answer.
async fn answers(addr: SocketAddr, count: usize, fields: &str) -> BTreeMap<String, usize> {
    let mut all = BTreeMap::new();
    let mut client = Client::connect(addr).await;
    for _ in 0..count {
        client.send(format!("GET / HTTP/1.1\r\nHost: api.acme.lab\r\n{fields}\r\n")).await;
        let answer = client.response().await;
        *all.entry(format!("{} {}", answer.status, answer.text())).or_default() += 1;
        if answer.header("connection").is_some_and(|value| value.contains("close")) {
            client = Client::connect(addr).await;
        }
    }
    all
}

/// A caller whose `more` speaks of `api` and of `canary`, another version of the same service.
async fn two_versions(mesh: &Mesh, one: &Origin, two: &Origin, more: &str) -> (Gateway, Gateway, Gateway) {
    let first = mesh.server("acme.lab/api", one.addr, ALL).await;
    let second = mesh.server("acme.lab/api", two.addr, ALL).await;
    let canary = format!(
        "[service.canary]\nnamespace = \"acme.lab\"\nupstream = \"canary\"\nspiffe = [\"{}\"]\n[upstream.canary]\nendpoints = [\"{}\"]\n",
        Mesh::id("acme.lab/api"),
        second.addr("inbound")
    );
    let folder = tempfile::tempdir().unwrap();
    let config = [
        mesh.workload(folder.path(), "acme.lab/cart"),
        outbound("acme.lab/api", &[first.addr("inbound")]),
        canary,
        more.to_owned(),
    ];
    let cart = Gateway::start_in(folder, &config.concat()).await;
    (first, second, cart)
}

#[tokio::test]
async fn requests_are_balanced_over_sidecars() {
    let mesh = Mesh::new();
    let (one, two) = (Origin::fixed("one").await, Origin::fixed("two").await);
    let (first, second) =
        (mesh.server("acme.lab/api", one.addr, ALL).await, mesh.server("acme.lab/api", two.addr, ALL).await);
    let peers = [first.addr("inbound"), second.addr("inbound")];
    let more = "balance = { policy = \"round_robin\" }\n";
    let cart = mesh.client_in(tempfile::tempdir().unwrap(), "acme.lab/cart", "acme.lab/api", &peers, more).await;
    let all = answers(cart.addr("outbound"), 20, "").await;
    assert_eq!((all["200 one"], all["200 two"]), (10, 10), "{all:?}");
}

#[tokio::test]
async fn a_split_and_steering_by_header_choose_the_version() {
    let mesh = Mesh::new();
    let (one, two) = (Origin::fixed("one").await, Origin::fixed("two").await);
    let more = "[route.api]\nlisteners = [\"outbound\"]\nhosts = [\"api.acme.lab\"]\nsplit = { api = 90, canary = 10 }\n\
                [route.api.rule.beta]\nmatch = { headers = { x-beta = \"1\" } }\nupstream = \"canary\"\n";
    let (_first, _second, cart) = two_versions(&mesh, &one, &two, more).await;
    let all = answers(cart.addr("outbound"), 400, "").await;
    let canary = all.get("200 two").copied().unwrap_or(0);
    // Binomial with a mean of 40 and a deviation of 6: five deviations.
    assert!((10..=70).contains(&canary), "{all:?}");
    let all = answers(cart.addr("outbound"), 20, "X-Beta: 1\r\n").await;
    assert_eq!(all.get("200 two"), Some(&20), "{all:?}");
}

#[tokio::test]
async fn a_failed_request_is_tried_again_elsewhere_within_the_budget() {
    let mesh = Mesh::new();
    let bad = Origin::start(|_| b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n".to_vec()).await;
    let good = Origin::fixed("good").await;
    let (first, second) =
        (mesh.server("acme.lab/api", bad.addr, ALL).await, mesh.server("acme.lab/api", good.addr, ALL).await);
    let peers = [first.addr("inbound"), second.addr("inbound")];
    let more = "balance = { policy = \"round_robin\" }\nretry_budget = { percent = \"100%\", min_per_second = 100 }\noutlier = { consecutive_5xx = 1000, max_ejected = \"0%\" }\n\
                [route.api]\nlisteners = [\"outbound\"]\nhosts = [\"api.acme.lab\"]\nupstream = \"api\"\nretry = { attempts = 2, on = [\"503\"] }\n";
    let cart = mesh.client_in(tempfile::tempdir().unwrap(), "acme.lab/cart", "acme.lab/api", &peers, more).await;
    let all = answers(cart.addr("outbound"), 20, "").await;
    assert_eq!(all.get("200 good"), Some(&20), "{all:?}");
    assert!(cart.metric("portcullis_upstream_retries_total", &["api"]).await >= 5.0);
}

#[tokio::test]
async fn an_endpoint_that_fails_is_ejected_and_its_neighbour_serves() {
    let mesh = Mesh::new();
    let bad = Origin::start(|_| b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n".to_vec()).await;
    let good = Origin::fixed("good").await;
    let (first, second) =
        (mesh.server("acme.lab/api", bad.addr, ALL).await, mesh.server("acme.lab/api", good.addr, ALL).await);
    let peers = [first.addr("inbound"), second.addr("inbound")];
    let more = "balance = { policy = \"round_robin\" }\noutlier = { consecutive_5xx = 3, eject = \"60s\", max_ejected = \"50%\" }\n";
    let cart = mesh.client_in(tempfile::tempdir().unwrap(), "acme.lab/cart", "acme.lab/api", &peers, more).await;
    let all = answers(cart.addr("outbound"), 40, "").await;
    assert!(all["200 good"] >= 34, "{all:?}");
    cart.counts("portcullis_endpoint_ejections_total", &["api"], 1.0).await;
}

#[tokio::test]
async fn limits_and_breakers_hold_between_services() {
    let mesh = Mesh::new();
    let app = Origin::fixed("hello").await;
    let api = mesh.server("acme.lab/api", app.addr, ALL).await;
    let more = "[route.api]\nlisteners = [\"outbound\"]\nhosts = [\"api.acme.lab\"]\nupstream = \"api\"\n\
                rate_limit = { rate = \"1/h\", burst = 3, key = \"client_ip\" }\n";
    let cart = mesh.client("acme.lab/cart", "acme.lab/api", api.addr("inbound"), more).await;
    let all = answers(cart.addr("outbound"), 6, "").await;
    assert_eq!(all.get("200 hello"), Some(&3), "{all:?}");
    let more = "circuit_breaker = { requests = 1 }\n";
    let slow = Origin::raw(|mut stream| async move {
        let mut buffer = Vec::new();
        while crate::support::origin::read_request(&mut stream, &mut buffer).await.is_some() {
            std::future::pending::<()>().await;
        }
    })
    .await;
    let api = mesh.server("acme.lab/api", slow.addr, ALL).await;
    let cart = mesh.client("acme.lab/cart", "acme.lab/api", api.addr("inbound"), more).await;
    let mut waiting = Client::connect(cart.addr("outbound")).await;
    waiting.send("GET / HTTP/1.1\r\nHost: api.acme.lab\r\n\r\n").await;
    crate::support::eventually("the slow one is asked", async || {
        (slow.connections.load(std::sync::atomic::Ordering::SeqCst) > 0).then_some(())
    })
    .await;
    let answer = Client::connect(cart.addr("outbound")).await.get("api.acme.lab", "/").await;
    assert_eq!(answer.status, 503, "{answer:?}");
    cart.counts("portcullis_refusals_total", &["circuit_open"], 1.0).await;
}

#[tokio::test]
async fn the_firewall_detects_and_personal_data_is_covered_on_the_way_in() {
    let mesh = Mesh::new();
    let app = Origin::start(|_| ok("card 4111 1111 1111 1111 of Ada")).await;
    let more = "[waf.own]\nrules = [\"builtin\"]\n[privacy.cards]\ndetect = [\"card\"]\naction = \"mask\"\n\
                [route.in]\nlisteners = [\"inbound\"]\nupstream = \"inbound-application\"\nwaf = { profile = \"own\", mode = \"MODE\" }\nprivacy = \"cards\"\n";
    for (mode, status) in [("detect", 200), ("block", 403)] {
        let more = [ALL, &more.replace("MODE", mode)].concat();
        let api = mesh.server("acme.lab/api", app.addr, &more).await;
        let cart = mesh.client("acme.lab/cart", "acme.lab/api", api.addr("inbound"), "").await;
        let mut client = Client::connect(cart.addr("outbound")).await;
        let clean = client.get("api", "/").await;
        assert!(clean.status == 200 && !clean.text().contains("4111 1111 1111 1111"), "{clean:?}");
        let attack = client.get("api", "/?q=1%27%20UNION%20SELECT%20password%20FROM%20users--").await;
        assert_eq!(attack.status, status, "{mode}: {attack:?}");
        let outcome = if mode == "block" { "blocked" } else { "matched" };
        api.counts("portcullis_waf_transactions_total", &["own", outcome], 1.0).await;
    }
}

#[tokio::test]
async fn the_firewall_looks_on_unless_somebody_says_otherwise() {
    let mesh = Mesh::new();
    let app = Origin::start(|_| ok("hello")).await;
    let inbound =
        format!("[listener.inbound]\naddress = \"127.0.0.1:0\"\ndirection = \"inbound\"\nto = \"{}\"\n", app.addr);
    let written = "[route.in]\nlisteners = [\"inbound\"]\nupstream = \"inbound-application\"\n";
    for (more, status, matched) in [
        ("", 200, 1.0),
        (written, 200, 1.0),
        ("[defaults]\nwaf = { mode = \"block\" }\n", 403, 0.0),
        ("[defaults]\nwaf = { mode = \"off\" }\n", 200, 0.0),
        (&format!("{written}waf = {{ mode = \"off\" }}\n"), 200, 0.0),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let config = [&mesh.workload(folder.path(), "acme.lab/api"), &inbound, ALL, more].concat();
        let api = Gateway::start_in(folder, &config).await;
        let cart = mesh.client("acme.lab/cart", "acme.lab/api", api.addr("inbound"), "").await;
        let attack = "/?q=1%27%20UNION%20SELECT%20password%20FROM%20users--";
        let answer = Client::connect(cart.addr("outbound")).await.get("api", attack).await;
        assert_eq!(answer.status, status, "{more}: {answer:?}");
        api.counts("portcullis_waf_transactions_total", &["builtin", "matched"], matched).await;
    }
}

#[tokio::test]
async fn a_mirror_copies_to_another_service_and_one_trace_goes_through_both_sidecars() {
    let mesh = Mesh::new();
    let (one, two) = (Origin::echo().await, Origin::fixed("two").await);
    let more = "[route.api]\nlisteners = [\"outbound\"]\nhosts = [\"api.acme.lab\"]\nupstream = \"api\"\nmirror = { upstream = \"canary\" }\n";
    let (first, second, cart) = two_versions(&mesh, &one, &two, more).await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let mut client = Client::connect(cart.addr("outbound")).await;
    client
        .send(format!("GET / HTTP/1.1\r\nHost: api.acme.lab\r\nTraceparent: 00-{trace}-00f067aa0ba902b7-01\r\n\r\n"))
        .await;
    let answer = client.response().await;
    assert!(answer.text().contains(trace), "{}", answer.text());
    crate::support::eventually("the copy arrives", async || (!two.requests().is_empty()).then_some(())).await;
    for side in [&cart, &first, &second] {
        crate::support::eventually("the trace is in the log", async || {
            side.records().iter().any(|record| record["trace_id"] == trace).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_sidecar_that_ends_under_load_costs_nobody_a_request() {
    let mesh = Mesh::new();
    let (one, two) = (Origin::fixed("one").await, Origin::fixed("two").await);
    let (first, second) =
        (mesh.server("acme.lab/api", one.addr, ALL).await, mesh.server("acme.lab/api", two.addr, ALL).await);
    let peers = [first.addr("inbound"), second.addr("inbound")];
    let more = "balance = { policy = \"round_robin\" }\n[route.api]\nlisteners = [\"outbound\"]\nhosts = [\"api.acme.lab\"]\n\
                upstream = \"api\"\nretry = { attempts = 2, on = [\"connect\", \"reset\", \"503\"] }\n";
    let cart = mesh.client_in(tempfile::tempdir().unwrap(), "acme.lab/cart", "acme.lab/api", &peers, more).await;
    let addr = cart.addr("outbound");
    let load = tokio::spawn(async move { answers(addr, 600, "").await });
    crate::support::eventually("the load is on", async || (one.requests().len() > 50).then_some(())).await;
    let mut first = first;
    first.signal("-TERM");
    assert!(first.ended(std::time::Duration::from_secs(40)).await.success());
    let all = load.await.unwrap();
    assert!(all.keys().all(|answer| answer.starts_with("200 ")), "{all:?}");
    assert!(all["200 two"] > all["200 one"], "{all:?}");
}

#[tokio::test]
async fn what_the_document_of_its_api_does_not_know_stays_out_of_a_workload() {
    let mesh = Mesh::new();
    let app = Origin::start(|_| ok("hello")).await;
    let folder = tempfile::tempdir().unwrap();
    let document = r#"{"openapi":"3.0.3","info":{"title":"t","version":"1"},"paths":{"/orders":{"get":{"responses":{"200":{"description":"ok"}}}}}}"#;
    std::fs::write(folder.path().join("openapi.json"), document).unwrap();
    let more = "[api.doc]\nopenapi = \"openapi.json\"\nvalidate = { request = \"block\", response = \"off\", unknown = \"block\" }\n\
                [route.in]\nlisteners = [\"inbound\"]\nupstream = \"inbound-application\"\napi = \"doc\"\n";
    let config = [&mesh.workload(folder.path(), "acme.lab/api"), &inbound(app.addr)[..], ALL, more].concat();
    let api = Gateway::start_in(folder, &config).await;
    let cart = mesh.client("acme.lab/cart", "acme.lab/api", api.addr("inbound"), "").await;
    let mut client = Client::connect(cart.addr("outbound")).await;
    for (path, status) in [("/orders", 200), ("/admin", 404), ("/orders", 200)] {
        assert_eq!(client.get("api", path).await.status, status, "{path}");
    }
    assert!(app.requests().iter().all(|seen| seen.path() == "/orders"));
}

#[tokio::test]
async fn the_sidecars_of_a_service_are_those_that_a_file_lists() {
    let mesh = Mesh::new();
    let (one, two) = (Origin::fixed("one").await, Origin::fixed("two").await);
    let first = mesh.server("acme.lab/api", one.addr, ALL).await;
    let second = mesh.server("acme.lab/api", two.addr, ALL).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("api.toml");
    let list = |addr: SocketAddr| {
        let beside = file.with_extension("new");
        std::fs::write(&beside, format!("endpoints = [\"{addr}\"]\n")).unwrap();
        std::fs::rename(beside, &file).unwrap();
    };
    list(first.addr("inbound"));
    let listed = outbound("acme.lab/api", &[]).replace("endpoints = []", "discover.file = \"api.toml\"");
    let config = [&mesh.workload(folder.path(), "acme.lab/cart"), &listed[..]].concat();
    let cart = Gateway::start_in(folder, &config).await;
    let ask = async || Client::connect(cart.addr("outbound")).await.get("api", "/").await.text();
    assert_eq!(ask().await, "one");
    list(second.addr("inbound"));
    eventually("the other one", async || (ask().await == "two").then_some(())).await;
}

#[tokio::test]
async fn another_version_of_a_service_comes_by_steps_and_goes_when_it_fails() {
    let mesh = Mesh::new();
    let (old, new) =
        (Origin::fixed("old").await, Origin::start(|_| b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n".to_vec()).await);
    let rollout = "[route.api]\nlisteners = [\"outbound\"]\nhosts = [\"api.acme.lab\"]\nupstream = \"api\"\n\
                   [slo.api]\nroute = \"api\"\navailability = \"99%\"\nwindow = \"1h\"\n\
                   [rollout.v2]\nroute = \"api\"\nfrom = \"api\"\nto = \"canary\"\nsteps = [\"50%\", \"100%\"]\nhold = \"1h\"\n\
                   gate = { slo = \"api\", min_requests = 5 }\n";
    let (_first, _second, cart) = two_versions(&mesh, &old, &new, rollout).await;
    let state = async || {
        let (_, told) = cart.admin("GET", "/rollouts", "").await;
        told["rollouts"][0]["state"].as_str().unwrap_or_default().to_owned()
    };
    eventually("it is rolled back", async || {
        answers(cart.addr("outbound"), 20, "").await;
        (state().await == "rolled_back").then_some(())
    })
    .await;
    assert!(!new.requests().is_empty(), "it had its share");
    let after = answers(cart.addr("outbound"), 20, "").await;
    assert_eq!(after.get("200 old"), Some(&20), "{after:?}");
}
