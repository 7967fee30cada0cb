//! A good release and a bad one, live, in seconds; and what survives.

use crate::support::{client::Client, eventually, gateway::Gateway, origin::Origin};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::SeqCst},
};
use tokio::io::AsyncWriteExt;

/// `old` and `new` with a rollout from one to the other.
fn config(old: &Origin, new: &Origin, rollout: &str) -> String {
    format!(
        "[listener.http]\naddress = \"127.0.0.1:0\"\nclient_ip = {{ trust = [\"127.0.0.0/8\"], header = \"x-forwarded-for\" }}\n\
         [upstream.old]\nendpoints = [\"{}\"]\n[upstream.new]\nendpoints = [\"{}\"]\noutlier.max_ejected = \"0%\"\n[route.shop]\nupstream = \"old\"\n\
         [slo.shop]\nroute = \"shop\"\navailability = \"99%\"\nwindow = \"1h\"\n\
         [rollout.v2]\nroute = \"shop\"\nfrom = \"old\"\nto = \"new\"\n{rollout}\n",
        old.addr, new.addr
    )
}

/// Fifty requests from as many clients; the bodies.
async fn traffic(gateway: &Gateway) -> Vec<String> {
    let mut bodies = Vec::new();
    let mut client = Client::connect(gateway.addr("http")).await;
    for n in 0..50 {
        client.send(format!("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.{n}\r\n\r\n")).await;
        bodies.push(client.response().await.text());
    }
    bodies
}

