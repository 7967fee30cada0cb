//! The queue of reloads: serial, merged, and answered by the right run.

use portcullis_config::{Pace, Reloaded, Reloader, Stopped, Trigger, Watcher};
use std::{
    fs,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::sync::Semaphore;

const DEADLINE: Duration = Duration::from_secs(20);

fn watcher(files: Vec<std::path::PathBuf>) -> Watcher {
    let pace = Pace { quiet: Duration::from_millis(20), longest: Duration::from_millis(200), ..Pace::default() };
    Watcher::with_pace(files, pace)
}

/// Runs that wait for a permit each, and note why they ran.
fn runs(reloader: Reloader<usize>, gate: Arc<Semaphore>) -> Arc<Mutex<Vec<Vec<Trigger>>>> {
    let log: Arc<Mutex<Vec<Vec<Trigger>>>> = Arc::default();
    let runs = log.clone();
    tokio::spawn(reloader.run(move |triggers| {
        let (gate, log) = (gate.clone(), log.clone());
        async move {
            let number = {
                let mut log = log.lock().unwrap();
                log.push(triggers);
                log.len()
            };
            gate.acquire().await.unwrap().forget();
            Reloaded { outcome: number, watched: None }
        }
    }));
    runs
}

#[tokio::test]
async fn who_asks_during_a_run_gets_the_outcome_of_the_next_one() {
    let (reloader, reloads) = Reloader::new(watcher(Vec::new()));
    let gate = Arc::new(Semaphore::new(0));
    let log = runs(reloader, gate.clone());
    let ask = |trigger| {
        let reloads = reloads.clone();
        tokio::spawn(async move { reloads.ask(trigger).await })
    };
    let first = ask(Trigger::Signal);
    tokio::time::timeout(DEADLINE, async {
        while log.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    let later = [ask(Trigger::Admin), ask(Trigger::Signal), ask(Trigger::Admin)];
    // Each of the three is in the queue before the first run ends.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    gate.add_permits(2);
    assert_eq!(first.await.unwrap(), Ok(1));
    for asked in later {
        assert_eq!(asked.await.unwrap(), Ok(2));
    }
    assert_eq!(*log.lock().unwrap(), [vec![Trigger::Signal], vec![Trigger::Signal, Trigger::Admin]]);
}

#[tokio::test]
async fn changed_files_reload_and_a_signal_after_an_edit_reloads_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.toml");
    fs::write(&file, "1").unwrap();
    let (reloader, reloads) = Reloader::new(watcher(vec![file.clone()]));
    let gate = Arc::new(Semaphore::new(100));
    let log = runs(reloader, gate);
    fs::write(&file, "2").unwrap();
    assert_eq!(tokio::time::timeout(DEADLINE, reloads.ask(Trigger::Signal)).await, Ok(Ok(1)));
    fs::write(&file, "3").unwrap();
    tokio::time::timeout(DEADLINE, async {
        while log.lock().unwrap().len() < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    assert_eq!(*log.lock().unwrap(), [vec![Trigger::Signal], vec![Trigger::Files]]);
}

#[tokio::test]
async fn nobody_waits_for_a_reloader_that_has_ended() {
    let (reloader, reloads) = Reloader::<()>::new(watcher(Vec::new()));
    drop(reloader);
    assert_eq!(reloads.ask(Trigger::Admin).await, Err(Stopped));
    let (reloader, reloads) = Reloader::<()>::new(watcher(Vec::new()));
    drop(reloads);
    let ended = reloader.run(|_| async { Reloaded { outcome: (), watched: None } });
    assert!(tokio::time::timeout(DEADLINE, ended).await.is_ok());
}