async fn state(gateway: &Gateway) -> String {
    gateway.admin("GET", "/rollouts", "").await.1["rollouts"][0]["state"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_good_release_goes_through_its_steps_and_is_promoted() {
    let (old, new) = (Origin::fixed("old").await, Origin::fixed("new").await);
    let rollout = "steps = [\"10%\", \"50%\", \"100%\"]\nhold = \"500ms\"\ngate = { slo = \"shop\", min_requests = 5, max_latency_ratio = 100.0 }";
    let mut gateway = Gateway::start(&config(&old, &new, rollout)).await;
    let first = traffic(&gateway).await;
    let on_new = first.iter().filter(|body| *body == "new").count();
    assert!(on_new <= 20, "{on_new} of 50 on the first step");
    eventually("promoted", async || {
        traffic(&gateway).await;
        (state(&gateway).await == "promoted").then_some(())
    })
    .await;
    assert!(traffic(&gateway).await.iter().all(|body| body == "new"));
    let (code, text) = gateway.command(&["rollout", "status", "--admin", "admin.sock"]).await;
    assert!(code == 0 && text.contains("rollout v2: promoted at 100% of shop"), "{text}");
    assert!(text.contains("objective shop of route shop: 100.0% of the error budget left"), "{text}");
    assert_eq!(gateway.metric("portcullis_rollout_share", &["rollout=\"v2\""]).await, 1.0);
    assert_eq!(gateway.metric("portcullis_rollout_state", &["state=\"promoted\""]).await, 1.0);
    assert_eq!(gateway.metric("portcullis_slo_error_budget_left", &["slo=\"shop\""]).await, 1.0);

    // A reload keeps it, and a restart too.
    assert_eq!(
        gateway
            .reload(&format!("{}[route.more]\npath = \"/more\"\nupstream = \"old\"\n", config(&old, &new, rollout)))
            .await
            .0,
        200
    );
    assert_eq!(state(&gateway).await, "promoted");
    let gateway = gateway.restart().await;
    assert_eq!(state(&gateway).await, "promoted");
    assert!(traffic(&gateway).await.iter().all(|body| body == "new"));
}

#[tokio::test]
async fn a_bad_release_is_taken_back_and_few_have_seen_it() {
    let (old, bad) = (
        Origin::fixed("old").await,
        Origin::start(|_| b"HTTP/1.1 500 Oh\r\nContent-Length: 3\r\n\r\nbad".to_vec()).await,
    );
    let rollout = "steps = [\"20%\", \"100%\"]\nhold = \"1s\"\ngate = { min_requests = 5 }";
    let gateway = Gateway::start(&config(&old, &bad, rollout)).await;
    let mut seen = 0;
    eventually("rolled back", async || {
        seen += traffic(&gateway).await.iter().filter(|body| *body == "bad").count();
        (state(&gateway).await == "rolled_back").then_some(())
    })
    .await;
    assert!(seen > 0, "somebody had to find out");
    assert!(traffic(&gateway).await.iter().all(|body| body == "old"), "nobody sees it any more");
    let (_, text) = gateway.command(&["rollout", "status", "--admin", "admin.sock"]).await;
    assert!(text.contains("rolled_back at 0%"), "{text}");
}

#[tokio::test]
async fn how_much_worse_the_new_version_may_be_is_the_gates_to_say() {
    let old = Origin::fixed("old").await;
    let asked = std::sync::atomic::AtomicUsize::new(0);
    // One in four.
    let shaky = Origin::start(move |_| match asked.fetch_add(1, SeqCst) % 4 {
        0 => b"HTTP/1.1 500 Oh\r\nContent-Length: 3\r\n\r\nbad".to_vec(),
        _ => crate::support::origin::ok("new"),
    })
    .await;
    for (gate, expected) in [
        ("max_error_ratio_over_baseline = 2.0", "rolled_back"),
        ("max_error_ratio_over_baseline = 1000.0", "promoted"),
        ("max_error_ratio_over_baseline = 1000.0, slo = \"shop\", max_burn = 1.5", "rolled_back"),
        ("max_error_ratio_over_baseline = 1000.0, slo = \"shop\", max_burn = 20.0", "promoted"),
    ] {
        let rollout = format!(
            "steps = [\"50%\", \"100%\"]\nhold = \"500ms\"\ngate = {{ min_requests = 40, max_latency_ratio = 1000.0, {gate} }}"
        );
        // An objective of nine in ten: a quarter of failures burns its budget two and a half times too fast.
        let text = config(&old, &shaky, &rollout).replace("availability = \"99%\"", "availability = \"90%\"");
        let gateway = Gateway::start(&text).await;
        let ended = eventually(gate, async || {
            traffic(&gateway).await;
            let state = state(&gateway).await;
            matches!(state.as_str(), "rolled_back" | "promoted").then_some(state)
        })
        .await;
        assert_eq!(ended, expected, "{gate}");
    }
}

#[tokio::test]
async fn an_operator_has_the_last_word() {
    let (old, new) = (Origin::fixed("old").await, Origin::fixed("new").await);
    let rollout = "steps = [\"10%\", \"100%\"]\nhold = \"1h\"\non_fail = \"pause\"";
    let gateway = Gateway::start(&config(&old, &new, rollout)).await;
    let say = async |arguments: &[&str]| {
        let arguments: Vec<&str> = [&["rollout"], arguments, &["--admin", "admin.sock"]].concat();
        gateway.command(&arguments).await
    };
    eventually("it begins", async || (state(&gateway).await == "step").then_some(())).await;
    let (code, text) = say(&["pause", "v2", "--why", "lunch"]).await;
    assert!(code == 0 && text.contains("paused at 10%") && text.contains("lunch"), "{text}");
    assert_eq!(say(&["promote", "v2"]).await.0, 0);
    assert!(traffic(&gateway).await.iter().all(|body| body == "new"));
    let (code, text) = say(&["pause", "v2"]).await;
    assert!(code != 0 && text.contains("cannot pause"), "{text}");
    assert_eq!(say(&["abort", "v2"]).await.0, 0);
    assert!(traffic(&gateway).await.iter().all(|body| body == "old"));
    assert_ne!(say(&["abort", "v3"]).await.0, 0);
}

#[tokio::test]
async fn a_dark_launch_copies_requests_and_is_judged_by_the_answers() {
    let broken = Arc::new(AtomicBool::new(true));
    let flag = broken.clone();
    let old = Origin::fixed("old").await;
    let new = Origin::start(move |_| match flag.load(SeqCst) {
        true => b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n".to_vec(),
        false => crate::support::origin::ok("new"),
    })
    .await;
    let rollout = "steps = [\"100%\"]\nhold = \"500ms\"\ngate = { min_requests = 5, max_latency_ratio = 100.0 }\nmirror_first = { percent = \"50%\", hold = \"500ms\" }\non_fail = \"pause\"";
    let gateway = Gateway::start(&config(&old, &new, rollout)).await;
    eventually("the copies fail the gate", async || {
        assert!(traffic(&gateway).await.iter().all(|body| body == "old"), "copies are answered to nobody");
        (state(&gateway).await == "paused").then_some(())
    })
    .await;
    assert!(!new.requests().is_empty());
    broken.store(false, SeqCst);
    // Copies that were under way may still fail it once more.
    eventually("promoted after it was resumed", async || {
        traffic(&gateway).await;
        match state(&gateway).await.as_str() {
            "paused" => {
                assert_eq!(gateway.command(&["rollout", "resume", "v2", "--admin", "admin.sock"]).await.0, 0);
                None
            }
            state => (state == "promoted").then_some(()),
        }
    })
    .await;
}

#[tokio::test]
async fn a_dry_run_moves_nobody() {
    let (old, new) = (Origin::fixed("old").await, Origin::fixed("new").await);
    let rollout = "steps = [\"50%\", \"100%\"]\nhold = \"300ms\"\ndry_run = true\ngate = { min_requests = 5 }";
    let gateway = Gateway::start(&config(&old, &new, rollout)).await;
    for _ in 0..4 {
        assert!(traffic(&gateway).await.iter().all(|body| body == "old"));
    }
    assert!(new.requests().is_empty());
    let status = gateway.admin("GET", "/rollouts", "").await.1;
    assert_eq!(status["rollouts"][0]["effect"], "dry_run");
}

#[tokio::test]
async fn a_stricter_latency_limit_is_judged_by_from_its_reload_on() {
    let old = Origin::fixed("old").await;
    // Slower than one limit and faster than the other, by far.
    let new = Origin::raw(|mut stream| async move {
        let mut buffer = Vec::new();
        while crate::support::origin::read_request(&mut stream, &mut buffer).await.is_some() {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            if stream.write_all(&crate::support::origin::ok("new")).await.is_err() {
                return;
            }
        }
    })
    .await;
    let rollout = "steps = [\"50%\", \"100%\"]\nhold = \"1h\"\ngate = { slo = \"shop\", min_requests = 5, max_latency_ratio = 1000.0 }";
    let with_limit = |under: &str| {
        let latency = format!("availability = \"99%\"\nlatency = {{ target = \"99%\", under = \"{under}\" }}");
        config(&old, &new, rollout).replace("availability = \"99%\"", &latency)
    };
    let mut gateway = Gateway::start(&with_limit("1h")).await;
    eventually("the new version answers", async || traffic(&gateway).await.contains(&"new".to_owned()).then_some(()))
        .await;
    assert_eq!(state(&gateway).await, "step");
    assert_eq!(gateway.reload(&with_limit("50ms")).await.0, 200);
    eventually("rolled back", async || {
        traffic(&gateway).await;
        (state(&gateway).await == "rolled_back").then_some(())
    })
    .await;
}

#[tokio::test]
async fn state_that_cannot_be_read_is_neither_begun_anew_nor_written_over() {
    let (old, new) = (Origin::fixed("old").await, Origin::fixed("new").await);
    let text = config(&old, &new, "steps = [\"100%\"]\nhold = \"100ms\"\ngate = { min_requests = 1 }");
    let say = async |gateway: &Gateway, command: &str| {
        gateway.command(&["rollout", command, "v2", "--admin", "admin.sock"]).await
    };
    // The operator repairs nothing and says what is to be; the file is removed; then it is kept again.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("releases.json");
    std::fs::write(&file, "{\"objectives\":{},\"rollo").unwrap();
    let mut gateway = Gateway::start_in(folder, &text).await;
    assert!(gateway.log().contains("repair the file or remove it"), "{}", gateway.log());
    for _ in 0..3 {
        assert!(traffic(&gateway).await.iter().all(|body| body == "old"));
    }
    assert_eq!(state(&gateway).await, "paused");
    let (code, told) = say(&gateway, "promote").await;
    assert!(code == 0 && told.contains("warning: this holds until a restart only: "), "{told}");
    assert!(traffic(&gateway).await.iter().all(|body| body == "new"));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "{\"objectives\":{},\"rollo");
    std::fs::remove_file(&file).unwrap();
    assert_eq!(gateway.reload(&text).await.0, 200);
    assert_eq!(state(&gateway).await, "promoted");
    assert_eq!(say(&gateway, "abort").await.0, 0);
    let kept = std::fs::read_to_string(&file).unwrap();
    assert!(kept.contains("aborted"), "{kept}");

    // Unreadable as a file, and then the one that was meant is put there.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("releases.json");
    std::fs::create_dir(&file).unwrap();
    let mut gateway = Gateway::start_in(folder, &text).await;
    assert_eq!(state(&gateway).await, "paused");
    std::fs::remove_dir(&file).unwrap();
    std::fs::write(&file, kept).unwrap();
    assert_eq!(gateway.reload(&text).await.0, 200);
    assert_eq!(state(&gateway).await, "aborted");
}

#[tokio::test]
async fn what_a_fallback_answers_does_not_speak_for_the_new_version() {
    let (old, dead) = (Origin::fixed("old").await, Origin::raw(|stream| async move { drop(stream) }).await);
    let rollout = "steps = [\"50%\", \"100%\"]\nhold = \"1h\"\ngate = { slo = \"shop\", min_requests = 5, max_latency_ratio = 1000.0 }";
    let config = config(&old, &dead, rollout)
        .replace("outlier.max_ejected = \"0%\"", "outlier.max_ejected = \"100%\"\nfallback = \"old\"");
    let gateway = Gateway::start(&config).await;
    eventually("taken back", async || {
        traffic(&gateway).await;
        (state(&gateway).await == "rolled_back").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_dark_launch_needs_an_upstream_that_copies_can_reach() {
    let (old, new) = (Origin::fixed("old").await, Origin::fixed("new").await);
    let config = config(&old, &new, "steps = [\"100%\"]\nmirror_first = { hold = \"1s\" }\n")
        .replace("outlier.max_ejected = \"0%\"", "protocol = \"h2c\"");
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("edge.toml"), config).unwrap();
    let (code, text) = crate::support::gateway::run_in(folder.path(), &["check", "edge.toml"]).await;
    assert!(code == 1 && text.contains("upstream \"new\" cannot be mirrored to"), "{text}");
}
